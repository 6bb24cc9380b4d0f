//! What must always hold, looked at from outside: from messages, disks and containers, never from a core's own books.

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::mesos::{TaskState, TaskStatus};
use plenum_api::resources::Resources;

/// A promise that was broken.
pub type Violation = String;

/// What the outside has seen so far.
#[derive(Default)]
pub struct Seen {
    /// Offers of the present master: id to agent, framework's stream, resources.
    offers: BTreeMap<String, (String, u64, Resources)>,
    /// Every task id that was ever started, and on which agent.
    started: BTreeMap<String, usize>,
    /// Tasks whose end an agent told, by framework and task.
    ended: BTreeSet<(String, String)>,
    /// The last state that each framework was told by an agent.
    told: BTreeMap<String, TaskState>,
}

/// Whether a state is an end.
pub fn terminal(state: TaskState) -> bool {
    plenum_master::core::is_terminal(state)
}

impl Seen {
    /// A new master knows of no offers of the old one.
    pub fn new_master(&mut self) {
        self.offers.clear();
    }

    /// A framework's stream is closed: its offers are void.
    pub fn stream_closed(&mut self, stream: u64) {
        self.offers.retain(|_, (_, owner, _)| *owner != stream);
    }

    /// An offer was accepted, declined or rescinded.
    pub fn offer_gone(&mut self, id: &str) {
        self.offers.remove(id);
    }

    /// An offer goes out. `used` is what really runs on the agent, `total` what it has.
    pub fn offered(
        &mut self,
        id: &str,
        agent: &str,
        stream: u64,
        resources: &Resources,
        used: &Resources,
        total: &Resources,
    ) -> Result<(), Violation> {
        let mut sum = used.clone();
        sum += resources.clone();
        for (_, _, other) in self.offers.values().filter(|(of, _, _)| of == agent) {
            sum += other.clone();
        }
        if sum.cpus() > total.cpus() || sum.mem() > total.mem() || sum.disk() > total.disk() {
            return Err(format!(
                "double offer: agent {agent} has {total}, but {sum} of it is offered or runs once offer {id} is out"
            ));
        }
        self.offers.insert(id.to_owned(), (agent.to_owned(), stream, resources.clone()));
        Ok(())
    }

    /// An agent starts a container for a task.
    pub fn starts(&mut self, task: &str, agent: usize) -> Result<(), Violation> {
        match self.started.insert(task.to_owned(), agent) {
            None => Ok(()),
            Some(before) => {
                Err(format!("launched twice: task {task} on agent {before}, then on agent {agent}"))
            }
        }
    }

    /// A framework is told a status. What an agent tells (with a uuid) never goes back from an end.
    pub fn told(&mut self, status: &TaskStatus) -> Result<(), Violation> {
        if status.uuid.is_none() {
            return Ok(());
        }
        let (task, state) = (status.task_id.value.clone(), status.state());
        if let Some(before) = self.told.get(&task)
            && terminal(*before)
            && *before != state
        {
            return Err(format!("task {task} was told {before:?}, then {state:?}"));
        }
        self.told.insert(task, state);
        Ok(())
    }

    /// The end of a task's container was written down by its agent, so that its framework must learn it.
    pub fn ended(&mut self, framework: &str, task: &str) {
        self.ended.insert((framework.to_owned(), task.to_owned()));
    }

    /// After a long quiet time: every end has been told to frameworks that are still there.
    pub fn settled(&self, living: &BTreeSet<String>) -> Result<(), Violation> {
        for (framework, task) in &self.ended {
            if living.contains(framework) && !self.told.get(task).is_some_and(|state| terminal(*state)) {
                return Err(format!(
                    "lost update: task {task} has ended, and its framework {framework} was never told by the agent (last told {:?})",
                    self.told.get(task)
                ));
            }
        }
        Ok(())
    }

    /// How many tasks were started.
    pub fn count(&self) -> u64 {
        self.started.len() as u64
    }
}
