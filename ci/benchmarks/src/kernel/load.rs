//! The framework: launches one task with each ACCEPT, acknowledges each RUNNING, and measures how long that takes.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use plenum_api::mesos::{
    self, AgentId, CommandInfo, FrameworkInfo, Offer, TaskInfo, TaskState, TaskStatus, offer,
};
use plenum_api::resources::Resources;
use plenum_base::client::Client;
use plenum_sdk::CallError;
use plenum_sdk::scheduler::{Event, Events, Happening, Options, Scheduler, connect};
use tokio::time::{Instant, sleep_until, timeout_at};

/// ACCEPT calls at once, each on a connection of its own.
const ACCEPTS: usize = 12;
/// ACKNOWLEDGE calls at once.
const ACKNOWLEDGES: usize = 12;
/// Tasks that are launched and not acknowledged, when nothing else slows the framework.
const IN_FLIGHT: usize = 256;
/// No part takes longer.
const DEADLINE: Duration = Duration::from_secs(75);

/// One part of the load.
pub struct Phase {
    /// Tasks that were acknowledged.
    pub tasks: usize,
    /// From the first ACCEPT to the last acknowledgement's answer.
    pub took: Duration,
    /// From the time a task's ACCEPT was due to its RUNNING, for each.
    pub latencies: Vec<Duration>,
}

/// The framework.
pub struct Load {
    scheduler: Scheduler,
    events: Events,
    resources: Vec<mesos::Resource>,
    offers: VecDeque<Offer>,
    /// When the tasks that are not RUNNING yet were due.
    waiting: HashMap<String, Instant>,
    unacknowledged: VecDeque<TaskStatus>,
    launched: usize,
}

enum Done {
    Accepted,
    Acknowledged,
}

type Calls<'a> = FuturesUnordered<LocalBoxFuture<'a, Result<Done, CallError>>>;

/// How far a part has come.
struct Progress {
    count: usize,
    start: Instant,
    rate: Option<f64>,
    launched: usize,
    acknowledged: usize,
    accepting: usize,
    acknowledging: usize,
    latencies: Vec<Duration>,
}

impl Progress {
    /// When the next task is to be launched.
    fn due(&self) -> Option<Instant> {
        self.rate.map(|rate| self.start + Duration::from_secs_f64(self.launched as f64 / rate))
    }

    fn may_launch(&self, now: Instant) -> bool {
        self.launched < self.count
            && self.accepting < ACCEPTS
            && (self.rate.is_some() || self.launched - self.acknowledged < IN_FLIGHT)
            && self.due().is_none_or(|due| due <= now)
    }
}

impl Load {
    /// Subscribes.
    pub async fn connect(master: SocketAddr) -> Result<Self> {
        let framework = FrameworkInfo {
            user: "root".into(),
            name: "bench".into(),
            failover_timeout: Some(60.0),
            ..Default::default()
        };
        let options = Options::new([format!("http://{master}")], framework);
        let (scheduler, mut events) = connect(Client::plain()?, options);
        match timeout_at(Instant::now() + DEADLINE, events.next()).await.context("no subscription in time")? {
            Some(Happening::Subscribed { .. }) => {}
            other => bail!("the master did not take the framework: {other:?}"),
        }
        let resources =
            Resources::parse("cpus:0.05;mem:32", "*").map_err(|e| anyhow::anyhow!("{e}"))?.to_mesos();
        Ok(Self {
            scheduler,
            events,
            resources,
            offers: VecDeque::new(),
            waiting: HashMap::new(),
            unacknowledged: VecDeque::new(),
            launched: 0,
        })
    }

    /// Launches `count` tasks, `rate` a second or as fast as it goes, and waits until all of them are RUNNING and acknowledged.
    pub async fn launch(&mut self, count: usize, rate: Option<f64>) -> Result<Phase> {
        let start = Instant::now();
        let latencies = Vec::with_capacity(count);
        let mut p = Progress {
            count,
            start,
            rate,
            launched: 0,
            acknowledged: 0,
            accepting: 0,
            acknowledging: 0,
            latencies,
        };
        // Calls borrow this handle, events the other fields.
        let scheduler = self.scheduler.clone();
        let mut calls: Calls<'_> = FuturesUnordered::new();
        while p.acknowledged < count {
            self.call(&scheduler, &mut p, &mut calls);
            let due =
                p.due().filter(|_| p.launched < count && p.accepting < ACCEPTS && !self.offers.is_empty());
            let pause = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happening = self.events.next() => {
                    self.happened(happening.context("the driver has ended")?, &mut p.latencies)?;
                }
                Some(done) = calls.next(), if !calls.is_empty() => match done? {
                    Done::Accepted => p.accepting -= 1,
                    Done::Acknowledged => {
                        p.acknowledging -= 1;
                        p.acknowledged += 1;
                    }
                },
                () = pause => {}
                () = sleep_until(start + DEADLINE) => bail!(
                    "only {} of {count} tasks were launched, and {} acknowledged, within {DEADLINE:?}",
                    p.launched, p.acknowledged
                ),
            }
        }
        Ok(Phase { tasks: count, took: start.elapsed(), latencies: p.latencies })
    }

    /// Takes events in for a while without calling.
    pub async fn quiet(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Ok(happening) = timeout_at(until, self.events.next()).await {
            self.happened(happening.context("the driver has ended")?, &mut Vec::new())?;
        }
        Ok(())
    }

    /// Makes the calls that may be made now.
    fn call<'a>(&mut self, scheduler: &'a Scheduler, p: &mut Progress, calls: &mut Calls<'a>) {
        while p.acknowledging < ACKNOWLEDGES
            && let Some(status) = self.unacknowledged.pop_front()
        {
            let (Some(agent), Some(uuid)) = (status.agent_id, status.uuid) else { continue };
            p.acknowledging += 1;
            calls.push(Box::pin(async move {
                scheduler.acknowledge(agent, status.task_id, uuid).await.map(|()| Done::Acknowledged)
            }));
        }
        let now = Instant::now();
        while p.may_launch(now)
            && let Some(offer) = self.offers.pop_front()
        {
            let task = self.task(offer.agent_id);
            self.waiting.insert(task.task_id.value.clone(), p.due().unwrap_or(now));
            self.launched += 1;
            p.launched += 1;
            p.accepting += 1;
            let operation = offer::Operation {
                r#type: Some(offer::operation::Type::Launch.into()),
                launch: Some(offer::operation::Launch { task_infos: vec![task] }),
                ..Default::default()
            };
            calls.push(Box::pin(async move {
                // What is left of the offer is wanted at once.
                scheduler.accept(vec![offer.id], vec![operation], 0.0).await.map(|()| Done::Accepted)
            }));
        }
    }

    fn task(&self, agent_id: AgentId) -> TaskInfo {
        let id = format!("bench.{:08}", self.launched);
        let command =
            CommandInfo { value: Some("sleep 1000".into()), shell: Some(true), ..Default::default() };
        TaskInfo {
            name: "bench".into(),
            task_id: id.as_str().into(),
            agent_id,
            resources: self.resources.clone(),
            command: Some(command),
            ..Default::default()
        }
    }

    fn happened(&mut self, happening: Happening, latencies: &mut Vec<Duration>) -> Result<()> {
        let event = match happening {
            Happening::Event(event) => event,
            other => bail!("the subscription did not last: {other:?}"),
        };
        let Event { offers, rescind, update, failure, .. } = *event;
        if let Some(offers) = offers {
            self.offers.extend(offers.offers);
        }
        if let Some(rescind) = rescind {
            self.offers.retain(|offer| offer.id != rescind.offer_id);
        }
        if let Some(failure) = failure {
            bail!("the master reports a failure: {failure:?}");
        }
        let Some(update) = update else { return Ok(()) };
        let status = update.status;
        if status.state() != TaskState::TaskRunning {
            bail!("a task did not run: {status:?}");
        }
        // One that is not awaited was repeated; it is acknowledged again without being counted.
        match self.waiting.remove(&status.task_id.value) {
            Some(due) => {
                latencies.push(due.elapsed());
                self.unacknowledged.push_back(status);
            }
            None => eprintln!("the update of {} came twice", status.task_id.value),
        }
        Ok(())
    }
}
