//! Health checks and checks of command tasks, as Mesos' checker libraries behave: delay, interval, timeout, grace, consecutive failures.

use plenum_api::Millis;
use plenum_api::mesos::check_info::Type as CheckType;
use plenum_api::mesos::health_check::Type as HealthType;
use plenum_api::mesos::network_info::Protocol;
use plenum_api::mesos::{CheckInfo, CheckStatusInfo, HealthCheck, check_status_info};

use super::event::{Probe, ProbeOutcome};

/// No check runs more often than this (milliseconds): an interval of zero must not make a loop.
const MIN_INTERVAL: f64 = 0.1;
/// No check waits longer for its answer than this (seconds).
const MAX_SECONDS: f64 = 86_400.0;

/// One running check.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    plan: Plan,
    /// Which run; answers to older ones are dropped.
    pub generation: u64,
    /// When the next run starts; `None` while one is under way.
    pub next: Option<Millis>,
    /// When an answer is overdue, whatever the shell does.
    pub overdue: Option<Millis>,
    verdict: Judge,
}

#[derive(Debug, Clone)]
struct Plan {
    probe: Probe,
    interval: Millis,
    timeout: Millis,
}

#[derive(Debug, Clone)]
enum Judge {
    Health { max_failures: u32, grace_until: Millis, failures: u32, initializing: bool, statuses: Vec<u32> },
    Generic { kind: CheckType, last: Option<CheckStatusInfo> },
}

/// What a result means for the task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// Nothing to say.
    Nothing,
    /// Say so.
    Healthy,
    /// Say so, and perhaps kill.
    Unhealthy {
        /// The limit of consecutive failures is reached.
        kill: bool,
    },
    /// The check's result changed.
    Changed(CheckStatusInfo),
}

impl Checker {
    /// The health check of a task that started at `now`; an error says what is wrong with the definition.
    pub fn health(check: &HealthCheck, now: Millis) -> Result<Self, String> {
        let delay = millis(check.delay_seconds());
        let judge = Judge::Health {
            max_failures: check.consecutive_failures().max(1),
            grace_until: Millis(now.0.saturating_add(millis(check.grace_period_seconds()).0)),
            failures: 0,
            initializing: true,
            statuses: check.http.as_ref().map(|http| http.statuses.clone()).unwrap_or_default(),
        };
        let plan = Plan {
            probe: health_probe(check)?,
            interval: interval(check.interval_seconds()),
            timeout: timeout(check.timeout_seconds()),
        };
        Ok(Self::new(plan, judge, now, delay))
    }

    /// The generic check of a task that started at `now`.
    pub fn generic(check: &CheckInfo, now: Millis) -> Result<Self, String> {
        let (probe, kind) = generic_probe(check)?;
        let plan = Plan {
            probe,
            interval: interval(check.interval_seconds()),
            timeout: timeout(check.timeout_seconds()),
        };
        let judge = Judge::Generic { kind, last: None };
        Ok(Self::new(plan, judge, now, millis(check.delay_seconds())))
    }

    fn new(plan: Plan, verdict: Judge, now: Millis, delay: Millis) -> Self {
        let next = Some(Millis(now.0.saturating_add(delay.0)));
        Self { plan, generation: 0, next, overdue: None, verdict }
    }

    /// Starts a run.
    pub fn begin(&mut self, now: Millis) -> (u64, Probe, Millis) {
        self.generation += 1;
        self.next = None;
        self.overdue = Some(Millis(now.0.saturating_add(self.plan.timeout.0).saturating_add(5_000)));
        (self.generation, self.plan.probe.clone(), self.plan.timeout)
    }

    /// When something has to be done about it.
    pub fn due(&self) -> Option<Millis> {
        self.next.or(self.overdue)
    }

    /// Judges the answer of the current run and plans the next one.
    pub fn finish(&mut self, outcome: &ProbeOutcome, now: Millis) -> Finding {
        self.next = Some(Millis(now.0.saturating_add(self.plan.interval.0)));
        self.overdue = None;
        match &mut self.verdict {
            Judge::Health { max_failures, grace_until, failures, initializing, statuses } => {
                if healthy(outcome, statuses) {
                    let news = *initializing || *failures > 0;
                    *initializing = false;
                    *failures = 0;
                    return if news { Finding::Healthy } else { Finding::Nothing };
                }
                if *initializing && now <= *grace_until {
                    return Finding::Nothing;
                }
                *failures = failures.saturating_add(1);
                Finding::Unhealthy { kill: *failures >= *max_failures }
            }
            Judge::Generic { kind, last } => {
                let status = check_status(*kind, Some(outcome));
                if last.as_ref() == Some(&status) {
                    return Finding::Nothing;
                }
                *last = Some(status);
                Finding::Changed(status)
            }
        }
    }
}

/// The status of a check that has not run yet: its type, and an empty result.
pub(crate) fn first_check_status(check: &CheckInfo) -> CheckStatusInfo {
    check_status(check.r#type(), None)
}

fn check_status(kind: CheckType, outcome: Option<&ProbeOutcome>) -> CheckStatusInfo {
    let mut status = CheckStatusInfo::default();
    status.set_type(kind);
    match kind {
        CheckType::Command => {
            let exit_code = match outcome {
                Some(ProbeOutcome::Exit(code)) => Some(*code),
                _ => None,
            };
            status.command = Some(check_status_info::Command { exit_code });
        }
        CheckType::Http => {
            let status_code = match outcome {
                Some(ProbeOutcome::Status(code)) => Some(u32::from(*code)),
                _ => None,
            };
            status.http = Some(check_status_info::Http { status_code });
        }
        CheckType::Tcp => {
            let succeeded = match outcome {
                Some(ProbeOutcome::Connected(yes)) => Some(*yes),
                Some(_) => Some(false),
                None => None,
            };
            status.tcp = Some(check_status_info::Tcp { succeeded });
        }
        CheckType::Unknown => {}
    }
    status
}

fn healthy(outcome: &ProbeOutcome, statuses: &[u32]) -> bool {
    match outcome {
        ProbeOutcome::Exit(code) => *code == 0,
        ProbeOutcome::Status(code) if statuses.is_empty() => (200..400).contains(code),
        ProbeOutcome::Status(code) => statuses.contains(&u32::from(*code)),
        ProbeOutcome::Connected(yes) => *yes,
        ProbeOutcome::TimedOut | ProbeOutcome::Error(_) => false,
    }
}

fn health_probe(check: &HealthCheck) -> Result<Probe, String> {
    let kind = match check.r#type() {
        HealthType::Unknown if check.http.is_some() => HealthType::Http,
        HealthType::Unknown if check.command.is_some() => HealthType::Command,
        other => other,
    };
    match kind {
        HealthType::Command => {
            let command = check.command.clone().ok_or("a COMMAND health check needs `command`")?;
            Ok(Probe::Command(Box::new(command)))
        }
        HealthType::Http => {
            let http = check.http.as_ref().ok_or("an HTTP health check needs `http`")?;
            let scheme = http.scheme.clone().unwrap_or_else(|| "http".to_owned());
            if scheme != "http" && scheme != "https" {
                return Err(format!("the health check's scheme '{scheme}' is neither http nor https"));
            }
            let ipv6 = http.protocol() == Protocol::IPv6;
            Ok(Probe::Http { scheme, port: port(http.port)?, path: path(http.path.as_deref()), ipv6 })
        }
        HealthType::Tcp => {
            let tcp = check.tcp.as_ref().ok_or("a TCP health check needs `tcp`")?;
            Ok(Probe::Tcp { port: port(tcp.port)?, ipv6: tcp.protocol() == Protocol::IPv6 })
        }
        HealthType::Unknown => Err("the health check has no type".to_owned()),
    }
}

fn generic_probe(check: &CheckInfo) -> Result<(Probe, CheckType), String> {
    let kind = check.r#type();
    let probe = match kind {
        CheckType::Command => {
            let command = check.command.as_ref().ok_or("a COMMAND check needs `command`")?;
            Probe::Command(Box::new(command.command.clone()))
        }
        CheckType::Http => {
            let http = check.http.as_ref().ok_or("an HTTP check needs `http`")?;
            let (port, path) = (port(http.port)?, path(http.path.as_deref()));
            Probe::Http { scheme: "http".to_owned(), port, path, ipv6: false }
        }
        CheckType::Tcp => {
            let tcp = check.tcp.as_ref().ok_or("a TCP check needs `tcp`")?;
            Probe::Tcp { port: port(tcp.port)?, ipv6: false }
        }
        CheckType::Unknown => return Err("the check has no type".to_owned()),
    };
    Ok((probe, kind))
}

fn port(port: u32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{port} is not a port")),
    }
}

fn path(path: Option<&str>) -> String {
    match path {
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
        None => "/".to_owned(),
    }
}

fn interval(seconds: f64) -> Millis {
    millis(if seconds >= MIN_INTERVAL { seconds } else { MIN_INTERVAL })
}

/// A timeout of zero means none in Mesos; here it is the longest there is.
fn timeout(seconds: f64) -> Millis {
    millis(if seconds > 0.0 { seconds } else { MAX_SECONDS })
}

/// Seconds as milliseconds; nonsense is zero or the most.
pub(crate) fn millis(seconds: f64) -> Millis {
    if seconds.is_nan() || seconds <= 0.0 {
        return Millis(0);
    }
    Millis((seconds.min(MAX_SECONDS * 365.0) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_api::mesos::health_check::{HttpCheckInfo, TcpCheckInfo};

    fn http_check() -> HealthCheck {
        HealthCheck {
            http: Some(HttpCheckInfo { port: 80, ..Default::default() }),
            r#type: Some(HealthType::Http as i32),
            delay_seconds: Some(1.0),
            interval_seconds: Some(2.0),
            grace_period_seconds: Some(5.0),
            consecutive_failures: Some(2),
            ..Default::default()
        }
    }

    #[test]
    fn health_follows_grace_then_counts() {
        let ok = ProbeOutcome::Status(200);
        let bad = ProbeOutcome::Status(500);
        let kill = Finding::Unhealthy { kill: true };
        let unhealthy = Finding::Unhealthy { kill: false };
        // (time, outcome, finding)
        let scripts = [
            vec![
                (1000, &bad, Finding::Nothing),
                (5000, &bad, Finding::Nothing),
                (7000, &bad, unhealthy.clone()),
            ],
            vec![
                (1000, &ok, Finding::Healthy),
                (2000, &ok, Finding::Nothing),
                (3000, &bad, unhealthy.clone()),
            ],
            vec![
                (6000, &bad, unhealthy.clone()),
                (8000, &ok, Finding::Healthy),
                (9000, &bad, unhealthy.clone()),
            ],
            vec![(6000, &bad, unhealthy.clone()), (8000, &bad, kill.clone()), (10_000, &bad, kill)],
        ];
        for script in scripts {
            let mut checker = Checker::health(&http_check(), Millis(0)).unwrap();
            assert_eq!(checker.due(), Some(Millis(1000)));
            for (now, outcome, finding) in script {
                checker.begin(Millis(now));
                assert_eq!(checker.finish(outcome, Millis(now)), finding, "at {now}");
                assert_eq!(checker.due(), Some(Millis(now + 2000)));
            }
        }
    }

    #[test]
    fn outcomes_are_judged() {
        let table = [
            (ProbeOutcome::Exit(0), vec![], true),
            (ProbeOutcome::Exit(1), vec![], false),
            (ProbeOutcome::Status(399), vec![], true),
            (ProbeOutcome::Status(404), vec![], false),
            (ProbeOutcome::Status(404), vec![404], true),
            (ProbeOutcome::Status(200), vec![404], false),
            (ProbeOutcome::Connected(true), vec![], true),
            (ProbeOutcome::Connected(false), vec![], false),
            (ProbeOutcome::TimedOut, vec![], false),
            (ProbeOutcome::Error(String::new()), vec![], false),
        ];
        for (outcome, statuses, expect) in table {
            assert_eq!(healthy(&outcome, &statuses), expect, "{outcome:?}");
        }
    }

    #[test]
    fn bad_definitions_are_refused_in_words() {
        let no_type = HealthCheck::default();
        let tcp = |port| HealthCheck {
            r#type: Some(HealthType::Tcp as i32),
            tcp: Some(TcpCheckInfo { port, ..Default::default() }),
            ..Default::default()
        };
        for check in [no_type, tcp(0), tcp(70_000)] {
            assert!(Checker::health(&check, Millis(0)).is_err(), "{check:?}");
        }
        assert!(Checker::health(&tcp(65_535), Millis(0)).is_ok());
        for seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            let check =
                HealthCheck { interval_seconds: Some(seconds), timeout_seconds: Some(seconds), ..tcp(1) };
            let mut checker = Checker::health(&check, Millis(u64::MAX - 1)).unwrap();
            checker.begin(Millis(u64::MAX - 1));
            assert!(checker.due().is_some());
        }
    }

    #[test]
    fn generic_checks_report_changes_only() {
        let check = CheckInfo {
            r#type: Some(CheckType::Tcp as i32),
            tcp: Some(plenum_api::mesos::check_info::Tcp { port: 5 }),
            ..Default::default()
        };
        let mut checker = Checker::generic(&check, Millis(0)).unwrap();
        let mut seen = Vec::new();
        for outcome in [ProbeOutcome::Connected(true), ProbeOutcome::Connected(true), ProbeOutcome::TimedOut]
        {
            checker.begin(Millis(1));
            seen.push(matches!(checker.finish(&outcome, Millis(1)), Finding::Changed(_)));
        }
        assert_eq!(seen, [true, false, true]);
        assert_eq!(first_check_status(&check).tcp.unwrap().succeeded, None);
    }
}
