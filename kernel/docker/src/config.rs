//! Settings of the runtime: where the engine is, where records lie, how long anything may take.

use plenum_containers::LogBudget;
use std::path::PathBuf;
use std::time::Duration;

/// Settings. [`DockerConfig::new`] has what suits an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// The engine's socket.
    pub socket: PathBuf,
    /// What tells this agent's containers from others' on the same engine.
    pub instance: String,
    /// Folder for one folder a container; survives a restart of the agent.
    pub run_dir: PathBuf,
    /// For each call that is not named below.
    pub call: Duration,
    /// For the engine to say that it is there.
    pub ping: Duration,
    /// Between two of these questions.
    pub ping_every: Duration,
    /// How long a launch, or any other call, waits for an engine that is away.
    pub patience: Duration,
    /// For a whole pull.
    pub pull: Duration,
    /// For a pull to show any progress.
    pub pull_stall: Duration,
    /// For the last output of a container that has ended.
    pub drain: Duration,
    /// After this a container whose process is gone counts as ended, though the engine has not said how.
    pub give_up: Duration,
    /// The same, if the container was to be killed.
    pub give_up_killed: Duration,
    /// Budget of each stream of output in the sandbox; `None`: one file without limit.
    pub logs: Option<LogBudget>,
    /// How often a disk limit is measured.
    pub disk_interval: Duration,
    /// File with the images that were pulled for tasks, so that they can be removed again; `None`: they stay.
    pub images: Option<PathBuf>,
    /// Bytes of output that the engine keeps by itself: as much may be written while no agent runs, without a loss.
    pub keep_output: u64,
}

impl DockerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(instance: impl Into<String>, socket: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            socket: socket.into(),
            instance: instance.into(),
            run_dir: run_dir.into(),
            call: seconds(30),
            ping: seconds(5),
            ping_every: seconds(5),
            patience: seconds(15),
            pull: seconds(30 * 60),
            pull_stall: seconds(120),
            drain: seconds(10),
            give_up: seconds(300),
            give_up_killed: seconds(10),
            logs: None,
            disk_interval: seconds(15),
            images: None,
            keep_output: 64 << 20,
        }
    }
}
