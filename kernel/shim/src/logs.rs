//! Output with a budget: pipes of the task are moved into files of the sandbox, which are rotated by bytes.
//!
//! Pages go from pipe to file inside the kernel; a task that says nothing costs no memory and no wake-up. A file that
//! cannot be written never stops the task: what does not fit is dropped, counted, and named in the file once it can be
//! written again. Names are used relative to the folder as it was at the launch, and links are not followed: the folder
//! is the task's user's.

use crate::failure::{At, Step};
use crate::files::{self, path};
use crate::sys;
use crate::wire::Logs;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, pipe2, unlinkat};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// After a little output the next is awaited this long, so that a task that writes line by line wakes us rarely.
const PAUSE: Duration = Duration::from_millis(10);
/// This much at once is a lot: half of what a pipe holds.
const LOUD: usize = 32 * 1024;
/// The most that is moved at once.
const PART: u64 = 1 << 20;
/// More than any pipe holds: what is moved after the end, should somebody outside of the container hold the pipe and go on.
const LAST: usize = 4 << 20;

/// One stream of a task.
#[derive(Debug)]
pub struct Log {
    pipe: OwnedFd,
    folder: OwnedFd,
    name: Vec<u8>,
    file: File,
    owner: Option<(u32, u32)>,
    budget: Logs,
    ended: bool,
    paused_until: Option<Instant>,
    lost: u64,
    why: i32,
    /// It is a terminal: read and written, since the kernel moves no pages of one.
    terminal: bool,
}

/// What is kept of output that has to pass the supervisor and whose files have no budget.
pub const NO_BUDGET: Logs = Logs { file_bytes: u64::MAX, files: 1 };

impl Log {
    /// Writes what a task says on its terminal to a file. Our end must not block.
    pub fn of_terminal(
        name: &[u8],
        owner: Option<(u32, u32)>,
        budget: Option<&Logs>,
        terminal: OwnedFd,
    ) -> Step<Self> {
        let (log, _nobody_writes) = Self::open(name, owner, budget.unwrap_or(&NO_BUDGET))?;
        Ok(Self { pipe: terminal, terminal: true, ..log })
    }

    /// Opens a file for a stream; gives the end that the task writes to.
    pub fn open(name: &[u8], owner: Option<(u32, u32)>, budget: &Logs) -> Step<(Self, OwnedFd)> {
        const STEP: &str = "open output file";
        let file = files::open_output(name, owner)?;
        // The kernel moves pages only to where it is told, not to an end that may be anywhere.
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).at(STEP, name)?;
        let whole = path(name);
        let parent = whole.parent().unwrap_or(whole);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = openat(AT_FDCWD, parent, flags, Mode::empty()).at(STEP, name)?;
        let (pipe, theirs) = pipe2(OFlag::O_CLOEXEC).at("make pipes", "")?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).at("make pipes", "")?;
        // A task may open its end anew by `/dev/stdout`.
        if let Some((uid, gid)) = owner {
            fchown(&theirs, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at("make pipes", "owner")?;
        }
        let name = whole.file_name().unwrap_or_default().as_bytes().to_vec();
        let budget = Logs { file_bytes: budget.file_bytes.max(1), files: budget.files.max(1) };
        let log = Self {
            pipe,
            folder,
            name,
            file,
            owner,
            budget,
            ended: false,
            paused_until: None,
            lost: 0,
            why: 0,
            terminal: false,
        };
        Ok((log, theirs))
    }

    /// What to wait for, if now is the time.
    #[must_use]
    pub fn awaited(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        let rests = self.paused_until.is_some_and(|until| until > now);
        (!self.ended && !rests).then(|| self.pipe.as_fd())
    }

    /// When to wait for it again, if it rests.
    #[must_use]
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| !self.ended && *until > now)
    }

    /// Moves what is there.
    pub fn serve(&mut self) {
        let moved = self.step().unwrap_or(LOUD);
        self.paused_until = (moved < LOUD).then(|| Instant::now() + PAUSE);
    }

    /// Moves all that is left after the end of the task.
    pub fn finish(&mut self) {
        let mut left = LAST;
        while left > 0 && !self.ended {
            match self.step() {
                Some(0) => break,
                Some(moved) => left = left.saturating_sub(moved),
                None => left -= 1,
            }
        }
        if self.lost > 0 {
            let _disk_still_full = self.confess();
        }
    }

    /// The number of bytes that were moved or dropped; `None` for a file that was full and is now another.
    fn step(&mut self) -> Option<usize> {
        if self.lost > 0
            && let Err(errno) = self.confess()
        {
            return Some(self.drop_some(errno));
        }
        // The task may have shortened the file, as one does to files that grow.
        let size = self.file.metadata().map_or(0, |meta| meta.len());
        let room = self.budget.file_bytes.saturating_sub(size);
        if room == 0 {
            self.rotate(size);
            return None;
        }
        let moved = match self.terminal {
            true => self.copy(size, room),
            false => sys::splice(self.pipe.as_fd(), self.file.as_fd(), Some(size), room.min(PART)),
        };
        match moved {
            Ok(0) => {
                self.ended = true;
                Some(0)
            }
            Ok(moved) => Some(moved),
            Err(Errno::EAGAIN | Errno::EINTR) => Some(0),
            Err(errno) => Some(self.drop_some(errno)),
        }
    }

    /// From a terminal to the file. One that no program has open any more gives an error, which is its end.
    fn copy(&mut self, at: u64, room: u64) -> nix::Result<usize> {
        let mut part = [0; 4096];
        let most = part.len().min(usize::try_from(room).unwrap_or(part.len()));
        let read = match nix::unistd::read(&self.pipe, part.get_mut(..most).unwrap_or_default()) {
            Err(Errno::EIO) => 0,
            read => read?,
        };
        let piece = part.get(..read).unwrap_or_default();
        if let Err(error) = self.file.write_all_at(piece, at) {
            // What was read is gone: the task is not held up.
            let _not_half_a_piece = self.file.set_len(at);
            self.lost = self.lost.saturating_add(u64::try_from(read).unwrap_or(0));
            self.why = error.raw_os_error().unwrap_or(libc::EIO);
        }
        Ok(read)
    }

    fn drop_some(&mut self, errno: Errno) -> usize {
        if self.terminal {
            let mut part = [0; 4096];
            let dropped = match nix::unistd::read(&self.pipe, &mut part) {
                Ok(dropped) => dropped,
                Err(Errno::EIO) => 0,
                Err(_nothing_there) => return 0,
            };
            self.ended |= dropped == 0;
            self.why = errno as i32;
            self.lost = self.lost.saturating_add(u64::try_from(dropped).unwrap_or(0));
            return dropped;
        }
        let null = File::options().write(true).open("/dev/null");
        let Ok(null) = null else { return 0 };
        match sys::splice(self.pipe.as_fd(), null.as_fd(), None, PART) {
            Ok(0) => {
                self.ended = true;
                0
            }
            Ok(dropped) => {
                self.why = errno as i32;
                self.lost = self.lost.saturating_add(u64::try_from(dropped).unwrap_or(0));
                dropped
            }
            Err(_nothing_there) => 0,
        }
    }

    /// Says in the file what is missing from it.
    fn confess(&mut self) -> nix::Result<()> {
        let why = Errno::from_raw(self.why).desc();
        let line = format!("\n[{} bytes of output are missing here: {why}]\n", self.lost);
        let errno = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let size = self.file.metadata().map_err(errno)?.len();
        if let Err(error) = self.file.write_all_at(line.as_bytes(), size) {
            // Not half a line.
            let _as_it_was = self.file.set_len(size);
            return Err(errno(error));
        }
        self.lost = 0;
        Ok(())
    }

    fn numbered(&self, number: u32) -> Vec<u8> {
        if number == 0 {
            self.name.clone()
        } else {
            [&self.name[..], format!(".{number}").as_bytes()].concat()
        }
    }

    /// `name.1` becomes `name.2` and so on, the full file `name.1`, the oldest is gone.
    fn rotate(&mut self, size: u64) {
        let last = self.budget.files.saturating_sub(1);
        if last == 0 {
            let _gone = unlinkat(&self.folder, path(&self.name), UnlinkatFlags::NoRemoveDir);
        }
        for number in (0..last).rev() {
            let (old, new) = (self.numbered(number), self.numbered(number + 1));
            let _not_there = renameat(&self.folder, path(&old), &self.folder, path(&new));
        }
        match self.fresh() {
            Ok(file) => self.file = file,
            // Something is in the way that is not ours, such as a folder of that name: the same file serves again.
            Err(errno) => {
                let _cannot_fail = self.file.set_len(0);
                self.lost = self.lost.saturating_add(size);
                self.why = errno as i32;
            }
        }
    }

    fn fresh(&self) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.folder, path(&self.name), flags, Mode::from_bits_truncate(0o644))?;
        if let Some((uid, gid)) = self.owner {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(File::from(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("plenum-shim-logs-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
        fn log(&self, file_bytes: u64, files: u32) -> (Log, File) {
            let name = self.0.join("out");
            let budget = Logs { file_bytes, files };
            let (log, theirs) = Log::open(name.as_os_str().as_bytes(), None, &budget).unwrap();
            (log, File::from(theirs))
        }
        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _best_effort = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nothing_is_lost_between_files() {
        let folder = Folder::new("whole");
        let (mut log, mut out) = folder.log(4, 9);
        for part in ["a", "bcdefgh", "", "ij", "klmnopqrstu"] {
            out.write_all(part.as_bytes()).unwrap();
            log.serve();
        }
        drop(out);
        log.finish();
        let names = ["out.5", "out.4", "out.3", "out.2", "out.1", "out"];
        assert_eq!(names.map(|name| folder.text(name)).join("|"), "abcd|efgh|ijkl|mnop|qrst|u");
        assert!(log.ended);
    }

    #[test]
    fn the_oldest_goes_and_a_shortened_file_starts_again() {
        let folder = Folder::new("few");
        let (mut log, mut out) = folder.log(4, 2);
        out.write_all(b"aaaabbbbcc").unwrap();
        log.finish();
        assert_eq!((folder.text("out.1"), folder.text("out")), ("bbbb".into(), "cc".into()));
        assert!(!folder.0.join("out.2").exists());
        File::options().write(true).truncate(true).open(folder.0.join("out")).unwrap();
        out.write_all(b"d").unwrap();
        log.finish();
        assert_eq!(folder.text("out"), "d");
        let (mut log, mut out) = folder.log(4, 1);
        out.write_all(b"eeef").unwrap();
        log.finish();
        assert_eq!(folder.text("out"), "f", "a single file is begun anew");
    }

    #[test]
    fn what_is_in_the_way_loses_output_but_stops_nothing() {
        let folder = Folder::new("way");
        std::fs::create_dir_all(folder.0.join("out.1/x")).unwrap();
        let (mut log, mut out) = folder.log(100, 2);
        out.write_all(&[b'a'; 102]).unwrap();
        log.finish();
        assert!(
            folder.text("out").starts_with("\n[100 bytes of output are missing here: File exists]\n"),
            "{}",
            folder.text("out")
        );
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_said() {
        let folder = Folder::new("full");
        let (mut log, mut out) = folder.log(1 << 20, 2);
        log.file = File::options().write(true).open("/dev/full").unwrap();
        out.write_all(b"gone").unwrap();
        log.serve();
        // A device that takes no pages.
        assert_eq!((log.lost, log.why), (4, libc::EINVAL));
        log.file = File::options().write(true).open(folder.0.join("out")).unwrap();
        out.write_all(b"here").unwrap();
        log.serve();
        assert_eq!(folder.text("out"), "\n[4 bytes of output are missing here: Invalid argument]\nhere");
    }

    #[test]
    fn rests_after_little_output_and_not_after_much() {
        let folder = Folder::new("rest");
        let (mut log, mut out) = folder.log(1 << 20, 2);
        out.write_all(b"x").unwrap();
        log.serve();
        assert!(log.awaited(Instant::now()).is_none() && log.rests_until(Instant::now()).is_some());
        out.write_all(&[b'y'; 64 * 1024]).unwrap();
        log.serve();
        assert!(log.awaited(Instant::now()).is_some());
    }
}
