//! One encoding for many readers: whoever asks while an answer is being written waits for the next one and shares it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use tokio::sync::Mutex;

use crate::core::State;
use crate::shell::owner::{Ended, Handle};

#[derive(Debug)]
struct Written {
    /// When the state was looked at.
    at: Instant,
    generation: u64,
    body: Bytes,
}

/// The last encoding of each answer that depends on the state alone.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    answers: parking::Slots,
}

mod parking {
    use super::{Arc, HashMap, Mutex, Written};

    type Slot = Arc<Mutex<Option<Written>>>;

    #[derive(Debug, Default)]
    pub struct Slots(std::sync::Mutex<HashMap<&'static str, Slot>>);

    impl Slots {
        pub fn of(&self, name: &'static str) -> Slot {
            // Nothing in the critical section panics; a poisoned lock holds a usable map.
            let mut slots = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Arc::clone(slots.entry(name).or_default())
        }
    }
}

impl Cache {
    /// The answer `name` as of now or later. An encoding is shared when its state was taken after this call began, or is the same state.
    pub async fn get(
        &self,
        name: &'static str,
        handle: &Handle,
        write: impl FnOnce(&State) -> Vec<u8> + Send + 'static,
    ) -> Result<Bytes, Ended> {
        let asked = Instant::now();
        let slot = self.answers.of(name);
        let mut slot = slot.lock().await;
        if let Some(written) = slot.as_ref().filter(|written| written.at >= asked) {
            return Ok(written.body.clone());
        }
        let at = Instant::now();
        let state = handle.state().await?;
        if let Some(written) = slot.as_mut().filter(|written| written.generation == state.generation) {
            written.at = at;
            return Ok(written.body.clone());
        }
        let generation = state.generation;
        let body = encode(state, write).await;
        *slot = Some(Written { at, generation, body: body.clone() });
        Ok(body)
    }
}

/// Writes an answer away from the threads that serve, unless there is little to write.
pub(crate) async fn encode(
    state: Arc<State>,
    write: impl FnOnce(&State) -> Vec<u8> + Send + 'static,
) -> Bytes {
    if state.tasks.len() + state.agents.len() < 200 {
        return write(&state).into();
    }
    tokio::task::spawn_blocking(move || write(&state)).await.unwrap_or_default().into()
}
