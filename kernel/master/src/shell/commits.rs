//! Changes of the store: many small ones become one transaction, each under the guard of the leadership.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use plenum_base::service::Shutdown;
use plenum_store::{Guard, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Op, Store, StoreError, Txn};
use tokio::sync::mpsc;

use super::owner::Input;
use crate::core::Token;

type Change = (Token, Vec<Op>);

/// Where the owner leaves its changes.
#[derive(Debug)]
pub(crate) struct Commits {
    collected: Vec<Change>,
    queue: mpsc::UnboundedSender<Vec<Change>>,
}

impl Commits {
    /// Starts the task that writes. `deposed` is pressed when the leadership turns out to be lost.
    pub fn start(store: Arc<dyn Store>, guard: Guard, inbox: mpsc::Sender<Input>, deposed: Shutdown) -> Self {
        // Bounded by what waits for an answer: every change has a call or an agent behind it.
        let (queue, receiver) = mpsc::unbounded_channel();
        tokio::spawn(write(store, guard, receiver, inbox, deposed));
        Self { collected: Vec::new(), queue }
    }

    pub fn push(&mut self, token: Token, ops: Vec<Op>) {
        self.collected.push((token, ops));
    }

    pub fn flush(&mut self) {
        if !self.collected.is_empty() {
            // The writer ends only when the owner is ending, too.
            let _ = self.queue.send(std::mem::take(&mut self.collected));
        }
    }
}

async fn write(
    store: Arc<dyn Store>,
    guard: Guard,
    mut queue: mpsc::UnboundedReceiver<Vec<Change>>,
    inbox: mpsc::Sender<Input>,
    deposed: Shutdown,
) {
    let mut waiting: VecDeque<Change> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(changes) => waiting.extend(changes),
                None => return,
            }
        }
        while let Ok(changes) = queue.try_recv() {
            waiting.extend(changes);
        }
        let (tokens, txn) = next(&mut waiting, &guard);
        let result = match store.commit(txn).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => {
                tracing::error!("the leadership is lost: another master leads");
                deposed.trigger();
                return;
            }
            Err(error) => {
                tracing::warn!(%error, changes = tokens.len(), "the store refused a transaction");
                Err(error.to_string())
            }
        };
        let results = tokens.into_iter().map(|token| (token, result.clone())).collect();
        if inbox.send(Input::Committed(results)).await.is_err() {
            return;
        }
    }
}

/// As many changes as fit into one transaction, in order, no key twice.
fn next(waiting: &mut VecDeque<Change>, guard: &Guard) -> (Vec<Token>, Txn) {
    let mut txn = Txn::new().guard(guard.clone());
    let mut tokens = Vec::new();
    let mut keys: BTreeSet<String> = BTreeSet::new();
    let mut bytes = txn.bytes();
    while let Some((_, ops)) = waiting.front() {
        let size = ops
            .iter()
            .map(|op| op.key().len() + if let Op::Put { value, .. } = op { value.len() } else { 0 })
            .sum::<usize>();
        let full = txn.len() + ops.len() > MAX_OPERATIONS || bytes + size > MAX_TRANSACTION_BYTES;
        // One that is too large by itself is the store's to refuse.
        if !tokens.is_empty() && (full || ops.iter().any(|op| keys.contains(op.key()))) {
            break;
        }
        let Some((token, ops)) = waiting.pop_front() else { break };
        keys.extend(ops.iter().map(|op| op.key().to_owned()));
        bytes += size;
        txn.ops.extend(ops);
        tokens.push(token);
    }
    (tokens, txn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(key: &str) -> Op {
        Op::Delete { key: key.into() }
    }

    #[test]
    fn changes_share_transactions_in_order_and_no_key_comes_twice() {
        let guard = Guard::Exists("leader".into());
        let mut waiting: VecDeque<Change> =
            (0..250).map(|n| (Token(n), vec![delete(&format!("k{n}"))])).collect();
        waiting.push_back((Token(250), vec![delete("k249")]));
        let mut seen = Vec::new();
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            let (tokens, txn) = next(&mut waiting, &guard);
            assert!(txn.len() <= MAX_OPERATIONS && txn.guards == [guard.clone()]);
            sizes.push(tokens.len());
            seen.extend(tokens);
        }
        assert_eq!(seen, (0..=250).map(Token).collect::<Vec<_>>());
        assert_eq!(sizes, [99, 99, 52, 1]);
    }
}
