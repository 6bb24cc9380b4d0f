//! The connection to the engine: a deadline on each call, and what the calls say about the engine's health.

use crate::config::DockerConfig;
use bollard::Docker;
use parking_lot::Mutex;
use plenum_containers::RuntimeError;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// Whether the engine can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Ready {
        /// The version of its API that both sides speak.
        api: String,
    },
    /// It does not. Running containers are not touched; what needs the engine waits or fails by its deadline.
    Degraded {
        /// A sentence for people.
        why: String,
    },
}

impl Health {
    /// Whether it answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
}

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine would not.
    #[error("the Docker engine refused to {what}: {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It is not there.
    #[error("the Docker engine cannot be asked to {what}: {why}")]
    Away {
        /// What was to be asked.
        what: String,
        /// Why not.
        why: String,
    },
    /// It does not answer.
    #[error("the Docker engine did not {what} within {} s", after.as_secs_f32())]
    Silent {
        /// What was asked.
        what: String,
        /// The deadline.
        after: Duration,
    },
}

impl EngineError {
    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Sorts an error of the client.
    pub(crate) fn sort(what: &str, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        let what = what.to_owned();
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::Refused { what, status: status_code, message: message.trim().to_owned() }
            }
            // An error in the middle of an answer that began well.
            Error::DockerStreamError { error } => Self::Refused { what, status: 500, message: error },
            // It is there, and nothing is gained by asking whether it is.
            error @ (Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) => Self::Refused {
                what,
                status: 500,
                message: format!("its answer makes no sense: {}", chain(&error)),
            },
            error => Self::Away { what, why: chain(&error) },
        }
    }
}

impl From<EngineError> for RuntimeError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Silent { what, after } => RuntimeError::Deadline(format!(
                "a call to the Docker engine ({what}, within {} s)",
                after.as_secs_f32()
            )),
            _ => RuntimeError::Engine(error.to_string()),
        }
    }
}

/// An error with its causes, which often say more.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: DockerConfig,
    client: Mutex<Option<Docker>>,
    health: watch::Sender<Health>,
}

impl Engine {
    /// One that has not been asked anything yet.
    pub fn new(config: DockerConfig) -> Self {
        let why = format!("the Docker engine at {} has not answered yet", config.socket.display());
        Self { config, client: Mutex::new(None), health: watch::Sender::new(Health::Degraded { why }) }
    }

    /// What is known.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Carries a call out. A silent or absent engine is degraded from then on; a refusal says that it is well. One that is
    /// degraded already gets a moment to come back.
    pub async fn call<T, F>(
        &self,
        what: &str,
        deadline: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        self.ready(what, deadline.min(self.config.patience)).await?;
        self.call_anyway(what, deadline, call).await
    }

    async fn call_anyway<T, F>(
        &self,
        what: &str,
        deadline: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let client = self.client().ok_or_else(|| self.away(what))?;
        let done = tokio::time::timeout(deadline, call(client)).await;
        let outcome = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => EngineError::sort(what, error),
            Err(_) => EngineError::Silent { what: what.to_owned(), after: deadline },
        };
        self.note(&outcome);
        Err(outcome)
    }

    /// Takes note of an error that came by another way than [`Engine::call`].
    pub fn note(&self, error: &EngineError) {
        if error.status().is_none() {
            self.degrade(error.to_string());
        }
    }

    /// The client, if the engine has been reached at all.
    pub fn client(&self) -> Option<Docker> {
        self.client.lock().clone()
    }

    fn away(&self, what: &str) -> EngineError {
        let why = match &*self.health.borrow() {
            Health::Degraded { why } => why.clone(),
            Health::Ready { .. } => "it is being connected to".to_owned(),
        };
        EngineError::Away { what: what.to_owned(), why }
    }

    /// Waits until the engine answers.
    pub async fn ready(&self, what: &str, within: Duration) -> Result<(), EngineError> {
        let mut health = self.health();
        let waited = tokio::time::timeout(within, health.wait_for(Health::is_ready)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.away(what)),
        }
    }

    /// Waits for it as long as it takes.
    pub async fn wait_ready(&self) {
        // An error means that this very engine is dropped.
        let mut health = self.health();
        drop(health.wait_for(Health::is_ready).await);
    }

    /// Asks whether the engine is there, and connects anew if it was not. Gives whether it came back.
    pub async fn look(&self) -> bool {
        let ready = self.health.borrow().is_ready();
        if ready {
            let ping = self.call("answer", self.config.ping, |docker| async move { docker.ping().await });
            // A call that fails is noted; a refusal to a ping comes from a proxy or an engine that starts up.
            if let Err(error) = ping.await {
                self.degrade(error.to_string());
            }
            return false;
        }
        match tokio::time::timeout(self.config.ping, self.connect()).await {
            Ok(Ok(docker)) => {
                let api = docker.client_version().to_string();
                *self.client.lock() = Some(docker);
                tracing::info!(api, socket = %self.config.socket.display(), "the Docker engine answers");
                self.health.send_replace(Health::Ready { api });
                true
            }
            Ok(Err(error)) => {
                self.degrade(EngineError::sort("answer", error).to_string());
                false
            }
            Err(_) => {
                let (what, after) = ("answer".to_owned(), self.config.ping);
                self.degrade(EngineError::Silent { what, after }.to_string());
                false
            }
        }
    }

    async fn connect(&self) -> Result<Docker, bollard::errors::Error> {
        let path = self.config.socket.display().to_string();
        // Deadlines are ours; the client's own would end what waits for a container.
        let forever = u64::from(u32::MAX);
        let docker = Docker::connect_with_unix(&path, forever, bollard::API_DEFAULT_VERSION)?;
        docker.with_request_modifier(url_safe_credentials).negotiate_version().await
    }

    fn degrade(&self, error: String) {
        let socket = self.config.socket.display();
        let why = format!("{error}; containers go on, new ones wait until {socket} answers again");
        let change = |health: &mut Health| {
            let was_ready = health.is_ready();
            if was_ready {
                tracing::warn!(why, "the Docker engine is degraded");
            }
            *health = Health::Degraded { why };
            was_ready
        };
        self.health.send_if_modified(change);
    }
}

/// The engine reads credentials in the alphabet for addresses; the client writes them in the common one.
fn url_safe_credentials(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    for (name, value) in request.headers_mut() {
        if name.as_str() != "x-registry-auth" {
            continue;
        }
        let text = value.to_str().unwrap_or_default().replace('+', "-").replace('/', "_");
        if let Ok(mut safe) = http::HeaderValue::from_str(&text) {
            safe.set_sensitive(true);
            *value = safe;
        }
    }
    request
}
