//! Users and groups of this machine without the C library's name service, which a static binary does not have: `/etc/passwd` and
//! `/etc/group` are read, and who is not there is asked of `getent`, which knows directories (LDAP, sssd) too. A directory that hangs never
//! stands in the way of a local user.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `getent` may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// The most of its answer that is read, in bytes.
const MOST: u64 = 1024 * 1024;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// Its home folder; may be empty.
    pub home: String,
    /// Its shell; may be empty.
    pub shell: String,
}

/// A group of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// The user of this name or number. Blocks for up to three seconds: call it off the async threads.
#[must_use]
pub fn lookup(name_or_uid: &str) -> Option<User> {
    let line = entry("passwd", name_or_uid)?;
    user_of(&line, name_or_uid)
}

/// The group of this name or number. Blocks like [`lookup`].
#[must_use]
pub fn lookup_group(name_or_gid: &str) -> Option<Group> {
    let line = entry("group", name_or_gid)?;
    group_of(&line, name_or_gid)
}

/// Every group of a user, its first one included, sorted. Blocks like [`lookup`].
#[must_use]
pub fn groups_of(user: &User) -> Vec<u32> {
    let mut groups = members_in(&std::fs::read_to_string("/etc/group").unwrap_or_default(), &user.name);
    // It prints the name and then the numbers.
    if let Asked::Found(line) = asked("getent", &["initgroups", &user.name], DEADLINE) {
        groups.extend(line.split_whitespace().skip(1).filter_map(|word| word.parse::<u32>().ok()));
    }
    groups.push(user.gid);
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn entry(database: &str, key: &str) -> Option<String> {
    // What would be read as an option, a field or a second key is nobody's name.
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ':';
    if key.is_empty() || key.starts_with('-') || key.contains(odd) {
        return None;
    }
    let text = std::fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    if let Some(line) = in_file(&text, key) {
        return Some(line.to_owned());
    }
    match asked("getent", &[database, key], DEADLINE) {
        Asked::Found(line) => Some(line),
        Asked::Nothing | Asked::Failed => None,
    }
}

fn in_file<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let field = |line: &'a str, n: usize| line.split(':').nth(n).unwrap_or_default();
    let by_name = text.lines().find(|line| field(line, 0) == key);
    by_name.or_else(|| text.lines().find(|line| is_number(key) && field(line, 2) == key))
}

fn is_number(key: &str) -> bool {
    key.parse::<u32>().is_ok()
}

fn user_of(line: &str, key: &str) -> Option<User> {
    let fields: Vec<&str> = line.trim_end().split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    let user = User {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: (*home).to_owned(),
        shell: (*shell).to_owned(),
    };
    (user.name == key || key.parse() == Ok(user.uid)).then_some(user)
}

fn group_of(line: &str, key: &str) -> Option<Group> {
    let mut fields = line.trim_end().split(':');
    let group = Group { name: fields.next()?.to_owned(), gid: fields.nth(1)?.parse().ok()? };
    (group.name == key || key.parse() == Ok(group.gid)).then_some(group)
}

fn members_in(text: &str, name: &str) -> Vec<u32> {
    let member = |line: &str| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        fields.next()?.split(',').any(|member| member == name).then_some(gid)
    };
    text.lines().filter_map(member).collect()
}

enum Asked {
    /// The first line of the answer.
    Found(String),
    /// There is no such entry.
    Nothing,
    /// The program is missing, or did not answer.
    Failed,
}

/// Runs a program that prints a line and ends; it is ended after `deadline`.
fn asked(program: &str, arguments: &[&str], deadline: Duration) -> Asked {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Asked::Failed };
    let Some(pipe) = child.stdout.take() else { return Asked::Failed };
    // Read apart, so that a long answer cannot stop the program from ending.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.take(MOST).read_to_string(&mut text).map(|_| text)
    });
    let ends = Instant::now() + deadline;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < ends => std::thread::sleep(Duration::from_millis(1)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                tracing::warn!(?arguments, "{program} did not answer in time");
                return Asked::Failed;
            }
        }
    };
    // getent's own: 2 is "one or more keys were not found".
    match (status.code(), reader.join()) {
        (Some(0), Ok(Ok(text))) => match text.lines().next() {
            Some(line) => Asked::Found(line.to_owned()),
            None => Asked::Nothing,
        },
        (Some(2), _) => Asked::Nothing,
        _ => Asked::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_and_odd_keys_are_nobody() {
        let root = lookup("root").unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
        assert_eq!(lookup("0").unwrap(), root);
        assert_eq!(lookup_group("0").unwrap().name, "root");
        assert!(groups_of(&root).contains(&0));
        for nobody in ["", "-s", "no such user", "a:b", "nobody-of-that-name", "4294967296", "root\n"] {
            assert_eq!(lookup(nobody), None, "{nobody:?}");
        }
    }

    #[test]
    fn files_are_searched_by_name_before_number() {
        let text = "root:x:0:0:root:/root:/bin/sh\n7:x:8:8::/home/seven:\nweb:x:7:7:,,,:/var/www:/bin/false\n+::::::\n";
        assert_eq!(user_of(in_file(text, "7").unwrap(), "7").unwrap().home, "/home/seven");
        assert_eq!(user_of(in_file(text, "web").unwrap(), "web").unwrap().uid, 7);
        assert_eq!(user_of(in_file(text, "0").unwrap(), "0").unwrap().name, "root");
        assert_eq!(in_file(text, "x"), None);
        assert_eq!(user_of("web:x:7:7", "web"), None);
        assert_eq!(members_in("a:x:1:web\nb:x:2:other,web\nc:x:3:\nbad:x:y:web\n", "web"), [1, 2]);
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let begin = Instant::now();
        assert!(matches!(asked("sleep", &["60"], Duration::from_millis(50)), Asked::Failed));
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(matches!(asked("no-such-program", &[], DEADLINE), Asked::Failed));
        assert!(matches!(asked("sh", &["-c", "exit 2"], DEADLINE), Asked::Nothing));
    }
}
