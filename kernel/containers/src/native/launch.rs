//! Launching: the description, the shim, its answer.

use super::actor::{Handle, kill_leftovers};
use super::connection::{self, Connection, Inbox};
use super::{Inner, Slot, disk, ids, launched};
use crate::cgroup::plan::{deny_devices, hold_to_devices, plan};
use crate::inside;
use crate::runtime::{Launched, RuntimeError};
use crate::spec::{ContainerSpec, LogBudget};
use crate::user::{self, User};
use plenum_shim::wire::{self, Contain, Inside, Launch, Logs, More, Pid, Reply, Request, Share, State, ns};
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

/// Makes a folder for the owner alone; `shared` accepts one that exists, belongs to us and is not open to others.
pub fn private_dir(dir: &Path, shared: bool) -> std::io::Result<()> {
    if shared && let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if shared && error.kind() == ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(dir)?;
            let ours =
                meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0;
            if ours {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::PermissionDenied, "others could write to it"))
            }
        }
        other => other,
    }
}

/// How long a launch may take before the next one has its turn.
const TURN: Duration = Duration::from_millis(500);

/// Launches that are under way at a time. Each keeps a processor busy; more of them at once only get into each other's way.
pub fn at_once() -> usize {
    2 + 2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// See [`crate::Runtime::launch`].
pub async fn launch(inner: &Arc<Inner>, spec: ContainerSpec) -> Result<Launched, RuntimeError> {
    let id = spec.id.clone();
    if let std::collections::btree_map::Entry::Vacant(slot) = inner.table.lock().entry(id.clone()) {
        slot.insert(Slot::Launching);
    } else {
        return Err(RuntimeError::Exists(id));
    }
    let outcome = {
        let turn = inner.starting.acquire().await;
        let mut start = std::pin::pin!(start(inner, &spec));
        match tokio::time::timeout(TURN, &mut start).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(turn);
                start.await
            }
        }
    };
    let mut table = inner.table.lock();
    match outcome {
        Ok(handle) => {
            let answer = handle.state.as_ref().map(launched);
            table.insert(id.clone(), Slot::Known(Arc::new(handle)));
            answer.ok_or(RuntimeError::NotFound(id))
        }
        Err(error) => {
            table.remove(&id);
            inner.ids.lock().give_back(&id);
            Err(error)
        }
    }
}

async fn start(inner: &Arc<Inner>, spec: &ContainerSpec) -> Result<Handle, RuntimeError> {
    let run_dir = inner.dir(&spec.id);
    let deadline = spec.launch_deadline;
    let (unsaid, groups, child, stream, notes) = {
        let (inner, spec, run_dir) = (Arc::clone(inner), spec.clone(), run_dir.clone());
        may_block(move || begin(&inner, &spec, &run_dir)).await??
    };
    let mut talk = Talk { shim: None };
    // The shim keeps the deadline itself; the agent's is for a shim that does not.
    let told = tokio::time::timeout(deadline + Duration::from_secs(2), talk.through(stream, &unsaid)).await;
    let failure = match told {
        Ok(Ok((mut state, connection))) => {
            reap(child);
            state.warnings.extend(notes);
            return Ok(Handle::supervised(state, run_dir, Some(connection)));
        }
        Ok(Err(error)) => error,
        Err(_) => RuntimeError::Deadline(format!("the launch of container {}", spec.id)),
    };
    let shim = talk.shim.unwrap_or_default();
    let clean = move || clean_up(child, &run_dir, shim, groups);
    let _shutting_down = spawn_blocking(clean).await;
    Err(failure)
}

fn abandoned() -> RuntimeError {
    RuntimeError::Refused("the launch was abandoned by a shutdown".into())
}

/// Does what blocks for a moment where it is: waking another thread for it would cost a busy machine more than the work itself.
async fn may_block<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RuntimeError> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(tokio::task::block_in_place(work)),
        _ => spawn_blocking(work).await.map_err(|_| abandoned()),
    }
}

/// What is left to be said to the shim, its groups, itself.
type Begun = (Vec<u8>, Vec<Vec<u8>>, Child, UnixStream, Vec<String>);

/// Everything that touches files and processes, on a thread that may block.
fn begin(inner: &Inner, spec: &ContainerSpec, run_dir: &Path) -> Result<Begun, RuntimeError> {
    let user = find_user(inner, spec)?;
    let machine = &inner.machine;
    let mut launch = Box::new(spec.describe(run_dir, user.as_ref(), machine.namespaces));
    let (mut groups, mut notes) = plan(&machine.cgroups.usable, &spec.id, &spec.limits);
    // Without the capability there is nothing to hold: no device file can be made, and none of a volume or layer opens.
    if spec.has_image()
        && spec.bounding.has(caps::Capability::CAP_MKNOD)
        && !hold_to_devices(&mut groups, &machine.cgroups.usable, &spec.id, &spec.devices)
    {
        notes.push(
            "it may make and use any device: there is neither v1's devices controller nor the v2 tree".into(),
        );
    }
    if !spec.denied_devices.is_empty()
        && !spec.has_image()
        && !deny_devices(&mut groups, &machine.cgroups.usable, &spec.id, &spec.denied_devices)
    {
        notes.push(
            "it may use devices of others: there is neither v1's devices controller nor the v2 tree".into(),
        );
    }
    let dirs = groups.iter().map(|group| group.dir.clone()).collect();
    launch.groups = groups;
    launch.own_groups.clone_from(&machine.cgroups.own_groups);
    notes.extend(unmet(inner, spec, launch.namespaces));
    let inside = spec.describe_inside(run_dir, find_share(inner, spec, &mut launch)?);
    if let Some(inside) = &inside {
        check_means(inside, launch.namespaces, machine.privileged || launch.process.no_new_privs)?;
    }
    let ids = ids::give(inner, spec, &mut launch)?;
    private_dir(run_dir, false).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => RuntimeError::Exists(spec.id.clone()),
        _ => RuntimeError::Io { what: format!("making {}", run_dir.display()), error },
    })?;
    let files = prepare_image(spec, run_dir);
    let budget = |b: LogBudget| Logs { file_bytes: b.file_bytes, files: b.files };
    let more = More {
        logs: spec.logs.or(inner.config.logs).map(budget),
        error_logs: spec.error_logs.map(budget),
        terminal: spec.terminal.map(|size| wire::Size { rows: size.rows, columns: size.columns }),
        ids,
        disk: disk::prepare(inner, spec, &mut notes),
    };
    let request = if inside.is_some() || more != More::default() {
        Request::Contain(Box::new(Contain { launch: *launch, inside: inside.unwrap_or_default(), more }))
    } else {
        Request::Launch(launch)
    };
    let words = [wire::encode(&connection::hello()), wire::encode(&request)].concat();
    let shim = &inner.config.shim;
    let started = files.and_then(|()| spawn_told(shim, "launch", &words, Stdio::null(), Stdio::null()));
    match started {
        Ok((child, stream, said)) => {
            Ok((words.get(said..).unwrap_or_default().to_vec(), dirs, child, stream, notes))
        }
        Err(error) => {
            let _nothing_runs = std::fs::remove_dir_all(run_dir);
            Err(error)
        }
    }
}

/// What the shim needs in the runtime folder for an image.
fn prepare_image(spec: &ContainerSpec, run_dir: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::fs::PermissionsExt;
    if !spec.has_image() {
        return Ok(());
    }
    let prepare = || {
        std::fs::create_dir(run_dir.join(inside::STAGE))?;
        if let Some(name) = &spec.hostname {
            let file = run_dir.join(inside::HOSTNAME);
            std::fs::write(&file, format!("{name}\n"))?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    };
    prepare().map_err(RuntimeError::io(format!("preparing {}", run_dir.display())))
}

/// The container that namespaces are shared with, if any; notes in the description that they are.
fn find_share(
    inner: &Inner,
    spec: &ContainerSpec,
    launch: &mut Launch,
) -> Result<Option<Share>, RuntimeError> {
    let Some(share) = &spec.share else { return Ok(None) };
    let (_, state) = inner.running(&share.with)?;
    let part = |asked: bool, bit: u32| if asked { bit } else { 0 };
    let asked = part(share.pids, ns::PID) | part(share.ipc, ns::IPC);
    let namespaces = state.namespaces & launch.namespaces & asked;
    if namespaces & ns::PID != 0 {
        launch.namespaces |= ns::PID_SHARED;
    }
    Ok(Some(Share { init: state.init, namespaces }))
}

/// An image, a volume or a network that cannot be had is no mere degradation: the launch is refused.
fn check_means(inside: &Inside, namespaces: u32, may_filter: bool) -> Result<(), RuntimeError> {
    for (asked, met, what) in [
        (inside.root.is_some(), namespaces & ns::MOUNT != 0 && namespaces & ns::PID != 0, "an image"),
        (!inside.mounts.is_empty(), namespaces & ns::MOUNT != 0, "a volume"),
        (inside.network.is_some(), namespaces & ns::NET != 0, "a network of its own"),
        (inside.share.is_some(), namespaces & ns::PID != 0, "sharing process ids or IPC"),
        (!inside.filter.is_empty(), may_filter, "a seccomp filter without no_new_privs"),
    ] {
        if asked && !met {
            return Err(RuntimeError::Refused(format!("{what} needs an agent that runs as root")));
        }
    }
    Ok(())
}

/// Starts the shim program with a socket as its descriptor 0. Needs a tokio runtime around it.
pub fn spawn(shim: &Path, role: &str, out: Stdio, err: Stdio) -> Result<(Child, UnixStream), RuntimeError> {
    spawn_told(shim, role, &[], out, err).map(|(child, stream, _)| (child, stream))
}

/// See [`spawn`]; as many of the `words` as the socket holds are in it before the program starts, so that it waits for nobody. Gives how many.
fn spawn_told(
    shim: &Path,
    role: &str,
    words: &[u8],
    out: Stdio,
    err: Stdio,
) -> Result<(Child, UnixStream, usize), RuntimeError> {
    use std::io::Write;
    let start = || {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // What does not fit is said later.
        let said = if words.is_empty() { 0 } else { ours.write(words).unwrap_or(0) };
        let mut command = Command::new(shim);
        command.arg(role).env_clear().stdin(OwnedFd::from(theirs)).stdout(out).stderr(err);
        Ok((command.spawn()?, UnixStream::from_std(ours)?, said))
    };
    start().map_err(|error| RuntimeError::Shim { path: shim.display().to_string(), error })
}

fn find_user(inner: &Inner, spec: &ContainerSpec) -> Result<Option<User>, RuntimeError> {
    let euid = nix::unistd::geteuid().as_raw();
    let read = |file: &Path| {
        std::fs::read_to_string(file).map_err(RuntimeError::io(format!("reading {}", file.display())))
    };
    let resolve = |name: &str| {
        // The machine's users mean nothing in an image: there a user is a number.
        if spec.has_image() {
            return Ok(user::resolve(name, "", "")?);
        }
        let (passwd, group) = (read(&inner.config.passwd)?, read(&inner.config.group)?);
        Ok::<User, RuntimeError>(user::resolve(name, &passwd, &group)?)
    };
    match &spec.user {
        None if !inner.machine.privileged => Ok(None),
        None => resolve(&euid.to_string()).map(Some),
        Some(name) => {
            let user = resolve(name)?;
            if inner.machine.privileged {
                return Ok(Some(user));
            }
            // Running as someone else than asked for is no mere degradation.
            if user.uid == euid {
                return Ok(None);
            }
            Err(RuntimeError::Refused(format!("becoming user {name} needs an agent that runs as root")))
        }
    }
}

/// What was asked for and the machine does not allow, besides the limits.
fn unmet(inner: &Inner, spec: &ContainerSpec, namespaces: u32) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |missing: bool, what: &str| {
        if missing {
            notes.push(format!("{what}: the agent does not run as root"));
        }
    };
    note(namespaces & ns::PID == 0, "no PID namespace");
    note(namespaces & ns::MOUNT == 0, "no mount namespace");
    note(spec.network == crate::spec::Network::Loopback && namespaces & ns::NET == 0, "no network namespace");
    note(spec.hostname.is_some() && namespaces & ns::UTS == 0, "the host name is not set");
    note(spec.resolv_conf.is_some() && namespaces & ns::MOUNT == 0, "resolv.conf is the machine's");
    note(!inner.machine.privileged, "capabilities are those of the agent");
    notes
}

struct Talk {
    shim: Option<Pid>,
}

impl Talk {
    async fn through(
        &mut self,
        mut stream: UnixStream,
        unsaid: &[u8],
    ) -> Result<(State, Connection), RuntimeError> {
        let mut inbox = Inbox::default();
        // A shim that refuses early closes its end; its answer says more than the broken pipe.
        let _answer_says_why = stream.write_all(unsaid).await;
        loop {
            match inbox.next(&mut stream).await {
                Ok(Reply::Hello { shim, .. }) => self.shim = Some(shim),
                Ok(Reply::Launched(state)) => return Ok((*state, Connection { stream, inbox })),
                Ok(Reply::Failed(failed)) => return Err(RuntimeError::step(failed)),
                Ok(Reply::Refused { reason }) => return Err(RuntimeError::Refused(reason)),
                Ok(other) => return Err(RuntimeError::Refused(format!("an unexpected answer: {other:?}"))),
                Err(error) => {
                    return Err(RuntimeError::Io { what: "the container's supervisor (plenum-shim) ended before the task was started, killed from outside perhaps".into(), error });
                }
            }
        }
    }
}

/// The first process of a launch ends as soon as it has forked: long before the task runs.
fn reap(mut child: Child) {
    if !matches!(child.try_wait(), Ok(Some(_))) {
        spawn_blocking(move || child.wait());
    }
}

fn clean_up(mut child: Child, run_dir: &Path, shim: Pid, groups: Vec<Vec<u8>>) {
    let _gone = child.kill();
    let _reaped = child.wait();
    let boot_id = plenum_shim::proc::boot_id();
    let left = State { shim, groups, boot_id, ..State::default() };
    kill_leftovers(&left);
    plenum_shim::cgroup::remove_dirs(&super::group_dirs(&left), Duration::from_secs(2));
    if let Err(error) = std::fs::remove_dir_all(run_dir) {
        tracing::warn!(dir = %run_dir.display(), %error, "the folder of a failed launch stays");
    }
}
