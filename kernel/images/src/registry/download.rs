//! Layers: downloaded into a file that outlives a break or a restart, resumed where it ended, checked as it arrives.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_RANGE, RANGE};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{Endpoint, Failure, Registries, Repository, accepted, announced, nobody};
use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, is_full};
use crate::manifest::Blob;

/// Progress of this many bytes earns a server new patience.
const WORTH: u64 = 256 * 1024;
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A download that is being made.
struct Part<'a> {
    file: File,
    path: &'a Path,
    blob: &'a Blob,
    hasher: Hasher,
    done: u64,
    /// Some of it is from before.
    resumed: bool,
    tell: &'a (dyn Fn(u64) + Send + Sync),
    told: Instant,
}

/// Where a download goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The file that grows.
    pub part: PathBuf,
    /// Its name when it is complete and checked.
    pub whole: PathBuf,
}

impl Registries {
    /// Downloads a blob to `target`, with `tell` told the bytes that are here.
    ///
    /// # Errors
    /// [`ImageError`]. The part that arrived is kept for the next attempt, unless it is known to be wrong or the disk is full.
    pub async fn download(
        &self,
        from: &Repository<'_>,
        blob: &Blob,
        target: &Target,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let deadline = self.settings.layer_deadline;
        let attempt = self.download_from_any(from, blob, target, tell);
        let done = match tokio::time::timeout(deadline, attempt).await {
            Ok(done) => done,
            Err(_) => Err(ImageError::Unreachable {
                registry: from.registry.to_owned(),
                reason: format!("the layer {} did not arrive within {} s", blob.digest, deadline.as_secs()),
            }),
        };
        if let Err(ImageError::DiskFull { .. }) = done {
            // Nothing that is half there may hold the space that others need.
            let _ = tokio::fs::remove_file(&target.part).await;
        }
        done
    }

    async fn download_from_any(
        &self,
        from: &Repository<'_>,
        blob: &Blob,
        target: &Target,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), ImageError> {
        let io = |error| ImageError::io(format!("downloading the layer {}", blob.digest))(error);
        let mut part = Part::open(&target.part, blob, tell).await.map_err(io)?;
        let endpoints = self.endpoints(from.registry)?;
        let mut last = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let attempts = if index + 1 < endpoints.len() { 2 } else { self.settings.attempts.max(1) };
            match self.download_from(endpoint, from, &mut part, attempts).await {
                Ok(()) => return part.finish(&target.whole).await.map_err(io),
                Err(error @ (ImageError::DiskFull { .. } | ImageError::Io { .. })) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| nobody(from.registry)))
    }

    /// All attempts with one server; at the end the part is complete and checked.
    async fn download_from(
        &self,
        endpoint: &Endpoint,
        from: &Repository<'_>,
        part: &mut Part<'_>,
        attempts: u32,
    ) -> Result<(), ImageError> {
        let (mut failed, mut backoff) = (0, self.backoff());
        let what = format!("the layer {}", part.blob.digest);
        loop {
            let before = part.done;
            let failure = match self.download_once(endpoint, from, part).await {
                Ok(()) => match part.check() {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        let resumed = part.resumed;
                        part.restart().await.map_err(ImageError::io(what.clone()))?;
                        if resumed {
                            // What was there before may be what is wrong: once more from the beginning.
                            continue;
                        }
                        return Err(error);
                    }
                },
                Err(failure) => failure,
            };
            if part.done >= before.saturating_add(WORTH) {
                failed = 0;
                backoff = self.backoff();
            }
            failed += 1;
            let pause = match &failure {
                Failure::Again(_, pause) => pause.unwrap_or(Duration::ZERO).max(backoff.delay()),
                Failure::Stalled => backoff.delay(),
                _ => return Err(failure.into_error(endpoint, from.name, &what, self.settings.stall)),
            };
            if failed >= attempts {
                return Err(failure.into_error(endpoint, from.name, &what, self.settings.stall));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn download_once(
        &self,
        endpoint: &Endpoint,
        from: &Repository<'_>,
        part: &mut Part<'_>,
    ) -> Result<(), Failure> {
        if part.done == part.blob.size {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/{}", from.name, part.blob.digest);
        let range = (part.done > 0).then(|| (RANGE, format!("bytes={}-", part.done)));
        let headers: Vec<_> = range.into_iter().collect();
        let reply = self.get(endpoint, from, &path, &headers).await?;
        if reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
            part.restart().await.map_err(local)?;
            return Err(Failure::Again("it cannot resume".to_owned(), None));
        }
        let reply = accepted(reply)?;
        let begins = match reply.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = reply.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                range.and_then(begin_of)
            }
            _ => Some(0),
        };
        if begins == Some(0) && part.done > 0 {
            part.restart().await.map_err(local)?;
        } else if begins != Some(part.done) {
            part.restart().await.map_err(local)?;
            return Err(Failure::Again("it sent another part than was asked for".to_owned(), None));
        }
        let left = part.blob.size - part.done;
        if announced(&reply).is_some_and(|bytes| bytes > left) {
            return Err(too_large(part.blob));
        }
        let mut stream = reply.stream();
        loop {
            let next = stream.next_within(self.settings.stall).await;
            match next {
                Ok(Some(piece)) => part.take(&piece).await?,
                Ok(None) => break,
                Err(error) => {
                    part.file.flush().await.map_err(local)?;
                    return Err(Failure::from_client(error));
                }
            }
        }
        part.file.flush().await.map_err(local)?;
        if part.done < part.blob.size {
            let reason = format!("it sent {} of {} bytes", part.done, part.blob.size);
            return Err(Failure::Again(reason, None));
        }
        Ok(())
    }
}

fn too_large(blob: &Blob) -> Failure {
    let what = format!("the layer {}, as the registry sends it,", blob.digest);
    Failure::Useless(ImageError::TooLarge { what, limit: blob.size })
}

fn local(error: io::Error) -> Failure {
    Failure::Useless(ImageError::io("writing a layer")(error))
}

/// `bytes 5-9/10`: 5.
fn begin_of(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes")?.trim_start().split_once('-')?.0.parse().ok()
}

impl<'a> Part<'a> {
    async fn open(path: &'a Path, blob: &'a Blob, tell: &'a (dyn Fn(u64) + Send + Sync)) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let hasher = blob.digest.hasher();
        let mut part = Self { file, path, blob, hasher, done: 0, resumed: false, tell, told: Instant::now() };
        let there = part.file.metadata().await?.len();
        if there > blob.size {
            part.restart().await?;
        }
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = part.file.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            part.hasher.update(buffer.get(..n).unwrap_or_default());
            part.done += n as u64;
        }
        part.resumed = part.done > 0;
        tell(part.done);
        Ok(part)
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        self.hasher = self.blob.digest.hasher();
        self.done = 0;
        self.resumed = false;
        Ok(())
    }

    async fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let done = self.done + piece.len() as u64;
        if done > self.blob.size {
            self.restart().await.map_err(local)?;
            return Err(too_large(self.blob));
        }
        if let Err(error) = self.file.write_all(piece).await {
            let full = is_full(&error);
            let failure = local(error);
            if full {
                let _ = tokio::fs::remove_file(self.path).await;
            }
            return Err(failure);
        }
        self.hasher.update(piece);
        self.done = done;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            (self.tell)(done);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ImageError> {
        let found: Digest = self.hasher.clone().finish();
        if found == self.blob.digest {
            return Ok(());
        }
        let what = "a layer".to_owned();
        Err(ImageError::Digest { what, expected: self.blob.digest.clone(), found })
    }

    /// On disk for good, under its own name.
    async fn finish(mut self, whole: &Path) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        tokio::fs::rename(self.path, whole).await?;
        if let Some(folder) = whole.parent() {
            File::open(folder).await?.sync_all().await?;
        }
        (self.tell)(self.done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::begin_of;

    #[test]
    fn ranges() {
        for (text, want) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-9/*", Some(0)),
            (" bytes  7-", Some(7)),
            ("bytes */10", None),
            ("items 1-2/3", None),
            ("bytes -1-2", None),
        ] {
            assert_eq!(begin_of(text), want, "{text}");
        }
    }
}
