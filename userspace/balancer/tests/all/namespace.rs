//! A network namespace of a test's own, in which only loopback is up.

use std::process::{Command, Output, Stdio};

/// Removed when dropped.
pub struct Namespace(pub String);

impl Namespace {
    pub fn new(name: &str) -> Self {
        let name = format!("plenum-test-{name}-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let space = Self(name);
        space.run(&["ip", "link", "set", "lo", "up"]);
        space
    }

    /// The command that runs `arguments` inside.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let output: Output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Whether this machine lets us make namespaces.
pub fn possible() -> bool {
    let root = std::fs::read_to_string("/proc/self/status").unwrap_or_default().contains("\nUid:\t0\t0");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}
