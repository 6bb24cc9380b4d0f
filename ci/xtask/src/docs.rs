//! The map stays true: `ARCHITECTURE.md` names each crate's folder, and no folder that is not there.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::metadata;

/// Folder names such as `kernel/api` between back quotes.
fn named(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            let mut parts = word.split('/');
            let shelf = matches!(parts.next(), Some("kernel" | "userspace" | "installer" | "ci"));
            let room = parts.next().is_some_and(|room| !room.is_empty() && !room.contains([' ', '*']));
            shelf && room && parts.next().is_none()
        })
        .map(str::to_owned)
        .collect()
}

/// Fails where the map and the territory differ.
pub fn check() -> Result<()> {
    let root = metadata::root();
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let named = named(&text);
    let crates: BTreeSet<String> = metadata::crates()?.into_values().map(|one| one.folder).collect();
    let missing: Vec<_> = crates.difference(&named).collect();
    let gone: Vec<_> = named.iter().filter(|folder| !root.join(folder).exists()).collect();
    if !missing.is_empty() || !gone.is_empty() {
        bail!("ARCHITECTURE.md does not name {missing:?} and names {gone:?}, which do not exist");
    }
    println!("docs: ARCHITECTURE.md names all {} crates", crates.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_rooms_count() {
        let found =
            super::named("`kernel/api` and `kernel` and `ci/up` but not `docs/adr` or `kernel/api/src`");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["ci/up", "kernel/api"]);
    }
}
