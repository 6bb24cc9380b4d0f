//! What went through the interfaces of a container's own network.

use std::path::Path;

/// Counters of all interfaces but the loopback device, from the container's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Received.
    pub rx: Way,
    /// Sent.
    pub tx: Way,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// Of the network that a process is in; `None` if it is this one's, or has the loopback device only.
#[must_use]
pub fn of(pid: i32) -> Option<Traffic> {
    let space = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    let who = pid.to_string();
    if pid <= 0 || space(&who)? == space("self")? {
        return None;
    }
    read(&Path::new("/proc").join(who).join("net/dev"))
}

fn read(file: &Path) -> Option<Traffic> {
    parse(&std::fs::read_to_string(file).ok()?)
}

/// `name: rx-bytes rx-packets rx-errors rx-dropped (4 more) tx-bytes tx-packets tx-errors tx-dropped ...` after two lines of heads.
fn parse(text: &str) -> Option<Traffic> {
    let mut found = None;
    for (name, rest) in text.lines().filter_map(|line| line.split_once(':')) {
        let numbers: Vec<u64> = rest.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (Some(rx), Some(tx)) = (numbers.get(..4), numbers.get(8..12)) else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let all: &mut Traffic = found.get_or_insert_default();
        for (way, counted) in [(&mut all.rx, rx), (&mut all.tx, tx)] {
            for (sum, number) in
                [&mut way.bytes, &mut way.packets, &mut way.errors, &mut way.dropped].into_iter().zip(counted)
            {
                *sum = sum.saturating_add(*number);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_added_up_without_the_loopback_device() {
        let head = "Inter-|   Receive                        |  Transmit\n face |bytes    packets errs |bytes packets\n";
        let lo = "    lo:     100       2    0    0    0     0          0         0   100       2    0    0    0     0       0          0\n";
        let one =
            "  eth0:1000 10 1 2 0 0 0 0 500 5 3 4 0 0 0 0\n  eth1: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\nodd: 1\n";
        assert_eq!(parse(&format!("{head}{lo}")), None);
        let found = parse(&format!("{head}{lo}{one}")).unwrap();
        assert_eq!(found.rx, Way { bytes: 1001, packets: 11, errors: 1, dropped: 2 });
        assert_eq!(found.tx, Way { bytes: 501, packets: 6, errors: 3, dropped: 4 });
        assert_eq!(of(i32::try_from(std::process::id()).unwrap()), None, "one's own");
    }
}
