//! Who leads a role that elects (`docs/adr/0014`): every master's `GET /leader` is asked each second, and at once when somebody says that the
//! leader is not what it was. What is sent to the leader, and what is done when there is none, is the caller's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::client::Client;
use crate::cluster::Masters;
use crate::places::Role;
use crate::service::Shutdown;

/// How often the masters are asked.
const EVERY: Duration = Duration::from_secs(1);
/// While nobody says of itself that it leads, they are asked this often.
const SOON: Duration = Duration::from_millis(200);
/// How long each may take.
const DEADLINE: Duration = Duration::from_millis(500);

/// What `GET /leader` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The leader's base URL, as far as the one who answers knows.
    pub leader: Option<String>,
    /// Whether the one who answers leads.
    #[serde(default, rename = "self")]
    pub own: bool,
    /// The leader's term.
    #[serde(default)]
    pub term: u64,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The base URL, as the list of masters has it.
    pub url: String,
    /// The term.
    pub term: u64,
}

/// Follows who leads a role. Clones follow the same. On a single machine nobody is asked: its one address stands for the leader.
#[derive(Debug, Clone)]
pub struct Leading {
    role: Role,
    masters: Masters,
    configured: Arc<[String]>,
    current: watch::Receiver<Option<Leader>>,
    look: Arc<Notify>,
}

impl Leading {
    /// Begins to follow, until `shutdown`. `configured` is where the role is on a single machine.
    #[must_use]
    pub fn follow(
        role: Role,
        client: Client,
        masters: Masters,
        configured: &[String],
        shutdown: Shutdown,
    ) -> Self {
        let (to, current) = watch::channel(None);
        let look = Arc::new(Notify::new());
        let trimmed = configured.iter().map(|url| url.trim_end_matches('/').to_owned());
        let leading = Self { role, masters, configured: trimmed.collect(), current, look };
        tokio::spawn(keep(leading.clone(), client, to, shutdown));
        leading
    }

    /// Whether several masters stand in for each other.
    #[must_use]
    pub fn is_fleet(&self) -> bool {
        self.masters.is_fleet()
    }

    /// The base URLs of the role.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.masters.or(self.role, &self.configured)
    }

    /// Who leads; none while that is not known, and always none on a single machine.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.current.borrow().clone()
    }

    /// Where to ask: the leader; while none is known, everybody in turn.
    #[must_use]
    pub fn places(&self) -> Vec<String> {
        match self.leader() {
            Some(leader) if self.is_fleet() => vec![leader.url],
            _ => self.list(),
        }
    }

    /// The first of [`Leading::places`].
    #[must_use]
    pub fn place(&self) -> String {
        self.places().into_iter().next().unwrap_or_default()
    }

    /// Asks now: somebody met an error, or was sent elsewhere.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Learns of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Leader>> {
        self.current.clone()
    }

    /// Waits until somebody else than `url` leads. On a single machine that never happens.
    pub async fn moved_from(&self, url: &str) {
        self.moved_since(url, None).await;
    }

    /// Waits until somebody leads who is neither at `url` nor the one that was `known` when `url` was chosen: the place for one who was sent
    /// to `url` before the change was heard of here.
    pub async fn moved_since(&self, url: &str, known: Option<&Leader>) {
        let mut current = self.current.clone();
        let another = |leader: &Option<Leader>| {
            leader.as_ref().is_some_and(|leader| leader.url != url && Some(leader) != known)
        };
        if current.wait_for(another).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The member of the list that a `Location` names, if it names one: redirects lead nowhere else.
    #[must_use]
    pub fn member(&self, location: &str) -> Option<String> {
        member(&self.list(), location)
    }

    /// A leader that never changes and is asked nothing: tests, and tools.
    #[must_use]
    pub fn fixed(role: Role, configured: &[String]) -> Self {
        let masters = Masters::fixed(&[]);
        let (_, current) = watch::channel(None);
        Self { role, masters, configured: configured.into(), current, look: Arc::new(Notify::new()) }
    }
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or_else(|| url.strip_prefix("//").unwrap_or(""), |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The base URL of the list whose host and port are those of `location` (a URL, or `//host:port/path`).
#[must_use]
pub fn member(list: &[String], location: &str) -> Option<String> {
    let named = authority(location);
    list.iter().find(|url| !named.is_empty() && authority(url).eq_ignore_ascii_case(named)).cloned()
}

/// Who leads by these answers, each with the URL of who gave it: who says so of itself with the highest term, else whom the others name.
/// A term below `known` is the past, unless the one who has it says so of itself.
fn decide(list: &[String], answers: &[(String, Answer)], known: u64) -> Option<Leader> {
    let own = answers.iter().filter(|(_, answer)| answer.own);
    let own = own.max_by_key(|(_, answer)| answer.term);
    let named = answers.iter().filter_map(|(_, answer)| {
        let url = member(list, answer.leader.as_deref()?)?;
        (answer.term >= known).then_some(Leader { url, term: answer.term })
    });
    let named = named.max_by_key(|leader| leader.term);
    let own = own.map(|(url, answer)| Leader { url: url.clone(), term: answer.term });
    match (own, named) {
        (Some(own), Some(named)) if named.term > own.term => Some(named),
        (Some(own), _) => Some(own),
        (None, named) => named,
    }
}

async fn keep(leading: Leading, client: Client, to: watch::Sender<Option<Leader>>, shutdown: Shutdown) {
    let mut masters = leading.masters.clone();
    let mut known = 0;
    loop {
        if !leading.is_fleet() {
            to.send_if_modified(|leader| leader.take().is_some());
            if shutdown.until(masters.changed()).await.is_none() {
                return;
            }
            continue;
        }
        let list = leading.list();
        let Some((found, confirmed)) = shutdown.until(find(&client, &list, known)).await else { return };
        known = found.as_ref().map_or(known, |leader| leader.term);
        let pause = if confirmed { EVERY } else { SOON };
        to.send_if_modified(|leader| {
            let changed = *leader != found;
            *leader = found;
            changed
        });
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
            () = leading.look.notified() => tokio::time::sleep(Duration::from_millis(20)).await,
            () = masters.changed() => {}
        }
    }
}

/// Asks all of `list` at once who leads; `known` is the term of the leader known. One that says of itself that it leads in a newer term is
/// believed at once; otherwise everybody is waited for, half a second at most. The flag says that the leader said so itself.
pub async fn find(client: &Client, list: &[String], known: u64) -> (Option<Leader>, bool) {
    let mut asked: FuturesUnordered<_> = list.iter().map(|url| ask(client, url)).collect();
    let mut answers: Vec<(String, Answer)> = Vec::new();
    while let Some(answer) = asked.next().await {
        let Some((url, answer)) = answer else { continue };
        if answer.own && answer.term > known {
            return (Some(Leader { url, term: answer.term }), true);
        }
        answers.push((url, answer));
    }
    let found = decide(list, &answers, known);
    let confirmed = found
        .as_ref()
        .is_some_and(|leader| answers.iter().any(|(url, answer)| answer.own && *url == leader.url));
    (found, confirmed)
}

/// Whether the one at `url` says that it leads.
pub async fn leads(client: &Client, url: &str) -> bool {
    ask(client, url).await.is_some_and(|(_, answer)| answer.own)
}

async fn ask(client: &Client, url: &str) -> Option<(String, Answer)> {
    let call = async {
        client.get(&format!("{url}/leader")).deadline(DEADLINE).send().await?.success().await?.json().await
    };
    match call.await {
        Ok(answer) => Some((url.to_owned(), answer)),
        Err(error) => {
            tracing::trace!(%error, "who leads cannot be asked");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(from: &str, leader: Option<&str>, own: bool, term: u64) -> (String, Answer) {
        (format!("https://{from}:1"), Answer { leader: leader.map(|l| format!("https://{l}:1")), own, term })
    }

    #[test]
    fn who_leads() {
        let list: Vec<String> = ["a", "b", "c"].map(|name| format!("https://{name}:1")).into();
        let cases = [
            (vec![], 0, None),
            (vec![answer("a", None, false, 0), answer("b", None, false, 0)], 3, None),
            (vec![answer("a", Some("a"), true, 3), answer("b", Some("a"), false, 3)], 3, Some(("a", 3))),
            // The one that was deposed does not know it yet.
            (vec![answer("a", Some("a"), true, 3), answer("b", Some("b"), true, 4)], 3, Some(("b", 4))),
            (vec![answer("a", Some("a"), true, 3), answer("b", Some("c"), false, 4)], 3, Some(("c", 4))),
            (vec![answer("b", Some("a"), false, 3)], 0, Some(("a", 3))),
            // Hearsay of an older term than the one known.
            (vec![answer("b", Some("a"), false, 3)], 4, None),
            // Nobody leaves the list.
            (vec![answer("b", Some("evil"), false, 9)], 0, None),
        ];
        for (answers, known, wanted) in cases {
            let found = decide(&list, &answers, known);
            let wanted = wanted.map(|(name, term)| Leader { url: format!("https://{name}:1"), term });
            assert_eq!(found, wanted, "{answers:?}");
        }
    }

    #[test]
    fn redirects_stay_within_the_list() {
        let list = ["https://10.0.0.1:5050".to_owned(), "https://[fd00::2]:5050".to_owned()];
        for (location, wanted) in [
            ("//10.0.0.1:5050/api/v1", Some(0)),
            ("https://[FD00::2]:5050/x?y", Some(1)),
            ("http://10.0.0.1:5050", Some(0)),
            ("https://10.0.0.1:5051/api/v1", None),
            ("/api/v1", None),
            ("//10.0.0.1:5050.evil/x", None),
            ("https://evil/10.0.0.1:5050", None),
            ("", None),
        ] {
            assert_eq!(member(&list, location), wanted.map(|n: usize| list[n].clone()), "{location}");
        }
    }

    #[test]
    fn the_wire_form() {
        let text = r#"{"leader":"https://10.0.0.1:5050","self":true,"term":4}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        assert!(answer.own && serde_json::to_string(&answer).unwrap() == text);
        assert_eq!(serde_json::from_str::<Answer>(r#"{"leader":null}"#).unwrap(), Answer::default());
    }

    #[tokio::test]
    async fn on_a_single_machine_its_address_stands() {
        let leading = Leading::fixed(Role::Master, &["https://127.88.0.1:5050".to_owned()]);
        assert_eq!(leading.place(), "https://127.88.0.1:5050");
        assert!(!leading.is_fleet() && leading.leader().is_none());
        let moved = tokio::time::timeout(Duration::from_millis(20), leading.moved_from("x")).await;
        assert!(moved.is_err());
    }
}
