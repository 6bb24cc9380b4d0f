//! How much room a folder takes, where no quota counts: a walk that follows no link, crosses no mount, and lets others go first.

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstatat};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// After this many entries others have a turn.
const PART: u64 = 2000;
/// For so long.
const TURN: Duration = Duration::from_millis(5);
/// More folders than this are not kept in mind; each still counts for itself.
const FOLDERS_MAX: usize = 100_000;

/// Bytes that a folder takes on its disk, as blocks; a file with several names counts once. Ends early beyond `enough`. What
/// cannot be read counts for nothing, such as what is deeper than a path can be long. Blocks, for long if there is much.
pub fn measure(folder: &Path, enough: u64) -> std::io::Result<u64> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let top = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(folder)?;
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let mut left = vec![PathBuf::from(".")];
    let mut seen = BTreeSet::new();
    let (mut total, mut entries) = (0_u64, 0_u64);
    while let Some(path) = left.pop() {
        let Ok(mut dir) = openat2(&top, &path, how).and_then(Dir::from_fd) else { continue };
        let here = openat2(&top, &path, how)?;
        for entry in dir.iter() {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name.to_bytes() == b".." {
                continue;
            }
            let Ok(stat) = fstatat(&here, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let is_folder = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
            // Each folder counts by its own entry `.`.
            if is_folder && name.to_bytes() != b"." {
                if left.len() < FOLDERS_MAX {
                    left.push(path.join(OsStr::from_bytes(name.to_bytes())));
                }
                continue;
            }
            if is_folder || stat.st_nlink <= 1 || seen.insert(stat.st_ino) {
                total = total.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            }
            entries += 1;
            if entries.is_multiple_of(PART) {
                std::thread::sleep(TURN);
            }
        }
        if total > enough {
            break;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn links_and_names_count_once_and_lead_nowhere() {
        let base = tempfile::tempdir().unwrap();
        let (folder, outside) = (base.path().join("in"), base.path().join("out"));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("big"), vec![1; 4 << 20]).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        let empty = measure(&folder, u64::MAX).unwrap();
        assert!(empty < 1 << 20, "{empty}");
        fs::write(folder.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(folder.join("a/b/file"), folder.join("a/again")).unwrap();
        let full = measure(&folder, u64::MAX).unwrap();
        assert!((1 << 20..(1 << 20) + 65_536).contains(&(full - empty)), "{empty} {full}");
        assert!(measure(&folder, 0).unwrap() > 0);
        assert!(measure(&folder.join("link"), 0).is_err(), "a link in its place is not followed");
        assert!(measure(&folder.join("none"), 0).is_err());
    }
}
