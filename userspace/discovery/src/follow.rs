//! Follows a relay and keeps the replica as it is there: takes up where it was, changes to another relay when one is silent, behind, or does
//! not hear the publisher itself, and leaves what is known as it is while there is nobody to follow.

use std::time::{Duration, Instant};

use plenum_base::client::{Client, ClientError};
use plenum_base::service::Shutdown;
use tokio::sync::watch;

use crate::feed::{Beat, Line};
use crate::replica::{LIVE, Shared};

/// A relay that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a relay may take to begin.
const BEGIN: Duration = Duration::from_millis(1500);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Relays that speak of the present, but with an older epoch than the one known here, are believed after this time: the cluster's store was
/// made anew.
const DOUBT: Duration = Duration::from_secs(30);
/// The longest line: everything of a large cluster.
const LINE: usize = 512 << 20;

/// Why a relay is left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("it ended the stream")]
    Ended,
    #[error("it does not hear the publisher")]
    Stale,
    #[error("it tells of epoch {0}, which is over")]
    Older(u64),
    #[error("a step is missing")]
    Missed,
    #[error("it sent what is no line of the stream: {0}")]
    Content(String),
}

/// Follows one of `sources` (base URLs of discovery) after the other until `shutdown`. `first` says with which to begin.
pub async fn follow(
    shared: Shared,
    client: Client,
    mut sources: watch::Receiver<Vec<String>>,
    first: u64,
    shutdown: Shutdown,
) {
    let mut turn = first;
    let mut doubted: Option<Instant> = None;
    let mut said = String::new();
    while !shutdown.is_triggered() {
        let list = sources.borrow_and_update().clone();
        let count = u64::try_from(list.len()).unwrap_or(1).max(1);
        let Some(source) = usize::try_from(turn % count).ok().and_then(|n| list.get(n)) else {
            if !matches!(shutdown.until(sources.changed()).await, Some(Ok(()))) {
                return;
            }
            continue;
        };
        let mut follower = Follower { shared: &shared, alone: list.len() == 1, doubted, quiet: None };
        tokio::select! {
            () = shutdown.wait() => return,
            // Those who stay in the list are followed on.
            () = without(&mut sources, source) => {}
            left = follower.once(&client, source) => {
                let reason = format!("{source}: {left}");
                if reason != said && !follower.alone {
                    tracing::info!(reason, "following another relay of names");
                }
                said = reason;
                turn = turn.wrapping_add(1);
            }
        }
        doubted = follower.doubted;
        shutdown.sleep(PAUSE.mul_f64(0.5 + fraction())).await;
    }
}

/// Waits until a source is no longer in the list.
async fn without(sources: &mut watch::Receiver<Vec<String>>, source: &str) {
    if sources.wait_for(|list| !list.iter().any(|one| one == source)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Something between 0 and 1 that differs between processes and moments: many must not come back together.
fn fraction() -> f64 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    f64::from(nanos.subsec_nanos() % 1000) / 1000.0
}

struct Follower<'a> {
    shared: &'a Shared,
    /// There is nobody else to follow.
    alone: bool,
    /// Since when relays tell of an older epoch.
    doubted: Option<Instant>,
    /// Since when this relay does not hear the publisher.
    quiet: Option<Instant>,
}

impl Follower<'_> {
    /// Follows one relay to its end.
    async fn once(&mut self, client: &Client, source: &str) -> Left {
        match self.read(client, source).await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn read(&mut self, client: &Client, source: &str) -> Result<std::convert::Infallible, Left> {
        let (epoch, generation) = self.shared.read().step();
        let url = format!("{source}/internal/v1/feed?epoch={epoch}&generation={generation}");
        let mut stream = client.get(&url).deadline(BEGIN).send().await?.success().await?.stream();
        let mut buffer: Vec<u8> = Vec::new();
        let mut searched = 0;
        loop {
            let piece = stream.next_within(SILENCE).await?.ok_or(Left::Ended)?;
            buffer.extend_from_slice(&piece);
            let mut begin = 0;
            while let Some(end) = find(&buffer, searched.max(begin)) {
                let line = serde_json::from_slice(buffer.get(begin..end).unwrap_or_default());
                self.take(line.map_err(|error| Left::Content(error.to_string()))?)?;
                begin = end + 1;
            }
            buffer.drain(..begin);
            searched = buffer.len();
            if searched > LINE {
                return Err(Left::Content("a line without an end".to_owned()));
            }
        }
    }

    fn take(&mut self, line: Line) -> Result<(), Left> {
        match line {
            Line::Beat(beat) => self.beat(beat),
            Line::Step(delta) => {
                self.check_epoch(delta.epoch)?;
                if self.shared.apply(delta) { Ok(()) } else { Err(Left::Missed) }
            }
        }
    }

    fn beat(&mut self, beat: Beat) -> Result<(), Left> {
        if !beat.live {
            let since = *self.quiet.get_or_insert_with(Instant::now);
            return if since.elapsed() > LIVE && !self.alone { Err(Left::Stale) } else { Ok(()) };
        }
        self.quiet = None;
        self.check_epoch(beat.epoch)?;
        self.shared.heard();
        Ok(())
    }

    /// What is over is not taken up again, unless all who speak of the present insist.
    fn check_epoch(&mut self, epoch: u64) -> Result<(), Left> {
        let own = self.shared.read().step().0;
        if epoch >= own {
            self.doubted = None;
            return Ok(());
        }
        let since = *self.doubted.get_or_insert_with(Instant::now);
        if self.quiet.is_none() && since.elapsed() > DOUBT { Ok(()) } else { Err(Left::Older(epoch)) }
    }
}

fn find(buffer: &[u8], from: usize) -> Option<usize> {
    let found = buffer.get(from..)?.iter().position(|byte| *byte == b'\n')?;
    Some(from + found)
}
