//! The fetcher: fills a sandbox with what a task asks for, before the task starts.
//!
//! Sources are `http`, `https`, `file` URIs and absolute paths. A download has a temporary name until it is complete
//! and, if the URI says what it must be (`#sha256=…`), checked. Servers that fail or break off are asked again ([`retry`]).
//! Archives are unpacked by rules in [`extract`]: nothing is written outside the sandbox, whatever is in them, because
//! every file is opened part by part below the sandbox and no link is followed ([`sandbox`]).

mod cache;
mod download;
mod extract;
mod retry;
mod sandbox;
mod tls;
mod uri;
mod zip;

pub use cache::Cache;

use download::Outcome;
use extract::Format;
use plenum_images::Digest;
use sandbox::Sandbox;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchUri {
    /// `http://`, `https://`, `file://` or an absolute path; `#sha256=<hex>` or `#sha512=<hex>` at its end is checked.
    pub value: String,
    /// Unpack it if its name says that it is an archive.
    pub extract: bool,
    /// Make it executable; then it is not unpacked.
    pub executable: bool,
    /// Name in the sandbox; the last part of the path if `None`. May have folders, which are made.
    pub output_file: Option<String>,
    /// Keep it for the next task of the same user that asks for it, if there is a cache.
    pub cache: bool,
}

impl FetchUri {
    /// With the defaults of Mesos: unpacked, not executable.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self { value: value.into(), extract: true, executable: false, output_file: None, cache: false }
    }
}

/// Limits and surroundings.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Who gets the files (user, group); who runs the agent if `None`.
    pub owner: Option<(u32, u32)>,
    /// Largest download, bytes.
    pub max_bytes: u64,
    /// Largest archive when unpacked, bytes.
    pub max_unpacked_bytes: u64,
    /// Most entries of an archive.
    pub max_entries: u64,
    /// Longest time without a byte.
    pub stall_timeout: Duration,
    /// Most attempts with a server that fails, unless each brings the download on.
    pub attempts: u32,
    /// First pause between attempts; later ones are longer, up to twenty times this.
    pub backoff: Duration,
    /// Time for everything.
    pub deadline: Duration,
    /// Certificates to trust besides the machine's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether `file://` and paths are allowed.
    pub local_files: bool,
    /// Where downloads are kept whose URIs ask for it.
    pub cache: Option<Cache>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            owner: None,
            max_bytes: 16 << 30,
            max_unpacked_bytes: 64 << 30,
            max_entries: 1_000_000,
            stall_timeout: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_secs(1),
            deadline: Duration::from_secs(3600),
            ca_file: None,
            local_files: true,
            cache: None,
        }
    }
}

/// What a caller is told while it waits. URIs come without user, password and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A source is being read.
    Started {
        /// It.
        uri: String,
    },
    /// This much has arrived.
    Bytes {
        /// Of what.
        uri: String,
        /// So far.
        done: u64,
        /// Of how many, if the server said so.
        total: Option<u64>,
    },
    /// The server failed; it will be asked again.
    Again {
        /// Of what.
        uri: String,
        /// What it did.
        reason: String,
        /// After how long.
        pause: Duration,
    },
    /// An archive is being unpacked.
    Unpacking {
        /// It.
        uri: String,
    },
    /// It is in the sandbox.
    Finished {
        /// It.
        uri: String,
        /// Size of the download.
        bytes: u64,
    },
}

/// A file that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is in the sandbox.
    pub name: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Entries unpacked from it; `None` if it was left as it is.
    pub entries: Option<u64>,
}

/// Why fetching failed. URIs come without user, password and query: they may be secret.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URI that can be fetched.
    #[error("{uri}: {reason}")]
    Uri {
        /// The URI.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that leaves the sandbox.
    #[error("{name:?} would be outside the sandbox; use a relative path without '..'")]
    Escape {
        /// The name.
        name: String,
    },
    /// The server answered otherwise.
    #[error("{uri}: the server answered {status}")]
    Status {
        /// The URI.
        uri: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection or the protocol failed.
    #[error("{uri}: {reason}")]
    Transfer {
        /// The URI.
        uri: String,
        /// How.
        reason: String,
    },
    /// Not what the URI said that it must be.
    #[error("{uri}: the content is {found}, not {expected} as the URI says; it changed or was damaged")]
    Checksum {
        /// The URI.
        uri: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More than allowed.
    #[error("{uri}: larger than the limit of {max} bytes")]
    TooLarge {
        /// The URI.
        uri: String,
        /// The limit.
        max: u64,
    },
    /// No byte for too long.
    #[error("{uri}: nothing arrived for {} s", after.as_secs_f32())]
    Stalled {
        /// The URI.
        uri: String,
        /// The limit.
        after: Duration,
    },
    /// Everything together took too long.
    #[error("fetching did not finish within {} s", after.as_secs_f32())]
    Deadline {
        /// The limit.
        after: Duration,
    },
    /// An archive that cannot or must not be unpacked.
    #[error("{uri}: cannot be unpacked: {reason}")]
    Archive {
        /// The URI.
        uri: String,
        /// Why.
        reason: String,
    },
    /// A file of the sandbox or a local source.
    #[error("{what}: {error}")]
    Io {
        /// What was done with what.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// Certificates.
    #[error("trusted certificates: {0}")]
    Trust(String),
}

impl FetchError {
    /// A stable code for logs and users.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            FetchError::Uri { .. } => "fetch.uri",
            FetchError::Escape { .. } => "fetch.escape",
            FetchError::Status { .. } => "fetch.status",
            FetchError::Transfer { .. } => "fetch.transfer",
            FetchError::Checksum { .. } => "fetch.checksum",
            FetchError::TooLarge { .. } => "fetch.too_large",
            FetchError::Stalled { .. } => "fetch.stalled",
            FetchError::Deadline { .. } => "fetch.deadline",
            FetchError::Archive { .. } => "fetch.archive",
            FetchError::Io { .. } => "fetch.io",
            FetchError::Trust(_) => "fetch.trust",
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| FetchError::Io { what, error }
    }
}

/// How a caller hears of progress; called from several threads, must not block.
pub type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

/// Fetches one after the other. What arrived before a failure stays in the sandbox; nothing has its final name that is
/// not complete.
pub async fn fetch(
    uris: &[FetchUri],
    sandbox: &Path,
    options: &FetchOptions,
    listener: Listener,
) -> Result<Vec<Fetched>, FetchError> {
    let sandbox = Sandbox::open(sandbox, options.owner)
        .map_err(FetchError::io(format!("opening the sandbox {}", sandbox.display())))?;
    let job = Job {
        sandbox: Arc::new(sandbox),
        options: options.clone(),
        listener,
        end: Instant::now() + options.deadline,
    };
    let all = async {
        let mut fetched = Vec::new();
        for uri in uris {
            fetched.push(job.one(uri).await?);
        }
        Ok(fetched)
    };
    let late = |_| FetchError::Deadline { after: options.deadline };
    tokio::time::timeout(options.deadline, all).await.map_err(late)?
}

struct Job {
    sandbox: Arc<Sandbox>,
    options: FetchOptions,
    listener: Listener,
    end: Instant,
}

impl Job {
    async fn one(&self, wanted: &FetchUri) -> Result<Fetched, FetchError> {
        let (value, checksum) = uri::checksum(&wanted.value)?;
        let source = uri::Source::parse(value, self.options.local_files)?;
        let shown = source.shown();
        let name = match &wanted.output_file {
            Some(name) => name.clone(),
            None => source.file_name()?,
        };
        let parts =
            sandbox::parts(Path::new(&name)).ok_or_else(|| FetchError::Escape { name: name.clone() })?;
        let format = match wanted.extract && !wanted.executable {
            true => Format::of(&name).map_err(|reason| FetchError::Archive { uri: shown.clone(), reason })?,
            false => None,
        };
        (self.listener)(Progress::Started { uri: shown.clone() });
        let mut temporary = self.sandbox.temporary().map_err(FetchError::io("making a temporary file"))?;
        let bytes = match &source {
            uri::Source::Http(uri) => match self.options.cache.as_ref().filter(|_| wanted.cache) {
                Some(cache) => self.by_cache(cache, value, uri, &mut temporary).await?,
                None => self.download(uri, &mut temporary).await?.0,
            },
            uri::Source::File(path) => self.copy(path, &shown, &mut temporary).await?,
        };
        if let Some(expected) = checksum {
            self.check(&temporary, expected, &shown).await?;
        }
        let mode = if wanted.executable { 0o755 } else { 0o644 };
        let place = format!("writing {name}");
        self.sandbox.finish(temporary, &parts, mode).map_err(FetchError::io(place))?;
        let entries = match format {
            Some(format) => Some(self.unpack(format, parts, &shown).await?),
            None => None,
        };
        (self.listener)(Progress::Finished { uri: shown, bytes });
        Ok(Fetched { name: name.into(), bytes, entries })
    }

    /// Size and validator of what is downloaded.
    async fn download(
        &self,
        uri: &http::Uri,
        to: &mut sandbox::Temporary,
    ) -> Result<(u64, Option<String>), FetchError> {
        match download::http(self, uri, to, None).await? {
            Outcome::Here { bytes, validator } => Ok((bytes, validator)),
            // Nobody asked whether it is.
            Outcome::Unchanged => Err(FetchError::Status { uri: uri::shown(uri), status: 304 }),
        }
    }

    /// What is kept is used while the server does not say that it has something else; it is not waited for.
    async fn by_cache(
        &self,
        cache: &Cache,
        value: &str,
        uri: &http::Uri,
        to: &mut sandbox::Temporary,
    ) -> Result<u64, FetchError> {
        let key = Cache::key(self.options.owner, value);
        let _turn = cache.turn(&key).await;
        if let Some(kept) = cache.find(&key) {
            let asked = match &kept.validator {
                Some(validator) => download::http(self, uri, to, Some(validator)).await,
                None => Ok(Outcome::Unchanged),
            };
            match asked {
                Ok(Outcome::Here { bytes, validator }) => {
                    self.keep(cache, key, to, validator).await;
                    return Ok(bytes);
                }
                // It says that this user may not have it, or that it is no more.
                Err(error @ FetchError::Status { status: 400..=499, .. }) => return Err(error),
                Ok(Outcome::Unchanged) | Err(_) => {
                    let mut file = to.file.try_clone().map_err(FetchError::io("copying from the cache"))?;
                    let copied = tokio::task::spawn_blocking(move || kept.copy_to(&mut file)).await;
                    match copied {
                        Ok(Ok(bytes)) => return Ok(bytes),
                        failed => {
                            tracing::warn!(?failed, uri = uri::shown(uri), "a cached file is of no use");
                            cache.forget(&key);
                        }
                    }
                }
            }
        }
        let (bytes, validator) = self.download(uri, to).await?;
        self.keep(cache, key, to, validator).await;
        Ok(bytes)
    }

    /// The task has what it asked for, whether it can be kept or not.
    async fn keep(&self, cache: &Cache, key: String, from: &sandbox::Temporary, validator: Option<String>) {
        let (cache, file) = (cache.clone(), from.file.try_clone());
        let kept = tokio::task::spawn_blocking(move || cache.keep(&key, file?, validator.as_deref())).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "a download cannot be kept for the next task");
        }
    }

    /// Copies a local file on a thread that may block. Devices and pipes are not files.
    async fn copy(&self, from: &Path, shown: &str, to: &mut sandbox::Temporary) -> Result<u64, FetchError> {
        let mut target = to.file.try_clone().map_err(FetchError::io("copying"))?;
        let (from, shown, max, end) = (from.to_owned(), shown.to_owned(), self.options.max_bytes, self.end);
        let deadline = self.options.deadline;
        let work = move || {
            use std::os::unix::fs::OpenOptionsExt;
            let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&from);
            let source = opened.map_err(FetchError::io(format!("reading {}", from.display())))?;
            if !source.metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(FetchError::Uri { uri: shown, reason: "not a regular file".into() });
            }
            let mut source = extract::Bounded::new(source, max, end);
            std::io::copy(&mut source, &mut target).map_err(|error| match extract::Overrun::of(&error) {
                Some(extract::Overrun::Size) => FetchError::TooLarge { uri: shown, max },
                Some(extract::Overrun::Time) => FetchError::Deadline { after: deadline },
                None => FetchError::Io { what: format!("copying {}", from.display()), error },
            })
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| FetchError::Deadline { after: deadline })?
    }

    /// Reads what has arrived once more: it may have come in parts.
    async fn check(
        &self,
        file: &sandbox::Temporary,
        expected: Digest,
        shown: &str,
    ) -> Result<(), FetchError> {
        let mut file = file.file.try_clone().map_err(FetchError::io("checking"))?;
        let (end, after, max) = (self.end, self.options.deadline, self.options.max_bytes);
        let mut hasher = expected.hasher();
        let work = move || {
            file.rewind()?;
            let mut source = extract::Bounded::new(file, max, end);
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let n = source.read(&mut buffer)?;
                if n == 0 {
                    return Ok(hasher.finish());
                }
                hasher.update(buffer.get(..n).unwrap_or_default());
            }
        };
        let found = tokio::task::spawn_blocking(work).await.map_err(|_| FetchError::Deadline { after })?;
        let found = found.map_err(|error: std::io::Error| match extract::Overrun::of(&error) {
            Some(_) => FetchError::Deadline { after },
            None => FetchError::Io { what: format!("checking {shown}"), error },
        })?;
        match found == expected {
            true => Ok(()),
            false => Err(FetchError::Checksum { uri: shown.to_owned(), expected, found }),
        }
    }

    async fn unpack(
        &self,
        format: Format,
        parts: Vec<std::ffi::OsString>,
        shown: &str,
    ) -> Result<u64, FetchError> {
        (self.listener)(Progress::Unpacking { uri: shown.to_owned() });
        let (sandbox, options, end) = (Arc::clone(&self.sandbox), self.options.clone(), self.end);
        let shown = shown.to_owned();
        let after = self.options.deadline;
        // A thread cannot be cancelled; it looks at the clock with every block it reads.
        let work = move || extract::unpack(&sandbox, &parts, format, &options, end, &shown);
        tokio::task::spawn_blocking(work).await.map_err(|_| FetchError::Deadline { after })?
    }
}
