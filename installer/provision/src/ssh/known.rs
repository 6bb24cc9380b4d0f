//! Host keys that are known: `known_hosts` as OpenSSH writes it, hashed names, patterns and revoked keys among it. An unknown host is refused,
//! unless `accept-new` was asked for; a changed key always is.

use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Algorithm, HashAlg, PublicKey};

use crate::error::{InstallError, Result};

/// How unknown hosts are met.
#[derive(Debug, Clone)]
pub struct Known {
    files: Vec<PathBuf>,
    accept_new: bool,
}

/// What the files say of a host.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    keys: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

impl Entry {
    /// The kinds of key that are known, if there are any: only those are asked for.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all: Vec<Algorithm> = Vec::new();
        for key in &self.keys {
            match key.algorithm() {
                Algorithm::Rsa { .. } => {
                    for hash in [Some(HashAlg::Sha512), Some(HashAlg::Sha256)] {
                        all.push(Algorithm::Rsa { hash });
                    }
                }
                other => all.push(other),
            }
        }
        all
    }
}

impl Known {
    /// From the setting `ssh.known_hosts`.
    #[must_use]
    pub fn from_setting(setting: &str, home: &Path) -> Self {
        let usual = vec![home.join(".ssh/known_hosts"), PathBuf::from("/etc/ssh/ssh_known_hosts")];
        match setting {
            "strict" => Self { files: usual, accept_new: false },
            "accept-new" => Self { files: usual, accept_new: true },
            path => Self { files: vec![super::expand(path, home)], accept_new: false },
        }
    }

    /// What is known of a host.
    #[must_use]
    pub fn entry(&self, host: &str, port: u16) -> Entry {
        let name = name(host, port);
        let mut entry = Entry::default();
        for file in &self.files {
            let text =
                std::fs::read(file).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            for line in text.lines() {
                read_line(line, &name, &mut entry);
            }
        }
        entry
    }

    /// Whether a key may be trusted; an unknown one is written down where that was asked for.
    ///
    /// # Errors
    /// [`InstallError::Connect`]: unknown, changed or revoked, with the key's fingerprint.
    pub fn judge(&self, host: &str, port: u16, entry: &Entry, key: &PublicKey) -> Result<()> {
        let print = key.fingerprint(HashAlg::Sha256);
        let same = |known: &PublicKey| known.key_data() == key.key_data();
        let first = self.files.first().map(|path| path.display().to_string()).unwrap_or_default();
        if entry.revoked.iter().any(same) {
            return Err(InstallError::Connect(format!(
                "the key of {host} ({print}) is marked as revoked in {first}"
            )));
        }
        if entry.keys.iter().any(same) {
            return Ok(());
        }
        if !entry.keys.is_empty() {
            return Err(InstallError::Connect(format!(
                "{host} shows another key ({print}) than the one in {first}: it was installed anew, or somebody is in between. If it was, remove \
                 the old one with `ssh-keygen -R '{}'`",
                name(host, port)
            )));
        }
        if !self.accept_new {
            return Err(InstallError::Connect(format!(
                "the key of {host} is not known ({print}); compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub` on the host, then add it \
                 with `ssh-keyscan -H {host} >> {first}`, or set ssh.known_hosts to accept-new",
                kind(key)
            )));
        }
        self.learn(host, port, key)
    }

    fn learn(&self, host: &str, port: u16, key: &PublicKey) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let Some(path) = self.files.first() else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| {
            InstallError::Local(format!("the key of {host} cannot be written to {}: {error}", path.display()))
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        }
        let text = key.to_openssh().map_err(|error| failed(&error))?;
        let before = std::fs::read(path).unwrap_or_default();
        let newline = if before.last().is_none_or(|last| *last == b'\n') { "" } else { "\n" };
        let mut open = std::fs::OpenOptions::new();
        let mut file =
            open.append(true).create(true).mode(0o600).open(path).map_err(|error| failed(&error))?;
        // One write: several hosts may be met at the same time.
        let line = format!("{newline}{} {}\n", name(host, port), text.trim());
        file.write_all(line.as_bytes()).map_err(|error| failed(&error))
    }
}

fn kind(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Rsa { .. } => "rsa",
        Algorithm::Ecdsa { .. } => "ecdsa",
        _ => "ed25519",
    }
}

/// A host as the file names it.
fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn read_line(line: &str, name: &str, entry: &mut Entry) {
    let mut words = line.split_whitespace();
    let Some(mut hosts) = words.next() else { return };
    let mut revoked = false;
    if hosts.starts_with('#') {
        return;
    }
    if hosts.starts_with('@') {
        // An authority for host certificates is not used here.
        if hosts != "@revoked" {
            return;
        }
        revoked = true;
        let Some(next) = words.next() else { return };
        hosts = next;
    }
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return };
    if !matches(hosts, name) {
        return;
    }
    if let Ok(key) = PublicKey::from_openssh(&format!("{kind} {key}")) {
        if revoked { entry.revoked.push(key) } else { entry.keys.push(key) }
    }
}

/// Whether a line's hosts have this one: names with commas, `*` and `?`, `!` for not; or one hashed name.
fn matches(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        let Some((salt, hash)) = hashed.split_once('|') else { return false };
        let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        return hmac::verify(&key, name.as_bytes(), &hash).is_ok();
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        if let Some(not) = pattern.strip_prefix('!') {
            if glob(not.as_bytes(), name.as_bytes()) {
                return false;
            }
        } else if glob(pattern.to_ascii_lowercase().as_bytes(), name.as_bytes()) {
            found = true;
        }
    }
    found
}

/// `*` and `?`, without recursion.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn known(text: &str, accept_new: bool) -> (tempfile::TempDir, Known) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::fs::write(&path, text).unwrap();
        (dir, Known { files: vec![path], accept_new })
    }

    fn verdict(text: &str, host: &str, port: u16, key: &str) -> String {
        let (_dir, known) = known(text, false);
        let key = PublicKey::from_openssh(key).unwrap();
        match known.judge(host, port, &known.entry(host, port), &key) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn keys_are_found_however_their_host_is_written() {
        // |1| and the HMAC-SHA1 of the name, as ssh-keygen -H makes it.
        let salt = b"01234567890123456789";
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt), b"10.0.0.1");
        let hashed = format!("|1|{}|{} {ONE}", STANDARD.encode(salt), STANDARD.encode(tag.as_ref()));
        for (text, host, port, expected) in [
            (format!("10.0.0.1 {ONE}"), "10.0.0.1", 22, "ok"),
            (format!("# c\n\nother,10.0.0.1 {ONE} comment"), "10.0.0.1", 22, "ok"),
            (format!("[10.0.0.1]:2222 {ONE}"), "10.0.0.1", 2222, "ok"),
            (format!("[10.0.0.1]:2222 {ONE}"), "10.0.0.1", 22, "not known"),
            (format!("10.0.0.* {ONE}"), "10.0.0.1", 22, "ok"),
            (format!("*.lab,!a.lab {ONE}"), "a.lab", 22, "not known"),
            (format!("*.LAB,!a.lab {ONE}"), "B.lab", 22, "ok"),
            (hashed, "10.0.0.1", 22, "ok"),
            (format!("10.0.0.1 {TWO}"), "10.0.0.1", 22, "shows another key"),
            (format!("10.0.0.1 {TWO}\n10.0.0.1 {ONE}"), "10.0.0.1", 22, "ok"),
            (format!("10.0.0.1 {ONE}\n@revoked * {ONE}"), "10.0.0.1", 22, "revoked"),
            (format!("@cert-authority * {ONE}"), "10.0.0.1", 22, "not known"),
            ("10.0.0.1 ssh-ed25519 garbage\n|1|x|y z w\n@revoked".to_owned(), "10.0.0.1", 22, "not known"),
            (String::new(), "10.0.0.1", 22, "SHA256:"),
        ] {
            let said = verdict(&text, host, port, ONE);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn new_hosts_are_learnt_only_when_asked_for_and_changed_ones_never() {
        let (_dir, known) = known("a b", true);
        let (one, two) = (PublicKey::from_openssh(ONE).unwrap(), PublicKey::from_openssh(TWO).unwrap());
        known.judge("h", 2222, &known.entry("h", 2222), &one).unwrap();
        let text = std::fs::read_to_string(&known.files[0]).unwrap();
        assert_eq!(text, format!("a b\n[h]:2222 {ONE}\n"));
        known.judge("h", 2222, &known.entry("h", 2222), &one).unwrap();
        let error = known.judge("h", 2222, &known.entry("h", 2222), &two).unwrap_err().to_string();
        assert!(error.contains("shows another key") && error.contains("ssh-keygen -R '[h]:2222'"), "{error}");
        assert_eq!(known.entry("h", 2222).algorithms(), [Algorithm::Ed25519]);
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b", "axxbyyc", false),
            ("?", "", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
