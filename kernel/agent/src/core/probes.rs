//! When checks run and what their results do to a task.

use plenum_api::Millis;
use plenum_api::mesos::TaskState;
use plenum_api::mesos::task_status::Reason;

use super::checks::{Checker, Finding};
use super::event::{Check, CheckKind, Effect, ProbeOutcome, TaskKey};
use super::model::{KillCause, Mark, Phase};
use super::status::News;
use super::{Agent, Cx};

impl Agent {
    /// The task runs: its checks begin. Definitions were checked before the launch.
    pub(super) fn start_checks(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if !task.ours() {
            return;
        }
        let now = cx.now.mono;
        let health = task.info.health_check.as_ref().and_then(|check| Checker::health(check, now).ok());
        let generic = task.info.check.as_ref().and_then(|check| Checker::generic(check, now).ok());
        let mut due = Vec::new();
        for (kind, checker) in [(CheckKind::Health, health), (CheckKind::Generic, generic)] {
            if let Some(checker) = checker {
                due.extend(checker.due());
                task.checks.insert(kind, checker);
            }
        }
        for at in due {
            self.mark(at, Mark::Task(key.clone()));
        }
    }

    /// Starts the checks whose time has come, and gives up answers that never came.
    pub(super) fn checks_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        for kind in [CheckKind::Health, CheckKind::Generic] {
            let Some(task) = self.tasks.get_mut(key) else { return };
            let container = task.container.clone();
            let Some(checker) = task.checks.get_mut(&kind) else { continue };
            if checker.due().is_none_or(|at| at > now) {
                continue;
            }
            if checker.overdue.is_some() {
                let generation = checker.generation;
                self.check_done(key, kind, generation, &ProbeOutcome::TimedOut, cx);
                continue;
            }
            let (generation, probe, timeout) = checker.begin(now);
            let due = checker.due();
            let check = Check { task: key.clone(), kind, generation, container, probe, timeout };
            cx.out.push(Effect::Check(Box::new(check)));
            self.mark_check(key, due);
        }
    }

    fn mark_check(&mut self, key: &TaskKey, due: Option<Millis>) {
        if let Some(at) = due {
            self.mark(at, Mark::Task(key.clone()));
        }
    }

    pub(super) fn check_done(
        &mut self,
        key: &TaskKey,
        kind: CheckKind,
        generation: u64,
        outcome: &ProbeOutcome,
        cx: &mut Cx<'_>,
    ) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.phase != Phase::Running || task.kill.is_some() {
            return;
        }
        let Some(checker) = task.checks.get_mut(&kind) else { return };
        if checker.generation != generation || checker.overdue.is_none() {
            return;
        }
        let finding = checker.finish(outcome, cx.now.mono);
        let due = checker.due();
        self.mark_check(key, due);
        let health = News::executor(TaskState::TaskRunning).reason(Reason::TaskHealthCheckStatusUpdated);
        match finding {
            Finding::Nothing => {}
            Finding::Healthy => self.say(key, News { healthy: Some(true), ..health }, cx),
            Finding::Unhealthy { kill } => {
                let words = words(outcome);
                self.say(key, News { healthy: Some(false), ..health.message(words) }, cx);
                if kill {
                    self.kill_task(key, None, KillCause::Health, cx);
                }
            }
            Finding::Changed(result) => {
                let news = News::executor(TaskState::TaskRunning).reason(Reason::TaskCheckStatusUpdated);
                let mut status = self.make_status(key, news, cx);
                status.check_status = Some(result);
                self.forward(key, status, cx);
            }
        }
    }
}

/// Why a health check failed, for people.
fn words(outcome: &ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Exit(code) => format!("Health check command exited with status {code}"),
        ProbeOutcome::Status(code) => format!("Health check was answered with HTTP status {code}"),
        ProbeOutcome::Connected(_) => "Health check could not connect".to_owned(),
        ProbeOutcome::TimedOut => "Health check timed out".to_owned(),
        ProbeOutcome::Error(error) => format!("Health check failed: {error}"),
    }
}
