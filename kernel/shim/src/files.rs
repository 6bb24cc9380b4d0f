//! Files of the runtime folder (relative to the working directory) and of the sandbox.

use crate::failure::{At, Step, failed, refused};
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// A byte string as a path.
#[must_use]
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Replaces a file so that a reader sees the old or the new content, never a part. `durable` also survives a power cut.
pub fn write_atomic(name: &str, content: &[u8], durable: bool) -> std::io::Result<()> {
    let temporary = format!("{name}.tmp");
    let _absent = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, name)?;
    if durable {
        // The name is as durable as its folder.
        File::open(".")?.sync_all()?;
    }
    Ok(())
}

/// Opens an output file of a task for appending and gives it to the task's user. The folder belongs to that user, who
/// may have planted something: only a regular file with a single name is taken, and links are not followed.
pub fn open_output(name: &[u8], owner: Option<(u32, u32)>) -> Step<File> {
    const STEP: &str = "open output file";
    let target = if name.is_empty() { path(b"/dev/null") } else { path(name) };
    let file = OpenOptions::new()
        .append(true)
        .create(!name.is_empty())
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(target)
        .at(STEP, name)?;
    if name.is_empty() {
        return Ok(file);
    }
    let meta = file.metadata().at(STEP, name)?;
    if !meta.file_type().is_file() {
        return Err(refused("open output file: not a regular file", name));
    }
    if meta.nlink() != 1 {
        return Err(failed("open output file: it has other names", name, Errno::EMLINK));
    }
    if let Some((uid, gid)) = owner
        && (meta.uid(), meta.gid()) != (uid, gid)
    {
        fchown(&file, Some(uid), Some(gid)).at("own output file", name)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_output_files_are_refused() {
        let dir = std::env::temp_dir().join(format!("plenum-shim-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name).as_os_str().as_bytes().to_vec();
        std::fs::write(dir.join("victim"), "x").unwrap();
        std::os::unix::fs::symlink(dir.join("victim"), dir.join("link")).unwrap();
        std::fs::hard_link(dir.join("victim"), dir.join("hard")).unwrap();
        let errno = |name: &str| open_output(&at(name), None).unwrap_err().errno;
        assert_eq!(errno("link"), libc::ELOOP);
        assert_eq!(errno("hard"), libc::EMLINK);
        assert_eq!(errno("no/such"), libc::ENOENT);
        assert_eq!(errno("."), libc::EISDIR);
        open_output(&at("fresh"), None).unwrap().write_all(b"1").unwrap();
        open_output(&at("fresh"), None).unwrap().write_all(b"2").unwrap();
        assert_eq!(std::fs::read(dir.join("fresh")).unwrap(), b"12");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
