//! KILL, and the dispatch of all calls of a subscribed framework.

use std::sync::Arc;

use plenum_api::internal::{self, master_message::Kind};
use plenum_api::scheduler::{self, Call, call};

use super::event::{Answer, Caller, ReplyId};
use super::lookup::{framework_id, task_id};
use super::state::FrameworkKey;
use super::{Master, Turn, validate};

impl Master {
    /// A call of a framework. It is answered once it is carried out, or once what it changes is stored.
    pub(super) fn scheduler_call(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        stream_id: Option<&str>,
        call: Call,
        caller: &Caller,
    ) {
        match self.admit_call(&call, stream_id, caller) {
            Ok(framework) => self.dispatch(t, reply, framework, call),
            Err(answer) => {
                self.metrics.count("master/invalid_scheduler_calls");
                t.reply(reply, answer);
            }
        }
    }

    /// Whether this caller may make this call on this stream.
    fn admit_call(
        &self,
        call: &Call,
        stream_id: Option<&str>,
        caller: &Caller,
    ) -> Result<FrameworkKey, Answer> {
        validate::call(call, caller)
            .map_err(|reason| Answer::bad(format!("Failed to validate scheduler::Call: {reason}")))?;
        let id = call.framework_id.as_ref().map(|id| id.value.as_str()).unwrap_or_default();
        let key = self.framework_key(id).ok_or_else(|| Answer::bad("Framework cannot be found"))?;
        let framework = self.frameworks.get(&key).ok_or_else(|| Answer::bad("Framework cannot be found"))?;
        if caller.authenticated && framework.principal != caller.uid {
            return Err(Answer::bad(format!(
                "Authenticated principal '{}' does not match the principal that subscribed the framework",
                caller.uid
            )));
        }
        let Some(stream) = &framework.stream else {
            return Err(Answer::Refused(403, "Framework is not subscribed".into()));
        };
        match stream_id {
            None => Err(Answer::bad("All non-subscribe calls should include the 'Mesos-Stream-Id' header")),
            Some(given) if *given != *stream.header => Err(Answer::bad(format!(
                "The stream ID '{given}' included in this request didn't match the stream ID currently associated with framework ID {id}"
            ))),
            Some(_) => Ok(key),
        }
    }

    fn dispatch(&mut self, t: &mut Turn<'_>, reply: ReplyId, key: FrameworkKey, call: Call) {
        use call::Type;
        let kind = call.r#type.and_then(|kind| Type::try_from(kind).ok()).unwrap_or(Type::Unknown);
        match kind {
            // These answer by themselves.
            Type::Teardown => return self.teardown_call(t, reply, key),
            Type::UpdateFramework => {
                if let Some(update) = call.update_framework {
                    self.update_framework(t, reply, key, update);
                }
                return;
            }
            Type::ReconcileOperations => {
                let operations = call.reconcile_operations.map(|r| r.operations).unwrap_or_default();
                return self.reconcile_operations(t, reply, key, operations);
            }
            Type::Accept => {
                if let Some(accept) = call.accept {
                    self.accept(t, key, accept);
                }
            }
            Type::Decline => {
                if let Some(decline) = call.decline {
                    self.decline(t, key, &decline);
                }
            }
            Type::Revive => self.revive(t, key, &call.revive.map(|r| r.roles).unwrap_or_default()),
            Type::Suppress => self.suppress(key, &call.suppress.map(|s| s.roles).unwrap_or_default()),
            Type::Kill => {
                if let Some(kill) = call.kill {
                    self.kill(t, key, kill);
                }
            }
            Type::Shutdown => {
                if let Some(shutdown) = call.shutdown {
                    self.shutdown_executor(t, key, shutdown);
                }
            }
            Type::Acknowledge => {
                if let Some(acknowledge) = call.acknowledge {
                    self.acknowledge(t, key, acknowledge);
                }
            }
            Type::AcknowledgeOperationStatus => {
                if let Some(acknowledge) = call.acknowledge_operation_status {
                    self.acknowledge_operation(t, key, acknowledge);
                }
            }
            Type::Reconcile => self.reconcile(t, key, call.reconcile.map(|r| r.tasks).unwrap_or_default()),
            Type::Message => {
                if let Some(message) = call.message {
                    self.framework_message(t, key, message);
                }
            }
            // Taken and, as in Mesos' own allocator, without consequence.
            Type::Request | Type::AcceptInverseOffers | Type::DeclineInverseOffers => {}
            Type::Subscribe | Type::Unknown => {
                t.reply(reply, Answer::Refused(501, "this call is not known here".into()));
                return;
            }
        }
        t.reply(reply, Answer::Accepted);
    }

    /// KILL. An unknown task is reconciled; one whose agent is away is killed when the agent is back.
    fn kill(&mut self, t: &mut Turn<'_>, framework: FrameworkKey, kill: call::Kill) {
        self.metrics.count("master/messages_kill_task");
        let Some((key, task)) = self.task_of(framework, &kill.task_id.value) else {
            let asked = scheduler::call::reconcile::Task { task_id: kill.task_id, agent_id: kill.agent_id };
            self.reconcile(t, framework, vec![asked]);
            return;
        };
        let task = Arc::clone(task);
        if kill.agent_id.is_some_and(|id| *id.value != *task.agent_id) {
            t.warn(format!("a kill of task {} names another agent than the task's and is ignored", task.id));
            return;
        }
        if super::is_terminal(task.state) {
            return;
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.kill = Some(kill.kill_policy);
        }
        let message = internal::KillTask {
            framework_id: framework_id(&task.framework_id),
            task_id: task_id(&task.id),
            kill_policy: kill.kill_policy,
        };
        self.tell(t, task.agent, Kind::KillTask(message));
    }
}
