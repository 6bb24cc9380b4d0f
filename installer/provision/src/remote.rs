//! One host as the installer sees it: a connection that is made again when it breaks, the way to be root there, the program that was sent,
//! and what that program is asked to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plenum_plan::cluster::{Cluster, Host, Sudo};
use plenum_plan::findings::Reading;
use tokio::sync::{Mutex, OnceCell};

use crate::error::{InstallError, Result};
use crate::log::Log;
use crate::payload::Payload;
use crate::secrets::Secret;
use crate::ssh::{Connection, Hop, Input, Login, Output};

/// Tries of what a broken connection interrupted.
const TRIES: u32 = 4;
/// For commands that only look.
pub const SHORT: Duration = Duration::from_secs(60);
/// For sending a program over a slow line.
const SENDING: Duration = Duration::from_secs(1800);

/// How commands become root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Root,
    Sudo,
    SudoPassword,
}

/// A host.
#[derive(Debug)]
pub struct Remote {
    /// Its name in the cluster.
    pub name: String,
    /// Its log.
    pub log: Log,
    hops: Vec<Hop>,
    login: Arc<Login>,
    sudo: Sudo,
    sudo_password: std::result::Result<Secret, String>,
    folder: String,
    connect: Duration,
    connection: Mutex<Option<Arc<Connection>>>,
    way: OnceCell<Way>,
    program: OnceCell<String>,
}

impl Remote {
    /// A host of the file. Nothing is connected yet.
    ///
    /// # Errors
    /// [`InstallError::Usage`] where a jump host makes no sense.
    pub fn new(
        cluster: &Cluster,
        host: &Host,
        login: &Arc<Login>,
        sudo_password: &std::result::Result<Secret, String>,
        log: Log,
    ) -> Result<Self> {
        let ssh = &cluster.ssh;
        let user = host.ssh.user.as_ref().unwrap_or(&ssh.user).clone();
        let jump = host.ssh.jump.as_ref().or(ssh.jump.as_ref()).filter(|jump| *jump != "none");
        let mut hops = Vec::new();
        for part in jump.iter().flat_map(|jump| jump.split(',')) {
            let hop = Hop::parse(part, &user);
            let bad = || InstallError::Usage(format!("ssh.jump: \"{part}\" is no user@host:port"));
            hops.push(hop.ok_or_else(bad)?);
        }
        let address = host.ssh.host.clone().unwrap_or_else(|| host.address.to_string());
        hops.push(Hop { host: address, port: host.ssh.port.unwrap_or(ssh.port), user });
        Ok(Self {
            name: host.name.clone(),
            log,
            hops,
            login: login.clone(),
            sudo: host.ssh.sudo.unwrap_or(ssh.sudo),
            sudo_password: sudo_password.clone(),
            folder: ssh.folder.clone(),
            connect: Duration::from_secs(cluster.limits.connect_seconds.into()),
            connection: Mutex::new(None),
            way: OnceCell::new(),
            program: OnceCell::new(),
        })
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let opened = Connection::open(&self.hops, &self.login, self.connect).await;
        match &opened {
            Ok(_) => self.log.line("connected"),
            Err(error) => self.log.line(&format!("not connected: {error}")),
        }
        let connection = Arc::new(opened?);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn drop_connection(&self) {
        *self.connection.lock().await = None;
    }

    /// Runs a script of the shell as the user of SSH, once.
    async fn as_user(&self, script: &str, input: Input, deadline: Duration) -> Result<Output> {
        let command = format!("exec sh -c {}", quoted(script));
        let connection = self.connection().await?;
        connection.run(&command, input, deadline, &mut |_| {}).await
    }

    /// Runs a script as root, once. Each line of its output is given to `line`.
    async fn as_root(
        &self,
        script: &str,
        input: Input,
        deadline: Duration,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output> {
        let way = *self.way.get_or_try_init(|| self.find_way()).await?;
        let script = quoted(script);
        let (command, input) = match way {
            Way::Root => (format!("exec sh -c {script}"), input),
            Way::Sudo => (format!("exec sudo -n sh -c {script}"), input),
            Way::SudoPassword => {
                let password = self.sudo_password.as_ref().map_err(|why| InstallError::Sudo(why.clone()))?;
                let mut first = password.expose().as_bytes().to_vec();
                first.push(b'\n');
                let input = match input {
                    Input::Nothing => Input::Bytes(first),
                    Input::Bytes(bytes) => {
                        first.extend_from_slice(&bytes);
                        Input::Bytes(first)
                    }
                    Input::Stream(bytes, stream) => {
                        first.extend_from_slice(&bytes);
                        Input::Stream(first, stream)
                    }
                };
                // -k: the password is read each time, also where sudo remembers the last one; else it would be the command's input.
                (format!("exec sudo -k -S -p '' sh -c {script}"), input)
            }
        };
        let connection = self.connection().await?;
        connection.run(&command, input, deadline, line).await
    }

    /// Finds out how to be root, and that it works.
    async fn find_way(&self) -> Result<Way> {
        let id = self.as_user("id -u", Input::Nothing, SHORT).await?;
        let user = self.hops.last().map(|hop| hop.user.clone()).unwrap_or_default();
        if id.out.trim() == "0" {
            return Ok(Way::Root);
        }
        if self.sudo == Sudo::None {
            return Err(InstallError::Sudo(format!("{user} is not root, and ssh.sudo is none")));
        }
        if self.sudo == Sudo::Auto {
            let free = self.as_user("sudo -n -k true", Input::Nothing, SHORT).await?;
            if free.ok() {
                return Ok(Way::Sudo);
            }
            if free.code == Some(127) || free.err.contains("not found") {
                return Err(InstallError::Sudo(format!(
                    "{user} is not root, and there is no sudo: log in as root, or install sudo"
                )));
            }
        }
        let password = self
            .sudo_password
            .as_ref()
            .map_err(|why| InstallError::Sudo(format!("sudo wants a password from {user}, and {why}")))?;
        // Checked alone first: sudo asks up to three times, and would take what is meant for the command as passwords.
        let line = format!("{}\n", password.expose()).into_bytes();
        let tried = self.as_user("sudo -k -S -p '' true", Input::Bytes(line), SHORT).await?;
        if tried.ok() {
            return Ok(Way::SudoPassword);
        }
        let why = if tried.err.contains("not in the sudoers")
            || tried.err.contains("not allowed")
            || tried.err.contains("may not run")
        {
            format!("{user} may not use sudo: add the user to the group sudo, or log in as root")
        } else {
            format!("sudo does not take the password of {user}: see ssh.sudo_password")
        };
        Err(InstallError::Sudo(why))
    }

    /// Runs a script as root; again where the connection broke, so it must bear being run twice. What it says goes to the log, unless `quiet`.
    ///
    /// # Errors
    /// [`InstallError`]; an exit code other than 0 is not one.
    pub async fn root(&self, script: &str, input: &[u8], deadline: Duration, quiet: bool) -> Result<Output> {
        self.root_lines(script, input, deadline, quiet, &mut |_| {}).await
    }

    /// The same; each line of output is given to `line` as it comes.
    ///
    /// # Errors
    /// As for [`Remote::root`].
    pub async fn root_lines(
        &self,
        script: &str,
        input: &[u8],
        deadline: Duration,
        quiet: bool,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output> {
        self.log.line(&format!("$ {script}"));
        let mut tried = 0;
        let outcome = loop {
            let input = if input.is_empty() { Input::Nothing } else { Input::Bytes(input.to_vec()) };
            let outcome = self
                .as_root(script, input, deadline, &mut |text| {
                    if !quiet {
                        self.log.line(&format!("  {text}"));
                    }
                    line(text);
                })
                .await;
            match outcome {
                Err(InstallError::Cut(why)) if tried + 1 < TRIES => {
                    self.log.line(&format!("  {why}; again"));
                    self.drop_connection().await;
                    tokio::time::sleep(Duration::from_millis(500 << tried)).await;
                    tried += 1;
                }
                // A connection that broke a moment ago may take some tries to stand again.
                Err(InstallError::Connect(_)) if tried > 0 && tried + 1 < TRIES => tried += 1,
                outcome => break outcome,
            }
        };
        match &outcome {
            Ok(output) => {
                for text in output.err.lines().take(200) {
                    self.log.line(&format!("  ! {text}"));
                }
                if !output.ok() {
                    self.log.line(&format!("  ended with {:?}", output.code));
                }
            }
            Err(error) => self.log.line(&format!("  failed: {error}")),
        }
        outcome.map_err(|error| match error {
            InstallError::Cut(why) => InstallError::Cut(format!(
                "{why}, {TRIES} times; what was begun on the host may still be at work. Look at the host and the network, then run the same command \
                 again"
            )),
            other => other,
        })
    }

    /// Runs a script as root whose input we keep open: it ends when `input` does.
    ///
    /// # Errors
    /// [`InstallError`]. It is not tried again.
    pub async fn held(
        &self,
        script: &str,
        input: tokio::io::DuplexStream,
        deadline: Duration,
        line: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Output> {
        self.log.line(&format!("$ {script}"));
        self.as_root(script, Input::Stream(Vec::new(), Box::new(input)), deadline, line).await
    }

    /// Connects, becomes root, and has the program on the host: the one that is installed if it is the same, else one that is sent.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn ready(&self, program: &Payload, say: &(dyn Fn(&str) + Sync)) -> Result<()> {
        say("connecting");
        self.connection().await?;
        self.way.get_or_try_init(|| self.find_way()).await?;
        let path = self.send(program, "plenum", say).await?;
        // What can be uploaded cannot always be run: noexec, another architecture.
        let version = self.root(&format!("{path} --version"), b"", SHORT, false).await?;
        if !version.ok() {
            let arch = self.as_user("uname -m", Input::Nothing, SHORT).await?;
            return Err(InstallError::Host(format!(
                "the program does not run on the host ({}): its architecture is {}, ours {}; or {} is mounted with noexec: set ssh.folder to another \
                 folder",
                version.complaint(),
                arch.out.trim(),
                std::env::consts::ARCH,
                self.folder
            )));
        }
        // The first one stays: a second call finds the same.
        let _ = self.program.set(path);
        Ok(())
    }

    /// Has a program on the host, and gives its path.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn send(&self, payload: &Payload, name: &str, say: &(dyn Fn(&str) + Sync)) -> Result<String> {
        let digest = &payload.digest;
        let folder = quoted(&self.folder);
        let find = format!(
            "for f in /opt/plenum/*/{name}; do [ -f \"$f\" ] && [ \"$(sha256sum < \"$f\" | cut -c1-64)\" = {digest} ] && echo \"have $f\" && exit 0; done; \
             umask 077; d={folder}/plenum-install-$(id -u); mkdir -m 700 \"$d\" 2>/dev/null; \
             if [ -L \"$d\" ] || [ ! -d \"$d\" ] || [ ! -O \"$d\" ]; then echo \"$d cannot be made, or is not ours\" >&2; exit 41; fi; chmod 700 \"$d\"; \
             f=\"$d/{name}-{digest}\"; [ -f \"$f\" ] && [ \"$(sha256sum < \"$f\" | cut -c1-64)\" = {digest} ] && echo \"have $f\" && exit 0; \
             command -v gunzip >/dev/null || {{ echo 'there is no gunzip' >&2; exit 42; }}; echo \"want $f\""
        );
        let mut tried = 0;
        loop {
            match self.send_once(payload, &find, say).await {
                Err(InstallError::Cut(why)) if tried + 1 < TRIES => {
                    self.log.line(&format!("{why}; again"));
                    self.drop_connection().await;
                    tokio::time::sleep(Duration::from_millis(500 << tried)).await;
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn send_once(&self, payload: &Payload, find: &str, say: &(dyn Fn(&str) + Sync)) -> Result<String> {
        let refused = |output: &Output| {
            InstallError::Host(format!("the program cannot be put onto the host: {}", output.complaint()))
        };
        let found = self.as_user(find, Input::Nothing, SHORT).await?;
        let (word, path) = found.out.trim().split_once(' ').ok_or_else(|| refused(&found))?;
        if word == "have" {
            return Ok(quoted(path));
        }
        let packed = payload.packed().await?;
        say(&format!("sending the program ({:.0} MB)", packed.len() as f64 / 1e6));
        self.log.line(&format!("sending {} bytes to {path}", packed.len()));
        let (path, digest) = (quoted(path), &payload.digest);
        let take = format!(
            "umask 077; f={path}; gunzip -c > \"$f.new\" && [ \"$(sha256sum < \"$f.new\" | cut -c1-64)\" = {digest} ] && chmod 700 \"$f.new\" && mv \"$f.new\" \
             \"$f\" || {{ rm -f \"$f.new\"; echo 'it did not arrive whole: is the disk full?' >&2; exit 43; }}"
        );
        let stream = Box::new(std::io::Cursor::new(packed));
        let taken = self.as_user(&take, Input::Stream(Vec::new(), stream), SENDING).await?;
        if taken.ok() { Ok(path) } else { Err(refused(&taken)) }
    }

    /// Takes away what was sent, where it is of no use any more.
    pub async fn unsend(&self) {
        // Not from under another installer that is at work: our own lock was given back before.
        let script = format!(
            "[ -e /run/plenum-install.lock ] && exit 0; d={}/plenum-install-$(id -u); [ -O \"$d\" ] && rm -rf \"$d\"",
            quoted(&self.folder)
        );
        if self.connection.lock().await.is_some() {
            // Left behind it does no harm; the next run finds it.
            let _ = self.as_user(&script, Input::Nothing, SHORT).await;
        }
    }

    /// The path of the program on the host, quoted.
    ///
    /// # Errors
    /// [`InstallError::Local`] before [`Remote::ready`].
    pub fn program(&self) -> Result<&str> {
        let missing = || InstallError::Local(format!("{} was not made ready", self.name));
        self.program.get().map(String::as_str).ok_or_else(missing)
    }

    /// Reads the host's clock against ours, the best of three.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn clock(&self) -> Result<Option<Reading>> {
        let mut best: Option<Reading> = None;
        for _ in 0..3 {
            let (begun, before) = (Instant::now(), now_ms());
            let said = self.as_user("date +%s%3N", Input::Nothing, SHORT).await?;
            let took = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
            let Ok(there) = said.out.trim().parse::<i64>() else { return Ok(None) };
            let middle = before.saturating_add(took / 2);
            let reading = Reading { ahead_ms: there.saturating_sub(middle), unsure_ms: took / 2 };
            if best.is_none_or(|best| reading.unsure_ms < best.unsure_ms) {
                best = Some(reading);
            }
        }
        Ok(best)
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A word of the shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_of_the_shell_are_one_word() {
        for text in ["", "a b", "it's", "$(x) `y` \"z\" \\", "'"] {
            let mut said = std::process::Command::new("sh");
            said.arg("-c").arg(format!("printf %s {}", super::quoted(text)));
            assert_eq!(String::from_utf8(said.output().unwrap().stdout).unwrap(), text);
        }
    }
}
