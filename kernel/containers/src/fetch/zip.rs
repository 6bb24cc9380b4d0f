//! Unpacking zip archives: names, links and sizes are hostile until proven otherwise, as in tar archives.

use super::extract::{Bounded, Overrun};
use super::sandbox::{Sandbox, parts};
use std::io::{Error, ErrorKind, Read, Result, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Instant;

/// The longest target of a link.
const LINK_MAX: u64 = 4096;

/// What an archive may unpack to.
pub struct Bounds {
    /// Bytes of all entries together.
    pub max: u64,
    /// Entries.
    pub entries: u64,
    /// Until when.
    pub end: Instant,
}

/// Unpacks an archive into a sandbox; returns the number of entries.
pub fn unzip(sandbox: &Sandbox, from: impl Read + Seek, bounds: &Bounds) -> Result<u64> {
    let bad = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => error,
        other => Error::new(ErrorKind::InvalidData, other.to_string()),
    };
    let mut archive = zip::ZipArchive::new(from).map_err(bad)?;
    let count = archive.len();
    if count as u64 > bounds.entries {
        return Err(Error::other(Overrun::Size));
    }
    let mut left = bounds.max;
    let mut folders = Vec::new();
    for index in 0..count {
        let mut entry = archive.by_index(index).map_err(bad)?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(entry.name_raw().to_vec()));
        let refuse = |what: &str| {
            Error::new(ErrorKind::InvalidData, format!("{what}: {:?}", path.display().to_string()))
        };
        let named = |error: Error| match Overrun::of(&error) {
            Some(_) => error,
            None => Error::new(error.kind(), format!("{:?}: {error}", path.display().to_string())),
        };
        if entry.name_raw().contains(&0) {
            return Err(refuse("a name with a NUL byte"));
        }
        let place = parts(&path).ok_or_else(|| refuse("a name that leads outside"))?;
        let mode = entry.unix_mode();
        if entry.is_dir() {
            sandbox.folder(&place).map_err(named)?;
            folders.push((place, mode.map_or(0o755, |mode| mode & 0o7777)));
            continue;
        }
        let (link, kind) = (entry.is_symlink(), mode.unwrap_or(0) & libc::S_IFMT);
        if !link && kind != 0 && kind != libc::S_IFREG {
            return Err(refuse("an entry that is neither a file, a folder nor a link"));
        }
        // What an entry says of its size is not believed: what comes out of it is counted.
        let mut content = Bounded::new(&mut entry, left, bounds.end);
        let written = if link {
            let mut target = Vec::new();
            (&mut content).take(LINK_MAX + 1).read_to_end(&mut target).map_err(named)?;
            if target.len() as u64 > LINK_MAX {
                return Err(refuse("a link with a target above 4 KiB"));
            }
            let target = PathBuf::from(std::ffi::OsString::from_vec(target));
            sandbox.symlink(&target, &place).map_err(named)?;
            0
        } else {
            let mut file = sandbox.create(&place).map_err(named)?;
            let written = std::io::copy(&mut content, &mut file).map_err(named)?;
            sandbox.own(&file, mode.map_or(0o644, |mode| mode & 0o7777)).map_err(named)?;
            written
        };
        left = left.checked_sub(written).ok_or_else(|| Error::other(Overrun::Size))?;
    }
    // Last, so that a folder without write permission can be filled first.
    for (place, mode) in folders.iter().rev() {
        sandbox.folder_mode(place, *mode)?;
    }
    Ok(count as u64)
}
