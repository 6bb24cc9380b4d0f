//! Measures instances: asks their nodes what they use, and themselves for a counter of theirs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plenum_base::client::{Client, ClientError, Reach};
use plenum_base::tls;
use plenum_sdk::operator::{Call, Operator, call};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::core::Event;
use crate::core::id::InstanceId;
use crate::core::scaling::{Measure, Measured, Part, Reading};

/// Questions under way at a time.
const MOST: usize = 64;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long all answers of an app may take: those that are not there by then do not count.
const WHOLE: Duration = Duration::from_secs(30);
/// What a node said counts so long for all apps that want to know.
const FRESH: Duration = Duration::from_millis(900);
/// What a node said is dropped once it is so old.
const DROPPED: Duration = Duration::from_secs(60);
/// How soon the master is asked again where nodes are.
const PLACES: Duration = Duration::from_secs(5);
/// The longest list of what a node's containers use, in bytes.
const LONGEST_LIST: usize = 16 * 1024 * 1024;
/// The longest page of counters.
const LONGEST_PAGE: usize = 1024 * 1024;

/// Until nobody listens, or nobody asks.
pub(super) async fn measure(
    master: Operator,
    agents: Client,
    mut asked: mpsc::UnboundedReceiver<Box<Measure>>,
    to: mpsc::Sender<Event>,
) {
    let plain = match tls::unverified_client_config() {
        Ok(config) => Client::with_reach(config, Reach::WIDE),
        Err(error) => return tracing::error!(%error, "instances cannot be asked for their counters"),
    };
    let nodes = Arc::new(Nodes { master, client: agents, places: Mutex::default(), lists: Mutex::default() });
    let free = Arc::new(Semaphore::new(MOST));
    let mut under_way = JoinSet::new();
    while let Some(measure) = asked.recv().await {
        let asker = Asker { nodes: Arc::clone(&nodes), plain: plain.clone(), free: Arc::clone(&free) };
        let to = to.clone();
        under_way.spawn(async move {
            let measured = asker.all(*measure).await;
            // Nobody listens any more: then it does not matter.
            let _ = to.send(Event::Measured(Box::new(measured))).await;
        });
        while under_way.try_join_next().is_some() {}
    }
}

/// What a node says that its containers use, by executor.
type List = Arc<HashMap<String, Used>>;

/// A container's figures, as far as they are of interest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
struct Used {
    timestamp: Option<f64>,
    cpus_user_time_secs: Option<f64>,
    cpus_system_time_secs: Option<f64>,
    mem_rss_bytes: Option<f64>,
}

#[derive(Deserialize)]
struct Container {
    executor_id: String,
    statistics: Option<Used>,
}

/// What a node said last, and when. Who asks holds it, and others wait for the same answer.
type Said = Arc<Mutex<Option<(Instant, List)>>>;

struct Nodes {
    master: Operator,
    client: Client,
    /// Base addresses by the ids of agents, and when the master was asked for them.
    places: Mutex<(HashMap<String, String>, Option<Instant>)>,
    lists: Mutex<HashMap<String, Said>>,
}

impl Nodes {
    /// What is used on a node; nothing where it does not say.
    async fn list(&self, agent: &str) -> List {
        let place = self.said(agent).await;
        let mut known = place.lock().await;
        if let Some((at, list)) = &*known
            && at.elapsed() < FRESH
        {
            return Arc::clone(list);
        }
        let list = match self.ask(agent).await {
            Ok(list) => Arc::new(list),
            Err(error) => {
                tracing::debug!(%error, agent, "a node does not say what its containers use");
                self.places.lock().await.0.remove(agent);
                List::default()
            }
        };
        *known = Some((Instant::now(), Arc::clone(&list)));
        list
    }

    async fn said(&self, agent: &str) -> Said {
        let mut lists = self.lists.lock().await;
        if let Some(place) = lists.get(agent) {
            return Arc::clone(place);
        }
        // Nodes come and go: what those said that are no longer asked goes when another one comes.
        let old =
            |said: &Option<(Instant, List)>| said.as_ref().is_some_and(|(at, _)| at.elapsed() >= DROPPED);
        lists.retain(|_, place| !place.try_lock().is_ok_and(|said| old(&said)));
        Arc::clone(lists.entry(agent.to_owned()).or_default())
    }

    async fn ask(&self, agent: &str) -> Result<HashMap<String, Used>, ClientError> {
        let Some(place) = self.place(agent).await else { return Ok(HashMap::new()) };
        let url = format!("{place}/monitor/statistics");
        let reply = self.client.get(&url).deadline(DEADLINE).send().await?.success().await?;
        let bytes = reply.bytes_up_to(LONGEST_LIST).await?;
        let list: Vec<Container> = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(list.into_iter().filter_map(|one| Some((one.executor_id, one.statistics?))).collect())
    }

    /// Where an agent is.
    async fn place(&self, agent: &str) -> Option<String> {
        let mut places = self.places.lock().await;
        if !places.0.contains_key(agent) && places.1.is_none_or(|at| at.elapsed() >= PLACES) {
            places.1 = Some(Instant::now());
            let call = Call { r#type: Some(call::Type::GetAgents as i32), ..Default::default() };
            match tokio::time::timeout(DEADLINE, self.master.call(&call)).await {
                Ok(Ok(answer)) => {
                    let agents = answer.and_then(|answer| answer.get_agents).map(|got| got.agents);
                    let place = |agent: plenum_api::master::response::get_agents::Agent| {
                        let (_, address) = agent.pid.as_deref()?.rsplit_once('@')?;
                        Some((agent.agent_info.id?.value, format!("https://{address}")))
                    };
                    places.0 = agents.unwrap_or_default().into_iter().filter_map(place).collect();
                }
                Ok(Err(error)) => tracing::debug!(%error, "the master does not say where nodes are"),
                Err(_) => tracing::debug!("the master does not say in time where nodes are"),
            }
        }
        places.0.get(agent).cloned()
    }
}

struct Asker {
    nodes: Arc<Nodes>,
    plain: Client,
    free: Arc<Semaphore>,
}

impl Asker {
    async fn all(self, measure: Measure) -> Measured {
        let Measure { app, asked, parts, counter } = measure;
        let agents: BTreeSet<String> = parts.iter().map(|part| part.agent.clone()).collect();
        let mut lists = JoinSet::new();
        for agent in agents {
            let (nodes, free) = (Arc::clone(&self.nodes), Arc::clone(&self.free));
            lists.spawn(async move {
                let _turn = free.acquire_owned().await.ok()?;
                let list = nodes.list(&agent).await;
                Some((agent, list))
            });
        }
        let end = tokio::time::Instant::now() + WHOLE;
        let counts = match counter {
            Some(counter) => self.counts(&parts, counter, end).await,
            None => BTreeMap::new(),
        };
        let lists: HashMap<String, List> = until(end, lists).await.into_iter().collect();
        let reading = |part: &Part| {
            let used = lists.get(&part.agent).and_then(|list| list.get(&part.executor));
            let mut reading = used.map_or_else(Reading::default, Used::reading);
            reading.requests = counts.get(&part.instance).copied();
            (part.instance.clone(), reading)
        };
        Measured { app, asked, readings: parts.iter().map(reading).collect() }
    }

    /// The counters of those that show them, and when.
    async fn counts(
        &self,
        parts: &[Part],
        counter: String,
        end: tokio::time::Instant,
    ) -> BTreeMap<InstanceId, (f64, f64)> {
        let counter: Arc<str> = counter.into();
        let mut asked = JoinSet::new();
        for part in parts {
            let Some(url) = part.url.clone() else { continue };
            let (free, client, counter) = (Arc::clone(&self.free), self.plain.clone(), Arc::clone(&counter));
            let id = part.instance.clone();
            asked.spawn(async move {
                let _turn = free.acquire_owned().await.ok()?;
                let call = async {
                    let reply = client.get(&url).deadline(DEADLINE).send().await?.success().await?;
                    reply.bytes_up_to(LONGEST_PAGE).await
                };
                let page = call.await.ok()?;
                let at = now();
                Some((id, (sum(&String::from_utf8_lossy(&page), &counter)?, at)))
            });
        }
        until(end, asked).await.into_iter().collect()
    }
}

/// What there is of these answers at that time; the others are given up.
async fn until<T: 'static>(end: tokio::time::Instant, mut asked: JoinSet<Option<T>>) -> Vec<T> {
    let mut all = Vec::with_capacity(asked.len());
    while let Ok(Some(answer)) = tokio::time::timeout_at(end, asked.join_next()).await {
        all.extend(answer.ok().flatten());
    }
    all
}

impl Used {
    fn reading(&self) -> Reading {
        let seconds = self.cpus_user_time_secs.map(|user| user + self.cpus_system_time_secs.unwrap_or(0.0));
        Reading { cpu: seconds.zip(self.timestamp), memory: self.mem_rss_bytes, requests: None }
    }
}

/// Seconds of the clock by which counters are read.
fn now() -> f64 {
    use plenum_base::clock::OsClock;
    OsClock.now().mono.0 as f64 / 1000.0
}

/// The sum of all series of a counter in the text format of Prometheus; none where there is no such counter.
fn sum(page: &str, counter: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(counter)?;
        let rest = match rest.as_bytes().first()? {
            b'{' => &rest[labels(rest)?..],
            b' ' | b'\t' => rest,
            _ => return None,
        };
        rest.split_ascii_whitespace().next()?.parse::<f64>().ok().filter(|value| value.is_finite())
    };
    page.lines().filter_map(value).reduce(|sum, value| sum + value)
}

/// Where the labels of a series end that begin here: behind the first brace that is not within quotes. What follows may have labels of its
/// own (an exemplar of `OpenMetrics`).
fn labels(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_of_its_series() {
        let page = "# TYPE http_requests_total counter\nhttp_requests_total{code=\"200\",path=\"/a}b\"} 10\n\
            http_requests_total{code=\"500\"} 2.5 1700000000000\nhttp_requests_total_created 7\nother 3\nplain 4\n\
            broken{x=\"1\"\nnothing NaN\nseen_total{a=\"\\\"}\"} 6 # {trace_id=\"4}\"} 0.5 1700\n";
        assert_eq!(sum(page, "http_requests_total"), Some(12.5));
        assert_eq!(sum(page, "plain"), Some(4.0));
        assert_eq!(sum(page, "seen_total"), Some(6.0), "what follows is an example of one request");
        assert_eq!((sum(page, "broken"), sum(page, "nothing"), sum(page, "absent")), (None, None, None));
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_does_not_count() {
        let mut asked = JoinSet::new();
        asked.spawn(async { Some(1) });
        asked.spawn(async { None });
        asked.spawn(async {
            tokio::time::sleep(WHOLE).await;
            Some(2)
        });
        assert_eq!(until(tokio::time::Instant::now() + DEADLINE / 10, asked).await, [1]);
    }

    #[test]
    fn a_nodes_list_is_read_by_executor() {
        let text = r#"[{"executor_id":"a","source":"a","statistics":{"timestamp":5,"cpus_user_time_secs":1.5,"cpus_system_time_secs":0.5,
            "mem_rss_bytes":1024}},{"executor_id":"b","statistics":null}]"#;
        let list: Vec<Container> = serde_json::from_str(text).unwrap();
        let reading = list[0].statistics.unwrap().reading();
        assert_eq!(reading, Reading { cpu: Some((2.0, 5.0)), memory: Some(1024.0), requests: None });
        assert!(list[1].statistics.is_none());
    }
}
