//! The scheduler's process: a core, its store, and effects that wait for what must be durable before them.

use std::collections::{BTreeMap, VecDeque};

use plenum_api::{Millis, Now};
use plenum_services::core::pod_requests::PodChange;
use plenum_services::core::readiness::{Answer, Probed};
use plenum_services::core::requests::{Kind, Request};
use plenum_services::core::scaling::{Measure, Measured, Reading};
use plenum_services::core::{Core, Effect, Event, Settings, Snapshot, Write};

use super::{Happens, World};
use crate::check::Violation;
use crate::random::Random;

/// It.
pub struct Scheduler {
    /// Counts its processes.
    pub life: u64,
    core: Option<Core>,
    store: BTreeMap<String, Vec<u8>>,
    line: VecDeque<Effect>,
    writing: Option<Vec<Write>>,
    /// The stream of the master that has taken it in.
    pub stream: Option<u64>,
    ids: Random,
    /// The monotonic clock of this process.
    clock: u64,
    tick: Option<u64>,
    called_at: u64,
}

impl Scheduler {
    pub fn new(seed: u64) -> Self {
        Self {
            life: 0,
            core: None,
            store: BTreeMap::new(),
            line: VecDeque::new(),
            writing: None,
            stream: None,
            ids: Random::new(seed ^ 0x5eed),
            clock: 1_000,
            tick: None,
            called_at: 0,
        }
    }

    /// What it knows, while it lives.
    pub fn state(&self) -> Option<&Snapshot> {
        self.core.as_ref().map(Core::state)
    }

    /// What is durable.
    pub fn store(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.store
    }

    fn write(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put(key, value) => drop(self.store.insert(key, value)),
                Write::Delete(key) => drop(self.store.remove(&key)),
            }
        }
    }
}

impl World {
    fn clock(&self) -> Now {
        Now::new(Millis(self.scheduler.clock + self.now), Millis(1_750_000_000_000 + self.now))
    }

    pub fn scheduler_starts(&mut self) -> Result<(), Violation> {
        if self.scheduler.core.is_some() {
            return Ok(());
        }
        let entries: Vec<_> = self.scheduler.store.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.scheduler.clock = self.random.between(1_000, 10_000_000);
        let core = Core::load(Settings::default(), &entries, self.clock()).map_err(|e| e.to_string())?;
        self.scheduler.core = Some(core);
        self.scheduler.tick = None;
        self.later(5, Happens::Subscribes { life: self.scheduler.life });
        Ok(())
    }

    /// The process ends where it stands. What it was writing may be written or not.
    pub fn scheduler_dies(&mut self) {
        if self.scheduler.core.take().is_none() {
            return;
        }
        self.tell(|| "--- the scheduler dies".to_owned());
        self.done.crashes += 1;
        let was_written = self.random.chance(500);
        if let Some(writes) = self.scheduler.writing.take().filter(|_| was_written) {
            self.scheduler.write(writes);
        }
        self.scheduler.line.clear();
        self.scheduler.stream = None;
        self.scheduler.life += 1;
        self.master.stream = None;
        self.operator.unanswered();
        let pause = self.random.between(10, 8_000);
        self.later(pause, Happens::SchedulerStarts);
    }

    /// The line to the master breaks. It may take a while until that is noticed, and calls get lost meanwhile.
    pub fn hang_up(&mut self) {
        let Some(stream) = self.scheduler.stream else { return };
        self.tell(|| "--- the master's stream breaks".to_owned());
        self.master.stream = None;
        let after = if self.random.chance(500) { 0 } else { self.random.between(0, 40_000) };
        self.later(after, Happens::Notices { stream });
    }

    /// A dead stream is found out.
    pub fn notices(&mut self, stream: u64) {
        if self.scheduler.stream == Some(stream) {
            self.disconnected();
        }
    }

    pub fn disconnected(&mut self) {
        if self.scheduler.stream.take().is_some() {
            let life = self.scheduler.life;
            let after = self.random.delay();
            self.later(after, Happens::Told { life, stream: None, event: Box::new(Event::Disconnected) });
            let away = if self.stormy && self.random.chance(200) { 60_000 } else { 11 };
            let pause = self.random.between(10, away);
            self.later(after + pause, Happens::Subscribes { life });
        }
    }

    /// Takes an event in.
    pub fn told(&mut self, life: u64, stream: Option<u64>, event: Event) -> Result<(), Violation> {
        let stale = stream.is_some() && stream != self.scheduler.stream;
        if life != self.scheduler.life || stale {
            return Ok(());
        }
        let now = self.clock();
        let Some(core) = self.scheduler.core.as_mut() else { return Ok(()) };
        let asked_to_kill = matches!(&event, Event::Request(request)
            if matches!(request.kind, Kind::Kill(_) | Kind::Pod(PodChange::Kill { .. })));
        let before = core.state().clone();
        let effects = core.handle(event, now, &mut self.scheduler.ids);
        self.seen.decided(&before, core.state(), asked_to_kill)?;
        drop(before);
        self.scheduler.line.extend(effects);
        self.pump()?;
        self.wind();
        Ok(())
    }

    pub fn ticks(&mut self, life: u64, at: u64) -> Result<(), Violation> {
        if self.scheduler.tick == Some(at) {
            self.scheduler.tick = None;
        }
        self.told(life, None, Event::Tick)
    }

    fn wind(&mut self) {
        let Some(next) = self.scheduler.core.as_ref().and_then(Core::next_tick) else { return };
        let at = next.0.saturating_sub(self.scheduler.clock).max(self.now + 1);
        if self.scheduler.tick.is_none_or(|set| at < set) {
            self.scheduler.tick = Some(at);
            self.at(at, Happens::Tick { life: self.scheduler.life, at });
        }
    }

    pub fn stored(&mut self, life: u64) -> Result<(), Violation> {
        if life != self.scheduler.life {
            return Ok(());
        }
        if let Some(writes) = self.scheduler.writing.take() {
            self.scheduler.write(writes);
        }
        self.pump()
    }

    /// Carries effects out in order, up to the next that must be durable.
    fn pump(&mut self) -> Result<(), Violation> {
        while self.scheduler.writing.is_none() {
            let Some(effect) = self.scheduler.line.pop_front() else { return Ok(()) };
            match effect {
                Effect::Commit(writes) => {
                    self.tell(|| format!("  writes {}", keys(&writes)));
                    self.scheduler.writing = Some(writes);
                    // Now and then the store takes its time, and what follows waits.
                    let most = if self.stormy && self.random.chance(30) { 6_000 } else { 20 };
                    let after = self.random.between(1, most);
                    self.later(after, Happens::Stored { life: self.scheduler.life });
                }
                Effect::Reply { token, reply } => self.replied(token, &reply)?,
                Effect::Publish(_) => {}
                Effect::Probe(probe) => {
                    let answer = match self.serves(probe.instance.as_str()) {
                        true if self.random.chance(300) => Ok(Answer { status: 503, ..Answer::default() }),
                        true => Ok(Answer { status: 200, ..Answer::default() }),
                        false => Err("connection refused".to_owned()),
                    };
                    let (app, instance) = (probe.app, probe.instance);
                    let event = Box::new(Event::Probed(Box::new(Probed { app, instance, answer })));
                    let after = self.random.delay();
                    self.later(after, Happens::Told { life: self.scheduler.life, stream: None, event });
                }
                Effect::Measure(measure) => self.measure(*measure),
                call => self.call(call)?,
            }
        }
        Ok(())
    }

    /// What instances use: each has its own appetite, and some say nothing.
    fn measure(&mut self, measure: Measure) {
        let mut readings = Vec::new();
        for part in &measure.parts {
            if self.random.chance(150) {
                continue;
            }
            let last = part.instance.as_str().bytes().last().unwrap_or_default();
            let appetite = [0.02, 0.12, 0.6][usize::from(last) % 3];
            let at = self.now as f64 / 1000.0;
            let reading = Reading { cpu: Some((at * appetite, at)), ..Reading::default() };
            readings.push((part.instance.clone(), reading));
        }
        let Measure { app, asked, .. } = measure;
        let event = Box::new(Event::Measured(Box::new(Measured { app, asked, readings })));
        let after = self.random.delay();
        self.later(after, Happens::Told { life: self.scheduler.life, stream: None, event });
    }

    /// A call to the master. Some get lost on the way.
    fn call(&mut self, effect: Effect) -> Result<(), Violation> {
        if let Effect::Accept { launches, .. } = &effect {
            self.done.launches += launches.len() as u64;
            for launch in launches {
                self.seen.launches(launch.record.id.as_str(), &self.scheduler.store)?;
            }
        }
        self.tell(|| format!("  calls {}", short(&effect)));
        let (life, lost) = (self.scheduler.life, self.stormy && self.random.chance(20));
        match self.scheduler.stream.filter(|_| !lost) {
            Some(stream) => {
                let at = (self.now + self.random.delay()).max(self.scheduler.called_at);
                self.scheduler.called_at = at;
                self.at(at, Happens::Call { life, stream, effect: Box::new(effect) });
            }
            None => {
                self.call_fails(life);
                self.give_back(&effect);
            }
        }
        Ok(())
    }

    /// Offers of a call that got lost are given back, as long as the subscription lasts.
    fn give_back(&mut self, effect: &Effect) {
        let offers = match effect {
            Effect::Accept { offer, .. } => vec![offer.clone()],
            Effect::Decline { offers, .. } => offers.clone(),
            _ => return,
        };
        if let Some(stream) = self.scheduler.stream {
            let (life, effect) = (self.scheduler.life, Effect::Decline { offers, refuse: Millis(0) });
            self.later(1_000, Happens::Call { life, stream, effect: Box::new(effect) });
        }
    }

    pub fn call_fails(&mut self, life: u64) {
        self.later(2, Happens::Told { life, stream: None, event: Box::new(Event::CallFailed) });
    }

    /// Asks for something, if anybody is there to be asked.
    pub fn request(&mut self, request: Request) -> Result<bool, Violation> {
        if self.scheduler.core.is_none() {
            return Ok(false);
        }
        self.told(self.scheduler.life, None, Event::Request(Box::new(request)))?;
        Ok(true)
    }
}

fn keys(writes: &[Write]) -> String {
    let each = writes.iter().map(|write| match write {
        Write::Put(key, _) => format!("+{key}"),
        Write::Delete(key) => format!("-{key}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Accept { offer, launches, .. } => {
            let ids: Vec<&str> = launches.iter().map(|l| l.record.id.as_str()).collect();
            format!("ACCEPT {offer}: {}", ids.join(" "))
        }
        other => format!("{other:?}"),
    }
}
