//! Ids of apps, instances and tasks: their shapes, and the names derived from them. Sources: Marathon's path rules
//! and the patterns that DNS and dashboards match on.

use std::fmt;

use plenum_api::IdSource;
use serde::{Deserialize, Serialize};

/// What a segment of a path must look like, as Marathon states it in its errors.
pub const SEGMENT_RULE: &str = r"must fully match regular expression '^(([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])\.)*([a-z0-9]|[a-z0-9][a-z0-9\-]*[a-z0-9])|(\.|\.\.)$'";

/// An absolute path of an app or a group: `/` or `/a/b`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathId(String);

impl PathId {
    /// Reads a path as clients write it: a missing leading slash is added, doubled and trailing ones are dropped.
    ///
    /// # Errors
    /// The sentence Marathon gives when a segment breaks the rule.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::resolve(text, None)
    }

    /// Like [`PathId::parse`], with a relative path read below `base`, and `..` going up.
    ///
    /// # Errors
    /// As for [`PathId::parse`].
    pub fn resolve(text: &str, base: Option<&PathId>) -> Result<Self, &'static str> {
        let mut parts: Vec<&str> = match base {
            Some(base) if !text.starts_with('/') => base.segments().collect(),
            _ => Vec::new(),
        };
        for segment in text.split('/').filter(|s| !s.is_empty()) {
            match segment {
                "." => {}
                ".." => {
                    parts.pop();
                }
                other if is_segment(other) => parts.push(other),
                _ => return Err(SEGMENT_RULE),
            }
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// The root of all groups.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The path's parts, outermost first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|s| !s.is_empty())
    }

    /// The group that holds this path.
    pub fn parent(&self) -> PathId {
        match self.0.rsplit_once('/') {
            Some((head, _)) if !head.is_empty() => Self(head.to_owned()),
            _ => Self::root(),
        }
    }

    /// Whether `self` lies in the group `other`, at any depth.
    pub fn is_below(&self, other: &PathId) -> bool {
        self != other
            && (other.is_root() || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Between which two texts all that lies in this group is, in the order of paths; neither of the two is a path of it.
    pub(super) fn inside(&self) -> (PathId, PathId) {
        let head = self.0.trim_end_matches('/');
        (Self(format!("{head}/")), Self(format!("{head}0")))
    }

    /// The outermost group that holds this path; none where that is the root.
    pub fn top(&self) -> Option<PathId> {
        let mut segments = self.segments();
        let first = segments.next()?;
        segments.next().map(|_| Self(format!("/{first}")))
    }

    /// Whether it lies in the root itself.
    pub fn is_top_level(&self) -> bool {
        !self.is_root() && self.parent().is_root()
    }

    /// The groups that hold this path, the innermost first and the root last.
    pub fn ancestors(&self) -> impl Iterator<Item = PathId> {
        let first = (!self.is_root()).then(|| self.parent());
        std::iter::successors(first, |at| (!at.is_root()).then(|| at.parent()))
    }

    /// `a_b` for `/a/b`: the beginning of instance ids.
    pub fn safe(&self) -> String {
        self.segments().collect::<Vec<_>>().join("_")
    }

    /// `b.a` for `/a/b`: the Mesos name of the app's tasks, from which DNS makes records.
    pub fn task_name(&self) -> String {
        self.segments().rev().collect::<Vec<_>>().join(".")
    }

    /// `a:b` for `/a/b`: a part of a store key (a colon is not allowed in ids).
    pub fn key(&self) -> String {
        self.segments().collect::<Vec<_>>().join(":")
    }
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(text: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || *b == b'-')
    };
    text.split('.').all(label)
}

/// One run of one app, for ever: `a_b.instance-<uuid>`. Never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(String);

/// What stands for the container of an app in the ids of its tasks.
const APP_CONTAINER: &str = "_app";

impl InstanceId {
    /// A new id for an instance of `app`.
    pub fn fresh(app: &PathId, ids: &mut dyn IdSource) -> Self {
        Self(format!("{}.instance-{}", app.safe(), ids.uuid_text()))
    }

    /// The instance a task id belongs to, the container and the number of the launch, if the task id has our shape.
    pub fn of_task(task: &str) -> Option<(Self, &str, u32)> {
        let (rest, launch) = task.rsplit_once('.')?;
        let (id, container) = rest.rsplit_once('.')?;
        let launch = launch.parse().ok().filter(|n| *n > 0)?;
        let container = if container == APP_CONTAINER { "" } else { container };
        id.contains(".instance-").then(|| (Self(id.to_owned()), container, launch))
    }

    /// From a record's key.
    pub fn from_key(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// The id of the task of one container (empty: the app's own) in the launch of that number.
    pub fn task_id(&self, container: &str, launch: u32) -> String {
        let container = if container.is_empty() { APP_CONTAINER } else { container };
        format!("{}.{container}.{launch}", self.0)
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_absolute_and_clean() {
        for (given, want) in [
            ("web", "/web"),
            ("/web", "/web"),
            ("//a//b/", "/a/b"),
            ("a/../b", "/b"),
            ("/a.b-c/1", "/a.b-c/1"),
            ("/", "/"),
        ] {
            assert_eq!(PathId::parse(given).map(|id| id.to_string()), Ok(want.to_owned()), "{given}");
        }
        for bad in ["Web", "a b", "-a", "a-", "a/_b", "a..b", "é"] {
            assert_eq!(PathId::parse(bad), Err(SEGMENT_RULE), "{bad}");
        }
    }

    #[test]
    fn names_are_derived() {
        let id = PathId::parse("/a/b/c").unwrap();
        assert_eq!(
            (id.safe().as_str(), id.task_name().as_str(), id.key().as_str()),
            ("a_b_c", "c.b.a", "a:b:c")
        );
        assert_eq!(id.parent().as_str(), "/a/b");
        assert!(id.is_below(&PathId::root()) && id.is_below(&PathId::parse("/a").unwrap()));
        assert!(!PathId::parse("/ab").unwrap().is_below(&PathId::parse("/a").unwrap()));
        let instance = InstanceId::from_key("a.instance-1");
        assert_eq!(instance.task_id("", 1), "a.instance-1._app.1");
        assert_eq!(instance.task_id("db", 3), "a.instance-1.db.3");
        assert_eq!(InstanceId::of_task("a.instance-1._app.1"), Some((instance.clone(), "", 1)));
        assert_eq!(InstanceId::of_task("a.instance-1.db.3"), Some((instance, "db", 3)));
        assert_eq!(InstanceId::of_task("a.instance-1.db.0"), None);
        assert_eq!(InstanceId::of_task("other"), None);
    }
}
