//! One relay: finds where its target answers, sends the request, tries elsewhere when nobody is there, and hands the reply back as it comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use plenum_base::client::{CallBody, Client, ClientError};
use plenum_base::leading::{Leader, Leading};
use plenum_base::service::Shutdown;

use crate::answers::Failure;
use crate::body::Lent;
use crate::clients::Clients;
use crate::cluster::{self, Cluster};
use crate::directory::Directory;
use crate::headers::{self, Naming, Origin};
use crate::route::{Relay, Target};
use crate::table::order;
use crate::upgrade;

/// How long an instance that was not there is tried last.
const SUSPECT: Duration = Duration::from_secs(10);
/// Replies that broke off before they began: so many for one request whose repetition does no harm.
const BREAKS: u32 = 3;
/// Waiting between rounds, unless something changes.
const PAUSE: Duration = Duration::from_millis(100);
/// Longer than any call: the watch over progress ends calls, not the client's own deadline.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bodies up to this size are held until the leader has answered, so that they can be sent to the next one.
const HELD: u64 = 4 << 20;
/// How many redirects between masters one request follows without waiting.
const HOPS: u32 = 3;

/// Bounds of a relay.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// From the request's end to the reply's head.
    pub head: Duration,
    /// The same for agents and installed services, and how long a request's body may pause.
    pub stall: Duration,
    /// How long a target that cannot be reached is waited for.
    pub patience: Duration,
    /// How long another leader is waited for, in a fleet.
    pub failover: Duration,
    /// Bytes of a body to a component.
    pub body: u64,
    /// Bytes of a body to an installed service.
    pub service_body: u64,
    /// Whether installed services see their callers' tokens.
    pub tokens_to_services: bool,
}

/// Relays requests.
#[derive(Debug)]
pub struct Proxy {
    /// Clients.
    pub clients: Clients,
    /// Where components are.
    pub cluster: Cluster,
    /// What is known of services, agents and frameworks.
    pub directory: Arc<Directory>,
    /// Bounds.
    pub bounds: Bounds,
    /// Ends what was upgraded.
    pub shutdown: Shutdown,
    suspects: Mutex<HashMap<String, Instant>>,
}

/// What comes with a request.
#[derive(Debug)]
pub struct Asked {
    /// The head, as received.
    pub parts: Parts,
    /// The body, whole.
    pub body: Body,
    /// Where it came from.
    pub origin: Origin,
    /// The Authorization header to pass on, already checked.
    pub authorization: Option<HeaderValue>,
}

/// One place to try.
struct Place {
    client: Client,
    /// Scheme and authority.
    base: String,
    /// For remembering that nobody was there.
    id: String,
    /// Who led when it was chosen.
    known: Option<Leader>,
}

/// How an attempt failed.
enum Miss {
    /// Nothing was sent.
    Connect,
    /// Something was sent, and no reply began.
    Broken,
    /// Time is up.
    Late,
    /// The request cannot be formed.
    Unformed,
    /// Another one leads meanwhile.
    Moved,
    /// It does not lead, and did nothing; perhaps it knows who does.
    Standby(Option<String>),
}

impl Proxy {
    /// Makes one.
    pub fn new(
        clients: Clients,
        cluster: Cluster,
        directory: Arc<Directory>,
        bounds: Bounds,
        shutdown: Shutdown,
    ) -> Self {
        Self { clients, cluster, directory, bounds, shutdown, suspects: Mutex::default() }
    }

    /// Relays a request. `again` decides anew where a changed table may change the target.
    ///
    /// # Errors
    /// What to tell the caller.
    pub async fn relay(
        &self,
        asked: Asked,
        first: Relay,
        again: impl Fn() -> Option<Relay>,
    ) -> Result<Response, Failure> {
        let foreign = matches!(first.target, Target::Service { .. } | Target::Framework(_));
        let session =
            matches!(first.target, Target::Agent(_)) && headers::is_record_stream(&asked.parts.headers);
        let limit = match (foreign, session) {
            (_, true) => u64::MAX,
            (true, _) => self.bounds.service_body,
            (false, _) => self.bounds.body,
        };
        if asked.body.size_hint().lower() > limit {
            return Err(too_large(limit));
        }
        let websocket = foreign || matches!(first.target, Target::Agent(_));
        let mut head = asked.parts;
        let wants = websocket && head.method == Method::GET && headers::wants_websocket(&head.headers);
        let upgrade = head.extensions.remove::<OnUpgrade>().filter(|_| wants);
        headers::to_upstream(&mut head.headers, &asked.origin);
        let fleet = self.cluster.leading(&first.target).is_some_and(Leading::is_fleet);
        let patience =
            if fleet { self.bounds.patience.max(self.bounds.failover) } else { self.bounds.patience };
        let mut run = Run {
            proxy: self,
            body: Lent::new(asked.body, limit),
            limit,
            head,
            origin: asked.origin,
            authorization: asked.authorization.filter(|value| !foreign || self.may_see(value)),
            upgrade,
            until: Instant::now() + patience,
            breaks: 0,
            hops: 0,
            session,
            fleet,
            held: None,
        };
        run.hold(&first.target).await?;
        let mut changes = self.directory.changes();
        let mut relay = first;
        loop {
            changes.mark_unchanged();
            if let Some(response) = run.round(&relay).await? {
                return Ok(response);
            }
            if Instant::now() >= run.until {
                let who = name(&relay.target);
                return Err(if run.fleet { Failure::leaderless(&who) } else { Failure::unreachable(&who) });
            }
            // A target that comes back, or another instance of it, is noticed at once; everything else is looked at again soon.
            let _ = tokio::time::timeout(PAUSE, changes.changed()).await;
            if let Some(newer) = again() {
                relay = newer;
            }
        }
    }

    /// A secret that lasts is nobody's but the cluster's; tokens end by themselves.
    fn may_see(&self, authorization: &HeaderValue) -> bool {
        let basic =
            authorization.as_bytes().get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"basic "));
        self.bounds.tokens_to_services && !basic
    }

    /// Where to try, in order.
    async fn places(
        &self,
        target: &Target,
        with_credentials: bool,
        caller: &str,
    ) -> Result<Vec<Place>, Failure> {
        let one = |client: &Client, base: &str| {
            Ok(vec![Place {
                client: client.clone(),
                base: base.to_owned(),
                id: base.to_owned(),
                known: None,
            }])
        };
        let client = self.clients.of(target, with_credentials);
        match target {
            Target::Master | Target::Services | Target::Identity | Target::Catalog | Target::Discovery => {
                let known = self.cluster.leading(target).and_then(Leading::leader);
                let mut bases = self.cluster.places(target);
                if self.cluster.leading(target).is_none() {
                    let (now, suspects) = (Instant::now(), self.suspects.lock());
                    bases.sort_by_key(|base| suspects.get(base).is_some_and(|until| now < *until));
                }
                let place = |base: String| Place {
                    client: client.clone(),
                    id: base.clone(),
                    base,
                    known: known.clone(),
                };
                Ok(bases.into_iter().map(place).collect())
            }
            Target::Framework(origin) => one(client, origin),
            Target::Agent(id) => match self.directory.agent(id).await {
                Ok(Some(address)) => one(client, &address),
                Ok(None) => {
                    let message =
                        format!("the master knows no agent {id}; `plenum node list` shows those it knows");
                    Err(Failure::new(StatusCode::NOT_FOUND, "NO_AGENT", message))
                }
                // The master is away: the round ends without a place, and the next one asks again.
                Err(_) => Ok(Vec::new()),
            },
            Target::Service { secure, instances, .. } => {
                let mut instances = instances.clone();
                let now = Instant::now();
                let suspects = self.suspects.lock();
                order(&mut instances, caller, |one| suspects.get(&one.id).is_some_and(|until| now < *until));
                let scheme = if *secure { "https" } else { "http" };
                let place = |one: crate::table::Instance| Place {
                    client: client.clone(),
                    base: match one.host.contains(':') {
                        true => format!("{scheme}://[{}]:{}", one.host, one.port),
                        false => format!("{scheme}://{}:{}", one.host, one.port),
                    },
                    id: one.id,
                    known: None,
                };
                Ok(instances.into_iter().map(place).collect())
            }
        }
    }

    fn suspect(&self, id: &str) {
        let now = Instant::now();
        let mut suspects = self.suspects.lock();
        suspects.retain(|_, until| now < *until);
        suspects.insert(id.to_owned(), now + SUSPECT);
    }
}

/// One request's way through the places.
struct Run<'a> {
    proxy: &'a Proxy,
    head: Parts,
    body: Lent,
    limit: u64,
    origin: Origin,
    authorization: Option<HeaderValue>,
    upgrade: Option<OnUpgrade>,
    until: Instant,
    breaks: u32,
    hops: u32,
    /// Whether its body is somebody's input to a command: it lasts as long as it lasts, and may be quiet.
    session: bool,
    /// Whether it goes to a leader that others stand in for.
    fleet: bool,
    /// The body, where it was read in advance.
    held: Option<Bytes>,
}

impl Run<'_> {
    /// Reads a small body in advance where the one who gets it may be lost: it can be sent to the next one then.
    async fn hold(&mut self, target: &Target) -> Result<(), Failure> {
        let led = self.proxy.cluster.leading(target).is_some();
        let size = self.body.size_hint().exact();
        let wanted = led && (self.fleet || self.has_key()) && !self.body.ended();
        if !wanted || size.is_none_or(|size| size > HELD) {
            return Ok(());
        }
        self.held = self.body.gather(self.proxy.bounds.stall).await;
        match (&self.held, self.check_body()) {
            (_, Err(failure)) => Err(failure),
            (None, Ok(())) => Err(body_late()),
            (Some(_), Ok(())) => Ok(()),
        }
    }

    fn check_body(&self) -> Result<(), Failure> {
        if self.body.too_large() {
            return Err(too_large(self.limit));
        }
        if self.body.broke_off() {
            let message = "the request's body broke off or is not framed as HTTP wants it; send it whole";
            return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message));
        }
        Ok(())
    }

    /// Tries each place once; `None` when nobody was there.
    async fn round(&mut self, relay: &Relay) -> Result<Option<Response>, Failure> {
        let caller = self.origin.remote.map(|ip| ip.to_string()).unwrap_or_default();
        let places = self.proxy.places(&relay.target, self.authorization.is_some(), &caller).await?;
        let mut places: std::collections::VecDeque<Place> = places.into();
        while let Some(place) = places.pop_front() {
            let missed = match self.attempt(relay, &place).await {
                Ok(response) => return self.finish(relay, &place, response).map(Some),
                Err(missed) => missed,
            };
            self.check_body()?;
            if let Some(base) = self.after(relay, missed)? {
                places.push_front(Place { id: base.clone(), base, ..place });
                continue;
            }
            if let Some(leading) = self.proxy.cluster.leading(&relay.target) {
                leading.look();
                continue;
            }
            self.proxy.suspect(&place.id);
            // It may have moved: the master is asked again.
            match &relay.target {
                Target::Agent(id) => self.proxy.directory.forget_agent(id),
                Target::Framework(_) => {
                    self.proxy.directory.refresh_frameworks().await;
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// What a miss means: the end, the next place, or this very one.
    fn after(&mut self, relay: &Relay, missed: Miss) -> Result<Option<String>, Failure> {
        let who = name(&relay.target);
        match missed {
            Miss::Late if self.body.ended() => return Err(Failure::late(&who)),
            Miss::Late => return Err(body_late()),
            Miss::Unformed => {
                let message = "the address cannot be passed on as it is; check its characters";
                return Err(Failure::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message));
            }
            Miss::Broken | Miss::Moved if !self.may_repeat() => {
                return Err(if self.fleet { Failure::lost(&who) } else { Failure::broken(&who) });
            }
            Miss::Broken => self.breaks += 1,
            Miss::Connect | Miss::Moved => {}
            // Nothing was done; but what was read of the body is gone.
            Miss::Standby(_) if !self.is_whole() => return Err(Failure::leaderless(&who)),
            Miss::Standby(there) => {
                self.hops += 1;
                return Ok(there.filter(|_| self.hops <= HOPS));
            }
        }
        Ok(None)
    }

    fn is_whole(&self) -> bool {
        self.held.is_some() || self.body.is_whole()
    }

    fn has_key(&self) -> bool {
        self.head.headers.contains_key("idempotency-key")
    }

    /// Whether sending it once more does no harm.
    fn may_repeat(&self) -> bool {
        let safe = matches!(self.head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        // In a fleet a break is the death of a leader: it is waited for the next one, however often that takes.
        let tired = !self.fleet && self.breaks >= BREAKS;
        (safe || self.has_key()) && self.is_whole() && !tired
    }

    async fn attempt(&self, relay: &Relay, place: &Place) -> Result<http::Response<Incoming>, Miss> {
        let query = self.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let uri: Uri = format!("{}{}{query}", place.base, relay.path).parse().map_err(|_| Miss::Unformed)?;
        let body = match &self.held {
            Some(held) => Lent::new(Body::from(held.clone()), self.limit),
            None => self.body.clone(),
        };
        let mut request = Request::new(CallBody::new(body.clone()));
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.head.headers.clone();
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, value.clone());
        }
        if self.upgrade.is_some() {
            upgrade::ask(request.headers_mut());
        }
        self.body.touch_clock();
        let slow = matches!(relay.target, Target::Agent(_) | Target::Service { .. } | Target::Framework(_));
        let bounds = &self.proxy.bounds;
        let leading = self.proxy.cluster.leading(&relay.target);
        let call = place.client.forward(request, FAR);
        let moved = cluster::moved(leading, &place.base, place.known.as_ref(), self.may_repeat());
        tokio::pin!(call, moved);
        loop {
            let allowed = match self.body.ended() {
                false if self.session => FAR,
                true if !slow => bounds.head,
                _ => bounds.stall,
            };
            let left = allowed.saturating_sub(self.body.quiet());
            if left.is_zero() {
                return Err(Miss::Late);
            }
            // Looked at again at the shorter bound, since the body may end meanwhile.
            let answered = tokio::select! {
                answered = tokio::time::timeout(left.min(bounds.head), &mut call) => answered,
                () = &mut moved => {
                    // Who never took a connection did nothing.
                    let unsent = self.held.is_some() && !body.is_touched();
                    return Err(if unsent { Miss::Connect } else { Miss::Moved });
                }
            };
            match answered {
                Err(_) => {}
                Ok(Ok(response)) => {
                    let Some(leading) = leading.filter(|_| self.fleet) else { return Ok(response) };
                    let known = self.proxy.clients.of(&relay.target, true);
                    let led = cluster::led(leading, &place.base, response, known, self.may_repeat());
                    return led.await.map_err(Miss::Standby);
                }
                Ok(Err(ClientError::Transport { connect: true, .. })) => return Err(Miss::Connect),
                Ok(Err(ClientError::Deadline { .. })) => return Err(Miss::Late),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a relay broke before its reply");
                    return Err(Miss::Broken);
                }
            }
        }
    }

    /// The reply as the caller sees it.
    fn finish(
        &mut self,
        relay: &Relay,
        place: &Place,
        mut response: http::Response<Incoming>,
    ) -> Result<Response, Failure> {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let client_side = self.upgrade.take();
        let protocol = response.headers().get(http::header::UPGRADE).cloned();
        let naming = Naming {
            authority: place.base.split_once("://").map_or("", |(_, authority)| authority),
            host: self.origin.host.as_ref().and_then(|host| host.to_str().ok()),
            public: &relay.public,
            private: &relay.private,
            may_log_in: relay.target == Target::Identity,
        };
        headers::to_client(response.headers_mut(), &naming);
        *response.version_mut() = Version::default();
        if !upgraded {
            let leading = self.proxy.cluster.leading(&relay.target).filter(|_| self.fleet);
            return Ok(response.map(|body| match leading {
                Some(leading) => {
                    cluster::until_moved(body, leading.clone(), place.base.clone(), place.known.clone())
                }
                None => Body::new(body),
            }));
        }
        match (client_side, protocol) {
            (Some(client_side), Some(protocol)) => {
                let server_side = hyper::upgrade::on(&mut response);
                upgrade::agree(response.headers_mut(), protocol);
                tokio::spawn(upgrade::splice(client_side, server_side, self.proxy.shutdown.clone()));
                Ok(response.map(|_| Body::empty()))
            }
            // Nobody asked for it: what follows is in no protocol that the caller knows.
            _ => Err(Failure::broken(&name(&relay.target))),
        }
    }
}

fn body_late() -> Failure {
    let message = "the request's body stopped arriving; send it again";
    Failure::new(StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", message)
}

fn too_large(limit: u64) -> Failure {
    let message = format!("the body may have at most {limit} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
}

/// A target in words.
fn name(target: &Target) -> String {
    match target {
        Target::Identity => "identity".to_owned(),
        Target::Master => "the master".to_owned(),
        Target::Services => "the service scheduler".to_owned(),
        Target::Catalog => "the catalog".to_owned(),
        Target::Discovery => "discovery".to_owned(),
        Target::Agent(id) => format!("the agent {id}"),
        Target::Framework(origin) => format!("the framework at {origin}"),
        Target::Service { key, instances, .. } if instances.is_empty() => {
            format!("the service {key} (none of its instances is running)")
        }
        Target::Service { key, .. } => format!("the service {key}"),
    }
}
