//! Tables: what each option makes of a request, and what is refused.

use super::*;
use serde_json::{Value, json};

/// What a parameter makes, at a path of the request.
fn made(name: &str, value: &str, path: &str) -> Value {
    let mut draft = Draft::default();
    apply(&mut draft, name, value).unwrap_or_else(|error| panic!("{name}={value}: {error}"));
    let all = json!({ "body": draft.body, "host": draft.host, "endpoint": draft.endpoint });
    all.pointer(path).cloned().unwrap_or(Value::Null)
}

#[test]
fn every_supported_option_changes_the_request() {
    for (name, value, path, want) in [
        ("add-host", "a:1.2.3.4", "/host/ExtraHosts", json!(["a:1.2.3.4"])),
        ("annotation", "a=b", "/host/Annotations", json!({"a": "b"})),
        ("blkio-weight", "300", "/host/BlkioWeight", json!(300)),
        ("blkio-weight-device", "/dev/x:20", "/host/BlkioWeightDevice/0/Weight", json!(20)),
        ("cap-add", "NET_ADMIN", "/host/CapAdd", json!(["NET_ADMIN"])),
        ("--cap-drop", "ALL", "/host/CapDrop", json!(["ALL"])),
        ("cgroup-parent", "/x", "/host/CgroupParent", json!("/x")),
        ("cgroupns", "host", "/host/CgroupnsMode", json!("host")),
        ("cpu-period", "5000", "/host/CpuPeriod", json!(5000)),
        ("cpu-quota", "7000", "/host/CpuQuota", json!(7000)),
        ("cpu-rt-period", "1", "/host/CpuRealtimePeriod", json!(1)),
        ("cpu-rt-runtime", "1", "/host/CpuRealtimeRuntime", json!(1)),
        ("cpu-shares", "512", "/host/CpuShares", json!(512)),
        ("cpus", "1.5", "/host/NanoCpus", json!(1_500_000_000)),
        ("cpuset-cpus", "0-1", "/host/CpusetCpus", json!("0-1")),
        ("cpuset-mems", "0", "/host/CpusetMems", json!("0")),
        ("device", "/dev/a:/dev/b:r", "/host/Devices/0/PathInContainer", json!("/dev/b")),
        ("device-cgroup-rule", "c 1:3 rwm", "/host/DeviceCgroupRules", json!(["c 1:3 rwm"])),
        ("device-read-bps", "/dev/a:1mb", "/host/BlkioDeviceReadBps/0/Rate", json!(1 << 20)),
        ("device-read-iops", "/dev/a:9", "/host/BlkioDeviceReadIOps/0/Rate", json!(9)),
        ("device-write-bps", "/dev/a:2k", "/host/BlkioDeviceWriteBps/0/Rate", json!(2048)),
        ("device-write-iops", "/dev/a:9", "/host/BlkioDeviceWriteIOps/0/Rate", json!(9)),
        ("dns", "9.9.9.9", "/host/Dns", json!(["9.9.9.9"])),
        ("dns-opt", "ndots:1", "/host/DnsOptions", json!(["ndots:1"])),
        ("dns-option", "ndots:1", "/host/DnsOptions", json!(["ndots:1"])),
        ("dns-search", "a.b", "/host/DnsSearch", json!(["a.b"])),
        ("domainname", "a.b", "/body/Domainname", json!("a.b")),
        ("entrypoint", "/bin/a", "/body/Entrypoint", json!(["/bin/a"])),
        ("env", "A=b=c", "/body/Env", json!(["A=b=c"])),
        ("expose", "53/udp", "/body/ExposedPorts", json!({"53/udp": {}})),
        ("gpus", "all", "/host/DeviceRequests/0/Count", json!(-1)),
        ("group-add", "audio", "/host/GroupAdd", json!(["audio"])),
        ("health-cmd", "true", "/body/Healthcheck/Test", json!(["CMD-SHELL", "true"])),
        ("health-interval", "1m30s", "/body/Healthcheck/Interval", json!(90_000_000_000_i64)),
        ("health-retries", "3", "/body/Healthcheck/Retries", json!(3)),
        ("health-start-interval", "1s", "/body/Healthcheck/StartInterval", json!(1_000_000_000)),
        ("health-start-period", "2ms", "/body/Healthcheck/StartPeriod", json!(2_000_000)),
        ("health-timeout", "1.5s", "/body/Healthcheck/Timeout", json!(1_500_000_000)),
        ("hostname", "h", "/body/Hostname", json!("h")),
        ("init", "true", "/host/Init", json!(true)),
        ("interactive", "", "/body/OpenStdin", json!(true)),
        ("ip", "10.0.0.2", "/endpoint/IPAMConfig/IPv4Address", json!("10.0.0.2")),
        ("ip6", "fd00::2", "/endpoint/IPAMConfig/IPv6Address", json!("fd00::2")),
        ("ipc", "host", "/host/IpcMode", json!("host")),
        ("label", "a=b", "/body/Labels", json!({"a": "b"})),
        ("link", "a:b", "/host/Links", json!(["a:b"])),
        ("link-local-ip", "169.254.0.2", "/endpoint/IPAMConfig/LinkLocalIPs", json!(["169.254.0.2"])),
        ("log-driver", "syslog", "/host/LogConfig/Type", json!("syslog")),
        ("log-opt", "tag=x", "/host/LogConfig/Config", json!({"tag": "x"})),
        ("mac-address", "92:d0:c6:0a:29:33", "/endpoint/MacAddress", json!("92:d0:c6:0a:29:33")),
        ("memory", "64m", "/host/Memory", json!(64 << 20)),
        ("memory-reservation", "1g", "/host/MemoryReservation", json!(1 << 30)),
        ("memory-swap", "-1", "/host/MemorySwap", json!(-1)),
        ("memory-swappiness", "0", "/host/MemorySwappiness", json!(0)),
        ("mount", "type=bind,src=/a,dst=/b,ro", "/host/Mounts/0/ReadOnly", json!(true)),
        ("net", "host", "/host/NetworkMode", json!("host")),
        ("net-alias", "a", "/endpoint/Aliases", json!(["a"])),
        ("network", "mine", "/host/NetworkMode", json!("mine")),
        ("network-alias", "a", "/endpoint/Aliases", json!(["a"])),
        ("no-healthcheck", "true", "/body/Healthcheck/Test", json!(["NONE"])),
        ("oom-kill-disable", "true", "/host/OomKillDisable", json!(true)),
        ("oom-score-adj", "-5", "/host/OomScoreAdj", json!(-5)),
        ("pid", "host", "/host/PidMode", json!("host")),
        ("pids-limit", "9", "/host/PidsLimit", json!(9)),
        ("privileged", "true", "/host/Privileged", json!(true)),
        ("publish", "127.0.0.1:80:8080/tcp", "/host/PortBindings/8080~1tcp/0/HostPort", json!("80")),
        ("publish-all", "true", "/host/PublishAllPorts", json!(true)),
        ("read-only", "true", "/host/ReadonlyRootfs", json!(true)),
        ("runtime", "runc", "/host/Runtime", json!("runc")),
        ("security-opt", "no-new-privileges", "/host/SecurityOpt", json!(["no-new-privileges"])),
        ("shm-size", "0.5g", "/host/ShmSize", json!(1 << 29)),
        ("stop-signal", "SIGINT", "/body/StopSignal", json!("SIGINT")),
        ("storage-opt", "size=1G", "/host/StorageOpt", json!({"size": "1G"})),
        ("sysctl", "net.core.somaxconn=9", "/host/Sysctls", json!({"net.core.somaxconn": "9"})),
        ("tmpfs", "/run:size=1m", "/host/Tmpfs", json!({"/run": "size=1m"})),
        ("tty", "true", "/body/Tty", json!(true)),
        ("ulimit", "nofile=10:20", "/host/Ulimits/0/Hard", json!(20)),
        ("user", "1000:1000", "/body/User", json!("1000:1000")),
        ("userns", "host", "/host/UsernsMode", json!("host")),
        ("uts", "host", "/host/UTSMode", json!("host")),
        ("volume", "/a:/b:ro", "/host/Binds", json!(["/a:/b:ro"])),
        ("volume-driver", "local", "/host/VolumeDriver", json!("local")),
        ("volumes-from", "c", "/host/VolumesFrom", json!(["c"])),
        ("workdir", "/w", "/body/WorkingDir", json!("/w")),
    ] {
        assert_eq!(made(name, value, path), want, "{name}={value}");
    }
}

#[test]
fn the_table_above_forgets_no_option() {
    let here = include_str!("tests.rs");
    for name in supported() {
        assert!(
            here.contains(&format!("(\"{name}\",")) || here.contains(&format!("(\"--{name}\",")),
            "{name} is not tested"
        );
    }
}

#[test]
fn the_manual_names_every_option() {
    let manual = include_str!("../../../../docs/docker.md");
    let given = manual.split("Given: `").nth(1).and_then(|text| text.split('`').next()).unwrap();
    assert_eq!(given.split_whitespace().collect::<Vec<_>>(), supported().collect::<Vec<_>>());
}

#[test]
fn mounts_in_full() {
    let at = |value: &str, path: &str| made("mount", value, path);
    assert_eq!(at("type=tmpfs,target=/t,tmpfs-size=1m", "/host/Mounts/0/TmpfsOptions/SizeBytes"), 1 << 20);
    assert_eq!(at("type=tmpfs,target=/t,tmpfs-mode=1777", "/host/Mounts/0/TmpfsOptions/Mode"), 0o1777);
    let driver = "/host/Mounts/0/VolumeOptions/DriverConfig";
    let text = "source=v,target=/t,volume-driver=local,volume-opt=type=nfs";
    assert_eq!(at(text, driver), json!({"Name": "local", "Options": {"type": "nfs"}}));
    let text = "type=bind,source=/a,target=/t,bind-propagation=rslave";
    assert_eq!(at(text, "/host/Mounts/0/BindOptions/Propagation"), "rslave");
    assert_eq!(made("volume", "/data", "/body/Volumes"), json!({"/data": {}}));
}

#[test]
fn what_is_refused_says_what_to_do() {
    for (name, value, want) in [
        ("memroy", "1", "nearest is \"memory\""),
        ("cpu-share", "1", "nearest is \"cpu-shares\""),
        ("volumes", "/a:/b", "nearest is \"volume\""),
        ("enviroment", "A=b", "nearest is"),
        ("", "", "nearest is"),
        ("restart", "always", "framework"),
        ("name", "x", "network-alias"),
        ("rm", "true", "agent"),
        ("env-file", "/x", "environment"),
        ("stop-timeout", "3", "kill_policy"),
        ("memory", "lots", "64m"),
        ("memory", "-5", "64m"),
        ("memory", "9999999999t", "64m"),
        ("cpus", "NaN", "processors"),
        ("pids-limit", "x", "whole number"),
        ("init", "maybe", "neither true nor false"),
        ("health-interval", "soon", "1m30s"),
        ("device", "a", "absolute"),
        ("device", "/a:/b:x", "rwm"),
        ("device-read-bps", "x", "path:value"),
        ("publish", "80:x", "80/tcp"),
        ("publish", "a:80", "port mapping"),
        ("expose", "0", "80/tcp"),
        ("label", "=x", "name=value"),
        ("ulimit", "nofile=x", "whole number"),
        ("volume", "/a:b", "absolute"),
        ("tmpfs", "x", "absolute"),
        ("mount", "type=bind,src=/a", "target"),
        ("mount", "type=nfs,target=/a", "bind, volume or tmpfs"),
        ("mount", "colour=red", "no field"),
        ("security-opt", "seccomp=/etc/profile.json", "JSON"),
        ("cgroupns", "x", "host or private"),
        ("env", "=x", "name=value"),
        ("gpus", "x", "all or a number"),
    ] {
        let said = apply(&mut Draft::default(), name, value).unwrap_err().to_string();
        assert!(said.contains(want), "{name}={value}: {said:?} should say {want:?}");
    }
}

#[test]
fn distances() {
    for (from, to, want) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("abc", "", 3)] {
        assert_eq!(distance(from, to), want, "{from} {to}");
    }
}
