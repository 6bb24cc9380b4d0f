//! A folder of a container's control groups: which files can be in it, so that only those are opened. A thousand containers are measured
//! often, and each file costs a call of the kernel.

use super::layout::{Hierarchy, Layout};
use std::path::Path;
use std::sync::OnceLock;

/// The hierarchies of this machine, as they were when somebody asked first.
pub fn machine() -> &'static Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Layout::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    })
}

/// A folder and the hierarchy that it is in.
#[derive(Debug, Clone, Copy)]
pub struct Folder<'a> {
    dir: &'a Path,
    /// Nothing is known of a folder elsewhere: anything can be in it.
    hierarchy: Option<&'a Hierarchy>,
}

impl<'a> Folder<'a> {
    /// A folder of this machine's.
    #[must_use]
    pub fn new(dir: &'a Path) -> Self {
        let hierarchies = machine().hierarchies.iter();
        let hierarchy = hierarchies
            .filter(|hierarchy| dir.starts_with(&hierarchy.mount))
            .max_by_key(|hierarchy| hierarchy.mount.as_os_str().len());
        Self { dir, hierarchy }
    }

    /// In the v2 tree.
    #[must_use]
    pub fn unified(&self) -> bool {
        self.hierarchy.is_none_or(|hierarchy| hierarchy.unified)
    }

    /// Itself, if it can have files of a v1 controller.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&Self> {
        self.hierarchy.is_none_or(|hierarchy| hierarchy.has(controller)).then_some(self)
    }

    /// Itself, if it can have files of a controller, v1 or v2.
    #[must_use]
    pub fn of(&self, controller: &str) -> Option<&Self> {
        if self.unified() { Some(self) } else { self.v1(controller) }
    }

    /// A file, if it is there.
    #[must_use]
    pub fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(file)).ok()
    }

    /// The whole of a file as a number.
    #[must_use]
    pub fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// The number of the file with the first name under v1, of the other under v2.
    #[must_use]
    pub fn either(&self, v1: &str, v2: &str) -> Option<u64> {
        match self.hierarchy {
            Some(hierarchy) if hierarchy.unified => self.number(v2),
            Some(_) => self.number(v1),
            None => self.number(v1).or_else(|| self.number(v2)),
        }
    }

    /// A file of names and numbers.
    #[must_use]
    pub fn counters(&self, file: &str) -> Option<Counters> {
        self.text(file).map(Counters)
    }
}

/// Lines of a name and a number.
#[derive(Debug, Default)]
pub struct Counters(String);

impl Counters {
    /// The number after a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_elsewhere_may_hold_anything() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "7\n").unwrap();
        std::fs::write(dir.path().join("b"), "low 1\nlower 2\n").unwrap();
        let folder = Folder::new(dir.path());
        assert!(folder.unified() && folder.v1("memory").is_some() && folder.of("cpu").is_some());
        assert_eq!((folder.either("none", "a"), folder.number("b")), (Some(7), None));
        let counters = folder.counters("b").unwrap();
        assert_eq!(
            (counters.get("low"), counters.get("lower"), counters.get("lo")),
            (Some(1), Some(2), None)
        );
    }
}
