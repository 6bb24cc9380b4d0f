//! Conditions on what a request changes: only if it is as the client saw it (`If-Match`), only if it is not (`If-None-Match`). Tags are
//! strong and those of definitions: how many instances run does not change them (RFC 9110, 8.8.3 and 13.1).

use super::Snapshot;
use super::error::ApiError;
use super::id::PathId;
use super::requests::Kind;

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An app.
    App(PathId),
    /// A pod.
    Pod(PathId),
    /// A group with all in it.
    Group(PathId),
}

/// Tags of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever there is.
    Any,
    /// One of these, without their quotes; weak ones with the `W/`.
    These(Vec<String>),
}

/// What has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// It is one of these.
    pub is: Option<Tags>,
    /// It is none of these.
    pub is_not: Option<Tags>,
}

/// A request that is carried out only if something holds.
#[derive(Clone, Debug)]
pub struct Conditional {
    /// Of what.
    pub subject: Subject,
    /// What.
    pub condition: Condition,
    /// What is done then.
    pub then: Kind,
}

impl Tags {
    /// Reads a header's value: `*`, or tags in quotes, divided by commas. What is no tag matches none.
    pub fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::Any;
        }
        let tag = |part: &str| {
            let part = part.trim();
            let (weak, quoted) = part.strip_prefix("W/").map_or(("", part), |rest| ("W/", rest));
            let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            format!("{weak}{}", inner.unwrap_or(quoted))
        };
        // Our own tags have no commas; of others it does not matter where they end.
        Self::These(text.split(',').map(tag).collect())
    }

    fn has(&self, tag: Option<&str>, weak: bool) -> bool {
        match (self, tag) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(all), Some(tag)) => {
                all.iter().any(|one| one == tag || (weak && one.strip_prefix("W/") == Some(tag)))
            }
        }
    }
}

impl Condition {
    /// Whether there is nothing to hold.
    pub fn is_empty(&self) -> bool {
        self.is.is_none() && self.is_not.is_none()
    }

    /// Whether a reader has what has this tag.
    pub fn is_known(&self, tag: &str) -> bool {
        self.is_not.as_ref().is_some_and(|tags| tags.has(Some(tag), true))
    }

    /// Whether it holds of what has this tag, or is not there.
    ///
    /// # Errors
    /// 412, with what there is.
    pub fn check(&self, subject: &Subject, tag: Option<&str>) -> Result<(), ApiError> {
        let (Subject::App(id) | Subject::Pod(id) | Subject::Group(id)) = subject;
        let changed = self.is.as_ref().is_some_and(|tags| !tags.has(tag, false));
        let there = self.is_not.as_ref().is_some_and(|tags| tags.has(tag, true));
        if !changed && !there {
            return Ok(());
        }
        Err(ApiError::Precondition(match tag {
            Some(tag) if changed => {
                format!(
                    "'{id}' was changed meanwhile, its tag is \"{tag}\" now: read it again, then repeat the change"
                )
            }
            Some(tag) => format!("'{id}' is there already, its tag is \"{tag}\""),
            None => format!("'{id}' does not exist (any more)"),
        }))
    }
}

impl Snapshot {
    /// The tag of something, if it is there.
    pub fn tag(&self, subject: &Subject) -> Option<String> {
        match subject {
            Subject::App(id) => {
                self.entry(id).and_then(|entry| entry.wanted.app()).map(|app| app.version.clone())
            }
            Subject::Pod(id) => {
                self.entry(id).and_then(|entry| entry.wanted.pod()).map(|pod| pod.version.clone())
            }
            Subject::Group(id) => self.has_group(id).then(|| self.group_tag(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_and_compared() {
        let id = Subject::App(PathId::parse("/a").unwrap());
        let both = |is: &str, is_not: &str| {
            let tags = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Tags::parse);
            Condition { is: tags(is), is_not: tags(is_not) }
        };
        for (is, is_not, tag, holds) in [
            ("", "", None, true),
            ("\"v1\"", "", Some("v1"), true),
            ("\"v0\", \"v1\"", "", Some("v1"), true),
            ("v1", "", Some("v1"), true),
            ("W/\"v1\"", "", Some("v1"), false),
            ("\"v0\"", "", Some("v1"), false),
            ("\"v0\"", "", None, false),
            ("*", "", Some("v1"), true),
            ("*", "", None, false),
            ("", "*", Some("v1"), false),
            ("", "*", None, true),
            ("", "W/\"v1\"", Some("v1"), false),
            ("", "\"v0\"", Some("v1"), true),
        ] {
            assert_eq!(both(is, is_not).check(&id, tag).is_ok(), holds, "{is} {is_not} {tag:?}");
        }
        assert!(both("", "\"a\", \"b\"").is_known("b") && !both("\"b\"", "").is_known("b"));
    }
}
