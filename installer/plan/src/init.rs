//! The file that `plenum install init` writes: the answers that were given, and every other setting commented out with its default and meaning.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::settings::{SETTINGS, Setting};
use crate::spec::Kind;

/// What was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// The cluster's name; none: the default.
    pub name: Option<String>,
    /// Hosts and their roles.
    pub hosts: Vec<(IpAddr, Vec<Kind>)>,
    /// User of SSH.
    pub user: Option<String>,
    /// Key file.
    pub key: Option<String>,
    /// Other settings: path and YAML.
    pub set: Vec<(String, String)>,
}

const WIDTH: usize = 100;

/// The file.
#[must_use]
pub fn file(answers: &Answers) -> String {
    let mut text = String::from(
        "# What the cluster is to be. Lines that begin with '# ' and a setting show its default.\n\
         # Check it with `plenum install plan`, carry it out with `plenum install apply`.\n",
    );
    let mut given: Vec<(&str, String)> =
        answers.set.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
    let quoted = |text: &String| serde_json::Value::from(text.as_str()).to_string();
    given.extend(answers.name.iter().map(|name| ("name", quoted(name))));
    given.extend(answers.user.iter().map(|user| ("ssh.user", quoted(user))));
    given.extend(answers.key.iter().map(|key| ("ssh.key", quoted(key))));
    let mut group = "";
    for setting in SETTINGS {
        let (head, word) = setting.path.split_once('.').unwrap_or(("", setting.path));
        if head == "hosts[]" {
            if group != head {
                hosts(answers, &mut text);
            }
            group = head;
            continue;
        }
        if head != group {
            group = head;
            if !head.is_empty() {
                let _ = write!(text, "\n{head}:\n");
            }
        } else if head.is_empty() {
            text.push('\n');
        }
        let indent = if head.is_empty() { "" } else { "  " };
        let value = given.iter().find(|(path, _)| *path == setting.path).map(|(_, value)| value.as_str());
        line(&mut text, indent, word, setting, value);
    }
    text
}

fn line(text: &mut String, indent: &str, word: &str, setting: &Setting, value: Option<&str>) {
    for part in wrap(setting.help) {
        let _ = writeln!(text, "{indent}## {part}");
    }
    let _ = match value {
        Some(value) => writeln!(text, "{indent}{word}: {value}"),
        None => writeln!(text, "{indent}# {word}: {}", setting.default),
    };
}

fn hosts(answers: &Answers, text: &mut String) {
    text.push_str("\n## The hosts. What each may have beside its address and roles:\n");
    for setting in SETTINGS.iter().filter(|setting| setting.path.starts_with("hosts[].")) {
        let word = setting.path.trim_start_matches("hosts[].");
        let mut parts = wrap(setting.help).into_iter();
        let _ = writeln!(text, "##   {word:<11} {}", parts.next().unwrap_or_default());
        for part in parts {
            let _ = writeln!(text, "##   {:<11} {part}", "");
        }
    }
    text.push_str("hosts:\n");
    if answers.hosts.is_empty() {
        text.push_str("  # - {address: 10.0.0.1, roles: [master, agent]}\n");
    }
    for (address, roles) in &answers.hosts {
        let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        let _ = writeln!(text, "  - {{address: \"{address}\", roles: [{}]}}", roles.join(", "));
    }
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(last) = lines.last_mut() else { break };
        if !last.is_empty() && last.len() + word.len() + 1 > WIDTH {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}
