//! Calls of operators that change something: weights, quota, teardown, agents given up.
//!
//! Calls that only read never come here: they are answered from a snapshot (`view`).

use plenum_api::master::{Call, call::Type};
use plenum_api::quota::QuotaConfig;
use plenum_api::resources::role;

use super::event::{Answer, Caller, ReplyId};
use super::registry::{self, QuotaRecord, WeightRecord};
use super::{Master, Pending, Turn};

/// What one transaction of the store takes, less the leadership's guard.
const MOST: usize = 90;

impl Master {
    pub(super) fn operator_call(&mut self, t: &mut Turn<'_>, reply: ReplyId, call: Call, caller: &Caller) {
        let kind = call.r#type.and_then(|kind| Type::try_from(kind).ok()).unwrap_or(Type::Unknown);
        let missing =
            || Answer::bad(format!("Expecting '{}' to be present", kind.as_str_name().to_ascii_lowercase()));
        match kind {
            Type::Teardown => match call.teardown {
                Some(teardown) => self.operator_teardown(t, reply, &teardown.framework_id.value, caller),
                None => t.reply(reply, missing()),
            },
            Type::MarkAgentGone => match call.mark_agent_gone {
                Some(gone) => self.mark_gone(t, reply, &gone.agent_id.value, &caller.uid),
                None => t.reply(reply, missing()),
            },
            Type::DrainAgent => match call.drain_agent {
                Some(drain) => self.drain_agent(t, reply, &drain, caller),
                None => t.reply(reply, missing()),
            },
            Type::DeactivateAgent => match call.deactivate_agent {
                Some(which) => self.deactivate_agent(t, reply, &which.agent_id.value, caller),
                None => t.reply(reply, missing()),
            },
            Type::ReactivateAgent => match call.reactivate_agent {
                Some(which) => self.reactivate_agent(t, reply, &which, caller),
                None => t.reply(reply, missing()),
            },
            Type::UpdateWeights => match call.update_weights {
                Some(update) => {
                    let weights = update
                        .weight_infos
                        .into_iter()
                        .map(|info| (info.role.unwrap_or_default(), info.weight))
                        .collect();
                    self.update_weights(t, reply, weights, caller);
                }
                None => t.reply(reply, missing()),
            },
            Type::UpdateQuota => match call.update_quota {
                Some(update) => self.update_quota(t, reply, update.quota_configs, caller),
                None => t.reply(reply, missing()),
            },
            Type::ReserveResources
            | Type::UnreserveResources
            | Type::CreateVolumes
            | Type::DestroyVolumes
            | Type::GrowVolume
            | Type::ShrinkVolume => match super::changes::operation_of(&call) {
                Some((agent, operation)) => self.operator_change(t, reply, &agent, operation, caller),
                None => t.reply(reply, missing()),
            },
            Type::Unknown => t.reply(reply, Answer::bad("Expecting 'type' to be present")),
            other => {
                t.reply(reply, Answer::Refused(501, format!("{} is not built yet", other.as_str_name())))
            }
        }
    }

    fn operator_teardown(&mut self, t: &mut Turn<'_>, reply: ReplyId, id: &str, caller: &Caller) {
        match self.framework_key(id) {
            Some(key) => self.remove_framework(t, key, Some(reply), caller.uid.to_string()),
            None => t.reply(reply, Answer::bad("No framework found with specified ID")),
        }
    }

    fn update_weights(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        weights: Vec<(String, f64)>,
        caller: &Caller,
    ) {
        let wrong = weights.iter().find_map(|(role, weight)| {
            if let Err(e) = role::validate(role) {
                return Some(e.to_string());
            }
            (!weight.is_finite() || *weight <= 0.0)
                .then(|| format!("Invalid weight '{weight}' for role '{role}': Weights must be positive"))
        });
        if let Some(reason) = wrong {
            t.reply(reply, Answer::bad(reason));
            return;
        }
        if weights.is_empty() || weights.len() > MOST {
            t.reply(reply, Answer::bad(format!("one call may update 1 to {MOST} weights")));
            return;
        }
        let principal = &caller.uid;
        let put = |(role, weight): &(String, f64)| {
            registry::put_weight(role, &WeightRecord { weight: *weight, principal: principal.to_string() })
        };
        let ops = weights.iter().map(put).collect();
        self.commit(t, ops, Pending::Weights(reply, weights));
    }

    pub(super) fn weights_committed(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        weights: Vec<(String, f64)>,
        result: Result<(), String>,
    ) {
        if let Err(reason) = result {
            t.reply(
                reply,
                Answer::Refused(503, format!("the weights could not be stored ({reason}): try again")),
            );
            return;
        }
        for (role, weight) in weights {
            self.ledger.set_weight(&role, weight);
            self.weights.insert(role, weight);
        }
        self.touch();
        self.allocate_soon(t);
        t.reply(reply, Answer::Done);
    }

    fn update_quota(&mut self, t: &mut Turn<'_>, reply: ReplyId, configs: Vec<QuotaConfig>, caller: &Caller) {
        let wrong = configs.iter().find_map(|config| {
            if config.role == role::STAR {
                return Some("Invalid QuotaConfig: the default role '*' cannot have a quota".to_owned());
            }
            if let Err(e) = role::validate(&config.role) {
                return Some(format!("Invalid QuotaConfig: {e}"));
            }
            if config.guarantees.values().any(|scalar| scalar.value != 0.0) {
                return Some("Invalid QuotaConfig: guarantees are not supported, only limits".to_owned());
            }
            let bad =
                config.limits.iter().find(|(_, scalar)| !scalar.value.is_finite() || scalar.value < 0.0);
            bad.map(|(name, _)| {
                format!(
                    "Invalid QuotaConfig: the limit of '{name}' for role '{}' must be a number of at least 0",
                    config.role
                )
            })
        });
        if let Some(reason) = wrong {
            t.reply(reply, Answer::bad(reason));
            return;
        }
        if configs.is_empty() || configs.len() > MOST {
            t.reply(reply, Answer::bad(format!("one call may update 1 to {MOST} quotas")));
            return;
        }
        let ops = configs
            .iter()
            .map(|config| {
                if config.limits.is_empty() {
                    registry::delete("quota", &config.role)
                } else {
                    registry::put_quota(
                        &config.role,
                        &QuotaRecord { config: config.clone(), principal: caller.uid.to_string() },
                    )
                }
            })
            .collect();
        self.commit(t, ops, Pending::Quotas(reply, configs));
    }

    pub(super) fn quotas_committed(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        configs: Vec<QuotaConfig>,
        result: Result<(), String>,
    ) {
        if let Err(reason) = result {
            t.reply(
                reply,
                Answer::Refused(503, format!("the quotas could not be stored ({reason}): try again")),
            );
            return;
        }
        for config in configs {
            self.ledger.set_quota(&config);
            if config.limits.is_empty() {
                self.quotas.remove(&config.role);
            } else {
                self.quotas.insert(config.role.clone(), config);
            }
        }
        self.touch();
        self.allocate_soon(t);
        t.reply(reply, Answer::Done);
    }
}
