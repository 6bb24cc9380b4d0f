//! Which GPU is whose. A container has its GPUs from the moment its launch is written down until it has ended; nobody shares one. The
//! number is what the device files are listed by; files are the shell's business.

use std::collections::BTreeSet;

use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{ExecutorInfo, Resource, TaskInfo, TaskState};

use super::Agent;
use super::event::{ExecutorKey, TaskKey};
use super::model::Phase;
use super::pods::is_pod;
use super::status::News;

/// How many GPUs there are among resources. Parts of one count as one: nobody shares it.
pub(super) fn count(resources: &[Resource]) -> usize {
    let gpus = resources.iter().filter(|resource| resource.name == "gpus");
    let amounts = gpus.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value);
    let sum: f64 = amounts.filter(|amount| amount.is_finite() && *amount > 0.0).sum();
    sum.ceil() as usize
}

impl Agent {
    /// The GPUs that nobody has, lowest first. All of them where the machine's files are not known: then numbers mean nothing.
    fn free_gpus(&self) -> Vec<u32> {
        let live = self.tasks.values().filter(|task| task.phase != Phase::Ended).flat_map(|task| &task.gpus);
        let executors = self.executors.values().flat_map(|executor| &executor.gpus);
        let taken: BTreeSet<u32> = live.chain(executors).copied().collect();
        (0..self.settings.gpus).filter(|number| !taken.contains(number)).collect()
    }

    /// So many GPUs for a container; fewer where there are too few, which [`Agent::lacks_gpus`] has ruled out.
    pub(super) fn take_gpus(&self, wanted: usize) -> Vec<u32> {
        let mut free = self.free_gpus();
        free.truncate(wanted);
        free
    }

    /// Why a task cannot have its GPUs, if it cannot. `promised` are those of other tasks of the same order.
    pub(super) fn lacks_gpus(
        &self,
        key: &TaskKey,
        info: &TaskInfo,
        executor: Option<&ExecutorInfo>,
        promised: usize,
    ) -> Option<News> {
        let mut wanted = count(&info.resources);
        let executor = executor.filter(|executor| !is_pod(executor));
        if wanted == 0 || self.settings.gpus == 0 {
            return None;
        }
        let refuse = |words| Some(News::agent(TaskState::TaskError, Reason::ContainerLaunchFailed, words));
        let id = executor.map(|executor| executor.executor_id.value.as_str());
        let running = id.and_then(|id| {
            let key = ExecutorKey { framework: key.framework.clone(), executor: id.to_owned() };
            self.executors.get(&key)
        });
        if let Some(running) = running {
            let others = self.tasks.iter().filter(|(other, task)| {
                other.framework == key.framework
                    && task.executor.as_deref() == id
                    && task.phase != Phase::Ended
            });
            let used: usize = others.map(|(_, task)| count(&task.info.resources)).sum();
            let own = count(&running.info.resources);
            if used + own + promised + wanted <= running.gpus.len() {
                return None;
            }
            return refuse(format!(
                "The executor runs with {} GPUs and a running container is given no more: \
                 ask for them in the executor's resources, or in the tasks it is started with",
                running.gpus.len()
            ));
        }
        if promised == 0 {
            wanted += executor.map_or(0, |executor| count(&executor.resources));
        }
        let free = self.free_gpus().len().saturating_sub(promised);
        if wanted <= free {
            return None;
        }
        refuse(format!(
            "The task asks for {wanted} GPUs and {free} of the {} here are free: launch it on another agent, or when one is",
            self.settings.gpus
        ))
    }
}
