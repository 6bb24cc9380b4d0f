//! The store on etcd.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Permission, PermissionType};
use plenum_store::{Etcd, EtcdOptions, Revision, Store, Txn, WatchEvent};
use tokio::time::Instant;

use crate::contract::{self, cases, next, within};
use crate::etcd_server::Server;

macro_rules! contract {
    ($($case:ident),*) => {
        mod contract_on_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let server = super::Server::start().await;
                super::contract::$case(super::Arc::new(server.store().await)).await;
            })*
        }
    };
}
cases!(contract);

#[tokio::test]
async fn mutual_tls() {
    let (server, pki) = Server::start_tls().await;
    let options = EtcdOptions { tls: Some(pki.client.clone()), ..EtcdOptions::new([server.endpoint()]) };
    assert!(!format!("{options:?}").contains("PRIVATE"));
    let store = Etcd::connect(options.clone()).await.unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+a=1"]);
    store.renew(Some(pki.client.clone()), None).await.unwrap();
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+a=2"]);

    let wrong = EtcdOptions { tls: Some(pki.stranger), deadline: Duration::from_secs(2), ..options };
    let stranger = Etcd::connect(wrong).await.unwrap();
    let error = stranger.commit(Txn::new().put("a", "3")).await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    assert_eq!(&*store.get("a").await.unwrap().unwrap().value, b"2");
}

#[tokio::test]
async fn a_watch_and_the_calls_survive_a_restart() {
    let mut server = Server::start().await;
    let options = EtcdOptions { deadline: Duration::from_secs(2), ..EtcdOptions::new([server.endpoint()]) };
    let store = Etcd::connect(options.clone()).await.unwrap();
    let mut watch = store.watch("k", Revision(0)).await.unwrap();
    store.commit(Txn::new().put("k", "1")).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+k=1"]);
    store.commit(Txn::new().put("k", "2")).await.unwrap();
    server.kill();
    let asked = Instant::now();
    let error = store.commit(Txn::new().put("k", "lost")).await.unwrap_err();
    assert!(error.code() == "unavailable" && error.maybe_applied(), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(4), "took {:?}", asked.elapsed());
    let error = store.get("k").await.unwrap_err();
    assert!(error.code() == "unavailable" && !error.maybe_applied(), "{error}");
    server.run();
    server.wait_ready(options).await;
    assert_eq!(next(&mut watch).await.1, ["+k=2"], "what was under way, or is asked for again");
    store.commit(Txn::new().put("k", "3")).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+k=3"]);
}

#[tokio::test]
async fn a_leader_that_is_cut_off_knows_in_time() {
    let mut server = Server::start().await;
    let store = server.store().await;
    let leadership = store.campaign("e", "one", Duration::from_secs(3)).await.unwrap();
    server.kill();
    let cut_off = Instant::now();
    within("the loss of leadership", leadership.lost()).await;
    // The lease lasts 3 s from its last renewal, which was up to 1 s before.
    let took = cut_off.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_millis(3500), "after {took:?}");
    assert!(leadership.is_lost());
}

#[tokio::test]
async fn a_compacted_watch_says_so() {
    let server = Server::start().await;
    let store = server.store().await;
    let mut last = Revision(0);
    for i in 0..10 {
        last = store.commit(Txn::new().put("k", i.to_string())).await.unwrap();
    }
    let at = Revision(last.0 - 2);
    server.operator().await.compact(i64::try_from(at.0).unwrap(), None).await.unwrap();
    let mut watch = store.watch("k", Revision(2)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(watch.next().await.unwrap(), WatchEvent::Compacted { oldest: at });
    }
    let mut watch = store.watch("k", at).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+k=8"]);
}

#[tokio::test]
async fn a_full_quota_is_full() {
    let server = Server::start_with(&["--quota-backend-bytes=4194304"]).await;
    let store = server.store().await;
    let mut error = None;
    for i in 0..50 {
        if let Err(e) = store.commit(Txn::new().put(format!("k{i}"), vec![0; 500_000])).await {
            error = Some(e);
            break;
        }
    }
    let error = error.expect("50 x 500 kB fit into 4 MB");
    assert!(error.code() == "full" && !error.maybe_applied(), "{error}");
    assert!(store.get("k0").await.unwrap().is_some(), "reading goes on");
}

#[tokio::test]
async fn a_user_ends_at_its_prefix() {
    let server = Server::start().await;
    let mut operator = server.operator().await;
    for (user, role) in [("root", "root"), ("svc", "svc")] {
        operator.user_add(user, "secret", None).await.unwrap();
        operator.role_add(role).await.unwrap();
        operator.user_grant_role(user, role).await.unwrap();
    }
    let permission = Permission::new(PermissionType::Readwrite, "/p/svc/").with_prefix();
    operator.role_grant_permission("svc", permission).await.unwrap();
    operator.auth_enable().await.unwrap();

    let user = Some(("svc".to_owned(), "secret".to_owned()));
    let options = EtcdOptions { user, ..EtcdOptions::new([server.endpoint()]) };
    assert!(!format!("{options:?}").contains("secret"));
    let store = Arc::new(Etcd::connect(options.clone()).await.unwrap());
    let own = plenum_store::scoped(store.clone(), "/p/svc");
    let mut watch = own.watch("", Revision(0)).await.unwrap();
    own.commit(Txn::new().absent("a").put("a", "1")).await.unwrap();
    assert_eq!(next(&mut watch).await.1, ["+a=1"]);
    let leadership = own.campaign("e", "one", Duration::from_secs(5)).await.unwrap();
    own.commit(Txn::new().guard(leadership.guard()).put("a", "2")).await.unwrap();
    assert_eq!(contract::list(&own, "", 0).await.len(), 3);

    assert_eq!(store.commit(Txn::new().put("/p/other/a", "")).await.unwrap_err().code(), "broken");
    assert_eq!(store.get("/p/other/a").await.unwrap_err().code(), "broken");
    assert_eq!(store.watch("/p/", Revision(0)).await.unwrap_err().code(), "broken");
    let wrong = EtcdOptions { user: Some(("svc".to_owned(), "guess".to_owned())), ..options };
    assert_eq!(Etcd::connect(wrong).await.unwrap_err().code(), "broken");
}

#[tokio::test]
async fn an_address_where_nothing_answers() {
    // Bound but never accepted from: connections hang half-way.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let options = EtcdOptions { deadline: Duration::from_millis(300), ..EtcdOptions::new([endpoint]) };
    let store = Etcd::connect(options).await.unwrap();
    let lease = plenum_store::LeaseId(1);
    let codes = within("calls to nobody", async {
        [
            store.commit(Txn::new().put("a", "")).await.unwrap_err().code(),
            store.get("a").await.unwrap_err().code(),
            store.range(plenum_store::Range::default()).await.unwrap_err().code(),
            store.watch("", Revision(0)).await.unwrap_err().code(),
            store.grant(Duration::from_secs(5)).await.unwrap_err().code(),
            store.keep_alive(lease).await.unwrap_err().code(),
            store.revoke(lease).await.unwrap_err().code(),
            store.campaign("e", "one", Duration::from_secs(5)).await.unwrap_err().code(),
        ]
    });
    assert_eq!(codes.await, ["unavailable"; 8]);
    for bad in [vec![], vec!["not a url".to_owned()]] {
        assert_eq!(Etcd::connect(EtcdOptions::new(bad)).await.unwrap_err().code(), "invalid");
    }
}
