//! Scalar quantities in fixed point.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};

/// A scalar in thousandths, the precision Mesos keeps. Arithmetic saturates; subtraction may go below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// From thousandths.
    pub const fn from_thousandths(thousandths: i64) -> Self {
        Self(thousandths)
    }

    /// From whole units.
    pub const fn from_units(units: i64) -> Self {
        Self(units.saturating_mul(1000))
    }

    /// The nearest thousandth, halves away from zero; not-a-number becomes zero, too large saturates.
    pub fn from_f64(value: f64) -> Self {
        Self((value * 1000.0).round() as i64)
    }

    /// Thousandths.
    pub const fn thousandths(self) -> i64 {
        self.0
    }

    /// The number for the wire: the one nearest to the three decimals, so that 26.827 prints as 26.827.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// True for zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The difference, not below zero.
    pub fn less(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0).max(0))
    }
}

impl Add for Amount {
    type Output = Amount;
    fn add(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }
}

impl Sub for Amount {
    type Output = Amount;
    fn sub(self, other: Amount) -> Amount {
        Amount(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        *self = *self + other;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, other: Amount) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Amount>>(items: I) -> Amount {
        items.fold(Amount::ZERO, Add::add)
    }
}

/// At most three decimals, without trailing zeros.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let wide = self.0.unsigned_abs();
        let (units, rest) = (wide / 1000, wide % 1000);
        match rest {
            0 => write!(f, "{sign}{units}"),
            r if r % 100 == 0 => write!(f, "{sign}{units}.{}", r / 100),
            r if r % 10 == 0 => write!(f, "{sign}{units}.{:02}", r / 10),
            r => write!(f, "{sign}{units}.{r:03}"),
        }
    }
}
