//! What the repositories hold together: which package, which version, in which order. Pure; one index is built from a snapshot
//! of all repositories and then only read.
//!
//! Coordinates (name, version) are the key: of several releases with one version the highest is seen, and a repository hides those
//! after it in the list. Versions are opaque texts; only the release number orders them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::definition::{Images, Package};

/// A repository with what it holds.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its name.
    pub name: String,
    /// Its address.
    pub uri: String,
    /// Its packages, as far as they could be read.
    pub packages: Vec<Arc<Package>>,
}

/// A package and where it comes from.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The package.
    pub package: Arc<Package>,
    /// The repository's address.
    pub source: Arc<str>,
}

/// Packages by name: the newest of the first repository leads.
#[derive(Clone, Debug, Default)]
pub struct Index {
    names: BTreeMap<String, Vec<Entry>>,
}

/// A row of a search.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The package's name.
    pub name: String,
    /// Its newest version.
    pub current_version: String,
    /// Release numbers by version.
    pub versions: BTreeMap<String, u64>,
    /// For people.
    pub description: String,
    /// Whether its app registers a framework.
    pub framework: bool,
    /// Words to be found by.
    pub tags: Vec<String>,
    /// Whether it is shown among the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected: Option<bool>,
    /// Pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
}

impl Index {
    /// Orders what the repositories hold, for a datacenter of this release.
    pub fn build(repositories: &[Repository], release: &str) -> Self {
        let mut names: BTreeMap<String, Vec<(usize, Entry)>> = BTreeMap::new();
        for (rank, repository) in repositories.iter().enumerate() {
            let source: Arc<str> = Arc::from(repository.uri.as_str());
            for package in repository.packages.iter().filter(|package| package.is_visible_to(release)) {
                let entry = Entry { package: package.clone(), source: source.clone() };
                names.entry(package.name.clone()).or_default().push((rank, entry));
            }
        }
        let order = |mut entries: Vec<(usize, Entry)>| {
            entries.sort_by_key(|(rank, entry)| (*rank, std::cmp::Reverse(entry.package.release_version)));
            let mut seen = std::collections::BTreeSet::new();
            entries.retain(|(_, entry)| seen.insert(entry.package.version.clone()));
            entries.into_iter().map(|(_, entry)| entry).collect()
        };
        Self { names: names.into_iter().map(|(name, entries)| (name, order(entries))).collect() }
    }

    /// The versions of a package, the newest first; empty where there is none of the name.
    pub fn versions(&self, name: &str) -> &[Entry] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// One version, or the newest where none is named.
    pub fn find(&self, name: &str, version: Option<&str>) -> Option<&Entry> {
        let versions = self.versions(name);
        match version {
            None => versions.first(),
            Some(version) => versions.iter().find(|entry| entry.package.version == version),
        }
    }

    /// Every package that the words describe, selected ones first. Without `*` the words may stand anywhere, in any case, in
    /// name, description or a tag; with `*` they match one of these as a whole, each `*` standing for anything but a line's end.
    pub fn search(&self, query: Option<&str>) -> Vec<Found> {
        let mut found: Vec<Found> = self
            .names
            .values()
            .filter_map(|entries| Some((entries.first()?, entries)))
            .filter(|(newest, _)| query.is_none_or(|query| describes(query, &newest.package)))
            .map(|(newest, entries)| row(&newest.package, entries))
            .collect();
        found.sort_by(|left, right| {
            let rank = |found: &Found| !found.selected.unwrap_or(false);
            rank(left).cmp(&rank(right)).then_with(|| left.name.cmp(&right.name))
        });
        found
    }
}

fn row(newest: &Package, entries: &[Entry]) -> Found {
    let mut versions = BTreeMap::new();
    for entry in entries {
        let release = versions.entry(entry.package.version.clone()).or_insert(0);
        *release = entry.package.release_version.max(*release);
    }
    Found {
        name: newest.name.clone(),
        current_version: newest.version.clone(),
        versions,
        description: newest.description.clone(),
        framework: newest.framework.unwrap_or(false),
        tags: newest.tags.clone(),
        selected: newest.selected,
        images: newest.resource.as_ref().and_then(|resource| resource.images.clone()),
    }
}

fn describes(query: &str, package: &Package) -> bool {
    let mut texts = [&package.name, &package.description].into_iter().chain(&package.tags);
    if query.contains('*') {
        let parts: Vec<&str> = query.split('*').collect();
        texts.any(|text| wild(&parts, text))
    } else {
        let query = query.to_lowercase();
        texts.any(|text| text.to_lowercase().contains(&query))
    }
}

/// Whether the parts appear in order, the first at the beginning and the last at the end, with no line's end between them.
fn wild(parts: &[&str], text: &str) -> bool {
    let [first, middle @ .., last] = parts else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut gaps = Vec::new();
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        gaps.push(&rest[..at]);
        rest = &rest[at + part.len()..];
    }
    let Some(gap) = rest.strip_suffix(last) else { return false };
    gaps.push(gap);
    !gaps.iter().any(|gap| gap.contains('\n'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, version: &str, release: u64, more: &serde_json::Value) -> Arc<Package> {
        let mut definition = json!({"packagingVersion": "4.0", "name": name, "version": version, "releaseVersion": release,
            "maintainer": "m@example.com", "description": format!("The {name} server"), "tags": ["web"]});
        for (key, value) in more.as_object().unwrap() {
            definition[key] = value.clone();
        }
        Arc::new(Package::read(definition).unwrap())
    }

    fn index() -> Index {
        let first = Repository {
            name: "ours".into(),
            uri: "http://one".into(),
            packages: vec![
                package("hello", "2", 1, &json!({})),
                package("hello", "1", 0, &json!({})),
                package("hello", "2", 3, &json!({"description": "again"})),
                package("hidden", "1", 0, &json!({"minDcosReleaseVersion": "999"})),
            ],
        };
        let second = Repository {
            name: "theirs".into(),
            uri: "http://two".into(),
            packages: vec![
                package("hello", "9", 99, &json!({})),
                package("hello", "1", 5, &json!({})),
                package("alpha", "1", 0, &json!({})),
                package("zeta", "1", 0, &json!({"selected": true})),
            ],
        };
        Index::build(&[first, second], "2.2")
    }

    #[test]
    fn the_first_repository_leads_and_the_highest_release_of_a_version_is_seen() {
        let index = index();
        let order: Vec<_> =
            index.versions("hello").iter().map(|entry| entry.package.version.as_str()).collect();
        assert_eq!(order, ["2", "1", "9"]);
        let newest = index.find("hello", None).unwrap();
        assert_eq!((newest.package.release_version, &*newest.package.description), (3, "again"));
        assert_eq!(&*index.find("hello", Some("1")).unwrap().source, "http://one");
        assert!(index.find("hello", Some("1.0")).is_none());
        assert!(index.find("hidden", None).is_none());
    }

    #[test]
    fn searching() {
        let index = index();
        let names =
            |query: Option<&str>| index.search(query).into_iter().map(|row| row.name).collect::<Vec<_>>();
        assert_eq!(names(None), ["zeta", "alpha", "hello"]);
        assert_eq!(names(Some("ALPHA")), ["alpha"]);
        assert_eq!(names(Some("we*")), ["zeta", "alpha", "hello"]);
        assert_eq!(names(Some("h*o")), ["hello"]);
        assert_eq!(names(Some("H*o")), Vec::<String>::new());
        assert_eq!(names(Some("nothing")), Vec::<String>::new());
        assert_eq!(
            index.search(Some("hello"))[0].versions,
            BTreeMap::from([("1".into(), 0), ("2".into(), 3), ("9".into(), 99)])
        );
    }
}
