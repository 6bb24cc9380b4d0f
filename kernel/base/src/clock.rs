//! The operating system's time and randomness, in the form cores take them (`docs/adr/0002`).

use std::time::{SystemTime, UNIX_EPOCH};

use plenum_api::{IdSource, Millis, Now};

/// Reads the clocks of this machine. `mono` is CLOCK_BOOTTIME: it also counts suspended time, so that deadlines pass on a laptop that slept.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsClock;

impl OsClock {
    /// The time now.
    #[must_use]
    pub fn now(self) -> Now {
        Now { mono: Millis(boot_millis()), wall: Millis(wall_millis()) }
    }
}

/// Milliseconds since the epoch; 0 on a machine whose clock stands before it.
#[must_use]
pub fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn boot_millis() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // CLOCK_BOOTTIME exists on every Linux since 2.6.39; the call cannot fail with a valid clock id.
    let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// Version 4 UUIDs from the operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsIds;

impl IdSource for OsIds {
    fn uuid(&mut self) -> [u8; 16] {
        uuid::Uuid::new_v4().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_ids_differ() {
        let (a, b) = (OsClock.now(), OsClock.now());
        assert!(b.mono.0 >= a.mono.0 && a.mono.0 > 0);
        assert!(a.wall.0 > 1_600_000_000_000);
        let (x, y) = (OsIds.uuid(), OsIds.uuid());
        assert_ne!(x, y);
        assert_eq!(x[6] >> 4, 4, "version 4");
    }
}
