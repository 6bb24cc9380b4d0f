//! Frameworks coming and going: SUBSCRIBE, heartbeats, disconnection, failover timeout.
//!
//! Owns a framework's stream. What a framework is (its record, its description) is in `frameworks`; its end in `teardown`.

use std::sync::Arc;

use plenum_api::{Millis, scheduler};

use super::event::{Caller, Effect, StreamId};
use super::frameworks::{Change, Subscription};
use super::lookup::{event, framework_id, send_on};
use super::state::{FrameworkKey, Stream};
use super::timers::Timer;
use super::{Master, Pending, Turn, validate};

impl Master {
    /// A framework asks for a stream. Whatever is wrong is said on the stream, as Mesos does, which is then closed.
    pub(super) fn subscribe(
        &mut self,
        t: &mut Turn<'_>,
        stream: Stream,
        call: scheduler::Call,
        caller: &Caller,
    ) {
        self.metrics.count("master/messages_register_framework");
        let id = stream.id;
        if let Err(reason) = self.try_subscribe(t, stream, call, caller) {
            refuse(t, id, reason);
        }
    }

    fn try_subscribe(
        &mut self,
        t: &mut Turn<'_>,
        stream: Stream,
        call: scheduler::Call,
        caller: &Caller,
    ) -> Result<(), String> {
        validate::call(&call, caller)?;
        let subscribe = call.subscribe.ok_or("Expecting 'subscribe' to be present")?;
        let mut info = subscribe.framework_info;
        if info.principal.is_none() && caller.authenticated {
            info.principal = Some(caller.uid.to_string());
        }
        validate::framework_info(&info)?;
        validate::roles_subset(&info, &subscribe.suppressed_roles, subscribe.offer_constraints.as_ref())?;
        let given = info.id.as_ref().map(|id| id.value.clone()).filter(|id| !id.is_empty());
        if given.as_deref().is_some_and(|id| self.removed.contains_key(id)) {
            return Err("Framework has been removed".into());
        }
        let known = given.as_deref().and_then(|id| self.framework_key(id));
        let key = match known {
            Some(key) => {
                self.may_speak_for(key, caller)?;
                key
            }
            None => self.add_framework(t, given, &info, caller),
        };
        let change =
            self.prepare_change(key, info, subscribe.suppressed_roles, subscribe.offer_constraints)?;
        let Some(framework) = self.frameworks.get_mut(&key) else {
            return Err("Framework has been removed".into());
        };
        if framework.leaving {
            return Err("Framework has been removed".into());
        }
        if let Some(older) = framework.subscribing.replace(stream.id) {
            self.streams.remove(&older);
            refuse(t, older, "Framework failed over".into());
        }
        self.streams.insert(stream.id, key);
        let subscription = Subscription { stream, change };
        if self.frameworks.get(&key).is_some_and(|f| f.stored && *f.info == subscription.change.info) {
            self.finish_subscription(t, key, subscription);
        } else {
            let op = self.framework_op(key, &subscription.change.info);
            self.commit(t, vec![op], Pending::Subscribe(key, Box::new(subscription)));
        }
        Ok(())
    }

    /// A framework belongs to the principal that subscribed it first. Components of the cluster stand for each other: a scheduler's successor on
    /// another machine has another certificate.
    fn may_speak_for(&self, key: FrameworkKey, caller: &Caller) -> Result<(), String> {
        let Some(framework) = self.frameworks.get(&key) else { return Ok(()) };
        let component = !caller.authenticated && !caller.uid.is_empty();
        let same_house = component && framework.principal.starts_with("plenum://");
        if framework.principal == caller.uid || same_house {
            return Ok(());
        }
        Err("Changing framework's principal is not allowed.".into())
    }

    pub(super) fn subscribe_committed(
        &mut self,
        t: &mut Turn<'_>,
        key: FrameworkKey,
        subscription: Subscription,
        result: Result<(), String>,
    ) {
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        let waiting = framework.subscribing == Some(subscription.stream.id);
        if let Err(reason) = result {
            if waiting {
                framework.subscribing = None;
                self.streams.remove(&subscription.stream.id);
                refuse(
                    t,
                    subscription.stream.id,
                    format!("the registration could not be stored ({reason}): subscribe again"),
                );
            }
            if self.frameworks.get(&key).is_some_and(|f| !f.stored && f.subscribing.is_none()) {
                self.forget_framework(key);
            }
            return;
        }
        framework.stored = true;
        if framework.leaving {
            return;
        }
        if waiting {
            self.finish_subscription(t, key, subscription);
        } else if framework.stream.is_none() && framework.subscribing.is_none() {
            // The client left while its registration was stored: it has what any other disconnected framework has.
            self.apply_change(t, key, subscription.change);
            self.start_failover(t, key);
        }
    }

    fn finish_subscription(&mut self, t: &mut Turn<'_>, key: FrameworkKey, subscription: Subscription) {
        let Subscription { stream, change } = subscription;
        let id = stream.id;
        self.drop_offers_of_framework(t, key, false);
        self.apply_change(t, key, change);
        let heartbeat = self.settings.heartbeat;
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        framework.subscribing = None;
        framework.recovered = false;
        if std::mem::replace(&mut framework.seen, true) {
            framework.reregistered = t.now.wall;
        }
        framework.failover_at = None;
        framework.heartbeat_at = t.now.mono + heartbeat;
        let old = framework.stream.replace(stream);
        let framework_name = Arc::clone(&framework.id);
        if let Some(old) = old {
            self.streams.remove(&old.id);
            refuse(t, old.id, "Framework failed over".into());
        }
        self.timers.set(t.now.mono + heartbeat, Timer::Heartbeat(key));
        let mut subscribed = event(scheduler::event::Type::Subscribed);
        subscribed.subscribed = Some(scheduler::event::Subscribed {
            framework_id: framework_id(&framework_name),
            heartbeat_interval_seconds: Some(heartbeat.as_secs_f64()),
            master_info: Some(self.settings.master_info.clone()),
        });
        send_on(t, id, subscribed);
        // At once, because some clients act on a record only when the next one begins.
        send_on(t, id, event(scheduler::event::Type::Heartbeat));
        self.ledger.set_framework_active(&framework_name, true);
        self.allocate_soon(t);
        self.framework_changed(t, key);
    }

    /// A stream is gone. Calls of the framework are refused from now on, and its time runs.
    pub(super) fn stream_closed(&mut self, t: &mut Turn<'_>, stream: StreamId) {
        let Some(key) = self.streams.remove(&stream) else { return };
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        if framework.subscribing == Some(stream) {
            framework.subscribing = None;
        }
        if framework.stream.as_ref().is_none_or(|current| current.id != stream) {
            return;
        }
        framework.stream = None;
        let id = Arc::clone(&framework.id);
        t.log(format!("framework {id} disconnected"));
        self.drop_offers_of_framework(t, key, false);
        self.ledger.set_framework_active(&id, false);
        self.start_failover(t, key);
        self.framework_changed(t, key);
    }

    /// Lets the framework's time run; without any, it is removed now.
    pub(super) fn start_failover(&mut self, t: &mut Turn<'_>, key: FrameworkKey) {
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        let timeout = framework.failover();
        if timeout == Millis(0) {
            let principal = framework.principal.to_string();
            self.remove_framework(t, key, None, principal);
            return;
        }
        let at = t.now.mono + timeout;
        framework.failover_at = Some(at);
        self.timers.set(at, Timer::Failover(key));
    }

    pub(super) fn failover_due(&mut self, t: &mut Turn<'_>, key: FrameworkKey, at: Millis) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        if framework.failover_at == Some(at) && !framework.connected() && framework.subscribing.is_none() {
            t.warn(format!(
                "framework {} ({}) stayed away longer than its failover timeout and is removed",
                framework.id, framework.info.name
            ));
            let principal = framework.principal.to_string();
            self.remove_framework(t, key, None, principal);
        }
    }

    pub(super) fn heartbeat_due(&mut self, t: &mut Turn<'_>, key: FrameworkKey, at: Millis) {
        let heartbeat = self.settings.heartbeat;
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        if framework.heartbeat_at != at || framework.stream.is_none() {
            return;
        }
        framework.heartbeat_at = t.now.mono + heartbeat;
        self.timers.set(t.now.mono + heartbeat, Timer::Heartbeat(key));
        self.send(t, key, event(scheduler::event::Type::Heartbeat));
    }

    /// Applies a changed description and tells the agents that run something of the framework.
    pub(super) fn apply_change(&mut self, t: &mut Turn<'_>, key: FrameworkKey, change: Change) {
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        let differs = *framework.info != change.info;
        framework.abilities = super::state::Abilities::of(&change.info);
        framework.suppressed = change.suppressed;
        framework.constraints = change.constraints.map(Arc::new);
        if differs {
            framework.info = Arc::new(change.info);
        }
        let info = Arc::clone(&framework.info);
        self.ledger.put_framework(framework);
        if differs {
            self.tell_agents_of(t, key, &info);
        }
        self.touch_framework(key);
    }
}

/// Says why on a stream and closes it.
pub(super) fn refuse(t: &mut Turn<'_>, stream: StreamId, reason: String) {
    let mut error = event(scheduler::event::Type::Error);
    error.error = Some(scheduler::event::Error { message: reason });
    send_on(t, stream, error);
    t.out.push(Effect::CloseStream { stream });
}
