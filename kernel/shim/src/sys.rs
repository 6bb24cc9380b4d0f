//! System calls that have no safe wrapper. Nothing else in the crate is unsafe.

use crate::devices::Instruction;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a clone one is on.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one, with the new one's id and descriptor.
    Parent {
        /// Process id.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// `fork`, with new namespaces (`CLONE_NEW*` bits) and optionally born into a v2 control group. Only for a
/// single-threaded process: the child goes on with a copy of everything.
pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Cloned> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    #[allow(unsafe_code)]
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(group.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    }
    // SAFETY: no stack and no CLONE_VM, so this is a fork; `args` and `pidfd` outlive the call; the process is
    // single-threaded, so no lock is held by a thread that the child does not have.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match Errno::result(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            #[allow(unsafe_code)]
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).unwrap_or(i32::MAX), pidfd })
        }
    }
}

/// The kernel's `union bpf_attr` as far as loading needs it.
#[repr(C)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
}

/// The same for attaching.
#[repr(C)]
struct AttachProgram {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> nix::Result<libc::c_long> {
    // SAFETY: the record is one of the above, of the size that is said, and alive during the call, as is what it points to.
    #[allow(unsafe_code)]
    Errno::result(unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    })
}

/// Gives the kernel a program that decides about devices; it refuses one that is not sound.
pub fn load_device_program(code: &[Instruction]) -> nix::Result<OwnedFd> {
    const LOAD: libc::c_long = 5;
    const CGROUP_DEVICE: u32 = 15;
    let attributes = LoadProgram {
        kind: CGROUP_DEVICE,
        count: u32::try_from(code.len()).map_err(|_| Errno::E2BIG)?,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 4],
        version: 0,
        flags: 0,
    };
    let fd = bpf(LOAD, &attributes)?;
    // SAFETY: a new descriptor that nobody else owns.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Has such a program decide for a v2 group, beside those that do already. It stays until the group goes.
pub fn attach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> nix::Result<()> {
    const ATTACH: libc::c_long = 8;
    const CGROUP_DEVICE: u32 = 6;
    const BESIDE_OTHERS: u32 = 2;
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::EBADF);
    let attributes = AttachProgram {
        target: number(group)?,
        program: number(program)?,
        kind: CGROUP_DEVICE,
        flags: BESIDE_OTHERS,
    };
    bpf(ATTACH, &attributes).map(drop)
}

/// A descriptor for a running process.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: no pointers.
    #[allow(unsafe_code)]
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Sends a signal to exactly the process behind a pidfd.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    Errno::result(result).map(drop)
}

/// `kill(2)` with any signal number; a negative id is a process group.
pub fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: no pointers.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: descriptors below are in use, those from `first` on belong to nobody in this process by agreement of the
    // callers, who have moved what they keep below it.
    #[allow(unsafe_code)]
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } == 0;
    if !done {
        for fd in i32::try_from(first).unwrap_or(3)..65_536 {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                libc::close(fd);
            }
        }
    }
}

/// Makes `new` refer to what `old` does, closing what it was, close-on-exec or not.
pub fn dup_to(old: RawFd, new: RawFd, cloexec: bool) -> nix::Result<()> {
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    if old == new {
        // SAFETY: `F_SETFD` takes an integer.
        #[allow(unsafe_code)]
        return Errno::result(unsafe {
            libc::fcntl(old, libc::F_SETFD, if cloexec { libc::FD_CLOEXEC } else { 0 })
        })
        .map(drop);
    }
    // SAFETY: no pointers; callers name descriptors that they own or that are free.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::dup3(old, new, flags) }).map(drop)
}

/// Takes over an inherited descriptor.
#[must_use]
pub fn adopt_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: called once, at the start of the program or right after the descriptors were rearranged, for a descriptor
    // that nothing else in the process owns.
    #[allow(unsafe_code)]
    unsafe {
        OwnedFd::from_raw_fd(fd)
    }
}

/// Ends the process at once.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: no state of ours needs unwinding in a forked child.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// Every handler back to its default and nothing blocked, as a program expects to find it. The C library would not let
/// us reset the two signals that it keeps for itself, but whoever started the agent may have ignored them.
pub fn reset_signals() {
    /// The kernel's `struct sigaction`, all zero: the default.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64 {
        // SAFETY: the record is as long as the kernel's; numbers that do not allow it are refused by the kernel.
        #[allow(unsafe_code)]
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null::<u64>(), 8);
        }
    }
    set_mask(false);
}

/// Blocks every signal, or none.
pub fn set_mask(block: bool) {
    // SAFETY: the set is initialised by `sigfillset` or `sigemptyset` before use.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if block {
            libc::sigfillset(&raw mut set);
        } else {
            libc::sigemptyset(&raw mut set);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for the next signal of a process that blocks all of them.
#[must_use]
pub fn next_signal() -> i32 {
    // SAFETY: the set is initialised by `sigfillset`; the info pointer may be null.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    }
}

/// A child that has ended and its raw wait status; `Ok(None)` if none has yet, `ECHILD` if there is none.
pub fn wait_raw(pid: i32, block: bool) -> nix::Result<Option<(i32, i32)>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    // SAFETY: `status` outlives the call.
    #[allow(unsafe_code)]
    let got = Errno::result(unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) })?;
    Ok((got != 0).then_some((got, status)))
}

/// `prctl(2)` with integer arguments.
pub fn prctl(option: i32, two: u64, three: u64) -> nix::Result<()> {
    // SAFETY: only options with integer arguments are used in this crate.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::prctl(option, two, three, 0, 0) }).map(drop)
}

/// Names the process in `ps`; at most 15 bytes.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: a NUL-terminated string; the kernel reads at most 16 bytes of it.
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
}

/// Sets the permitted, effective and inheritable capabilities to the same set.
pub fn capset(permitted: u64, inheritable: u64) -> nix::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let low = |set: u64| (set & 0xffff_ffff) as u32;
    let high = |set: u64| (set >> 32) as u32;
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [
        Data { effective: low(permitted), permitted: low(permitted), inheritable: low(inheritable) },
        Data { effective: high(permitted), permitted: high(permitted), inheritable: high(inheritable) },
    ];
    // SAFETY: version 3 of the call takes this header and two data records.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// `setrlimit(2)` by number.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; the old value is not asked for.
    #[allow(unsafe_code)]
    let done =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<u8>()) };
    Errno::result(done).map(drop)
}

/// Brings the loopback device of the current network namespace up.
pub fn loopback_up() -> nix::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid `ifreq`; the name is shorter than the field; the ioctl reads name and flags.
    #[allow(unsafe_code)]
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(1);
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)).map(drop)
    }
}

/// `execve(2)`: returns only if it failed.
pub fn execve(program: &CString, argv: &[CString], env: &[CString]) -> Errno {
    let list = |strings: &[CString]| {
        let mut list: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        list.push(std::ptr::null());
        list
    };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: NUL-terminated strings in NULL-terminated lists, all alive during the call.
    #[allow(unsafe_code)]
    unsafe {
        libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    Errno::last()
}

/// Gives freed memory back to the kernel: a supervisor lives long and needs next to none.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Loads a seccomp program, given as the kernel's 8-byte `struct sock_filter` records.
pub fn seccomp(program: &[u8]) -> nix::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        records: *const libc::sock_filter,
    }
    let record = |raw: &[u8]| libc::sock_filter {
        code: u16::from_ne_bytes([raw[0], raw[1]]),
        jt: raw[2],
        jf: raw[3],
        k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
    };
    let records: Vec<libc::sock_filter> = program.chunks_exact(8).map(record).collect();
    let len = u16::try_from(records.len()).map_err(|_| Errno::E2BIG)?;
    let program = Program { len, records: records.as_ptr() };
    // SAFETY: `SECCOMP_SET_MODE_FILTER` reads `len` records, which are alive during the call.
    #[allow(unsafe_code)]
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(done).map(drop)
}

/// Sets attributes (`MOUNT_ATTR_*`) of the mount that a descriptor is the root of; `deep` with all mounts below it.
pub fn mount_attributes(mount: BorrowedFd<'_>, set: u64, deep: bool) -> nix::Result<()> {
    let attributes = [set, 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH | if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the record is the kernel's `struct mount_attr`, four 64-bit numbers; the path is an empty string.
    #[allow(unsafe_code)]
    let done = unsafe {
        let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), path, flags, attributes.as_ptr(), size)
    };
    Errno::result(done).map(drop)
}

/// A copy of a mount that is mounted nowhere; `deep` with all mounts below it.
pub fn copy_mount(of: BorrowedFd<'_>, deep: bool) -> nix::Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string; the rest are integers.
    #[allow(unsafe_code)]
    let fd =
        Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, of.as_raw_fd(), c"".as_ptr(), flags) })?;
    // SAFETY: a new descriptor that nobody else owns.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Maps owners of files by a user namespace, in a mount that is mounted nowhere yet.
pub fn map_mount(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, deep: bool) -> nix::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let attributes = [MOUNT_ATTR_IDMAP, 0, 0, namespace];
    let flags = libc::AT_EMPTY_PATH | if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the record is the kernel's `struct mount_attr`, four 64-bit numbers; the path is an empty string.
    #[allow(unsafe_code)]
    let done = unsafe {
        let (path, size) = (c"".as_ptr(), size_of_val(&attributes));
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), path, flags, attributes.as_ptr(), size)
    };
    Errno::result(done).map(drop)
}

/// Mounts what [`copy_mount`] made on a file or folder; the descriptor stays that of its root.
pub fn move_mount(mount: BorrowedFd<'_>, on: BorrowedFd<'_>) -> nix::Result<()> {
    const EMPTY_PATHS: u32 = 0x04 | 0x40;
    // SAFETY: both paths are empty strings.
    #[allow(unsafe_code)]
    let done = unsafe {
        let path = c"".as_ptr();
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), path, on.as_raw_fd(), path, EMPTY_PATHS)
    };
    Errno::result(done).map(drop)
}

/// Gives a pipe to a user; EINVAL for anything else.
pub fn give_pipe(fd: RawFd, uid: u32, gid: u32) -> nix::Result<()> {
    // SAFETY: all-zero is a valid `stat`, which outlives the calls; the rest are integers.
    #[allow(unsafe_code)]
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        Errno::result(libc::fstat(fd, &raw mut stat))?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFIFO {
            return Err(Errno::EINVAL);
        }
        Errno::result(libc::fchown(fd, uid, gid)).map(drop)
    }
}

/// Asks the kernel to kill anything else first when memory runs out. Without the privilege nothing changes.
pub fn spare_from_oom() {
    let _not_permitted = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Moves at most `len` bytes from a pipe to a file, at an offset if the file has such, without waiting for more than is
/// there; gives how many. Nothing is copied to this process.
pub fn splice(pipe: BorrowedFd<'_>, to: BorrowedFd<'_>, at: Option<u64>, len: u64) -> nix::Result<usize> {
    let mut offset = match at {
        Some(at) => libc::loff_t::try_from(at).map_err(|_| Errno::EFBIG)?,
        None => 0,
    };
    let offset = if at.is_some() { &raw mut offset } else { std::ptr::null_mut() };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // SAFETY: the pipe has no offset; the other is alive during the call or null.
    #[allow(unsafe_code)]
    let moved = unsafe {
        let none = std::ptr::null_mut();
        libc::splice(pipe.as_raw_fd(), none, to.as_raw_fd(), offset, len, libc::SPLICE_F_NONBLOCK)
    };
    Errno::result(moved).map(isize::cast_unsigned)
}

/// Makes a terminal the controlling one of the calling session leader.
pub fn control_terminal(fd: RawFd) -> nix::Result<()> {
    // SAFETY: the request takes an integer.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size of a terminal; its foreground processes hear of it.
pub fn resize_terminal(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads a `winsize`, which is alive during the call.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Unlocks a new terminal and opens the end for programs, whatever is mounted at `/dev/pts`.
pub fn terminal_peer(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: the first request reads an integer that is alive during the call, the second takes flags.
    #[allow(unsafe_code)]
    let fd = unsafe {
        Errno::result(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock))?;
        Errno::result(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        ))?
    };
    // SAFETY: a new descriptor that nobody else owns.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
