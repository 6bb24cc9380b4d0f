//! What the gateway has learnt: the table of services, kept fresh by `follow`, and, asked of the master when needed and remembered, where
//! agents are and which web addresses frameworks gave.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use plenum_base::client::{Client, ClientError};
use plenum_base::leading::Leading;
use serde_json::Value;
use tokio::sync::watch;

use crate::table::Table;

/// Agents beyond which the memory is emptied.
const MOST: usize = 20_000;
/// How long an agent that the master does not know is not asked for again.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How old the list of frameworks may be when a name is not found in it.
const FRAMEWORKS: Duration = Duration::from_secs(1);
/// How long the master may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is known of one agent.
#[derive(Debug, Clone)]
enum Known {
    /// Its base address.
    At(String),
    /// The master does not know it, until then.
    Nobody(Instant),
}

/// What the gateway has learnt.
#[derive(Debug)]
pub struct Directory {
    table: RwLock<Table>,
    changes: watch::Sender<u64>,
    agents: Mutex<HashMap<String, Known>>,
    /// When the frameworks were asked for; the lock lets one ask at a time.
    frameworks: tokio::sync::Mutex<Option<Instant>>,
    master: Client,
    leading: Leading,
}

impl Directory {
    /// Knows nothing yet.
    pub fn new(master: Client, leading: Leading) -> Self {
        Self {
            table: RwLock::default(),
            changes: watch::channel(0).0,
            agents: Mutex::default(),
            frameworks: tokio::sync::Mutex::default(),
            master,
            leading,
        }
    }

    /// Looks something up in the table.
    pub fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.read())
    }

    /// Changes the table and tells those who wait for it.
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.write());
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Learns of each change of the table.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// An agent's base address; none where the master knows no such agent.
    ///
    /// # Errors
    /// [`ClientError`] when the master cannot be asked.
    pub async fn agent(&self, id: &str) -> Result<Option<String>, ClientError> {
        match self.agents.lock().get(id) {
            Some(Known::At(address)) => return Ok(Some(address.clone())),
            Some(Known::Nobody(until)) if Instant::now() < *until => return Ok(None),
            _ => {}
        }
        // An id has passed the router: nothing in it needs encoding.
        let answer = self.ask_master(&format!("/slaves?slave_id={id}")).await?;
        let found = agent_address(&answer, id);
        let known = match &found {
            Some(address) => Known::At(address.clone()),
            None => Known::Nobody(Instant::now() + UNKNOWN),
        };
        let mut agents = self.agents.lock();
        if agents.len() >= MOST {
            agents.clear();
        }
        agents.insert(id.to_owned(), known);
        Ok(found)
    }

    /// Asks the leading master; gives up at once when another one leads.
    async fn ask_master(&self, path: &str) -> Result<Value, ClientError> {
        let base = self.leading.place();
        let url = format!("{base}{path}");
        let call = async {
            self.master.get(&url).deadline(DEADLINE).send().await?.success().await?.json::<Value>().await
        };
        let answered = tokio::select! {
            answered = call => answered,
            () = self.leading.moved_from(&base) => {
                let reason = "it leads no longer".to_owned();
                Err(ClientError::Transport { url: url.clone(), reason, connect: false })
            }
        };
        if answered.is_err() {
            self.leading.look();
        }
        answered
    }

    /// Forgets an agent's address: nobody answered there.
    pub fn forget_agent(&self, id: &str) {
        self.agents.lock().remove(id);
    }

    /// Asks the master for its frameworks, unless that was done a moment ago. True when it was asked now.
    pub async fn refresh_frameworks(&self) -> bool {
        let mut asked = self.frameworks.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRAMEWORKS) {
            return false;
        }
        *asked = Some(Instant::now());
        match self.ask_master("/state-summary").await {
            Ok(answer) => {
                self.change(|table| table.put_frameworks(&answer));
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the master's frameworks cannot be read");
                false
            }
        }
    }
}

/// The address in `{"slaves": [{"id", "pid": "slave(1)@HOST:PORT"}]}`.
fn agent_address(answer: &Value, id: &str) -> Option<String> {
    let agents = answer.get("slaves")?.as_array()?;
    let one = agents.iter().find(|agent| agent.get("id").and_then(Value::as_str) == Some(id))?;
    let (_, address) = one.get("pid")?.as_str()?.rsplit_once('@')?;
    let authority: http::uri::Authority = address.parse().ok()?;
    authority.port_u16().map(|_| format!("https://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn agents_are_where_their_process_ids_say() {
        let answer = json!({"slaves": [{"id": "a", "pid": "slave(1)@10.0.0.1:5051"}, {"id": "b", "pid": "slave(1)@[::1]:5051"},
            {"id": "c", "pid": "nowhere"}, {"id": "d", "pid": "x@host"}, {"id": "e", "pid": "x@h:1/p"}, {"id": 7}]});
        assert_eq!(agent_address(&answer, "a").as_deref(), Some("https://10.0.0.1:5051"));
        assert_eq!(agent_address(&answer, "b").as_deref(), Some("https://[::1]:5051"));
        for none in ["c", "d", "e", "f", ""] {
            assert_eq!(agent_address(&answer, none), None, "{none}");
        }
    }
}
