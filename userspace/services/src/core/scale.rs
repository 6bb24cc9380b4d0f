//! How many instances an app should have: by what they use, by what they are asked, by the time of day. Pure functions of a description, of
//! what was measured and of what was found before; [`super::scaling`] asks and carries out.
//!
//! The rules are those people know from Kubernetes' horizontal autoscaler: as many as bring the mean to its target, the highest of several
//! figures, nothing within a tolerance, what is not known counts against a change, and what was found within a window holds fewer or more off.

use plenum_api::Millis;
use serde::Deserialize;

use super::app::App;

/// What an app says about it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// What is measured.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Other limits at times.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
    /// Seconds from one look to the next.
    pub interval_seconds: u32,
    /// A share of the target by which the mean may be off it.
    pub tolerance: f64,
    /// How it grows.
    #[serde(default)]
    pub scale_up: Pace,
    /// How it shrinks.
    #[serde(default = "slowly")]
    pub scale_down: Pace,
}

/// What comes back after a lull is there still.
fn slowly() -> Pace {
    Pace { window_seconds: 300, max_step: None }
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Processor time as a share of what an instance asks for.
    Cpu,
    /// Memory as a share of what an instance asks for.
    Memory,
    /// Requests a second, by a counter of the app's own.
    Requests,
}

/// A figure and where it should be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Of what.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The mean of all instances that is aimed at.
    pub target: f64,
    /// The counter, where it is of the app's own.
    #[serde(default)]
    pub counter: Option<String>,
    /// Where the instance shows it, in the text format of Prometheus.
    #[serde(default)]
    pub path: String,
    /// On which of its ports.
    #[serde(default)]
    pub port_index: usize,
}

/// Limits at a time of some days (UTC).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// When it begins, `HH:MM`.
    pub start: String,
    /// How long it lasts.
    pub minutes: u32,
    /// The days on which it begins; none: all.
    #[serde(default)]
    pub days: Vec<String>,
    /// The fewest meanwhile.
    pub min: u32,
    /// The most meanwhile.
    pub max: u32,
}

/// How a number changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    /// So long it must have been found right.
    pub window_seconds: u32,
    /// By so many at a time.
    #[serde(default)]
    pub max_step: Option<u32>,
}

/// What was measured of one metric.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Of each instance of which it is known.
    pub known: Vec<f64>,
    /// So many others there are.
    pub unknown: u32,
}

/// What a number should be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// So many.
    pub count: u32,
    /// In a sentence.
    pub why: String,
}

/// The days' names, from Monday on.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES_A_DAY: u64 = 24 * 60;

impl Spec {
    /// What an app says, if it says anything.
    pub fn of(app: &App) -> Option<Self> {
        // Bodies were read by a table that knows every field.
        Self::deserialize(app.autoscale.as_deref()?).ok()
    }

    /// How long after a look the next one comes.
    pub fn interval(&self) -> Millis {
        Millis::from_secs(self.interval_seconds.max(1).into())
    }

    /// For so long what was found must be known.
    pub fn longest_window(&self) -> Millis {
        Millis::from_secs(self.scale_up.window_seconds.max(self.scale_down.window_seconds).into())
    }

    /// The fewest and the most at a time of day, and the schedule that says so, if one does: the first one that is on.
    pub fn limits(&self, wall: Millis) -> (u32, u32, Option<&Schedule>) {
        match self.schedules.iter().find(|schedule| schedule.is_on(wall)) {
            Some(on) => (on.min, on.max, Some(on)),
            None => (self.min, self.max, None),
        }
    }

    /// The number at which every mean is on its target; none while nothing is known. `current` instances are wanted now.
    pub fn wish(&self, current: u32, loads: &[Load]) -> Option<Found> {
        let all: Vec<(&Metric, Option<Found>)> = self
            .metrics
            .iter()
            .zip(loads)
            .map(|(metric, load)| (metric, metric.wish(current, load, self.tolerance)))
            .collect();
        let best = all.iter().filter_map(|(_, found)| found.clone()).reduce(|best, other| {
            // Of equal ones the first is as good a reason as any.
            if other.count > best.count { other } else { best }
        })?;
        match all.iter().find(|(_, found)| found.is_none()) {
            // What nobody knows might be high.
            Some((metric, _)) if best.count < current => {
                let why = format!("nothing is known of {}, so none are taken away", metric.kind.name());
                Some(Found { count: current, why })
            }
            _ => Some(best),
        }
    }

    /// The number after everything that holds it off: the windows, the steps, and at last the limits. `past` is what was found before, each
    /// number with its last time; `now` and `since`, since when it was looked, are monotonic.
    pub fn settle(
        &self,
        current: u32,
        found: Found,
        past: &[(Millis, u32)],
        (now, since): (Millis, Millis),
        limits: (u32, u32),
    ) -> Found {
        let (min, max) = limits;
        let held = if found.count > current {
            let window = Millis::from_secs(self.scale_up.window_seconds.into());
            let least = within(past, now, window).min().unwrap_or(found.count).min(found.count);
            self.step_up(current, found, (least, now.since(since) >= window), window)
        } else if found.count < current {
            let window = Millis::from_secs(self.scale_down.window_seconds.into());
            let most = within(past, now, window).max().unwrap_or(found.count).max(found.count);
            self.step_down(current, found, (most, now.since(since) >= window), window)
        } else {
            found
        };
        match held.count {
            count if count < min => Found { count: min, why: limited(&held.why, count, min, "min") },
            count if count > max => Found { count: max, why: limited(&held.why, count, max, "max") },
            _ => held,
        }
    }

    fn step_up(&self, current: u32, found: Found, (least, whole): (u32, bool), window: Millis) -> Found {
        if least <= current || !whole {
            let seconds = window.0 / 1000;
            let why = format!("{}; more only when that has held for {seconds} s", found.why);
            return Found { count: current, why };
        }
        // What grows from a wrong figure should not take the whole cluster.
        let step = self.scale_up.max_step.unwrap_or_else(|| current.max(4));
        stepped(found, least, current.saturating_add(step))
    }

    fn step_down(&self, current: u32, found: Found, (most, whole): (u32, bool), window: Millis) -> Found {
        if most >= current || !whole {
            let seconds = window.0 / 1000;
            let why = format!("{}; fewer only when that has held for {seconds} s", found.why);
            return Found { count: current, why };
        }
        let step = self.scale_down.max_step.unwrap_or(u32::MAX);
        let least = current.saturating_sub(step);
        if most < least {
            let why = format!("{}; by {step} at a time", found.why);
            return Found { count: least, why };
        }
        Found { count: most, ..found }
    }
}

fn stepped(found: Found, wanted: u32, most: u32) -> Found {
    if wanted > most {
        let why = format!("{}; {most} for now, so as not to grow too fast", found.why);
        return Found { count: most, why };
    }
    Found { count: wanted, ..found }
}

fn limited(why: &str, count: u32, limit: u32, name: &str) -> String {
    format!("{why}; {count} is beyond the limit ({name} {limit})")
}

fn within(past: &[(Millis, u32)], now: Millis, window: Millis) -> impl Iterator<Item = u32> {
    past.iter().filter(move |(at, _)| now.since(*at) <= window).map(|(_, count)| *count)
}

impl Metric {
    /// Where its counter is.
    pub fn place(&self) -> (Option<String>, String, usize) {
        (self.counter.clone(), self.path.clone(), self.port_index)
    }

    /// How many bring its mean to the target; none while it is not known of any.
    fn wish(&self, current: u32, load: &Load, tolerance: f64) -> Option<Found> {
        let known = load.known.len();
        if known == 0 || current == 0 {
            return None;
        }
        let sum: f64 = load.known.iter().sum();
        let mean = sum / known as f64;
        let said = format!(
            "{} is {} on the mean of {known}, the target is {}",
            self.kind.name(),
            self.kind.figure(mean),
            self.kind.figure(self.target)
        );
        let stay = || Some(Found { count: current, why: said.clone() });
        let near = |ratio: f64| (ratio - 1.0).abs() <= tolerance;
        let ratio = mean / self.target;
        if !ratio.is_finite() || near(ratio) {
            return stay();
        }
        // Those of which nothing is known are taken for such that speak against a change.
        let (silent, all) = (f64::from(load.unknown), known as f64 + f64::from(load.unknown));
        let total = if ratio < 1.0 { sum + silent * self.target } else { sum };
        let cautious = total / (all * self.target);
        if near(cautious) || (cautious < 1.0) != (ratio < 1.0) {
            return stay();
        }
        // A hair above a whole number is rounding, not load.
        let count = (total / self.target - 1e-9).ceil().clamp(0.0, 1e9) as u32;
        Some(Found { count, why: said })
    }
}

impl Kind {
    /// In a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Requests => "requests",
        }
    }

    /// A value of it for people.
    pub fn figure(self, value: f64) -> String {
        match self {
            Self::Cpu | Self::Memory => format!("{:.0} %", value * 100.0),
            Self::Requests => format!("{value:.1}/s"),
        }
    }
}

impl Schedule {
    /// The minute of the day on which it begins; none if it is none.
    pub fn minute(&self) -> Option<u32> {
        let (hours, minutes) = self.start.split_once(':')?;
        let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let two = |text: &str| digits(text).then(|| text.parse::<u32>().ok())?;
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        (hours < 24 && minutes < 60).then(|| hours * 60 + minutes)
    }

    fn is_on(&self, wall: Millis) -> bool {
        let Some(start) = self.minute() else { return false };
        let minute = wall.0 / 60_000;
        let (day, minute) = (minute / MINUTES_A_DAY, minute % MINUTES_A_DAY);
        let (start, long) = (u64::from(start), u64::from(self.minutes));
        let today = self.has(day) && minute >= start && minute - start < long;
        let yesterday = day > 0 && self.has(day - 1) && minute + MINUTES_A_DAY - start < long;
        today || yesterday
    }

    /// Whether it begins on that day after 1970-01-01, which was a Thursday.
    fn has(&self, day: u64) -> bool {
        let name = DAYS.get(usize::try_from((day + 3) % 7).unwrap_or(0));
        self.days.is_empty() || self.days.iter().any(|day| name == Some(&day.as_str()))
    }
}

#[cfg(test)]
mod tests;
