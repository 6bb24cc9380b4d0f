//! What a person sees while components start: one line each, with its time; what failed, why, and where its log is.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use crate::supervise::control::Report;

/// Prints steps as they are done.
pub struct Progress {
    began: Instant,
    done: BTreeSet<String>,
    bold: bool,
}

impl Progress {
    /// Begins now.
    pub fn new() -> Self {
        Self { began: Instant::now(), done: BTreeSet::new(), bold: std::io::stdout().is_terminal() }
    }

    /// A step is done.
    pub fn step(&self, what: &str) {
        let mark = if self.bold { "\x1b[32m✓\x1b[0m" } else { "ok" };
        println!("{:6.2} s  {mark} {what}", self.began.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush();
    }

    /// Something worth knowing.
    pub fn note(&self, what: &str) {
        println!("          {what}");
    }

    /// Prints the roles that have become ready since the last report, and those that restart.
    pub fn report(&mut self, report: &Report) {
        for role in &report.roles {
            let fresh = role.condition == "running" && self.done.insert(role.role.clone());
            if fresh {
                self.step(&role.role);
            }
        }
    }
}

/// The last lines of a role's log, indented.
pub fn tail(path: &str, lines: usize) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..].iter().map(|line| format!("    {line}\n")).collect()
}
