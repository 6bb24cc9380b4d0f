//! Waiting for a deployment, with progress: instances healthy of instances wanted, and what holds it up.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::api::Session;
use crate::api::apps::{App, Task};
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::text::clean;

/// How often the cluster is asked.
const PERIOD: Duration = Duration::from_millis(500);
/// After so long without progress the reason is asked for.
const PATIENCE: Duration = Duration::from_secs(4);

/// Whether to wait for a change to come about.
#[derive(Args, Debug, Clone)]
pub struct Waiting {
    /// Wait until the change has come about (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return once the change is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// Give up waiting after so many seconds; the change goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub timeout: u64,
}

impl Waiting {
    fn deadline(&self) -> Instant {
        // A year stands for ever; more would not fit a clock.
        Instant::now() + Duration::from_secs(self.timeout.min(365 * 24 * 3600))
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Everything runs as wanted.
    Running,
    /// The app is gone, by a deployment of its own.
    Gone,
    /// The app is gone, whoever removes it and however.
    Uninstalled,
}

/// What one look at an app says.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It has come about; a sentence for people.
    Done(String),
    /// Not yet; a line of progress.
    Busy(String),
}

/// Waits until an app is as wanted, or gone, and tells the outcome; with `--no-wait` says how to follow.
pub(crate) async fn until(
    session: &Session,
    id: &str,
    goal: Goal,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<String> {
    let id = format!("/{}", id.trim_matches('/'));
    if waiting.no_wait {
        return Ok(format!("accepted; follow it with `plenum app show {id} --watch`\n"));
    }
    let deadline = waiting.deadline();
    let (mut last, mut moved, mut blocker) = (String::new(), Instant::now(), None);
    let mut instances = Instances::default();
    loop {
        let app = match session.app(&id).await {
            Ok(app) => Some(app),
            Err(error) if error.status() == Some(404) => None,
            // Components restart; what was accepted goes on meanwhile.
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                screen.progress("the cluster does not answer; trying again")?;
                sleep(PERIOD).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        for change in app.iter().flat_map(|app| instances.changes(app)) {
            screen.note(&change)?;
        }
        let line = match look(&id, app.as_ref(), goal)? {
            Seen::Done(text) => return Ok(text),
            Seen::Busy(line) => line,
        };
        if line != last {
            (last, moved, blocker) = (line, Instant::now(), None);
        } else if goal == Goal::Running && moved.elapsed() > PATIENCE {
            moved = Instant::now();
            blocker = session.why(&id).await.ok().and_then(|why| why.blocker).map(|text| clean(&text));
        }
        if Instant::now() >= deadline && goal == Goal::Running && blocker.is_none() {
            blocker = session.why(&id).await.ok().and_then(|why| why.blocker).map(|text| clean(&text));
        }
        let shown = blocker.as_ref().map_or_else(|| last.clone(), |blocker| format!("{last}: {blocker}"));
        if Instant::now() >= deadline {
            return Err(CliError::Unfinished(format!(
                "{shown}, after {} s of waiting; the change goes on. See `plenum app why {id}` and `plenum app logs {id}`",
                waiting.timeout
            )));
        }
        screen.progress(&shown)?;
        sleep(PERIOD).await;
    }
}

/// Of so many instances each is followed; of more only the count.
const FOLLOWED: usize = 50;

/// The instances of an app as they were seen last.
#[derive(Debug, Default)]
struct Instances {
    known: Option<BTreeMap<String, String>>,
}

impl Instances {
    /// What became of each since the last look, a line for each. At the first look only what is on its way is told.
    fn changes(&mut self, app: &App) -> Vec<String> {
        if app.tasks.len() > FOLLOWED {
            return Vec::new();
        }
        let state = |task: &Task| {
            let word = task.state.strip_prefix("TASK_").unwrap_or(&task.state).to_lowercase();
            match task.health_check_results.iter().map(|check| check.alive).reduce(|a, b| a && b) {
                Some(true) if word == "running" => "healthy".to_owned(),
                Some(false) if word == "running" => "not healthy".to_owned(),
                _ => word,
            }
        };
        let now: BTreeMap<String, String> =
            app.tasks.iter().map(|task| (task.id.clone(), state(task))).collect();
        let first = self.known.is_none();
        let before = self.known.replace(now.clone()).unwrap_or_default();
        let mut lines = Vec::new();
        for task in &app.tasks {
            let (was, is) = (before.get(&task.id), &now[&task.id]);
            let news = if first { task.version == app.version } else { was != Some(is) };
            if news {
                lines.push(format!("  {} on {}: {}", short(&task.id), clean(&task.host), clean(is)));
            }
        }
        let gone = before.keys().filter(|id| !now.contains_key(*id));
        lines.extend(gone.map(|id| format!("  {}: ended", short(id))));
        lines
    }
}

/// An instance as people speak of it.
fn short(task: &str) -> String {
    clean(task.split("._app").next().unwrap_or(task))
}

/// Waits until a pod is as wanted.
pub(crate) async fn pod(
    session: &Session,
    id: &str,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<String> {
    if waiting.no_wait {
        return Ok(format!("accepted; follow it with `plenum pod show {id} --watch`\n"));
    }
    let deadline = waiting.deadline();
    loop {
        let status = match session.pod_status(id).await {
            Ok(status) => status,
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                screen.progress("the cluster does not answer; trying again")?;
                sleep(PERIOD).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let busy = session.deployments().await?.iter().any(|one| one.changes(id));
        let count = |state: &str| {
            let all = status["instances"].as_array().into_iter().flatten();
            all.filter(|one| one["status"] == state).count()
        };
        let wanted =
            status.pointer("/spec/scaling/instances").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let line = format!("{id}: {} of {wanted} instances stable", count("STABLE"));
        if !busy && status["status"] == "STABLE" {
            return Ok(format!("{line}\n"));
        }
        if Instant::now() >= deadline {
            let why = session.why(id).await.ok().and_then(|why| why.blocker).map(|text| clean(&text));
            return Err(CliError::Unfinished(format!(
                "{line}{}, after {} s of waiting; the change goes on. See `plenum pod show {id}`",
                why.map(|why| format!(": {why}")).unwrap_or_default(),
                waiting.timeout
            )));
        }
        screen.progress(&line)?;
        sleep(PERIOD).await;
    }
}

/// What an app says about a goal.
fn look(id: &str, app: Option<&App>, goal: Goal) -> Result<Seen> {
    let Some(app) = app else {
        return match goal {
            Goal::Gone | Goal::Uninstalled => Ok(Seen::Done(format!("{id} is removed\n"))),
            Goal::Running => Err(CliError::Unfinished(format!("{id} was removed by somebody else"))),
        };
    };
    let (good, all) = (app.good(), app.instances);
    let word = if app.health_checks.is_empty() { "running" } else { "healthy" };
    match goal {
        Goal::Gone if app.deployments.is_empty() => Err(CliError::Unfinished(format!(
            "the removal of {id} was cancelled: no deployment is under way; repeat it with `plenum app remove {id}`"
        ))),
        Goal::Gone | Goal::Uninstalled => {
            let left = app.tasks_running.saturating_add(app.tasks_staged);
            Ok(Seen::Busy(format!("{id}: {left} instances to end")))
        }
        Goal::Running if app.settled() => Ok(Seen::Done(format!("{id}: {good} of {all} instances {word}\n"))),
        Goal::Running => {
            let failure = failed(app).map(|text| format!("; {text}")).unwrap_or_default();
            Ok(Seen::Busy(format!("{id}: {good} of {all} instances {word}{failure}")))
        }
    }
}

/// How an instance of the app's present version failed, if one did. Moments of one form compare as texts.
fn failed(app: &App) -> Option<String> {
    let failure = app.last_task_failure.as_ref().filter(|failure| failure.timestamp >= app.version)?;
    let on = if failure.host.is_empty() { String::new() } else { format!(" on {}", clean(&failure.host)) };
    Some(format!("the last one failed{on}: {}", clean(&failure.message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(value: serde_json::Value) -> App {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_instance_is_followed() {
        let task = |id: &str, state: &str, version: &str, alive: Option<bool>| {
            let checks: Vec<_> = alive.iter().map(|alive| json!({"alive": alive})).collect();
            json!({"id": format!("web.instance-{id}._app.1"), "host": "n1", "state": state, "version": version, "healthCheckResults": checks})
        };
        let look = |tasks: Vec<serde_json::Value>| {
            app(json!({"id": "/web", "instances": 2, "version": "v2", "tasks": tasks}))
        };
        let mut seen = Instances::default();
        let old = || task("a", "TASK_RUNNING", "v1", Some(true));
        assert_eq!(
            seen.changes(&look(vec![old()])),
            Vec::<String>::new(),
            "what was there before is no news"
        );
        let new = |state, alive| task("b", state, "v2", alive);
        assert_eq!(
            seen.changes(&look(vec![old(), new("TASK_STAGING", None)])),
            ["  web.instance-b on n1: staging"]
        );
        assert_eq!(seen.changes(&look(vec![old(), new("TASK_STAGING", None)])), Vec::<String>::new());
        assert_eq!(
            seen.changes(&look(vec![old(), new("TASK_RUNNING", None)])),
            ["  web.instance-b on n1: running"]
        );
        assert_eq!(
            seen.changes(&look(vec![new("TASK_RUNNING", Some(true))])),
            ["  web.instance-b on n1: healthy", "  web.instance-a: ended"]
        );
        let mut late = Instances::default();
        assert_eq!(late.changes(&look(vec![new("TASK_STAGING", None)])), ["  web.instance-b on n1: staging"]);
    }

    #[test]
    fn looks_tell_how_far_it_is() {
        let busy = app(
            json!({"id": "/a", "instances": 3, "tasksRunning": 3, "tasksHealthy": 1, "healthChecks": [{}], "deployments": [{"id": "D"}]}),
        );
        assert_eq!(
            look("/a", Some(&busy), Goal::Running).unwrap(),
            Seen::Busy("/a: 1 of 3 instances healthy".into())
        );
        assert_eq!(look("/a", Some(&busy), Goal::Gone).unwrap(), Seen::Busy("/a: 3 instances to end".into()));
        let mut sick = json!({"id": "/a", "instances": 1, "version": "2026-01-02T00:00:00.000Z",
            "lastTaskFailure": {"host": "n1", "message": "exited with 3", "timestamp": "2026-01-02T00:00:01.000Z"}});
        let text = "/a: 0 of 1 instances running; the last one failed on n1: exited with 3";
        assert_eq!(look("/a", Some(&app(sick.clone())), Goal::Running).unwrap(), Seen::Busy(text.into()));
        sick["version"] = json!("2026-01-03T00:00:00.000Z");
        let text = "/a: 0 of 1 instances running";
        assert_eq!(
            look("/a", Some(&app(sick)), Goal::Running).unwrap(),
            Seen::Busy(text.into()),
            "an older version's"
        );
        let done = app(json!({"id": "/a", "instances": 2, "tasksRunning": 2, "deployments": null}));
        assert_eq!(
            look("/a", Some(&done), Goal::Running).unwrap(),
            Seen::Done("/a: 2 of 2 instances running\n".into())
        );
        assert!(matches!(look("/a", Some(&done), Goal::Gone), Err(CliError::Unfinished(_))));
        assert!(matches!(look("/a", Some(&done), Goal::Uninstalled), Ok(Seen::Busy(_))));
        assert_eq!(look("/a", None, Goal::Gone).unwrap(), Seen::Done("/a is removed\n".into()));
        assert!(matches!(look("/a", None, Goal::Running), Err(CliError::Unfinished(_))));
    }
}
