//! The settings of the role `master`.

use std::net::SocketAddr;

use plenum_api::{Millis, mesos};
use plenum_base::component::ComponentSettings;
use plenum_base::config::Settings as RoleSettings;
use plenum_base::places::{Instance, Places, Role};
use plenum_store::StoreSettings;
use serde::{Deserialize, Serialize};

use crate::core::Settings;

/// Settings of the master. Every one has a default.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// Where agents dial in, unless a socket is handed over as `agents`.
    pub agents: SocketAddr,
    /// The host that others are told to reach this master at; empty: the address it serves on.
    pub hostname: String,
    /// The cluster's name, shown to people.
    pub cluster: String,
    /// The region this master is in; agents of other regions are remote. Empty: none.
    pub region: String,
    /// The zone this master is in. Empty: none.
    pub zone: String,
    /// Where records are kept.
    pub store: StoreSettings,
    /// Seconds between heartbeats on a framework's stream.
    pub heartbeat_seconds: f64,
    /// Seconds after which a silent agent is pinged.
    pub agent_ping_seconds: f64,
    /// After so many of them without a sign of life an agent is unreachable.
    pub agent_ping_misses: u32,
    /// Seconds that agents have to come back after the master started.
    pub agent_reregister_seconds: f64,
    /// Seconds a framework may sit on an offer; 0: as long as it likes.
    pub offer_timeout_seconds: f64,
    /// Ended tasks kept for each framework.
    pub completed_tasks: usize,
    /// Removed frameworks kept to be shown.
    pub completed_frameworks: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self::at(&Places::of(Instance::default(), 0))
    }
}

impl Config {
    /// The settings of the master of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        Self {
            agents: places.agents_door(),
            component: ComponentSettings::at(places, Role::Master),
            hostname: String::new(),
            cluster: "plenum".into(),
            region: String::new(),
            zone: String::new(),
            store: StoreSettings::default(),
            heartbeat_seconds: 15.0,
            agent_ping_seconds: 3.0,
            agent_ping_misses: 4,
            agent_reregister_seconds: 600.0,
            offer_timeout_seconds: 0.0,
            completed_tasks: 1_000,
            completed_frameworks: 50,
        }
    }
}

impl RoleSettings for Config {
    fn check(&self, problems: &mut Vec<String>) {
        let mut wrong = |message: String| problems.push(message);
        let times = [
            ("heartbeat_seconds", self.heartbeat_seconds),
            ("agent_ping_seconds", self.agent_ping_seconds),
            ("agent_reregister_seconds", self.agent_reregister_seconds),
        ];
        for (name, seconds) in times {
            if !seconds.is_finite() || !(0.01..=1e7).contains(&seconds) {
                wrong(format!("`{name}` must be between 0.01 and 10000000 seconds"));
            }
        }
        if !self.offer_timeout_seconds.is_finite() || self.offer_timeout_seconds < 0.0 {
            wrong("`offer_timeout_seconds` must be 0 or more".into());
        }
        if self.agent_ping_misses == 0 {
            wrong("`agent_ping_misses` must be at least 1".into());
        }
        for problem in self.store.problems() {
            wrong(problem);
        }
        if self.region.is_empty() != self.zone.is_empty() {
            wrong("`region` and `zone` go together: set both or none".into());
        }
    }
}

impl Config {
    /// The host this master is reached at.
    pub(crate) fn host(&self) -> String {
        if self.hostname.is_empty() { self.component.listen.ip().to_string() } else { self.hostname.clone() }
    }

    /// Where clients find this master; its name as a candidate.
    pub(crate) fn base_url(&self, listen: SocketAddr) -> String {
        match self.hostname.as_str() {
            "" => format!("https://{listen}"),
            name => format!("https://{name}:{}", listen.port()),
        }
    }

    /// What the core is configured with. `listen` is where HTTP is really served.
    pub(crate) fn core(&self, listen: SocketAddr) -> Settings {
        let ip = match listen.ip() {
            // Mesos' order: the first part of the address in the lowest byte.
            std::net::IpAddr::V4(ip) => u32::from_le_bytes(ip.octets()),
            std::net::IpAddr::V6(_) => 0,
        };
        let domain = (!self.region.is_empty()).then(|| mesos::DomainInfo {
            fault_domain: Some(mesos::domain_info::FaultDomain {
                region: mesos::domain_info::fault_domain::RegionInfo { name: self.region.clone() },
                zone: mesos::domain_info::fault_domain::ZoneInfo { name: self.zone.clone() },
            }),
        });
        let host = if self.hostname.is_empty() { listen.ip().to_string() } else { self.hostname.clone() };
        let capability = |kind: mesos::master_info::capability::Type| mesos::master_info::Capability {
            r#type: Some(kind as i32),
        };
        Settings {
            master_info: mesos::MasterInfo {
                id: String::new(),
                ip,
                port: u32::from(listen.port()),
                pid: Some(format!("master@{listen}")),
                hostname: Some(host.clone()),
                version: Some(crate::MESOS_VERSION.into()),
                address: Some(mesos::Address {
                    hostname: Some(host),
                    ip: Some(listen.ip().to_string()),
                    port: i32::from(listen.port()),
                }),
                domain,
                capabilities: vec![
                    capability(mesos::master_info::capability::Type::AgentUpdate),
                    capability(mesos::master_info::capability::Type::QuotaV2),
                ],
            },
            heartbeat: Millis::from_secs_f64(self.heartbeat_seconds),
            ping: Millis::from_secs_f64(self.agent_ping_seconds),
            ping_misses: self.agent_ping_misses,
            reregister_timeout: Millis::from_secs_f64(self.agent_reregister_seconds),
            offer_timeout: (self.offer_timeout_seconds > 0.0)
                .then(|| Millis::from_secs_f64(self.offer_timeout_seconds)),
            completed_tasks: self.completed_tasks,
            completed_frameworks: self.completed_frameworks,
            ..Settings::default()
        }
    }
}
