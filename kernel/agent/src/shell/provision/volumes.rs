//! Volumes of a container: where each comes from, who owns it, and that nothing leads out of where it may be.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use plenum_api::mesos::Resource;
use plenum_containers::{ContainerSpec, Mount, Source};

use super::{Failure, Provisioner, blocking};
use crate::core::{Launch, LaunchStage};
use crate::shell::volumes as persistent;
use crate::shell::wanted::{VolumeSource, Wanted, WantedVolume};

impl Provisioner {
    pub(super) async fn provide_volumes(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        wanted: &Wanted,
    ) -> Result<(), Failure> {
        // First: others may be of a folder that one of these is mounted on.
        self.provide_persistent(spec, launch).await?;
        if wanted.volumes.is_empty() {
            return Ok(());
        }
        let refused = |reason: String| (LaunchStage::Volume, reason);
        if !self.privileged {
            let words = "this agent does not run as root, so it cannot mount volumes";
            return Err(refused(words.to_owned()));
        }
        let owner = spec.user.clone().map(|user| owner(&user)).transpose().map_err(refused)?;
        for (number, volume) in wanted.volumes.iter().enumerate() {
            let source = match &volume.source {
                VolumeSource::Host(path) => allowed(&self.config.host_paths, path).map_err(refused)?,
                VolumeSource::Sandbox(path) => {
                    self.seen_in(&launch.directory, &launch.resources, path, owner).await?
                }
                VolumeSource::Pod(path) => {
                    let pod = launch.pod.as_ref().ok_or_else(|| {
                        refused("a SANDBOX_PATH of the type PARENT needs a task group".to_owned())
                    })?;
                    self.seen_in(&pod.directory, &pod.volumes, path, owner).await?
                }
                VolumeSource::Driver(volume) => {
                    let at = self.drivers.mountpoint(&launch.container, volume);
                    Source::Path(
                        at.ok_or_else(|| refused(format!("the volume {} is not mounted", volume.name)))?,
                    )
                }
                VolumeSource::Layers(layers) => {
                    let over = (!volume.read_only).then_some(number);
                    self.layers(&launch.container, over, layers.clone()).await?
                }
                VolumeSource::Image(image) => {
                    return Err(refused(format!("the image {} is not here", image.name)));
                }
                VolumeSource::Secret(content) => {
                    self.secret(&launch.container, number, content.clone(), owner).await?
                }
            };
            spec.mounts.push(mount(volume, source));
        }
        Ok(())
    }

    /// An image's content; what the task writes there, if it may, is kept apart and goes with it.
    async fn layers(
        &self,
        container: &str,
        number: Option<usize>,
        layers: Vec<PathBuf>,
    ) -> Result<Source, Failure> {
        let Some(number) = number else { return Ok(Source::Image { layers, over: None }) };
        let scratch = self.scratch.join(container);
        let over = scratch.join(format!("volume-{number}"));
        self.note(container, |kept| kept.scratch = true);
        let made = over.clone();
        blocking(LaunchStage::Volume, move || {
            let failed = |error: std::io::Error| format!("{}: {error}", made.display());
            plenum_base::files::private_dir(&scratch).map_err(failed)?;
            for folder in [made.clone(), made.join("upper"), made.join("work")] {
                std::fs::create_dir_all(&folder).map_err(failed)?;
                // Its root is seen by every user inside.
                let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(&folder, open).map_err(failed)?;
            }
            Ok(())
        })
        .await?;
        Ok(Source::Image { layers, over: Some(over) })
    }

    /// A folder of a sandbox: of a persistent volume that is to be seen there, or one of the sandbox's own.
    async fn seen_in(
        &self,
        sandbox: &str,
        volumes: &[Resource],
        path: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Source, Failure> {
        let refused = |reason: String| (LaunchStage::Volume, reason);
        let work_dir = &self.config.work_dir;
        match persistent::within(volumes, work_dir, path).map_err(refused)? {
            None => made(Path::new(sandbox), path, owner).await,
            Some((volume, folder, rest)) => {
                let base = work_dir.clone();
                let folder = blocking(LaunchStage::Volume, move || {
                    persistent::give(&[volume], &base, owner)?;
                    folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))
                });
                let folder = folder.await?;
                match rest.as_os_str().is_empty() {
                    true => Ok(Source::Path(folder)),
                    false => made(&folder, &rest, owner).await,
                }
            }
        }
    }

    /// Persistent volumes among the container's resources; they become its user's.
    async fn provide_persistent(&self, spec: &mut ContainerSpec, launch: &Launch) -> Result<(), Failure> {
        if !persistent::any(&launch.resources) {
            return Ok(());
        }
        let (resources, user) = (launch.resources.clone(), spec.user.clone());
        let work_dir = self.config.work_dir.clone();
        let mounts = blocking(LaunchStage::Volume, move || {
            let work_dir =
                work_dir.canonicalize().map_err(|error| format!("{}: {error}", work_dir.display()))?;
            let owner = user.map(|user| owner(&user)).transpose()?;
            persistent::give(&resources, &work_dir, owner)?;
            persistent::mounts(&resources, &work_dir)
        })
        .await?;
        spec.mounts.extend(mounts);
        Ok(())
    }

    /// A secret's file: in memory, and readable by the task's user alone.
    async fn secret(
        &self,
        container: &str,
        number: usize,
        content: Vec<u8>,
        owner: Option<(u32, u32)>,
    ) -> Result<Source, Failure> {
        let folder = self.files.join(container);
        self.note(container, |kept| kept.files = true);
        let file = folder.join(format!("secret-{number}"));
        let path = file.clone();
        blocking(LaunchStage::Volume, move || {
            let failed = |error: std::io::Error| format!("a secret cannot be laid down: {error}");
            plenum_base::files::private_dir(&folder).map_err(failed)?;
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o400);
            options.open(&file).and_then(|mut file| file.write_all(&content)).map_err(failed)?;
            match owner {
                Some((uid, gid)) => std::os::unix::fs::chown(&file, Some(uid), Some(gid)).map_err(failed),
                None => Ok(()),
            }
        })
        .await?;
        Ok(Source::Path(path))
    }
}

fn mount(volume: &WantedVolume, source: Source) -> Mount {
    let read_only = volume.read_only || matches!(volume.source, VolumeSource::Secret(_));
    Mount { source, target: volume.target.clone(), read_only }
}

fn owner(user: &str) -> Result<(u32, u32), String> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    plenum_containers::user::resolve(user, &read("/etc/passwd"), &read("/etc/group"))
        .map(|user| (user.uid, user.gid))
        .map_err(|error| error.to_string())
}

/// A path of the machine that the operator allows. It is opened beneath the folder that was allowed, so that links do not lead out of it.
fn allowed(folders: &[PathBuf], path: &Path) -> Result<Source, String> {
    let fits = folders.iter().filter_map(|folder| Some((folder, path.strip_prefix(folder).ok()?)));
    match fits.max_by_key(|(folder, _)| folder.components().count()) {
        Some((folder, rest)) if rest.as_os_str().is_empty() => Ok(Source::Path(folder.clone())),
        Some((folder, rest)) => Ok(Source::Beneath { folder: folder.clone(), path: rest.to_path_buf() }),
        None => Err(format!(
            "the host path {} is not allowed on this agent; let the operator add it to `agent.host_paths`, \
             or use a volume of the sandbox",
            path.display()
        )),
    }
}

/// A folder below a sandbox, made by descriptor where it is missing: what the task or its siblings put there is not followed.
async fn made(sandbox: &Path, path: &Path, owner: Option<(u32, u32)>) -> Result<Source, Failure> {
    let (folder, relative) = (sandbox.to_path_buf(), path.to_path_buf());
    blocking(LaunchStage::Volume, move || {
        make_beneath(&folder, &relative, owner)
            .map_err(|error| format!("{} in the sandbox: {error}", relative.display()))
    })
    .await?;
    Ok(Source::Beneath { folder: sandbox.to_path_buf(), path: path.to_path_buf() })
}

fn make_beneath(folder: &Path, path: &Path, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    use nix::fcntl::{AT_FDCWD, OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = openat(AT_FDCWD, folder, open, Mode::empty())?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        let fresh = match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => true,
            Err(nix::errno::Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        at = match openat(&at, name, open, Mode::empty()) {
            // A file is mounted as well as a folder.
            Err(nix::errno::Errno::ENOTDIR) if path.ends_with(name) => return Ok(()),
            other => other?,
        };
        if let (true, Some((uid, gid))) = (fresh, owner) {
            nix::unistd::fchown(&at, Some(uid.into()), Some(gid.into()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_paths_are_mounted_and_beneath_what_was_allowed() {
        let folders = [PathBuf::from("/srv"), PathBuf::from("/srv/shared/data")];
        let beneath = |folder: &str, path: &str| Source::Beneath { folder: folder.into(), path: path.into() };
        for (path, expect) in [
            ("/srv", Source::Path("/srv".into())),
            ("/srv/a/b", beneath("/srv", "a/b")),
            ("/srv/shared/data/x", beneath("/srv/shared/data", "x")),
        ] {
            assert_eq!(allowed(&folders, Path::new(path)).unwrap(), expect, "{path}");
        }
        for path in ["/", "/srvx", "/etc"] {
            assert!(allowed(&folders, Path::new(path)).unwrap_err().contains("host_paths"), "{path}");
        }
    }

    #[test]
    fn folders_are_made_beneath_the_sandbox_only() {
        let sandbox = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        make_beneath(sandbox.path(), Path::new("a/b"), None).unwrap();
        make_beneath(sandbox.path(), Path::new("a/b"), None).unwrap();
        assert!(sandbox.path().join("a/b").is_dir());
        std::os::unix::fs::symlink(outside.path(), sandbox.path().join("link")).unwrap();
        assert!(make_beneath(sandbox.path(), Path::new("link/x"), None).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
