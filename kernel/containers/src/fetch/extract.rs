//! Unpacking: tar (plain, gzip, xz, bzip2, zstd), zip, gzipped files. The archive is hostile until proven otherwise.
//!
//! Entries are read raw and extended headers are understood here, so that their size has a limit of ours. Files,
//! folders, symbolic and hard links are made; anything else (devices, pipes, sparse files) is refused by name.

use super::sandbox::{Sandbox, parts};
use super::{FetchError, FetchOptions};
use flate2::read::MultiGzDecoder;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tar::{Archive, EntryType};

/// What can be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.tar`
    Tar,
    /// `.tar.gz`, `.tgz`
    TarGz,
    /// `.tar.xz`, `.txz`
    TarXz,
    /// `.tar.bz2`, `.tbz2`
    TarBz2,
    /// `.tar.zst`
    TarZst,
    /// `.zip`
    Zip,
    /// `.gz`
    Gz,
}

/// What a decoder may take of memory for looking back, KiB: xz -9 and zstd -19 need 64 and 8 MiB.
const WINDOW_KIB: u32 = 128 * 1024;

impl Format {
    /// By the name; `None` if it is no archive, an error if it is one of a kind that is not understood.
    pub fn of(name: &str) -> std::result::Result<Option<Self>, String> {
        let name = name.to_ascii_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        let kinds: [(&[&str], Format); 7] = [
            (&[".tar"], Format::Tar),
            (&[".tar.gz", ".tgz"], Format::TarGz),
            (&[".tar.xz", ".txz"], Format::TarXz),
            (&[".tar.bz2", ".tbz2"], Format::TarBz2),
            (&[".tar.zst"], Format::TarZst),
            (&[".zip"], Format::Zip),
            (&[".gz"], Format::Gz),
        ];
        let found = kinds.into_iter().find(|(suffixes, _)| ends(suffixes)).map(|(_, format)| format);
        if found.is_none() && ends(&[".bz2", ".xz", ".zst", ".7z", ".rar"]) {
            return Err("this kind is not understood; offer a .tar.gz, or set extract to false".into());
        }
        Ok(found)
    }
}

/// Which bound a [`Bounded`] reader met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overrun {
    /// Too many bytes.
    #[error("larger than the limit")]
    Size,
    /// Too late.
    #[error("the deadline has passed")]
    Time,
}

impl Overrun {
    /// Whether an error is one of these.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.get_ref()?);
        while let Some(error) = cause {
            if let Some(overrun) = error.downcast_ref::<Overrun>() {
                return Some(*overrun);
            }
            // An error that was wrapped as an I/O error again.
            cause = match error.downcast_ref::<Error>().and_then(Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

/// A reader with an end in bytes and in time.
#[derive(Debug)]
pub struct Bounded<R> {
    inner: R,
    left: u64,
    end: Instant,
}

impl<R> Bounded<R> {
    /// At most `max` bytes until `end`.
    pub fn new(inner: R, max: u64, end: Instant) -> Self {
        Self { inner, left: max, end }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if Instant::now() >= self.end {
            return Err(Error::other(Overrun::Time));
        }
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| Error::other(Overrun::Size))?;
        Ok(n)
    }
}

/// Unpacks a file of the sandbox into the sandbox; returns the number of entries. Blocks.
pub fn unpack(
    sandbox: &Sandbox,
    archive: &[OsString],
    format: Format,
    options: &FetchOptions,
    end: Instant,
    shown: &str,
) -> std::result::Result<u64, FetchError> {
    let max = options.max_unpacked_bytes;
    let work = || {
        let file = std::io::BufReader::with_capacity(64 * 1024, sandbox.read(archive)?);
        let entries = options.max_entries;
        match format {
            Format::Tar => untar(sandbox, Bounded::new(file, max, end), entries),
            Format::TarGz => untar(sandbox, Bounded::new(MultiGzDecoder::new(file), max, end), entries),
            Format::TarXz => {
                let plain = lzma_rust2::XzReader::new_mem_limit(file, true, WINDOW_KIB);
                untar(sandbox, Bounded::new(plain, max, end), entries)
            }
            Format::TarBz2 => {
                let plain = bzip2::bufread::MultiBzDecoder::new(file);
                untar(sandbox, Bounded::new(plain, max, end), entries)
            }
            Format::TarZst => {
                let window = u64::from(WINDOW_KIB) * 1024;
                let plain = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(file, window)
                    .map_err(|error| Error::new(ErrorKind::InvalidData, error.to_string()))?;
                untar(sandbox, Bounded::new(plain, max, end), entries)
            }
            Format::Zip => super::zip::unzip(sandbox, file, &super::zip::Bounds { max, entries, end }),
            Format::Gz => gunzip(sandbox, archive, Bounded::new(MultiGzDecoder::new(file), max, end)),
        }
    };
    work().map_err(|error| match Overrun::of(&error) {
        Some(Overrun::Size) => FetchError::TooLarge { uri: shown.to_owned(), max },
        Some(Overrun::Time) => FetchError::Deadline { after: options.deadline },
        None => FetchError::Archive { uri: shown.to_owned(), reason: error.to_string() },
    })
}

fn gunzip(sandbox: &Sandbox, archive: &[OsString], mut from: impl Read) -> Result<u64> {
    let mut parts = archive.to_vec();
    if let Some(name) = parts.last_mut() {
        let stem = Path::new(name.as_os_str()).file_stem().map(OsStr::to_owned);
        *name = stem.unwrap_or_default();
    }
    // Complete or not at all, as for a download.
    let mut temporary = sandbox.temporary()?;
    std::io::copy(&mut from, &mut temporary.file)?;
    sandbox.finish(temporary, &parts, 0o644)?;
    Ok(1)
}

/// What an extended header says about the entry after it.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Extended headers hold names; a megabyte is generous.
const EXTENDED_MAX: u64 = 1 << 20;

fn refuse(what: &str, path: &Path) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what}: {:?}", path.display().to_string()))
}

fn untar(sandbox: &Sandbox, from: impl Read, max_entries: u64) -> Result<u64> {
    let mut archive = Archive::new(from);
    let mut extended = Extended::default();
    let mut folders = Vec::new();
    let mut count = 0;
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        count += 1;
        if count > max_entries {
            return Err(Error::other(Overrun::Size));
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => extended.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => pax(&mut entry, &mut extended)?,
            EntryType::XGlobalHeader => {}
            _ => one(sandbox, &mut entry, std::mem::take(&mut extended), &mut folders)?,
        }
    }
    // Last, so that a folder without write permission can be filled first.
    for (parts, mode) in folders.iter().rev() {
        sandbox.folder_mode(parts, *mode)?;
    }
    Ok(count)
}

fn long_name(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut name = body(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn body(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    entry.take(EXTENDED_MAX + 1).read_to_end(&mut body)?;
    if body.len() as u64 > EXTENDED_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "an extended header above 1 MiB"));
    }
    Ok(body)
}

/// Records `length key=value\n`, the length counting itself.
fn pax(entry: &mut impl Read, extended: &mut Extended) -> Result<()> {
    let bad = || Error::new(ErrorKind::InvalidData, "a malformed extended header");
    let body = body(entry)?;
    let mut rest = body.as_slice();
    while !rest.is_empty() && rest[0] != 0 {
        let blank = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let digits = std::str::from_utf8(&rest[..blank]).map_err(|_| bad())?;
        let len: usize = digits.parse().map_err(|_| bad())?;
        let record = rest.get(blank + 1..len).and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        rest = rest.get(len..).ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], record[equals + 1..].to_vec());
        match key {
            b"path" => extended.path = Some(value),
            b"linkpath" => extended.link = Some(value),
            // The size in the plain header is what says where the next entry starts.
            b"size" => return Err(Error::new(ErrorKind::InvalidData, "an entry above 8 GiB")),
            _ if key.starts_with(b"GNU.sparse") => {
                return Err(Error::new(ErrorKind::InvalidData, "a sparse file"));
            }
            _ => {}
        }
    }
    Ok(())
}

type Folders = Vec<(Vec<OsString>, u32)>;

fn one<R: Read>(
    sandbox: &Sandbox,
    entry: &mut tar::Entry<'_, R>,
    extended: Extended,
    folders: &mut Folders,
) -> Result<()> {
    let plain = entry.header().path_bytes().into_owned();
    let path = PathBuf::from(OsString::from_vec(extended.path.unwrap_or(plain)));
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(refuse("a name with a NUL byte", &path));
    }
    let kind = entry.header().entry_type();
    let Some(place) = parts(&path) else {
        // The folder itself is in many archives.
        let itself = path.components().all(|c| c == std::path::Component::CurDir) && kind.is_dir();
        return if itself { Ok(()) } else { Err(refuse("a name that leads outside", &path)) };
    };
    let mode = entry.header().mode().unwrap_or(0o644);
    let named = |error: Error| match Overrun::of(&error) {
        Some(_) => error,
        None => Error::new(error.kind(), format!("{:?}: {error}", path.display().to_string())),
    };
    let link =
        || extended.link.clone().or_else(|| entry.header().link_name_bytes().map(|name| name.into_owned()));
    match kind {
        EntryType::Directory => {
            sandbox.folder(&place).map_err(named)?;
            folders.push((place, mode));
        }
        EntryType::Symlink => {
            let target = PathBuf::from(OsString::from_vec(link().unwrap_or_default()));
            sandbox.symlink(&target, &place).map_err(named)?;
        }
        EntryType::Link => {
            let target = PathBuf::from(OsString::from_vec(link().unwrap_or_default()));
            let target = parts(&target).ok_or_else(|| refuse("a link that leads outside", &path))?;
            sandbox.hard_link(&target, &place).map_err(named)?;
        }
        EntryType::Regular | EntryType::Continuous => {
            let mut file = sandbox.create(&place).map_err(named)?;
            std::io::copy(entry, &mut file).map_err(named)?;
            sandbox.own(&file, mode).map_err(named)?;
            if let Ok(seconds) = entry.header().mtime() {
                let time = TimeSpec::new(i64::try_from(seconds).unwrap_or(0), 0);
                futimens(&file, &time, &time)?;
            }
        }
        other => return Err(refuse(&format!("an entry of the kind {other:?}"), &path)),
    }
    Ok(())
}
