//! The control group hierarchies of this machine, from the text of `/proc/self/mountinfo` and `/proc/self/cgroup`. Pure.

use std::path::PathBuf;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Controllers of a v1 hierarchy (`name=systemd` for a named one). Of the v2 tree: empty here, they are read from
    /// its files.
    pub controllers: Vec<String>,
    /// The v2 tree.
    pub unified: bool,
    /// This process is in a group other than the root of what is mounted.
    pub inside_group: bool,
}

impl Hierarchy {
    /// Whether a v1 hierarchy has a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// All hierarchies, v2 tree last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// As mounted; of two mounts of the same hierarchy the first.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// From the two files.
    #[must_use]
    pub fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some(mut found) = parse_mount(line) else { continue };
            let same = |h: &Hierarchy| h.unified == found.unified && h.controllers == found.controllers;
            if !hierarchies.iter().any(same) {
                found.inside_group = inside_group(&found, cgroup);
                hierarchies.push(found);
            }
        }
        hierarchies.sort_by_key(|h| h.unified);
        Self { hierarchies }
    }

    /// In words: `v1`, `v2`, `hybrid` or `none`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let v1 = self.hierarchies.iter().any(|h| !h.unified);
        let v2 = self.hierarchies.iter().any(|h| h.unified);
        match (v1, v2) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }
}

/// `id parent major:minor root mount-point options [optional...] - type source super-options`.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(unescape(left.split(' ').nth(4)?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or("");
    let unified = match kind {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    const NOT_CONTROLLERS: [&str; 8] =
        ["rw", "ro", "xattr", "noprefix", "clone_children", "none", "cpuset_v2_mode", "favordynmods"];
    let is_controller = |word: &&str| !NOT_CONTROLLERS.contains(word) && !word.starts_with("release_agent=");
    let controllers = match unified {
        true => Vec::new(),
        false => options.split(',').filter(is_controller).map(str::to_owned).collect(),
    };
    Some(Hierarchy { mount, controllers, unified, inside_group: false })
}

/// Blank, tab, newline and backslash are written as `\ooo`.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// `number:controllers:path`; the v2 tree has number 0 and no controllers.
fn inside_group(hierarchy: &Hierarchy, cgroup: &str) -> bool {
    cgroup.lines().any(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) =
            (fields.next(), fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let mine = match hierarchy.unified {
            true => number == Some("0"),
            false => number != Some("0") && controllers.split(',').any(|name| hierarchy.has(name)),
        };
        mine && path != "/"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
99 31 0:32 / /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw,nsdelegate
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
broken line - cgroup
";
    const GROUPS: &str = "4:memory:/agent.service\n2:cpu,cpuacct:/\n1:name=systemd:/x:y\n0::/agent.service\n";

    #[test]
    fn a_hybrid_machine() {
        let layout = Layout::parse(HYBRID, GROUPS);
        let rows: Vec<_> = layout
            .hierarchies
            .iter()
            .map(|h| (h.mount.to_str().unwrap(), h.controllers.join("+"), h.unified, h.inside_group))
            .collect();
        assert_eq!(
            rows,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu+cpuacct".to_owned(), false, false),
                ("/sys/fs/cgroup/memory", "memory".to_owned(), false, true),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned(), false, true),
                ("/sys/fs/cgroup/uni fied", String::new(), true, true),
            ]
        );
        assert_eq!(layout.kind(), "hybrid");
    }

    #[test]
    fn other_machines() {
        let v2 = Layout::parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/\n");
        assert_eq!((v2.kind(), v2.hierarchies[0].inside_group), ("v2", false));
        assert_eq!(Layout::parse("", "").kind(), "none");
    }
}
