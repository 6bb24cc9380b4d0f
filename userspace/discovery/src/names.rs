//! The rules by which names of tasks, frameworks and virtual addresses become DNS names. Pure text; what the names point to is decided elsewhere.

/// The zone of Mesos-DNS.
pub const MESOS: &str = "mesos";
/// The zone of tasks' addresses by kind (`autoip`, `agentip`, `containerip`).
pub const DCOS: &str = "dcos.thisdcos.directory";
/// The zone of virtual addresses.
pub const L4LB: &str = "l4lb.thisdcos.directory";

/// The most bytes in one label of a DNS name.
const LABEL: usize = 63;

/// One label: lower case, everything but letters and digits becomes a dash, no dash at either end, at most 63 bytes. May come out empty.
#[must_use]
pub fn label(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let mut out: String =
        text.trim_matches(|c: char| !c.is_ascii_alphanumeric()).chars().map(plain).collect();
    out.truncate(LABEL);
    out.truncate(out.trim_end_matches('-').len());
    out
}

/// Several labels: dots stay, each part is a [`label`], empty parts vanish.
#[must_use]
pub fn domain(text: &str) -> String {
    let labels: Vec<String> = text.split('.').map(label).filter(|part| !part.is_empty()).collect();
    labels.join(".")
}

/// The part of a virtual address' name that its label gives: slashes vanish (`/group/app` is `groupapp`), dots stay.
#[must_use]
pub fn vip(text: &str) -> String {
    domain(&text.replace('/', ""))
}

/// What a label `VIP_n` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A name, whose address is chosen by the cluster.
    Named(String),
    /// This very address.
    Literal(std::net::Ipv4Addr),
}

/// Reads the value of a label `VIP_n`: `/name:port`, `name:port` or `IPv4:port`. `None` for what is none of these (also IPv6 addresses, which
/// have no range yet).
#[must_use]
pub fn wanted(value: &str) -> Option<(Wanted, u16)> {
    let (name, port) = value.trim().rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    if let Ok(address) = name.parse() {
        return Some((Wanted::Literal(address), port));
    }
    if name.starts_with('[') {
        return None;
    }
    let name = vip(name);
    (!name.is_empty()).then_some((Wanted::Named(name), port))
}

/// Whether a label's key asks for a virtual address.
#[must_use]
pub fn is_vip_key(key: &str) -> bool {
    key.starts_with("VIP") || key.starts_with("vip")
}

/// FNV-1a, 64 bits: stable over releases and machines, which is what matters here.
#[must_use]
pub fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    // FNV's low bits are weak for short texts; one round of mixing spreads them.
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// The label that tells one task from others of the same name: name, five characters of its id, its agent's number.
#[must_use]
pub fn canonical(name: &str, task_id: &str, agent_id: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut rest = hash(task_id);
    let mut five = String::new();
    for _ in 0..5 {
        five.push(char::from(DIGITS[usize::try_from(rest & 31).unwrap_or(0)]));
        rest >>= 5;
    }
    let number = agent_id.rsplit_once("-S").map_or("", |(_, number)| number);
    let number: String = number.chars().filter(char::is_ascii_digit).collect();
    let tail = format!("-{five}-s{}", if number.is_empty() { "0" } else { &number });
    let mut head = label(name);
    head.truncate(LABEL.saturating_sub(tail.len()));
    format!("{head}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (text, want) in [
            ("hello", "hello"),
            ("MyApp.my_group", "myapp-my-group"),
            ("/a/b", "a-b"),
            ("--x--", "x"),
            ("ünï", "n"),
            ("...", ""),
            ("a..b", "a--b"),
        ] {
            assert_eq!(label(text), want, "{text}");
        }
        assert_eq!(label(&"x".repeat(80)).len(), 63);
        assert_eq!(label(&format!("{}.y", "x".repeat(62))), "x".repeat(62));
        assert_eq!(domain("Marathon.User..x_y"), "marathon.user.x-y");
    }

    #[test]
    fn values_of_vip_labels() {
        let named = |name: &str| Wanted::Named(name.to_owned());
        for (value, want) in [
            ("/web:80", Some((named("web"), 80))),
            ("web:80", Some((named("web"), 80))),
            ("/mygroup/myapp:8080", Some((named("mygroupmyapp"), 8080))),
            ("/a.b:1", Some((named("a.b"), 1))),
            ("11.0.3.4:443", Some((Wanted::Literal([11, 0, 3, 4].into()), 443))),
            ("[fd01:c::1]:80", None),
            ("web", None),
            ("web:0", None),
            ("web:99999", None),
            (":80", None),
            ("///:80", None),
            ("", None),
        ] {
            assert_eq!(wanted(value), want, "{value}");
        }
        assert!(is_vip_key("VIP_0") && is_vip_key("vip_PORT0") && !is_vip_key("Vip_0"));
    }

    #[test]
    fn canonical_names_tell_tasks_apart() {
        let one = canonical("web.group", "web.1", "abc-S12");
        assert!(one.starts_with("web-group-") && one.ends_with("-s12"), "{one}");
        assert_ne!(one, canonical("web.group", "web.2", "abc-S12"));
        assert_eq!(canonical(&"w".repeat(90), "t", "odd").len(), 63);
    }
}
