//! Names of resource limits and the kernel's numbers for them.

pub use plenum_shim::wire::Rlimit;

/// Unlimited.
pub const UNLIMITED: u64 = u64::MAX;

/// The kernel's number for a name: `NOFILE`, `RLIMIT_NOFILE` or Mesos' `RLMT_NOFILE`.
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let name = name.strip_prefix("RLIMIT_").or_else(|| name.strip_prefix("RLMT_")).unwrap_or(name);
    let number = match name {
        "AS" => libc::RLIMIT_AS,
        "CORE" => libc::RLIMIT_CORE,
        "CPU" => libc::RLIMIT_CPU,
        "DATA" => libc::RLIMIT_DATA,
        "FSIZE" => libc::RLIMIT_FSIZE,
        "LOCKS" => libc::RLIMIT_LOCKS,
        "MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "NICE" => libc::RLIMIT_NICE,
        "NOFILE" => libc::RLIMIT_NOFILE,
        "NPROC" => libc::RLIMIT_NPROC,
        "RSS" => libc::RLIMIT_RSS,
        "RTPRIO" => libc::RLIMIT_RTPRIO,
        "RTTIME" => libc::RLIMIT_RTTIME,
        "SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "STACK" => libc::RLIMIT_STACK,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings() {
        for name in ["NOFILE", "RLIMIT_NOFILE", "RLMT_NOFILE"] {
            assert_eq!(number(name), Some(7), "{name}");
        }
        assert_eq!(number("nofile"), None);
    }
}
