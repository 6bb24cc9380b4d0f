//! The operator API of the master: single calls, and the event stream, which is taken up again after each loss.

use std::time::Duration;

use plenum_api::codec::{self, Encoding};
pub use plenum_api::master::{Call, Event, Response, call, event};
use plenum_base::client::Client;
use plenum_base::leading::Leading;
use plenum_base::retry::Backoff;
use tokio::sync::mpsc;

use crate::masters::Masters;
use crate::stream::{Answer, Ask, CallError, Records, post};

const PATH: &str = "/api/v1";
const HOPS: usize = 5;
/// A stream that is silent for so long is dead: five of Mesos' heartbeats.
const IDLE: Duration = Duration::from_secs(75);

/// A client of the operator API.
#[derive(Debug, Clone)]
pub struct Operator {
    client: Client,
    given: Vec<String>,
    masters: Masters,
    encoding: Encoding,
    deadline: Duration,
}

/// What the stream tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// An event; SUBSCRIBED comes first after each beginning and carries the whole state.
    Event(Box<Event>),
    /// The stream broke and is being taken up again.
    Interrupted {
        /// Why.
        reason: String,
    },
}

impl Operator {
    /// For these masters (`http://host:port`), in protobuf.
    pub fn new<S: Into<String>>(client: Client, masters: impl IntoIterator<Item = S>) -> Self {
        let given: Vec<String> = masters.into_iter().map(Into::into).collect();
        let masters = Masters::new(given.clone(), None, PATH);
        Self { client, given, masters, encoding: Encoding::Protobuf, deadline: Duration::from_secs(30) }
    }

    /// Follows who leads by `leading`, in a fleet: its list takes the place of the one given.
    #[must_use]
    pub fn led_by(self, leading: Leading) -> Self {
        Self { masters: Masters::new(self.given.clone(), Some(leading), PATH), ..self }
    }

    /// Writes messages like this instead.
    #[must_use]
    pub fn with_encoding(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    async fn ask(&self, url: String, call: &Call) -> Result<(String, plenum_base::client::Reply), CallError> {
        let body = codec::encode(self.encoding, call);
        let mut url = url;
        for _ in 0..HOPS {
            let (encoding, deadline) = (self.encoding, self.deadline);
            let ask = Ask { url: &url, encoding, stream_id: None, body: body.clone(), deadline };
            let answer = tokio::select! {
                answer = post(&self.client, ask) => answer?,
                () = self.masters.moved_from(&url) => {
                    let reason = "another leads since it was asked".to_owned();
                    return Err(CallError::NotLeading { url, reason });
                }
            };
            match answer {
                Answer::Good(reply) => return Ok((url, reply)),
                Answer::Elsewhere(there) => url = self.masters.follow(&url, &there)?,
            }
        }
        Err(CallError::NotLeading { url, reason: format!("more than {HOPS} redirects") })
    }

    /// Makes a call, trying each master once. Calls without an answer (202) give none.
    ///
    /// # Errors
    /// The last master's [`CallError`].
    pub async fn call(&self, call: &Call) -> Result<Option<Response>, CallError> {
        let mut masters = self.masters.clone();
        let mut last = CallError::NotSubscribed;
        for _ in 0..masters.list().len().max(1) {
            match self.ask(masters.pick(), call).await {
                Ok((url, reply)) => {
                    let named = reply.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
                    let encoding = named.and_then(Encoding::from_media_type).unwrap_or(self.encoding);
                    let bytes = reply.bytes().await?;
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let content = |e: codec::DecodeError| CallError::Content { url, reason: e.to_string() };
                    return codec::decode(encoding, &bytes).map(Some).map_err(content);
                }
                Err(error) if error.is_transient() => {
                    masters.look();
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Follows the event stream until the receiver is dropped.
    #[must_use]
    pub fn subscribe(&self) -> mpsc::Receiver<Happening> {
        let (to, from) = mpsc::channel(1024);
        let operator = self.clone();
        tokio::spawn(async move {
            let closed = to.clone();
            tokio::select! {
                () = operator.follow(to) => {}
                () = closed.closed() => {}
            }
        });
        from
    }

    async fn follow(self, to: mpsc::Sender<Happening>) {
        let call = Call { r#type: Some(call::Type::Subscribe.into()), ..Default::default() };
        let mut masters = self.masters.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let error = match self.ask(masters.pick(), &call).await {
                Err(error) => error.to_string(),
                Ok((url, reply)) => {
                    let mut records = Records::new(&url, reply);
                    masters.lead(&url);
                    let mut moved = Box::pin(masters.moved_from(&url));
                    loop {
                        let next = tokio::select! {
                            next = records.next::<Event>(IDLE) => next,
                            () = moved.as_mut() => break format!("{url} does not lead any more"),
                        };
                        match next {
                            Ok(Some(event)) => {
                                backoff.reset();
                                if to.send(Happening::Event(Box::new(event))).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => break "the master ended the stream".to_owned(),
                            Err(error) => break error.to_string(),
                        }
                    }
                }
            };
            if to.send(Happening::Interrupted { reason: error }).await.is_err() {
                return;
            }
            masters.look();
            masters.pause(backoff.delay()).await;
        }
    }
}
