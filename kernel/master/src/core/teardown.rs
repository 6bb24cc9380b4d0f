//! The end of a framework: TEARDOWN by itself or by an operator, or its failover timeout.

use std::sync::Arc;

use plenum_api::internal::{self, master_message::Kind};
use plenum_api::mesos::{TaskState, task_status::Reason};

use super::event::{Answer, ReplyId};
use super::lookup::framework_id;
use super::registry::{self, RemovedRecord};
use super::state::{FrameworkKey, Task, is_terminal};
use super::subscribe::refuse;
use super::{Effect, Master, Pending, Turn};

impl Master {
    /// TEARDOWN by the framework itself; answered when the removal is stored.
    pub(super) fn teardown_call(&mut self, t: &mut Turn<'_>, reply: ReplyId, key: FrameworkKey) {
        let principal = self.frameworks.get(&key).map(|f| f.principal.to_string()).unwrap_or_default();
        self.remove_framework(t, key, Some(reply), principal);
    }

    /// Stores the removal. Until that is done the framework is as it was, except that nothing new is begun with it.
    pub(super) fn remove_framework(
        &mut self,
        t: &mut Turn<'_>,
        key: FrameworkKey,
        reply: Option<ReplyId>,
        principal: String,
    ) {
        let Some(framework) = self.frameworks.get_mut(&key) else { return };
        if framework.leaving {
            let waiting = self.pending.values_mut().find_map(|pending| match pending {
                Pending::Teardown(replies, framework, _) if *framework == key => Some(replies),
                _ => None,
            });
            if let Some(replies) = waiting {
                replies.extend(reply);
            }
            return;
        }
        framework.leaving = true;
        self.ledger.set_framework_active(&framework.id, false);
        let record =
            RemovedRecord { name: framework.info.name.clone(), at: t.now.wall, principal: principal.clone() };
        let mut ops =
            vec![registry::delete("framework", &framework.id), registry::put_removed(&framework.id, &record)];
        if self.removed.len() >= self.settings.removed_frameworks.max(1)
            && let Some((_, oldest)) = self.removed.iter().map(|(id, at)| (*at, Arc::clone(id))).min()
        {
            self.removed.remove(&oldest);
            ops.push(registry::delete("removed", &oldest));
        }
        self.commit(t, ops, Pending::Teardown(reply.into_iter().collect(), key, principal));
    }

    pub(super) fn teardown_committed(
        &mut self,
        t: &mut Turn<'_>,
        replies: &[ReplyId],
        key: FrameworkKey,
        principal: &str,
        result: Result<(), String>,
    ) {
        if let Err(reason) = result {
            if let Some(framework) = self.frameworks.get_mut(&key) {
                framework.leaving = false;
                self.ledger.set_framework_active(&framework.id, framework.stream.is_some());
            }
            for reply in replies {
                t.reply(
                    *reply,
                    Answer::Refused(503, format!("the removal could not be stored ({reason}): try again")),
                );
            }
            // A framework whose time ran out is tried again.
            if replies.is_empty() && self.frameworks.get(&key).is_some_and(|f| !f.connected()) {
                let at = t.now.mono + self.settings.ping;
                if let Some(framework) = self.frameworks.get_mut(&key) {
                    framework.failover_at = Some(at);
                }
                self.timers.set(at, super::timers::Timer::Failover(key));
            }
            return;
        }
        for reply in replies {
            t.reply(*reply, Answer::Accepted);
        }
        self.finish_teardown(t, key, principal);
    }

    fn finish_teardown(&mut self, t: &mut Turn<'_>, key: FrameworkKey, principal: &str) {
        self.drop_offers_of_framework(t, key, true);
        for agent in self.agents_of(key) {
            let Some(id) = self.frameworks.get(&key).map(|f| framework_id(&f.id)) else { return };
            self.tell(t, agent, Kind::ShutdownFramework(internal::ShutdownFramework { framework_id: id }));
        }
        let killed: Vec<Arc<Task>> = self.kill_in_view(t, key);
        let Some(mut framework) = self.frameworks.remove(&key) else { return };
        t.log(format!("framework {} ({}) is removed by {principal}", framework.id, framework.info.name));
        self.framework_keys.remove(&framework.id);
        if let Some(waiting) = framework.subscribing.take() {
            self.streams.remove(&waiting);
            refuse(t, waiting, "Framework has been removed".into());
        }
        if let Some(stream) = framework.stream.take() {
            self.streams.remove(&stream.id);
            t.out.push(Effect::CloseStream { stream: stream.id });
        }
        framework.tasks.clear();
        for task in killed {
            framework.complete(task, self.settings.completed_tasks);
        }
        self.removed.insert(Arc::clone(&framework.id), t.now.wall);
        self.ledger.remove_framework(&framework.id);
        self.publish_framework_removed(t, &framework);
        if self.settings.completed_frameworks > 0 {
            let view = super::view::FrameworkView::of(&framework, Some(t.now.wall));
            self.completed.push_back(Arc::new(view));
            while self.completed.len() > self.settings.completed_frameworks {
                self.completed.pop_front();
            }
        }
        self.allocate_soon(t);
        self.touch();
    }

    /// Live tasks as they will be shown: killed. The records stay with their agents, out of sight, until the resources are really free.
    fn kill_in_view(&mut self, t: &mut Turn<'_>, key: FrameworkKey) -> Vec<Arc<Task>> {
        let Some(framework) = self.frameworks.get(&key) else { return Vec::new() };
        let mut keys: Vec<u32> = framework.tasks.values().copied().collect();
        keys.sort_unstable();
        let mut shown = Vec::with_capacity(keys.len());
        for task_key in keys {
            let Some(task) = self.tasks.get(task_key).cloned() else { continue };
            let mut ended = Task::clone(&task);
            if is_terminal(task.state) {
                // Its agent has nothing of it any more but an unacknowledged update.
                self.forget_task(task_key);
            } else {
                let message = "Framework is removed";
                let status = self.master_status(
                    t.now,
                    &task,
                    TaskState::TaskKilled,
                    Reason::FrameworkRemoved,
                    message,
                );
                ended.state = TaskState::TaskKilled;
                ended.push_status(&status);
                self.count_end(TaskState::TaskKilled);
                self.publish_task_updated(t, &ended, &status);
            }
            ended.held = false;
            shown.push(Arc::new(ended));
        }
        shown
    }
}
