//! Instances that have ended, as the scheduler remembers them.

use serde::{Deserialize, Serialize};

use super::apps::{ROOT, path};
use super::{Session, or_default};
use crate::error::Result;

/// An instance that has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub instance_id: String,
    /// The node's name.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// The node's id.
    #[serde(default, deserialize_with = "or_default")]
    pub slave_id: String,
    /// When it began to run.
    #[serde(default, deserialize_with = "or_default")]
    pub started_at: String,
    /// When it ended.
    #[serde(default, deserialize_with = "or_default")]
    pub ended_at: String,
    /// Whether somebody asked it to.
    #[serde(default, deserialize_with = "or_default")]
    pub asked: bool,
    /// Its tasks.
    #[serde(default, deserialize_with = "or_default")]
    pub tasks: Vec<EndedTask>,
}

/// A task of such an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EndedTask {
    /// Its id.
    #[serde(default, deserialize_with = "or_default")]
    pub id: String,
    /// Its last state.
    #[serde(default, deserialize_with = "or_default")]
    pub state: String,
    /// What was said with it.
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
}

impl Ended {
    /// Its state and what was said, of the task that tells the most.
    #[must_use]
    pub fn reason(&self) -> String {
        let telling = self.tasks.iter().find(|task| !task.message.is_empty()).or(self.tasks.first());
        telling.map_or(String::new(), |task| match task.message.as_str() {
            "" => task.state.clone(),
            message => format!("{}: {message}", task.state),
        })
    }
}

#[derive(Deserialize)]
struct All {
    #[serde(default)]
    ended: Vec<Ended>,
}

impl Session {
    /// What ended of an app or a pod and is remembered, the last one first; also when it is gone.
    ///
    /// # Errors
    /// [`CliError`](crate::error::CliError).
    pub async fn ended_instances(&self, id: &str) -> Result<Vec<Ended>> {
        let all: All = self.get(&format!("{ROOT}/apps/{}/ended", path(id)?)).await?;
        Ok(all.ended)
    }
}
