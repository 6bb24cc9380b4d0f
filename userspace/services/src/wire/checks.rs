//! Checks without consequences, and what the kernel grants a container: from a definition to Mesos' words, and their results back.

use plenum_api::mesos::{
    CheckInfo, CheckStatusInfo, CommandInfo, LinuxInfo, SeccompInfo, check_info, linux_info,
};
use serde_json::{Value, json};

use crate::core::app::{App, Container};

fn some<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|v| !v.is_null())
}

/// The app's check; `port_of` says where the task listens for its n-th port.
pub(super) fn check(app: &App, port_of: impl Fn(usize) -> u16) -> Option<CheckInfo> {
    check_at(app.check.as_ref()?, |probe| {
        let index = some(probe, "portIndex").and_then(Value::as_u64);
        port_of(index.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
    })
}

/// That of a pod's container; `port_of` says where it listens for an endpoint.
pub(super) fn check_of(check: &Value, port_of: impl Fn(&str) -> u16) -> Option<CheckInfo> {
    check_at(check, |probe| some(probe, "endpoint").and_then(Value::as_str).map_or(0, &port_of))
}

fn check_at(check: &Value, port_of: impl Fn(&Value) -> u16) -> Option<CheckInfo> {
    let seconds = |key: &str| some(check, key).and_then(Value::as_f64);
    let port = |probe: &Value| {
        let number = |key: &str| some(probe, key).and_then(Value::as_u64);
        number("port").and_then(|port| u32::try_from(port).ok()).unwrap_or_else(|| u32::from(port_of(probe)))
    };
    let mut out = CheckInfo {
        delay_seconds: seconds("delaySeconds"),
        interval_seconds: seconds("intervalSeconds"),
        timeout_seconds: seconds("timeoutSeconds"),
        ..Default::default()
    };
    if let Some(http) = some(check, "http") {
        let path = some(http, "path").and_then(Value::as_str).unwrap_or("/").to_owned();
        out.r#type = Some(check_info::Type::Http.into());
        out.http = Some(check_info::Http { port: port(http), path: Some(path) });
    } else if let Some(tcp) = some(check, "tcp") {
        out.r#type = Some(check_info::Type::Tcp.into());
        out.tcp = Some(check_info::Tcp { port: port(tcp) });
    } else {
        out.r#type = Some(check_info::Type::Command.into());
        out.command = Some(check_info::Command { command: command(some(check, "exec")?.get("command")?)? });
    }
    Some(out)
}

/// `{"shell": text}` or `{"argv": [text]}`.
pub(super) fn command(given: &Value) -> Option<CommandInfo> {
    if let Some(shell) = some(given, "shell").and_then(Value::as_str) {
        let value = Some(shell.to_owned());
        return Some(CommandInfo { value, shell: Some(true), ..Default::default() });
    }
    let argv = some(given, "argv")?.as_array()?;
    let arguments: Vec<String> = argv.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    let value = arguments.first().cloned();
    Some(CommandInfo { value, arguments, shell: Some(false), ..Default::default() })
}

/// What a check found, as a task shows it; none before there is a result.
pub(super) fn result(status: &CheckStatusInfo) -> Option<Value> {
    if let Some(code) = status.http.as_ref().and_then(|http| http.status_code) {
        return Some(json!({"http": {"statusCode": code}}));
    }
    if let Some(succeeded) = status.tcp.as_ref().and_then(|tcp| tcp.succeeded) {
        return Some(json!({"tcp": {"succeeded": succeeded}}));
    }
    let code = status.command.as_ref().and_then(|command| command.exit_code)?;
    Some(json!({"command": {"exitCode": code}}))
}

/// Seccomp and shared memory.
pub(super) fn linux(container: &Container) -> Option<LinuxInfo> {
    container.linux_info.as_ref().map(linux_of)
}

/// The same from a definition's words.
pub(super) fn linux_of(info: &Value) -> LinuxInfo {
    let seccomp = some(info, "seccomp").map(|seccomp| SeccompInfo {
        profile_name: some(seccomp, "profileName").and_then(Value::as_str).map(str::to_owned),
        unconfined: some(seccomp, "unconfined").and_then(Value::as_bool),
    });
    let ipc = some(info, "ipcInfo");
    let mode = ipc.and_then(|ipc| some(ipc, "mode")?.as_str()).map(|mode| match mode {
        "SHARE_PARENT" => linux_info::IpcMode::ShareParent.into(),
        _ => linux_info::IpcMode::Private.into(),
    });
    let size = ipc.and_then(|ipc| some(ipc, "shmSize")?.as_u64()).and_then(|n| u32::try_from(n).ok());
    LinuxInfo { seccomp, ipc_mode: mode, shm_size: size, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::PathId;

    fn app(body: Value) -> App {
        let mut app = App::new(PathId::parse("/a").unwrap(), "*");
        crate::core::update::apply(&mut app, body.as_object().unwrap(), "*").unwrap();
        app
    }

    #[test]
    fn checks_of_every_kind() {
        for (given, want) in [
            (
                json!({"http": {"path": "/c", "portIndex": 1}, "delaySeconds": 3}),
                json!({"type": "HTTP", "http": {"port": 81, "path": "/c"}, "delay_seconds": 3.0,
                    "interval_seconds": 60.0, "timeout_seconds": 20.0}),
            ),
            (
                json!({"tcp": {"port": 7}}),
                json!({"type": "TCP", "tcp": {"port": 7}, "delay_seconds": 15.0,
                    "interval_seconds": 60.0, "timeout_seconds": 20.0}),
            ),
            (
                json!({"exec": {"command": {"argv": ["a", "b"]}}, "timeoutSeconds": 1}),
                json!({"type": "COMMAND", "command": {"command": {"value": "a", "arguments": ["a", "b"], "shell": false}},
                    "delay_seconds": 15.0, "interval_seconds": 60.0, "timeout_seconds": 1.0}),
            ),
            (
                json!({"exec": {"command": {"shell": "true"}}, "timeoutSeconds": 1}),
                json!({"type": "COMMAND", "command": {"command": {"value": "true", "shell": true}},
                    "delay_seconds": 15.0, "interval_seconds": 60.0, "timeout_seconds": 1.0}),
            ),
        ] {
            let app = app(json!({"cmd": "x", "portDefinitions": [{}, {}], "check": given}));
            let made = check(&app, |n| 80 + u16::try_from(n).unwrap()).unwrap();
            assert_eq!(serde_json::to_value(made).unwrap(), want);
        }
        assert_eq!(check(&app(json!({"cmd": "x"})), |_| 0), None);
    }

    #[test]
    fn results_are_marathons() {
        for (status, want) in [
            (
                json!({"type": "HTTP", "http": {"status_code": 204}}),
                Some(json!({"http": {"statusCode": 204}})),
            ),
            (json!({"type": "TCP", "tcp": {"succeeded": false}}), Some(json!({"tcp": {"succeeded": false}}))),
            (
                json!({"type": "COMMAND", "command": {"exit_code": 1}}),
                Some(json!({"command": {"exitCode": 1}})),
            ),
            (json!({"type": "HTTP", "http": {}}), None),
        ] {
            let status: CheckStatusInfo = serde_json::from_value(status).unwrap();
            assert_eq!(result(&status), want);
        }
    }

    #[test]
    fn what_the_kernel_grants_is_asked_for() {
        let app = app(json!({"cmd": "x", "container": {"type": "MESOS", "linuxInfo": {
            "seccomp": {"unconfined": true}, "ipcInfo": {"mode": "PRIVATE", "shmSize": 64}}}}));
        let made = linux(app.container.as_ref().unwrap()).unwrap();
        let want = json!({"seccomp": {"unconfined": true}, "ipc_mode": "PRIVATE", "shm_size": 64});
        assert_eq!(serde_json::to_value(made).unwrap(), want);
    }
}
