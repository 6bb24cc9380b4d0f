//! Executors: what is held for them, their messages, their end, SHUTDOWN.

use std::sync::Arc;

use plenum_api::internal::{self, ExecutorExited, ExecutorMessage, master_message::Kind, register};
use plenum_api::resources::Resources;
use plenum_api::scheduler::{self, call};

use super::lookup::{agent_id, event, framework_id};
use super::state::{AgentKey, Executor, FrameworkKey};
use super::{Master, Turn};

impl Master {
    /// Replaces what is known of an agent's executors by what the agent says.
    pub(super) fn take_executors(&mut self, agent: AgentKey, executors: Vec<register::Executor>) {
        let old =
            self.agents.get_mut(agent).map(|agent| std::mem::take(&mut agent.executors)).unwrap_or_default();
        let Some(agent_name) = self.agents.get(agent).map(|agent| Arc::clone(&agent.id)) else { return };
        for executor in old.values() {
            self.ledger.release(&executor.framework_id, &agent_name, &executor.resources);
        }
        for executor in executors {
            let Some(framework) = self.framework_key(&executor.framework_id.value) else { continue };
            let framework_id: Arc<str> = executor.framework_id.value.as_str().into();
            let id: Arc<str> = executor.executor_info.executor_id.value.as_str().into();
            let resources = if executor.resources.is_empty() {
                executor.executor_info.resources.clone()
            } else {
                executor.resources
            };
            // Checked with the registration.
            let resources = Resources::from_mesos(&resources).unwrap_or_default();
            self.ledger.hold(&framework_id, &agent_name, &resources);
            let record = Executor {
                framework_id,
                info: Arc::new(executor.executor_info),
                resources: Arc::new(resources),
            };
            if let Some(agent) = self.agents.get_mut(agent) {
                agent.executors.insert((framework, id), record);
            }
        }
    }

    /// An executor has ended: its resources are free and its framework is told.
    pub(super) fn executor_exited(&mut self, t: &mut Turn<'_>, agent: AgentKey, exited: &ExecutorExited) {
        self.metrics.count("master/messages_exited_executor");
        let id: Arc<str> = exited.executor_id.value.as_str().into();
        let Some(framework) = self.executor_owner(agent, &exited.framework_id.value, &id) else { return };
        self.release_executor(agent, framework, &id);
        self.touch_framework(framework);
        let mut failure = event(scheduler::event::Type::Failure);
        failure.failure = Some(scheduler::event::Failure {
            agent_id: self.agents.get(agent).map(|agent| agent_id(&agent.id)),
            executor_id: Some(exited.executor_id.clone()),
            status: exited.status,
        });
        self.send(t, framework, failure);
        self.allocate_soon(t);
    }

    /// Whose executor it is; a dead framework's number is found through the agent's records.
    fn executor_owner(&self, agent: AgentKey, framework: &str, executor: &Arc<str>) -> Option<FrameworkKey> {
        let agent = self.agents.get(agent)?;
        if let Some(key) = self.framework_key(framework) {
            return agent.executors.contains_key(&(key, Arc::clone(executor))).then_some(key);
        }
        let dead = |key: &FrameworkKey| !self.frameworks.contains_key(key);
        agent.executors.keys().find(|(key, id)| id == executor && dead(key)).map(|(key, _)| *key)
    }

    /// Gives back what an executor held, once.
    pub(super) fn release_executor(&mut self, agent: AgentKey, framework: FrameworkKey, id: &Arc<str>) {
        let executor =
            self.agents.get_mut(agent).and_then(|agent| agent.executors.remove(&(framework, Arc::clone(id))));
        if let Some(executor) = executor
            && let Some(agent) = self.agents.get(agent)
        {
            self.ledger.release(&executor.framework_id, &agent.id, &executor.resources);
            self.touch();
        }
    }

    /// Executor to framework; lost when the framework is away.
    pub(super) fn executor_message(&mut self, t: &mut Turn<'_>, agent: AgentKey, message: ExecutorMessage) {
        self.metrics.count("master/messages_executor_to_framework");
        let Some(framework) = self.framework_key(&message.framework_id.value) else { return };
        let Some(agent) = self.agents.get(agent) else { return };
        let mut event = event(scheduler::event::Type::Message);
        event.message = Some(scheduler::event::Message {
            agent_id: agent_id(&agent.id),
            executor_id: message.executor_id,
            data: message.data,
        });
        self.send(t, framework, event);
    }

    /// MESSAGE: framework to executor; lost when the agent is away.
    pub(super) fn framework_message(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        message: call::Message,
    ) {
        self.metrics.count("master/messages_framework_to_executor");
        let Some(id) = self.frameworks.get(&framework).map(|f| framework_id(&f.id)) else { return };
        let Some((agent, _)) = self.agent_by_id(&message.agent_id.value) else { return };
        let message = internal::FrameworkMessage {
            framework_id: id,
            executor_id: message.executor_id,
            data: message.data,
        };
        self.tell(t, agent, Kind::FrameworkMessage(message));
    }

    /// SHUTDOWN: an executor is to end, with grace.
    pub(super) fn shutdown_executor(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        shutdown: call::Shutdown,
    ) {
        let Some(id) = self.frameworks.get(&framework).map(|f| framework_id(&f.id)) else { return };
        let Some((agent, _)) = self.agent_by_id(&shutdown.agent_id.value) else { return };
        let message = internal::ShutdownExecutor { framework_id: id, executor_id: shutdown.executor_id };
        self.tell(t, agent, Kind::ShutdownExecutor(message));
    }
}
