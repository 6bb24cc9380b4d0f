//! What runs and what it uses: `/containers`, `/monitor/statistics`, `GET_CONTAINERS`. A pod's figures are the sum of its tasks'.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use plenum_api::agent::response::get_containers;
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::{self, ContainerId, ResourceStatistics};
use plenum_containers::Usage;
use serde_json::{Value, json};

use super::Http;
use crate::core::{ExecutorView, TaskView};
use crate::shell::sessions::{Nested, key};

/// For the runtime to measure one container.
const WAIT: Duration = Duration::from_secs(2);

/// A container that runs.
struct Running {
    framework: String,
    executor: ExecutorView,
    container: ContainerId,
    status: Option<mesos::ContainerStatus>,
    statistics: Option<ResourceStatistics>,
}

fn statistics_of(usage: &Usage, tasks: &[TaskView]) -> ResourceStatistics {
    let seconds = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e9);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let cpus: f64 = tasks
        .iter()
        .flat_map(|task| &task.task.resources)
        .filter(|resource| resource.name == "cpus")
        .filter_map(|resource| resource.scalar.as_ref())
        .map(|scalar| scalar.value)
        .sum();
    ResourceStatistics {
        timestamp: now.as_secs_f64(),
        processes: usage.pids.and_then(|count| u32::try_from(count).ok()),
        cpus_user_time_secs: seconds(usage.cpu_user_ns.or(usage.cpu_ns)),
        cpus_system_time_secs: seconds(usage.cpu_system_ns),
        cpus_limit: (cpus > 0.0).then_some(cpus),
        cpus_nr_periods: usage.cpu_periods.and_then(|count| u32::try_from(count).ok()),
        cpus_nr_throttled: usage.cpu_throttled_periods.and_then(|count| u32::try_from(count).ok()),
        cpus_throttled_time_secs: seconds(usage.cpu_throttled_ns),
        mem_total_bytes: usage.memory_bytes,
        mem_limit_bytes: usage.memory_limit_bytes,
        mem_rss_bytes: usage.memory_rss_bytes.or(usage.memory_bytes),
        mem_cache_bytes: usage.memory_cache_bytes,
        ..Default::default()
    }
}

/// Both together; what one of them does not know is the other's.
fn sum(a: ResourceStatistics, b: &ResourceStatistics) -> ResourceStatistics {
    fn both<T>(a: Option<T>, b: Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
        match (a, b) {
            (Some(a), Some(b)) => Some(add(a, b)),
            (a, b) => a.or(b),
        }
    }
    let seconds = |a, b| both(a, b, |a: f64, b| a + b);
    let count = |a, b| both(a, b, u32::saturating_add);
    let bytes = |a, b| both(a, b, u64::saturating_add);
    ResourceStatistics {
        timestamp: a.timestamp.max(b.timestamp),
        processes: count(a.processes, b.processes),
        cpus_user_time_secs: seconds(a.cpus_user_time_secs, b.cpus_user_time_secs),
        cpus_system_time_secs: seconds(a.cpus_system_time_secs, b.cpus_system_time_secs),
        cpus_limit: seconds(a.cpus_limit, b.cpus_limit),
        cpus_nr_periods: count(a.cpus_nr_periods, b.cpus_nr_periods),
        cpus_nr_throttled: count(a.cpus_nr_throttled, b.cpus_nr_throttled),
        cpus_throttled_time_secs: seconds(a.cpus_throttled_time_secs, b.cpus_throttled_time_secs),
        mem_total_bytes: bytes(a.mem_total_bytes, b.mem_total_bytes),
        mem_limit_bytes: bytes(a.mem_limit_bytes, b.mem_limit_bytes),
        mem_rss_bytes: bytes(a.mem_rss_bytes, b.mem_rss_bytes),
        mem_cache_bytes: bytes(a.mem_cache_bytes, b.mem_cache_bytes),
        ..a
    }
}

async fn measure(http: &Http, container: &str, tasks: &[TaskView]) -> Option<ResourceStatistics> {
    match tokio::time::timeout(WAIT, http.runtime.usage(container)).await {
        Ok(Ok(usage)) => Some(statistics_of(&usage, tasks)),
        _ => None,
    }
}

/// Everything that runs, with its usage; a pod's tasks too where they are asked for.
async fn running(http: &Http, nested: bool) -> Result<Vec<Running>, Response> {
    let (view, _) = http.view().await?;
    let mut all = Vec::new();
    for framework in view.frameworks {
        for executor in framework.executors.into_iter().filter(|executor| !executor.completed) {
            let container = ContainerId::from(executor.container.as_str());
            let mut below = Vec::new();
            let statistics = if executor.info.r#type() == ExecutorType::Default {
                below = tasks_running(http, &framework.id, &executor).await;
                let known = below.iter().filter_map(|one| one.statistics.clone());
                known.reduce(|a, b| sum(a, &b))
            } else {
                measure(http, &executor.container, &executor.tasks).await
            };
            let status = executor.tasks.iter().filter_map(status_of).next_back();
            // A pod has no process: its tasks' status is theirs alone.
            let status = status.filter(|_| below.is_empty());
            let inside = if nested { commands_in(http, &framework.id, &executor) } else { Vec::new() };
            all.push(Running { framework: framework.id.clone(), executor, container, status, statistics });
            all.extend(below.into_iter().filter(|_| nested));
            all.extend(inside);
        }
    }
    Ok(all)
}

/// Commands that clients run inside an executor's containers. They are counted with the container that they are in.
fn commands_in(http: &Http, framework: &str, executor: &ExecutorView) -> Vec<Running> {
    let own =
        |host: &str| executor.container == host || executor.tasks.iter().any(|task| task.container == host);
    let running = http.sessions.running().into_iter().filter(|one| own(&one.host));
    let one = |nested: Arc<Nested>| Running {
        framework: framework.to_owned(),
        executor: executor.clone(),
        container: nested.id.clone(),
        status: Some(mesos::ContainerStatus { container_id: Some(nested.id.clone()), ..Default::default() }),
        statistics: None,
    };
    running.map(one).collect()
}

async fn tasks_running(http: &Http, framework: &str, executor: &ExecutorView) -> Vec<Running> {
    let mut all = Vec::new();
    for task in executor.tasks.iter().filter(|task| matches!(task.stage, "pending" | "launched")) {
        let parent = Some(Box::new(ContainerId::from(executor.container.as_str())));
        all.push(Running {
            framework: framework.to_owned(),
            executor: executor.clone(),
            container: ContainerId { value: task.container.clone(), parent },
            status: status_of(task),
            statistics: measure(http, &task.container, std::slice::from_ref(task)).await,
        });
    }
    all
}

fn status_of(task: &TaskView) -> Option<mesos::ContainerStatus> {
    task.task.statuses.last().and_then(|status| status.container_status.clone())
}

/// `/monitor/statistics` and `/containers`: the same list; the second also has the container's status, and with `show_nested=true` what is
/// nested in it.
pub(super) async fn statistics(http: &Http, monitor: bool, nested: bool) -> Response {
    let list = match running(http, nested).await {
        Ok(list) => list,
        Err(refusal) => return refusal,
    };
    let one = |one: Running| {
        let mut value = json!({
            "framework_id": one.framework,
            "executor_id": one.executor.info.executor_id.value,
            "executor_name": one.executor.info.name,
            "source": one.executor.info.executor_id.value,
            "container_id": key(&one.container),
            "statistics": one.statistics,
        });
        if !monitor && let Some(map) = value.as_object_mut() {
            map.insert("status".to_owned(), json!(one.status));
        }
        value
    };
    super::json(&Value::Array(list.into_iter().map(one).collect()))
}

/// `GET_CONTAINERS`.
pub(super) async fn containers(
    http: &Http,
    nested: bool,
) -> Result<Vec<get_containers::Container>, Response> {
    let one = |one: Running| get_containers::Container {
        framework_id: Some(one.framework.into()),
        executor_id: Some(one.executor.info.executor_id.clone()),
        executor_name: one.executor.info.name.clone(),
        container_id: one.container,
        container_status: one.status,
        resource_statistics: one.statistics,
    };
    Ok(running(http, nested).await?.into_iter().map(one).collect())
}

/// What runs, as the metrics API shows it: a pod's tasks stand for themselves.
pub(super) struct Measured {
    pub container: String,
    pub executor: String,
    pub framework: String,
    pub framework_name: String,
    pub role: String,
    pub principal: String,
    pub hostname: String,
    pub task: Option<String>,
    pub task_name: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub statistics: Option<ResourceStatistics>,
    /// Bytes.
    pub disk_limit: Option<f64>,
}

/// Everything that has a process of its own.
pub(super) async fn measured(http: &Http) -> Result<Vec<Measured>, Response> {
    let (view, _) = http.view().await?;
    let mut all = Vec::new();
    for framework in &view.frameworks {
        for executor in framework.executors.iter().filter(|executor| !executor.completed) {
            let runs = executor.tasks.iter().filter(|task| matches!(task.stage, "pending" | "launched"));
            let mut one = |container: &str, task: Option<&TaskView>, statistics| {
                let labels = task.and_then(|task| task.task.labels.as_ref()).map(|labels| &labels.labels);
                let disk = task.iter().flat_map(|task| &task.task.resources).filter(|one| one.name == "disk");
                let disk: f64 = disk.filter_map(|one| one.scalar.as_ref()).map(|scalar| scalar.value).sum();
                all.push(Measured {
                    container: container.to_owned(),
                    executor: executor.info.executor_id.value.clone(),
                    framework: framework.id.clone(),
                    framework_name: framework.info.name.clone(),
                    role: framework.info.role().to_owned(),
                    principal: framework.info.principal.clone().unwrap_or_default(),
                    hostname: view.agent.hostname.clone(),
                    task: task.map(|task| task.task.task_id.value.clone()),
                    task_name: task.map(|task| task.task.name.clone()),
                    labels: labels
                        .into_iter()
                        .flatten()
                        .map(|label| (label.key.clone(), label.value.clone().unwrap_or_default()))
                        .collect(),
                    statistics,
                    disk_limit: (disk > 0.0).then_some(disk * 1024.0 * 1024.0),
                });
            };
            if executor.info.r#type() == ExecutorType::Default {
                for task in runs {
                    let statistics = measure(http, &task.container, std::slice::from_ref(task)).await;
                    one(&task.container, Some(task), statistics);
                }
            } else {
                let statistics = measure(http, &executor.container, &executor.tasks).await;
                let task = executor.tasks.first().filter(|_| executor.command);
                one(&executor.container, task, statistics);
            }
        }
    }
    Ok(all)
}
