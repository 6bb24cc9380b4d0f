//! Changing the list of hosts in a configuration and nothing else: comments and order stay. What cannot be changed safely is left to a person,
//! with the words to write.

use plenum_plan::schema;
use plenum_plan::tree::{Value, parse};

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Adds a host: the entry in flow form, `{address: 10.0.0.4, roles: [agent]}`.
    Add(String),
    /// Removes the host of that name or address.
    Remove(String),
}

/// The text after the change; none where it must be made by hand.
#[must_use]
pub fn edit(text: &str, change: &Edit) -> Option<String> {
    let before = schema::read(text).cluster?;
    let edited =
        if text.trim_start().starts_with('{') { as_json(text, change) } else { as_lines(text, change) }?;
    // Whatever was done to the text, it must say the wanted thing, and the rest as before.
    let after = schema::read(&edited).cluster?;
    let fits = match change {
        Edit::Add(_) => {
            after.hosts.len() == before.hosts.len() + 1
                && after.hosts.get(..before.hosts.len()) == Some(&before.hosts[..])
        }
        Edit::Remove(name) => {
            let gone = before.host(name)?.name.clone();
            let kept: Vec<_> = before.hosts.iter().filter(|host| host.name != gone).collect();
            after.hosts.iter().collect::<Vec<_>>() == kept
        }
    };
    let mut same = after.clone();
    same.hosts.clone_from(&before.hosts);
    (fits && same == before).then_some(edited)
}

fn as_json(text: &str, change: &Edit) -> Option<String> {
    let mut json: serde_json::Value = serde_json::from_str(text).ok()?;
    let index = match change {
        Edit::Remove(name) => Some(place(text, name)?),
        Edit::Add(_) => None,
    };
    let hosts = json.get_mut("hosts")?.as_array_mut()?;
    match (change, index) {
        (Edit::Add(entry), _) => hosts.push(serde_saphyr::from_str(entry).ok()?),
        (Edit::Remove(_), Some(index)) if index < hosts.len() => drop(hosts.remove(index)),
        _ => return None,
    }
    Some(serde_json::to_string_pretty(&json).ok()? + "\n")
}

/// The place of a host in the list.
fn place(text: &str, name: &str) -> Option<usize> {
    let cluster = schema::read(text).cluster?;
    let host = cluster.host(name)?.name.clone();
    cluster.hosts.iter().position(|other| other.name == host)
}

fn as_lines(text: &str, change: &Edit) -> Option<String> {
    let tree = parse(text).ok()?;
    let Value::List(list) = &tree.get("hosts")?.value else { return None };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    // Each entry begins with a dash on a line of its own kind.
    let mut begins = Vec::new();
    for node in list {
        let line = usize::try_from(node.at.line).ok()?.checked_sub(1)?;
        lines.get(line)?.trim_start().strip_prefix("- ")?;
        begins.push(line);
    }
    let first = *begins.first()?;
    let indent: String = lines.get(first)?.chars().take_while(|c| *c == ' ').collect();
    // Where the last entry ends: at the first line that is not deeper than the dash, and neither empty nor a comment.
    let depth = indent.len();
    let end_of = |begin: usize| {
        let mut end = begin + 1;
        for (i, line) in lines.iter().enumerate().skip(begin + 1) {
            let bare = line.trim();
            let deep = line.len() - line.trim_start().len();
            if bare.is_empty() || bare.starts_with('#') {
                continue;
            }
            if deep <= depth {
                break;
            }
            end = i + 1;
        }
        end
    };
    let mut out: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    match change {
        Edit::Add(entry) => {
            let end = end_of(*begins.last()?);
            if let Some(last) = out.get_mut(end.checked_sub(1)?)
                && !last.ends_with('\n')
            {
                last.push('\n');
            }
            out.insert(end.min(out.len()), format!("{indent}- {entry}\n"));
        }
        Edit::Remove(name) => {
            let begin = *begins.get(place(text, name)?)?;
            out.drain(begin..end_of(begin));
        }
    }
    Some(out.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours
name: lab   # short
hosts:
  # the masters
  - {address: 10.0.0.1, roles: [master]}
  - address: 10.0.0.2   # the slow one
    roles: [master]
    # a remark
    zone: b
    region: a

  # agents
  - {name: a, address: 10.0.0.3, roles: [agent]}
ssh: {user: ops}
";

    #[test]
    fn comments_stay_where_a_host_comes_or_goes() {
        let added = edit(FILE, &Edit::Add("{address: 10.0.0.9, roles: [agent]}".into())).unwrap();
        let expected =
            FILE.replace("roles: [agent]}\n", "roles: [agent]}\n  - {address: 10.0.0.9, roles: [agent]}\n");
        assert_eq!(added, expected);
        let removed = edit(FILE, &Edit::Remove("10.0.0.2".into())).unwrap();
        let from = FILE.find("  - address: 10.0.0.2").unwrap();
        let to = FILE.find("\n  # agents").unwrap();
        assert_eq!(removed, format!("{}{}", &FILE[..from], &FILE[to..]));
        assert!(
            edit(&removed, &Edit::Remove("a".into())).unwrap().ends_with("  # agents\nssh: {user: ops}\n")
        );
    }

    #[test]
    fn json_is_edited_as_json() {
        let file = r#"{"hosts": [{"address": "10.0.0.1", "roles": ["master"]}, {"name": "x", "address": "10.0.0.2", "roles": ["agent"]}], "ssh": {"user": "ops"}}"#;
        let added = edit(file, &Edit::Add("{address: 10.0.0.9, roles: [agent]}".into())).unwrap();
        assert!(added.contains("10.0.0.9") && added.contains("\"user\": \"ops\""), "{added}");
        assert!(!edit(&added, &Edit::Remove("x".into())).unwrap().contains("10.0.0.2"));
    }

    #[test]
    fn what_cannot_be_edited_safely_is_left_alone() {
        let flow = "hosts: [{address: 10.0.0.1, roles: [master]}]\n";
        assert_eq!(edit(flow, &Edit::Add("{address: 10.0.0.9, roles: [agent]}".into())), None);
        assert_eq!(
            edit(FILE, &Edit::Add("{address: 10.0.0.1, roles: [agent]}".into())),
            None,
            "an address twice"
        );
        assert_eq!(edit(FILE, &Edit::Remove("nobody".into())), None);
        assert_eq!(edit("master_list: [10.0.0.1]", &Edit::Add("{}".into())), None);
        assert_eq!(edit("", &Edit::Remove("x".into())), None);
    }
}
