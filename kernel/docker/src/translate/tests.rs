//! Tasks as frameworks send them, and what the engine is asked for.

use super::*;
use crate::spec::VolumeSource;
use serde_json::{Value, json};

/// A task from JSON: `container`, `command`, `resources`; what is left out is nothing.
fn spec_of(task: &Value) -> Result<DockerSpec, SpecFault> {
    let mut container = json!({"type": "DOCKER"});
    let given = task.get("container").cloned().unwrap_or_else(|| json!({"docker": {"image": "a"}}));
    for (name, value) in given.as_object().unwrap() {
        container[name] = value.clone();
    }
    let container: ContainerInfo = serde_json::from_value(container).unwrap();
    let command = task.get("command").cloned().unwrap_or_else(|| json!({"shell": false}));
    let command: CommandInfo = serde_json::from_value(command).unwrap();
    let resources = task.get("resources").cloned().unwrap_or_else(|| json!([]));
    let resources: Vec<Resource> = serde_json::from_value(resources).unwrap();
    let limits = task.get("limits").and_then(Value::as_object).into_iter().flatten();
    let limits: Vec<_> =
        limits.map(|(name, value)| (name.clone(), value.as_f64().unwrap_or(f64::INFINITY))).collect();
    translate(&Task {
        id: "c1",
        sandbox: Path::new("/s/b"),
        container: &container,
        command: &command,
        resources: &resources,
        limits: &limits,
        env: &[("MESOS_TASK_ID".into(), "t".into()), ("A".into(), "agent".into())],
        credentials: Some("{}"),
        defaults: &Defaults { pids: Some(99), ..Defaults::default() },
    })
}

fn scalar(name: &str, value: f64) -> Value {
    json!({"name": name, "type": "SCALAR", "scalar": {"value": value}})
}

fn ports(begin: u32, end: u32) -> Value {
    json!({"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": begin, "end": end}]}})
}

/// What is sent to the engine, at a path.
fn asked(task: &Value, path: &str) -> Value {
    let spec = spec_of(task).unwrap_or_else(|error| panic!("{task}: {error}"));
    let body = crate::body::create(&spec, "me", 1 << 20).unwrap();
    serde_json::to_value(body).unwrap().pointer(path).cloned().unwrap_or(Value::Null)
}

#[test]
fn tasks_become_requests() {
    let docker = |fields: Value| {
        let mut docker = json!({"image": "a"});
        for (name, value) in fields.as_object().unwrap() {
            docker[name] = value.clone();
        }
        json!({"container": {"docker": docker}})
    };
    let sized = |limits: Value| json!({"resources": [scalar("cpus", 0.5), scalar("cpus", 0.25), scalar("mem", 64.0)], "limits": limits});
    let mapped = json!({
        "container": {"docker": {"image": "a", "network": "BRIDGE", "port_mappings": [
            {"host_port": 31000, "container_port": 80}, {"host_port": 31001, "container_port": 53, "protocol": "UDP"}
        ]}, "hostname": "h"},
        "resources": [ports(31000, 31001)]
    });
    let user =
        json!({"container": {"docker": {"image": "a", "network": "USER"}, "network_infos": [{"name": "n"}]}});
    let shell = json!({"command": {"value": "echo $A", "environment": {"variables": [{"name": "A", "value": "own"}]}}});
    let args = json!({"command": {"shell": false, "value": "x", "arguments": ["y", "z"]}});
    let empty = json!({});
    for (task, path, want) in [
        (&docker(json!({})), "/Image", json!("a")),
        (&docker(json!({})), "/HostConfig/NetworkMode", json!("host")),
        (&docker(json!({"network": "NONE"})), "/HostConfig/NetworkMode", json!("none")),
        (&docker(json!({"privileged": true})), "/HostConfig/Privileged", json!(true)),
        (&mapped, "/HostConfig/NetworkMode", json!("bridge")),
        (&mapped, "/Hostname", json!("h")),
        (&mapped, "/HostConfig/PortBindings/80~1tcp/0/HostPort", json!("31000")),
        (&mapped, "/HostConfig/PortBindings/53~1udp/0/HostPort", json!("31001")),
        (&mapped, "/ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
        (&user, "/HostConfig/NetworkMode", json!("n")),
        (&shell, "/Entrypoint", json!(["/bin/sh"])),
        (&shell, "/Cmd", json!(["-c", "echo $A"])),
        (&args, "/Entrypoint", Value::Null),
        (&args, "/Cmd", json!(["x", "y", "z"])),
        (&empty, "/Cmd", Value::Null),
        (&empty, "/Labels/io.plenum.instance", json!("me")),
        (&empty, "/Labels/io.plenum.container", json!("c1")),
        (&empty, "/HostConfig/PidsLimit", json!(99)),
        (&empty, "/HostConfig/Mounts/0/Source", json!("/s/b")),
        (&empty, "/HostConfig/Mounts/0/Target", json!("/mnt/mesos/sandbox")),
        (&sized(json!({})), "/HostConfig/CpuShares", json!(768)),
        (&sized(json!({})), "/HostConfig/CpuQuota", json!(75_000)),
        (&sized(json!({})), "/HostConfig/Memory", json!(64 << 20)),
        (&sized(json!({})), "/HostConfig/MemorySwap", json!(64 << 20)),
        (&sized(json!({"cpus": 2.0})), "/HostConfig/CpuQuota", json!(200_000)),
        (&sized(json!({"cpus": null})), "/HostConfig/CpuQuota", Value::Null),
        (&sized(json!({"mem": 128.0})), "/HostConfig/Memory", json!(128 << 20)),
        (&sized(json!({"mem": 128.0})), "/HostConfig/MemoryReservation", json!(64 << 20)),
        (&sized(json!({"mem": null})), "/HostConfig/Memory", Value::Null),
        (&json!({"resources": [scalar("mem", 1.0)]}), "/HostConfig/Memory", json!(32 << 20)),
        (&json!({"resources": [scalar("cpus", 0.0001)]}), "/HostConfig/CpuShares", json!(2)),
        (
            &docker(json!({"parameters": [{"key": "memory", "value": "1g"}]})),
            "/HostConfig/Memory",
            json!(1 << 30),
        ),
    ] {
        assert_eq!(asked(task, path), want, "{task} at {path}");
    }
    let env: Vec<String> = serde_json::from_value(asked(&shell, "/Env")).unwrap();
    for want in
        ["A=own", "MESOS_TASK_ID=t", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_CONTAINER_NAME=mesos-c1"]
    {
        assert!(env.iter().any(|item| item == want), "{env:?} lacks {want}");
    }
}

#[test]
fn volumes_and_isolation() {
    let volume = |volume: Value| json!({"container": {"docker": {"image": "a"}, "volumes": [volume]}});
    let driven = json!({"container": {"docker": {"image": "a", "volume_driver": "d"},
        "volumes": [{"container_path": "/v", "host_path": "name", "mode": "RO"}]}});
    let linux = |linux: Value| json!({"container": {"docker": {"image": "a"}, "linux_info": linux}});
    let binds = "/HostConfig/Binds";
    for (task, path, want) in [
        (
            volume(json!({"container_path": "/v", "host_path": "/h", "mode": "RW"})),
            binds,
            json!(["/h:/v:rw"]),
        ),
        (
            volume(json!({"container_path": "v", "host_path": "/h", "mode": "RO"})),
            binds,
            json!(["/h:/mnt/mesos/sandbox/v:ro"]),
        ),
        (
            volume(json!({"container_path": "/v", "host_path": "h", "mode": "RO"})),
            binds,
            json!(["/s/b/h:/v:ro"]),
        ),
        (
            volume(json!({"container_path": "/v", "mode": "RW", "source": {"type": "HOST_PATH",
                "host_path": {"path": "/h", "mount_propagation": {"mode": "HOST_TO_CONTAINER"}}}})),
            binds,
            json!(["/h:/v:rw,rslave"]),
        ),
        (
            volume(json!({"container_path": "/v", "mode": "RW", "source": {"type": "SANDBOX_PATH",
                "sandbox_path": {"type": "SELF", "path": "x"}}})),
            binds,
            json!(["/s/b/x:/v:rw"]),
        ),
        (
            volume(json!({"container_path": "/v", "mode": "RW", "source": {"type": "DOCKER_VOLUME",
                "docker_volume": {"name": "n", "driver": "d", "driver_options": {"parameter": [{"key": "k", "value": "x"}]}}}})),
            "/HostConfig/Mounts/1/VolumeOptions/DriverConfig",
            json!({"Name": "d", "Options": {"k": "x"}}),
        ),
        (
            volume(json!({"container_path": "/v", "host_path": "/a:b", "mode": "RW"})),
            "/HostConfig/Mounts/1/Source",
            json!("/a:b"),
        ),
        (driven.clone(), "/HostConfig/Mounts/1/Source", json!("name")),
        (driven, "/HostConfig/Mounts/1/ReadOnly", json!(true)),
        (
            linux(json!({"bounding_capabilities": {"capabilities": ["NET_RAW"]}})),
            "/HostConfig/CapAdd",
            json!(["NET_RAW"]),
        ),
        (
            linux(json!({"seccomp": {"unconfined": true}})),
            "/HostConfig/SecurityOpt",
            json!(["seccomp=unconfined"]),
        ),
        (linux(json!({"ipc_mode": "SHARE_PARENT"})), "/HostConfig/IpcMode", json!("host")),
        (linux(json!({"shm_size": 2})), "/HostConfig/ShmSize", json!(2 << 20)),
        (linux(json!({"share_pid_namespace": true})), "/HostConfig/PidMode", json!("host")),
        (
            json!({"container": {"docker": {"image": "a"}, "rlimit_info": {"rlimits": [{"type": "RLMT_NOFILE", "soft": 1, "hard": 2}]}}}),
            "/HostConfig/Ulimits/0",
            json!({"Name": "nofile", "Soft": 1, "Hard": 2}),
        ),
        (json!({"container": {"docker": {"image": "a"}, "tty_info": {}}}), "/Tty", json!(true)),
    ] {
        assert_eq!(asked(&task, path), want, "{task} at {path}");
    }
    let spec = spec_of(&volume(json!({"container_path": "/v", "host_path": "/h", "mode": "RW"}))).unwrap();
    assert_eq!(spec.volumes[0].source, VolumeSource::Path("/h".into()));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let volume = |volume: Value| json!({"container": {"docker": {"image": "a"}, "volumes": [volume]}});
    let bridge =
        json!({"image": "a", "network": "BRIDGE", "port_mappings": [{"host_port": 9, "container_port": 80}]});
    let mut host = bridge.clone();
    host["network"] = json!("HOST");
    for (task, want) in [
        (json!({"container": {}}), "container.docker"),
        (json!({"container": {"docker": {"image": "a b"}}}), "image"),
        (json!({"container": {"docker": {"image": "a"}, "hostname": "h"}}), "hostname"),
        (json!({"container": {"docker": {"image": "a", "network": "USER"}}}), "network_infos"),
        (json!({"container": {"docker": {"image": "a", "network": "USER"}, "network_infos": [{}]}}), "name"),
        (json!({"container": {"docker": bridge}, "resources": [ports(10, 20)]}), "host port 9"),
        (json!({"container": {"docker": host}, "resources": [ports(9, 9)]}), "BRIDGE or USER"),
        (json!({"command": {}}), "command.value"),
        (
            json!({"command": {"shell": false, "environment": {"variables": [{"name": "a=b", "value": ""}]}}}),
            "'='",
        ),
        (
            json!({"container": {"docker": {"image": "a", "parameters": [{"key": "volum", "value": "x"}]}}}),
            "nearest is \"volume\"",
        ),
        (
            json!({"container": {"docker": {"image": "a", "parameters": [{"key": "rm", "value": "true"}]}}}),
            "not for tasks",
        ),
        (volume(json!({"container_path": "/v", "mode": "RW"})), "host_path"),
        (volume(json!({"container_path": "v", "host_path": "h", "mode": "RW"})), "both paths are relative"),
        (volume(json!({"container_path": "/v", "host_path": "../h", "mode": "RW"})), "leads out"),
        (volume(json!({"container_path": "/a/../v", "host_path": "/h", "mode": "RW"})), "without '..'"),
        (volume(json!({"container_path": "/", "host_path": "/h", "mode": "RW"})), "path in the container"),
        (volume(json!({"container_path": "/v", "mode": "RW", "source": {"type": "SECRET"}})), "secrets"),
        (volume(json!({"container_path": "/v", "mode": "RW", "image": {"type": "DOCKER"}})), "images"),
        (
            json!({"container": {"docker": {"image": "a"}, "linux_info": {"seccomp": {"profile_name": "p"}}}}),
            "profile",
        ),
        (
            json!({"container": {"docker": {"image": "a"}, "rlimit_info": {"rlimits": [{"type": "RLMT_NOFILE", "soft": 3, "hard": 2}]}}}),
            "soft",
        ),
    ] {
        let said = spec_of(&task).unwrap_err().to_string();
        assert!(said.contains(want), "{task}: {said:?} should say {want:?}");
    }
}

#[test]
fn credentials_are_never_shown() {
    let spec = spec_of(&json!({})).unwrap();
    assert_eq!(spec.image.credentials.as_deref(), Some("{}"));
    assert!(format!("{spec:?}").contains("<hidden>"));
}
