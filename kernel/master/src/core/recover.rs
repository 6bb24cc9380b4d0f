//! A master begins: what the store knows becomes its first state.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use plenum_allocator::Options;
use plenum_api::{IdSource, Millis, Now, ids::uuid_text};

use super::event::AgentIdentity;
use super::metrics::Metrics;
use super::registry::{AgentState, Records};
use super::slab::Slab;
use super::state::{Absence, Absent, FrameworkKey};
use super::timers::{Timer, Timers};
use super::{Master, Numbers, Settings, ledger};

impl Master {
    /// A master that leads under `term` and knows what `records` say. Agents and frameworks are known and away.
    pub fn recover(
        mut settings: Settings,
        records: Records,
        term: u64,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Self {
        let id: Arc<str> = uuid_text(&ids.uuid()).into();
        settings.master_info.id = id.to_string();
        let options = Options {
            region: settings
                .master_info
                .domain
                .as_ref()
                .and_then(|d| d.fault_domain.as_ref())
                .map(|d| d.region.name.clone()),
            ..Options::default()
        };
        let mut master = Self {
            settings: Arc::new(settings),
            id,
            started: now.wall,
            term,
            ledger: ledger::Ledger::new(options),
            agents: Slab::default(),
            agent_keys: HashMap::new(),
            connections: BTreeMap::new(),
            absent: Arc::default(),
            lives: BTreeMap::new(),
            dooming: BTreeSet::new(),
            emptied: BTreeSet::new(),
            recovering: 0,
            frameworks: BTreeMap::new(),
            framework_keys: HashMap::new(),
            streams: HashMap::new(),
            next_framework: 0,
            removed: BTreeMap::new(),
            completed: VecDeque::new(),
            tasks: Slab::default(),
            offers: Slab::default(),
            offer_keys: HashMap::new(),
            weights: BTreeMap::new(),
            quotas: BTreeMap::new(),
            timers: Timers::default(),
            allocate_at: None,
            allocated_at: Millis(0),
            overlay: super::overlay::Overlay::default(),
            overlay_at: None,
            pending: HashMap::new(),
            next: Numbers::default(),
            metrics: Metrics::default(),
            watched: false,
            generation: 0,
            shown: None,
        };
        master.take_records(records, now);
        master
    }

    fn take_records(&mut self, records: Records, now: Now) {
        for (role, record) in records.weights {
            self.ledger.set_weight(&role, record.weight);
            self.weights.insert(role, record.weight);
        }
        for (role, record) in records.quotas {
            self.ledger.set_quota(&record.config);
            self.quotas.insert(role, record.config);
        }
        for (number, record) in records.slices {
            // Of an agent that was given up in the moment in which the last master ended the slice is free.
            let agent = records.agents.get(&record.agent);
            if let Some(number) =
                number.parse().ok().filter(|_| agent.is_some_and(|a| a.state != AgentState::Gone))
            {
                self.overlay.restore(number, record);
            }
        }
        for (id, record) in records.removed {
            self.removed.insert(id.into(), record.at);
        }
        for (id, record) in records.frameworks {
            let key =
                self.insert_framework(id.into(), record.info, record.principal.into(), record.registered);
            self.restore_framework(now, key);
        }
        let absent = Arc::make_mut(&mut self.absent);
        for (id, record) in records.agents {
            let why = match record.state {
                AgentState::Admitted => Absence::Recovered,
                AgentState::Unreachable => Absence::Unreachable(record.since),
                AgentState::Gone => Absence::Gone(record.since),
            };
            self.recovering += usize::from(why == Absence::Recovered);
            let id: Arc<str> = id.into();
            if !record.life.is_usual() {
                self.lives.insert(Arc::clone(&id), record.life);
            }
            absent.insert(
                id,
                Absent {
                    why,
                    info: Arc::new(record.info),
                    identity: Arc::new(AgentIdentity {
                        key: record.identity.into(),
                        node: record.node_name.into(),
                    }),
                    life: record.life,
                },
            );
        }
        if self.recovering > 0 {
            self.timers.set(now.mono + self.settings.reregister_timeout, Timer::Recovered);
        }
    }

    /// A framework that is known and away: it gets the longer of its own time and that of the agents.
    pub(super) fn restore_framework(&mut self, now: Now, key: FrameworkKey) {
        let grace = self.settings.reregister_timeout;
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        framework.stored = true;
        framework.recovered = true;
        framework.seen = true;
        let at = now.mono + framework.failover().max(grace);
        framework.failover_at = Some(at);
        self.ledger.put_framework(framework);
        self.timers.set(at, Timer::Failover(key));
    }
}
