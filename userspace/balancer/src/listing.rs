//! Reads what `nft -j list table` prints. Pure; anything unexpected makes the table count as foreign, and it is made anew.

use std::net::SocketAddrV4;

use plenum_discovery::feed::Protocol;
use serde_json::Value;

use crate::core::{Kernel, Key, Place};

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A table of ours with this in it.
    Ours(Kernel),
    /// Something that is not as we make it, and why.
    Foreign(&'static str),
}

/// Reads a listing.
#[must_use]
pub fn read(text: &[u8], place: &Place) -> Found {
    let Ok(listing) = serde_json::from_slice::<Value>(text) else {
        return Found::Foreign("the listing is no JSON");
    };
    let Some(entries) = listing.get("nftables").and_then(Value::as_array) else {
        return Found::Foreign("the listing has no entries");
    };
    let mut kernel = Kernel::default();
    let mut hooks = 0;
    let mut rules = 0;
    let mut maps = 0;
    for entry in entries {
        if let Some(chain) = entry.get("chain") {
            hooks += usize::from(chain.get("hook").is_some());
        } else if let Some(rule) = entry.get("rule") {
            rules += 1;
            let chain = rule.get("chain").and_then(Value::as_str).unwrap_or_default();
            if let Some(count) = chain.strip_prefix("spread_").and_then(|count| count.parse().ok()) {
                if !spreads(rule, count) {
                    return Found::Foreign("a chain does not spread as it was made");
                }
                kernel.chains.insert(count);
            } else if matches!(chain, "arriving" | "leaving") && !names_range(rule, place) {
                return Found::Foreign("the table is for another range of addresses");
            }
        } else if let Some(map) = entry.get("map") {
            maps += 1;
            let elements = map.get("elem").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for element in elements {
                let taken = match map.get("name").and_then(Value::as_str) {
                    Some("vips") => vip(element, &mut kernel),
                    Some("slots_tcp" | "slots_udp") => slot(element, &mut kernel),
                    _ => None,
                };
                if taken.is_none() {
                    return Found::Foreign("an element of the table's maps is not one of ours");
                }
            }
        }
    }
    // Three hooks with four rules, three rules that choose, two a spread.
    if hooks != 3 || maps != 3 || rules != 7 + 2 * kernel.chains.len() {
        return Found::Foreign("the table's chains are not as they were made");
    }
    Found::Ours(kernel)
}

/// Whether a rule draws one of `count` slots.
fn spreads(rule: &Value, count: usize) -> bool {
    let statements = rule.get("expr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let map = statements.iter().find_map(|one| one.pointer("/dnat/addr/map"));
    let drawn = map.and_then(|map| map.pointer("/key/concat/3/numgen/mod")).and_then(Value::as_u64);
    drawn.is_some() && drawn == u64::try_from(count).ok()
}

fn names_range(rule: &Value, place: &Place) -> bool {
    let range = place.range.to_string();
    let prefix = rule.pointer("/expr/0/match/right/prefix");
    let address = prefix.and_then(|p| p.get("addr")).and_then(Value::as_str).unwrap_or_default();
    let bits = prefix.and_then(|p| p.get("len")).and_then(Value::as_u64).unwrap_or_default();
    range == format!("{address}/{bits}")
}

fn key(parts: &[Value]) -> Option<Key> {
    let protocol = protocol(parts.first()?)?;
    Some((protocol, parts.get(1)?.as_str()?.parse().ok()?, u16::try_from(parts.get(2)?.as_u64()?).ok()?))
}

/// By name, or by number where the machine has no /etc/protocols, as small images have none.
fn protocol(told: &Value) -> Option<Protocol> {
    match (told.as_str(), told.as_u64()) {
        (Some("tcp" | "6"), _) | (_, Some(6)) => Some(Protocol::Tcp),
        (Some("udp" | "17"), _) | (_, Some(17)) => Some(Protocol::Udp),
        _ => None,
    }
}

fn vip(element: &Value, kernel: &mut Kernel) -> Option<()> {
    let key = key(element.pointer("/0/concat")?.as_array()?)?;
    let chain = element.pointer("/1/goto/target")?.as_str()?;
    kernel.vips.insert(key, chain.strip_prefix("spread_")?.parse().ok()?);
    Some(())
}

fn slot(element: &Value, kernel: &mut Kernel) -> Option<()> {
    let parts = element.pointer("/0/concat")?.as_array()?;
    let slot = usize::try_from(parts.get(3)?.as_u64()?).ok()?;
    let to = element.pointer("/1/concat")?.as_array()?;
    let backend =
        SocketAddrV4::new(to.first()?.as_str()?.parse().ok()?, u16::try_from(to.get(1)?.as_u64()?).ok()?);
    kernel.slots.insert((key(parts)?, slot), backend);
    Some(())
}
