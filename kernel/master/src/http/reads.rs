//! The operator API's answers, made of a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use plenum_allocator::Verdict;
use plenum_api::master::{Response, call::Type, response};
use plenum_api::mesos::{self, AgentId, FrameworkId};
use plenum_api::quota::QuotaStatus;
use plenum_api::resources::Resources;

use super::{Front, model};
use crate::core::{State, Task};

/// Makes an answer of a snapshot.
pub(crate) type Read = fn(&State) -> Response;

fn answer(kind: response::Type, fill: impl FnOnce(&mut Response)) -> Response {
    let mut response = Response { r#type: Some(kind as i32), ..Default::default() };
    fill(&mut response);
    response
}

/// Answers that need no leader.
pub(crate) fn about_itself(front: &Front, kind: Type) -> Option<Response> {
    Some(match kind {
        Type::GetHealth => {
            answer(response::Type::GetHealth, |r| r.get_health = Some(response::GetHealth { healthy: true }))
        }
        Type::GetVersion => answer(response::Type::GetVersion, |r| {
            let version_info = mesos::VersionInfo {
                version: crate::MESOS_VERSION.into(),
                build_user: Some("plenum".into()),
                git_tag: Some(format!("plenum-{}", env!("CARGO_PKG_VERSION"))),
                ..Default::default()
            };
            r.get_version = Some(response::GetVersion { version_info });
        }),
        Type::GetFlags => answer(response::Type::GetFlags, |r| {
            let flags = front
                .flags
                .iter()
                .map(|(name, value)| mesos::Flag { name: (*name).into(), value: Some(value.clone()) });
            r.get_flags = Some(response::GetFlags { flags: flags.collect() });
        }),
        Type::GetLoggingLevel => answer(response::Type::GetLoggingLevel, |r| {
            r.get_logging_level = Some(response::GetLoggingLevel { level: 0 })
        }),
        _ => return None,
    })
}

/// How a call is answered from the state; none for calls that are not.
pub(crate) fn of_state(kind: Type) -> Option<Read> {
    Some(match kind {
        Type::GetState => |s| answer(response::Type::GetState, |r| r.get_state = Some(state(s))),
        Type::GetAgents => |s| answer(response::Type::GetAgents, |r| r.get_agents = Some(agents(s))),
        Type::GetFrameworks => {
            |s| answer(response::Type::GetFrameworks, |r| r.get_frameworks = Some(frameworks(s)))
        }
        Type::GetExecutors => {
            |s| answer(response::Type::GetExecutors, |r| r.get_executors = Some(executors(s)))
        }
        Type::GetTasks => |s| answer(response::Type::GetTasks, |r| r.get_tasks = Some(tasks(s))),
        Type::GetRoles => |s| answer(response::Type::GetRoles, |r| r.get_roles = Some(roles(s))),
        Type::GetOperations => |s| {
            answer(response::Type::GetOperations, |r| {
                let operations = s.agents.iter().flat_map(|agent| agent.operations()).cloned().collect();
                r.get_operations = Some(response::GetOperations { operations })
            })
        },
        Type::GetWeights => |s| {
            answer(response::Type::GetWeights, |r| {
                let info = |(role, weight): (&String, &f64)| mesos::WeightInfo {
                    weight: *weight,
                    role: Some(role.clone()),
                };
                r.get_weights =
                    Some(response::GetWeights { weight_infos: s.weights.iter().map(info).collect() });
            })
        },
        Type::GetQuota => |s| {
            answer(response::Type::GetQuota, |r| {
                let status =
                    QuotaStatus { configs: s.quotas.values().cloned().collect(), ..Default::default() };
                r.get_quota = Some(response::GetQuota { status });
            })
        },
        Type::GetMaster => |s| {
            answer(response::Type::GetMaster, |r| {
                let started = Some(s.started.as_secs_f64());
                r.get_master = Some(response::GetMaster {
                    master_info: Some(s.master.clone()),
                    start_time: started,
                    elected_time: started,
                });
            })
        },
        Type::GetMetrics => |s| {
            answer(response::Type::GetMetrics, |r| {
                let metrics = model::metrics(s)
                    .into_iter()
                    .map(|(name, value)| mesos::Metric { name, value: Some(value) });
                r.get_metrics = Some(response::GetMetrics { metrics: metrics.collect() });
            })
        },
        Type::GetMaintenanceStatus => |_| {
            answer(response::Type::GetMaintenanceStatus, |r| {
                r.get_maintenance_status =
                    Some(response::GetMaintenanceStatus { status: Default::default() });
            })
        },
        Type::GetMaintenanceSchedule => |_| {
            answer(response::Type::GetMaintenanceSchedule, |r| {
                r.get_maintenance_schedule =
                    Some(response::GetMaintenanceSchedule { schedule: Default::default() });
            })
        },
        _ => return None,
    })
}

/// Everything, as GET_STATE and the first event of a subscriber show it.
pub(crate) fn state(s: &State) -> response::GetState {
    response::GetState {
        get_tasks: Some(tasks(s)),
        get_executors: Some(executors(s)),
        get_frameworks: Some(frameworks(s)),
        get_agents: Some(agents(s)),
    }
}

fn agents(s: &State) -> response::GetAgents {
    let totals = s.totals();
    response::GetAgents {
        agents: s.agents.iter().map(|agent| agent.message(totals.agents.get(&agent.id))).collect(),
        recovered_agents: s
            .absent
            .values()
            .filter(|absent| absent.is_recovered())
            .map(|absent| (*absent.info).clone())
            .collect(),
    }
}

fn frameworks(s: &State) -> response::GetFrameworks {
    let totals = s.totals();
    let message = |framework: &std::sync::Arc<crate::core::FrameworkView>| {
        let share = totals.frameworks.get(&framework.id);
        let used = share.map(|share| share.used.to_mesos()).unwrap_or_default();
        let offered = share.map(|share| share.offered.to_mesos()).unwrap_or_default();
        framework.message(&used, &offered)
    };
    response::GetFrameworks {
        frameworks: s.frameworks.iter().map(message).collect(),
        completed_frameworks: s.completed.iter().map(|framework| framework.message(&[], &[])).collect(),
        ..Default::default()
    }
}

fn executors(s: &State) -> response::GetExecutors {
    let known: BTreeSet<&str> = s.frameworks.iter().map(|f| &*f.id).collect();
    let of_agent = |agent: &std::sync::Arc<crate::core::Agent>| {
        let id = AgentId { value: agent.id.to_string() };
        let live = agent.executors().filter(|(framework, _)| known.contains(&***framework));
        live.map(|(_, info)| response::get_executors::Executor {
            executor_info: (**info).clone(),
            agent_id: id.clone(),
        })
        .collect::<Vec<_>>()
    };
    response::GetExecutors { executors: s.agents.iter().flat_map(of_agent).collect(), ..Default::default() }
}

fn tasks(s: &State) -> response::GetTasks {
    let known: BTreeSet<&str> = s.frameworks.iter().map(|f| &*f.id).collect();
    let describe = |task: &std::sync::Arc<Task>| task.describe();
    response::GetTasks {
        tasks: s.tasks.iter().filter(|task| known.contains(&*task.framework_id)).map(describe).collect(),
        unreachable_tasks: s.frameworks.iter().flat_map(|f| &f.unreachable).map(describe).collect(),
        completed_tasks: s
            .frameworks
            .iter()
            .chain(&s.completed)
            .flat_map(|f| &f.completed)
            .map(describe)
            .collect(),
        ..Default::default()
    }
}

/// What is known of each role: who is in it, and what is allocated to it.
pub(crate) struct RoleView {
    pub weight: f64,
    pub frameworks: Vec<String>,
    pub allocated: Resources,
    pub offered: Resources,
    pub reserved: Resources,
}

/// All roles that frameworks are in, or that something was set for.
pub(crate) fn role_views(s: &State) -> BTreeMap<String, RoleView> {
    let mut views: BTreeMap<String, RoleView> = BTreeMap::new();
    let view = |views: &mut BTreeMap<String, RoleView>, role: &str, change: &mut dyn FnMut(&mut RoleView)| {
        let weight = s.weights.get(role).copied().unwrap_or(1.0);
        let none = Resources::new;
        change(views.entry(role.to_owned()).or_insert_with(|| RoleView {
            weight,
            frameworks: Vec::new(),
            allocated: none(),
            offered: none(),
            reserved: none(),
        }));
    };
    view(&mut views, "*", &mut |_| {});
    for role in s.weights.keys().chain(s.quotas.keys()) {
        view(&mut views, role, &mut |_| {});
    }
    for framework in &s.frameworks {
        for role in crate::core::roles_of(&framework.info) {
            view(&mut views, &role, &mut |v| v.frameworks.push(framework.id.to_string()));
        }
    }
    for share in s.totals().frameworks.values() {
        for (resources, offered) in [(&share.used, false), (&share.offered, true)] {
            for role in resources.allocation_roles() {
                let part = resources.allocated_to(role);
                view(&mut views, role, &mut |v| {
                    if offered { v.offered += &part } else { v.allocated += &part }
                });
            }
        }
    }
    for agent in s.agents.iter() {
        for role in agent.total.reservation_roles() {
            view(&mut views, role, &mut |v| v.reserved += &agent.total.reserved(role));
        }
    }
    views
}

fn roles(s: &State) -> response::GetRoles {
    let roles = role_views(s)
        .into_iter()
        .map(|(name, view)| mesos::Role {
            name,
            weight: view.weight,
            frameworks: view.frameworks.into_iter().map(|value| FrameworkId { value }).collect(),
            resources: (&view.allocated + &view.offered).unallocate().to_mesos(),
        })
        .collect();
    response::GetRoles { roles }
}

/// The allocator's verdict as the API names it.
pub(crate) fn verdict(verdict: Verdict) -> response::get_allocation_explanation::Verdict {
    use response::get_allocation_explanation::Verdict as Shown;
    match verdict {
        Verdict::Fits | Verdict::Held => Shown::Fits,
        Verdict::TooLittle => Shown::Waits,
        Verdict::Refused => Shown::Refused,
    }
}
