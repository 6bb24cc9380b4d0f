//! Filling a sandbox with what a command names in its URIs.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plenum_api::mesos::CommandInfo;
use plenum_containers::fetch::{self, FetchOptions, FetchUri, Progress};

use super::voice::Voice;
use crate::config::Config;

/// What is done within this long is not worth a word.
const QUIET: Duration = Duration::from_secs(1);
/// Lines about one download are at most this far apart.
const APART: Duration = Duration::from_secs(30);

/// Fetches for all tasks: how, where downloads are kept, and how it went so far.
pub(crate) struct Fetcher {
    options: FetchOptions,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Fetcher {
    /// Opens the cache. Without one every task downloads for itself.
    pub fn open(config: &Config) -> Self {
        let options = FetchOptions {
            deadline: config.fetch_deadline(),
            stall_timeout: Duration::from_secs(config.fetch_stall.max(1)),
            attempts: config.fetch_attempts.max(1),
            max_bytes: config.fetch_max,
            max_unpacked_bytes: config.fetch_max,
            cache: open_cache(config),
            ..FetchOptions::default()
        };
        Self { options, succeeded: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Fetches everything, in order. The owner is who the files shall belong to.
    pub async fn fetch(
        &self,
        command: &CommandInfo,
        sandbox: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(), String> {
        if command.uris.is_empty() {
            return Ok(());
        }
        let options = FetchOptions { owner, ..self.options.clone() };
        let fetched = tokio::time::timeout(options.deadline, fetch(command, sandbox, &options)).await;
        let fetched = fetched.map_err(|_| "fetching took too long".to_owned()).and_then(|fetched| fetched);
        let count = if fetched.is_ok() { &self.succeeded } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        fetched
    }

    /// How it went, under Mesos' names.
    pub fn figures(&self) -> [(&'static str, f64); 4] {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let cache = self.options.cache.as_ref();
        [
            ("containerizer/fetcher/task_fetches_succeeded", count(&self.succeeded)),
            ("containerizer/fetcher/task_fetches_failed", count(&self.failed)),
            (
                "containerizer/fetcher/cache_size_total_bytes",
                cache.map_or(0.0, |cache| cache.capacity() as f64),
            ),
            ("containerizer/fetcher/cache_size_used_bytes", cache.map_or(0.0, |cache| cache.used() as f64)),
        ]
    }
}

fn open_cache(config: &Config) -> Option<fetch::Cache> {
    if config.fetch_cache == 0 {
        return None;
    }
    let folder = config.work_dir.join("fetch");
    let opened = fetch::Cache::open(&folder, config.fetch_cache);
    opened
        .inspect_err(|error| tracing::warn!(folder = %folder.display(), %error, "downloads are not kept"))
        .ok()
}

async fn fetch(command: &CommandInfo, sandbox: &Path, options: &FetchOptions) -> Result<(), String> {
    let uris: Vec<FetchUri> = command
        .uris
        .iter()
        .map(|uri| FetchUri {
            value: uri.value.clone(),
            extract: uri.extract(),
            executable: uri.executable(),
            output_file: uri.output_file.clone(),
            cache: uri.cache(),
        })
        .collect();
    let (voice, lines) = (Voice::new(sandbox), Mutex::new(Lines::default()));
    let listener: fetch::Listener = Arc::new(move |progress| {
        let line = lines.lock().unwrap_or_else(PoisonError::into_inner).hear(&progress, Instant::now());
        if let Some(line) = line {
            voice.say(&line);
        }
    });
    fetch::fetch(&uris, sandbox, options, listener).await.map(drop).map_err(|error| error.to_string())
}

/// What the user is told of the URI that is being fetched: nothing if it is quick, else how far it is, ever more rarely.
#[derive(Default)]
struct Lines {
    begun: Option<Instant>,
    spoken: Option<(Instant, Duration)>,
}

impl Lines {
    fn hear(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let took = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        match progress {
            Progress::Started { .. } => {
                *self = Self { begun: Some(now), spoken: None };
                None
            }
            Progress::Bytes { uri, done, total } => {
                let pause = match self.spoken {
                    None if took < QUIET => return None,
                    Some((last, pause)) if now.saturating_duration_since(last) < pause => return None,
                    None => QUIET,
                    Some((_, pause)) => pause.saturating_mul(2).min(APART),
                };
                self.spoken = Some((now, pause));
                let of = total.map(|total| format!(" of {}", mib(total))).unwrap_or_default();
                Some(format!("Fetching {uri}: {}{of} MiB, {}", mib(*done), rate(*done, took)))
            }
            Progress::Again { uri, reason, pause } => {
                self.spoken.get_or_insert((now, QUIET));
                let reason = reason.strip_prefix(&format!("{uri}: ")).unwrap_or(reason);
                Some(format!("Fetching {uri}: {reason}; again in {:.1} s", pause.as_secs_f32()))
            }
            Progress::Unpacking { uri } => self.spoken.map(|_| format!("Unpacking {uri}")),
            Progress::Finished { uri, bytes } => {
                let seconds = took.as_secs_f32();
                self.spoken.map(|_| format!("Fetched {uri}: {} MiB in {seconds:.1} s", mib(*bytes)))
            }
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1_048_576.0)
}

fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.1} MiB/s", bytes as f64 / 1_048_576.0 / took.as_secs_f64().max(0.001))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_ever_more_rarely() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let uri = || "http://h/x".to_owned();
        let bytes = |done: u64| Progress::Bytes { uri: uri(), done: done << 20, total: Some(64 << 20) };
        let mut said = Vec::new();
        let mut hear = |progress: Progress, tenths: u64| {
            said.extend(lines.hear(&progress, begin + Duration::from_millis(tenths * 100)));
        };
        hear(Progress::Started { uri: uri() }, 0);
        for tenths in (2..=60).step_by(2) {
            hear(bytes(tenths / 2), tenths);
        }
        let reason = "http://h/x: the server answered 503".to_owned();
        hear(Progress::Again { uri: uri(), reason, pause: Duration::from_millis(1500) }, 61);
        hear(Progress::Unpacking { uri: uri() }, 79);
        hear(Progress::Finished { uri: uri(), bytes: 64 << 20 }, 80);
        hear(Progress::Started { uri: uri() }, 81);
        hear(bytes(64), 83);
        hear(Progress::Unpacking { uri: uri() }, 84);
        hear(Progress::Finished { uri: uri(), bytes: 64 << 20 }, 85);
        let want = [
            "Fetching http://h/x: 5.0 of 64.0 MiB, 5.0 MiB/s",
            "Fetching http://h/x: 10.0 of 64.0 MiB, 5.0 MiB/s",
            "Fetching http://h/x: 20.0 of 64.0 MiB, 5.0 MiB/s",
            "Fetching http://h/x: the server answered 503; again in 1.5 s",
            "Unpacking http://h/x",
            "Fetched http://h/x: 64.0 MiB in 8.0 s",
        ];
        assert_eq!(said, want);
    }
}
