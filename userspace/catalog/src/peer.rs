//! A role that one of several processes leads, as the catalog calls it: the last one that answered first, then the others; redirects are
//! followed to members of the list only. Calls are repeated, so whatever is sent must bear that.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::LOCATION;
use plenum_base::client::{Call, Client, ClientError, Reply};
use plenum_base::leading::member;
use plenum_base::turns::Turns;

/// How long a call may take with everything it is repeated for.
const PATIENCE: Duration = Duration::from_secs(20);
/// What one of several gets of it: it may be dead.
const SHARE: Duration = Duration::from_secs(6);
/// After everybody was asked in vain.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a role is. Clones remember the same.
#[derive(Clone, Debug)]
pub struct Peer {
    client: Client,
    turns: Arc<Mutex<Turns>>,
}

impl Peer {
    /// The role behind `turns`, called with `client`.
    pub fn new(client: Client, turns: Turns) -> Self {
        Self { client, turns: Arc::new(Mutex::new(turns)) }
    }

    fn order(&self) -> Vec<String> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).order()
    }

    /// Sends what `make` makes for a base URL, until one answers that is in charge. On a single machine it is sent once.
    ///
    /// # Errors
    /// The error of the last one asked.
    pub async fn ask(&self, make: impl Fn(&Client, &str) -> Call) -> Result<Reply, ClientError> {
        let end = Instant::now() + PATIENCE;
        let (mut sent_to, mut at): (Option<String>, usize) = (None, 0);
        loop {
            let list = self.order();
            let alone = list.len() <= 1;
            let led = sent_to.take();
            let is_led = led.is_some();
            let url = led.or_else(|| list.get(at % list.len().max(1)).cloned()).unwrap_or_default();
            let left = end.saturating_duration_since(Instant::now());
            let deadline = if alone { left } else { left.min(SHARE) };
            let result = make(&self.client, &url).deadline(deadline).send().await;
            let over = alone || Instant::now() + PAUSE >= end;
            match &result {
                Ok(reply) if reply.status == StatusCode::TEMPORARY_REDIRECT => {
                    let there = reply.headers.get(LOCATION).and_then(|there| there.to_str().ok());
                    // One that was just named and names another: the leadership is on its way. Ask in turn, not in circles.
                    sent_to = there.and_then(|there| member(&list, there)).filter(|_| !is_led);
                }
                Ok(reply) if reply.status != StatusCode::SERVICE_UNAVAILABLE => {
                    self.turns.lock().unwrap_or_else(PoisonError::into_inner).answered(&url);
                    return result;
                }
                Ok(_) | Err(_) => {}
            }
            if over {
                return result;
            }
            if sent_to.is_none() {
                at = at.wrapping_add(1);
                if at.is_multiple_of(list.len().max(1)) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
