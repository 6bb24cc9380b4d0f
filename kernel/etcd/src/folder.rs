//! The member's folder: etcd's data, what is noted about the member, and data that was set aside.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use plenum_base::files;
use serde::{Deserialize, Serialize};

use crate::join::Listed;

/// How many folders that were set aside are kept.
const KEPT: usize = 2;

/// What was last known about the member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) id: u64,
    pub(crate) cluster: u64,
    pub(crate) members: Vec<Listed>,
}

/// Paths below a member's folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// etcd's own.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(crate) fn has_data(&self) -> bool {
        self.data().join("member").exists()
    }

    fn note_file(&self) -> PathBuf {
        self.0.join("member.json")
    }

    fn out_file(&self) -> PathBuf {
        self.0.join("taken-out")
    }

    pub(crate) fn request_file(&self) -> PathBuf {
        self.0.join("recover.json")
    }

    pub(crate) fn outcome_file(&self) -> PathBuf {
        self.0.join("recovered.json")
    }

    /// Makes the folder and takes it for this process; `None` while another one has it.
    pub(crate) fn lock(&self) -> io::Result<Option<Flock<std::fs::File>>> {
        files::private_dir(&self.0)?;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e.into()),
        }
    }

    /// The note, if there is one that can be read.
    pub(crate) fn note(&self) -> Option<Note> {
        serde_json::from_slice(&std::fs::read(self.note_file()).ok()?).ok()
    }

    pub(crate) fn write_note(&self, note: &Note) -> io::Result<()> {
        if self.note().as_ref() == Some(note) {
            return Ok(());
        }
        files::replace(&self.note_file(), &serde_json::to_vec(note)?, 0o600)
    }

    pub(crate) fn is_out(&self) -> bool {
        self.out_file().exists()
    }

    pub(crate) fn set_out(&self, out: bool) -> io::Result<()> {
        match out {
            true => files::replace(&self.out_file(), b"taken out of the cluster\n", 0o600),
            false => gone(std::fs::remove_file(self.out_file())),
        }
    }

    /// Puts etcd's data aside, so that it starts with none; older ones that were set aside are deleted.
    pub(crate) fn set_aside(&self, why: &str) -> io::Result<()> {
        let aside = self.aside(why);
        gone(std::fs::rename(self.data(), &aside))?;
        gone(std::fs::remove_file(self.note_file()))?;
        std::fs::File::open(&self.0)?.sync_all()?;
        tracing::warn!(folder = %aside.display(), "etcd's data here was set aside");
        self.tidy()
    }

    /// Copies etcd's data beside it; returns where to.
    pub(crate) fn copy_aside(&self, why: &str) -> io::Result<PathBuf> {
        let aside = self.aside(why);
        copy(&self.data(), &aside)?;
        self.tidy()?;
        Ok(aside)
    }

    fn aside(&self, why: &str) -> PathBuf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.join(format!("aside-{:014}-{why}", now.as_millis()))
    }

    /// Names begin with the time, so that they sort by it.
    fn tidy(&self) -> io::Result<()> {
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("aside-") {
                aside.push(entry.path());
            }
        }
        aside.sort();
        let old = aside.len().saturating_sub(KEPT);
        aside.into_iter().take(old).try_for_each(std::fs::remove_dir_all)
    }
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Copies a folder with all files in it, each synced.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    files::private_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    std::fs::File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_set_aside_and_few_are_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::new(temporary.path());
        assert!(!folder.has_data() && folder.note().is_none() && !folder.is_out());
        for round in 0..4_u64 {
            std::fs::create_dir_all(folder.data().join("member")).unwrap();
            std::fs::write(folder.data().join("member/db"), round.to_string()).unwrap();
            folder.write_note(&Note { id: round, ..Note::default() }).unwrap();
            assert!(folder.has_data() && folder.note().unwrap().id == round);
            let copied = folder.copy_aside("copy").unwrap();
            assert_eq!(std::fs::read(copied.join("member/db")).unwrap(), round.to_string().into_bytes());
            std::thread::sleep(std::time::Duration::from_millis(2));
            folder.set_aside("test").unwrap();
            assert!(!folder.has_data() && folder.note().is_none());
        }
        let kept = std::fs::read_dir(temporary.path()).unwrap().count();
        assert_eq!(kept, KEPT);
        folder.set_aside("nothing").unwrap();
        folder.set_out(true).unwrap();
        assert!(folder.is_out());
        folder.set_out(false).unwrap();
        folder.set_out(false).unwrap();
        assert!(!folder.is_out());
        let held = folder.lock().unwrap();
        assert!(held.is_some() && folder.lock().unwrap().is_none());
    }
}
