//! How long etcd's disk takes: read out of its metrics (Prometheus' text form). Pure.

/// A histogram's cumulative counts: upper bound in seconds, and how many were at most that long.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

/// The time that a write to the log needs to be on disk.
pub(crate) const FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";

impl Histogram {
    /// Reads the histogram `name`; empty when there is none.
    pub(crate) fn read(text: &str, name: &str) -> Self {
        let line = |line: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix("_bucket{")?;
            let (labels, count) = rest.rsplit_once("} ")?;
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The bound below which this share of what came since `before` was; `None` when nothing came.
    pub(crate) fn quantile_since(&self, before: &Self, share: f64) -> Option<f64> {
        let old = |bound: f64| before.0.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        let new: Vec<(f64, f64)> =
            self.0.iter().map(|(bound, count)| (*bound, count - old(*bound))).collect();
        let total = new.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        new.iter().find(|(_, count)| *count >= total * share).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_part_of_a_histogram_is_looked_at() {
        let text = |a: u32, b: u32, c: u32| {
            format!(
                "# TYPE {FSYNC} histogram\n{FSYNC}_bucket{{le=\"0.001\"}} {a}\n{FSYNC}_bucket{{le=\"0.128\"}} {b}\n\
                 {FSYNC}_bucket{{le=\"+Inf\"}} {c}\n{FSYNC}_sum 1.5\nother_bucket{{le=\"1\"}} 9\n"
            )
        };
        let first = Histogram::read(&text(100, 100, 100), FSYNC);
        let none = Histogram::default();
        assert_eq!(first.quantile_since(&none, 0.99), Some(0.001));
        assert_eq!(first.quantile_since(&first, 0.99), None);
        let second = Histogram::read(&text(100, 110, 110), FSYNC);
        assert_eq!(second.quantile_since(&first, 0.99), Some(0.128));
        let third = Histogram::read(&text(100, 110, 120), FSYNC);
        assert_eq!(third.quantile_since(&second, 0.5), Some(f64::INFINITY));
        assert_eq!(Histogram::read("nothing\n_bucket{\n", FSYNC), none);
    }
}
