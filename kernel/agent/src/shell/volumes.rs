//! Persistent volumes on the disk: where they lie, making and taking away their folders, giving them to a task's user.
//!
//! As in Mesos: `<work_dir>/volumes/roles/<role>/<persistence id>`, with a space for each slash of the role; on a PATH disk the same below
//! its root; a MOUNT disk is its own folder. Below the working folder (or the disk's root) no link is ever followed. What is destroyed is
//! moved aside at once and removed in its own time; it never comes back.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{Mode as Bits, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use plenum_api::mesos::resource::DiskInfo;
use plenum_api::mesos::resource::disk_info::source::Type as Source;
use plenum_api::mesos::volume::Mode;
use plenum_api::mesos::{Resource, Volume};
use plenum_api::resources::{Resources, role};
use plenum_containers::Mount;

/// Where destroyed volumes wait, beside `roles` or in the root of a MOUNT disk.
const DESTROYED: &str = ".destroyed";
/// Longest persistence id.
const MAX_ID: usize = 255;

/// Where a volume lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// A folder that the agent or the operator has made.
    base: PathBuf,
    /// The volume's folder below it, step by step; none for a MOUNT disk.
    steps: Vec<String>,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.steps.iter().fold(self.base.clone(), |path, step| path.join(step))
    }

    /// The folder of destroyed volumes, below `base`.
    fn aside(&self) -> Vec<String> {
        let volumes = self.steps.first().cloned();
        volumes.into_iter().chain([DESTROYED.to_owned()]).collect()
    }
}

/// The persistent volumes among a container's resources: where the data of each lies on the machine, and where and how the container wants
/// it (`container_path` is relative to the sandbox unless it is absolute). Looks at no disk.
///
/// # Errors
/// A sentence about a volume that cannot be one.
pub(crate) fn mounts_of(resources: &[Resource], work_dir: &Path) -> Result<Vec<(PathBuf, Volume)>, String> {
    let mut mounts: Vec<(PathBuf, Volume)> = Vec::new();
    for resource in volumes_of(resources) {
        let place = place(resource, work_dir)?;
        let volume = resource.disk.as_ref().and_then(|disk| disk.volume.clone());
        let volume = volume.ok_or("a persistent volume has no `disk.volume` that says where it goes")?;
        if mounts.iter().any(|(_, other)| other.container_path == volume.container_path) {
            return Err(format!(
                "two persistent volumes want the container path '{}'",
                volume.container_path
            ));
        }
        mounts.push((place.path(), volume));
    }
    Ok(mounts)
}

/// Whether there are persistent volumes among a container's resources.
pub(crate) fn any(resources: &[Resource]) -> bool {
    volumes_of(resources).next().is_some()
}

/// The same for the runtime. A path that is made of checked names below a folder of the agent's is trusted.
///
/// # Errors
/// As [`mounts_of`].
pub(crate) fn mounts(resources: &[Resource], work_dir: &Path) -> Result<Vec<Mount>, String> {
    let mount = |(host, volume): (PathBuf, Volume)| Mount {
        source: plenum_containers::Source::Path(host),
        read_only: volume.mode() == Mode::Ro,
        target: volume.container_path.into(),
    };
    Ok(mounts_of(resources, work_dir)?.into_iter().map(mount).collect())
}

/// The persistent volume that a path of the sandbox leads into, its folder on the machine, and the rest of the path. As several may use it,
/// it is the first user's.
///
/// # Errors
/// As [`mounts_of`].
pub(crate) fn within(
    resources: &[Resource],
    work_dir: &Path,
    path: &Path,
) -> Result<Option<(Resource, PathBuf, PathBuf)>, String> {
    let plain = |path: &Path| -> PathBuf {
        path.components().filter(|part| *part != std::path::Component::CurDir).collect()
    };
    let path = plain(path);
    for resource in volumes_of(resources) {
        let volume = resource.disk.as_ref().and_then(|disk| disk.volume.as_ref());
        let shown = volume.map(|volume| plain(Path::new(&volume.container_path))).unwrap_or_default();
        if let (false, Ok(rest)) = (shown.as_os_str().is_empty(), path.strip_prefix(&shown)) {
            let resource = Resource { shared: Some(Default::default()), ..resource.clone() };
            let folder = place(&resource, work_dir)?.path();
            return Ok(Some((resource, folder, rest.to_owned())));
        }
    }
    Ok(None)
}

/// Gives the volumes among a container's resources to its user, but not what is in them; a shared one only until somebody has it. Says
/// which volume is missing. Blocks.
///
/// # Errors
/// A sentence.
pub(crate) fn give(resources: &[Resource], work_dir: &Path, owner: Option<(u32, u32)>) -> Result<(), String> {
    for resource in volumes_of(resources) {
        let place = place(resource, work_dir)?;
        let step = |error: io::Error| {
            format!("the persistent volume {} cannot be given to the task: {error}", place.path().display())
        };
        let folder = open_place(&place, false).map_err(step)?;
        let Some((uid, gid)) = owner else { continue };
        let taken = nix::sys::stat::fstat(&folder).map_err(|errno| step(errno.into()))?.st_uid != 0;
        if resource.shared.is_none() || !taken {
            fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| step(errno.into()))?;
        }
    }
    Ok(())
}

/// Makes the folders of volumes, all that can be made; those that are there stay as they are. Durable when it returns. Blocks.
///
/// # Errors
/// A sentence about the first that cannot be made.
pub(crate) fn make(volumes: &[Resource], work_dir: &Path) -> Result<(), String> {
    let results: Vec<Result<(), String>> = volumes.iter().map(|volume| make_one(volume, work_dir)).collect();
    results.into_iter().collect()
}

fn make_one(volume: &Resource, work_dir: &Path) -> Result<(), String> {
    let place = place(volume, work_dir)?;
    let step = |error: io::Error| {
        format!("the persistent volume cannot be made at {}: {error}", place.path().display())
    };
    if place.steps.is_empty() && holds_destroyed(&place).map_err(step)? {
        let base = place.base.display();
        return Err(format!("what was on {base} is still being removed; try again in a moment"));
    }
    open_place(&place, true).map(drop).map_err(step)
}

/// Takes volumes away: from here on they are out of reach; what was in them is removed by [`clean`]. One that is not there is no error.
/// Gives the folders to clean. Blocks.
///
/// # Errors
/// A sentence about the first that cannot be taken away.
pub(crate) fn remove(volumes: &[Resource], work_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut rubbish = Vec::new();
    for volume in volumes {
        let place = place(volume, work_dir)?;
        let moved = move_aside(&place).map_err(|error| {
            format!("the persistent volume at {} cannot be removed: {error}", place.path().display())
        })?;
        rubbish.extend(moved);
    }
    Ok(rubbish)
}

/// Folders that [`remove`] has filled in an earlier life of the agent, of all disks among its resources.
pub(crate) fn rubbish(resources: &[Resource], work_dir: &Path) -> Vec<PathBuf> {
    let mut shared = std::collections::BTreeSet::from([work_dir.join("volumes").join(DESTROYED)]);
    let mut folders = Vec::new();
    for resource in resources {
        match (kind(resource.disk.as_ref()), root_of(resource, work_dir)) {
            (Some(Source::Path), Ok(root)) => drop(shared.insert(root.join("volumes").join(DESTROYED))),
            (Some(Source::Mount), Ok(root)) => folders.push(root.join(DESTROYED)),
            _ => {}
        }
    }
    folders.retain(|folder| folder.symlink_metadata().is_ok());
    // One by one: the folder they lie in may be used meanwhile.
    for entry in shared.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
        folders.push(entry.path());
    }
    folders
}

/// Removes what destroyed volumes have left; nothing is followed and no mount is crossed. Blocks, for as long as it takes.
pub(crate) fn clean(folders: &[PathBuf]) {
    for folder in folders {
        match plenum_containers::remove_tree(folder) {
            Ok(()) => tracing::info!(folder = %folder.display(), "destroyed volumes are removed"),
            Err(error) => tracing::warn!(
                folder = %folder.display(), %error,
                "what is left of destroyed volumes cannot be removed; it is tried again when the agent starts"
            ),
        }
    }
}

fn volumes_of(resources: &[Resource]) -> impl Iterator<Item = &Resource> {
    resources.iter().filter(|resource| resource.disk.as_ref().is_some_and(|disk| disk.persistence.is_some()))
}

fn place(volume: &Resource, work_dir: &Path) -> Result<Place, String> {
    let disk = volume.disk.as_ref();
    let id = disk.and_then(|disk| disk.persistence.as_ref()).map(|persistence| persistence.id.as_str());
    let id = id.ok_or("a volume has no persistence id")?;
    check_step("persistence id", id)?;
    let read = Resources::from_mesos([volume]).map_err(|error| error.to_string())?;
    let role = read.iter().next().and_then(|item| item.reservation_role()).unwrap_or(role::STAR).to_owned();
    let role = role.replace('/', " ");
    check_step("role", &role)?;
    let base = root_of(volume, work_dir)?;
    let mount = kind(disk) == Some(Source::Mount);
    let steps =
        if mount { Vec::new() } else { vec!["volumes".to_owned(), "roles".to_owned(), role, id.to_owned()] };
    Ok(Place { base, steps })
}

fn kind(disk: Option<&DiskInfo>) -> Option<Source> {
    Some(disk?.source.as_ref()?.r#type())
}

/// The folder of the disk that a resource is of.
fn root_of(resource: &Resource, work_dir: &Path) -> Result<PathBuf, String> {
    let source = resource.disk.as_ref().and_then(|disk| disk.source.as_ref());
    let Some(source) = source else { return Ok(work_dir.to_owned()) };
    let root = match source.r#type() {
        Source::Path => source.path.as_ref().and_then(|path| path.root.as_ref()),
        Source::Mount => source.mount.as_ref().and_then(|mount| mount.root.as_ref()),
        other => return Err(format!("a disk of the type {} holds no volumes here", other.as_str_name())),
    };
    let root = root.filter(|root| !root.is_empty()).ok_or("a disk has no root")?;
    // As in Mesos one that is relative lies in the working folder.
    Ok(work_dir.join(root))
}

fn check_step(what: &str, name: &str) -> Result<(), String> {
    let bad = name.is_empty() || name.len() > MAX_ID || name == "." || name == "..";
    if bad || name.contains(['/', '\0']) {
        return Err(format!("the {what} '{}' cannot be the name of a folder", name.escape_debug()));
    }
    Ok(())
}

fn open_folder<F: AsFd>(at: F, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Bits::empty())
}

/// The base itself may be a link: an operator made it.
fn open_base(base: &Path) -> nix::Result<OwnedFd> {
    openat(AT_FDCWD, base, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Bits::empty())
}

fn open_place(place: &Place, make: bool) -> io::Result<OwnedFd> {
    check_mounted(place)?;
    open_steps(open_base(&place.base)?, &place.steps, make)
}

/// A MOUNT disk that is not mounted is a folder of another disk: nothing may be written there, and nothing of it be taken for the volume.
fn check_mounted(place: &Place) -> io::Result<()> {
    if !place.steps.is_empty() {
        return Ok(());
    }
    let base = place.base.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let plain = |field: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(field.to_owned(), |text, (escaped, letter)| text.replace(escaped, letter))
    };
    let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
    if points.any(|point| Path::new(&plain(point)) == base) {
        return Ok(());
    }
    Err(io::Error::other("the disk is not mounted there"))
}

fn open_steps(mut here: OwnedFd, steps: &[String], make: bool) -> io::Result<OwnedFd> {
    for step in steps {
        if make {
            match mkdirat(&here, step.as_str(), Bits::from_bits_truncate(0o755)) {
                Err(Errno::EEXIST) => {}
                // Whatever the umask, tasks' users pass through.
                Ok(()) => {
                    let made = open_folder(&here, step.as_ref())?;
                    nix::sys::stat::fchmod(&made, Bits::from_bits_truncate(0o755))?;
                    nix::unistd::fsync(&here)?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        here = open_folder(&here, step.as_ref())?;
    }
    Ok(here)
}

fn holds_destroyed(place: &Place) -> io::Result<bool> {
    match open_folder(open_base(&place.base)?, DESTROYED.as_ref()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Moves a volume (of a MOUNT disk: what is in it) to where it waits for its end.
fn move_aside(place: &Place) -> io::Result<Option<PathBuf>> {
    check_mounted(place)?;
    let base = match open_base(&place.base) {
        Ok(base) => base,
        Err(Errno::ENOENT) if !place.steps.is_empty() => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let (from, names) = match place.steps.split_last() {
        Some((name, above)) => match open_steps(base.try_clone()?, above, false) {
            Ok(above) => (above, vec![name.into()]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        },
        None => {
            let mut dir = nix::dir::Dir::from_fd(open_folder(&base, ".".as_ref())?)?;
            let mut names = Vec::new();
            for entry in dir.iter() {
                let name: std::ffi::OsString =
                    std::os::unix::ffi::OsStringExt::from_vec(entry?.file_name().to_bytes().to_vec());
                // The file system's own folder is nobody's data.
                if ![".", "..", DESTROYED, "lost+found"].iter().any(|own| name == *own) {
                    names.push(name);
                }
            }
            (base.try_clone()?, names)
        }
    };
    let aside = open_steps(base, &place.aside(), true)?;
    nix::sys::stat::fchmod(&aside, Bits::from_bits_truncate(0o700))?;
    // A folder of its own for each time: names may come again before the last ones are gone.
    let own = uuid::Uuid::new_v4().to_string();
    let to = open_steps(aside, std::slice::from_ref(&own), true)?;
    for name in names {
        match renameat(&from, name.as_os_str(), &to, name.as_os_str()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    nix::unistd::fsync(&to)?;
    nix::unistd::fsync(&from)?;
    let aside = place.aside().iter().fold(place.base.clone(), |path, step| path.join(step));
    // A MOUNT disk is not used again before all of it is gone, the folder too.
    Ok(Some(if place.steps.is_empty() { aside } else { aside.join(own) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn resource(id: &str, role: &str, source: &str) -> Resource {
        let json = format!(
            r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":1}},
                "reservations":[{{"type":"DYNAMIC","role":"{role}"}}],
                "disk":{{"persistence":{{"id":"{id}"}},"volume":{{"mode":"RW","container_path":"data"}}{source}}}}}"#
        );
        plenum_api::codec::decode(plenum_api::codec::Encoding::Json, json.as_bytes()).unwrap()
    }

    fn path_disk(root: &str) -> String {
        format!(r#","source":{{"type":"PATH","path":{{"root":"{root}"}}}}"#)
    }

    fn mount_disk(root: &str) -> String {
        format!(r#","source":{{"type":"MOUNT","mount":{{"root":"{root}"}}}}"#)
    }

    #[test]
    fn volumes_lie_where_mesos_lays_them() {
        for (volume, path) in [
            (resource("v", "web", ""), "/w/volumes/roles/web/v"),
            (resource("v", "a/b", ""), "/w/volumes/roles/a b/v"),
            (resource("v", "web", &path_disk("/disk")), "/disk/volumes/roles/web/v"),
            (resource("v", "web", &path_disk("more")), "/w/more/volumes/roles/web/v"),
            (resource("v", "web", &mount_disk("/mnt")), "/mnt"),
        ] {
            let mounts = mounts_of(&[volume], Path::new("/w")).unwrap();
            assert_eq!(mounts[0].0, Path::new(path));
            assert_eq!(mounts[0].1.container_path, "data");
        }
        for bad in ["..", ".", "", "a/b", "a/../../x"] {
            assert!(mounts_of(&[resource(bad, "web", "")], Path::new("/w")).is_err(), "{bad:?}");
        }
        let raw = r#","source":{"type":"RAW","id":"x"}"#;
        assert!(mounts_of(&[resource("v", "web", raw)], Path::new("/w")).is_err());
        let twice = [resource("v", "web", ""), resource("w", "web", "")];
        assert!(mounts_of(&twice, Path::new("/w")).unwrap_err().contains("two"));
        let plain: Vec<Resource> = Resources::parse("cpus:1;disk:5", "*").unwrap().to_mesos();
        assert_eq!(mounts_of(&plain, Path::new("/w")), Ok(vec![]));
    }

    #[test]
    fn a_path_of_the_sandbox_leads_into_a_volume() {
        let volumes = [resource("v", "web", "")];
        let at = |rest: &str| Some((PathBuf::from("/w/volumes/roles/web/v"), PathBuf::from(rest)));
        for (path, expect) in [
            ("data", at("")),
            ("./data/.", at("")),
            ("data/sub", at("sub")),
            ("datax", None),
            ("x/data", None),
        ] {
            let found = within(&volumes, Path::new("/w"), Path::new(path)).unwrap();
            assert_eq!(found.map(|(_, folder, rest)| (folder, rest)), expect, "{path}");
        }
    }

    #[test]
    fn volumes_are_made_once_and_go_with_everything_in_them() {
        let scratch = tempfile::tempdir().unwrap();
        let (work, disk) = (scratch.path().join("work"), scratch.path().join("disk"));
        std::fs::create_dir_all(&work).unwrap();
        std::fs::create_dir_all(disk.join("lost+found")).unwrap();
        let root = disk.to_str().unwrap().to_owned();
        let mount = [resource("v", "web", &mount_disk(&root))];
        for refused in [make(&mount, &work), give(&mount, &work, None), remove(&mount, &work).map(drop)] {
            assert!(refused.unwrap_err().contains("not mounted"));
        }
        let mounted = nix::unistd::geteuid().is_root().then(|| Mounted::on(&disk));
        let kinds = [resource("v", "a/b", ""), resource("v", "web", &path_disk(&root))];
        for volume in kinds.into_iter().chain(mount.into_iter().filter(|_| mounted.is_some())) {
            let volume = [volume];
            let path = mounts_of(&volume, &work).unwrap().remove(0).0;
            make(&volume, &work).unwrap();
            std::fs::write(path.join("file"), "kept").unwrap();
            std::os::unix::fs::symlink("/etc", path.join("link")).unwrap();
            make(&volume, &work).unwrap();
            assert_eq!(std::fs::read(path.join("file")).unwrap(), b"kept");
            let mut gone = remove(&volume, &work).unwrap();
            assert!(!path.join("file").exists(), "out of reach at once");
            // The agent dies here: the next life finds it.
            let found = rubbish(&volume, &work);
            assert_eq!(found, gone);
            if path == disk {
                assert!(make(&volume, &work).unwrap_err().contains("still being removed"));
            }
            clean(&gone);
            assert!(!gone[0].exists() && Path::new("/etc/passwd").exists());
            make(&volume, &work).unwrap();
            assert!(!path.join("file").exists(), "a new volume is empty");
            gone = remove(&volume, &work).unwrap();
            clean(&gone);
            assert!(remove(&volume, &work).is_ok(), "what is gone may be removed again");
            clean(&rubbish(&volume, &work));
            assert_eq!(rubbish(&volume, &work), Vec::<PathBuf>::new());
        }
        assert!(disk.join("lost+found").exists());
    }

    /// A folder mounted on itself.
    struct Mounted(PathBuf);

    impl Mounted {
        fn on(folder: &Path) -> Self {
            use nix::mount::{MsFlags, mount};
            mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            Self(folder.to_owned())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = nix::mount::umount(&self.0);
        }
    }

    #[test]
    fn no_link_is_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (work, outside) = (scratch.path().join("work"), scratch.path().join("outside"));
        std::fs::create_dir_all(work.join("volumes/roles/web")).unwrap();
        std::fs::create_dir_all(outside.join("v")).unwrap();
        std::fs::write(outside.join("v/file"), "kept").unwrap();
        let volume = [resource("v", "web", "")];
        let role = work.join("volumes/roles/web");
        for link in [role.join("v"), role.clone(), work.join("volumes")] {
            let _ = std::fs::remove_dir_all(&link);
            symlink(if link.ends_with("v") { outside.join("v") } else { outside.clone() }, &link).unwrap();
            assert!(make(&volume, &work).is_err(), "{link:?}");
            assert!(give(&volume, &work, Some((7, 7))).is_err(), "{link:?}");
            // The link itself may be moved aside, never what it leads to.
            let _ = remove(&volume, &work).map(|gone| clean(&gone));
            assert_eq!(std::fs::read(outside.join("v/file")).unwrap(), b"kept");
            assert_eq!(
                std::fs::metadata(outside.join("v")).unwrap().uid(),
                std::fs::metadata(&work).unwrap().uid()
            );
            let _ = std::fs::remove_file(&link);
        }
    }

    #[test]
    fn a_volume_is_given_to_its_user() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let mut volume = [resource("v", "web", "")];
        assert!(give(&volume, scratch.path(), Some((7, 8))).unwrap_err().contains("volumes/roles/web/v"));
        make(&volume, scratch.path()).unwrap();
        let path = scratch.path().join("volumes/roles/web/v");
        std::fs::write(path.join("file"), "").unwrap();
        let owner = |path: &Path| std::fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
        give(&volume, scratch.path(), Some((7, 8))).unwrap();
        assert_eq!((owner(&path), owner(&path.join("file"))), ((7, 8), (0, 0)));
        give(&volume, scratch.path(), Some((9, 9))).unwrap();
        assert_eq!(owner(&path), (9, 9));
        // One that several use stays the first user's.
        volume[0].shared = Some(Default::default());
        give(&volume, scratch.path(), Some((7, 8))).unwrap();
        assert_eq!(owner(&path), (9, 9));
    }
}
