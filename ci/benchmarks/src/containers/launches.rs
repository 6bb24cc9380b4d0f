//! Launches through the agent: one at a time, and as many as there are at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use plenum_api::mesos::{TaskInfo, TaskState};

use crate::node::Node;
use crate::node::master::{Heard, terminal};
use crate::node::task::{stamp, task};

/// For one launch, and for each of many to say something.
const PATIENCE: Duration = Duration::from_secs(120);

/// The node, and a name for each task.
pub struct Launcher {
    /// The node.
    pub node: Node,
    program: PathBuf,
    number: u32,
}

impl Launcher {
    /// Of a program that prints when it ran.
    pub fn new(node: Node, program: &Path) -> Self {
        Self { node, program: program.to_owned(), number: 0 }
    }

    fn task(&mut self, stays: bool, image: Option<&str>) -> TaskInfo {
        self.number += 1;
        let program = if image.is_some() { "/stamp".to_owned() } else { self.program.display().to_string() };
        let arguments: &[&str] = if stays { &["stay"] } else { &[] };
        task(&format!("t{}", self.number), &program, arguments, image)
    }

    /// Launches one task that ends by itself. From before the order is written to the socket until the task's own first time. The
    /// container is forgotten before this returns, so that the next one finds the node at rest.
    ///
    /// # Errors
    /// When the task does not run.
    pub async fn one(&mut self, image: Option<&str>) -> Result<Duration> {
        let before = self.node.runtime_folders()?.len();
        let task = self.task(false, image);
        let id = task.task_id.value.clone();
        let began = SystemTime::now();
        self.node.master.run(vec![task]);
        self.until_ended(&id).await?;
        let file = self.node.sandbox(&id).join("stdout");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let first = stamp(&text).with_context(|| format!("{} says {text:?}", file.display()))?;
        let until = Instant::now() + PATIENCE;
        while self.node.runtime_folders()?.len() > before {
            if Instant::now() > until {
                bail!("a container is not forgotten");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(first.duration_since(began)?)
    }

    async fn until_ended(&mut self, id: &str) -> Result<()> {
        loop {
            match self.node.master.hear(PATIENCE).await.context("the agent says nothing")? {
                Heard::Status { task, state: TaskState::TaskFinished, .. } if task == id => return Ok(()),
                Heard::Status { task, state, message, .. } if terminal(state) => {
                    bail!("task {task}: {state:?} {message}");
                }
                _ => {}
            }
        }
    }

    /// Orders `count` tasks that stay, each by itself, and waits until all run. Gives their ids and how long it took.
    ///
    /// # Errors
    /// When one does not run.
    pub async fn many(&mut self, count: usize) -> Result<(BTreeSet<String>, Duration)> {
        let tasks: Vec<TaskInfo> = (0..count).map(|_| self.task(true, None)).collect();
        let ids: BTreeSet<String> = tasks.iter().map(|task| task.task_id.value.clone()).collect();
        let began = SystemTime::now();
        for task in tasks {
            self.node.master.run(vec![task]);
        }
        let last = self.all(&ids, |state| state == TaskState::TaskRunning).await?;
        Ok((ids, last.duration_since(began)?))
    }

    /// Orders the end of all and waits until nothing of them is left.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn end(&mut self, ids: &BTreeSet<String>) -> Result<Duration> {
        let began = Instant::now();
        for id in ids {
            self.node.master.kill(id, Duration::ZERO);
        }
        self.all(ids, terminal).await?;
        self.node.forgotten(PATIENCE).await?;
        Ok(began.elapsed())
    }

    async fn all(&mut self, ids: &BTreeSet<String>, good: impl Fn(TaskState) -> bool) -> Result<SystemTime> {
        let mut waiting = ids.clone();
        let mut last = SystemTime::now();
        while !waiting.is_empty() {
            let heard = self.node.master.hear(PATIENCE).await;
            let heard = heard.with_context(|| {
                format!("{} tasks of {} are waited for; {}", waiting.len(), ids.len(), self.node.log_end())
            })?;
            if let Heard::Status { task, state, message, at } = heard {
                if good(state) {
                    waiting.remove(&task);
                    last = at;
                } else if terminal(state) {
                    bail!("task {task}: {state:?} {message}");
                }
            }
        }
        Ok(last)
    }
}
