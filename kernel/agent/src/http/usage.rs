//! What runs and what it uses: `/containers`, `/monitor/statistics`, `GET_CONTAINERS`. A pod's figures are the sum of its tasks'.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use plenum_api::agent::response::get_containers;
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::{self, ContainerId, Resource};
use serde_json::{Value, json};

use super::figures::{Figures, Promised, volume};
use super::{Http, text};
use crate::core::{ExecutorView, FrameworkView, TaskView, View};
use crate::shell::sessions::{Nested, key};
use crate::shell::volumes;

/// For everything to be measured.
const WAIT: Duration = Duration::from_secs(10);

/// Something with processes of its own.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub framework: &'a FrameworkView,
    pub executor: &'a ExecutorView,
    /// The task that is in it alone; `None` for a custom executor.
    pub task: Option<&'a TaskView>,
    pub container: &'a str,
}

impl Place<'_> {
    /// In a pod, below the pod's own id.
    pub fn in_pod(&self) -> bool {
        is_pod(self.executor)
    }
}

fn is_pod(executor: &ExecutorView) -> bool {
    executor.info.r#type() == ExecutorType::Default
}

fn lives(task: &TaskView) -> bool {
    matches!(task.stage, "pending" | "launched")
}

/// What runs in an executor.
fn places<'a>(framework: &'a FrameworkView, executor: &'a ExecutorView) -> Vec<Place<'a>> {
    if is_pod(executor) {
        let one =
            |task: &'a TaskView| Place { framework, executor, task: Some(task), container: &task.container };
        return executor.tasks.iter().filter(|task| lives(task)).map(one).collect();
    }
    let task = executor.tasks.first().filter(|_| executor.command);
    vec![Place { framework, executor, task, container: &executor.container }]
}

/// A picture of the agent with what was measured.
pub(super) struct Look {
    pub view: View,
    /// Tasks in each stage.
    pub counts: [usize; 4],
    figures: BTreeMap<String, Figures>,
}

impl Look {
    /// Measures everything, or the container that is named.
    pub async fn take(http: &Http, only: Option<&str>) -> Result<Self, Response> {
        let (view, counts) = http.view().await?;
        let all = all_places(&view);
        let all: Vec<Place<'_>> =
            all.into_iter().filter(|place| only.is_none_or(|id| id == place.container)).collect();
        let ids: Vec<String> = all.iter().map(|place| place.container.to_owned()).collect();
        let found = tokio::time::timeout(WAIT, http.runtime.stats_of(&ids)).await;
        let found = found.map_err(|_| {
            text(http::StatusCode::SERVICE_UNAVAILABLE, "Measuring takes too long; try again.")
        })?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let folders = all.iter().flat_map(|place| persistent(http, place)).map(|(folder, _)| folder);
        let disks = http.disks.look(folders.collect());
        let mut figures = BTreeMap::new();
        for (place, found) in all.iter().zip(found) {
            let Some(found) = found else { continue };
            let one = Figures::new(&found, promised(place), now.as_secs_f64());
            figures.insert(place.container.to_owned(), with_volumes(one, http, place, &disks));
        }
        Ok(Self { view, counts, figures })
    }

    /// Everything that has processes of its own.
    pub fn places(&self) -> Vec<Place<'_>> {
        all_places(&self.view)
    }

    pub fn of(&self, place: &Place<'_>) -> Option<&Figures> {
        self.figures.get(place.container)
    }

    /// An executor's figures: a pod's are the sum of its tasks'.
    fn sum(&self, places: &[Place<'_>]) -> Option<Figures> {
        places.iter().filter_map(|place| self.of(place)).fold(None, |sum: Option<Figures>, one| match sum {
            None => Some(one.clone()),
            Some(sum) => Some(sum.sum(one)),
        })
    }
}

/// Everything that has processes of its own.
pub(super) fn all_places(view: &View) -> Vec<Place<'_>> {
    let mut all = Vec::new();
    for framework in &view.frameworks {
        for executor in framework.executors.iter().filter(|executor| !executor.completed) {
            all.extend(places(framework, executor));
        }
    }
    all
}

fn promised(place: &Place<'_>) -> Promised {
    match place.task {
        Some(task) => Promised::of(&[task], &[]),
        None => {
            let tasks: Vec<&TaskView> = place.executor.tasks.iter().filter(|task| lives(task)).collect();
            Promised::of(&tasks, &place.executor.info.resources)
        }
    }
}

fn resources<'a>(place: &Place<'a>) -> impl Iterator<Item = &'a Resource> {
    let executor = place.executor.info.resources.iter().filter({
        let custom = place.task.is_none();
        move |_| custom
    });
    let tasks = place.executor.tasks.iter().filter({
        let alone = place.task.map(|task| task.task.task_id.clone());
        move |task| alone.as_ref().is_none_or(|id| *id == task.task.task_id) && lives(task)
    });
    tasks.flat_map(|task| &task.task.resources).chain(executor)
}

/// The persistent volumes of a container, and where they lie.
fn persistent<'a>(http: &Http, place: &Place<'a>) -> Vec<(PathBuf, &'a Resource)> {
    let work_dir: &Path = &http.config.work_dir;
    let folder = |resource: &'a Resource| {
        let (folder, _) = volumes::mounts_of(std::slice::from_ref(resource), work_dir).ok()?.pop()?;
        Some((folder, resource))
    };
    resources(place).filter_map(folder).collect()
}

fn with_volumes(
    mut figures: Figures,
    http: &Http,
    place: &Place<'_>,
    disks: &BTreeMap<PathBuf, u64>,
) -> Figures {
    let one = |(folder, resource): (PathBuf, &Resource)| volume(resource, disks.get(&folder).copied());
    figures.mesos.disk_statistics = persistent(http, place).into_iter().map(one).collect();
    figures
}

/// A container that runs.
struct Running {
    framework: String,
    executor: mesos::ExecutorInfo,
    container: ContainerId,
    status: Option<mesos::ContainerStatus>,
    figures: Option<Figures>,
}

/// Everything that runs, with its usage; a pod's tasks too where they are asked for.
async fn running(http: &Http, nested: bool) -> Result<Vec<Running>, Response> {
    let look = Look::take(http, None).await?;
    let mut all = Vec::new();
    for framework in &look.view.frameworks {
        for executor in framework.executors.iter().filter(|executor| !executor.completed) {
            let places = places(framework, executor);
            let mut one = |container, status, figures| {
                let (framework, executor) = (framework.id.clone(), executor.info.clone());
                all.push(Running { framework, executor, container, status, figures });
            };
            let status = executor.tasks.iter().filter_map(status_of).next_back();
            // A pod has no process: its tasks' status is theirs alone.
            let status = status.filter(|_| !is_pod(executor) || places.is_empty());
            one(ContainerId::from(executor.container.as_str()), status, look.sum(&places));
            if !nested {
                continue;
            }
            for place in places.iter().filter(|place| place.in_pod()) {
                let parent = Some(Box::new(ContainerId::from(executor.container.as_str())));
                let container = ContainerId { value: place.container.to_owned(), parent };
                one(container, place.task.and_then(status_of), look.of(place).cloned());
            }
            for command in commands_in(http, executor) {
                let id = command.id.clone();
                let status = mesos::ContainerStatus { container_id: Some(id.clone()), ..Default::default() };
                one(id, Some(status), None);
            }
        }
    }
    Ok(all)
}

/// Commands that clients run inside an executor's containers. They are counted with the container that they are in.
fn commands_in(http: &Http, executor: &ExecutorView) -> Vec<Arc<Nested>> {
    let own: BTreeSet<&str> = executor.tasks.iter().map(|task| task.container.as_str()).collect();
    let mut running = http.sessions.running();
    running.retain(|one| executor.container == one.host || own.contains(one.host.as_str()));
    running
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
            "executor_id": one.executor.executor_id.value,
            "executor_name": one.executor.name,
            "source": one.executor.executor_id.value,
            "container_id": key(&one.container),
            "statistics": one.figures.as_ref().map(Figures::json),
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
        executor_id: Some(one.executor.executor_id.clone()),
        executor_name: one.executor.name.clone(),
        container_id: one.container,
        container_status: one.status,
        resource_statistics: one.figures.map(|figures| figures.mesos),
    };
    Ok(running(http, nested).await?.into_iter().map(one).collect())
}
