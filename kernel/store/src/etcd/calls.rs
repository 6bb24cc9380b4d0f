//! How a call gets past a member that does not answer. What may be said twice (reads, leases) is said to the next member after a
//! moment; a transaction is said once, to a member that answered lately, and is not waited for longer than there is hope.

use std::time::Duration;

use etcd_client::{Client, TxnResponse};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::convert::{self, Call};
use super::pool::{ANSWER, Endpoint, Pool};
use crate::StoreError;

/// After so long without an answer the next member is asked as well.
const HEDGE: Duration = Duration::from_millis(250);
/// The pause between attempts grows up to this: a stream that hangs inside etcd must not stop a lease from being kept alive.
const LONGEST_HEDGE: Duration = Duration::from_secs(2);
/// A transaction that was under way when etcd changed its leader, and is not answered for so long after that, is lost.
const LOST: Duration = Duration::from_millis(700);

/// The pause before a call is said again that came while etcd's users were changed, and how often it is.
const USERS_PAUSE: Duration = Duration::from_millis(30);
const USERS_TRIES: u32 = 20;

/// Whether another member may do better.
fn is_the_members(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}

/// Whether the failure says that the connection or the member is of no use, rather than that this call took too long inside etcd.
fn is_fatal(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            let text = status.message();
            if convert::is_auth_on_the_move(text) {
                return false;
            }
            !text.starts_with("etcdserver:") || text.contains("no leader") || text.contains("learner")
        }
        _ => true,
    }
}

impl Pool {
    /// A call that does no harm when it is carried out twice: to the first member, after a moment to the next one as well, and so on;
    /// the first answer counts.
    pub(super) async fn hedged<T, F>(
        &self,
        call: Call,
        attempt: impl Fn(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let until = Instant::now() + self.options.read().deadline;
        for _ in 0..USERS_TRIES {
            match self.hedged_once(call, &attempt, until).await {
                Err(error) if convert::is_users_moving(&error) => sleep(USERS_PAUSE).await,
                other => return other,
            }
        }
        self.hedged_once(call, &attempt, until).await
    }

    async fn hedged_once<T, F>(
        &self,
        call: Call,
        attempt: &impl Fn(Client) -> F,
        until: Instant,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = self.options.read().deadline;
        let mut running = FuturesUnordered::new();
        let mut asked: Vec<std::sync::Arc<Endpoint>> = Vec::new();
        let mut pause = HEDGE;
        let mut last = None;
        loop {
            let order = self.order();
            let fresh = order.iter().find(|e| !asked.iter().any(|a| std::sync::Arc::ptr_eq(a, e)));
            match fresh {
                Some(endpoint) => {
                    let endpoint = std::sync::Arc::clone(endpoint);
                    asked.push(std::sync::Arc::clone(&endpoint));
                    running.push(self.one(endpoint.clone(), call, attempt(endpoint.client.clone())));
                }
                None if running.is_empty() => match last {
                    Some(error) => return Err(error),
                    None => {
                        self.someone(until).await?;
                        continue;
                    }
                },
                None => {}
            }
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Ok(answer) => return Ok(answer),
                    Err(error) if is_the_members(&error) => last = Some(error),
                    Err(error) => return Err(error),
                },
                () = sleep(pause) => {
                    if let Some(slow) = asked.last() {
                        slow.suspect();
                    }
                    if order.iter().all(|e| asked.iter().any(|a| std::sync::Arc::ptr_eq(a, e))) {
                        // Everybody has been asked: again from the first, with more patience.
                        asked.clear();
                        pause = (pause * 2).min(LONGEST_HEDGE);
                    }
                }
                () = sleep_until(until) => return Err(StoreError::deadline(deadline, call.writes())),
            }
        }
    }

    /// One attempt, on one member.
    async fn one<T>(
        &self,
        endpoint: std::sync::Arc<Endpoint>,
        call: Call,
        attempt: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        tokio::select! {
            outcome = attempt => match outcome {
                Ok(answer) => {
                    endpoint.heard(0);
                    Ok(answer)
                }
                Err(e) => {
                    let error = convert::error(&e, call);
                    if is_the_members(&error) && is_fatal(&e) {
                        self.failed(&endpoint, &error);
                    }
                    Err(error)
                }
            },
            () = endpoint.died() => Err(gone(call)),
        }
    }

    /// A member that answers: it did so a moment ago, or is asked now, and the next one if it does not.
    pub(super) async fn ready(&self, until: Instant) -> Result<std::sync::Arc<Endpoint>, StoreError> {
        let mut last = None;
        loop {
            for endpoint in self.order() {
                if endpoint.is_fresh() {
                    return Ok(endpoint);
                }
                match timeout_at(until, endpoint.ask(endpoint.patience())).await {
                    Ok(Ok(_)) => return Ok(endpoint),
                    // It does not say how it is, but it answers.
                    Ok(Err(StoreError::Broken { .. })) => {
                        endpoint.heard(0);
                        return Ok(endpoint);
                    }
                    Ok(Err(error)) => {
                        endpoint.suspect();
                        last = Some(error);
                    }
                    Err(_) => return Err(last.unwrap_or_else(|| StoreError::deadline(ANSWER, false))),
                }
            }
            if let (Some(error), false) = (last.take(), self.order().is_empty()) {
                return Err(error);
            }
            self.someone(until).await?;
        }
    }

    /// A transaction, said once; again only where it was refused because etcd's users were changed.
    pub(super) async fn commit(&self, call: Call, txn: etcd_client::Txn) -> Result<TxnResponse, StoreError> {
        let until = Instant::now() + self.options.read().deadline;
        for _ in 0..USERS_TRIES {
            match self.commit_once(call, txn.clone(), until).await {
                Err(error) if convert::is_users_moving(&error) => sleep(USERS_PAUSE).await,
                other => return other,
            }
        }
        self.commit_once(call, txn, until).await
    }

    async fn commit_once(
        &self,
        call: Call,
        txn: etcd_client::Txn,
        until: Instant,
    ) -> Result<TxnResponse, StoreError> {
        let deadline = self.options.read().deadline;
        let endpoint = self.ready(until).await?;
        let mut client = endpoint.client.clone();
        let said = self.one(std::sync::Arc::clone(&endpoint), call, client.txn(txn));
        tokio::select! {
            outcome = said => {
                if let Ok(response) = &outcome && let Some(header) = response.header() {
                    endpoint.heard(header.raft_term());
                }
                outcome
            }
            () = hopeless(&endpoint) => Err(gone(call)),
            () = sleep_until(until) => Err(StoreError::deadline(deadline, call.writes())),
        }
    }
}

fn gone(call: Call) -> StoreError {
    let reason = "etcd's member stopped answering".to_owned();
    StoreError::Unavailable { reason, maybe_applied: call.writes() }
}

/// Completes when a transaction that was said to `endpoint` can no longer be expected to be answered: etcd forgets what was on its way
/// to a leader that died, and would let its client wait for seconds.
async fn hopeless(endpoint: &Endpoint) {
    let term = endpoint.term();
    loop {
        sleep(HEDGE).await;
        // Whether it is dead is the pool's to say.
        let _ = endpoint.ask(endpoint.patience()).await;
        if term > 0 && endpoint.term() > term {
            return sleep(LOST).await;
        }
    }
}
