//! Facts from `/proc`: who a process is, whether it is still that one, its children.

use crate::wire::Pid;
use std::fs;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// State letter (`Z` for a zombie).
    pub state: char,
    /// Parent process id.
    pub parent: i32,
    /// User and system time in clock ticks.
    pub cpu_ticks: u64,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Resident pages.
    pub rss_pages: u64,
}

/// Parses the text of a `stat` file. The command name may hold anything, so fields are counted from the last `)`.
#[must_use]
pub fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        start: number(22)?,
        rss_pages: number(24).unwrap_or(0),
    })
}

/// The state of a process, if it exists.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// Names a process by number and start time.
#[must_use]
pub fn identify(pid: i32) -> Option<Pid> {
    stat(pid).map(|stat| Pid { pid, start: stat.start })
}

/// Whether this very process still runs (a zombie does not).
#[must_use]
pub fn alive(who: &Pid) -> bool {
    who.pid > 0
        && stat(who.pid).is_some_and(|stat| stat.start == who.start && !matches!(stat.state, 'Z' | 'X'))
}

/// The boot this machine is in.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Direct children of a single-threaded process.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// All descendants, parents before children. Bounded, so that a fork bomb cannot hold the caller.
#[must_use]
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() && found.len() < 65_536 {
        let more = threads_children(found[next]);
        found.extend(more);
        next += 1;
    }
    found
}

fn threads_children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_names_do_not_confuse_the_fields() {
        let text =
            "7 (a) R (b) S 3 7 7 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 1 0 991 4096 55 18446744073709551615";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.cpu_ticks, stat.start, stat.rss_pages),
            ('S', 3, 33, 991, 55)
        );
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_is_only_itself() {
        let me = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(alive(&me));
        assert!(!alive(&Pid { start: me.start + 1, ..me }));
        assert!(!alive(&Pid { pid: 0, start: 0 }));
    }
}
