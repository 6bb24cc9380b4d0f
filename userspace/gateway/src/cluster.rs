//! Where components are: on a single machine at their configured addresses; in a fleet on every master, of which some roles have a leader
//! that is followed, and the others are asked here first.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::header::{LOCATION, RETRY_AFTER};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use plenum_base::client::{BoxError, Client};
use plenum_base::cluster::Masters;
use plenum_base::component::Component;
use plenum_base::leading::{Leader, Leading, leads};
use plenum_base::places::Role;

use crate::clients::Clients;
use crate::route::Target;

/// How long one may take to say that it only stands by.
const HEARD: Duration = Duration::from_secs(2);

/// Addresses of the components on a single machine, without a slash at the end.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Identity.
    pub identity: String,
    /// The master.
    pub master: String,
    /// The service scheduler.
    pub services: String,
    /// The catalog.
    pub catalog: String,
    /// Discovery.
    pub discovery: String,
}

/// Where components are.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The masters' list.
    pub masters: Masters,
    /// Who leads as master.
    pub master: Leading,
    /// Who leads as service scheduler.
    pub services: Leading,
    /// Whose publisher tells everybody names.
    pub discovery: Leading,
    addresses: Addresses,
}

impl Cluster {
    /// Follows the leaders from now on.
    pub fn follow(component: &Component, clients: &Clients, addresses: Addresses) -> Self {
        let follow = |role, client: &Client, at: &str| {
            let (masters, shutdown) = (component.masters.clone(), component.shutdown.clone());
            Leading::follow(role, client.clone(), masters, &[at.to_owned()], shutdown)
        };
        Self {
            masters: component.masters.clone(),
            master: follow(Role::Master, &clients.master.known, &addresses.master),
            services: follow(Role::Services, &clients.services.known, &addresses.services),
            discovery: follow(Role::Discovery, &clients.discovery.known, &addresses.discovery),
            addresses,
        }
    }

    /// Who leads where a target has a leader.
    pub fn leading(&self, target: &Target) -> Option<&Leading> {
        match target {
            Target::Master => Some(&self.master),
            Target::Services => Some(&self.services),
            _ => None,
        }
    }

    /// The base URLs at which a component is tried, in order; none for what is no component.
    pub fn places(&self, target: &Target) -> Vec<String> {
        if let Some(leading) = self.leading(target) {
            return leading.places();
        }
        match target {
            Target::Identity => self.of(Role::Identity),
            Target::Catalog => self.of(Role::Catalog),
            Target::Discovery => self.of(Role::Discovery),
            _ => Vec::new(),
        }
    }

    /// A role's base URLs: this machine's before the others'.
    pub fn of(&self, role: Role) -> Vec<String> {
        let at = match role {
            Role::Identity => &self.addresses.identity,
            Role::Master => &self.addresses.master,
            Role::Services => &self.addresses.services,
            Role::Catalog => &self.addresses.catalog,
            Role::Discovery => &self.addresses.discovery,
            _ => return self.masters.urls(role),
        };
        self.masters.or(role, std::slice::from_ref(at))
    }
}

/// Completes when another one than `base` leads, and another one than was `known` when `base` was chosen; never for what has no leader.
/// Where `base` was a guess, hearing that another one leads says little at first: `base` may stand by, and says so by itself. One that
/// says nothing for [`HEARD`] is gone; `hasty` does not wait for that.
pub async fn moved(leading: Option<&Leading>, base: &str, known: Option<&Leader>, hasty: bool) {
    let Some(leading) = leading else { return std::future::pending().await };
    if known.is_some() || hasty {
        return leading.moved_since(base, known).await;
    }
    let mut changes = leading.changes();
    let Ok(heard) = changes.wait_for(Option::is_some).await.map(|heard| heard.clone()) else {
        return std::future::pending().await;
    };
    if heard.as_ref().is_some_and(|leader| leader.url == base) {
        return leading.moved_since(base, heard.as_ref()).await;
    }
    tokio::time::sleep(HEARD).await;
}

/// The reply of one who leads. `Err` with the one to ask instead, as far as it is known, when this one only stands by: it did nothing then.
/// What the leader itself cannot do yet is passed on, unless `repeats`: then it is asked again soon. `known` is a client that may ask who leads.
pub async fn led(
    leading: &Leading,
    base: &str,
    response: Response<Incoming>,
    known: &Client,
    repeats: bool,
) -> Result<Response<Incoming>, Option<String>> {
    match response.status() {
        StatusCode::TEMPORARY_REDIRECT => {
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location.and_then(|location| leading.member(location)) {
                Some(member) if member != base => Err(Some(member)),
                _ => Ok(response),
            }
        }
        StatusCode::SERVICE_UNAVAILABLE if response.headers().contains_key(RETRY_AFTER) => {
            if !repeats && leads(known, base).await { Ok(response) } else { Err(None) }
        }
        _ => Ok(response),
    }
}

/// The body of a leader's reply, which breaks off when another one leads: a leader that was switched off does not say so.
pub fn until_moved(body: Incoming, leading: Leading, base: String, known: Option<Leader>) -> Body {
    use http_body::Body as _;
    if body.is_end_stream() {
        return Body::empty();
    }
    let moved = Box::pin(async move { leading.moved_since(&base, known.as_ref()).await });
    let pieces = stream::unfold(Some((Body::new(body).into_data_stream(), moved)), |state| async move {
        let (mut pieces, mut moved) = state?;
        tokio::select! {
            biased;
            piece = pieces.next() => match piece? {
                Ok(piece) => Some((Ok::<Bytes, BoxError>(piece), Some((pieces, moved)))),
                Err(error) => Some((Err(error.into()), None)),
            },
            () = &mut moved => Some((Err("another master leads".into()), None)),
        }
    });
    Body::from_stream(pieces)
}
