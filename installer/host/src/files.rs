//! Files, folders, owners, links and system users: each call makes what is asked for, says whether it changed something, and may be
//! repeated.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};

use crate::events::HostError;
use crate::run::run;

/// A user and the group of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// root.
pub const ROOT: Owner = Owner { uid: 0, gid: 0 };

const SHORT: Duration = Duration::from_secs(30);

/// Finds a user through `getent`, since a static program has no other way to all of a host's users.
#[must_use]
pub fn user(name: &str) -> Option<Owner> {
    plenum_base::users::lookup(name).map(|user| Owner { uid: user.uid, gid: user.gid })
}

/// Makes a system user without a home or a shell, unless there is one of that name.
///
/// # Errors
/// What `useradd` says.
pub fn make_user(name: &str) -> Result<(Owner, bool), HostError> {
    if let Some(owner) = user(name) {
        return Ok((owner, false));
    }
    let arguments = [
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
        name,
    ];
    let said = run("useradd", &arguments, SHORT);
    let owner = user(name)
        .ok_or_else(|| HostError::System(format!("the user {name} cannot be made: {}", said.complaint())))?;
    Ok((owner, true))
}

/// Makes a folder with its owner and mode; parents must be there. True: something changed.
///
/// # Errors
/// What the system says.
pub fn folder(path: &Path, owner: Owner, mode: u32) -> Result<bool, HostError> {
    let made = match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(HostError::at(path)(error)),
    };
    let meta = fs::symlink_metadata(path).map_err(HostError::at(path))?;
    if !meta.is_dir() {
        return Err(HostError::at(path)("it is no folder; move it away"));
    }
    let owned = own(path, owner)?;
    let differs = meta.permissions().mode() & 0o7777 != mode;
    if differs {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(HostError::at(path))?;
    }
    Ok(made || owned || differs)
}

/// Gives a file or folder to `owner`; a link itself, not what it leads to. True: it was another's.
///
/// # Errors
/// What the system says.
pub fn own(path: &Path, owner: Owner) -> Result<bool, HostError> {
    let meta = fs::symlink_metadata(path).map_err(HostError::at(path))?;
    if (meta.uid(), meta.gid()) == (owner.uid, owner.gid) {
        return Ok(false);
    }
    lchown(path, Some(owner.uid), Some(owner.gid)).map_err(HostError::at(path))?;
    Ok(true)
}

/// Gives everything below a folder to `owner`. A folder that is not there is fine.
///
/// # Errors
/// What the system says.
pub fn own_all(path: &Path, owner: Owner) -> Result<(), HostError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    own(path, owner)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(HostError::at(path))?.flatten() {
            own_all(&entry.path(), owner)?;
        }
    }
    Ok(())
}

/// Writes a file unless it has that content already. True: it changed.
///
/// # Errors
/// What the system says.
pub fn file(path: &Path, text: &str, owner: Owner, mode: u32) -> Result<bool, HostError> {
    let same = fs::read(path).is_ok_and(|there| there == text.as_bytes());
    if !same {
        plenum_base::files::replace(path, text.as_bytes(), mode).map_err(HostError::at(path))?;
    }
    let owned = own(path, owner)?;
    Ok(!same || owned)
}

/// Makes a link, over an older one, or over a copy of what it leads to: an image may have the program itself there. True: it changed.
///
/// # Errors
/// When something else is there.
pub fn link(path: &Path, to: &Path) -> Result<bool, HostError> {
    if fs::read_link(path).is_ok_and(|there| there == to) {
        return Ok(false);
    }
    let other = fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_symlink());
    if other && !(path.is_file() && digest(path)? == digest(to)?) {
        return Err(HostError::at(path)("it is no link of ours; move it away"));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(HostError::at(parent))?;
    }
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    symlink(to, &fresh).and_then(|()| fs::rename(&fresh, path)).map_err(HostError::at(path))?;
    Ok(true)
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// What the system says.
pub fn digest(path: &Path) -> Result<String, HostError> {
    let mut file = fs::File::open(path).map_err(HostError::at(path))?;
    let mut context = Context::new(&SHA256);
    let mut part = vec![0; 1 << 20];
    loop {
        let size = io::Read::read(&mut file, &mut part).map_err(HostError::at(path))?;
        match part.get(..size) {
            Some(bytes) if !bytes.is_empty() => context.update(bytes),
            _ => return Ok(plenum_base::pki::hex(context.finish().as_ref())),
        }
    }
}

/// SHA-256 of texts, each with its end marked.
#[must_use]
pub fn digest_of(texts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(text.as_bytes());
        context.update(&[0]);
    }
    plenum_base::pki::hex(context.finish().as_ref())
}

/// Copies a program to its place, unless the same is there. True: it changed. A program that runs from there goes on.
///
/// # Errors
/// What the system says.
pub fn program(from: &Path, to: &Path) -> Result<bool, HostError> {
    if from == to || (to.is_file() && digest(from)? == digest(to)?) {
        return Ok(false);
    }
    let fresh = to.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let copy = || -> io::Result<()> {
        fs::copy(from, &fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        fs::File::open(&fresh)?.sync_all()?;
        fs::rename(&fresh, to)
    };
    if let Err(error) = copy() {
        // On a full disk a half would keep everybody else from going on.
        let _ = fs::remove_file(&fresh);
        return Err(HostError::at(to)(error));
    }
    Ok(true)
}

/// Removes a file or link; one that is gone is fine. True: it was there.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> Result<bool, HostError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(HostError::at(path)(error)),
    }
}

/// Removes a folder with all that is in it; one that is gone is fine. True: it was there.
///
/// # Errors
/// What the system says.
pub fn remove_all(path: &Path) -> Result<bool, HostError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(HostError::at(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_no_change() {
        let folder_ = tempfile::tempdir().unwrap();
        let meta = fs::metadata(folder_.path()).unwrap();
        let me = Owner { uid: meta.uid(), gid: meta.gid() };
        let at = |name: &str| folder_.path().join(name);
        assert_eq!(
            (folder(&at("d"), me, 0o711).unwrap(), folder(&at("d"), me, 0o711).unwrap()),
            (true, false)
        );
        assert!(folder(&at("d"), me, 0o700).unwrap(), "another mode");
        assert_eq!(
            (file(&at("f"), "a", me, 0o600).unwrap(), file(&at("f"), "a", me, 0o600).unwrap()),
            (true, false)
        );
        assert!(file(&at("f"), "b", me, 0o600).unwrap());
        assert_eq!((link(&at("l"), &at("f")).unwrap(), link(&at("l"), &at("f")).unwrap()), (true, false));
        assert!(link(&at("f"), &at("d")).is_err(), "a file is not replaced by a link");
        assert_eq!(
            (program(&at("f"), &at("p")).unwrap(), program(&at("f"), &at("p")).unwrap()),
            (true, false)
        );
        fs::write(at("other"), "another program").unwrap();
        assert!(link(&at("other"), &at("p")).is_err(), "another program is not replaced");
        fs::copy(at("p"), at("copy")).unwrap();
        assert!(link(&at("copy"), &at("p")).unwrap(), "a copy is");
        assert_eq!(fs::read_link(at("copy")).unwrap(), at("p"));
        assert_eq!(fs::metadata(at("p")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(digest(&at("f")).unwrap().len(), 64);
        assert_ne!(digest_of(&["ab", "c"]), digest_of(&["a", "bc"]));
        assert_eq!((remove(&at("l")).unwrap(), remove(&at("l")).unwrap()), (true, false));
        assert_eq!((remove_all(&at("d")).unwrap(), remove_all(&at("d")).unwrap()), (true, false));
    }

    #[test]
    fn root_is_found() {
        assert_eq!(user("root"), Some(ROOT));
        assert_eq!(user("no-such-user"), None);
    }
}
