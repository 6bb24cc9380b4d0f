//! File systems that matter, as they are below the paths that will be used: the nearest folder that exists is asked.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::statvfs::{FsFlags, statvfs};
use plenum_plan::facts::Disk;

use super::text;

/// Writes whose median is told.
const WRITES: usize = 15;

pub fn all() -> Vec<Disk> {
    [("state", "/var/lib/plenum"), ("programs", "/opt/plenum"), ("link", "/usr/local/bin")]
        .into_iter()
        .filter_map(|(purpose, path)| look(purpose, path))
        .collect()
}

fn existing(path: &str) -> Option<PathBuf> {
    let mut path = Path::new(path);
    while !path.is_dir() {
        path = path.parent()?;
    }
    Some(path.to_path_buf())
}

fn look(purpose: &str, path: &str) -> Option<Disk> {
    let at = existing(path)?;
    let stat = statvfs(&at).ok()?;
    let block = stat.fragment_size();
    let filesystem = filesystem(&text("/proc/self/mountinfo"), &at);
    let inodes = stat.files_free();
    let state = purpose == "state";
    let root = nix::unistd::geteuid().is_root();
    Some(Disk {
        purpose: purpose.to_owned(),
        path: path.to_owned(),
        size: stat.blocks().saturating_mul(block),
        free: stat.blocks_free().saturating_mul(block),
        inodes_free: (stat.files() > 0).then_some(inodes),
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
        noexec: stat.flags().contains(FsFlags::ST_NOEXEC),
        d_type: d_type(&at),
        fsync_ms: if state && root { fsync_ms(&at) } else { None },
        filesystem,
    })
}

/// The type of what is mounted nearest above `path`; of mounts at the same place the last.
fn filesystem(mountinfo: &str, path: &Path) -> String {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4) else { continue };
        let kind = right.split(' ').next().unwrap_or_default();
        if path.starts_with(mount) && best.is_none_or(|(length, _)| mount.len() >= length) {
            best = Some((mount.len(), kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

/// Whether entries tell their type: true if one does, false if there are some and none does.
fn d_type(folder: &Path) -> Option<bool> {
    let mut seen = None;
    let mut folder =
        nix::dir::Dir::open(folder, nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).ok()?;
    for entry in folder.iter().take(100).flatten() {
        if entry.file_type().is_some() {
            return Some(true);
        }
        seen = Some(false);
    }
    seen
}

fn fsync_ms(folder: &Path) -> Option<f64> {
    let path = folder.join(format!(".plenum-probe-{}", std::process::id()));
    let measure = || -> std::io::Result<f64> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut times = Vec::with_capacity(WRITES);
        for _ in 0..WRITES {
            let begun = Instant::now();
            file.write_all(&[0x5a; 4096])?;
            file.sync_data()?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok(times.get(WRITES / 2).copied().unwrap_or_default())
    };
    let measured = measure();
    let _ = fs::remove_file(&path);
    // Two digits: facts that differ in noise only are hard to read.
    measured.ok().map(|ms| (ms * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let info = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /var rw shared:1 - xfs /dev/b rw\n3 1 0:5 / /var/lib rw - tmpfs t rw\n";
        assert_eq!(filesystem(info, Path::new("/var/lib/plenum")), "tmpfs");
        assert_eq!(filesystem(info, Path::new("/var/lib2")), "xfs");
        assert_eq!(filesystem(info, Path::new("/opt")), "ext4");
        assert_eq!(filesystem("", Path::new("/opt")), "");
    }

    #[test]
    fn folders_that_do_not_exist_yet_are_asked_above() {
        let disk = look("state", "/tmp/no/such/folder").unwrap();
        assert_eq!(disk.path, "/tmp/no/such/folder");
        assert!(disk.size > 0 && disk.free <= disk.size);
        assert_eq!(
            fs::read_dir("/tmp")
                .unwrap()
                .flatten()
                .filter(|e| e.file_name().to_string_lossy().starts_with(".plenum-probe"))
                .count(),
            0
        );
    }
}
