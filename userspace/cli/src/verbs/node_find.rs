//! Which node a word on the command line means: by name, address, agent id, or the beginning of an id.
//!
//! Owns the rule and the sentences about words that mean none or several. What is done with the node is in `node_life`.

use std::net::IpAddr;

use crate::api::nodes::Node;
use crate::error::{CliError, Result};
use crate::text::clean;

/// Shorter beginnings of ids mean nothing: a slip of the hand must not name a node.
const PREFIX: usize = 4;
/// Nodes that an error lists.
const LISTED: usize = 3;

/// The node that `word` means. Nodes that were replaced may share a name or an address: then the one that is there is meant.
///
/// # Errors
/// [`CliError::Usage`] names the nearest nodes.
pub(crate) fn find<'a>(nodes: &'a [Node], word: &str) -> Result<&'a Node> {
    if let Some(node) = nodes.iter().find(|node| node.id == word) {
        return Ok(node);
    }
    // Hosts without a name of their own are called by their address with dashes in `cluster.yaml`.
    let address = word.replace('-', ".").parse::<IpAddr>().map(|ip| ip.to_string());
    let is = |node: &&Node| {
        !word.is_empty()
            && (node.node_name == word || node.hostname == word || Ok(&node.hostname) == address.as_ref())
    };
    let named: Vec<&Node> = nodes.iter().filter(is).collect();
    let there: Vec<&Node> = named.iter().copied().filter(|node| !node.is_unreachable()).collect();
    match (there.as_slice(), named.as_slice()) {
        ([one], _) | ([], [one]) => return Ok(one),
        ([], []) => {}
        ([], several) | (several, _) => return Err(ambiguous(word, "are called", several)),
    }
    let begins = |node: &&Node| word.len() >= PREFIX && node.id.starts_with(word);
    let begun: Vec<&Node> = nodes.iter().filter(begins).collect();
    match begun.as_slice() {
        [one] => Ok(one),
        [] => Err(unknown(nodes, word)),
        several => Err(ambiguous(word, "have ids that begin with", several)),
    }
}

fn ambiguous(word: &str, how: &str, nodes: &[&Node]) -> CliError {
    CliError::Usage(format!(
        "several nodes {how} {}; name one by its id: {}",
        clean(word),
        list(nodes.iter().copied(), nodes.len())
    ))
}

fn unknown(nodes: &[Node], word: &str) -> CliError {
    let far = |node: &Node| {
        let names = [&node.node_name, &node.hostname, &node.id].into_iter().filter(|name| !name.is_empty());
        names.map(|name| distance(word, name)).min()
    };
    let mut near: Vec<&Node> = nodes.iter().collect();
    near.sort_by_key(|node| (far(node), node.is_unreachable(), node.id.clone()));
    let nearest = match near.len() {
        0 => String::new(),
        all => format!("; the nearest: {}", list(near.into_iter().take(LISTED), all)),
    };
    CliError::Usage(format!("there is no node {}{nearest} (`plenum node list` shows all)", clean(word)))
}

/// Up to [`LISTED`] nodes out of `all`, each as `name (address, id)`.
fn list<'a>(nodes: impl Iterator<Item = &'a Node>, all: usize) -> String {
    let words: Vec<String> = nodes
        .take(LISTED)
        .map(|node| match node.title() {
            title if title == node.hostname => format!("{} ({})", clean(title), clean(&node.id)),
            title => format!("{} ({}, {})", clean(title), clean(&node.hostname), clean(&node.id)),
        })
        .collect();
    let more = match all.saturating_sub(words.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", words.join(", "))
}

/// Insertions, deletions and replacements that lead from one word to the other; of long words the first 64 characters count.
fn distance(one: &str, other: &str) -> usize {
    let letters = |word: &str| word.to_lowercase().chars().take(64).collect::<Vec<char>>();
    let (one, other) = (letters(one), letters(other));
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut last = other.len();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in other.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        last = left;
    }
    last
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nodes() -> Vec<Node> {
        serde_json::from_value(json!([
            {"id": "ab12-S1", "hostname": "10.0.0.1", "node_name": "h1"},
            {"id": "ab12-S2", "hostname": "10.0.0.2", "node_name": "h2"},
            {"id": "ab12-S20", "hostname": "10.0.0.3", "node_name": "h3"},
            {"id": "cd34-S0", "hostname": "10.0.0.4", "node_name": "h4"},
            {"id": "cd34-S1", "hostname": "10.0.0.1", "node_name": "h1", "unreachable": true},
            {"id": "cd34-S2", "hostname": "10.0.0.6", "node_name": "two"},
            {"id": "ef56-S3", "hostname": "10.0.0.7", "node_name": "two"}
        ]))
        .unwrap()
    }

    #[test]
    fn nodes_are_found_by_name_address_id_and_its_beginning() {
        let nodes = nodes();
        for (word, id) in [
            ("h2", "ab12-S2"),
            ("h1", "ab12-S1"),
            ("10.0.0.1", "ab12-S1"),
            ("10-0-0-4", "cd34-S0"),
            ("cd34-S1", "cd34-S1"),
            ("ab12-S2", "ab12-S2"),
            ("ef56", "ef56-S3"),
        ] {
            assert_eq!(find(&nodes, word).map(|node| node.id.as_str()).unwrap(), id, "{word}");
        }
    }

    #[test]
    fn what_means_none_or_several_names_the_nearest() {
        let nodes = nodes();
        for (word, text) in [
            (
                "two",
                "several nodes are called two; name one by its id: two (10.0.0.6, cd34-S2), two (10.0.0.7, ef56-S3)",
            ),
            (
                "ab12",
                "several nodes have ids that begin with ab12; name one by its id: h1 (10.0.0.1, ab12-S1), h2 (10.0.0.2, ab12-S2), h3 (10.0.0.3, ab12-S20)",
            ),
            (
                "h5",
                "there is no node h5; the nearest: h1 (10.0.0.1, ab12-S1), h2 (10.0.0.2, ab12-S2), h3 (10.0.0.3, ab12-S20) and 4 more (`plenum node list` shows all)",
            ),
            ("tow", "the nearest: two (10.0.0.6, cd34-S2), two (10.0.0.7, ef56-S3), "),
            ("ef5", "there is no node ef5"),
            ("", "there is no node "),
        ] {
            let error = find(&nodes, word).map(|node| node.id.clone()).unwrap_err().to_string();
            assert!(error.contains(text), "{word}: {error}");
        }
        let error = find(&[], "h1").map(|node| node.id.clone()).unwrap_err().to_string();
        assert!(error.contains("there is no node h1 (`plenum node list` shows all)"), "{error}");
    }

    #[test]
    fn distances_are_counted() {
        for (one, other, count) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("h4", "H4", 0),
            ("tow", "two", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), count, "{one} {other}");
        }
    }
}
