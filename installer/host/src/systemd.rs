//! systemd through `systemctl`: conditions of units, starting and stopping with deadlines, the last lines of a unit's log.

use std::time::{Duration, Instant};

use crate::events::HostError;
use crate::run::{Said, run};

const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(90);

/// After so many restarts a unit is taken to fail for good: its restarts are counted from its last start by hand.
const HOPELESS: u32 = 30;

/// How a unit is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// `Result` of its last end.
    pub result: String,
    /// What it says of itself (`StatusText`).
    pub status: String,
    /// Its process; 0 for none.
    pub pid: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it is started at boot.
    pub enabled: bool,
}

/// Whether the unit has a condition worth telling: services and sockets.
#[must_use]
pub fn runs(name: &str) -> bool {
    name.ends_with(".service") || name.ends_with(".socket")
}

/// The conditions of units, in the order asked for. One that systemd does not know is `inactive`.
#[must_use]
pub fn states(units: &[String]) -> Vec<Condition> {
    if units.is_empty() {
        return Vec::new();
    }
    const ASKED: &str = "Id,ActiveState,SubState,Result,StatusText,MainPID,NRestarts,UnitFileState";
    let mut arguments = vec!["show", "-p", ASKED, "--"];
    arguments.extend(units.iter().map(String::as_str));
    let said = run("systemctl", &arguments, SHORT);
    let known = parse(&said.out);
    let find = |name: &String| known.iter().find(|condition| condition.name == *name).cloned();
    units
        .iter()
        .map(|name| {
            find(name).unwrap_or_else(|| Condition {
                name: name.clone(),
                active: "inactive".to_owned(),
                ..Condition::default()
            })
        })
        .collect()
}

/// Blocks of `key=value`, divided by empty lines.
fn parse(text: &str) -> Vec<Condition> {
    text.split("\n\n")
        .filter(|block| !block.trim().is_empty())
        .map(|block| {
            let value = |key: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
                line.unwrap_or_default().to_owned()
            };
            Condition {
                name: value("Id"),
                active: value("ActiveState"),
                sub: value("SubState"),
                result: value("Result"),
                status: value("StatusText"),
                pid: value("MainPID").parse().unwrap_or(0),
                restarts: value("NRestarts").parse().unwrap_or(0),
                enabled: value("UnitFileState") == "enabled",
            }
        })
        .collect()
}

fn done(what: &str, said: &Said) -> Result<(), HostError> {
    if said.ok { Ok(()) } else { Err(HostError::System(format!("{what}: {}", said.complaint()))) }
}

fn all(verb: &[&str], units: &[String], deadline: Duration) -> Result<(), HostError> {
    if units.is_empty() {
        return Ok(());
    }
    let mut arguments = verb.to_vec();
    arguments.extend(units.iter().map(String::as_str));
    done(&format!("systemctl {}", verb.join(" ")), &run("systemctl", &arguments, deadline))
}

/// Makes systemd read its units again.
///
/// # Errors
/// What it complains about.
pub fn reload() -> Result<(), HostError> {
    done("systemctl daemon-reload", &run("systemctl", &["daemon-reload"], LONG))
}

/// Starts units at boot from now on.
///
/// # Errors
/// What it complains about.
pub fn enable(units: &[String]) -> Result<(), HostError> {
    all(&["enable", "--quiet"], units, LONG)
}

/// Starts them at boot no more. One that is gone is no error.
pub fn disable(units: &[String]) {
    let _ = all(&["disable", "--quiet"], units, LONG);
}

/// Asks for a start and does not wait for it.
///
/// # Errors
/// What it complains about.
pub fn start(units: &[String]) -> Result<(), HostError> {
    all(&["start", "--no-block"], units, SHORT)
}

/// Asks for a restart and does not wait for it.
///
/// # Errors
/// What it complains about.
pub fn restart(units: &[String]) -> Result<(), HostError> {
    all(&["restart", "--no-block"], units, SHORT)
}

/// Stops units and waits. One that is gone is no error.
///
/// # Errors
/// What it complains about, such as a unit that does not end.
pub fn stop(units: &[String]) -> Result<(), HostError> {
    let running: Vec<String> = states(units)
        .into_iter()
        .filter(|unit| !["inactive", "failed"].contains(&unit.active.as_str()))
        .map(|unit| unit.name)
        .collect();
    all(&["stop"], &running, LONG)
}

/// Forgets the failures of units.
pub fn reset(units: &[String]) {
    let _ = all(&["reset-failed"], units, SHORT);
}

/// Waits until every unit is active.
///
/// # Errors
/// [`HostError::Start`] with the first that is not and the end of its log, once `deadline` is over, or sooner for one that fails again and
/// again.
pub fn wait_active(units: &[String], deadline: Duration) -> Result<(), HostError> {
    let end = Instant::now() + deadline;
    loop {
        let states = states(units);
        let Some(late) = states.iter().find(|unit| unit.active != "active") else { return Ok(()) };
        if Instant::now() >= end || late.restarts >= HOPELESS {
            let reason = format!(
                "it is {} ({}) after {} restarts{}",
                late.active,
                if late.result.is_empty() || late.result == "success" { &late.sub } else { &late.result },
                late.restarts,
                log_tail(&late.name)
            );
            return Err(HostError::Start { unit: late.name.clone(), reason });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The last lines of a unit's log, for a sentence that ends with them.
#[must_use]
pub fn log_tail(unit: &str) -> String {
    // Of the program itself: systemd's own lines say no more than the condition does.
    let own = format!("_SYSTEMD_UNIT={unit}");
    let said = run("journalctl", &["-q", "--no-pager", "-o", "cat", "-n", "4", &own], SHORT);
    if said.out.trim().is_empty() {
        String::new()
    } else {
        format!("; its log ends:\n{}", said.out.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read() {
        let text = "Id=a.service\nActiveState=active\nSubState=running\nResult=success\nStatusText=leads\nMainPID=7\nNRestarts=2\nUnitFileState=enabled\n\nId=a.socket\nActiveState=failed\n";
        let read = parse(text);
        assert_eq!((read[0].pid, read[0].restarts, read[0].enabled), (7, 2, true));
        assert_eq!((read[0].status.as_str(), read[0].active.as_str()), ("leads", "active"));
        assert_eq!((read[1].name.as_str(), read[1].active.as_str(), read[1].pid), ("a.socket", "failed", 0));
        assert!(parse("").is_empty());
        assert!(runs("plenum-master.service") && !runs("plenum.slice"));
    }
}
