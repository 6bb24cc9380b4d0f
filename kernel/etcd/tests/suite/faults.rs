//! What a component's store makes of members that are silent: it leads on, or knows in time that it does not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plenum_store::{Open, Revision, Store, StoreSettings, Txn, WatchEvent, open};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::world::{World, urls, votes};

/// The most that a client's store may take to get past a member that went silent.
const SOON: Duration = Duration::from_millis(2500);

/// Stands before a member. Cut, it swallows what comes and says nothing, as a host does that lost its power.
struct Wire {
    url: String,
    cut: watch::Sender<bool>,
}

impl Wire {
    async fn to(member: SocketAddr) -> Self {
        let listener = TcpListener::bind((member.ip(), 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let is_cut = is_cut.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(member).await else { return };
                    let ((cr, cw), (sr, sw)) = (client.into_split(), server.into_split());
                    tokio::join!(carry(cr, sw, is_cut.clone()), carry(sr, cw, is_cut));
                });
            }
        });
        Self { url, cut }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let _ = cut.wait_for(|cut| !*cut).await;
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = cut.wait_for(|cut| *cut) => continue,
        };
        let Ok(count @ 1..) = read else { return };
        if *cut.borrow() {
            // Lost on the way: this connection is of no use any more, and nobody is told.
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn opened(
    world: &World,
    urls: Vec<String>,
) -> (Arc<dyn Store>, watch::Sender<Vec<String>>, StoreSettings) {
    let folder = world.folder.path().join("client");
    std::fs::create_dir_all(&folder).unwrap();
    let tls = world.tls();
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let settings = StoreSettings { etcd: true, ..StoreSettings::default() };
    let settings = settings.files_or(&file("ca", &tls.ca), &file("cert", &tls.cert), &file("key", &tls.key));
    let (sender, endpoints) = watch::channel(urls);
    let at = Open { embedded: PathBuf::new(), prefix: "/plenum/test/services/".to_owned(), endpoints };
    (open(&settings, at).await.unwrap(), sender, settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_does_not_end_a_leadership_and_hardly_delays_a_call() {
    let world = World::new();
    let masters = world.three().await;
    let wire = Wire::to(SocketAddr::new(masters[0].config.address, 2379)).await;
    let mut members = urls(&masters);
    members[0] = wire.url.clone();
    let (store, _sender, settings) = opened(&world, members).await;
    let leadership = store.campaign("leader", "one", settings.lease()).await.unwrap();
    let mut watch = store.watch("w", Revision(0)).await.unwrap();
    let guarded = |value: &str| Txn::new().guard(leadership.guard()).put("w", value.to_owned());
    store.commit(guarded("0")).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), WatchEvent::Changes { .. }));

    wire.cut.send_replace(true);
    let began = Instant::now();
    store.get("w").await.unwrap();
    println!("read past a silent member in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_millis(1000), "a read took {:?}", began.elapsed());
    // A write that was on its way may be lost, but is not waited for.
    let began = Instant::now();
    while let Err(error) = store.commit(guarded("1")).await {
        assert!(error.is_retryable(), "{error}");
        assert!(began.elapsed() < SOON, "no write after {:?}", began.elapsed());
    }
    println!("write past a silent member in {:?}", began.elapsed());
    assert!(began.elapsed() < SOON, "a write took {:?}", began.elapsed());
    let event = timeout(Duration::from_secs(5), watch.next()).await.expect("the watch moved on").unwrap();
    println!("watch past a silent member in {:?}", began.elapsed());
    assert!(matches!(event, WatchEvent::Changes { .. }));
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(!leadership.is_lost() && leadership.validity().holds(), "lost though two members are there");
        let began = Instant::now();
        store.commit(guarded("2")).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(600), "a later write took {:?}", began.elapsed());
        sleep(Duration::from_millis(50)).await;
    }

    wire.cut.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    assert!(!leadership.is_lost());
    store.commit(guarded("3")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcds_leader_dies_and_a_leadership_elsewhere_stays() {
    let world = World::new();
    let mut masters = world.three().await;
    let status = world.until(&masters[0], "votes", votes).await;
    let leader = masters.iter().position(|m| Some(&m.name) == status.leader.as_ref()).unwrap();
    let survivors: Vec<String> = (0..3).filter(|i| *i != leader).map(|i| masters[i].url()).collect();
    // As on a surviving master: its own member first, the dead one somewhere in the list.
    let mut members = survivors.clone();
    members.push(masters[leader].url());
    let (store, sender, settings) = opened(&world, members).await;
    let leadership = store.campaign("leader", "one", settings.lease()).await.unwrap();
    let guarded = || Txn::new().guard(leadership.guard()).put("k", "v");
    store.commit(guarded()).await.unwrap();

    // Another candidate sat on the master that dies, and a third one waits.
    let dying = world.store(&[masters[leader].url()]).await;
    let dying = dying.campaign("other", "dying", Duration::from_secs(2)).await.unwrap();
    let (waiting, _kept, _) = opened(&world, survivors.clone()).await;
    let whole = world.store(&survivors).await;
    let takes_over = tokio::spawn(async move {
        loop {
            match whole.campaign("other", "waiting", Duration::from_secs(2)).await {
                Ok(leadership) => return (leadership, Instant::now()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    sleep(Duration::from_millis(500)).await;

    let died = Instant::now();
    masters[leader].kill().await;
    let mut first = None;
    while died.elapsed() < Duration::from_secs(8) {
        assert!(!leadership.is_lost(), "lost after {:?}", died.elapsed());
        match store.commit(guarded()).await {
            Ok(_) => {
                first.get_or_insert(died.elapsed());
                if takes_over.is_finished() {
                    break;
                }
            }
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    let first = first.expect("a write goes through again");
    let (next, at) = timeout(Duration::from_secs(5), takes_over).await.expect("somebody takes over").unwrap();
    assert!(dying.is_lost() && next.term() == dying.term() + 1);
    println!("etcd's leader died: first write after {first:?}, the next leader after {:?}", at - died);
    assert!(first < Duration::from_secs(3), "the first write took {first:?}");
    assert!(at - died < Duration::from_secs(5), "the next leader took {:?}", at - died);

    // The dead one leaves the list; nothing depends on it any more.
    sender.send_replace(survivors);
    sleep(Duration::from_millis(300)).await;
    store.commit(guarded()).await.unwrap();
    drop(waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_all_members_knows_before_another_leads() {
    let world = World::new();
    let mut master = world.master(1, &[]);
    master.start();
    world.until(&master, "votes", votes).await;
    let wire = Wire::to(SocketAddr::new(master.config.address, 2379)).await;
    let (store, _sender, settings) = opened(&world, vec![wire.url.clone()]).await;
    let leadership = store.campaign("leader", "one", settings.lease()).await.unwrap();
    let (other, _other_sender, _) = opened(&world, vec![master.url()]).await;
    let next = tokio::spawn(async move {
        loop {
            if let Ok(leadership) = other.campaign("leader", "two", Duration::from_secs(2)).await {
                return (leadership, Instant::now());
            }
        }
    });
    sleep(Duration::from_millis(700)).await;
    let cut = Instant::now();
    wire.cut.send_replace(true);
    timeout(Duration::from_secs(4), leadership.lost()).await.expect("it knows in time");
    let knew = Instant::now();
    let (next, at) = timeout(Duration::from_secs(6), next).await.expect("another leads").unwrap();
    println!("cut off: knew after {:?}, the next leads after {:?}", knew - cut, at - cut);
    assert!(knew < at, "two leaders for {:?}", at - knew);
    assert!(next.term() > leadership.term());
    wire.cut.send_replace(false);
    let stale = Txn::new().guard(leadership.guard()).put("k", "stale");
    let error = timeout(Duration::from_secs(8), async {
        loop {
            match store.commit(stale.clone()).await {
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(50)).await,
                other => return other.unwrap_err(),
            }
        }
    });
    assert_eq!(error.await.unwrap().code(), "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_taken_up_while_the_store_is_open() {
    let world = World::new();
    let mut master = world.master(1, &[]);
    master.start();
    world.until(&master, "votes", votes).await;
    let (store, _sender, _) = opened(&world, vec![master.url()]).await;
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    let renewed = world.tls();
    // The certificate is the last file to be written, as its renewal does it; meanwhile the pair does not fit.
    let folder = world.folder.path().join("client");
    std::fs::write(folder.join("key"), &renewed.key).unwrap();
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    store.commit(Txn::new().put("a", "2")).await.unwrap();
    std::fs::write(folder.join("cert"), &renewed.cert).unwrap();
    sleep(Duration::from_secs(6)).await;
    store.commit(Txn::new().put("a", "3")).await.unwrap();
    for _ in 0..3 {
        let event = timeout(Duration::from_secs(5), watch.next()).await.expect("no event is missing");
        assert!(matches!(event.unwrap(), WatchEvent::Changes { .. }));
    }
}
