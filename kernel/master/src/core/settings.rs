//! The core's settings, with Mesos' defaults where Mesos has the setting.

use plenum_api::{Millis, mesos};

/// What the core is configured with. All times are milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How this master presents itself to frameworks and agents. Its id is replaced by a fresh one at each start.
    pub master_info: mesos::MasterInfo,
    /// Time between heartbeats on a framework's stream (15 s).
    pub heartbeat: Millis,
    /// Time after which a silent agent is pinged (4 s).
    pub ping: Millis,
    /// How long, in pings, an agent may be silent or without a connection before it is unreachable (4).
    pub ping_misses: u32,
    /// Time that agents and frameworks known from before the last start have to come back (10 min).
    pub reregister_timeout: Millis,
    /// Shortest time between two allocations that follow from changes (5 ms); they are also made each `allocation_interval`.
    pub allocation_delay: Millis,
    /// Time between allocations when nothing changes (1 s); bounds how late an expired filter is noticed.
    pub allocation_interval: Millis,
    /// How long a framework may sit on an offer before it is rescinded; none by default.
    pub offer_timeout: Option<Millis>,
    /// Offers in one OFFERS event at most (250), so that one event stays small enough to encode between others.
    pub offers_per_event: usize,
    /// Ended tasks kept for each framework (1,000).
    pub completed_tasks: usize,
    /// Removed frameworks kept to be shown (50).
    pub completed_frameworks: usize,
    /// Removed framework ids remembered so that they stay dead (10,000).
    pub removed_frameworks: usize,
    /// Gone agents' and unreachable agents' records kept (100,000); the oldest are forgotten first.
    pub absent_agents: usize,
    /// For tests of the simulator: what an accepted offer used is offered again.
    #[cfg(feature = "deliberate-bugs")]
    pub deliberate_double_offer: bool,
    /// For tests of the simulator: agents out of service are offered.
    #[cfg(feature = "deliberate-bugs")]
    pub deliberate_drained_offer: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            master_info: mesos::MasterInfo::default(),
            heartbeat: Millis(15_000),
            ping: Millis(4_000),
            ping_misses: 4,
            reregister_timeout: Millis(600_000),
            allocation_delay: Millis(5),
            allocation_interval: Millis(1_000),
            offer_timeout: None,
            offers_per_event: 250,
            completed_tasks: 1_000,
            completed_frameworks: 50,
            removed_frameworks: 10_000,
            absent_agents: 100_000,
            #[cfg(feature = "deliberate-bugs")]
            deliberate_double_offer: false,
            #[cfg(feature = "deliberate-bugs")]
            deliberate_drained_offer: false,
        }
    }
}

impl Settings {
    /// How long an agent may be silent or disconnected before it is unreachable.
    pub fn agent_timeout(&self) -> Millis {
        Millis(self.ping.0.saturating_mul(u64::from(self.ping_misses.max(1))))
    }
}
