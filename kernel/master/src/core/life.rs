//! What operators make of an agent: DRAIN_AGENT, DEACTIVATE_AGENT, REACTIVATE_AGENT.
//!
//! Owns `lives` (what is wanted) and `Agent::life` (what is stored, hence shown). Gone agents are in `away`; how tasks are ended is the agent's.

use std::sync::Arc;

use plenum_api::internal::{self, master_message::Kind};
use plenum_api::master::call::{DrainAgent, ReactivateAgent};
use plenum_api::{Millis, mesos};

use super::event::{AgentIdentity, Answer, Caller, Effect, ReplyId};
use super::registry::{self, AgentState, Drain, Life};
use super::state::{Absence, AgentKey, is_terminal};
use super::timers::Timer;
use super::{Master, Pending, Turn, away};

/// Ended tasks whose frameworks do not acknowledge the end hold a drain with a deadline up no longer than this after it.
const UNACKNOWLEDGED: Millis = Millis(15_000);

/// A change of an agent's life that is being stored.
#[derive(Debug)]
pub(super) struct Wish {
    id: Arc<str>,
    life: Life,
    was: Life,
    principal: Arc<str>,
}

/// An agent that an operator may speak of.
struct Known {
    id: Arc<str>,
    info: Arc<mesos::AgentInfo>,
    identity: Arc<AgentIdentity>,
    state: AgentState,
    since: Millis,
}

impl Master {
    /// What is wanted of an agent, be it stored or not.
    pub(super) fn intended(&self, id: &str) -> Life {
        self.lives.get(id).copied().unwrap_or_default()
    }

    /// DRAIN_AGENT.
    pub(super) fn drain_agent(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        call: &DrainAgent,
        caller: &Caller,
    ) {
        let max_grace = match call.max_grace_period.as_ref().map(grace).transpose() {
            Ok(grace) => grace,
            Err(reason) => return t.reply(reply, Answer::bad(reason)),
        };
        let mark_gone = call.mark_gone.unwrap_or(false);
        let known = self.intended(&call.agent_id.value).drain;
        let same =
            |known: &Drain| !known.drained && (known.max_grace, known.mark_gone) == (max_grace, mark_gone);
        // The same order again does not begin anew.
        let started = known.filter(same).map_or(t.now.wall, |known| known.started);
        let drain = Drain { max_grace, mark_gone, started, drained: false };
        let life = Life { deactivated: true, drain: Some(drain) };
        self.wish(t, Some(reply), &call.agent_id.value, life, &caller.uid);
    }

    /// DEACTIVATE_AGENT: its tasks go on, and nothing new comes.
    pub(super) fn deactivate_agent(&mut self, t: &mut Turn<'_>, reply: ReplyId, id: &str, caller: &Caller) {
        let life = Life { deactivated: true, ..self.intended(id) };
        self.wish(t, Some(reply), id, life, &caller.uid);
    }

    /// REACTIVATE_AGENT. As in Mesos, a drain that has begun is carried through first, unless the call says that it is called off: then
    /// nothing more is killed, and what is being killed ends.
    pub(super) fn reactivate_agent(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        call: &ReactivateAgent,
        caller: &Caller,
    ) {
        let id = &call.agent_id.value;
        let life = self.intended(id);
        if self.subject(id).is_ok() && life.is_usual() {
            return t.reply(reply, Answer::bad("Agent is not deactivated"));
        }
        if life.is_draining() && !call.cancel_drain.unwrap_or(false) {
            let text = "Agent is still in the DRAINING state: wait until it is DRAINED, then reactivate it";
            return t.reply(reply, Answer::bad(text));
        }
        self.wish(t, Some(reply), id, Life::default(), &caller.uid);
    }

    fn subject(&self, id: &str) -> Result<Known, Answer> {
        let busy =
            |what: &str| Answer::Refused(409, format!("Agent is currently being marked {what}: try again"));
        if self.dooming.contains(id) {
            return Err(busy("gone"));
        }
        if let Some((_, agent)) = self.agent_by_id(id) {
            if agent.leaving {
                return Err(busy("unreachable"));
            }
            let (info, identity) = (Arc::clone(&agent.info), Arc::clone(&agent.identity));
            let (state, since) = (AgentState::Admitted, agent.registered);
            return Ok(Known { id: Arc::clone(&agent.id), info, identity, state, since });
        }
        let unknown = || Answer::bad(format!("Unknown agent '{id}': list the agents with GET_AGENTS"));
        let (id, absent) = self.absent.get_key_value(id).ok_or_else(unknown)?;
        let (state, since) = match absent.why {
            Absence::Recovered => (AgentState::Admitted, self.started),
            Absence::Unreachable(since) => (AgentState::Unreachable, since),
            Absence::Gone(_) => {
                return Err(Answer::bad(format!("Agent '{id}' is gone and will not come back")));
            }
        };
        let (info, identity) = (Arc::clone(&absent.info), Arc::clone(&absent.identity));
        Ok(Known { id: Arc::clone(id), info, identity, state, since })
    }

    /// Stores what is wanted of an agent; it comes about when it is stored.
    fn wish(&mut self, t: &mut Turn<'_>, reply: Option<ReplyId>, id: &str, life: Life, principal: &Arc<str>) {
        let known = match self.subject(id) {
            Ok(known) => known,
            Err(answer) => {
                if let Some(reply) = reply {
                    t.reply(reply, answer);
                }
                return;
            }
        };
        let record = away::record(&known.info, &known.identity, known.state, life, known.since, principal);
        let was = self.intended(id);
        self.intend(&known.id, life);
        let wish = Wish { id: Arc::clone(&known.id), life, was, principal: Arc::clone(principal) };
        self.commit(t, vec![registry::put_agent(&known.id, &record)], Pending::Life(reply, Box::new(wish)));
    }

    fn intend(&mut self, id: &Arc<str>, life: Life) {
        if life.is_usual() {
            self.lives.remove(id);
        } else {
            self.lives.insert(Arc::clone(id), life);
        }
    }

    pub(super) fn life_committed(
        &mut self,
        t: &mut Turn<'_>,
        reply: Option<ReplyId>,
        wish: Wish,
        result: Result<(), String>,
    ) {
        let Wish { id, life, was, principal } = wish;
        if let Err(reason) = result {
            // A later wish stands.
            if self.intended(&id) == life {
                self.intend(&id, was);
            }
            match reply {
                Some(reply) => {
                    let text = format!("the change could not be stored ({reason}): try again");
                    t.reply(reply, Answer::Refused(503, text));
                    // Nobody looked at it while its drain seemed to end.
                    if self.intended(&id).is_draining() {
                        self.drain_again(t, &id);
                    }
                }
                None => self.drain_again(t, &id),
            }
            return;
        }
        if let Some(key) = self.agent_keys.get(&id).copied() {
            self.live(t, key, life, &principal);
        } else if let Some(absent) = Arc::make_mut(&mut self.absent).get_mut(&id) {
            absent.life = life;
        }
        self.touch();
        if let Some(reply) = reply {
            t.reply(reply, Answer::Done);
        }
    }

    /// What is stored of a registered agent comes about.
    fn live(&mut self, t: &mut Turn<'_>, key: AgentKey, life: Life, principal: &str) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        let was = std::mem::replace(&mut agent.life, life);
        let (id, connected) = (Arc::clone(&agent.id), agent.conn.is_some());
        t.log(format!("agent {id} is {} by {principal}", word(life)));
        self.ledger.set_agent_active(&id, connected && life.serves());
        if !life.serves() {
            self.rescind_agent(t, key);
        }
        self.allocate_soon(t);
        match life.drain {
            Some(drain) if !drain.drained => self.tell_drain(t, key, &drain),
            None if was.drain.is_some() => {
                self.tell(t, key, Kind::ResumeAgent(internal::ResumeAgent {}));
            }
            _ => {}
        }
    }

    fn tell_drain(&mut self, t: &mut Turn<'_>, key: AgentKey, drain: &Drain) {
        self.tell(t, key, Kind::DrainAgent(internal::DrainAgent { config: drain.config() }));
        if let Some(grace) = drain.max_grace {
            let end = drain.started + grace + UNACKNOWLEDGED;
            let at = t.now.mono + end.since(t.now.wall).min(grace + UNACKNOWLEDGED);
            self.timers.set(at, Timer::Drain(key));
        }
        self.emptied.insert(key);
    }

    /// An agent has registered: it hears what it must know. `drains` is what it believes.
    pub(super) fn order_drain(&mut self, t: &mut Turn<'_>, key: AgentKey, drains: bool) {
        match self.agents.get(key).and_then(|agent| agent.life.drain) {
            Some(drain) => self.tell_drain(t, key, &drain),
            None if drains => drop(self.tell(t, key, Kind::ResumeAgent(internal::ResumeAgent {}))),
            None => {}
        }
    }

    /// Draining agents on which something ended: those with nothing left are drained.
    pub(super) fn look_at_emptied(&mut self, t: &mut Turn<'_>) {
        while let Some(key) = self.emptied.pop_first() {
            let Some(agent) = self.agents.get(key).filter(|agent| agent.life.is_draining()) else { continue };
            let Some(drain) = agent.life.drain else { continue };
            if agent.leaving || self.dooming.contains(&agent.id) || !self.intended(&agent.id).is_draining() {
                continue;
            }
            let over =
                drain.max_grace.is_some_and(|grace| (drain.started + grace + UNACKNOWLEDGED) <= t.now.wall);
            let blocks =
                |task: &u32| self.tasks.get(*task).is_some_and(|task| !over || !is_terminal(task.state));
            if agent.tasks.iter().any(blocks) {
                continue;
            }
            let (id, info, identity) =
                (Arc::clone(&agent.id), Arc::clone(&agent.info), Arc::clone(&agent.identity));
            let drainer: Arc<str> = "master".into();
            if drain.mark_gone {
                t.log(format!("agent {id} is drained and will be marked gone"));
                self.give_up(t, None, id, (&info, &identity), &drainer);
            } else {
                let life = Life { deactivated: true, drain: Some(Drain { drained: true, ..drain }) };
                self.wish(t, None, &id, life, &drainer);
            }
        }
    }

    /// The store would not take down that a drain is over: it is looked at again in a while.
    pub(super) fn drain_again(&mut self, t: &mut Turn<'_>, id: &str) {
        if let Some(key) = self.agent_keys.get(id).copied() {
            self.timers.set(t.now.mono + self.settings.ping, Timer::Drain(key));
        }
    }

    /// Notes for the pings to whom something was sent in this turn.
    pub(super) fn note_sent(&mut self, t: &Turn<'_>) {
        for effect in &t.out {
            if let Effect::ToAgent { conn, .. } = effect
                && let Some(connection) = self.connections.get_mut(conn)
            {
                connection.said = t.now.mono;
            }
        }
    }
}

fn word(life: Life) -> &'static str {
    match life.drain {
        Some(drain) if drain.drained => "drained",
        Some(_) => "draining",
        None if life.deactivated => "deactivated",
        None => "in service",
    }
}

fn grace(duration: &plenum_api::protobuf::Duration) -> Result<Millis, String> {
    let (seconds, nanos) = (duration.seconds.unwrap_or(0), duration.nanos.unwrap_or(0));
    let seconds = u64::try_from(seconds).map_err(|_| "'max_grace_period' must not be negative")?;
    let nanos = u64::try_from(nanos).map_err(|_| "'max_grace_period' must not be negative")?;
    Ok(Millis(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)))
}
