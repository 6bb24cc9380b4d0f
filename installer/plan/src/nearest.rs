//! The right word for a wrong one.

/// The candidate that differs least from `word`, if it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    let allowed = match word.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    let far = |candidate: &&str| distance(&word, &plain(candidate));
    let best = candidates.into_iter().min_by_key(far)?;
    let contains = word.len() >= 4 && (plain(best).contains(&word) || word.contains(&plain(best)));
    (far(&best) <= allowed || contains).then_some(best)
}

/// Case and the kind of dash are never what was meant to differ.
fn plain(word: &str) -> String {
    word.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other.
fn distance(one: &str, other: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && b[j - 1] == *x {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_was_meant_is_found() {
        let keys = ["address", "roles", "name", "region", "known_hosts", "sudo_password"];
        for (typed, meant) in [
            ("adress", Some("address")),
            ("role", Some("roles")),
            ("Nmae", Some("name")),
            ("known-hosts", Some("known_hosts")),
            ("knownhosts", Some("known_hosts")),
            ("sudo_pass", Some("sudo_password")),
            ("entirely", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, keys), meant, "{typed}");
        }
    }
}
