//! The one source of chance of a world.

use plenum_api::IdSource;
use plenum_api::ids::SeededIds;

/// Chance that a seed determines.
pub struct Random(SeededIds);

impl Random {
    /// Chance from a seed.
    pub fn new(seed: u64) -> Self {
        Self(SeededIds::new(seed))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        let bytes = self.0.uuid();
        // The version and variant bits of a UUID are fixed; these eight bytes have none of them.
        u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[10], bytes[11], bytes[12], bytes[13],
        ])
    }

    /// A number of `low..high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.any() % high.saturating_sub(low).max(1)
    }

    /// True in `per_thousand` of a thousand cases.
    pub fn chance(&mut self, per_thousand: u64) -> bool {
        self.between(0, 1000) < per_thousand
    }

    /// A delay in milliseconds: mostly short, seldom long.
    pub fn delay(&mut self) -> u64 {
        match self.between(0, 100) {
            0..80 => self.between(1, 10),
            80..97 => self.between(10, 300),
            _ => self.between(300, 5_000),
        }
    }
}

impl IdSource for Random {
    fn uuid(&mut self) -> [u8; 16] {
        self.0.uuid()
    }
}
