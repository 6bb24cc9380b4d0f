//! `plenum node drain|deactivate|reactivate|gone`: taking nodes out of service, and back.
//!
//! Owns the calls of the operator API, and showing what a drain waits for. Which node is meant is in `node_find`, the list in `node`.

use std::time::Duration;

use clap::Args;
use http::Method;
use http::header::ACCEPT;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::node_find::find;
use super::now;
use crate::Global;
use crate::api::Session;
use crate::api::nodes::Node;
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::text::clean;

/// Shown by `plenum node drain --help`.
pub(crate) const DRAIN: &str = "Examples:\n  plenum node drain n1 --wait\n  plenum node drain n1 --deadline 2h --wait\n  plenum node drain n1 --gone --wait      # it will not come back\n  plenum node drain n1 --cancel           # call it off\n  plenum node reactivate n1               # after maintenance";
/// Shown by `plenum node deactivate --help`.
pub(crate) const DEACTIVATE: &str =
    "Examples:\n  plenum node deactivate n1    # its tasks run on, nothing new is placed there";
/// Shown by `plenum node reactivate --help`.
pub(crate) const REACTIVATE: &str = "Examples:\n  plenum node reactivate n1";
/// Shown by `plenum node gone --help`.
pub(crate) const GONE: &str =
    "Examples:\n  plenum node gone n1 --yes    # a node that burnt down: its tasks are given up at once";

/// How often a node is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// Waiting goes on so long after the deadline: ends have to be written down and told.
const SLACK: Duration = Duration::from_secs(60);
/// Tasks named in one line.
const NAMED: usize = 3;

/// How to drain.
#[derive(Args, Debug)]
pub struct DrainArguments {
    /// The node's name, address or agent id
    name: String,
    /// No task gets more time than this to end; without it each has what its kill policy says
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span)]
    deadline: Duration,
    /// Wait until nothing runs there, and show what it waits for
    #[arg(long)]
    wait: bool,
    /// Once it is empty, give the node up for ever
    #[arg(long)]
    gone: bool,
    /// Call the drain off: nothing more is killed there, and the node takes tasks again
    #[arg(long, conflicts_with_all = ["deadline", "wait", "gone"])]
    cancel: bool,
}

/// A span of time as people write it: `90`, `90s`, `10m`, `2h`, `1d`.
fn span(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || "write a time such as 90s, 10m, 2h or 1d".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    // A month is longer than any drain.
    Ok(Duration::from_secs(count.checked_mul(unit).filter(|s| *s <= 31 * 86_400).ok_or_else(wrong)?))
}

async fn operate(session: &Session, call: &Value) -> Result<()> {
    let call = session.call(Method::POST, "/mesos/api/v1").header(ACCEPT, "application/json").json(call);
    session.send(call).await.map(drop)
}

fn on_agent(kind: &str, id: &str) -> Value {
    json!({"type": kind.to_ascii_uppercase(), kind: {"agent_id": {"value": id}}})
}

pub(crate) async fn drain(
    session: &Session,
    global: &Global,
    arguments: &DrainArguments,
    screen: &mut Screen,
) -> Result<()> {
    let nodes = session.all_nodes().await?;
    let node = find(&nodes, &arguments.name)?;
    if arguments.cancel {
        return cancel(session, global, node, screen).await;
    }
    let (id, name) = (node.id.clone(), clean(node.title()));
    let host = clean(&node.hostname);
    let mut call = on_agent("drain_agent", &id);
    call["drain_agent"]["max_grace_period"] = json!({"seconds": arguments.deadline.as_secs()});
    call["drain_agent"]["mark_gone"] = json!(arguments.gone);
    operate(session, &call).await?;
    if !arguments.wait {
        let sentence =
            format!("{name} is draining; `plenum node drain {name} --wait` shows what it waits for");
        return screen.outcome(
            global.output,
            &json!({"id": id, "name": name, "hostname": host, "state": "draining"}),
            &sentence,
        );
    }
    let state = until_empty(session, &id, &name, arguments, screen).await?;
    let sentence = match state {
        "gone" => format!("{name} is empty and was given up"),
        _ => format!("{name} is drained; `plenum node reactivate {name}` puts it back into service"),
    };
    let shown = json!({"id": id, "name": name, "hostname": host, "state": state});
    screen.outcome(global.output, &shown, &sentence)
}

/// `drain --cancel`.
async fn cancel(session: &Session, global: &Global, node: &Node, screen: &mut Screen) -> Result<()> {
    let name = clean(node.title());
    match node.state() {
        // What was ordered of a node that is away is not shown: the master knows.
        "draining" | "drained" | "unreachable" | "returning" => {}
        state => {
            return Err(CliError::Usage(format!("{name} is not draining, it is {state}")));
        }
    }
    let mut call = on_agent("reactivate_agent", &node.id);
    call["reactivate_agent"]["cancel_drain"] = json!(true);
    operate(session, &call).await?;
    let sentence = match node.state() {
        "drained" => format!("{name} was drained already and is in service again"),
        _ => format!(
            "the drain of {name} is called off: it is in service again; tasks that were being killed still end"
        ),
    };
    screen.outcome(global.output, &outcome(node, "active"), &sentence)
}

/// What is said of a node to programs.
fn outcome(node: &Node, state: &str) -> Value {
    json!({"id": node.id, "name": clean(node.title()), "hostname": clean(&node.hostname), "state": state})
}

async fn until_empty(
    session: &Session,
    id: &str,
    name: &str,
    arguments: &DrainArguments,
    screen: &mut Screen,
) -> Result<&'static str> {
    let end = Instant::now() + arguments.deadline + SLACK;
    let mut last = String::new();
    loop {
        match session.all_nodes().await {
            Ok(nodes) => match nodes.iter().find(|node| node.id == id) {
                None if arguments.gone => return Ok("gone"),
                None => {
                    return Err(CliError::Unfinished(format!("{name} is no longer known to the cluster")));
                }
                Some(node) => match node.state() {
                    "drained" => return Ok("drained"),
                    "draining" | "unreachable" => last = waits_for(node, now()),
                    state => {
                        return Err(CliError::Unfinished(format!(
                            "somebody else ended the drain: {name} is {state}"
                        )));
                    }
                },
            },
            Err(error) if error.may_pass() => {
                screen.progress("the cluster does not answer; trying again")?;
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= end {
            return Err(CliError::Unfinished(format!(
                "{name} is not empty in time; the drain goes on. It waits for {last}"
            )));
        }
        screen.progress(&format!("{name} waits for {last}"))?;
        sleep(PERIOD).await;
    }
}

/// What a draining node waits for, in words. `now` is the time of day in milliseconds.
fn waits_for(node: &Node, now: i64) -> String {
    if node.is_unreachable() {
        return "the node to come back: it is unreachable (`plenum node gone` gives it up)".to_owned();
    }
    let none = Vec::new();
    let blockers = node.other.get("drain_blockers").and_then(Value::as_array).unwrap_or(&none);
    let text =
        |blocker: &Value, field: &str| clean(blocker.get(field).and_then(Value::as_str).unwrap_or_default());
    let describe = |blocker: &Value| {
        let (task, framework) = (text(blocker, "task_id"), text(blocker, "framework_name"));
        if text(blocker, "waits_for") == "acknowledgement" {
            return format!("{task} ({framework} has not acknowledged its end)");
        }
        let left = blocker.get("killed_by").and_then(Value::as_f64).map(|at| at - now as f64 / 1_000.0);
        let left = left.map(|seconds| format!(", {:.0} s left", seconds.max(0.0))).unwrap_or_default();
        let state = text(blocker, "state").trim_start_matches("TASK_").to_ascii_lowercase();
        format!("{task} ({framework}, {state}{left})")
    };
    let named: Vec<String> = blockers.iter().take(NAMED).map(describe).collect();
    match blockers.len() {
        0 => "the agent to confirm that it is empty".to_owned(),
        1 => format!("1 task: {}", named.join("")),
        all if all > NAMED => format!("{all} tasks: {} and {} more", named.join(", "), all - NAMED),
        all => format!("{all} tasks: {}", named.join(", ")),
    }
}

/// `deactivate` and `reactivate`.
pub(crate) async fn switch(
    session: &Session,
    global: &Global,
    name: &str,
    active: bool,
    screen: &mut Screen,
) -> Result<()> {
    let nodes = session.all_nodes().await?;
    let node = find(&nodes, name)?;
    let name = clean(node.title());
    if active && node.is_draining() {
        return Err(CliError::Usage(format!(
            "{name} is still draining: `plenum node drain {name} --cancel` calls that off, `plenum node drain {name} --wait` waits for the end"
        )));
    }
    let kind = if active { "reactivate_agent" } else { "deactivate_agent" };
    operate(session, &on_agent(kind, &node.id)).await?;
    let (state, sentence) = if active {
        ("active", format!("{name} is in service again"))
    } else {
        ("deactivated", format!("{name} takes nothing new; what runs there runs on"))
    };
    screen.outcome(global.output, &outcome(node, state), &sentence)
}

pub(crate) async fn gone(
    session: &Session,
    global: &Global,
    name: &str,
    yes: bool,
    screen: &mut Screen,
) -> Result<()> {
    let nodes = session.all_nodes().await?;
    let node = find(&nodes, name)?;
    let name = clean(node.title());
    let question = format!("Give {name} ({}) up for ever? Its tasks end now.", clean(&node.id));
    if !yes && !screen.agrees(&question)? {
        return Err(CliError::Usage(format!("{name} was left alone; say --yes to give it up for ever")));
    }
    operate(session, &on_agent("mark_agent_gone", &node.id)).await?;
    let sentence = format!("{name} is gone; it joins again only as a new node");
    screen.outcome(global.output, &outcome(node, "gone"), &sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7_200), ("1d", 86_400)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "m", "1w", "-1", "1.5h", "99999999999999999999", "32d", "1µ"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_drain_waits_for_is_named() {
        let blocker = |task: &str, waits: &str| json!({"task_id": task, "framework_name": "services", "state": "TASK_KILLING", "waits_for": waits, "killed_by": 130.0});
        let node = |blockers: Vec<Value>| -> Node {
            serde_json::from_value(json!({"id": "S1", "hostname": "n1", "drain_blockers": blockers})).unwrap()
        };
        let one = node(vec![blocker("web.1", "end")]);
        assert_eq!(waits_for(&one, 100_000), "1 task: web.1 (services, killing, 30 s left)");
        let two = node(vec![blocker("a", "end"), blocker("b", "acknowledgement")]);
        assert_eq!(
            waits_for(&two, 140_000),
            "2 tasks: a (services, killing, 0 s left), b (services has not acknowledged its end)"
        );
        let many = node((0..5).map(|n| blocker(&n.to_string(), "end")).collect());
        assert!(waits_for(&many, 0).ends_with("and 2 more"));
    }
}
