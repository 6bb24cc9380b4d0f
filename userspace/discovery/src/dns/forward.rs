//! Names that are not ours go to the machine's own resolvers, which are read once at start and never rewritten.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Transport;

/// A resolver has this long before the next one is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Questions that may be out at once; more are answered SERVFAIL.
const OUT: usize = 256;
/// Resolvers that are asked in turn.
const MOST: usize = 3;

/// Asks other resolvers.
#[derive(Debug, Clone)]
pub struct Forwarder {
    resolvers: Arc<[SocketAddr]>,
    out: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// There is nobody to ask.
    Nobody,
    /// Nobody answered, or too many questions are out.
    Silent,
}

impl Forwarder {
    /// Asks these, but never one at an address of `own`.
    #[must_use]
    pub fn new(resolvers: Vec<SocketAddr>, own: &[IpAddr]) -> Self {
        let others: Vec<SocketAddr> =
            resolvers.into_iter().filter(|one| !own.contains(&one.ip())).take(MOST).collect();
        Self { resolvers: others.into(), out: Arc::new(Semaphore::new(OUT)) }
    }

    /// Passes a query on and gives the answer, which has the query's own number.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn ask(&self, query: &[u8], transport: Transport) -> Result<Vec<u8>, Failed> {
        if self.resolvers.is_empty() {
            return Err(Failed::Nobody);
        }
        let _one = self.out.try_acquire().map_err(|_| Failed::Silent)?;
        for resolver in self.resolvers.iter() {
            let asked = match transport {
                Transport::Udp => timeout(PATIENCE, over_udp(*resolver, query)).await,
                Transport::Tcp => timeout(PATIENCE, over_tcp(*resolver, query)).await,
            };
            if let Ok(Ok(answer)) = asked {
                return Ok(answer);
            }
        }
        Err(Failed::Silent)
    }
}

/// The query with a number that nobody can guess, and that number.
fn renumbered(query: &[u8]) -> std::io::Result<(Vec<u8>, [u8; 2], [u8; 2])> {
    let own: [u8; 2] = query.first_chunk().copied().ok_or_else(short)?;
    let number = rand::random::<u16>().to_be_bytes();
    let mut out = query.to_vec();
    if let Some(start) = out.first_chunk_mut::<2>() {
        *start = number;
    }
    Ok((out, number, own))
}

fn short() -> std::io::Error {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof)
}

/// The question section's bytes. Queries that come here were parsed: one question, no compression before it.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        if length >= 0xC0 {
            return None;
        }
        at += length + 1;
        if length == 0 {
            break;
        }
    }
    message.get(12..at + 4)
}

/// Whether this answers the query: the number, the bit that says so, the same question.
fn answers(answer: &[u8], number: [u8; 2], query: &[u8]) -> bool {
    let named =
        answer.first_chunk::<2>() == Some(&number) && answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same = match (question(answer), question(query)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        // Some resolvers leave the question out of an error.
        (None, _) => answer.get(4..6) == Some(&[0, 0]),
        (Some(_), None) => false,
    };
    named && same
}

fn returned(mut answer: Vec<u8>, own: [u8; 2]) -> Vec<u8> {
    if let Some(start) = answer.first_chunk_mut::<2>() {
        *start = own;
    }
    answer
}

async fn over_udp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    let (out, number, own) = renumbered(query)?;
    socket.send(&out).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        // Whatever else arrives may be somebody's guess: wait on.
        if answers(answer, number, query) {
            return Ok(returned(answer.to_vec(), own));
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let (out, number, own) = renumbered(query)?;
    let length = u16::try_from(out.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &out].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, number, query) { Ok(returned(answer, own)) } else { Err(short()) }
}

/// The resolvers that a `resolv.conf` names; none when it cannot be read.
#[must_use]
pub fn resolvers(path: &Path) -> Vec<SocketAddr> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().map(str::split_whitespace);
    words
        .filter_map(|mut words| (words.next() == Some("nameserver")).then(|| words.next())?)
        .filter_map(|address| Some(SocketAddr::new(address.split('%').next()?.parse().ok()?, 53)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_file() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.2\n nameserver fe80::1%eth0\nnameserver x\noptions ndots:2\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:53", "[fe80::1]:53"]);
        let forwarder = Forwarder::new(parse(text), &["10.0.0.2".parse().unwrap()]);
        assert_eq!(forwarder.resolvers.len(), 1, "never ourselves");
    }

    #[test]
    fn only_true_answers_are_taken() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let mut answer = query.to_vec();
        assert!(!answers(&answer, [0x12, 0x34], query), "a query is no answer");
        answer[2] |= 0x80;
        assert!(answers(&answer, [0x12, 0x34], query));
        assert!(!answers(&answer, [0x12, 0x35], query));
        answer[13] = b'b';
        assert!(!answers(&answer, [0x12, 0x34], query));
        for cut in 0..answer.len() {
            let _ = answers(&answer[..cut], [0x12, 0x34], query);
        }
    }
}
