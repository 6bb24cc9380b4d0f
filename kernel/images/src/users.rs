//! Users and groups of an image: `/etc/passwd` and `/etc/group` as a container would see them, read beneath the layers without mounting anything
//! and without following a link out of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fgetxattr, openat, openat2, readlinkat, statat,
};

use crate::error::ImageError;

/// Who a container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, sorted, with the primary one.
    pub groups: Vec<u32>,
    /// The home folder, where the user has an entry.
    pub home: Option<String>,
}

/// The largest file of users that is read.
const FILE_MAX: u64 = 4 << 20;
const LINKS_MAX: usize = 8;

/// Resolves `name`, `uid`, `name:group` or `uid:gid`; nothing at all is root. A number needs no entry; its group is then 0, as with the engine.
///
/// # Errors
/// [`ImageError::NoUser`].
pub fn resolve(layers: &[PathBuf], wanted: &str) -> Result<User, ImageError> {
    let passwd = file(layers, "etc/passwd").unwrap_or_default();
    let group = file(layers, "etc/group").unwrap_or_default();
    from_texts(wanted, &String::from_utf8_lossy(&passwd), &String::from_utf8_lossy(&group))
}

fn from_texts(wanted: &str, passwd: &str, group: &str) -> Result<User, ImageError> {
    let shown = |text: &str| text.chars().take(100).collect::<String>();
    let no_user = |who: &str| ImageError::NoUser { what: format!("user {:?}", shown(who)) };
    let (who, primary) = match wanted.split_once(':') {
        Some((who, primary)) => (who, Some(primary).filter(|primary| !primary.is_empty())),
        None => (wanted, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let number = who.parse::<u32>().ok();
    // A name may look like a number; the entry of the name wins.
    let entry = passwd.lines().find_map(|line| entry(line).filter(|(name, ..)| *name == who));
    let entry = entry.or_else(|| passwd.lines().find_map(|line| entry_of_number(line, number)));
    let mut user = match (entry, number) {
        (Some((_, uid, gid, home)), _) => {
            let home = (!home.is_empty()).then(|| home.to_owned());
            User { uid, gid, groups: Vec::new(), home }
        }
        // The highest number means "no change" to the kernel.
        (None, Some(uid)) if uid != u32::MAX => User { uid, gid: 0, groups: Vec::new(), home: None },
        _ => return Err(no_user(who)),
    };
    match primary {
        Some(primary) => {
            let by_name = group.lines().find_map(|line| group_of(line).filter(|(name, ..)| *name == primary));
            let number = || primary.parse().ok().filter(|gid| *gid != u32::MAX);
            user.gid = by_name
                .map(|(_, gid, _)| gid)
                .or_else(number)
                .ok_or_else(|| ImageError::NoUser { what: format!("group {:?}", shown(primary)) })?;
        }
        // With a group of its own a container has that one only.
        None => {
            if let Some((name, ..)) = entry {
                let member = |line: &str| {
                    let (_, gid, members) = group_of(line)?;
                    members.split(',').any(|member| member == name).then_some(gid)
                };
                user.groups = group.lines().filter_map(member).take(1024).collect();
            }
        }
    }
    user.groups.push(user.gid);
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

/// Name, user id, group id, home.
fn entry(line: &str) -> Option<(&str, u32, u32, &str)> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))?;
    let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != u32::MAX)?;
    let gid = fields.next()?.parse().ok().filter(|gid| *gid != u32::MAX)?;
    Some((name, uid, gid, fields.nth(1).unwrap_or_default()))
}

fn entry_of_number(line: &str, number: Option<u32>) -> Option<(&str, u32, u32, &str)> {
    entry(line).filter(|(_, uid, ..)| Some(*uid) == number)
}

/// Name, group id, members.
fn group_of(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = fields.nth(1)?.parse().ok().filter(|gid| *gid != u32::MAX)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

/// What a layer has under a path.
enum Found {
    File(Vec<u8>),
    Link(Vec<u8>),
    /// It, or a folder above it, is gone here or hides what is below.
    Hidden,
    Nothing,
}

/// A file of the image, as the layers together show it; `None` where there is none or it is too large.
fn file(layers: &[PathBuf], path: &str) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
    for _ in 0..LINKS_MAX {
        let mut target = None;
        'layers: for layer in layers.iter().rev() {
            for depth in 1..=parts.len() {
                let above = parts.get(..depth)?;
                match look(layer, above, depth == parts.len()) {
                    Found::File(content) => return Some(content),
                    Found::Link(to) => {
                        target = Some(joined(above, &to, parts.get(depth..).unwrap_or_default()));
                        break 'layers;
                    }
                    Found::Hidden => return None,
                    Found::Nothing => {}
                }
            }
        }
        parts = target??;
    }
    None
}

/// The parts of a link's target, seen from the link, with what follows; `..` stops at the root, as in a container.
fn joined(link: &[Vec<u8>], to: &[u8], rest: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let mut parts = if to.starts_with(b"/") { Vec::new() } else { link.split_last()?.1.to_vec() };
    for part in to.split(|byte| *byte == b'/').chain(rest.iter().map(Vec::as_slice)) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part.to_vec()),
        }
    }
    (parts.len() < 64).then_some(parts)
}

fn look(layer: &Path, parts: &[Vec<u8>], last: bool) -> Found {
    found(layer, parts, last).unwrap_or(Found::Nothing)
}

fn found(layer: &Path, parts: &[Vec<u8>], last: bool) -> Option<Found> {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let confined = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let (name, above) = parts.split_last()?;
    let mut parent = openat(CWD, layer, folder, Mode::empty()).ok()?;
    if !above.is_empty() {
        parent =
            openat2(&parent, OsStr::from_bytes(&above.join(&b'/')), folder, Mode::empty(), confined).ok()?;
    }
    let name = OsStr::from_bytes(name);
    let opaque = || {
        let mut value = [0_u8; 4];
        let is = matches!(fgetxattr(&parent, "trusted.overlay.opaque", &mut value), Ok(1..))
            && value.first() == Some(&b'y');
        if is { Found::Hidden } else { Found::Nothing }
    };
    let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { return Some(opaque()) };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Some(Found::Link(readlinkat(&parent, name, Vec::new()).ok()?.into_bytes())),
        FileType::RegularFile if last => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let file = openat2(&parent, name, flags, Mode::empty(), confined).ok()?;
            let mut content = Vec::new();
            File::from(file).take(FILE_MAX + 1).read_to_end(&mut content).ok()?;
            Some(if content.len() as u64 > FILE_MAX { Found::Hidden } else { Found::File(content) })
        }
        FileType::Directory if !last => Some(Found::Nothing),
        // A whiteout, or something that is in the way.
        _ => Some(Found::Hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{XattrFlags, mknodat, setxattr};
    use std::fs;
    use std::os::unix::fs::symlink;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n#x\nbroken\nweb:x:33:34::/var/www:/bin/sh\n7:x:70:70::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:4:web,other\nbad:x:y:web\n";

    #[test]
    fn names_and_numbers() {
        for (wanted, uid, gid, groups) in [
            ("", 0, 0, vec![0]),
            ("root", 0, 0, vec![0]),
            ("web", 33, 34, vec![4, 34]),
            ("33", 33, 34, vec![4, 34]),
            ("7", 70, 70, vec![70]),
            ("1234", 1234, 0, vec![0]),
            ("1234:5", 1234, 5, vec![5]),
            ("web:logs", 33, 4, vec![4]),
            ("web:", 33, 34, vec![4, 34]),
            (":logs", 0, 4, vec![4]),
        ] {
            let user = from_texts(wanted, PASSWD, GROUP).unwrap();
            assert_eq!((user.uid, user.gid, user.groups), (uid, gid, groups), "{wanted}");
        }
        for wanted in ["ghost", "web:ghost", "4294967295", "-1", "1:4294967295", "99999999999"] {
            assert_eq!(from_texts(wanted, PASSWD, GROUP).unwrap_err().code(), "IMAGE_USER", "{wanted}");
        }
    }

    #[test]
    fn the_topmost_layer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<_> = ["a", "b", "c"].map(|name| dir.path().join(name)).into();
        layers.iter().for_each(|layer| fs::create_dir_all(layer.join("etc")).unwrap());
        let uid = |layers: &[PathBuf]| resolve(layers, "web").map(|user| user.uid).ok();
        let line = |uid: u32| format!("web:x:{uid}:1::/:\n");
        assert_eq!(uid(&layers), None);
        fs::write(layers[0].join("etc/passwd"), line(10)).unwrap();
        assert_eq!(uid(&layers), Some(10));
        fs::write(layers[1].join("etc/passwd"), line(11)).unwrap();
        assert_eq!(uid(&layers), Some(11));
        // A link, within the image, through another layer; one that would lead out of it ends at its root.
        fs::write(layers[0].join("etc/other"), line(12)).unwrap();
        symlink("../../../../etc/other", layers[2].join("etc/passwd")).unwrap();
        assert_eq!(uid(&layers), Some(12));
        fs::remove_file(layers[2].join("etc/passwd")).unwrap();
        symlink("/proc/self/root/etc/passwd", layers[2].join("etc/passwd")).unwrap();
        assert_eq!(resolve(&layers, "root").ok().map(|user| user.uid), None);
        fs::remove_file(layers[2].join("etc/passwd")).unwrap();
        symlink("passwd", layers[2].join("etc/passwd")).unwrap();
        assert_eq!(uid(&layers), None, "a circle");
        // A whiteout, then an opaque folder.
        fs::remove_file(layers[2].join("etc/passwd")).unwrap();
        mknodat(CWD, layers[2].join("etc/passwd"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        assert_eq!(uid(&layers), None);
        fs::remove_file(layers[2].join("etc/passwd")).unwrap();
        assert_eq!(uid(&layers), Some(11));
        setxattr(layers[2].join("etc"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        assert_eq!(uid(&layers), None);
    }
}
