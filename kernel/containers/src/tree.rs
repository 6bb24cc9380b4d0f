//! Removing what a container has written: by descriptor, following no link and crossing no mount.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Removes a folder with everything in it. What is on another file system stays and is an error (`EXDEV`), as it is a
/// mount that somebody forgot: its content is not ours. A folder that does not exist is no error. Blocks.
pub fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let top = match open(AT_FDCWD, folder) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let device = fstat(&top)?.st_dev;
    empty(top, device)?;
    std::fs::remove_dir(folder)
}

fn open<F: AsFd, P: ?Sized + nix::NixPath>(at: F, name: &P) -> nix::Result<OwnedFd> {
    openat(
        at,
        name,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// Without recursion and with few descriptors: a task can make folders deeper than any stack or table. The way back up
/// is `..`, checked to be the folder that was left.
fn empty(top: OwnedFd, device: u64) -> nix::Result<()> {
    let mut way: Vec<(CString, u64)> = Vec::new();
    let mut here = top;
    loop {
        match clear_files(&here)? {
            Some(name) => {
                let below = open(&here, name.as_c_str())?;
                if fstat(&below)?.st_dev != device {
                    return Err(Errno::EXDEV);
                }
                way.push((name, fstat(&here)?.st_ino));
                here = below;
            }
            None => {
                let Some((name, parent)) = way.pop() else { return Ok(()) };
                let above = open(&here, "..")?;
                let stat = fstat(&above)?;
                if (stat.st_dev, stat.st_ino) != (device, parent) {
                    return Err(Errno::ESTALE);
                }
                unlinkat(&above, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
                here = above;
            }
        }
    }
}

/// Removes what is no folder; gives a folder if one is left.
fn clear_files(here: &OwnedFd) -> nix::Result<Option<CString>> {
    let mut folder = None;
    // A descriptor of its own: reading moves its position.
    let mut dir = Dir::from_fd(open(here, ".")?)?;
    for entry in dir.iter() {
        let name = entry?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(here, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => {
                folder = Some(name);
                break;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_tree_goes_and_its_surroundings_stay() {
        let base = tempfile::tempdir().unwrap();
        let (tree, outside) = (base.path().join("tree"), base.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::fs::write(tree.join("a/b/file"), "x").unwrap();
        // Deeper than a path can be long.
        let mut deep = open(AT_FDCWD, &tree).unwrap();
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&deep, "dd", Mode::from_bits_truncate(0o755)).unwrap();
            deep = open(&deep, "dd").unwrap();
        }
        drop(deep);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
        // A link in the place of the folder is not followed.
        std::os::unix::fs::symlink(&outside, &tree).unwrap();
        assert!(remove_tree(&tree).is_err());
        assert!(outside.join("kept").exists());
    }
}
