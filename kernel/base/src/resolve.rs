//! Names to addresses without the C library's name service, which a static binary does not have: literals, the hosts file, then DNS by
//! `resolv.conf`. Each lookup has a deadline; several servers are asked in turn; nothing is remembered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// The longest that a lookup takes.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// The longest that one server is waited for, unless `resolv.conf` says less.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Servers that are asked, and names that are tried.
const MOST: usize = 6;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub struct Resolver {
    /// The hosts file.
    pub hosts: PathBuf,
    /// What names the DNS servers.
    pub config: PathBuf,
    /// The servers' port.
    pub port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), config: "/etc/resolv.conf".into(), port: 53 }
    }
}

/// The addresses of `host` by this machine's files, at least one; IPv4 first.
///
/// # Errors
/// `NotFound` when the name has none, `TimedOut` when no server answered; the text names the host.
pub async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    Resolver::default().lookup(host).await
}

/// The socket addresses of `host:port`.
///
/// # Errors
/// As for [`lookup`]; `InvalidInput` without a port.
pub async fn lookup_socket(text: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(socket) = text.parse() {
        return Ok(vec![socket]);
    }
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("\"{text}\" is not host:port"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    Ok(lookup(host).await?.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

impl Resolver {
    /// See [`lookup`].
    ///
    /// # Errors
    /// As for [`lookup`].
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse() {
            return Ok(vec![address]);
        }
        let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
        // Files in /etc: small, local, and read anew so that a change counts at once.
        let listed = in_hosts(&std::fs::read_to_string(&self.hosts).unwrap_or_default(), &name);
        if !listed.is_empty() {
            return Ok(listed);
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let config = Config::parse(&std::fs::read_to_string(&self.config).unwrap_or_default());
        match timeout(DEADLINE, self.by_dns(&config, bare)).await {
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            Ok(Ok(_)) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
            Ok(Err(error)) => {
                Err(io::Error::new(error.kind(), format!("{host} cannot be looked up: {error}")))
            }
            Err(_) => {
                let text = format!("{host} cannot be looked up: no name server answered in time");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Tries each name that `host` may stand for; nothing where none of them exists.
    async fn by_dns(&self, config: &Config, host: &str) -> io::Result<Vec<IpAddr>> {
        for name in config.candidates(host) {
            // A name that is none exists nowhere.
            let Ok(name) = name.parse::<Name<Vec<u8>>>() else { continue };
            let (four, six) =
                tokio::join!(self.query(config, &name, Rtype::A), self.query(config, &name, Rtype::AAAA));
            let found = match (four, six) {
                (Ok(four), Ok(six)) => [four, six].concat(),
                // Half an answer is enough where it has an address.
                (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => some,
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// Asks one server after the other until one knows; nothing where the name does not exist or has no such address.
    async fn query(&self, config: &Config, name: &Name<Vec<u8>>, kind: Rtype) -> io::Result<Vec<IpAddr>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server is configured");
        for server in &config.servers {
            let server = SocketAddr::new(*server, self.port);
            match timeout(config.patience, ask(server, name, kind)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{server} did not answer")),
            }
        }
        Err(last)
    }
}

/// What `resolv.conf` says.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    dots: usize,
    patience: Duration,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), dots: 1, patience: PATIENCE };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.split('%').next());
                    config.servers.extend(address.and_then(|address| address.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    config.search = words.map(|word| word.trim_matches('.').to_owned()).collect();
                }
                Some("options") => words.for_each(|word| config.option(word)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        config.servers.truncate(MOST);
        config.search.retain(|domain| !domain.is_empty());
        config.search.truncate(MOST);
        config
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else { return };
        let Ok(value) = value.parse::<u8>() else { return };
        match name {
            "ndots" => self.dots = usize::from(value),
            "timeout" => self.patience = PATIENCE.min(Duration::from_secs(u64::from(value.max(1)))),
            _ => {}
        }
    }

    /// The names that `host` may stand for, in order: with a dot at the end only itself.
    fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}.")).collect();
        let whole = format!("{host}.");
        let enough = host.matches('.').count() >= self.dots;
        names.insert(if enough { 0 } else { names.len() }, whole);
        names
    }
}

/// What a hosts file says about a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    let mut found: Vec<IpAddr> = text.lines().filter_map(of_line).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.dedup();
    found
}

/// Asks `server` over UDP, and over TCP where the answer did not fit.
async fn ask(server: SocketAddr, name: &Name<Vec<u8>>, kind: Rtype) -> io::Result<Vec<IpAddr>> {
    let number: u16 = rand::random();
    let query = question(name, kind, number)?;
    let answer = over_udp(server, &query).await?;
    let answer = if answer.header().tc() { over_tcp(server, &query).await? } else { answer };
    addresses(&answer)
}

fn question(name: &Name<Vec<u8>>, kind: Rtype, number: u16) -> io::Result<Message<Vec<u8>>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(number);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, kind)).map_err(io::Error::other)?;
    Ok(builder.into_message())
}

async fn over_udp(server: SocketAddr, query: &Message<Vec<u8>>) -> io::Result<Message<Vec<u8>>> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected: only this server's packets arrive, and a closed port is told at once.
    socket.connect(server).await?;
    socket.send(query.as_slice()).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        // Whatever else arrives may be somebody's guess: wait on.
        if let Ok(answer) = Message::from_octets(bytes)
            && answers(&answer, query)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message<Vec<u8>>) -> io::Result<Message<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.as_slice().len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query.as_slice()].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    match Message::from_octets(bytes) {
        Ok(answer) if answers(&answer, query) => Ok(answer),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{server} answered something else"))),
    }
}

/// Number and question are those of the query; errors may come without a question.
fn answers(answer: &Message<Vec<u8>>, query: &Message<Vec<u8>>) -> bool {
    let header = answer.header();
    let bare = header.rcode() != Rcode::NOERROR && answer.header_counts().qdcount() == 0;
    header.qr() && header.id() == query.header().id() && (bare || answer.is_answer(query))
}

/// The addresses of an answer; nothing where the name does not exist.
fn addresses(answer: &Message<Vec<u8>>) -> io::Result<Vec<IpAddr>> {
    match answer.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Ok(Vec::new()),
        other => return Err(io::Error::other(format!("the name server says {other}"))),
    }
    let unclear = |error: domain::base::wire::ParseError| io::Error::new(io::ErrorKind::InvalidData, error);
    let Some(owner) = answer.canonical_name() else { return Ok(Vec::new()) };
    let section = answer.answer().map_err(unclear)?;
    let four = section.limit_to_in::<A>().flatten().filter(|record| *record.owner() == owner);
    let six = section.limit_to_in::<Aaaa>().flatten().filter(|record| *record.owner() == owner);
    let four = four.map(|record| IpAddr::V4(record.data().addr()));
    Ok(four.chain(six.map(|record| IpAddr::V6(record.data().addr()))).collect())
}

#[cfg(test)]
mod tests {
    use domain::rdata::Cname;

    use super::*;

    #[test]
    fn hosts_files() {
        let text = "127.0.0.1 localhost\n::1 localhost ip6-localhost # b\n10.0.0.1\ta A.example\n# 10.0.0.2 a\nx a\n";
        let find = |name: &str| in_hosts(text, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(find("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(find("a.example"), ["10.0.0.1"]);
        assert_eq!(find("a"), ["10.0.0.1"]);
        assert!(find("b").is_empty());
    }

    #[test]
    fn which_names_are_tried_at_which_servers() {
        let config = Config::parse(
            "nameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver x\nsearch one. two.org\noptions ndots:2 timeout:1 rotate\n",
        );
        assert_eq!(
            config.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.2", "fe80::1"]
        );
        assert_eq!(config.patience, Duration::from_secs(1));
        assert_eq!(config.candidates("a.b"), ["a.b.one.", "a.b.two.org.", "a.b."]);
        assert_eq!(config.candidates("a.b.c"), ["a.b.c.", "a.b.c.one.", "a.b.c.two.org."]);
        assert_eq!(config.candidates("a."), ["a."]);
        assert_eq!(Config::parse("").servers, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    /// What a server says to one query; `None` is silence.
    fn reply(query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_octets(query.to_vec()).unwrap();
        let asked = query.sole_question().unwrap();
        let name = asked.qname().to_string();
        let (mut code, mut records) = (Rcode::NOERROR, Vec::new());
        match (name.as_str(), asked.qtype()) {
            ("big.test", _) if !tcp => {}
            ("plain.test" | "big.test", Rtype::A) => records.push([10, 0, 0, 1]),
            ("alias.test", Rtype::A) => records.push([10, 0, 0, 2]),
            ("plain.test" | "big.test" | "alias.test", _) => {}
            ("broken.test", _) => code = Rcode::SERVFAIL,
            ("silent.test", _) => return None,
            _ => code = Rcode::NXDOMAIN,
        }
        let mut builder = MessageBuilder::new_vec().start_answer(&query, code).unwrap();
        builder.header_mut().set_tc(name == "big.test" && !tcp);
        for address in records {
            let mut owner: Name<Vec<u8>> = format!("{name}.").parse().unwrap();
            if name == "alias.test" {
                let target: Name<Vec<u8>> = "target.test.".parse().unwrap();
                builder.push((&owner, 60, Cname::new(target.clone()))).unwrap();
                owner = target;
            }
            builder.push((owner, 60, A::new(address.into()))).unwrap();
        }
        Some(builder.finish())
    }

    /// A name server on `address`; it ends with the test's runtime.
    async fn server(address: SocketAddr) -> u16 {
        let udp = UdpSocket::bind(address).await.unwrap();
        let at = udp.local_addr().unwrap();
        let tcp = tokio::net::TcpListener::bind(at).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let Some(answer) = reply(&buffer[..length], false) else { continue };
                let mut guess = answer.clone();
                guess[0] ^= 1;
                udp.send_to(&guess, from).await.unwrap();
                udp.send_to(&answer, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let answer = reply(&query, true).unwrap();
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        at.port()
    }

    #[tokio::test]
    async fn names_are_found_past_dead_servers_aliases_and_answers_that_do_not_fit() {
        let port = server("127.0.0.1:0".parse().unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        let (hosts, config) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
        std::fs::write(&hosts, "10.9.9.9 listed.test\n").unwrap();
        // Nobody is at the first.
        std::fs::write(
            &config,
            "nameserver 127.0.0.77\nnameserver 127.0.0.1\nsearch test\noptions timeout:1\n",
        )
        .unwrap();
        let resolver = Resolver { hosts, config, port };
        let cases = [
            ("10.1.2.3", Ok("10.1.2.3")),
            ("[::1]", Ok("::1")),
            ("listed.test", Ok("10.9.9.9")),
            ("localhost", Ok("127.0.0.1")),
            ("plain.test", Ok("10.0.0.1")),
            ("plain", Ok("10.0.0.1")),
            ("alias.test", Ok("10.0.0.2")),
            ("big.test", Ok("10.0.0.1")),
            ("nowhere.test", Err(io::ErrorKind::NotFound)),
            ("broken.test.", Err(io::ErrorKind::Other)),
            ("silent.test.", Err(io::ErrorKind::TimedOut)),
            ("a..b", Err(io::ErrorKind::NotFound)),
            ("", Err(io::ErrorKind::NotFound)),
        ];
        for (host, expected) in cases {
            let found = resolver.lookup(host).await.map(|found| found[0].to_string());
            assert_eq!(found.as_deref().map_err(io::Error::kind), expected, "{host}");
        }
        assert_eq!(lookup_socket("127.0.0.1:80").await.unwrap()[0].port(), 80);
        assert!(lookup_socket("nothing").await.is_err());
    }
}
