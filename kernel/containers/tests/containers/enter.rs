//! Commands and probes inside a running container.

use super::harness::{skip, within, world};
use plenum_containers::{Command, Enter, ExitStatus, Network, Probe, Probed, Runtime, RuntimeError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn enter(shell: &str, deadline_ms: u64) -> Enter {
    Enter {
        command: Command::Shell(shell.into()),
        env: BTreeMap::from([("EXTRA".into(), "1".into())]),
        deadline: Duration::from_millis(deadline_ms),
    }
}

#[tokio::test]
async fn a_command_runs_where_the_task_runs() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "echo up > ready; sleep 1000");
    spec.user = Some("65534".into());
    spec.hostname = Some("inside".into());
    spec.env.insert("OWN".into(), "2".into());
    std::os::unix::fs::chown(world.sandbox("a"), Some(65534), None).unwrap();
    let launched = world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    let shell = "id -u; hostname; pwd; echo $EXTRA $OWN; cat /proc/1/comm; grep -h CapEff /proc/self/status; \
                 cat /proc/self/cgroup; echo err >&2; exit 4";
    let done = within(10, world.runtime.enter("a", enter(shell, 5000))).await.unwrap();
    let output = String::from_utf8(done.output).unwrap();
    assert_eq!((done.status, done.timed_out), (ExitStatus::Code(4), false), "{output}");
    let start = format!(
        "65534\ninside\n{}\n1 2\nplenum-init\nCapEff:\t0000000000000000\n",
        world.sandbox("a").display()
    );
    assert!(output.starts_with(&start), "{output}");
    // `memory:` with v1, `0::` with v2.
    assert!(output.contains(&format!(":/{}/a\n", world.config.cgroup_parent)), "{output}");
    assert!(output.ends_with("err\n"), "{output}");

    // What it leaves behind belongs to the container and ends with it.
    let left = world.runtime.enter("a", enter("sleep 999 & true", 5000)).await.unwrap();
    assert_eq!(left.status, ExitStatus::Code(0));
    let error = world
        .runtime
        .enter("a", Enter { command: Command::Argv(vec!["/no/it".into()]), ..enter("", 99) })
        .await;
    assert!(
        matches!(&error, Err(RuntimeError::Step { step, errno: 2, .. }) if step == "execve"),
        "{error:?}"
    );
    let exit = world.runtime.destroy("a").await.unwrap();
    assert_eq!(exit.status, ExitStatus::Signal(9));
    assert!(plenum_shim::proc::stat(launched.pid).is_none());
    assert!(matches!(world.runtime.enter("a", enter("true", 99)).await, Err(RuntimeError::NotFound(_))));
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_and_one_that_floods_is_cut() {
    if skip() {
        return;
    }
    let world = world();
    world.runtime.launch(world.spec("a", "sleep 1000")).await.unwrap();
    let start = Instant::now();
    let hung =
        within(10, world.runtime.enter("a", enter("echo here; sleep 500 & sleep 500", 300))).await.unwrap();
    assert!(hung.timed_out && start.elapsed() < Duration::from_secs(3), "{hung:?}");
    assert_eq!(hung.output, b"here\n");
    let flood = within(10, world.runtime.enter("a", enter("head -c 1000000 /dev/zero", 5000))).await.unwrap();
    assert_eq!((flood.status, flood.output.len()), (ExitStatus::Code(0), 65536));
    let left = world.runtime.enter("a", enter("ps -e -o args= | grep -c 'sleep [5]00'", 5000)).await.unwrap();
    assert_eq!(left.output, b"0\n");
    world.runtime.destroy("a").await.unwrap();
}

const SERVER: &str = r#"
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204 if self.path == '/ok?x=1' else 503); self.end_headers()
    def log_message(self, *a): pass
s = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), H)
open('port', 'w').write('%d\n' % s.server_port)
s.serve_forever()
"#;

#[tokio::test]
async fn probes_reach_the_containers_own_network() {
    if skip() {
        return;
    }
    let world = world();
    for (id, network) in [("own", Network::Loopback), ("host", Network::Host)] {
        let mut spec = world.spec(id, "");
        spec.command = Command::Argv(vec![
            "/usr/bin/env".into(),
            "python3".into(),
            "-c".into(),
            SERVER.into(),
            "0".into(),
        ]);
        spec.env.insert("PATH".into(), std::env::var("PATH").unwrap());
        spec.network = network.clone();
        world.runtime.launch(spec).await.unwrap();
        let port: u16 = world.file(id, "port").await.trim().parse().unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let second = Duration::from_secs(5);
        let http = |path: &str, tls| Probe::Http { to, path: path.into(), host: None, tls };
        for (probe, want) in [
            (Probe::Tcp { to }, Probed::Connected),
            (http("/ok?x=1", false), Probed::Status(204)),
            (http("bad", false), Probed::Status(503)),
        ] {
            assert_eq!(world.runtime.probe(id, probe.clone(), second).await.unwrap(), want, "{id} {probe:?}");
        }
        let closed = Probe::Tcp { to: SocketAddr::from(([127, 0, 0, 1], 9)) };
        for probe in [closed, http("/", true), http("/ \r\nX: y", false)] {
            let failed = world.runtime.probe(id, probe.clone(), second).await.unwrap();
            assert!(matches!(failed, Probed::Failed(_)), "{id} {probe:?} {failed:?}");
        }
        if network == Network::Loopback {
            let outside = tokio::net::TcpStream::connect(to).await;
            assert!(outside.is_err(), "the port is not the host's");
        }
        world.runtime.destroy(id).await.unwrap();
    }
}
