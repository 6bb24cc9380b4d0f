//! What a node has of everything that a container takes: counted before and after, with names for what is too many.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node::{Node, groups};

/// One kind of thing, and each thing of it.
#[derive(Debug, Clone)]
pub struct Count {
    /// In the table.
    pub name: &'static str,
    /// Each by a name that stays.
    pub things: BTreeSet<String>,
}

/// Everything, in the order of the table.
pub fn count(node: &Node) -> Vec<Count> {
    let folder = node.path("");
    let folder = folder.to_string_lossy().trim_end_matches('/').to_owned();
    vec![
        Count { name: "mounts", things: lines("/proc/self/mountinfo", |line| line.contains(&folder)) },
        Count {
            name: "control groups",
            things: groups(&node.instance).iter().map(|p| p.display().to_string()).collect(),
        },
        Count { name: "interfaces", things: interfaces() },
        Count { name: "nftables entries", things: ruleset() },
        Count { name: "processes", things: processes(node.agent()) },
        Count {
            name: "files of the agent's state",
            things: files(&node.path("data"), &["slaves", "provisioner", "images"]),
        },
        Count { name: "files of sandboxes", things: files(&node.path("data/slaves"), &[]) },
        Count { name: "files of images", things: files(&node.path("data/images"), &[]) },
        Count { name: "files over images", things: files(&node.path("data/provisioner"), &[]) },
        Count { name: "files in the runtime folder", things: files(&node.path("run"), &[]) },
    ]
}

fn lines(file: &str, keep: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| keep(line)).map(str::to_owned).collect()
}

/// Of this network namespace.
fn interfaces() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Lines of the rules of this network namespace; each with its number, since lines repeat.
fn ruleset() -> BTreeSet<String> {
    let listed = Command::new("nft").args(["list", "ruleset"]).output();
    let text = listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    text.lines().enumerate().map(|(number, line)| format!("{number}: {line}")).collect()
}

/// Processes below this one, which adopts those that lose their parents; without the agent itself. Dead ones that were adopted are reaped.
fn processes(agent: u32) -> BTreeSet<String> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let agent = i32::try_from(agent).unwrap_or(0);
    let mut found = children(own);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    let mut names = BTreeSet::new();
    for pid in found.into_iter().filter(|pid| *pid != agent) {
        let Some((name, state)) = name_and_state(pid) else { continue };
        if state == 'Z' {
            let _another_childs = nix::sys::wait::waitpid(
                nix::unistd::Pid::from_raw(pid),
                Some(nix::sys::wait::WaitPidFlag::WNOHANG),
            );
        } else {
            names.insert(format!("{name} {pid}"));
        }
    }
    names
}

/// Of all its threads.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    texts
        .flat_map(|text| {
            text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<i32>>()
        })
        .collect()
}

fn name_and_state(pid: i32) -> Option<(String, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = text.rsplit_once(") ")?;
    Some((head.split_once('(')?.1.to_owned(), rest.chars().next()?))
}

/// Paths below `folder`, without those below its children `but`.
fn files(folder: &Path, but: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            if at == folder && entry.file_name().to_str().is_some_and(|name| but.contains(&name)) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path.clone());
            }
            found.insert(path.strip_prefix(folder).unwrap_or(&path).display().to_string());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "").unwrap();
        fs::create_dir(folder.path().join("other")).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("a/link")).unwrap();
        let found: Vec<String> = files(folder.path(), &["other"]).into_iter().collect();
        assert_eq!(found, ["a", "a/b", "a/b/c", "a/link"]);
    }
}
