//! A process that is killed without warning, with a real file: what it said was acknowledged is there afterwards.
//!
//! The process is this test program itself, told by an environment variable to be the victim.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use plenum_store::{Embedded, Options, Store, Txn};

use crate::contract::list;

const FILE: &str = "PLENUM_STORE_TEST_VICTIM_FILE";

/// Killed when dropped, whichever way the test ends.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: what the victim does. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(path) = std::env::var(FILE) else { return };
    let store = Embedded::open(Path::new(&path), Options::default()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0_u64.. {
                let key = |half: &str| format!("{client}/{n}/{half}");
                let txn = Txn::new().put(key("a"), vec![1; 300]).put(key("b"), vec![1; 300]);
                let revision = store.commit(txn).await.unwrap();
                // One write, so that a line is there or is not.
                std::io::stderr().write_all(format!("ack {client} {n} {revision}\n").as_bytes()).unwrap();
            }
        });
    }
    // The parent kills this process; if the parent is gone, writing fails and ends it.
    tasks.join_next().await;
}

#[tokio::test]
async fn a_killed_process_has_lost_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let mut done = [0_u64; 4];
    for round in 0..4_usize {
        // The first round's clients begin at 0 in every round; a folder each keeps them apart.
        let path = path.with_extension(format!("{round}"));
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::victim", "--exact", "--nocapture", "--test-threads=1"])
            .env(FILE, &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut victim = Victim(child);
        let lines = BufReader::new(victim.0.stderr.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        for line in lines {
            let line = line.unwrap();
            let mut words = line.split(' ');
            if words.next() != Some("ack") {
                continue;
            }
            let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
            acknowledged.push((numbers[0], numbers[1], numbers[2]));
            if acknowledged.len() == 50 + round * 37 {
                victim.0.kill().unwrap();
            }
        }
        victim.0.wait().unwrap();
        assert!(acknowledged.len() >= 50, "the victim ended too early");

        let store = Embedded::open(&path, Options::default()).await.unwrap();
        let entries = list(&store, "", 0).await;
        for (client, n, revision) in &acknowledged {
            for half in ["a", "b"] {
                let key = format!("{client}/{n}/{half}");
                let found = entries.iter().find(|entry| entry.key == key);
                assert_eq!(found.map(|entry| entry.mod_revision.0), Some(*revision), "{key}");
            }
            let client = usize::try_from(*client).unwrap();
            done[client] = done[client].max(*n);
        }
        let halves = |half: &str| entries.iter().filter(|entry| entry.key.ends_with(half)).count();
        assert_eq!(halves("/a"), halves("/b"), "half a transaction");
        store.close().await.unwrap();
    }
    assert!(done.iter().sum::<u64>() > 0);
}
