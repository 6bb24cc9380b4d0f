//! What plugins say they did, in the forms of all versions. Pure.

use std::net::IpAddr;

use serde_json::Value;

use crate::types::{Attached, IpNet};

/// The most addresses that are believed.
const MOST: usize = 64;

/// Addresses, gateway and name servers of a result, put into `attached`.
pub(super) fn read(value: &Value, mut attached: Attached) -> Result<Attached, String> {
    let mut gateways: Vec<IpAddr> = Vec::new();
    // 0.3 and later.
    for ip in items(value, "ips")? {
        attached.addresses.push(net(ip.get("address"))?);
        gateways.extend(address(ip.get("gateway"))?);
    }
    // Before.
    for key in ["ip4", "ip6"] {
        if let Some(ip) = value.get(key).filter(|ip| !ip.is_null()) {
            attached.addresses.push(net(ip.get("ip"))?);
            gateways.extend(address(ip.get("gateway"))?);
        }
    }
    if attached.addresses.len() > MOST {
        return Err(format!("it has more than {MOST} addresses"));
    }
    for route in items(value, "routes")? {
        let to = net(route.get("dst"))?;
        let via = address(route.get("gw"))?;
        // Where everything else is sent, when a route says so.
        if to.bits == 0
            && let Some(via) = via
        {
            gateways.insert(0, via);
        }
    }
    attached.gateway =
        gateways.iter().find(|gateway| gateway.is_ipv4()).or_else(|| gateways.first()).copied();
    if let Some(dns) = value.get("dns").filter(|dns| !dns.is_null()) {
        for server in items(dns, "nameservers")? {
            attached.dns.extend(address(Some(server))?);
        }
        let domains = items(dns, "search")?.iter().chain(dns.get("domain"));
        let plain = |domain: &&str| {
            !domain.is_empty() && domain.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let domains = domains.filter_map(Value::as_str).filter(plain).take(MOST);
        attached.search.extend(domains.map(str::to_owned));
    }
    Ok(attached)
}

fn items<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], String> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{key} is no list")),
    }
}

fn net(value: Option<&Value>) -> Result<IpNet, String> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    text.chars().take(100).collect::<String>().parse()
}

fn address(value: Option<&Value>) -> Result<Option<IpAddr>, String> {
    let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |_| format!("\"{}\" is no address", text.chars().take(100).collect::<String>());
    text.parse().map(Some).map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn empty() -> Attached {
        Attached {
            name: "n".into(),
            netns: "/x".into(),
            addresses: Vec::new(),
            gateway: None,
            dns: Vec::new(),
            search: Vec::new(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn results_of_all_versions_are_read() {
        let dns = json!({"nameservers": ["10.1.0.1"], "domain": "a.b", "search": ["c", "x\ny"]});
        for value in [
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"},
                {"address": "fd00::5/64"}], "dns": dns}),
            json!({"ips": [{"version": "4", "address": "10.1.0.5/16"}, {"address": "fd00::5/64"}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.9.0.0/16"}], "dns": dns}),
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1"},
                "ip6": {"ip": "fd00::5/64"}, "dns": dns}),
        ] {
            let read = read(&value, empty()).unwrap();
            assert_eq!(read.addresses, ["10.1.0.5/16".parse().unwrap(), "fd00::5/64".parse().unwrap()]);
            assert_eq!(read.gateway, Some([10, 1, 0, 1].into()));
            assert_eq!(read.dns, [IpAddr::from([10, 1, 0, 1])]);
            assert_eq!(read.search, ["c", "a.b"]);
        }
    }

    #[test]
    fn lies_are_refused() {
        for value in [
            json!({"ips": "10.0.0.1/8"}),
            json!({"ips": [{}]}),
            json!({"ips": [{"address": "10.0.0.1"}]}),
            json!({"ips": [{"address": "10.0.0.1/8", "gateway": "here"}]}),
            json!({"ip4": {"ip": "x"}}),
            json!({"routes": [{"dst": "all"}]}),
            json!({"dns": {"nameservers": ["10.0.0.1\nnameserver 6.6.6.6"]}}),
            json!({"ips": vec![json!({"address": "10.0.0.1/8"}); 65]}),
        ] {
            assert!(read(&value, empty()).is_err(), "{value}");
        }
        assert!(read(&json!({}), empty()).is_ok());
    }
}
