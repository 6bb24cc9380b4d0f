//! The default seccomp profile, compiled to the program that the shim loads. Pure.
//!
//! System calls that manage the machine, its kernel or other namespaces are refused with EPERM, unless the container was
//! given the capability that they are for; calls newer than this list do not exist (ENOSYS), and neither does `clone3`,
//! whose flags a filter cannot see (the C library then uses `clone`). So are programs of other instruction sets.

use crate::capabilities::CapabilitySet;
use caps::Capability::{
    self, CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_MODULE, CAP_SYS_NICE, CAP_SYS_PACCT,
    CAP_SYS_RAWIO, CAP_SYS_TIME, CAP_SYS_TTY_CONFIG, CAP_SYSLOG,
};

/// Calls and the capability that opens them; `None` for those that stay closed.
const CLOSED: &[(libc::c_long, Option<Capability>)] = &[
    (libc::SYS_acct, Some(CAP_SYS_PACCT)),
    (libc::SYS_add_key, None),
    (libc::SYS_bpf, Some(CAP_BPF)),
    (libc::SYS_clock_adjtime, Some(CAP_SYS_TIME)),
    (libc::SYS_clock_settime, Some(CAP_SYS_TIME)),
    (libc::SYS_delete_module, Some(CAP_SYS_MODULE)),
    (libc::SYS_fanotify_init, Some(CAP_SYS_ADMIN)),
    (libc::SYS_finit_module, Some(CAP_SYS_MODULE)),
    (libc::SYS_fsconfig, Some(CAP_SYS_ADMIN)),
    (libc::SYS_fsmount, Some(CAP_SYS_ADMIN)),
    (libc::SYS_fsopen, Some(CAP_SYS_ADMIN)),
    (libc::SYS_fspick, Some(CAP_SYS_ADMIN)),
    (libc::SYS_get_mempolicy, Some(CAP_SYS_NICE)),
    (libc::SYS_init_module, Some(CAP_SYS_MODULE)),
    (libc::SYS_io_uring_enter, None),
    (libc::SYS_io_uring_register, None),
    (libc::SYS_io_uring_setup, None),
    (libc::SYS_kexec_file_load, Some(CAP_SYS_BOOT)),
    (libc::SYS_kexec_load, Some(CAP_SYS_BOOT)),
    (libc::SYS_keyctl, None),
    (libc::SYS_lookup_dcookie, Some(CAP_SYS_ADMIN)),
    (libc::SYS_mbind, Some(CAP_SYS_NICE)),
    (libc::SYS_mount, Some(CAP_SYS_ADMIN)),
    (libc::SYS_mount_setattr, Some(CAP_SYS_ADMIN)),
    (libc::SYS_move_mount, Some(CAP_SYS_ADMIN)),
    (libc::SYS_move_pages, Some(CAP_SYS_NICE)),
    (libc::SYS_nfsservctl, None),
    (libc::SYS_open_by_handle_at, Some(Capability::CAP_DAC_READ_SEARCH)),
    (libc::SYS_open_tree, Some(CAP_SYS_ADMIN)),
    (libc::SYS_perf_event_open, Some(CAP_PERFMON)),
    (libc::SYS_pivot_root, Some(CAP_SYS_ADMIN)),
    (libc::SYS_quotactl, Some(CAP_SYS_ADMIN)),
    (libc::SYS_quotactl_fd, Some(CAP_SYS_ADMIN)),
    (libc::SYS_reboot, Some(CAP_SYS_BOOT)),
    (libc::SYS_request_key, None),
    (libc::SYS_set_mempolicy, Some(CAP_SYS_NICE)),
    (libc::SYS_setdomainname, Some(CAP_SYS_ADMIN)),
    (libc::SYS_sethostname, Some(CAP_SYS_ADMIN)),
    (libc::SYS_setns, Some(CAP_SYS_ADMIN)),
    (libc::SYS_settimeofday, Some(CAP_SYS_TIME)),
    (libc::SYS_swapoff, Some(CAP_SYS_ADMIN)),
    (libc::SYS_swapon, Some(CAP_SYS_ADMIN)),
    (libc::SYS_syslog, Some(CAP_SYSLOG)),
    (libc::SYS_umount2, Some(CAP_SYS_ADMIN)),
    (libc::SYS_unshare, Some(CAP_SYS_ADMIN)),
    (libc::SYS_userfaultfd, Some(Capability::CAP_SYS_PTRACE)),
    (libc::SYS_vhangup, Some(CAP_SYS_TTY_CONFIG)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ioperm, Some(CAP_SYS_RAWIO)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_iopl, Some(CAP_SYS_RAWIO)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_uselib, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_ustat, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_sysfs, None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS__sysctl, None),
];

/// `mseal`, the last call that this list was made with (Linux 6.10).
const KNOWN_LAST: u32 = 462;
/// Flags of `clone` that make namespaces.
const NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` and `AF_VSOCK`: the kernel's cryptography, and the machine below a virtual one.
const FAMILIES: [u32; 2] = [38, 40];
/// Personalities that only change what a program is told or how its memory is laid out.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = ERRNO | libc::EPERM.cast_unsigned();
const ENOSYS: u32 = ERRNO | libc::ENOSYS.cast_unsigned();

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

// Instructions of classic BPF.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

#[derive(Default)]
struct Program(Vec<u8>);

impl Program {
    fn emit(&mut self, code: u16, if_true: u8, if_false: u8, k: u32) {
        self.0.extend_from_slice(&code.to_ne_bytes());
        self.0.extend_from_slice(&[if_true, if_false]);
        self.0.extend_from_slice(&k.to_ne_bytes());
    }

    fn answer(&mut self, with: u32) {
        self.emit(RETURN, 0, 0, with);
    }

    /// The answer for one call.
    fn call(&mut self, number: libc::c_long, with: u32) {
        self.emit(JUMP_EQUAL, 0, 1, number_of(number));
        self.answer(with);
    }

    /// One call that depends on the low half of its first argument: `with` if a test of it holds, else `otherwise`.
    fn by_argument(
        &mut self,
        number: libc::c_long,
        (code, values): (u16, &[u32]),
        with: u32,
        otherwise: u32,
    ) {
        let tests = u8::try_from(values.len()).unwrap_or(0) * 2;
        self.emit(JUMP_EQUAL, 0, tests + 2, number_of(number));
        self.emit(LOAD, 0, 0, FIRST_ARGUMENT);
        for value in values {
            self.emit(code, 0, 1, *value);
            self.answer(with);
        }
        self.answer(otherwise);
    }
}

fn number_of(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// The program for a container that can have these capabilities: the kernel's `struct sock_filter` records.
#[must_use]
pub fn default_profile(capabilities: CapabilitySet) -> Vec<u8> {
    let admin = capabilities.has(CAP_SYS_ADMIN);
    let mut program = Program::default();
    program.emit(LOAD, 0, 0, ARCHITECTURE);
    program.emit(JUMP_EQUAL, 1, 0, ARCH);
    program.answer(EPERM);
    program.emit(LOAD, 0, 0, NUMBER);
    program.emit(JUMP_GREATER, 0, 1, KNOWN_LAST);
    program.answer(ENOSYS);
    for (call, opens) in CLOSED {
        let open =
            opens.is_some_and(|capability| capabilities.has(capability) || (admin && capability == CAP_BPF));
        if !open {
            program.call(*call, EPERM);
        }
    }
    if !admin {
        program.call(libc::SYS_clone3, ENOSYS);
        program.by_argument(libc::SYS_clone, (JUMP_SET, &[NAMESPACES]), EPERM, ALLOW);
    }
    program.by_argument(libc::SYS_socket, (JUMP_EQUAL, &FAMILIES), EPERM, ALLOW);
    program.by_argument(libc::SYS_personality, (JUMP_EQUAL, &PERSONALITIES), ALLOW, EPERM);
    program.answer(ALLOW);
    program.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would make of it.
    fn judge(program: &[u8], arch: u32, number: libc::c_long, argument: u32) -> u32 {
        let mut at = 0;
        let mut accumulator = 0;
        loop {
            let raw = &program[at * 8..at * 8 + 8];
            let (code, k) =
                (u16::from_ne_bytes([raw[0], raw[1]]), u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]));
            let jump = |yes: bool| usize::from(if yes { raw[2] } else { raw[3] });
            at += 1 + match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number_of(number),
                        ARCHITECTURE => arch,
                        _ => argument,
                    };
                    0
                }
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_GREATER => jump(accumulator > k),
                JUMP_SET => jump(accumulator & k != 0),
                _ => return k,
            };
        }
    }

    #[test]
    fn the_default_profile() {
        let usual = default_profile(CapabilitySet::container_default());
        let admin = default_profile(CapabilitySet::from_names(&["SYS_ADMIN", "SYS_TIME"]).unwrap());
        for (call, argument, want, with_admin) in [
            (libc::SYS_read, 0, ALLOW, ALLOW),
            (libc::SYS_execve, 0, ALLOW, ALLOW),
            (libc::SYS_mount, 0, EPERM, ALLOW),
            (libc::SYS_acct, 0, EPERM, EPERM),
            (libc::SYS_keyctl, 0, EPERM, EPERM),
            (libc::SYS_settimeofday, 0, EPERM, ALLOW),
            (libc::SYS_clone3, 0, ENOSYS, ALLOW),
            (libc::SYS_clone, 0x0120_0011, ALLOW, ALLOW),
            (libc::SYS_clone, 0x1000_0011, EPERM, ALLOW),
            (libc::SYS_socket, 1, ALLOW, ALLOW),
            (libc::SYS_socket, 40, EPERM, EPERM),
            (libc::SYS_personality, 0x8, ALLOW, ALLOW),
            (libc::SYS_personality, 0x4_0000, EPERM, EPERM),
            (9999, 0, ENOSYS, ENOSYS),
        ] {
            assert_eq!(judge(&usual, ARCH, call, argument), want, "call {call} with {argument:#x}");
            assert_eq!(judge(&admin, ARCH, call, argument), with_admin, "call {call} with {argument:#x}");
        }
        assert_eq!(judge(&usual, 0x4000_0003, libc::SYS_read, 0), EPERM);
        assert!(usual.len() / 8 < 4096);
    }
}
