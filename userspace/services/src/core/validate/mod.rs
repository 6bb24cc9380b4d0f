//! Judges a definition that could be read. Each flaw carries Marathon's path and wording; what this release has no room for is said in
//! [`gates`], so that it is in one place.

mod autoscale;
mod checks;
mod container;
mod gates;
mod network;
mod pod;
mod process;
mod resident;
mod scheduling;
#[cfg(test)]
mod tests;
mod volumes;

pub use pod::pod;
pub use resident::changes;

use super::app::App;
use super::error::Flaw;

/// The largest definition that is kept, as JSON, in bytes: about as much as fitted a node of ZooKeeper.
pub const MOST_BYTES: usize = 1024 * 1024;

/// Everything that is wrong with `app`.
pub fn validate(app: &App) -> Vec<Flaw> {
    let mut flaws = rules(app);
    if flaws.is_empty() {
        gates::gates(app, &mut flaws);
    }
    flaws.0
}

/// What Marathon would refuse.
fn rules(app: &App) -> Flaws {
    let mut flaws = Flaws(Vec::new());
    process::process(app, &mut flaws);
    process::environment(app, &mut flaws);
    container::container(app, &mut flaws);
    volumes::volumes(app, &mut flaws);
    network::networks(app, &mut flaws);
    network::ports(app, &mut flaws);
    checks::health(app, &mut flaws);
    checks::check(app, &mut flaws);
    checks::readiness(app, &mut flaws);
    scheduling::scheduling(app, &mut flaws);
    resident::resident(app, &mut flaws);
    autoscale::autoscale(app, &mut flaws);
    flaws
}

/// What was found.
struct Flaws(Vec<Flaw>);

impl Flaws {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of very many the first hundred are enough.
    fn add(&mut self, path: impl Into<String>, error: impl Into<String>) {
        if self.0.len() < 100 {
            self.0.push(Flaw::new(path, error));
        }
    }

    fn unless(&mut self, good: bool, path: &str, error: &str) {
        if !good {
            self.add(path, error);
        }
    }
}

/// A number as Marathon writes it into sentences.
fn decimal(n: f64) -> String {
    if n.fract() == 0.0 { format!("{n:.1}") } else { n.to_string() }
}

/// Whether no two are the same.
fn unique<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}

/// Whether a text has the syntax of a URI: no characters that it cannot have, and every percent sign begins two hexadecimal digits.
pub(super) fn is_uri(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |n: usize| bytes.get(n).is_some_and(u8::is_ascii_hexdigit);
    let fits = |(n, byte): (usize, &u8)| match byte {
        b'%' => hex(n.saturating_add(1)) && hex(n.saturating_add(2)),
        b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f => false,
        byte => *byte > b' ',
    };
    !text.is_empty() && !text.starts_with(':') && bytes.iter().enumerate().all(fits)
}
