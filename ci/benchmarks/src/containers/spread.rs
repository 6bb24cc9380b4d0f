//! Times in the middle and at the end.

use std::time::Duration;

/// Samples of one thing, in the order taken.
#[derive(Debug, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    /// One more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Those of another, too.
    pub fn join(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The sample that `share` of all are not above, in ms; 0 without samples.
    pub fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }

    /// In ms.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut spread = Spread::default();
        assert_eq!(spread.median(), 0.0);
        (1..=200).rev().for_each(|ms| spread.push(Duration::from_millis(ms)));
        assert_eq!(
            (spread.median(), spread.at(0.99), spread.at(1.0), spread.len()),
            (100.0, 198.0, 200.0, 200)
        );
    }
}
