//! `plenum host apply`: makes the host what its spec says. Every step compares and does what is left, so that it may be killed anywhere and
//! run again; what it is going to make is in the manifest before it is made.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_base::places::Role;
use plenum_plan::spec::{Apply, Entry, EtcdProgram, FORMAT, Store};

use crate::enter;
use crate::events::{HostError, Report};
use crate::files::{self, Owner, ROOT};
use crate::layout::Host;
use crate::lock::Lock;
use crate::manifest::{self, Manifest};
use crate::names::{LINK, Names, PROGRAMS, UNITS, USER, bases};
use crate::product::Product;
use crate::systemd;
use crate::units::{self, Making, Unit};

/// Every unit is ready within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A wish that was checked, and what it is carried out with.
struct Work<'a> {
    host: Host,
    apply: &'a Apply,
    product: &'a dyn Product,
    manifest: Manifest,
    /// The manifest as it was found.
    before: Manifest,
    path: PathBuf,
    units: Vec<Unit>,
    /// Texts of the roles' files.
    settings: BTreeMap<Role, String>,
    /// Of each service: what it is started with.
    wanted: BTreeMap<String, String>,
    program: PathBuf,
}

/// Carries `apply` out, and reports what changes. Gives the CA's certificate and the spec's digest.
///
/// # Errors
/// [`HostError`]; what was done until then stays, and the next call goes on from there.
pub fn apply(
    apply: &Apply,
    product: &dyn Product,
    report: &mut Report<'_>,
) -> Result<(String, String), HostError> {
    let _lock = Lock::take()?;
    let mut work = Work::prepare(apply, product)?;
    work.record()?;
    if Names::of(&apply.spec.instance).number != work.host.names.number {
        // The first of its name here: now it has a number, and addresses that go with it.
        work = Work::prepare(apply, product)?;
        work.record()?;
    }
    report.step("programs, user and folders");
    work.programs(report)?;
    let owner = work.user_and_folders(report)?;
    work.resolv_conf(report)?;
    work.silence_others(report)?;
    work.store_files(owner, report)?;
    work.enter(owner, report)?;
    report.step("settings and units");
    work.files(owner, report)?;
    work.move_state(owner, report)?;
    work.start(report)?;
    work.drop_old(report)?;
    work.share(report)?;
    work.finish()
}

fn check(apply: &Apply) -> Result<(), HostError> {
    let wrong = |text: String| Err(HostError::Spec(text));
    let spec = &apply.spec;
    if spec.format > FORMAT {
        return wrong(format!("the spec has format {}, which this release does not know", spec.format));
    }
    if spec.version != env!("CARGO_PKG_VERSION") {
        let own = env!("CARGO_PKG_VERSION");
        return wrong(format!("the spec wants release {}, but this program is {own}", spec.version));
    }
    if spec.kinds.is_empty() {
        return wrong("the spec says nothing about what the host is for".to_owned());
    }
    if spec.address.is_loopback() || spec.address.is_unspecified() {
        return wrong(format!("other hosts cannot reach {}: give the host's own address", spec.address));
    }
    if !nix::unistd::geteuid().is_root() {
        return wrong("this needs root; use sudo".to_owned());
    }
    Ok(())
}

/// A certificate of the operator's etcd is worth nothing without its key, which is not in the spec.
fn check_store(host: &Host, apply: &Apply) -> Result<(), HostError> {
    let Store::External { certificate, .. } = &host.spec.shared.store else { return Ok(()) };
    let there = || host.store_folder().join("key.pem").exists();
    if host.is_master() && !certificate.is_empty() && apply.secrets.store_key.is_none() && !there() {
        return Err(HostError::Spec(
            "the key for the cluster's etcd is missing: set store.key, and add masters with `plenum node add`".to_owned(),
        ));
    }
    Ok(())
}

impl<'a> Work<'a> {
    /// Finds out what is to be made. Changes nothing.
    fn prepare(apply: &'a Apply, product: &'a dyn Product) -> Result<Self, HostError> {
        check(apply)?;
        let systemd = crate::facts::systemd()
            .ok_or_else(|| HostError::Spec("systemd does not run here; hosts need it".to_owned()))?;
        let mut host = Host::new(apply.spec.clone());
        let path = host.names.manifest();
        let before = Manifest::read(&path)?.unwrap_or_default();
        if before.format == 0 && host.places().config(Role::Master).exists() {
            let instance = &apply.spec.instance;
            return Err(HostError::Spec(format!(
                "`plenum up` made the instance {instance} on this machine; remove it with `plenum down --purge --instance {instance}`, \
                 or use another name"
            )));
        }
        host.founder = before.founder || matches!(apply.entry, Entry::Bootstrap { .. });
        enter::check(&host, &apply.entry)?;
        check_store(&host, apply)?;
        let program = Path::new(PROGRAMS).join(&apply.spec.version).join("plenum");
        let making = Making { names: &host.names, program: &program, systemd };
        let mut made = making.shared(host.is_agent());
        let mut settings = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let own = std::env::current_exe().map_err(|error| HostError::System(error.to_string()))?;
        let build = files::digest(&own)?;
        for role in host.roles() {
            let text = product.settings(&host, role).map_err(HostError::Spec)?;
            let role_units = making.role(role, &host.sockets(role));
            // Masters come and go with the cluster's map, which roles follow: the list they begin with is no reason to start them anew.
            let mut constant = host.clone();
            constant.spec.masters = vec![constant.spec.address];
            let lasting = product.settings(&constant, role).map_err(HostError::Spec)?;
            let texts: Vec<&str> = role_units.iter().map(|unit| unit.text.as_str()).collect();
            let started_with = files::digest_of(&[&build, &lasting, &texts.join("\n")]);
            wanted.insert(host.names.service(role), started_with);
            settings.insert(role, text);
            made.extend(role_units);
        }
        let manifest = before.clone();
        Ok(Self { host, apply, product, manifest, before, path, units: made, settings, wanted, program })
    }

    /// Writes down what is going to be made, together with what was there.
    fn record(&mut self) -> Result<(), HostError> {
        let digest = self.host.spec.digest();
        let (host, manifest) = (&self.host, &mut self.manifest);
        manifest.format = manifest::FORMAT;
        manifest.version = host.spec.version.clone();
        manifest.spec = Some(host.spec.clone());
        manifest.founder = host.founder;
        if manifest.digest.as_ref() != Some(&digest) {
            manifest.digest = None;
        }
        for unit in &self.units {
            manifest.units.insert(unit.name.clone());
            manifest.files.insert(format!("{UNITS}/{}", unit.name));
        }
        manifest.files.insert(host.names.tmpfiles().display().to_string());
        manifest.files.insert(self.program.display().to_string());
        manifest.links.insert(LINK.to_owned(), self.program.display().to_string());
        let state = host.places().state;
        let outside = [Some(Path::new(PROGRAMS)), self.program.parent(), state.parent()];
        let run = host.places().run;
        for path in outside.into_iter().flatten().chain(run.parent()) {
            if !path.exists() {
                manifest.folders.insert(path.display().to_string());
            }
        }
        if files::user(USER).is_none() {
            manifest.users.insert(USER.to_owned());
        }
        for folder in host.folders().iter().take(2) {
            files::folder(&folder.path, ROOT, folder.mode)?;
        }
        // The table by which the command line finds instances on a machine.
        bases().open(&host.spec.instance).map_err(|error| HostError::System(error.to_string()))?;
        manifest.write(&self.path)
    }

    fn programs(&mut self, report: &mut Report<'_>) -> Result<(), HostError> {
        let folder = self.program.parent().unwrap_or(Path::new(PROGRAMS)).to_path_buf();
        for path in [Path::new(PROGRAMS), &folder] {
            if files::folder(path, ROOT, 0o755)? {
                report.changed("folder", path.display());
            }
        }
        let own = std::env::current_exe().map_err(|error| HostError::System(error.to_string()))?;
        if files::program(&own, &self.program)? {
            report.changed("file", self.program.display());
        }
        if files::link(Path::new(LINK), &self.program)? {
            report.changed("link", LINK);
        }
        self.etcd_program(&folder, report)
    }

    /// An etcd that was sent along goes beside our own program.
    fn etcd_program(&mut self, folder: &Path, report: &mut Report<'_>) -> Result<(), HostError> {
        let Store::Etcd { program: EtcdProgram::Sent(digest) } = &self.host.spec.shared.store else {
            return Ok(());
        };
        if !self.host.is_master() {
            return Ok(());
        }
        let to = folder.join("etcd");
        if to.is_file() && files::digest(&to)? == *digest {
            return Ok(());
        }
        let missing = || HostError::Spec("the program etcd was to be sent along, and was not".to_owned());
        let from = PathBuf::from(self.apply.etcd.as_ref().ok_or_else(missing)?);
        if files::digest(&from)? != *digest {
            return Err(HostError::Spec(format!("{} is not the etcd that was to be sent", from.display())));
        }
        self.manifest.files.insert(to.display().to_string());
        self.manifest.write(&self.path)?;
        files::program(&from, &to)?;
        report.changed("file", to.display());
        Ok(())
    }

    fn user_and_folders(&self, report: &mut Report<'_>) -> Result<Owner, HostError> {
        let (owner, made) = files::make_user(USER)?;
        if made {
            report.changed("user", USER);
        }
        for folder in self.host.folders() {
            let of = if folder.user == USER { owner } else { ROOT };
            if files::folder(&folder.path, of, folder.mode)? {
                report.changed("folder", folder.path.display());
            }
        }
        Ok(owner)
    }

    /// Containers see theirs in the place of the machine's, which must be there for that.
    fn resolv_conf(&mut self, report: &mut Report<'_>) -> Result<(), HostError> {
        const FILE: &str = "/etc/resolv.conf";
        if !self.host.is_agent() || fs::symlink_metadata(FILE).is_ok() {
            return Ok(());
        }
        self.manifest.empty.insert(FILE.to_owned());
        self.manifest.write(&self.path)?;
        files::file(Path::new(FILE), "", ROOT, 0o644)?;
        report.changed("file", FILE);
        Ok(())
    }

    /// The distribution's etcd starts a member of its own, on the ports of ours.
    fn silence_others(&mut self, report: &mut Report<'_>) -> Result<(), HostError> {
        if !self.host.has_etcd() {
            return Ok(());
        }
        let unit = "etcd.service".to_owned();
        let states = systemd::states(std::slice::from_ref(&unit));
        let Some(state) = states.first() else { return Ok(()) };
        let active = ["active", "activating", "failed"].contains(&state.active.as_str());
        if !state.enabled && !active {
            return Ok(());
        }
        let word = |on: bool, word: &str| if on { word.to_owned() } else { String::new() };
        let was = format!(
            "{} {}",
            word(state.enabled, "enabled"),
            word(["active", "activating"].contains(&state.active.as_str()), "active")
        );
        self.manifest.silenced.entry(unit.clone()).or_insert(was);
        self.manifest.write(&self.path)?;
        systemd::stop(std::slice::from_ref(&unit))?;
        if state.enabled {
            systemd::disable(std::slice::from_ref(&unit));
            report.changed("unit", format!("{unit} (the distribution's own: stopped and disabled)"));
        }
        systemd::reset(std::slice::from_ref(&unit));
        Ok(())
    }

    /// What the operator's own etcd is spoken to with. The roles look at these files by themselves: that they change needs no restart.
    fn store_files(&self, owner: Owner, report: &mut Report<'_>) -> Result<(), HostError> {
        let folder = self.host.store_folder();
        let Store::External { ca, certificate, .. } = &self.host.spec.shared.store else {
            if files::remove_all(&folder)? {
                report.changed("folder", format!("{} (removed)", folder.display()));
            }
            return Ok(());
        };
        if !self.host.is_master() {
            return Ok(());
        }
        // No key given: the one that is there stays.
        let key = if certificate.is_empty() { Some("") } else { self.apply.secrets.store_key.as_deref() };
        for (name, text) in [("ca.pem", Some(ca.as_str())), ("cert.pem", Some(certificate)), ("key.pem", key)]
        {
            let path = folder.join(name);
            let changed = match text {
                Some("") => files::remove(&path)?,
                Some(text) => files::file(&path, text, owner, 0o600)?,
                None => false,
            };
            if changed {
                report.changed("file", path.display());
            }
        }
        Ok(())
    }

    /// Certificates, and on the first master all that a cluster begins with.
    fn enter(&mut self, owner: Owner, report: &mut Report<'_>) -> Result<(), HostError> {
        let begun = self.manifest.begun;
        if enter::enter(&self.host, &self.apply.entry, begun, self.product, report)? {
            report.changed("certificate", self.host.places().pki().display());
        }
        if matches!(self.apply.entry, Entry::Bootstrap { .. }) && !begun {
            self.manifest.begun = true;
            self.manifest.write(&self.path)?;
        }
        self.own(owner)?;
        enter::copy_ca(&self.host)?;
        self.own(owner)
    }

    /// What was made as root is the roles'.
    fn own(&self, owner: Owner) -> Result<(), HostError> {
        let places = self.host.places();
        files::own_all(&places.pki(), owner)?;
        files::own_all(&places.state.join("policy"), owner)?;
        for role in self.host.roles() {
            let of = if units::user(role) == USER { owner } else { ROOT };
            if role != Role::Agent {
                files::own_all(&places.data(role), of)?;
            }
            files::own_all(&places.pki().join(role.as_str()), of)?;
        }
        Ok(())
    }

    fn files(&self, owner: Owner, report: &mut Report<'_>) -> Result<(), HostError> {
        let places = self.host.places();
        for (role, text) in &self.settings {
            let path = places.config(*role);
            if files::file(&path, text, owner, 0o600)? {
                report.changed("file", path.display());
            }
        }
        let mut lines = String::new();
        for folder in self.host.folders().iter().filter(|folder| folder.path.starts_with("/run")) {
            let line = format!(
                "d {} {:04o} {} {} -\n",
                folder.path.display(),
                folder.mode,
                folder.user,
                folder.user
            );
            lines.push_str(&line);
        }
        let tmpfiles = self.host.names.tmpfiles();
        if files::file(&tmpfiles, &lines, ROOT, 0o644)? {
            report.changed("file", tmpfiles.display());
        }
        let mut changed = false;
        for unit in &self.units {
            if files::file(&Path::new(UNITS).join(&unit.name), &unit.text, ROOT, 0o644)? {
                report.changed("unit", &unit.name);
                changed = true;
            }
        }
        if changed {
            systemd::reload()?;
        }
        Ok(())
    }

    /// A single master's state goes to etcd, once. Its roles are away while it moves; tasks, names and addresses are not.
    fn move_state(&mut self, owner: Owner, report: &mut Report<'_>) -> Result<(), HostError> {
        let on_etcd = self.host.has_etcd() || self.host.has_external_store();
        if !on_etcd || !self.host.founder || !self.product.has_embedded(&self.host) {
            return Ok(());
        }
        report.step("moving the state to etcd");
        let with_store = [Role::Gateway, Role::Catalog, Role::Services, Role::Master, Role::Identity];
        let mut away = Vec::new();
        for role in with_store {
            // Sockets first: a call that comes in would start the role again.
            away.extend(self.host.sockets(role).iter().map(|s| self.host.names.socket(role, s.name)));
            away.push(self.host.names.service(role));
        }
        systemd::stop(&away)?;
        if self.host.has_etcd() {
            let etcd = self.host.names.service(Role::Etcd);
            self.bring_up(std::slice::from_ref(&etcd))?;
            // The unit is up before the member answers, on slow machines by far.
            self.wait_for_vote()?;
        }
        self.product.carry_over(&self.host).map_err(HostError::Store)?;
        self.own(owner)?;
        report.changed("store", "etcd");
        Ok(())
    }

    /// Starts services that do not run as they should, their sockets before them, and waits until they say that they are ready.
    fn bring_up(&mut self, services: &[String]) -> Result<(), HostError> {
        let sockets: Vec<String> = self
            .units
            .iter()
            .filter(|unit| unit.name.ends_with(".socket"))
            .filter(|unit| services.iter().any(|service| unit.text.contains(&format!("Service={service}\n"))))
            .map(|unit| unit.name.clone())
            .collect();
        let states = systemd::states(services);
        let stale = |name: &String| self.manifest.running.get(name) != self.wanted.get(name);
        let restart: Vec<String> = services.iter().filter(|name| stale(name)).cloned().collect();
        let down = |name: &String| states.iter().any(|state| state.name == *name && state.active != "active");
        let start: Vec<String> = services.iter().filter(|name| down(name)).cloned().collect();
        let changed_sockets: Vec<String> = sockets
            .iter()
            .filter(|name| self.manifest.running.get(*name) != self.socket_digest(name).as_ref())
            .cloned()
            .collect();
        if !changed_sockets.is_empty() {
            // systemd refuses a new socket under a running service.
            let mut both: Vec<String> =
                services.iter().filter(|name| self.owns(name, &changed_sockets)).cloned().collect();
            both.extend(changed_sockets.iter().cloned());
            systemd::stop(&both)?;
        }
        systemd::start(&sockets)?;
        systemd::wait_active(&sockets, Duration::from_secs(20))?;
        systemd::reset(services);
        systemd::restart(&restart)?;
        systemd::start(&start)?;
        systemd::wait_active(services, PATIENCE)?;
        for name in services {
            if let Some(digest) = self.wanted.get(name) {
                self.manifest.running.insert(name.clone(), digest.clone());
            }
        }
        for name in &sockets {
            if let Some(digest) = self.socket_digest(name) {
                self.manifest.running.insert(name.clone(), digest);
            }
        }
        self.manifest.write(&self.path)
    }

    fn socket_digest(&self, name: &str) -> Option<String> {
        let unit = self.units.iter().find(|unit| unit.name == name)?;
        Some(files::digest_of(&[&unit.text]))
    }

    fn owns(&self, service: &str, sockets: &[String]) -> bool {
        let line = format!("Service={service}\n");
        self.units.iter().any(|unit| sockets.contains(&unit.name) && unit.text.contains(&line))
    }

    fn start(&mut self, report: &mut Report<'_>) -> Result<(), HostError> {
        let names = self.host.names.clone();
        let mut enable: Vec<String> = self
            .units
            .iter()
            .filter(|unit| unit.text.contains("\n[Install]\n"))
            .map(|unit| unit.name.clone())
            .collect();
        enable.retain(|name| systemd::states(std::slice::from_ref(name)).iter().all(|state| !state.enabled));
        systemd::enable(&enable)?;
        let mut holders = vec![names.target()];
        if self.host.is_agent() {
            holders.push(names.tasks_service());
        }
        let before = systemd::states(&self.wanted.keys().cloned().collect::<Vec<_>>());
        if self.host.is_agent() {
            systemd::start(&[names.tasks_service()])?;
            systemd::wait_active(&[names.tasks_service()], Duration::from_secs(20))?;
        }
        // The store before those that keep state in it, identity before those that ask it.
        let roles = self.host.roles();
        let early = [Role::Etcd, Role::Identity];
        for role in early.iter().filter(|role| roles.contains(role)) {
            report.step(format!("starting {role}"));
            self.bring_up(&[names.service(*role)])?;
            if *role == Role::Etcd {
                self.wait_for_vote()?;
            }
        }
        let rest: Vec<String> =
            roles.iter().filter(|role| !early.contains(role)).map(|role| names.service(*role)).collect();
        report.step(format!("starting {} roles", rest.len()));
        self.bring_up(&rest)?;
        systemd::start(&holders)?;
        systemd::wait_active(&holders, Duration::from_secs(20))?;
        for state in systemd::states(&self.wanted.keys().cloned().collect::<Vec<_>>()) {
            let was = before.iter().find(|was| was.name == state.name);
            if was.is_none_or(|was| was.pid != state.pid) {
                report.changed("unit", format!("{} (started)", state.name));
            }
        }
        Ok(())
    }

    /// A master counts once its member of etcd votes: the next one is let in after that only.
    fn wait_for_vote(&self) -> Result<(), HostError> {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let doing = match self.product.votes(&self.host) {
                Ok(None) => return Ok(()),
                Ok(Some(doing)) => doing,
                Err(reason) => reason,
            };
            if std::time::Instant::now() >= end {
                let text = format!(
                    "this host's member of etcd does not vote after {} s: {doing}",
                    PATIENCE.as_secs()
                );
                return Err(HostError::Store(text));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Units of roles that the host does not have any more.
    fn drop_old(&mut self, report: &mut Report<'_>) -> Result<(), HostError> {
        let wanted: BTreeSet<&String> = self.units.iter().map(|unit| &unit.name).collect();
        let old: Vec<String> =
            self.before.units.iter().filter(|name| !wanted.contains(name)).cloned().collect();
        if old.is_empty() {
            return Ok(());
        }
        // Sockets before services, or a call would start one again.
        let mut sorted = old.clone();
        sorted.sort_by_key(|name| !name.ends_with(".socket"));
        systemd::stop(&sorted)?;
        systemd::disable(&sorted);
        for name in &old {
            files::remove(&Path::new(UNITS).join(name))?;
            self.manifest.units.remove(name);
            self.manifest.running.remove(name);
            self.manifest.files.remove(&format!("{UNITS}/{name}"));
            report.changed("unit", format!("{name} (removed)"));
        }
        let programs: Vec<String> = self
            .before
            .files
            .iter()
            .filter(|file| {
                file.starts_with(PROGRAMS)
                    && !file
                        .starts_with(&*self.program.parent().unwrap_or(Path::new(PROGRAMS)).to_string_lossy())
            })
            .cloned()
            .collect();
        for file in programs {
            files::remove(Path::new(&file))?;
            if let Some(folder) = Path::new(&file).parent() {
                let _ = fs::remove_dir(folder);
            }
            self.manifest.files.remove(&file);
        }
        systemd::reload()
    }

    /// Tells identity what hosts that join by themselves must know.
    fn share(&self, report: &mut Report<'_>) -> Result<(), HostError> {
        if self.host.is_master() && enter::share(&self.host)? {
            report.changed("store", "the shared settings");
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(String, String), HostError> {
        let digest = self.host.spec.digest();
        self.manifest.digest = Some(digest.clone());
        self.manifest.write(&self.path)?;
        let ca = self.host.places().ca();
        let ca = fs::read_to_string(&ca).map_err(HostError::at(&ca))?;
        Ok((ca, digest))
    }
}
