//! Carrying a plan out: the first master, the other masters one by one, the rest side by side, those who leave; then waiting until all is well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plenum_plan::HostSpec;
use plenum_plan::spec::{Apply, Entry, EtcdProgram, Event, Kind, Secrets, Store};
use plenum_plan::steps::{Action, Plan, Stage, Step};
use serde::Serialize;
use tokio::time::sleep;

use crate::error::{InstallError, Result};
use crate::look;
use crate::remote::{Remote, SHORT, quoted};
use crate::secrets::Secret;
use crate::work::Work;

/// A host that is still busy with what an installer before us began is asked again for so long.
const BUSY: Duration = Duration::from_secs(180);

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Done {
    /// Things that were made, changed, started or removed, on all hosts.
    pub changed: u64,
    /// Steps and how long each took.
    pub times: Vec<Took>,
    /// PEM: the cluster's CA certificate, if a host told it.
    #[serde(skip)]
    pub ca: String,
    /// What hosts said beside.
    pub notes: Vec<String>,
}

/// How long something took.
#[derive(Debug, Clone, Serialize)]
pub struct Took {
    /// The host, or empty for the whole.
    pub host: String,
    /// What.
    pub step: String,
    /// Seconds since the run began.
    pub from: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Things changed.
    pub changed: u64,
}

/// What one host's part came to.
#[derive(Debug, Default)]
struct Part {
    changed: u64,
    ca: String,
    notes: Vec<String>,
}

impl Work {
    /// Takes the steps of a plan.
    ///
    /// # Errors
    /// What the first step that failed said; those side by side with it are finished first.
    pub async fn carry(&self, plan: &Plan, password: Option<&Secret>, begun: Instant) -> Result<Done> {
        let mut done = Done::default();
        for stage in [Stage::First, Stage::Masters, Stage::Hosts, Stage::Leaving] {
            let steps: Vec<&Step> = plan.steps.iter().filter(|step| step.stage == stage).collect();
            if stage == Stage::Hosts {
                self.side_by_side(plan, &steps, begun, &mut done).await?;
                continue;
            }
            for step in steps {
                let from = begun.elapsed();
                let part = if step.what == Action::Leave {
                    self.take_out(plan, &step.host, &step.host, true, true)
                        .await
                        .map(|()| Part { changed: 1, ..Part::default() })
                } else {
                    self.apply_one(plan, step, password).await
                };
                self.note(&mut done, step, from, begun, part)?;
            }
        }
        Ok(done)
    }

    async fn side_by_side(
        &self,
        plan: &Plan,
        steps: &[&Step],
        begun: Instant,
        done: &mut Done,
    ) -> Result<()> {
        let remotes =
            steps.iter().map(|step| self.remote(&step.host).cloned()).collect::<Result<Vec<_>>>()?;
        let parts = self
            .each(&remotes, |remote| {
                let step = steps.iter().find(|step| step.host == remote.name);
                async move {
                    let from = begun.elapsed();
                    let Some(step) = step else { return Ok((from, begun.elapsed(), Part::default())) };
                    let part = self.apply_one(plan, step, None).await?;
                    Ok((from, begun.elapsed(), part))
                }
            })
            .await;
        let mut failed = Vec::new();
        for ((name, part), step) in parts.into_iter().zip(steps) {
            match part {
                Ok((from, to, part)) => {
                    let took = to.saturating_sub(from);
                    self.add(done, step, from, took, part);
                }
                Err(error) => failed.push((name, error)),
            }
        }
        let count = failed.len();
        match failed.into_iter().next() {
            None => Ok(()),
            Some((name, error)) => {
                let more = if count > 1 { format!(" ({} more failed)", count - 1) } else { String::new() };
                Err(self.told(&name, &error, &more))
            }
        }
    }

    fn note(
        &self,
        done: &mut Done,
        step: &Step,
        from: Duration,
        begun: Instant,
        part: Result<Part>,
    ) -> Result<()> {
        let part = part.map_err(|error| self.told(&step.host, &error, ""))?;
        self.add(done, step, from, begun.elapsed().saturating_sub(from), part);
        Ok(())
    }

    fn add(&self, done: &mut Done, step: &Step, from: Duration, took: Duration, part: Part) {
        done.changed = done.changed.saturating_add(part.changed);
        if !part.ca.is_empty() {
            done.ca = part.ca;
        }
        done.notes.extend(part.notes.iter().map(|note| format!("{}: {note}", step.host)));
        done.times.push(Took {
            host: step.host.clone(),
            step: step.what.as_str().to_owned(),
            from: from.as_secs_f64(),
            seconds: took.as_secs_f64(),
            changed: part.changed,
        });
    }

    /// An error with the host, its log, and that it can be gone on.
    fn told(&self, host: &str, error: &InstallError, more: &str) -> InstallError {
        let log = self.remote(host).map(|remote| remote.log.path().display().to_string()).unwrap_or_default();
        let text = format!(
            "{host}: {error}{more}\nIts log here: {log}. What is done stays done: run the same command again to go on"
        );
        match error {
            InstallError::Cut(_) => InstallError::Cut(text),
            InstallError::Connect(_) => InstallError::Connect(text),
            InstallError::Deadline(_) => InstallError::Deadline(text),
            InstallError::Sudo(_) => InstallError::Sudo(text),
            InstallError::Busy(_) => InstallError::Busy(text),
            _ => InstallError::Host(text),
        }
    }

    /// Masters of the plan that are in the cluster when `step` is taken: those before it, and those that are unchanged or only told something.
    fn sponsors<'a>(&self, plan: &'a Plan, step: &Step) -> Vec<&'a HostSpec> {
        let mut sponsors = Vec::new();
        let inside = |name: &str| match plan.steps.iter().position(|other| other.host == name) {
            None => true,
            Some(at) => {
                let own =
                    plan.steps.iter().position(|other| other.host == step.host && other.what == step.what);
                let there = plan
                    .steps
                    .get(at)
                    .is_some_and(|other| matches!(other.what, Action::Update | Action::Repair));
                there || own.is_some_and(|own| at < own)
            }
        };
        for host in self.cluster.masters() {
            if host.name != step.host
                && inside(&host.name)
                && let Some(spec) = plan.specs.get(&host.name)
            {
                sponsors.push(spec);
            }
        }
        sponsors
    }

    async fn apply_one(&self, plan: &Plan, step: &Step, password: Option<&Secret>) -> Result<Part> {
        let remote = self.remote(&step.host)?;
        let say = |text: &str| self.progress.host(&remote.name, text);
        say(&format!("{}: {}", step.what.as_str(), step.why));
        let spec = plan
            .specs
            .get(&step.host)
            .ok_or_else(|| InstallError::Local(format!("{} has no spec", step.host)))?;
        let entry = match step.what {
            Action::Bootstrap => {
                let password =
                    password.ok_or_else(|| InstallError::Local("there is no first password".to_owned()))?;
                Entry::Bootstrap {
                    user: self.cluster.admin.user.clone(),
                    password: password.expose().to_owned(),
                }
            }
            Action::Join => self.invite(plan, step, spec).await?,
            _ => Entry::Member,
        };
        let sent = spec.is(Kind::Master)
            && matches!(spec.shared.store, Store::Etcd { program: EtcdProgram::Sent(_) });
        let etcd = match (&self.etcd, sent) {
            (Some(etcd), true) => {
                // The host's program takes a path, not a word of the shell.
                Some(remote.send(etcd, "etcd", &say).await?.trim_matches('\'').to_owned())
            }
            _ => None,
        };
        let secrets = Secrets { store_key: self.store_key.clone().filter(|_| spec.is(Kind::Master)) };
        let apply = Apply { spec: spec.clone(), entry, etcd, secrets };
        let input = serde_json::to_vec(&apply).map_err(|error| InstallError::Local(error.to_string()))?;
        let limit = Duration::from_secs(self.cluster.limits.host_seconds.into());
        let part = patiently(limit.max(BUSY), || self.tell(remote, "host apply", &input, limit)).await?;
        say(&format!("done, {} changes", part.changed));
        Ok(part)
    }

    /// Has the host's program do something, and reads its lines.
    async fn tell(&self, remote: &Remote, verb: &str, input: &[u8], limit: Duration) -> Result<Part> {
        let script = format!("exec {} {verb}", remote.program()?);
        let mut part = Part::default();
        let mut failed = None;
        let mut done = None;
        let said = remote
            .root_lines(&script, input, limit, false, &mut |line| match serde_json::from_str::<Event>(line) {
                Ok(Event::Step { what }) => self.progress.host(&remote.name, &what),
                Ok(Event::Changed { .. }) => part.changed = part.changed.saturating_add(1),
                Ok(Event::Note { text }) => part.notes.push(text),
                Ok(Event::Done { ca, .. }) => done = Some(ca),
                Ok(Event::Failed { code, message }) => failed = Some((code, message)),
                Err(_) => {}
            })
            .await?;
        match (failed, done) {
            (Some((code, message)), _) if code == "busy" => Err(InstallError::Busy(message)),
            (Some((_, message)), _) => Err(InstallError::Host(message)),
            (None, Some(ca)) if said.ok() => {
                part.ca = ca;
                Ok(part)
            }
            _ => Err(InstallError::Host(format!("it ended too early: {}", said.complaint()))),
        }
    }

    /// A token for a host, from the first master that gives one.
    async fn invite(&self, plan: &Plan, step: &Step, spec: &HostSpec) -> Result<Entry> {
        let kind = spec.kinds.first().copied().unwrap_or(Kind::Agent);
        let sponsors = self.sponsors(plan, step);
        let at: Vec<IpAddr> = sponsors.iter().map(|sponsor| sponsor.address).collect();
        let mut last =
            InstallError::Refused("no master of the cluster could be asked for a join token".to_owned());
        let end = Instant::now() + SHORT;
        // A master that came up a moment ago may have no store to write to yet.
        while Instant::now() < end {
            for sponsor in &sponsors {
                let remote = self.remote(&sponsor.name)?;
                let script = format!(
                    "exec {} install on-host mint --instance {} --address {} --kind {kind}",
                    remote.program()?,
                    self.cluster.name,
                    sponsor.address
                );
                match remote.root(&script, b"", SHORT, true).await {
                    Ok(said) if said.ok() && said.out.trim().starts_with("plenum1.") => {
                        return Ok(Entry::Join { at, token: said.out.trim().to_owned() });
                    }
                    Ok(said) => {
                        last = InstallError::Host(format!(
                            "{} gives no join token: {}",
                            sponsor.name,
                            said.complaint()
                        ))
                    }
                    Err(error) => last = error,
                }
            }
            if sponsors.is_empty() {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        Err(last)
    }

    /// Takes a host out of the cluster's map, asking masters other than itself.
    ///
    /// # Errors
    /// What the last master said.
    pub async fn take_out(
        &self,
        plan: &Plan,
        name: &str,
        not: &str,
        master: bool,
        member: bool,
    ) -> Result<()> {
        let mut last = InstallError::Refused("no master of the cluster could be asked".to_owned());
        for host in self.cluster.masters().filter(|host| host.name != not) {
            if plan.steps.iter().any(|step| step.host == host.name && step.what == Action::Join)
                && master
                && plan.unchanged.is_empty()
            {
                continue;
            }
            let remote = self.remote(&host.name)?;
            let Ok(program) = remote.program() else { continue };
            let script = format!(
                "exec {program} install on-host leave --instance {} --address {}{}{} -- {}",
                self.cluster.name,
                host.address,
                if master { " --as-master" } else { "" },
                if member { " --as-member" } else { "" },
                quoted(name)
            );
            match remote.root(&script, b"", SHORT * 2, false).await {
                Ok(said) if said.ok() => return Ok(()),
                Ok(said) => last = InstallError::Host(format!("{}: {}", host.name, said.complaint())),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Takes back what was made on hosts. A host on which nothing is left is no error.
    pub async fn remove(&self, remotes: &[Arc<Remote>], purge: bool) -> Vec<(String, Result<u64>)> {
        let verb =
            format!("host remove --instance {}{}", self.cluster.name, if purge { " --purge" } else { "" });
        let (limit, verb) = (Duration::from_secs(self.cluster.limits.host_seconds.into()), &verb);
        self.each(remotes, |remote| async move {
            self.progress.host(&remote.name, "removing");
            let done = patiently(limit.max(BUSY), || self.tell(&remote, verb, b"", limit)).await;
            match &done {
                Ok(part) => self.progress.host(&remote.name, &format!("removed, {} changes", part.changed)),
                Err(error) => self.progress.host(&remote.name, &format!("failed: {error}")),
            }
            done.map(|part| part.changed)
        })
        .await
    }

    /// Waits until every host says that it is healthy.
    ///
    /// # Errors
    /// [`InstallError::Deadline`] with what each host that is not says.
    pub async fn wait_healthy(&self, remotes: &[Arc<Remote>]) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(self.cluster.limits.healthy_seconds.into());
        let mut waiting: Vec<Arc<Remote>> = remotes.to_vec();
        let mut why: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let looked = self.each(&waiting, |remote| async move { look::facts(&remote).await }).await;
            for (name, facts) in looked {
                let problem = match facts {
                    Ok(facts) => match facts.installed(&self.cluster.name) {
                        Some(there) if there.healthy => None,
                        Some(there) => Some(
                            there
                                .problems
                                .first()
                                .cloned()
                                .unwrap_or_else(|| "a unit does not run".to_owned()),
                        ),
                        None => Some("nothing is installed".to_owned()),
                    },
                    Err(error) => Some(error.to_string()),
                };
                match problem {
                    None => {
                        self.progress.host(&name, "healthy");
                        why.remove(&name);
                        waiting.retain(|remote| remote.name != name);
                    }
                    Some(problem) => {
                        self.progress.host(&name, &format!("waiting: {problem}"));
                        why.insert(name, problem);
                    }
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                let words: Vec<String> = why.iter().map(|(name, why)| format!("{name}: {why}")).collect();
                return Err(InstallError::Deadline(format!(
                    "not healthy within {} s: {}. See `plenum status` and `journalctl -u 'plenum*'` there; then run the same command again",
                    self.cluster.limits.healthy_seconds,
                    words.join("; ")
                )));
            }
            sleep(Duration::from_millis(700)).await;
        }
    }
}

/// Again while the host is busy with what was begun before.
async fn patiently<T, F: Future<Output = Result<T>>>(limit: Duration, work: impl Fn() -> F) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match work().await {
            Err(InstallError::Busy(_)) if Instant::now() < end => sleep(Duration::from_secs(1)).await,
            done => return done,
        }
    }
}
