//! Options of `docker run` that tasks give as parameters (`DockerInfo.parameters`), carried out on the engine's API. Pure.
//! The table is all there is: what it does not name is an error with the nearest name.

mod mounts;
mod parse;
mod table;

use crate::body::Draft;
use crate::spec::SpecFault;
use table::{Rule, TABLE};

/// Applies one parameter. An option that may be repeated is added to, any other replaced.
pub fn apply(draft: &mut Draft, name: &str, value: &str) -> Result<(), SpecFault> {
    let plain = name.trim_start_matches('-');
    let Some((_, rule)) = TABLE.iter().find(|(known, _)| *known == plain) else {
        return Err(SpecFault::Unknown { name: name.to_owned(), nearest: nearest(plain) });
    };
    match rule {
        Rule::Set(set) => set(draft, value).map_err(|why| SpecFault::Value { name: name.to_owned(), why }),
        Rule::Refuse(why) => Err(SpecFault::Refused { name: name.to_owned(), why }),
    }
}

/// The names that can be given, in the table's order.
pub fn supported() -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(|(_, rule)| matches!(rule, Rule::Set(_))).map(|(name, _)| *name)
}

fn nearest(name: &str) -> &'static str {
    supported().min_by_key(|known| distance(name, known)).unwrap_or("env")
}

/// Edits (insertions, removals, replacements) between two names.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // Longer names than any option are as far away as each other.
    for (line, c) in from.chars().take(64).enumerate() {
        let mut last = line;
        let mut left = line + 1;
        for (column, d) in to.iter().enumerate() {
            let above = row.get(column + 1).copied().unwrap_or(usize::MAX - 1);
            let here = (last + usize::from(c != *d)).min(left + 1).min(above + 1);
            if let Some(cell) = row.get_mut(column) {
                *cell = left;
            }
            (last, left) = (above, here);
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
