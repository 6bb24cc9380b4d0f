//! The supervisor's decisions, pure: what happened and the time go in, what to do comes out. It starts every role, holds
//! back no role for another (each waits for its own peers), restarts what dies, and gives up only while raising.
//!
//! ```text
//!            Start            Ready              Exited
//!   Waiting ───────▶ Starting ───────▶ Running ─────────▶ Backoff ──(time)──▶ Starting
//!                       │ deadline passed: killed; while raising, too many attempts lower everything
//!   any state with a process ──Stop──▶ Stopping ──Exited──▶ Stopped
//! ```

use std::collections::BTreeMap;

/// A role by its place in the table of roles.
pub type RoleIndex = usize;

/// What the supervisor learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin: start whatever was not adopted.
    Start,
    /// A process of an earlier supervisor was found alive.
    Adopted {
        /// Whose process.
        role: RoleIndex,
    },
    /// The role says that it serves.
    Ready {
        /// Which role.
        role: RoleIndex,
    },
    /// The role's process has ended, or could not be started.
    Exited {
        /// Which role.
        role: RoleIndex,
        /// How, in words.
        how: String,
    },
    /// Stop everything.
    Stop,
    /// Time has passed.
    Tick,
}

/// What the supervisor wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start the role's process.
    Spawn(RoleIndex),
    /// Ask the role's process to end (SIGTERM).
    Terminate(RoleIndex),
    /// End the role's process (SIGKILL).
    Kill(RoleIndex),
    /// A role changed its condition: tell whoever watches.
    Changed(RoleIndex),
    /// Every role has been ready once.
    Raised,
    /// Everything has stopped; the reason is what made it stop.
    Lowered(Outcome),
}

/// Why everything stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked for.
    Asked,
    /// A role could not be started.
    Failed {
        /// Which role.
        role: RoleIndex,
        /// Why, in words.
        why: String,
    },
}

/// How patient the supervisor is. All times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the start of a process until it must be ready.
    pub start: u64,
    /// Attempts for each role while raising.
    pub attempts: u32,
    /// From SIGTERM until SIGKILL.
    pub stop: u64,
    /// The first pause before a restart; doubles with each early death.
    pub pause: u64,
    /// The longest pause before a restart.
    pub longest_pause: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { start: 30_000, attempts: 3, stop: 10_000, pause: 50, longest_pause: 2_000 }
    }
}

/// A running time that proves a process sound: the next pause starts from the beginning again.
const SOUND: u64 = 10_000;

/// The condition of one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Not started yet.
    Waiting,
    /// Started, not ready.
    Starting {
        /// When it must be ready.
        deadline: u64,
    },
    /// Ready.
    Running {
        /// Since when.
        since: u64,
    },
    /// Dead, to be started again.
    Backoff {
        /// When.
        until: u64,
    },
    /// Asked to end.
    Stopping {
        /// When it is killed.
        deadline: u64,
    },
    /// Ended for good.
    Stopped,
}

impl Condition {
    /// A word for people and for `-o json`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Backoff { .. } => "restarting",
            Self::Stopping { .. } => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// One role as the supervisor sees it.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its condition now.
    pub condition: Condition,
    /// How often its process has been restarted.
    pub restarts: u32,
    /// How its process last ended.
    pub last_exit: Option<String>,
    early_deaths: u32,
    was_ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Raising,
    Up,
    Lowering(Outcome),
    Down,
}

/// The whole of the supervisor's knowledge.
#[derive(Clone, Debug)]
pub struct Supervisor {
    roles: BTreeMap<RoleIndex, Role>,
    phase: Phase,
    patience: Patience,
}

impl Supervisor {
    /// A supervisor of roles `0..count`.
    pub fn new(count: usize, patience: Patience) -> Self {
        let role = Role {
            condition: Condition::Waiting,
            restarts: 0,
            last_exit: None,
            early_deaths: 0,
            was_ready: false,
        };
        Self {
            roles: (0..count).map(|index| (index, role.clone())).collect(),
            phase: Phase::Raising,
            patience,
        }
    }

    /// The roles in their order.
    pub fn roles(&self) -> impl Iterator<Item = (RoleIndex, &Role)> {
        self.roles.iter().map(|(index, role)| (*index, role))
    }

    /// Whether every role has been ready once and nothing is being stopped.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// When the supervisor next wants [`Event::Tick`], in milliseconds of the monotonic clock.
    pub fn wakes_at(&self) -> Option<u64> {
        self.roles
            .values()
            .filter_map(|role| match role.condition {
                Condition::Starting { deadline } | Condition::Stopping { deadline } => Some(deadline),
                Condition::Backoff { until } => Some(until),
                _ => None,
            })
            .min()
    }

    /// Takes in one event at `now` (milliseconds of the monotonic clock) and answers with what is to be done, in order.
    pub fn handle(&mut self, event: Event, now: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Start => self.start_waiting(now, &mut effects),
            Event::Adopted { role } | Event::Ready { role } => self.ready(role, now, &mut effects),
            Event::Exited { role, how } => self.exited(role, how, now, &mut effects),
            Event::Stop => self.lower(Outcome::Asked, now, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.settle(&mut effects);
        effects
    }

    fn start_waiting(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let waiting: Vec<_> = self
            .roles()
            .filter(|(_, role)| role.condition == Condition::Waiting)
            .map(|(index, _)| index)
            .collect();
        for index in waiting {
            self.spawn(index, now, effects);
        }
    }

    fn spawn(&mut self, index: RoleIndex, now: u64, effects: &mut Vec<Effect>) {
        if let Some(role) = self.roles.get_mut(&index) {
            role.condition = Condition::Starting { deadline: now.saturating_add(self.patience.start) };
            effects.extend([Effect::Spawn(index), Effect::Changed(index)]);
        }
    }

    fn ready(&mut self, index: RoleIndex, now: u64, effects: &mut Vec<Effect>) {
        let Some(role) = self.roles.get_mut(&index) else { return };
        if matches!(role.condition, Condition::Starting { .. } | Condition::Waiting) {
            role.condition = Condition::Running { since: now };
            role.was_ready = true;
            effects.push(Effect::Changed(index));
        }
    }

    fn exited(&mut self, index: RoleIndex, how: String, now: u64, effects: &mut Vec<Effect>) {
        let (patience, raising) = (self.patience, self.phase == Phase::Raising);
        let lowering = matches!(self.phase, Phase::Lowering(_) | Phase::Down);
        let Some(role) = self.roles.get_mut(&index) else { return };
        let sound =
            matches!(role.condition, Condition::Running { since } if now.saturating_sub(since) >= SOUND);
        role.early_deaths = if sound { 1 } else { role.early_deaths.saturating_add(1) };
        role.last_exit = Some(how.clone());
        effects.push(Effect::Changed(index));
        if lowering {
            role.condition = Condition::Stopped;
            return;
        }
        if raising && !role.was_ready && role.early_deaths >= patience.attempts {
            role.condition = Condition::Stopped;
            self.lower(Outcome::Failed { role: index, why: how }, now, effects);
            return;
        }
        role.restarts = role.restarts.saturating_add(1);
        let doubled = patience.pause.saturating_mul(1 << (role.early_deaths - 1).min(20));
        role.condition =
            Condition::Backoff { until: now.saturating_add(doubled.min(patience.longest_pause)) };
    }

    fn lower(&mut self, outcome: Outcome, now: u64, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Lowering(_) | Phase::Down) {
            return;
        }
        self.phase = Phase::Lowering(outcome);
        let deadline = now.saturating_add(self.patience.stop);
        // The front door first, the store's owners last: the table's order read backwards.
        for (index, role) in self.roles.iter_mut().rev() {
            match role.condition {
                Condition::Starting { .. } | Condition::Running { .. } => {
                    role.condition = Condition::Stopping { deadline };
                    effects.extend([Effect::Terminate(*index), Effect::Changed(*index)]);
                }
                Condition::Waiting | Condition::Backoff { .. } => role.condition = Condition::Stopped,
                Condition::Stopping { .. } | Condition::Stopped => {}
            }
        }
    }

    fn tick(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let due: Vec<_> = self.roles().map(|(index, role)| (index, role.condition.clone())).collect();
        for (index, condition) in due {
            match condition {
                Condition::Backoff { until } if until <= now => self.spawn(index, now, effects),
                // The death that follows is what counts the attempt.
                Condition::Starting { deadline } if deadline <= now => {
                    self.postpone(index, now);
                    effects.push(Effect::Kill(index));
                }
                Condition::Stopping { deadline } if deadline <= now => {
                    self.postpone(index, now);
                    effects.push(Effect::Kill(index));
                }
                _ => {}
            }
        }
    }

    /// Moves a passed deadline on, so that a kill is repeated rather than spun on.
    fn postpone(&mut self, index: RoleIndex, now: u64) {
        let next = now.saturating_add(1_000);
        if let Some(role) = self.roles.get_mut(&index)
            && let Condition::Starting { deadline } | Condition::Stopping { deadline } = &mut role.condition
        {
            *deadline = next;
        }
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        let all = |wanted: fn(&Role) -> bool| self.roles.values().all(wanted);
        if self.phase == Phase::Raising && all(|role| role.was_ready) {
            self.phase = Phase::Up;
            effects.push(Effect::Raised);
        } else if let Phase::Lowering(outcome) = &self.phase
            && all(|role| role.condition == Condition::Stopped)
        {
            effects.push(Effect::Lowered(outcome.clone()));
            self.phase = Phase::Down;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience { start: 1000, attempts: 2, stop: 500, pause: 50, longest_pause: 200 }
    }

    fn exited(role: RoleIndex) -> Event {
        Event::Exited { role, how: "exit status 1".into() }
    }

    fn raised() -> Supervisor {
        let mut supervisor = Supervisor::new(2, patience());
        supervisor.handle(Event::Start, 0);
        supervisor.handle(Event::Ready { role: 0 }, 10);
        assert_eq!(supervisor.handle(Event::Ready { role: 1 }, 20), [Effect::Changed(1), Effect::Raised]);
        supervisor
    }

    #[test]
    fn raises_restarts_and_lowers() {
        let mut supervisor = raised();
        assert_eq!(supervisor.handle(exited(0), 30), [Effect::Changed(0)]);
        assert_eq!(supervisor.wakes_at(), Some(80));
        assert_eq!(supervisor.handle(Event::Tick, 79), []);
        assert_eq!(supervisor.handle(Event::Tick, 80), [Effect::Spawn(0), Effect::Changed(0)]);
        assert_eq!(
            supervisor.handle(Event::Stop, 90),
            [Effect::Terminate(1), Effect::Changed(1), Effect::Terminate(0), Effect::Changed(0)]
        );
        assert_eq!(supervisor.handle(Event::Stop, 91), []);
        assert_eq!(supervisor.handle(exited(0), 100), [Effect::Changed(0)]);
        assert_eq!(supervisor.handle(Event::Tick, 590), [Effect::Kill(1)]);
        assert_eq!(supervisor.handle(exited(1), 600), [Effect::Changed(1), Effect::Lowered(Outcome::Asked)]);
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_a_sound_run_resets_it() {
        let mut supervisor = raised();
        let mut now = 100;
        for pause in [50, 100, 200, 200] {
            supervisor.handle(exited(0), now);
            assert_eq!(supervisor.wakes_at(), Some(now + pause));
            now += pause;
            supervisor.handle(Event::Tick, now);
            supervisor.handle(Event::Ready { role: 0 }, now);
        }
        now += SOUND;
        supervisor.handle(exited(0), now);
        assert_eq!(supervisor.wakes_at(), Some(now + 50));
    }

    #[test]
    fn a_role_that_cannot_start_lowers_everything() {
        let mut supervisor = Supervisor::new(2, patience());
        supervisor.handle(Event::Start, 0);
        supervisor.handle(Event::Ready { role: 0 }, 1);
        // Not ready in time: killed, and the death counts.
        assert_eq!(supervisor.handle(Event::Tick, 1000), [Effect::Kill(1)]);
        assert_eq!(supervisor.handle(Event::Tick, 1001), []);
        supervisor.handle(exited(1), 1002);
        supervisor.handle(Event::Tick, 1052);
        assert_eq!(
            supervisor.handle(exited(1), 1060),
            [Effect::Changed(1), Effect::Terminate(0), Effect::Changed(0)]
        );
        let failed = Outcome::Failed { role: 1, why: "exit status 1".into() };
        assert_eq!(supervisor.handle(exited(0), 1070), [Effect::Changed(0), Effect::Lowered(failed)]);
    }

    #[test]
    fn adopted_processes_are_not_started_again() {
        let mut supervisor = Supervisor::new(2, patience());
        supervisor.handle(Event::Adopted { role: 1 }, 0);
        assert_eq!(supervisor.handle(Event::Start, 0), [Effect::Spawn(0), Effect::Changed(0)]);
        assert_eq!(supervisor.handle(Event::Ready { role: 0 }, 5), [Effect::Changed(0), Effect::Raised]);
    }
}
