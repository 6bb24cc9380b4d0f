//! Unpacking in a process of its own that is confined to the layer's folder: it sees no other files, no network, has bounded memory, and dies with
//! the agent. What a flaw in a decoder could do ends there.
//!
//! The packed layer is its standard input, the layer's folder its working folder, the [`Order`] its last argument, an [`Outcome`] its standard
//! output. Everything that it needs from outside is open before it locks itself in.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::{Fault, Limits, Unpacked, Work, unpack};
use crate::digest::Digest;

/// Address space of the process: windows of decoders and the times of folders fit in many times.
const MEMORY: u64 = 1 << 30;
/// The largest outcome.
const OUTCOME_MAX: u64 = 1 << 20;
/// How often the wish to stop is looked at.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What the process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The roots of the layers below, lowest first.
    pub below: Vec<PathBuf>,
    /// The bounds.
    pub limits: Limits,
    /// What the unpacked archive's digest must be.
    pub diff_id: Digest,
}

/// What the process tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It is unpacked.
    Done(Unpacked),
    /// It is not.
    Failed(Fault),
}

/// The whole of the process. Call it first thing in `main`, while there is one thread.
#[must_use]
pub fn main(order: &str) -> std::process::ExitCode {
    let outcome = match serde_json::from_str(order) {
        Ok(order) => confined(order).map_or_else(Outcome::Failed, Outcome::Done),
        Err(error) => Outcome::Failed(Fault::Archive(format!("the order is not understood: {error}"))),
    };
    let text = serde_json::to_vec(&outcome).unwrap_or_default();
    match std::io::stdout().write_all(&text) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(_) => std::process::ExitCode::FAILURE,
    }
}

fn confined(order: Order) -> Result<Unpacked, Fault> {
    let packed = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let below = order
        .below
        .iter()
        .map(|root| Ok(File::open(root)?.into()))
        .collect::<Result<Vec<OwnedFd>, Fault>>()?;
    let failed =
        |errno: nix::Error| Fault::Archive(format!("the process that unpacks cannot be confined: {errno}"));
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    prctl::set_no_new_privs().map_err(failed)?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNS).map_err(failed)?;
    nix::unistd::chroot(".").map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)?;
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).map_err(failed)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed)?;
    drop_capabilities()
        .map_err(|error| Fault::Archive(format!("capabilities cannot be dropped: {error}")))?;
    let into = File::open("/")?.into();
    unpack(Work { packed, into, below, limits: order.limits, diff_id: order.diff_id, stop: Arc::default() })
}

/// What files of any owner and overlayfs' own attributes need, and no more.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept = CapsHashSet::from([
        Capability::CAP_CHOWN,
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_FOWNER,
        Capability::CAP_FSETID,
        Capability::CAP_SETFCAP,
        Capability::CAP_MKNOD,
        Capability::CAP_SYS_ADMIN,
    ]);
    for set in [CapSet::Effective, CapSet::Permitted] {
        let had = caps::read(None, set)?;
        caps::set(None, set, &had.intersection(&kept).copied().collect())?;
    }
    Ok(())
}

/// A process that ends with its holder.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // One that has ended already is no error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has `program` unpack a layer into `folder`. Blocks; `stop` ends it.
///
/// # Errors
/// [`Fault`].
pub fn run(
    program: &[OsString],
    order: &Order,
    packed: File,
    folder: &std::path::Path,
    stop: &AtomicBool,
) -> Result<Unpacked, Fault> {
    let broken = |reason: String| Fault::Archive(format!("the process that unpacks it {reason}"));
    let (name, arguments) = program.split_first().ok_or_else(|| broken("has no name".to_owned()))?;
    let order = serde_json::to_string(order).map_err(|error| broken(error.to_string()))?;
    let child = Command::new(name)
        .args(arguments)
        .arg(order)
        .current_dir(folder)
        .env_clear()
        .stdin(packed)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| broken(format!("cannot be started: {error}")))?;
    let mut child = Held(child);
    let Some(mut output) = child.0.stdout.take() else { return Err(broken("has no output".to_owned())) };
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Fault::Stopped);
        }
        let mut ready = [PollFd::new(&output, PollFlags::IN)];
        match poll(&mut ready, Some(&LOOK_EVERY)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut text = Vec::new();
    (&mut output).take(OUTCOME_MAX).read_to_end(&mut text)?;
    match serde_json::from_slice(&text) {
        Ok(Outcome::Done(unpacked)) => Ok(unpacked),
        Ok(Outcome::Failed(fault)) => Err(fault),
        Err(_) => {
            let status = child.0.wait()?;
            Err(broken(format!(
                "ended before it was done ({status}); it may need more memory than it is given"
            )))
        }
    }
}
