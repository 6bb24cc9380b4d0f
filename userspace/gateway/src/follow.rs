//! Keeps the table of services fresh: all of them once, then, app by app, what the service scheduler's events say has changed. While the
//! scheduler is away the last table stands.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::client::{Client, ClientError, Stream};
use plenum_base::leading::Leading;
use plenum_base::retry::Backoff;
use plenum_base::service::Shutdown;
use serde_json::Value;

use crate::directory::Directory;
use crate::path::encode;

/// The scheduler sends at least a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// The longest line of an event.
const LINE: usize = 8 * 1024 * 1024;
/// Events that say something about an app.
const KINDS: [&str; 9] = [
    "status_update_event",
    "health_status_changed_event",
    "api_post_event",
    "app_terminated_event",
    "group_change_success",
    "deployment_info",
    "deployment_step_success",
    "deployment_success",
    "deployment_failed",
];

/// Follows until `shutdown`.
pub async fn follow(directory: Arc<Directory>, client: Client, leading: Leading, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let base = leading.place();
        let follower = Follower { directory: Arc::clone(&directory), client: client.clone(), base };
        tokio::select! {
            () = shutdown.wait() => return,
            // A leader that was switched off says nothing, not even that it is gone.
            () = leading.moved_from(&follower.base) => {
                backoff.reset();
                continue;
            }
            ended = follower.once(&mut backoff) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "the service scheduler's events cannot be followed; trying again");
                }
                leading.look();
            }
        }
        if !shutdown.sleep(backoff.delay()).await {
            return;
        }
    }
}

struct Follower {
    directory: Arc<Directory>,
    client: Client,
    base: String,
}

/// What to read again.
#[derive(Debug, Default, PartialEq, Eq)]
struct Dirty {
    /// Apps of which something changed.
    changed: BTreeSet<String>,
    /// Apps of which only an instance changed: nothing to us unless they are services already.
    instances: BTreeSet<String>,
    /// Events were lost, or name no app.
    all: bool,
}

impl Follower {
    /// Follows one stream to its end.
    async fn once(&self, backoff: &mut Backoff) -> Result<(), ClientError> {
        let kinds: String = KINDS.iter().map(|kind| format!("&event_type={kind}")).collect();
        let url = format!("{}/v2/events?plan-format=light{kinds}", self.base);
        let call = self.client.get(&url).header(http::header::ACCEPT, "text/event-stream");
        // Listening begins before reading: what changes in between is read twice, never missed.
        let mut stream = call.send().await?.success().await?.stream();
        self.read_all().await?;
        backoff.reset();
        let mut buffer = Vec::new();
        loop {
            let Some(dirty) = next(&mut stream, &mut buffer).await? else { return Ok(()) };
            if dirty.all {
                self.read_all().await?;
                continue;
            }
            let known = |app: &&String| self.directory.read(|table| table.knows(app));
            let instances: Vec<String> = dirty.instances.iter().filter(known).cloned().collect();
            for app in dirty.changed.into_iter().chain(instances) {
                self.read_one(&app).await?;
            }
        }
    }

    async fn read_all(&self) -> Result<(), ClientError> {
        let url = format!("{}/v2/apps?label=DCOS_SERVICE_NAME&embed=apps.tasks", self.base);
        let answer: Value = self.client.get(&url).send().await?.success().await?.json().await?;
        self.directory.change(|table| table.put_all(&answer));
        Ok(())
    }

    async fn read_one(&self, app: &str) -> Result<(), ClientError> {
        let path: String =
            app.split('/').filter(|s| !s.is_empty()).map(|s| format!("/{}", encode(s))).collect();
        let url = format!("{}/v2/apps{path}?embed=app.tasks", self.base);
        let answer = match self.client.get(&url).send().await?.success().await {
            Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => None,
            answer => Some(answer?.json::<Value>().await?),
        };
        let read = answer.as_ref().and_then(|answer| answer.get("app"));
        self.directory.change(|table| {
            table.put(app, read);
        });
        Ok(())
    }
}

/// The next piece of the stream, reduced to what to read again; `None` at its end.
async fn next(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Option<Dirty>, ClientError> {
    let Some(piece) = stream.next_within(SILENCE).await? else { return Ok(None) };
    buffer.extend_from_slice(&piece);
    Ok(Some(take_lines(buffer)))
}

/// Takes whole lines out of `buffer`.
fn take_lines(buffer: &mut Vec<u8>) -> Dirty {
    let mut dirty = Dirty::default();
    let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for line in buffer.drain(..whole).as_slice().split(|byte| *byte == b'\n') {
        note(line, &mut dirty);
    }
    if buffer.len() > LINE {
        buffer.clear();
        dirty.all = true;
    }
    dirty
}

/// Notes what one line of the stream says.
fn note(line: &[u8], dirty: &mut Dirty) {
    let Some(data) = line.strip_prefix(b"data:") else {
        // A comment with words in it says that events were lost.
        dirty.all |= line.strip_prefix(b":").is_some_and(|words| !words.trim_ascii().is_empty());
        return;
    };
    let Ok(event) = serde_json::from_slice::<Value>(data) else {
        dirty.all = true;
        return;
    };
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    match text("/eventType").as_deref() {
        Some("status_update_event" | "health_status_changed_event") => dirty.instances.extend(text("/appId")),
        Some("api_post_event") => match text("/appDefinition/id").or_else(|| text("/appId")) {
            Some(app) => drop(dirty.changed.insert(app)),
            None => dirty.all = true,
        },
        Some("app_terminated_event") => dirty.changed.extend(text("/appId")),
        Some(kind) if kind.starts_with("deployment_") => {
            let found = actions(&event);
            dirty.all |= found.is_empty();
            dirty.changed.extend(found);
        }
        Some("group_change_success") => dirty.all = true,
        _ => {}
    }
}

/// The apps that a deployment's event names, wherever it does.
fn actions(event: &Value) -> BTreeSet<String> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut steps = list(event.pointer("/plan/steps"));
    steps.extend(event.get("currentStep").cloned());
    let apps = steps.iter().flat_map(|step| list(step.get("actions")));
    let mut found: BTreeSet<String> =
        apps.filter_map(|action| action.get("app")?.as_str().map(str::to_owned)).collect();
    let affected = list(event.pointer("/plan/affectedAppIds"));
    found.extend(affected.iter().filter_map(Value::as_str).map(str::to_owned));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_say_what_to_read_again() {
        let cases = [
            (
                r#"data: {"eventType":"status_update_event","appId":"/a"}"#,
                "changed=[] instances=[/a] all=false",
            ),
            (
                r#"data: {"eventType":"api_post_event","appDefinition":{"id":"/b"}}"#,
                "changed=[/b] instances=[] all=false",
            ),
            (r#"data: {"eventType":"api_post_event"}"#, "changed=[] instances=[] all=true"),
            (
                r#"data: {"eventType":"deployment_success","plan":{"steps":[{"actions":[{"app":"/c"},{"app":"/d"}]}]}}"#,
                "changed=[/c,/d] instances=[] all=false",
            ),
            (
                r#"data: {"eventType":"deployment_info","currentStep":{"actions":[{"app":"/e"}]}}"#,
                "changed=[/e] instances=[] all=false",
            ),
            (r#"data: {"eventType":"deployment_info","plan":7}"#, "changed=[] instances=[] all=true"),
            (r#"data: {"eventType":"event_stream_attached"}"#, "changed=[] instances=[] all=false"),
            (": 17 events were lost", "changed=[] instances=[] all=true"),
            (":", "changed=[] instances=[] all=false"),
            ("event: deployment_info", "changed=[] instances=[] all=false"),
            ("data: {", "changed=[] instances=[] all=true"),
            ("", "changed=[] instances=[] all=false"),
        ];
        for (line, wanted) in cases {
            let mut dirty = Dirty::default();
            note(line.as_bytes(), &mut dirty);
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
            let (changed, instances) = (list(&dirty.changed), list(&dirty.instances));
            assert_eq!(
                format!("changed=[{changed}] instances=[{instances}] all={}", dirty.all),
                wanted,
                "{line}"
            );
        }
    }

    #[test]
    fn lines_arrive_in_pieces() {
        let mut buffer = b"event: x\nda".to_vec();
        assert_eq!(take_lines(&mut buffer), Dirty::default());
        assert_eq!(buffer, b"da");
        buffer.extend_from_slice(br#"ta: {"eventType":"app_terminated_event","appId":"/a"}"#);
        buffer.extend_from_slice(b"\n\nrest");
        assert_eq!(take_lines(&mut buffer).changed, ["/a".to_owned()].into());
        assert_eq!(buffer, b"rest");
        buffer.resize(LINE + 1, b'x');
        assert!(take_lines(&mut buffer).all && buffer.is_empty());
    }
}
