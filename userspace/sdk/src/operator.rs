//! The operator API of the master: single calls, and the event stream, which is taken up again after each loss.

use std::time::Duration;

use plenum_api::codec::{self, Encoding};
pub use plenum_api::master::{Call, Event, Response, call, event};
use plenum_base::client::Client;
use plenum_base::retry::Backoff;
use tokio::sync::mpsc;

use crate::stream::{Answer, Ask, CallError, Masters, Records, post};

const HOPS: usize = 5;
/// A stream that is silent for so long is dead: five of Mesos' heartbeats.
const IDLE: Duration = Duration::from_secs(75);

/// A client of the operator API.
#[derive(Debug, Clone)]
pub struct Operator {
    client: Client,
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
        let masters = Masters::new(masters.into_iter().map(Into::into).collect(), "/api/v1");
        Self { client, masters, encoding: Encoding::Protobuf, deadline: Duration::from_secs(30) }
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
            match post(
                &self.client,
                Ask { url: &url, encoding, stream_id: None, body: body.clone(), deadline },
            )
            .await?
            {
                Answer::Good(reply) => return Ok((url, reply)),
                Answer::Elsewhere(there) => url = there,
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
        for _ in 0..masters.count() {
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
                Err(error) if error.is_transient() => last = error,
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
                    masters.lead(url);
                    loop {
                        match records.next::<Event>(IDLE).await {
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
            tokio::time::sleep(backoff.delay()).await;
        }
    }
}
