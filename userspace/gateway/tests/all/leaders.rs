//! A leader that changes, falls silent, or cannot be reached: what can be repeated is, everything else is told, nothing hangs.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use crate::fixture::{Raw, SOON};
use crate::fleet::{Fleet, Told};

const APPS: &str = "/service/marathon/v2/apps";

fn master(told: &Told) -> u64 {
    assert_eq!(told.status, 200, "{told:?}");
    serde_json::from_str::<Value>(&told.body).unwrap()["master"].as_u64().unwrap()
}

/// What clients asked for: without the gateway's own following of apps.
fn asked(fleet: &Fleet) -> Vec<(usize, String, String)> {
    fleet
        .script
        .seen()
        .into_iter()
        .filter(|(_, what, _)| what != "GET /v2/apps" && what != "GET /v2/events")
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_follow_the_leader() {
    let fleet = Fleet::new(&[]).await;
    assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
    assert_eq!(master(&fleet.ask(Method::POST, APPS, &[], "one").await), 0);
    // Another one leads: the one that did sends on whom the gateway asks before it knows, with the body.
    fleet.script.lead(Some(2));
    let told = fleet.ask(Method::POST, APPS, &[], "two").await;
    assert_eq!(master(&told), 2);
    assert!(told.took < Duration::from_secs(2), "{told:?}");
    let wanted = [(0, "GET /state"), (0, "POST /v2/apps"), (2, "POST /v2/apps")];
    let seen = asked(&fleet);
    assert_eq!(seen.iter().map(|(who, what, _)| (*who, what.as_str())).collect::<Vec<_>>(), wanted);
    assert_eq!(seen[2].2, "two");
    // The others' roles are wherever they answer.
    assert_eq!(fleet.world.told("/package/search").await["role"], "catalog");
    assert_eq!(fleet.world.told("/acs/api/v1/users").await["role"], "identity");
    let told = fleet.world.told("/plenum/v1/tokens/abc?x=1").await;
    assert_eq!((&told["role"], &told["uri"]), (&"identity".into(), &"/internal/v1/tokens/abc?x=1".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leads_for_a_while() {
    let fleet = Fleet::new(&[]).await;
    assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
    fleet.script.lead(None);
    let late = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        fleet.script.lead(Some(1));
    };
    // Nothing was done by those that stand by, so that every request may wait, with or without a key.
    let (_, told) = tokio::join!(late, fleet.ask(Method::POST, APPS, &[], "waits"));
    assert_eq!(master(&told), 1);
    assert_eq!(asked(&fleet).iter().filter(|(_, _, body)| body == "waits").count(), 1);
    fleet.script.lead(None);
    let told = fleet.ask(Method::POST, APPS, &[], "given up").await;
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.body.contains("NO_LEADER") && told.headers.contains_key("retry-after"), "{told:?}");
    assert!(told.took < Duration::from_secs(10), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_switched_off_with_requests_inside() {
    let fleet = Fleet::new(&[]).await;
    assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
    let take_over = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        fleet.script.lead(Some(1));
    };
    // The first of these silences the leader; it says neither goodbye nor anything else.
    let path = "/service/marathon/falls-silent";
    let (_, get, keyed, plain) = tokio::join!(
        take_over,
        fleet.ask(Method::GET, "/service/marathon/v2/info", &[], ""),
        fleet.ask(Method::POST, path, &[("idempotency-key", "k")], "keyed"),
        fleet.ask(Method::POST, path, &[], "plain"),
    );
    assert_eq!(get.status, 200, "{get:?}");
    assert_eq!(plain.status, 503, "{plain:?}");
    assert!(plain.body.contains("LEADER_LOST") && plain.headers.contains_key("retry-after"), "{plain:?}");
    assert!(plain.took < Duration::from_secs(5), "{plain:?}");
    let sent = |body: &str| asked(&fleet).iter().filter(|(_, _, told)| told == body).count();
    assert!(sent("plain") <= 1 && sent("keyed") >= 1, "{:?}", asked(&fleet));
    assert!(master(&keyed) == 1 && keyed.took < Duration::from_secs(5), "{keyed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_only_guessed_is_switched_off() {
    let fleet = Fleet::new(&[]).await;
    *fleet.script.whisper.lock() = true;
    let take_over = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        *fleet.script.whisper.lock() = false;
        fleet.script.lead(Some(1));
    };
    let path = "/service/marathon/falls-silent";
    let (_, plain) = tokio::join!(take_over, fleet.ask(Method::POST, path, &[], "plain"));
    assert_eq!(plain.status, 503, "{plain:?}");
    assert!(plain.body.contains("LEADER_LOST") && plain.took < Duration::from_secs(6), "{plain:?}");
    assert_eq!(asked(&fleet).iter().filter(|(_, _, told)| told == "plain").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_by_the_next_leader() {
    let fleet = Fleet::new(&[]).await;
    assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
    let mut streaming = Raw::to(fleet.world.http).await;
    let token = &fleet.world.token;
    streaming
        .send(format!("GET /mesos/stream HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\n\r\n"))
        .await;
    streaming.until("piece").await;
    fleet.script.silence(0);
    let take_over = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        fleet.script.lead(Some(2));
    };
    let (_, get, keyed) = tokio::join!(
        take_over,
        fleet.ask(Method::GET, "/mesos/state", &[], ""),
        fleet.ask(Method::PUT, APPS, &[("idempotency-key", "k")], "keyed"),
    );
    assert_eq!((master(&get), master(&keyed)), (2, 2));
    assert!(get.took < Duration::from_secs(4) && keyed.took < Duration::from_secs(4), "{get:?} {keyed:?}");
    assert!(keyed.body.contains("keyed"));
    // Whoever read a stream of the lost leader learns that it is over, and not by its proper end.
    let rest = streaming.rest().await;
    assert!(!rest.contains("\r\n0\r\n"), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_are_off_hold_nothing_up() {
    let fleet = Fleet::new(&[0]).await;
    fleet.script.lead(Some(1));
    let began = Instant::now();
    assert_eq!(master(&fleet.ask(Method::POST, APPS, &[], "x").await), 1);
    assert_eq!(fleet.world.told("/package/search").await["role"], "catalog");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // It is remembered that the first one is away.
    let began = Instant::now();
    assert_eq!(fleet.world.told("/package/search").await["role"], "catalog");
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    status(&fleet).await;
}

async fn status(fleet: &Fleet) {
    let told = fleet.ask(Method::GET, "/plenum/v1/status", &[], "").await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.took < Duration::from_secs(3), "a dead master is a line, not a wait: {:?}", told.took);
    let status: Value = serde_json::from_str(&told.body).unwrap();
    assert_eq!((&status["fleet"], &status["healthy"]), (&true.into(), &false.into()));
    let address = fleet.script.addresses[1].to_string();
    assert_eq!(status["leaders"]["services"]["name"], address);
    assert_eq!(status["leaders"].get("discovery"), None);
    let masters = status["masters"].as_array().unwrap();
    assert_eq!(masters.len(), 3);
    let up = |n: usize, role: &str| masters[n]["roles"][role]["up"].as_bool().unwrap();
    assert!(!up(0, "identity") && up(1, "identity") && !up(1, "discovery") && up(2, "master"));
    let days = masters[1]["roles"]["identity"]["certificate_days"].as_f64().unwrap();
    assert!(days > 0.9 && days <= 1.1, "{days}");
    let problems = status["problems"].to_string();
    let dead = format!("the master {} does not answer", fleet.script.addresses[0]);
    assert!(problems.contains(&dead) && problems.contains("nobody leads as discovery"), "{problems}");
    // Nobody without an account is told.
    let (code, _, _) = fleet.world.ask(Method::GET, "/plenum/v1/status", &[]).await;
    assert_eq!(code, 401);
    let nodes = fleet.world.told("/system/health/v1/nodes").await;
    assert_eq!((nodes["nodes"].as_array().unwrap().len(), &nodes["nodes"][0]["health"]), (3, &1.into()));
    assert!(fleet.world.told("/system/health/v1/units").await["units"].as_array().unwrap().len() > 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_lead_nowhere_else() {
    let fleet = Fleet::new(&[]).await;
    assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    *fleet.script.liar.lock() = Some(format!("https://{}", elsewhere.local_addr().unwrap()));
    *fleet.script.whisper.lock() = true;
    fleet.script.lead(Some(1));
    // Nobody says who leads, so that the first of the list is asked, which names somebody outside of it.
    let told = fleet.ask(Method::GET, "/mesos/state", &[], "").await;
    assert_eq!(told.status, 307, "{told:?}");
    let visited = tokio::time::timeout(Duration::from_millis(100), elsewhere.accept()).await;
    assert!(visited.is_err(), "nobody of ours goes there");
    assert!(told.took < SOON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_holds_at_every_gateway() {
    let mut fleet = Fleet::new(&[]).await;
    let bind = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (plain, tls) = (bind().await, bind().await);
    let other = plain.local_addr().unwrap();
    let (config, shutdown) = (fleet.world.config.clone(), fleet.world.shutdown.clone());
    tokio::spawn(async move { plenum_gateway::run_on(config, shutdown, plain, tls).await.unwrap() });
    for at in [fleet.world.http, other] {
        fleet.world.http = at;
        assert_eq!(master(&fleet.ask(Method::GET, "/mesos/state", &[], "").await), 0);
        let (status, _, _) =
            fleet.world.ask(Method::GET, "/mesos/state", &[("authorization", "token=no")]).await;
        assert_eq!(status, 401);
    }
}
