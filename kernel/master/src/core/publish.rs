//! Events for the operator streams. Nothing is built while nobody listens.

use std::sync::Arc;

use plenum_api::master::{self, event};
use plenum_api::mesos;

use super::event::Effect;
use super::lookup::{agent_id, framework_id};
use super::state::{AgentKey, Framework, FrameworkKey, Task, TaskKey};
use super::view::{self, FrameworkView};
use super::{Master, Turn};

fn publish(t: &mut Turn<'_>, kind: event::Type, fill: impl FnOnce(&mut master::Event)) {
    let mut event = master::Event { r#type: Some(kind as i32), ..Default::default() };
    fill(&mut event);
    t.out.push(Effect::Publish(Box::new(event)));
}

impl Master {
    pub(super) fn publish_task_added(&self, t: &mut Turn<'_>, key: TaskKey) {
        if self.watched
            && let Some(task) = self.tasks.get(key)
        {
            let task = task.describe();
            publish(t, event::Type::TaskAdded, |e| e.task_added = Some(event::TaskAdded { task }));
        }
    }

    pub(super) fn publish_task_updated(&self, t: &mut Turn<'_>, task: &Task, status: &mesos::TaskStatus) {
        if !self.watched {
            return;
        }
        let updated = event::TaskUpdated {
            framework_id: framework_id(&task.framework_id),
            status: status.clone(),
            state: task.state as i32,
        };
        publish(t, event::Type::TaskUpdated, |e| e.task_updated = Some(updated));
    }

    pub(super) fn publish_agent_added(&self, t: &mut Turn<'_>, key: AgentKey) {
        if self.watched
            && let Some(agent) = self.agents.get(key)
        {
            let agent = view::agent_message(
                agent,
                &plenum_api::resources::Resources::new(),
                &plenum_api::resources::Resources::new(),
            );
            publish(t, event::Type::AgentAdded, |e| e.agent_added = Some(event::AgentAdded { agent }));
        }
    }

    pub(super) fn publish_agent_removed(&self, t: &mut Turn<'_>, id: &str) {
        if self.watched {
            let agent_id = agent_id(id);
            publish(t, event::Type::AgentRemoved, |e| {
                e.agent_removed = Some(event::AgentRemoved { agent_id })
            });
        }
    }

    /// A framework is new, or its description or connection changed.
    pub(super) fn framework_changed(&mut self, t: &mut Turn<'_>, key: FrameworkKey) {
        self.touch_framework(key);
        if !self.watched {
            return;
        }
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        let first = !std::mem::replace(&mut framework.announced, true);
        let message = FrameworkView::of(framework, None).message(&[], &[]);
        if first {
            publish(t, event::Type::FrameworkAdded, |e| {
                e.framework_added = Some(event::FrameworkAdded { framework: message })
            });
        } else {
            publish(t, event::Type::FrameworkUpdated, |e| {
                e.framework_updated = Some(event::FrameworkUpdated { framework: message })
            });
        }
    }

    pub(super) fn publish_framework_removed(&self, t: &mut Turn<'_>, framework: &Framework) {
        if self.watched {
            let framework_info = Arc::unwrap_or_clone(Arc::clone(&framework.info));
            publish(t, event::Type::FrameworkRemoved, |e| {
                e.framework_removed = Some(event::FrameworkRemoved { framework_info })
            });
        }
    }
}
