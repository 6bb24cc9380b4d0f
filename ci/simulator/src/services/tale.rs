//! What is told of a world: nothing, everything, or the end of it and a fingerprint of the whole.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash};

/// So many of the last things that happened are shown with what broke.
const LAST: usize = 25;

/// What becomes of what is told.
#[derive(Default)]
pub enum Tale {
    /// Nobody listens.
    #[default]
    Untold,
    /// It is printed.
    Printed,
    /// The last of it is kept, and a fingerprint of all.
    Kept(RefCell<Kept>),
}

/// What is kept.
#[derive(Default)]
pub struct Kept {
    hash: DefaultHasher,
    last: VecDeque<String>,
}

impl Tale {
    /// One of which the end is kept.
    pub fn kept() -> Self {
        Self::Kept(RefCell::default())
    }

    /// Tells something that happened after so many milliseconds.
    pub fn tell(&self, now: u64, text: impl FnOnce() -> String) {
        let line = || format!("{:>9.3} {}", now as f64 / 1000.0, text());
        match self {
            Self::Untold => {}
            Self::Printed => println!("{}", line()),
            Self::Kept(kept) => {
                let (line, mut kept) = (line(), kept.borrow_mut());
                line.hash(&mut kept.hash);
                if kept.last.len() == LAST {
                    kept.last.pop_front();
                }
                kept.last.push_back(line);
            }
        }
    }

    /// The fingerprint of all that was told.
    #[cfg(test)]
    pub fn fingerprint(&self) -> u64 {
        use std::hash::Hasher;
        match self {
            Self::Kept(kept) => kept.borrow().hash.finish(),
            _ => 0,
        }
    }

    /// The end of it.
    pub fn last(&self) -> Vec<String> {
        match self {
            Self::Kept(kept) => kept.borrow().last.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }
}
