//! Offers: made of what the allocator grants, taken back when their agent or framework goes; DECLINE, REVIVE, SUPPRESS.
//!
//! Owns `offers`. What is done with an accepted one is in `accept`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_allocator::{Grant, Holding};
use plenum_api::resources::{Format, Item};
use plenum_api::scheduler::{self, call};
use plenum_api::{Millis, mesos};

use super::lookup::{agent_id, event, framework_id};
use super::state::{Agent, AgentKey, FrameworkKey, Offer};
use super::timers::Timer;
use super::{Master, Turn};

/// A refusal is never remembered longer than this.
const MAX_REFUSE_SECONDS: f64 = 365.0 * 24.0 * 3600.0;
/// Mesos' default when a filter says nothing.
const DEFAULT_REFUSE_SECONDS: f64 = 5.0;

/// How long declined resources are kept from a framework.
pub(super) fn refuse_for(filters: Option<&mesos::Filters>) -> Millis {
    let seconds = filters.and_then(|f| f.refuse_seconds).unwrap_or(DEFAULT_REFUSE_SECONDS);
    // As Mesos: what is not a sensible time is the default.
    let seconds = if seconds.is_finite() && seconds >= 0.0 {
        seconds.min(MAX_REFUSE_SECONDS)
    } else {
        DEFAULT_REFUSE_SECONDS
    };
    Millis::from_secs_f64(seconds)
}

impl Master {
    /// Something may be offered now that could not be before.
    pub(super) fn allocate_soon(&mut self, t: &Turn<'_>) {
        let earliest = self.allocated_at + self.settings.allocation_delay;
        let at = earliest.max(t.now.mono);
        if self.allocate_at.is_none_or(|planned| planned > at) {
            self.allocate_at = Some(at);
            self.timers.set(at, Timer::Allocate);
        }
    }

    pub(super) fn allocation_due(&mut self, t: &mut Turn<'_>, at: Millis) {
        if self.allocate_at != Some(at) {
            return;
        }
        self.allocate_at = None;
        self.allocated_at = t.now.mono;
        let allocation = self.ledger.cycle(t.now);
        if let Some(wake) = allocation.next_wakeup {
            let wake = wake.max(t.now.mono + self.settings.allocation_delay);
            self.allocate_at = Some(wake);
            self.timers.set(wake, Timer::Allocate);
        }
        self.make_offers(t, allocation.grants);
    }

    fn make_offers(&mut self, t: &mut Turn<'_>, grants: Vec<Grant>) {
        let mut by_framework: BTreeMap<FrameworkKey, Vec<mesos::Offer>> = BTreeMap::new();
        for grant in grants {
            let framework = self.framework_key(&grant.framework).filter(|key| self.stream_of(*key).is_some());
            let agent = self.agent_keys.get(grant.agent.as_str()).copied();
            let (Some(framework), Some(agent)) = (framework, agent) else {
                // The ledger knows only active ones; should it be wrong, nothing is lost.
                let holding = Holding {
                    framework: &grant.framework,
                    role: &grant.role,
                    agent: &grant.agent,
                    resources: &grant.resources,
                    offered: true,
                };
                self.ledger.unoffer(holding, None, t.now.mono);
                continue;
            };
            if let Some(offer) = self.make_offer(t, framework, agent, grant) {
                by_framework.entry(framework).or_default().push(offer);
            }
        }
        let most = self.settings.offers_per_event.max(1);
        for (framework, mut offers) in by_framework {
            while !offers.is_empty() {
                let rest = offers.split_off(offers.len().min(most));
                let mut event = event(scheduler::event::Type::Offers);
                event.offers = Some(scheduler::event::Offers { offers });
                self.send(t, framework, event);
                offers = rest;
            }
            self.touch_framework(framework);
        }
    }

    fn make_offer(
        &mut self,
        t: &Turn<'_>,
        framework: FrameworkKey,
        agent_key: AgentKey,
        grant: Grant,
    ) -> Option<mesos::Offer> {
        let agent = Arc::clone(self.agents.get(agent_key)?);
        let framework_name = Arc::clone(&self.frameworks.get(&framework)?.id);
        let format = match self.frameworks.get(&framework) {
            Some(known) if !known.abilities.refined && grant.resources.iter().any(is_reserved) => {
                Format::Legacy
            }
            _ => Format::Refined,
        };
        self.next.offer += 1;
        let number = self.next.offer;
        let executor_ids = agent
            .executors
            .range((framework, "".into())..)
            .take_while(|((key, _), _)| *key == framework)
            .map(|((_, id), _)| mesos::ExecutorId { value: id.to_string() })
            .collect();
        let message = mesos::Offer {
            id: self.offer_id(number),
            framework_id: framework_id(&framework_name),
            agent_id: agent_id(&agent.id),
            hostname: agent.info.hostname.clone(),
            url: Some(url(&agent)),
            domain: agent.info.domain.clone(),
            attributes: agent.info.attributes.clone(),
            executor_ids,
            allocation_info: Some(mesos::resource::AllocationInfo { role: Some(grant.role.clone()) }),
            resources: grant.resources.to_mesos_as(format),
            ..Default::default()
        };
        let record = Offer {
            number,
            framework,
            agent: agent_key,
            framework_id: framework_name,
            agent_id: Arc::clone(&agent.id),
            role: grant.role.into(),
            resources: Arc::new(grant.resources),
        };
        let place = self.offers.insert(record);
        self.offer_keys.insert(number, place);
        if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.offers.insert(number);
        }
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.offers.insert(number);
        }
        if let Some(timeout) = self.settings.offer_timeout {
            self.timers.set(t.now.mono + timeout, Timer::Offer(number));
        }
        Some(message)
    }

    pub(super) fn offer_id(&self, number: u64) -> mesos::OfferId {
        mesos::OfferId { value: format!("{}-O{number}", self.id) }
    }

    /// The number in an offer's id, when this master made it.
    pub(super) fn offer_number(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(&*self.id)?.strip_prefix("-O")?;
        // One spelling only: an offer must not be known under two names.
        if digits.is_empty() || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    }

    /// An offer that is still open.
    pub(super) fn offer(&self, number: u64) -> Option<&Arc<Offer>> {
        self.offers.get(*self.offer_keys.get(&number)?)
    }

    /// Takes an offer out of every table. Its resources are the caller's from now on: to use or to give back.
    pub(super) fn take_offer(&mut self, number: u64) -> Option<Arc<Offer>> {
        let offer = self.offers.remove(self.offer_keys.remove(&number)?)?;
        if let Some(agent) = self.agents.get_mut(offer.agent) {
            agent.offers.remove(&number);
        }
        if let Some(framework) = self.frameworks.get_mut(&offer.framework) {
            framework.offers.remove(&number);
        }
        self.touch_framework(offer.framework);
        Some(offer)
    }

    /// Takes an offer back whole.
    fn return_offer(&mut self, number: u64, refuse: Option<Millis>, now: Millis) -> Option<Arc<Offer>> {
        let offer = self.take_offer(number)?;
        self.ledger.unoffer(offer.holding(), refuse, now);
        Some(offer)
    }

    pub(super) fn rescind(&mut self, t: &mut Turn<'_>, number: u64) {
        let Some(offer) = self.return_offer(number, None, t.now.mono) else { return };
        let mut rescind = event(scheduler::event::Type::Rescind);
        rescind.rescind = Some(scheduler::event::Rescind { offer_id: self.offer_id(number) });
        self.send(t, offer.framework, rescind);
    }

    /// Takes back all offers of an agent.
    pub(super) fn rescind_agent(&mut self, t: &mut Turn<'_>, key: AgentKey) {
        let offers = self.agents.get(key).map(|agent| agent.offers.clone()).unwrap_or_default();
        for number in offers {
            self.rescind(t, number);
        }
    }

    /// Takes back the offers of a framework whose stream is new or gone: nobody is told, or `tell` says otherwise.
    pub(super) fn drop_offers_of_framework(&mut self, t: &mut Turn<'_>, key: FrameworkKey, tell: bool) {
        let offers = self.frameworks.get(&key).map(|f| f.offers.clone()).unwrap_or_default();
        if offers.is_empty() {
            return;
        }
        for number in offers {
            if tell {
                self.rescind(t, number);
            } else {
                self.return_offer(number, None, t.now.mono);
            }
        }
        self.allocate_soon(t);
    }

    /// Takes back offers for roles that a framework has left.
    pub(super) fn rescind_roles(&mut self, t: &mut Turn<'_>, key: FrameworkKey, keep: &BTreeSet<String>) {
        let offers = self.frameworks.get(&key).map(|f| f.offers.clone()).unwrap_or_default();
        for number in offers {
            if self.offer(number).is_some_and(|offer| !keep.contains(&*offer.role)) {
                self.rescind(t, number);
            }
        }
    }

    pub(super) fn offer_due(&mut self, t: &mut Turn<'_>, number: u64) {
        if self.offer(number).is_some() {
            self.rescind(t, number);
            self.allocate_soon(t);
        }
    }

    /// DECLINE. Offers that are no longer open are passed over: they may just have been rescinded.
    pub(super) fn decline(&mut self, t: &mut Turn<'_>, framework: FrameworkKey, decline: &call::Decline) {
        self.metrics.count("master/messages_decline_offers");
        let refuse = refuse_for(decline.filters.as_ref());
        for id in &decline.offer_ids {
            let Some(number) = self.offer_number(&id.value) else { continue };
            if self.offer(number).is_some_and(|offer| offer.framework == framework) {
                self.return_offer(number, Some(refuse), t.now.mono);
            }
        }
        self.allocate_soon(t);
    }

    /// REVIVE: filters are forgotten and suppressed roles are offered to again.
    pub(super) fn revive(&mut self, t: &mut Turn<'_>, key: FrameworkKey, roles: &[String]) {
        self.metrics.count("master/messages_revive_offers");
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        if roles.is_empty() {
            framework.suppressed.clear();
        } else {
            framework.suppressed.retain(|role| !roles.contains(role));
        }
        self.ledger.revive(&framework.id, roles);
        self.allocate_soon(t);
    }

    /// SUPPRESS: no offers for these roles until REVIVE.
    pub(super) fn suppress(&mut self, key: FrameworkKey, roles: &[String]) {
        self.metrics.count("master/messages_suppress_offers");
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        let all = super::frameworks::roles(&framework.info);
        framework.suppressed.extend(if roles.is_empty() { all } else { roles.to_vec() });
        self.ledger.suppress(&framework.id, roles);
    }
}

fn is_reserved(item: &Item) -> bool {
    !item.reservations().is_empty()
}

/// Where an agent's API is, as Mesos writes it into offers.
fn url(agent: &Agent) -> mesos::Url {
    let scheme =
        agent.url.as_deref().and_then(|url| url.split_once("://")).map_or("http", |(scheme, _)| scheme);
    let ip = agent.address.rsplit_once(':').map(|(ip, _)| ip.trim_matches(['[', ']']).to_owned());
    mesos::Url {
        scheme: scheme.to_owned(),
        address: mesos::Address {
            hostname: Some(agent.info.hostname.clone()),
            ip,
            port: agent.info.port.unwrap_or(5051),
        },
        path: Some("/slave(1)".into()),
        ..Default::default()
    }
}
