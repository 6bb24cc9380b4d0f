//! What tasks of a pod share where they ask for it: process ids and IPC, which a container of the pod's own id holds, and `/dev/shm`, a file system
//! that is mounted for the pod. Both are made for the first task that asks, and go with the pod.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use plenum_api::mesos::linux_info::IpcMode;
use plenum_containers::capabilities::CapabilitySet;
use plenum_containers::{Command, ContainerSpec, Mount, RuntimeError, Share, Source};

use super::{Failure, Provisioner, blocking};
use crate::core::{Launch, LaunchStage, Pod};
use crate::shell::wanted::Sharing;

/// The file system's folder, below what is kept for the pod.
const SHM: &str = "shm";

impl Provisioner {
    pub(super) async fn provide_share(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        sharing: Sharing,
    ) -> Result<(), Failure> {
        let refused = |words: String| (LaunchStage::Start, words);
        let Some(pod) = &launch.pod else {
            return Err(refused("what a pod shares needs a pod".to_owned()));
        };
        if !self.privileged {
            let words = "this agent does not run as root, so a pod's tasks have nothing in common";
            return Err(refused(words.to_owned()));
        }
        let lock = {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(pods.entry(pod.container.clone()).or_default())
        };
        let _turn = lock.lock().await;
        self.hold_for(pod, spec).await?;
        let with = pod.container.clone();
        spec.share = Some(Share { with, pids: sharing.pids, ipc: sharing.ipc });
        if sharing.ipc {
            self.share_memory(pod, spec).await?;
        }
        Ok(())
    }

    /// Starts the container whose namespaces they share, unless it is there.
    async fn hold_for(&self, pod: &Pod, of: &ContainerSpec) -> Result<(), Failure> {
        let mut holder = ContainerSpec::new(pod.container.clone(), pod.directory.clone(), Command::Hold);
        holder.bounding = CapabilitySet(0);
        holder.launch_deadline = of.launch_deadline;
        match self.runtime.launch(holder).await {
            Ok(_) | Err(RuntimeError::Exists(_)) => Ok(()),
            Err(error) => {
                Err((LaunchStage::Start, format!("what the pod's tasks share cannot be made: {error}")))
            }
        }
    }

    /// Mounts the pod's `/dev/shm`, unless it is there, and gives it to the container.
    async fn share_memory(&self, pod: &Pod, spec: &mut ContainerSpec) -> Result<(), Failure> {
        let linux = pod.linux.as_ref().filter(|linux| linux.ipc_mode() == IpcMode::Private);
        let mib = linux.and_then(|linux| linux.shm_size);
        let bytes = mib.map_or(spec.shm_bytes, |mib| u64::from(mib) << 20);
        let folder = self.files.join(&pod.container);
        self.note(&pod.container, |kept| (kept.files, kept.shm) = (true, true));
        let at = folder.join(SHM);
        spec.mounts.push(Mount {
            source: Source::Path(at.clone()),
            target: "/dev/shm".into(),
            read_only: false,
        });
        blocking(LaunchStage::Start, move || {
            if is_there(&folder) {
                return Ok(());
            }
            let failed = |error: std::io::Error| format!("{}: {error}", at.display());
            plenum_base::files::private_dir(&folder).map_err(failed)?;
            std::fs::create_dir_all(&at).map_err(failed)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let options = format!("mode=1777,size={bytes}");
            mount(Some("shm"), &at, Some("tmpfs"), flags, Some(options.as_str()))
                .map_err(|errno| failed(errno.into()))
        })
        .await
    }
}

/// Whether a pod's file system is mounted in this folder.
pub(super) fn is_there(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).ok().map(|found| found.dev());
    let at = device(&folder.join(SHM));
    at.is_some() && at != device(folder)
}

/// Unmounts it; tasks that still end keep theirs.
pub(super) fn take_away(folder: &Path) {
    let at = folder.join(SHM);
    if is_there(folder)
        && let Err(error) = umount2(&at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
    {
        tracing::warn!(at = %at.display(), %error, "a pod's shared memory is still mounted");
    }
}
