//! The task that owns the core: takes events, carries effects out, keeps the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plenum_api::mesos::Resource;
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::memory::AfterBursts;
use plenum_base::service::Shutdown;
use tokio::sync::{mpsc, oneshot};

use super::containers::Containers;
use super::gc::{self, Garbage};
use super::link::ToLink;
use super::provision::Provisioner;
use super::streams::Streams;
use super::{ExecutorAnswer, Input, volumes};
use crate::config::Config;
use crate::core::{Agent, Effect, Event, ExecutorCall, ExecutorReply, Level, Recovery};
use crate::disk::{Job, RecordStore, Writer};

/// Everything the core's effects need.
pub(crate) struct Actor {
    pub agent: Agent,
    pub clock: OsClock,
    pub ids: OsIds,
    pub store: RecordStore,
    pub writer: Writer,
    pub containers: Containers,
    pub provisioner: Arc<Provisioner>,
    pub outbox: mpsc::UnboundedSender<ToLink>,
    pub inbox: mpsc::Sender<Input>,
    pub streams: Streams,
    pub garbage: Garbage,
    pub config: Arc<Config>,
    pub work_dir: PathBuf,
    /// Number of the present connection.
    pub conn: u64,
    pub next_request: u64,
    pub replies: BTreeMap<u64, oneshot::Sender<ExecutorAnswer>>,
    pub deaths: super::deaths::Deaths,
    pub shutdown: Shutdown,
    pub bursts: AfterBursts,
}

impl Actor {
    /// Runs until the end.
    pub async fn run(mut self, mut queue: mpsc::Receiver<Input>, recovery: Recovery) {
        self.tell(Event::Recovered(recovery));
        self.find_old_sandboxes().await;
        self.provisioner.adopt(&self.agent.kept()).await;
        let mut collect = tokio::time::interval(Duration::from_secs(self.config.gc_interval.max(1)));
        collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.agent.next_wake().map(|at| at.since(self.clock.now().mono));
            let sleep = Duration::from(wake.unwrap_or(plenum_api::Millis(60_000)));
            tokio::select! {
                input = queue.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                () = tokio::time::sleep(sleep) => self.tell(Event::Tick),
                _ = collect.tick() => self.collect(),
                () = self.shutdown.wait() => return,
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                if let Event::Connected { conn } = &event {
                    self.conn = *conn;
                }
                self.tell(event);
            }
            Input::View(reply) => {
                let _ = reply.send((self.agent.view(), self.agent.task_counts()));
            }
            Input::Executor { token, call, reply } => {
                self.next_request += 1;
                let request = self.next_request;
                self.replies.insert(request, reply);
                self.tell(Event::ExecutorCall(Box::new(ExecutorCall { request, token, call: *call })));
                self.replies.remove(&request);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.agent.handle(event, self.clock.now(), &mut self.ids);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(message) => {
                self.deaths.note(&message);
                let _ = self.outbox.send(ToLink::Say { conn: self.conn, message });
            }
            Effect::Disconnect { reason } => {
                tracing::info!(reason, "leaving the master");
                let _ = self.outbox.send(ToLink::HangUp { conn: self.conn });
            }
            Effect::Checkpoint { token, writes } => {
                if !self.writer.submit(Job { token, writes }) {
                    tracing::error!("the thread that writes records is gone; the agent ends");
                    self.shutdown.trigger();
                }
            }
            Effect::Overlay(news) => self.provisioner.overlay_news(&news),
            Effect::Volumes { token, make, remove } => self.change_volumes(token, make, remove),
            Effect::SetAside { key } => {
                if let Err(error) = self.store.set_aside(&key) {
                    tracing::warn!(key, %error, "a record cannot be put aside");
                }
            }
            Effect::Launch(launch) => {
                self.bursts.note();
                self.containers.launch(*launch);
            }
            Effect::Kill { container, grace } => self.containers.kill(&container, grace.into()),
            Effect::Destroy { container } => self.containers.destroy(&container),
            Effect::Release { container } => {
                self.bursts.note();
                self.containers.release(&container);
            }
            Effect::Check(check) => self.containers.check(*check),
            Effect::ExecutorReply { request, reply } => self.answer(request, reply),
            Effect::ExecutorSend { container, event } => self.streams.send(&container, *event),
            Effect::ExecutorClose { container } => self.streams.close(&container),
            Effect::Retire { container, directory, since } => {
                self.garbage.add(container, PathBuf::from(directory), since);
            }
            Effect::Report { level: Level::Info, text } => tracing::info!("{text}"),
            Effect::Report { level: Level::Warn, text } => tracing::warn!("{text}"),
            Effect::Stop { reason } => {
                tracing::warn!(reason, "the agent leaves the cluster");
                let shutdown = self.shutdown.clone();
                // What was said last is still on its way.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    shutdown.trigger();
                });
            }
        }
    }

    fn change_volumes(&self, token: u64, make: Vec<Resource>, remove: Vec<Resource>) {
        let (work_dir, inbox) = (self.work_dir.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            // After a restart both are asked for; one that fails does not keep the other back.
            let made = volumes::make(&make, &work_dir);
            let (removed, rubbish) = match volumes::remove(&remove, &work_dir) {
                Ok(rubbish) => (Ok(()), rubbish),
                Err(error) => (Err(error), Vec::new()),
            };
            let result = made.and(removed);
            let _ = inbox.blocking_send(Input::Event(Event::VolumesDone { token, result }));
            volumes::clean(&rubbish);
        });
    }

    fn answer(&mut self, request: u64, reply: ExecutorReply) {
        let answer = match reply {
            ExecutorReply::Stream { container } => {
                ExecutorAnswer::Stream(self.streams.open(&container, request, &self.inbox))
            }
            other => ExecutorAnswer::Other(other),
        };
        if let Some(sender) = self.replies.remove(&request) {
            let _ = sender.send(answer);
        }
    }

    /// Sandboxes that no record names (of executors, and of lost records) are collected by their age.
    async fn find_old_sandboxes(&mut self) {
        let work_dir = self.work_dir.clone();
        let found = tokio::task::spawn_blocking(move || gc::scan(&work_dir)).await.unwrap_or_default();
        let live = self.agent.live_containers();
        let known: std::collections::BTreeSet<String> = self
            .agent
            .view()
            .frameworks
            .into_iter()
            .flat_map(|framework| framework.executors)
            .map(|executor| executor.container)
            .chain(live)
            .collect();
        for (container, directory, changed) in found {
            if !known.contains(&container) && !self.garbage.knows(&container) {
                self.garbage.add(container, directory, changed);
            }
        }
    }

    fn collect(&mut self) {
        let used = gc::disk_used(&self.work_dir).unwrap_or(0.0);
        let delay = Duration::from_secs(self.config.gc_delay);
        let allowed = gc::allowed_age(delay, self.config.gc_disk_headroom, used);
        let due = self.garbage.due(self.clock.now().wall, allowed);
        let provisioner = self.provisioner.clone();
        let free = gc::headroom(&self.work_dir, self.config.gc_disk_headroom).unwrap_or(0);
        tokio::spawn(async move { provisioner.collect(free).await });
        self.containers.collect_images();
        if due.is_empty() {
            return;
        }
        let (work_dir, inbox) = (self.work_dir.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            for (container, retired) in due {
                match gc::remove(&work_dir, &retired.directory) {
                    Ok(()) => tracing::info!(container, "sandbox collected"),
                    Err(error) => tracing::warn!(container, %error, "a sandbox cannot be removed"),
                }
                if inbox.blocking_send(Input::Event(Event::Collected { container })).is_err() {
                    return;
                }
            }
        });
    }
}
