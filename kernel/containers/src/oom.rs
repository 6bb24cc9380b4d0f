//! What the kernel's log tells of a container that ran out of memory: how much it had, what ran in it, and what was killed.
//!
//! By the time anybody hears of it the processes are gone, so nothing can be looked at; but the kernel writes down what it saw when it chose. It
//! does so ten times in five seconds at most, and its log is a ring: both leave a container without these words, never without its end.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// Records of the log that are looked at. The kernel keeps some thousands.
const RECORDS: usize = 65_536;
/// Processes that are named.
const NAMED: usize = 5;
/// What the supervisor calls its part in the container.
const OURS: &str = "plenum-init";

/// A container at the moment when its memory was full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutOfMemory {
    /// Its limit.
    pub limit_bytes: Option<u64>,
    /// What it used at most.
    pub used_bytes: Option<u64>,
    /// What ran, largest first; the first few.
    pub running: Vec<Process>,
    /// How many more ran.
    pub more: usize,
    /// What the kernel killed.
    pub killed: Option<String>,
}

/// One process of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The command's name as the kernel keeps it: 15 bytes.
    pub name: String,
    /// Resident memory.
    pub rss_bytes: u64,
}

impl OutOfMemory {
    /// For people: `Requested: 32.0MB Maximum Used: 32.0MB; running then: tail 31.8MB; killed by the kernel: tail`. The first half is as
    /// Mesos words it. Empty if nothing is known.
    #[must_use]
    pub fn words(&self) -> String {
        let size = |bytes: u64| format!("{:.1}MB", bytes as f64 / 1_048_576.0);
        let mut parts = Vec::new();
        let mut sizes = Vec::new();
        sizes.extend(self.limit_bytes.map(|bytes| format!("Requested: {}", size(bytes))));
        sizes.extend(self.used_bytes.map(|bytes| format!("Maximum Used: {}", size(bytes))));
        if !sizes.is_empty() {
            parts.push(sizes.join(" "));
        }
        if !self.running.is_empty() {
            let mut named: Vec<String> =
                self.running.iter().map(|one| format!("{} {}", one.name, size(one.rss_bytes))).collect();
            if self.more > 0 {
                named.push(format!("and {} more", self.more));
            }
            parts.push(format!("running then: {}", named.join(", ")));
        }
        parts.extend(self.killed.as_ref().map(|name| format!("killed by the kernel: {name}")));
        parts.join("; ")
    }
}

/// The newest report on a control group whose name has `id` in it. Nothing where the log cannot be read. Blocks for some milliseconds.
#[must_use]
pub fn from_kernel(id: &str) -> Option<OutOfMemory> {
    // Each read is one record, and the end is an error instead of a wait.
    let mut log =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
    let mut reports = Reports::new(id);
    let mut record = [0; 8192];
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                // `priority,sequence,time,flags;text`, then lines with a key each.
                if let Some((_, text)) = text.split_once(';') {
                    reports.line(text.lines().next().unwrap_or_default());
                }
            }
            // Overwritten meanwhile: the next read is of what there is.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    reports.newest
}

/// Follows the lines of the log. The kernel writes one report at a time.
struct Reports<'a> {
    id: &'a str,
    at: OutOfMemory,
    /// Columns of the list of processes that is being read: resident pages, and how many there are before the name.
    columns: Option<(usize, usize)>,
    /// The report was on this container; its last line is to come.
    ours: bool,
    newest: Option<OutOfMemory>,
}

impl<'a> Reports<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, at: OutOfMemory::default(), columns: None, ours: false, newest: None }
    }

    fn line(&mut self, line: &str) {
        if line.contains(" invoked oom-killer: ") {
            (self.at, self.columns, self.ours) = (OutOfMemory::default(), None, false);
        } else if let Some(rest) = line.strip_prefix("memory: usage ") {
            let mut sizes = rest.split(", ");
            self.at.used_bytes = sizes.next().and_then(kilobytes);
            self.at.limit_bytes =
                sizes.next().and_then(|size| size.strip_prefix("limit ")).and_then(kilobytes);
        } else if line.starts_with("[  pid  ]") {
            let names: Vec<&str> = line.trim_start_matches("[  pid  ]").split_ascii_whitespace().collect();
            let rss = names.iter().position(|name| *name == "rss");
            self.columns = rss.map(|rss| (rss, names.len().saturating_sub(1)));
        } else if let Some(rest) = line.strip_prefix("oom-kill:") {
            self.columns = None;
            self.decide(rest);
        } else if let (Some(columns), Some((_, rest))) = (self.columns, line.split_once(']')) {
            self.at.running.extend(process(rest, columns));
        }
    }

    fn decide(&mut self, rest: &str) {
        let field =
            |name: &str| rest.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let named = |group: &str| {
            // An engine's group has the id within a name: `docker-<id>.scope`.
            group.split('/').any(|part| part == self.id || part.contains(&format!("-{}.", self.id)))
        };
        let ours = ["oom_memcg", "task_memcg"].iter().filter_map(|name| field(name)).any(named);
        let mut found = std::mem::take(&mut self.at);
        if !ours {
            return;
        }
        found.killed = field("task").map(str::to_owned);
        found.running.retain(|one| one.name != OURS);
        found.running.sort_by(|a, b| b.rss_bytes.cmp(&a.rss_bytes).then_with(|| a.name.cmp(&b.name)));
        found.more = found.running.len().saturating_sub(NAMED);
        found.running.truncate(NAMED);
        self.newest = Some(found);
    }
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn process(rest: &str, (rss, before_name): (usize, usize)) -> Option<Process> {
    let mut words = rest.split_ascii_whitespace();
    let numbers: Vec<&str> = words.by_ref().take(before_name).collect();
    let pages: u64 = numbers.get(rss)?.parse().ok()?;
    let name: Vec<&str> = words.collect();
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    (!name.is_empty())
        .then(|| Process { name: name.join(" "), rss_bytes: pages.saturating_mul(page.unsigned_abs()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(id: &str, text: &str) -> Option<OutOfMemory> {
        let mut reports = Reports::new(id);
        text.lines().for_each(|line| reports.line(line));
        reports.newest
    }

    const REPORT: &str = "\
tail invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
eth0: entered blocking state
memory: usage 32768kB, limit 32768kB, failcnt 24
swap: usage 0kB, limit 0kB, failcnt 0
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[  29717]     0 29717      381      140        0      140         0    36864        0             0 plenum-init
[  29719]     0 29719      600      256        0      313         0   114688        0             0 a name
[  29718]     0 29718     8732     8448     8128      313         0   114688        0             0 tail
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/plenum-x/c1,task_memcg=/plenum-x/c1,task=tail,pid=29718,uid=0
Memory cgroup out of memory: Killed process 29718 (tail) total-vm:34928kB
";

    #[test]
    fn a_report_tells_what_ran() {
        let found = read("c1", REPORT).unwrap();
        assert_eq!(
            found.words(),
            "Requested: 32.0MB Maximum Used: 32.0MB; running then: tail 33.0MB, a name 1.0MB; killed by the kernel: tail"
        );
        assert_eq!(read("c", REPORT), None, "another container's");
        // Only what is complete counts, and the newest.
        let cut = REPORT.split_inclusive('\n').skip(3).collect::<String>();
        assert_eq!(read("c1", &cut).unwrap().limit_bytes, None);
        let other = REPORT.replace("plenum-x/c1", "docker/c2").replace("task=tail", "task=x");
        assert_eq!(read("c1", &format!("{REPORT}{other}")).unwrap().killed.as_deref(), Some("tail"));
        let scope = REPORT.replace("plenum-x/c1", "system.slice/docker-c1.scope");
        assert!(read("c1", &scope).is_some());
        let of_the_machine = REPORT.replace("oom_memcg=/plenum-x/c1,", "");
        assert!(read("c1", &of_the_machine).is_some(), "a process of it fell for the machine");
    }

    #[test]
    fn many_processes_are_counted() {
        let row = "[  29720]     0 29720      600        1        0      313         0   114688        0             0 x\n";
        let text = REPORT.replace("oom-kill:", &format!("{}oom-kill:", row.repeat(10)));
        let found = read("c1", &text).unwrap();
        assert_eq!((found.running.len(), found.more), (5, 7));
        assert!(found.words().contains("and 7 more"), "{}", found.words());
        assert_eq!(OutOfMemory::default().words(), "");
    }

    #[test]
    fn odd_lines_do_no_harm() {
        for text in [
            "oom-kill:",
            "[",
            "[  pid  ]\n[1] x",
            "memory: usage kB, limit",
            "[  pid  ] rss name\n[1] z z\n[1] 3",
        ] {
            assert_eq!(read("c1", text), None, "{text}");
        }
        let text = "[  pid  ] rss name\n[1] z z\n[1] 3\noom-kill:task_memcg=/c1";
        assert_eq!(read("c1", text), Some(OutOfMemory::default()));
    }
}
