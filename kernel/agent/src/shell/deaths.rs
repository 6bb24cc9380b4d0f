//! Tells the node's discovery that a task has ended, before any master knows: it leaves names and tables here at once. One datagram, never
//! waited for, never repeated; what is lost here comes around by the master.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use plenum_api::internal::agent_message::Kind;
use plenum_api::mesos::TaskState;
use serde_json::json;

/// Where discovery listens, seen from the agent's runtime folder: on a single machine, and where each role has a folder of its own.
const PLACES: [&str; 2] = ["deaths.sock", "discovery/deaths.sock"];

/// Tells deaths.
#[derive(Debug)]
pub(crate) struct Deaths {
    socket: Option<UnixDatagram>,
    places: Vec<PathBuf>,
}

impl Deaths {
    /// For an agent with this runtime folder.
    pub(crate) fn new(run_dir: &Path) -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let places = run_dir.parent().into_iter().flat_map(|folder| PLACES.map(|place| folder.join(place)));
        Self { socket: socket.ok(), places: places.collect() }
    }

    /// Looks at what is said to the master, and tells discovery of an end.
    pub(crate) fn note(&self, message: &Kind) {
        let (Some(socket), Kind::StatusUpdate(update)) = (&self.socket, message) else { return };
        if !TaskState::try_from(update.status.state).is_ok_and(ended) {
            return;
        }
        let told =
            json!({"framework": update.framework_id.value, "task": update.status.task_id.value}).to_string();
        for place in &self.places {
            // Nobody there, or too much at once: the master tells it too.
            let _ = socket.send_to(told.as_bytes(), place);
        }
    }
}

fn ended(state: TaskState) -> bool {
    use TaskState as S;
    matches!(
        state,
        S::TaskFinished
            | S::TaskFailed
            | S::TaskKilled
            | S::TaskLost
            | S::TaskError
            | S::TaskDropped
            | S::TaskGone
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_api::internal;
    use plenum_api::mesos::TaskStatus;

    #[test]
    fn ends_are_told_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("discovery")).unwrap();
        let heard = UnixDatagram::bind(dir.path().join("discovery/deaths.sock")).unwrap();
        heard.set_nonblocking(true).unwrap();
        let deaths = Deaths::new(&dir.path().join("agent"));
        for state in [TaskState::TaskRunning, TaskState::TaskKilling, TaskState::TaskFailed] {
            let status = TaskStatus { task_id: "t".into(), state: state.into(), ..Default::default() };
            let update = internal::StatusUpdate { framework_id: "f".into(), status, ..Default::default() };
            deaths.note(&Kind::StatusUpdate(update));
        }
        let mut buffer = [0; 200];
        let length = heard.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], br#"{"framework":"f","task":"t"}"#);
        assert!(heard.recv(&mut buffer).is_err(), "one end, one word");
    }
}
