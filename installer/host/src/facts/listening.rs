//! Listening sockets and whose they are, from `/proc/net` and the processes' descriptors.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plenum_plan::facts::Listening;

use super::text;

/// States in `/proc/net`: a listening TCP socket, and a UDP socket without a peer.
const TCP_LISTEN: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

pub fn all() -> Vec<Listening> {
    let mut found = Vec::new();
    for (protocol, state) in [("tcp", TCP_LISTEN), ("udp", UDP_UNCONNECTED)] {
        for suffix in ["", "6"] {
            let table = text(format!("/proc/net/{protocol}{suffix}"));
            let rows = table.lines().skip(1).filter_map(|line| row(line, state));
            found.extend(rows.map(|(address, port, inode)| (protocol, address, port, inode)));
        }
    }
    let owners = owners();
    let mut all: Vec<Listening> = found
        .into_iter()
        .map(|(protocol, address, port, inode)| {
            let pid = owners.get(&inode).copied();
            Listening {
                protocol: protocol.to_owned(),
                address,
                port,
                program: pid.map(|pid| text(format!("/proc/{pid}/comm")).trim().to_owned()),
                unit: pid.and_then(|pid| unit(&text(format!("/proc/{pid}/cgroup")))),
                pid,
            }
        })
        .collect();
    all.sort_by(|a, b| (&a.protocol, a.port, a.address).cmp(&(&b.protocol, b.port, b.address)));
    all
}

/// Address, port and inode of a row in the wanted state.
fn row(line: &str, state: &str) -> Option<(IpAddr, u16, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if *words.get(3)? != state {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    Some((hex_address(address)?, u16::from_str_radix(port, 16).ok()?, words.get(9)?.parse().ok()?))
}

/// The kernel prints addresses as words in the machine's byte order.
fn hex_address(text: &str) -> Option<IpAddr> {
    let word = |from: usize| u32::from_str_radix(text.get(from..from.checked_add(8)?)?, 16).ok();
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes()))),
        32 => {
            let mut bytes = Vec::with_capacity(16);
            for from in [0, 8, 16, 24] {
                bytes.extend(word(from)?.to_ne_bytes());
            }
            let bytes: [u8; 16] = bytes.try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// Which process holds which socket. systemd itself comes last: what it holds for a running service is that one's.
fn owners() -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable_by(|a, b| b.cmp(a));
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            if let Some(inode) = inode {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

/// The unit in the text of `/proc/<pid>/cgroup`.
fn unit(groups: &str) -> Option<String> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    groups
        .lines()
        .filter(|line| line.starts_with("0::") || line.contains(":name=systemd:"))
        .find_map(|line| line.rsplit('/').find(is_unit).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_units_are_read() {
        let line = "   0: 0B01580A:13BA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 27135 1 0 100";
        assert_eq!(row(line, TCP_LISTEN), Some(("10.88.1.11".parse().unwrap(), 5050, 27135)));
        assert_eq!(row(line, UDP_UNCONNECTED), None);
        assert_eq!(hex_address("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(hex_address("xyz"), None);
        assert_eq!(
            unit(
                "4:memory:/x.service\n1:name=systemd:/system.slice/ssh.service\n0::/system.slice/ssh.service\n"
            ),
            Some("ssh.service".to_owned())
        );
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn an_own_socket_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let all = all();
        let own = all.iter().find(|row| row.protocol == "tcp" && row.port == port).unwrap();
        assert_eq!(own.pid, Some(std::process::id()));
    }
}
