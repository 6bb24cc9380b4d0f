//! What a task sees of the machine, read from inside.

use super::harness::{skip, world};
use plenum_containers::capabilities::CapabilitySet;
use plenum_containers::{ExitStatus, Network, Runtime};

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
}

#[tokio::test]
async fn namespaces_are_the_containers_own() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "for n in pid mnt ipc uts net; do echo $n=$(readlink /proc/self/ns/$n); done; echo init=$(cat /proc/1/comm); \
                 echo shell=$$; hostname; cat /sys/class/net/lo/operstate; cat /proc/net/dev | grep -c :";
    let mut spec = world.spec("a", shell);
    spec.hostname = Some("inside".into());
    spec.network = Network::Loopback;
    let (exit, output) = world.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(0), "{output}");
    for name in ["pid", "mnt", "ipc", "uts", "net"] {
        let mine = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(field(&output, &format!("{name}=")), mine.to_str().unwrap(), "{name}");
    }
    assert_eq!(field(&output, "init="), "plenum-init");
    assert_eq!(field(&output, "shell="), "2");
    assert!(output.contains("\ninside\n") && output.ends_with("\n1\n"), "{output}");
    assert_ne!(nix::unistd::gethostname().unwrap(), "inside");
    let (_, output) = world.run(world.spec("b", "readlink /proc/self/ns/net")).await;
    assert_eq!(output.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

#[tokio::test]
async fn privileges_are_dropped() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "cat /proc/self/status; umask; ulimit -n; ulimit -c";
    let mut spec = world.spec("root", shell);
    spec.rlimits.push(plenum_shim::wire::Rlimit { resource: 7, soft: 77, hard: 99 });
    let (_, status) = world.run(spec.clone()).await;
    let hex = |name: &str| u64::from_str_radix(field(&status, name), 16).unwrap();
    let default = CapabilitySet::container_default().0;
    assert_eq!((hex("CapBnd:"), hex("CapEff:"), hex("CapPrm:")), (default, default, default));
    assert_eq!((hex("CapInh:"), hex("CapAmb:")), (0, 0));
    assert_eq!(field(&status, "NoNewPrivs:"), "1");
    assert_eq!((hex("SigBlk:"), hex("SigIgn:")), (0, 0));
    assert!(status.contains("\n0022\n77\n"), "{status}");

    let mut spec = world.spec("nobody", shell);
    spec.user = Some("65534".into());
    spec.no_new_privs = false;
    std::os::unix::fs::chown(world.sandbox("nobody"), Some(65534), None).unwrap();
    let (_, status) = world.run(spec.clone()).await;
    let hex = |name: &str| u64::from_str_radix(field(&status, name), 16).unwrap();
    assert_eq!((hex("CapBnd:"), hex("CapEff:"), hex("CapPrm:")), (default, 0, 0));
    assert_eq!((field(&status, "NoNewPrivs:"), field(&status, "Uid:")), ("0", "65534\t65534\t65534\t65534"));

    spec.id = "ambient".into();
    spec.sandbox = world.sandbox("ambient");
    spec.ambient = CapabilitySet::from_names(&["NET_BIND_SERVICE"]).unwrap();
    let (_, status) = world.run(spec).await;
    let hex = |name: &str| u64::from_str_radix(field(&status, name), 16).unwrap();
    assert_eq!((hex("CapEff:"), hex("CapAmb:")), (1 << 10, 1 << 10));
}

#[tokio::test]
async fn nothing_of_the_agent_is_inherited() {
    if skip() {
        return;
    }
    let world = world();
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&leak);
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let (_, output) =
        world.run(world.spec("a", "ls -l /proc/self/fd | grep -c -- '->'; env; echo $PPID")).await;
    // 0, 1, 2 and the folder that ls reads.
    assert!(output.starts_with("4\n"), "descriptor {fd} or another leaked: {output}");
    assert!(!output.contains("CARGO"), "{output}");
    assert!(output.ends_with("\n1\n"), "{output}");
}

#[tokio::test]
async fn mounts_and_resolv_conf_stay_inside() {
    if skip() {
        return;
    }
    let world = world();
    let file = world.dir.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.88.0.53\n").unwrap();
    let before = world.mounts();
    let outside = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut spec = world.spec(
        "a",
        "cat /etc/resolv.conf; echo x >> /etc/resolv.conf || echo refused; echo up > ready; sleep 100",
    );
    spec.resolv_conf = Some(file.clone());
    world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    assert_eq!(world.stdout("a"), "nameserver 127.88.0.53\nrefused\n");
    assert_eq!(world.mounts(), before);
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(), outside);
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn isolation_says_what_is_in_force() {
    if skip() {
        return;
    }
    let world = world();
    let isolation = world.runtime.isolation();
    for name in
        ["pid namespace", "mount namespace", "memory limit", "cpu limit", "process limit", "kill by group"]
    {
        assert!(isolation.has(name), "{isolation}");
    }
    for feature in &isolation.features {
        assert!(!feature.why.is_empty(), "{}", feature.name);
    }
    assert_eq!(isolation.has("oom protection"), std::fs::write("/proc/self/oom_score_adj", "-1").is_ok());
}
