//! `plenum host remove`: takes back what `apply` made, by the manifest. State stays unless it is purged; with `purge` the host is as it was.
//! May be killed anywhere and run again: the manifest goes last.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plenum_base::places::{Instance, Places};

use crate::events::{HostError, Report};
use crate::files;
use crate::layout::Host;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::names::{Names, UNITS, bases};
use crate::product::Product;
use crate::run::run;
use crate::systemd;

/// Tasks have so long to end by themselves, then they are killed.
const POLITE: Duration = Duration::from_secs(5);
/// And then all of them are gone, or something is wrong with the machine.
const ENDED: Duration = Duration::from_secs(20);

/// Takes `instance` off this host.
///
/// # Errors
/// [`HostError`]; what was removed until then is gone, and the next call goes on from there.
pub fn remove(
    instance: &Instance,
    purge: bool,
    product: &dyn Product,
    report: &mut Report<'_>,
) -> Result<(String, String), HostError> {
    let _lock = Lock::take()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(HostError::Spec("this needs root; use sudo".to_owned()));
    }
    let names = Names::of(instance);
    let path = names.manifest();
    let Some(mut manifest) = Manifest::read(&path)? else {
        report.note(format!("this host is in no cluster {instance}"));
        return Ok(Default::default());
    };
    manifest.digest = None;
    manifest.running.clear();
    manifest.write(&path)?;
    let others = others(instance);
    let work = Removal { names: &names, manifest: &manifest, others: &others };
    report.step("stopping roles and tasks");
    work.stop(report)?;
    report.step("tables, control groups and mounts");
    if let Some(spec) = manifest.spec.clone()
        && let Err(reason) = product.remove_network(&Host::new(spec))
    {
        report.note(format!("the virtual addresses: {reason}"));
    }
    work.unmount(report);
    work.groups(report);
    report.step("units and files");
    work.units(report)?;
    work.restore(report);
    work.state(purge, report)?;
    work.shared(purge, report)?;
    Ok(Default::default())
}

/// The manifests of other clusters on this host.
fn others(instance: &Instance) -> Vec<Manifest> {
    let base = Names::of(instance).places().state.parent().map(PathBuf::from).unwrap_or_default();
    fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name() != instance.as_str())
        .filter_map(|entry| Manifest::read(&entry.path().join("host.json")).ok().flatten())
        .collect()
}

struct Removal<'a> {
    names: &'a Names,
    manifest: &'a Manifest,
    others: &'a [Manifest],
}

impl Removal<'_> {
    fn places(&self) -> Places {
        self.names.places()
    }

    /// Units that no other cluster on this host uses.
    fn own_units(&self) -> Vec<String> {
        let shared: BTreeSet<&String> = self.others.iter().flat_map(|other| &other.units).collect();
        self.manifest.units.iter().filter(|name| !shared.contains(name)).cloned().collect()
    }

    fn stop(&self, report: &mut Report<'_>) -> Result<(), HostError> {
        // Sockets before services, or a call would start one again; tasks after their agent; slices, which hold all of it, last.
        let order = |name: &String| match name {
            name if name.ends_with(".target") => 0,
            name if name.ends_with(".socket") => 1,
            name if *name == self.names.tasks_service() => 3,
            name if name.ends_with(".slice") => 4,
            _ => 2,
        };
        let mut units = self.own_units();
        units.sort_by_key(|name| (order(name), name.clone()));
        for stage in 0..=4 {
            let some: Vec<String> = units.iter().filter(|name| order(name) == stage).cloned().collect();
            let running = systemd::states(&some).iter().filter(|state| state.active == "active").count();
            systemd::stop(&some)?;
            if stage == 3 && (self.end_tasks()? || running > 0) {
                report.changed("task", "every task was ended");
            }
        }
        Ok(())
    }

    /// Ends what is left in the tasks' control groups, politely first. With control groups of version 1 systemd does not wait for those of a
    /// group that it handed over. True: there was something.
    fn end_tasks(&self) -> Result<bool, HostError> {
        use nix::sys::signal::{Signal, kill};
        let begun = Instant::now();
        let mut found = false;
        let mut asked = false;
        loop {
            let pids = self.members();
            if pids.is_empty() {
                return Ok(found);
            }
            found = true;
            let late = begun.elapsed() >= POLITE;
            if begun.elapsed() >= ENDED {
                let text =
                    format!("{} processes of tasks do not end; are they waiting for a disk?", pids.len());
                return Err(HostError::System(text));
            }
            for pid in pids.iter().filter(|_| late || !asked) {
                let signal = if late { Signal::SIGKILL } else { Signal::SIGTERM };
                let _ = kill(nix::unistd::Pid::from_raw(*pid), signal);
            }
            asked = true;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The processes in the tasks' control groups, in every hierarchy.
    fn members(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for mount in hierarchies() {
            gather(&mount.join(self.names.tasks_group()), &mut pids);
        }
        pids
    }

    /// Whatever is still mounted below our folders.
    fn unmount(&self, report: &mut Report<'_>) {
        let places = self.places();
        let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut mounts: Vec<&str> = info.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        mounts.reverse();
        for mount in mounts {
            // The state folder itself may be a file system of the operator's.
            let ours = [&places.state, &places.run]
                .iter()
                .any(|folder| Path::new(mount).starts_with(folder) && Path::new(mount) != folder.as_path());
            if ours && nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).is_ok() {
                report.changed("mount", mount);
            }
        }
    }

    /// Control groups in hierarchies that systemd does not look after, such as v1's freezer.
    fn groups(&self, report: &mut Report<'_>) {
        for mount in hierarchies() {
            let mut group = mount.join(self.names.tasks_group());
            if group.is_dir() && prune(&group) {
                report.changed("cgroup", group.display());
            }
            while group.pop() && group != mount {
                // Fails where another cluster is below it, or systemd needs it still.
                if fs::remove_dir(&group).is_err() {
                    break;
                }
            }
        }
    }

    fn units(&self, report: &mut Report<'_>) -> Result<(), HostError> {
        let units = self.own_units();
        systemd::disable(&units);
        let mut changed = false;
        for name in &units {
            if files::remove(&Path::new(UNITS).join(name))? {
                report.changed("unit", name);
                changed = true;
            }
            // What a file of the same name with overrides leaves.
            let _ = fs::remove_dir(Path::new(UNITS).join(format!("{name}.d")));
        }
        let _ = fs::remove_dir(Path::new(UNITS).join(format!("{}.wants", self.names.target())));
        if changed {
            systemd::reload()?;
        }
        systemd::reset(&units);
        Ok(())
    }

    /// Units of others that were silenced are as they were.
    fn restore(&self, report: &mut Report<'_>) {
        for (unit, was) in &self.manifest.silenced {
            if self.others.iter().any(|other| other.silenced.contains_key(unit)) {
                continue;
            }
            let unit = std::slice::from_ref(unit);
            let mut done = Ok(());
            if was.contains("enabled") {
                done = systemd::enable(unit);
            }
            if was.contains("active") {
                done = done.and_then(|()| systemd::start(unit));
            }
            match done {
                Ok(()) => report.changed("unit", format!("{} (as it was before)", unit.concat())),
                Err(error) => report.note(format!("{} is not as it was before: {error}", unit.concat())),
            }
        }
    }

    fn state(&self, purge: bool, report: &mut Report<'_>) -> Result<(), HostError> {
        let places = self.places();
        if files::remove_all(&places.run)? {
            report.changed("folder", places.run.display());
        }
        if purge {
            // Its manifest last: a crash in between must leave it.
            for entry in fs::read_dir(&places.state).into_iter().flatten().flatten() {
                let path = entry.path();
                if path == self.names.manifest() {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    files::remove_all(&path)?;
                } else {
                    files::remove(&path)?;
                }
            }
        }
        Ok(())
    }

    /// What several clusters on a host share goes with the last one.
    fn shared(&self, purge: bool, report: &mut Report<'_>) -> Result<(), HostError> {
        let manifest = self.manifest;
        for file in &manifest.files {
            let path = Path::new(file);
            if !self.others.iter().any(|other| other.files.contains(file)) && files::remove(path)? {
                report.changed("file", path.display());
            }
        }
        for file in &manifest.empty {
            let path = Path::new(file);
            let needed = self.others.iter().any(|other| other.empty.contains(file));
            if !needed && fs::metadata(path).is_ok_and(|meta| meta.len() == 0) && files::remove(path)? {
                report.changed("file", file);
            }
        }
        for (link, to) in &manifest.links {
            let path = Path::new(link);
            let ours = fs::read_link(path).is_ok_and(|there| there == Path::new(to));
            if ours && !self.others.iter().any(|other| other.links.contains_key(link)) && files::remove(path)?
            {
                report.changed("link", link);
            }
        }
        if !purge {
            let state = self.places().state;
            report.note(format!("the host's state is still in {}; --purge removes it too", state.display()));
            return self.folders(report);
        }
        for user in manifest.users.iter().filter(|_| self.others.is_empty()) {
            if files::user(user).is_some() {
                let said = run("userdel", &[user], Duration::from_secs(30));
                if !said.ok {
                    return Err(HostError::System(format!("the user {user}: {}", said.complaint())));
                }
                report.changed("user", user);
            }
        }
        let state = self.places().state;
        bases().forget(&self.names.instance).map_err(|error| HostError::System(error.to_string()))?;
        files::remove(&self.names.manifest())?;
        if fs::remove_dir(&state).is_ok() {
            report.changed("folder", state.display());
        }
        if bases().instances().is_ok_and(|table| table.is_empty()) {
            for file in ["instances.json", "instances.lock"] {
                files::remove(&bases().state.join(file))?;
            }
        }
        self.folders(report)
    }

    /// Folders that were not there before, the deepest first, if nobody put anything into them.
    fn folders(&self, report: &mut Report<'_>) -> Result<(), HostError> {
        let mut folders: Vec<&String> = self.manifest.folders.iter().collect();
        folders.sort_by_key(|path| std::cmp::Reverse(path.len()));
        for folder in folders {
            if fs::remove_dir(folder).is_ok() {
                report.changed("folder", folder);
            }
        }
        Ok(())
    }
}

/// Where the hierarchies of control groups are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    };
    info.lines().filter_map(mount).collect()
}

/// The processes of a control group and of those in it.
fn gather(group: &Path, pids: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), pids);
        }
    }
}

/// Removes a control group with those in it.
fn prune(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            prune(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok()
}
