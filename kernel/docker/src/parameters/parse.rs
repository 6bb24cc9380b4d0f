//! Values of options: sizes, durations, switches, pairs. Pure.

use bollard::models::{DeviceMapping, PortBinding, ResourcesUlimits};

/// A whole number.
pub fn number(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number"))
}

/// `true` or `false`; nothing is `true`, as with a bare option.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Bytes: a number, perhaps with a fraction, and `b`, `k`, `m`, `g` or `t` (powers of 1024), perhaps with `b` or `ib`.
pub fn bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a size; write it as 64m");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(end);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let value: f64 = digits.parse().map_err(|_| bad())?;
    let total = value * f64::from(1_u32 << (shift.min(30))) * if shift > 30 { 1024.0 } else { 1.0 };
    if total.is_finite() && (0.0..9e18).contains(&total) { Ok(total as i64) } else { Err(bad()) }
}

/// Nanoseconds of `1m30s`, `500ms`.
pub fn nanos(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a duration; write it as 1m30s");
    let (mut rest, mut total) = (text.trim(), 0.0_f64);
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 = rest.get(..digits).and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let tail = rest.get(digits..).unwrap_or_default();
        let word = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        total += value
            * match tail.get(..word).unwrap_or_default() {
                "ns" => 1.0,
                "us" | "\u{b5}s" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return Err(bad()),
            };
        rest = tail.get(word..).unwrap_or_default();
    }
    if total < 9e18 { Ok(total as i64) } else { Err(bad()) }
}

/// `name=value`; nothing is the value of a name alone.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(format!("{text:?} is not name=value"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// `name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<ResourcesUlimits, String> {
    let (name, value) = pair(text)?;
    let (soft, hard) = value.split_once(':').unwrap_or((&value, &value));
    Ok(ResourcesUlimits { name: Some(name), soft: Some(number(soft)?), hard: Some(number(hard)?) })
}

/// `path[:path in the container[:rwm]]`.
pub fn device(text: &str) -> Result<DeviceMapping, String> {
    let access = |word: &str| !word.is_empty() && word.chars().all(|c| "rwm".contains(c));
    let mut words = text.split(':');
    let host = words.next().unwrap_or_default();
    let (mut inside, mut allowed) = (host, "rwm");
    match (words.next(), words.next(), words.next()) {
        (None, ..) => {}
        (Some(word), None, _) if access(word) => allowed = word,
        (Some(path), None, _) => inside = path,
        (Some(path), Some(word), None) if access(word) => (inside, allowed) = (path, word),
        _ => return Err(format!("{text:?} is not path:path:rwm")),
    }
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(format!("{text:?}: give absolute paths of devices"));
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(inside.to_owned()),
        cgroup_permissions: Some(allowed.to_owned()),
    })
}

/// `path:rate`; what the rate means is `read`'s to say.
pub fn rate(text: &str, read: fn(&str) -> Result<i64, String>) -> Result<(String, i64), String> {
    let (path, value) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not path:value"))?;
    if !path.starts_with('/') {
        return Err(format!("{text:?}: give the device by its absolute path"));
    }
    Ok((path.to_owned(), read(value)?))
}

/// `number[/protocol]`, in full.
pub fn port(text: &str) -> Result<String, String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    match number.parse::<u16>() {
        Ok(1..) if matches!(protocol.as_str(), "tcp" | "udp" | "sctp") => Ok(format!("{number}/{protocol}")),
        _ => Err(format!("{text:?} is not a port; write it as 80/tcp")),
    }
}

/// `[[address:]host port:]port[/protocol]`; the container's port in full, and what leads to it.
pub fn publish(text: &str) -> Result<(String, PortBinding), String> {
    let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
    let (address, number) = outside.rsplit_once(':').unwrap_or(("", outside));
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let inside = port(inside)?;
    if !number.is_empty() && number.parse::<u16>().is_err() {
        return Err(format!("{text:?} is not a port mapping; write it as 127.0.0.1:8080:80/tcp"));
    }
    Ok((inside, PortBinding { host_ip: Some(address.to_owned()), host_port: Some(number.to_owned()) }))
}
