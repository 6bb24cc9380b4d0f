//! Headers, case by case.

use super::*;

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn origin() -> Origin {
    Origin {
        remote: Some("192.0.2.7".parse().unwrap()),
        tls: true,
        host: Some(HeaderValue::from_static("c:1")),
    }
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let mut headers = map(&[
        ("connection", "close, X-Private"),
        ("connection", "authorization,te"),
        ("x-private", "1"),
        ("authorization", "token=x"),
        ("keep-alive", "5"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "x"),
        ("expect", "100-continue"),
        ("accept", "a/b"),
        ("x-real-ip", "127.0.0.1"),
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-for", "198.51.100.2"),
        ("x-forwarded-proto", "gopher"),
    ]);
    to_upstream(&mut headers, &origin());
    let expected = map(&[
        ("accept", "a/b"),
        ("host", "c:1"),
        ("x-real-ip", "192.0.2.7"),
        ("x-forwarded-for", "198.51.100.1, 198.51.100.2, 192.0.2.7"),
        ("x-forwarded-proto", "https"),
    ]);
    assert_eq!(headers, expected);
}

#[test]
fn the_clusters_cookies_stay_here() {
    let cases: [(&[&str], Option<&str>, Option<&str>); 6] = [
        (&["a=1; dcos-acs-auth-cookie=tok; b=2"], Some("a=1; b=2"), Some("tok")),
        (&["dcos-acs-auth-cookie=\"tok=\""], None, Some("tok=")),
        (&["a=1", "dcos-acs-info-cookie=x;dcos-acs-auth-cookie = t "], Some("a=1"), Some("t")),
        (&["xdcos-acs-auth-cookie=1"], Some("xdcos-acs-auth-cookie=1"), None),
        (&["dcos-acs-auth-cookie"], None, None),
        (&["dcos-acs-auth-cookie="], None, None),
    ];
    for (given, left, token) in cases {
        let pairs: Vec<(&str, &str)> = given.iter().map(|text| ("cookie", *text)).collect();
        let mut headers = map(&pairs);
        assert_eq!(cookie_token(&headers).as_deref(), token, "{given:?}");
        to_upstream(&mut headers, &origin());
        assert_eq!(headers.get(COOKIE).map(|value| value.to_str().unwrap()), left, "{given:?}");
    }
}

#[test]
fn other_sites_have_no_cookies() {
    let host = HeaderValue::from_static("cluster:8443");
    let cases = [
        (None, false),
        (Some("https://cluster:8443"), false),
        (Some("https://CLUSTER:8443"), false),
        (Some("https://cluster"), true),
        (Some("https://evil.example"), true),
        (Some("null"), true),
    ];
    for (given, cross) in cases {
        let headers = given.map_or_else(HeaderMap::new, |text| map(&[("origin", text)]));
        assert_eq!(is_cross_site(&headers, Some(&host)), cross, "{given:?}");
    }
}

#[test]
fn only_websocket_is_an_upgrade() {
    let cases = [
        ("Upgrade", "websocket", true),
        ("keep-alive, upgrade", "WebSocket", true),
        ("upgrade", "h2c", false),
        ("close", "websocket", false),
    ];
    for (connection, upgrade, wants) in cases {
        assert_eq!(wants_websocket(&map(&[("connection", connection), ("upgrade", upgrade)])), wants);
    }
}

#[test]
fn redirects_are_translated() {
    let hello = Naming {
        authority: "10.0.0.2:31000",
        host: Some("cluster"),
        public: "/service/hello",
        private: "",
        may_log_in: false,
    };
    let kafka = Naming { public: "/service/kafka", private: "/ui", ..hello.clone() };
    let kept = Naming { public: "/service/k", private: "/service/k", ..hello.clone() };
    let mesos = Naming { authority: "127.88.0.1:5050", public: "/mesos", ..hello.clone() };
    let cases = [
        (&hello, "/x?y=1#z", Some("/service/hello/x?y=1#z")),
        (&hello, "http://10.0.0.2:31000/x", Some("/service/hello/x")),
        (&hello, "https://cluster/x", Some("/service/hello/x")),
        (&hello, "http://cluster", Some("/service/hello/")),
        (&hello, "http://10.0.0.2:31000?a", Some("/service/hello/?a")),
        (&hello, "/service/hello/x", Some("/service/hello/x")),
        (&hello, "https://cluster/service/hello/x", Some("/service/hello/x")),
        (&hello, "/service/hellobello", Some("/service/hello/service/hellobello")),
        (&hello, "http://elsewhere/x", None),
        (&hello, "//elsewhere/x", None),
        (&hello, "relative", None),
        (&hello, "?only=query", None),
        (&hello, "", None),
        (&kafka, "/ui/x", Some("/service/kafka/x")),
        (&kafka, "/ui", Some("/service/kafka")),
        (&kafka, "/other", None),
        (&kept, "/service/k/x", Some("/service/k/x")),
        (&kept, "/x", None),
        (&mesos, "//127.88.0.1:5050/state", Some("/mesos/state")),
    ];
    for (naming, given, wanted) in cases {
        assert_eq!(location(given, naming).as_deref(), wanted, "{given}");
    }
}

#[test]
fn services_cannot_log_anybody_in() {
    let given =
        [("set-cookie", "a=1"), ("set-cookie", "dcos-acs-auth-cookie=x; Path=/"), ("connection", "close")];
    let naming = Naming { authority: "h", host: None, public: "/service/x", private: "", may_log_in: false };
    let mut headers = map(&given);
    to_client(&mut headers, &naming);
    assert_eq!(headers, map(&[("set-cookie", "a=1")]));
    let mut headers = map(&given);
    to_client(&mut headers, &Naming { may_log_in: true, ..naming });
    assert_eq!(headers.get_all(SET_COOKIE).iter().count(), 2);
}
