//! Which master's door the agent goes to. On a single machine: the configured ones in turn. In a fleet: the one of the master that leads, by
//! what the masters answer to `GET /leader`; and away from one that is silent while another leads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::cluster::Masters;
use plenum_base::leading::{self, Leader};
use plenum_base::places::{AGENTS_DOOR, Role};
use plenum_base::retry::Backoff;
use plenum_base::tls::{Expect, Identity, TlsError};
use plenum_base::{resolve, sockets};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// For names and connecting on a single machine, and for each handshake.
const DIAL: Duration = Duration::from_secs(5);
/// For connecting in a fleet: one that is off costs no more.
const CONNECT: Duration = Duration::from_secs(1);
/// A connection in a fleet is broken when nothing was acknowledged for so long.
const SILENCE: Duration = Duration::from_millis(2500);
/// While its master says nothing, an agent asks another about so often who leads: cheap, also for masters of ten thousand agents.
const ASK: Duration = Duration::from_secs(4);
/// A leader that does not say so itself is dialled each time this number of rounds went by: it may only be slow.
const HEARSAY: u32 = 5;
/// A connection that lived for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Where the doors are.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    /// `host:port`, for a single machine.
    pub configured: Vec<String>,
    /// The fleet's masters.
    pub masters: Masters,
}

/// When something was last heard.
#[derive(Debug)]
pub(crate) struct Heard {
    began: Instant,
    millis: AtomicU64,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), millis: AtomicU64::new(0) }
    }

    pub(crate) fn now(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn silent_for(&self, time: Duration) -> bool {
        let last = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last) >= time
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no answer in time")]
    Deadline,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("nobody leads at the moment")]
    NoLeader,
    #[error("no master is configured")]
    NoMaster,
}

pub(crate) type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// Finds and dials, with growing pauses.
pub(crate) struct Finder {
    doors: Doors,
    // One for good: it remembers sessions, which spares masters a storm of handshakes.
    tls: TlsConnector,
    client: Client,
    backoff: Backoff,
    next: usize,
    /// The leader that was dialled last.
    leader: Option<Leader>,
    /// How often nobody said of itself that it leads.
    hearsay: u32,
}

impl Finder {
    pub(crate) fn new(doors: Doors, identity: &Identity) -> Result<Self, TlsError> {
        let expect = Expect::Role("master".to_owned());
        let config: ClientConfig = identity.client_config(expect.clone())?;
        let client = Client::with_identity(identity, expect)?;
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        Ok(Self {
            doors,
            tls: TlsConnector::from(Arc::new(config)),
            client,
            backoff,
            next: 0,
            leader: None,
            hearsay: 0,
        })
    }

    /// A connection to a door, and whose it is.
    pub(crate) async fn dial(&mut self) -> Result<(Stream, String), DialError> {
        if self.doors.masters.is_fleet() {
            let door = self.leading_door().await?;
            let stream = connect(&[door], CONNECT).await?;
            sockets::watch_peer(&stream, Duration::from_secs(1), SILENCE)?;
            return Ok((self.handshake(stream, door).await?, door.to_string()));
        }
        let configured = &self.doors.configured;
        let door = configured.get(self.next % configured.len().max(1)).ok_or(DialError::NoMaster)?.clone();
        self.next = self.next.wrapping_add(1);
        let addresses = resolve::lookup_socket(&door).await?;
        let stream = connect(&addresses, DIAL).await?;
        let address = stream.peer_addr()?;
        Ok((self.handshake(stream, address).await?, door))
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Result<Stream, DialError> {
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        Ok(timeout(DIAL, self.tls.connect(name, stream)).await.map_err(|_| DialError::Deadline)??)
    }

    /// Asks every master who leads.
    async fn leading_door(&mut self) -> Result<SocketAddr, DialError> {
        let list = self.doors.masters.urls(Role::Master);
        // The same leader is as good as a new one: the connection may have broken for another reason.
        let known = self.leader.as_ref().map_or(0, |leader| leader.term.saturating_sub(1));
        let (found, said_itself) = leading::find(&self.client, &list, known).await;
        // One whom only others name is most likely gone, and dialling it would cost the time in which another is elected.
        self.hearsay = if said_itself { 0 } else { self.hearsay.saturating_add(1) };
        let leader = found.filter(|_| self.hearsay.is_multiple_of(HEARSAY)).ok_or(DialError::NoLeader)?;
        let door = door(&leader.url).ok_or(DialError::NoLeader)?;
        self.leader = Some(leader);
        Ok(door)
    }

    /// Returns when another master leads, in a later term, while the own one says nothing: its process may stand still. Never on a single
    /// machine.
    pub(crate) async fn moved(&self, heard: &Heard) {
        let Some(own) = &self.leader else { return std::future::pending().await };
        let mut pauses = Backoff::new(ASK, ASK);
        let mut turn = 0_usize;
        loop {
            tokio::time::sleep(pauses.delay()).await;
            let mut others = self.doors.masters.urls(Role::Master);
            others.retain(|url| *url != own.url);
            if others.is_empty() || !heard.silent_for(ASK / 2) {
                continue;
            }
            turn = turn.wrapping_add(1);
            let one = others.swap_remove(turn % others.len());
            let list = [one];
            let (found, said_itself) = leading::find(&self.client, &list, own.term).await;
            if said_itself && found.is_some_and(|leader| leader.term > own.term) {
                return;
            }
        }
    }

    /// The connection ended after it lived for `time`.
    pub(crate) fn lost(&mut self, time: Duration) {
        if time > GOOD {
            self.backoff.reset();
            self.next = self.next.wrapping_sub(1);
        }
    }

    /// How long to wait before the next attempt. In a fleet a second at most: asking who leads costs little, and a leader is there soon.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.backoff.delay();
        if self.doors.masters.is_fleet() { pause.min(Duration::from_secs(1)).mul_f64(0.5) } else { pause }
    }
}

/// The door of the master whose base URL this is.
fn door(url: &str) -> Option<SocketAddr> {
    let mut door: SocketAddr = url.strip_prefix("https://")?.parse().ok()?;
    door.set_port(AGENTS_DOOR);
    Some(door)
}

async fn connect(addresses: &[SocketAddr], deadline: Duration) -> Result<TcpStream, DialError> {
    let mut last = DialError::Deadline;
    let first = async {
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Some(stream),
                Err(error) => last = error.into(),
            }
        }
        None
    };
    match timeout(deadline, first).await {
        Ok(Some(stream)) => Ok(stream),
        Ok(None) => Err(last),
        Err(_) => Err(DialError::Deadline),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::atomic::AtomicUsize;
    use std::time::SystemTime;

    use axum::extract::State;
    use axum::routing::get;
    use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
    use plenum_base::serve::Server;
    use plenum_base::service::Shutdown;
    use plenum_base::tls::ClientAuth;
    use serde_json::{Value, json};

    use super::*;

    /// Which master leads, and in which term; numbers beyond the masters are nobody.
    #[derive(Clone, Default)]
    struct Election(Arc<(AtomicUsize, AtomicU64)>);

    impl Election {
        fn of(&self, leader: usize, term: u64) {
            self.0.1.store(term, Ordering::SeqCst);
            self.0.0.store(leader, Ordering::SeqCst);
        }
    }

    fn identity(ca: &Authority, role: &str, at: IpAddr) -> Identity {
        let name = PeerName::new("test", role, role).unwrap();
        let (cert, key) = ca.issue_fresh(&name, &[San::Ip(at)], SystemTime::now(), LIFETIME).unwrap();
        Identity::from_pem(ca.certificate_pem(), &cert, &key).unwrap()
    }

    /// A master's HTTP and its door, which only shakes hands.
    async fn master(own: usize, ips: [IpAddr; 3], ca: &Authority, election: &Election, end: &Shutdown) {
        let leader = move |State(election): State<Election>| async move {
            let leader = election.0.0.load(Ordering::SeqCst);
            let url = ips.get(leader).map(|ip| format!("https://{ip}:5050"));
            let term = election.0.1.load(Ordering::SeqCst);
            axum::Json::<Value>(json!({"leader": url, "self": leader == own, "term": term}))
        };
        let identity = identity(ca, "master", ips[own]);
        let router = axum::Router::new().route("/leader", get(leader)).with_state(election.clone());
        let server = Server::new(router).tls(&identity, ClientAuth::Optional).unwrap();
        for port in [5050, AGENTS_DOOR] {
            let listener = tokio::net::TcpListener::bind((ips[own], port)).await.unwrap();
            let (server, end) = (server.clone(), end.clone());
            tokio::spawn(async move { server.serve(listener, end).await });
        }
    }

    #[tokio::test]
    async fn the_door_of_whoever_leads_is_found_also_past_one_that_is_dead_and_left_when_another_leads() {
        let ips = [1, 2, 3].map(|n| IpAddr::from([127, 94, 1, n]));
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let (election, end) = (Election::default(), Shutdown::new());
        // The third is dead.
        for own in [0, 1] {
            master(own, ips, &ca, &election, &end).await;
        }
        let doors = Doors { configured: vec!["127.0.0.1:1".to_owned()], masters: Masters::fixed(&ips) };
        let mut finder = Finder::new(doors, &identity(&ca, "agent", ips[0])).unwrap();
        election.of(9, 1);
        assert!(matches!(finder.dial().await, Err(DialError::NoLeader)));
        assert!(finder.pause() <= Duration::from_secs(1));
        election.of(1, 2);
        let (_stream, door) = finder.dial().await.unwrap();
        assert_eq!(door, "127.94.1.2:5055");
        // The same again, after the connection broke.
        assert_eq!(finder.dial().await.unwrap().1, "127.94.1.2:5055");

        let heard = Heard::new();
        let stays = timeout(ASK + Duration::from_millis(500), finder.moved(&heard)).await;
        assert!(stays.is_err(), "nobody else leads");
        election.of(0, 3);
        timeout(2 * ASK, finder.moved(&heard)).await.expect("another leads and this one is silent");
        assert_eq!(finder.dial().await.unwrap().1, "127.94.1.1:5055");
        election.of(2, 4);
        assert!(finder.dial().await.is_err(), "it leads, they say, but is dead");
        end.trigger();
    }

    #[test]
    fn silence_is_counted_from_the_last_word() {
        let heard = Heard::new();
        assert!(heard.silent_for(Duration::ZERO) && !heard.silent_for(Duration::from_secs(60)));
        heard.now();
        assert!(!heard.silent_for(Duration::from_secs(60)));
        assert_eq!(door("https://[fd00::2]:5050").unwrap().to_string(), "[fd00::2]:5055");
        assert_eq!(door("http://x"), None);
    }
}
