//! Time as an argument: cores are told what time it is and never ask.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Milliseconds: a moment on some clock, or a span. Arithmetic saturates.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole seconds as milliseconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Seconds with a fraction; negative and not-a-number become zero, too large saturates.
    pub fn from_secs_f64(secs: f64) -> Self {
        // A float to integer cast saturates and maps NaN to zero.
        Self((secs * 1000.0).round() as u64)
    }

    /// Seconds with a fraction, as Mesos writes timestamps.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// As nanoseconds, the unit of Mesos' `TimeInfo` and `DurationInfo`.
    pub fn as_nanos(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX).saturating_mul(1_000_000)
    }

    /// From nanoseconds, rounded down; negative becomes zero.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(u64::try_from(nanos / 1_000_000).unwrap_or(0))
    }

    /// From `self` back to `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Millis) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Millis {
    type Output = Millis;
    fn add(self, other: Millis) -> Millis {
        Millis(self.0.saturating_add(other.0))
    }
}

impl Sub for Millis {
    type Output = Millis;
    fn sub(self, other: Millis) -> Millis {
        self.since(other)
    }
}

impl From<Duration> for Millis {
    fn from(d: Duration) -> Self {
        Self(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(m: Millis) -> Self {
        Duration::from_millis(m.0)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never goes back. Timers use this one.
    pub mono: Millis,
    /// Since the Unix epoch; may jump. Only for what people read.
    pub wall: Millis,
}

impl Now {
    /// Both clocks.
    pub const fn new(mono: Millis, wall: Millis) -> Self {
        Self { mono, wall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Millis(1) - Millis(2), Millis(0));
        assert_eq!(Millis(u64::MAX) + Millis(2), Millis(u64::MAX));
        for (secs, millis) in [(1.5, 1500), (-1.0, 0), (f64::NAN, 0), (f64::INFINITY, u64::MAX)] {
            assert_eq!(Millis::from_secs_f64(secs), Millis(millis));
        }
        assert_eq!(Millis::from_nanos(1_999_999), Millis(1));
        assert_eq!(Millis::from_nanos(-5_000_000), Millis(0));
        assert_eq!(Millis(2).as_nanos(), 2_000_000);
        assert_eq!(Millis(u64::MAX).as_nanos(), i64::MAX);
        assert_eq!(Duration::from(Millis::from_secs(2)), Duration::from_secs(2));
    }
}
