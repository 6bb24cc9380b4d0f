//! A netlink socket: sends requests and hears each answer, with a deadline. It belongs to the network namespace of the thread that opened it.

use std::io::{self, Read as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as Plain, Type};

use super::wire::{self, ACKNOWLEDGE, Answer, DONE, DUMP, ERROR, INTERRUPTED, Message};

/// The kernel answers within this time, also when other changes of links queue up before ours.
const DEADLINE: Duration = Duration::from_secs(20);
/// What fits one answer of the kernel's.
const BUFFER: usize = 64 * 1024;
/// Listing is begun again this often when something changes meanwhile.
const TRIES: usize = 20;

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    plain: Plain,
    number: u32,
}

impl Socket {
    /// Links, addresses, routes.
    ///
    /// # Errors
    /// What the system says.
    pub fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    /// nftables.
    ///
    /// # Errors
    /// What the system says.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    fn open(protocol: i32) -> io::Result<Self> {
        let plain = Plain::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        plain.set_read_timeout(Some(DEADLINE))?;
        plain.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { plain, number: 0 })
    }

    /// Sends requests at once; the kernel carries them out in this order. Gives, for each that asked for an acknowledgement, the error's number
    /// or 0, in order. A transaction (nftables) that fails as a whole is one more entry.
    ///
    /// # Errors
    /// The socket's; not the kernel's answers.
    pub fn send(&mut self, messages: Vec<Message>) -> io::Result<Vec<i32>> {
        let first = self.number.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut waiting: Vec<(u32, Option<i32>)> = Vec::new();
        for message in messages {
            self.number = self.number.wrapping_add(1);
            if message.flags & ACKNOWLEDGE != 0 {
                waiting.push((self.number, None));
            }
            bytes.extend(message.finish(self.number));
        }
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        self.plain.send(&bytes)?;
        let mut buffer = vec![0; BUFFER];
        while waiting.iter().any(|(_, code)| code.is_none()) {
            for answer in self.hear(&mut buffer)? {
                match waiting.iter_mut().find(|(number, _)| *number == answer.number) {
                    Some((_, code)) if answer.kind == ERROR => *code = Some(answer.code()),
                    // The transaction as a whole; nothing else comes.
                    None if answer.kind == ERROR && answer.number == first && answer.code() != 0 => {
                        return Ok(vec![answer.code()]);
                    }
                    _ => {}
                }
            }
        }
        Ok(waiting.into_iter().map(|(_, code)| code.unwrap_or_default()).collect())
    }

    /// Like [`Socket::send`]; the first error is the result, except those in `fine`.
    ///
    /// # Errors
    /// The socket's or the kernel's.
    pub fn change(&mut self, messages: Vec<Message>, fine: &[i32]) -> io::Result<()> {
        let codes = self.send(messages)?;
        match codes.into_iter().find(|code| *code != 0 && !fine.contains(code)) {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }

    /// Asks for one thing and gives what `read` makes of it.
    ///
    /// # Errors
    /// The socket's or the kernel's.
    pub fn get<T>(&mut self, message: Message, read: impl Fn(&Answer<'_>) -> Option<T>) -> io::Result<T> {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        self.plain.send(&message.finish(number))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for answer in self.hear(&mut buffer)? {
                if answer.number != number {
                    continue;
                }
                if answer.kind == ERROR {
                    return Err(io::Error::from_raw_os_error(answer.code()));
                }
                return read(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Lists everything that a request asks for.
    ///
    /// # Errors
    /// The socket's or the kernel's.
    pub fn list<T>(&mut self, message: &Message, read: impl Fn(&Answer<'_>) -> Vec<T>) -> io::Result<Vec<T>> {
        debug_assert!(message.flags & DUMP == DUMP, "a request that lists");
        for _ in 0..TRIES {
            if let Some(all) = self.list_once(message.clone(), &read)? {
                return Ok(all);
            }
        }
        Err(io::Error::other("it changes too often to be listed"))
    }

    fn list_once<T>(
        &mut self,
        message: Message,
        read: &impl Fn(&Answer<'_>) -> Vec<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        self.plain.send(&message.finish(number))?;
        let (mut out, mut whole, mut ended) = (Vec::new(), true, false);
        let mut buffer = vec![0; BUFFER];
        while !ended {
            for answer in self.hear(&mut buffer)? {
                if answer.number != number {
                    continue;
                }
                whole &= answer.flags & INTERRUPTED == 0;
                match answer.kind {
                    DONE => ended = true,
                    ERROR if answer.code() == libc::EINTR => (whole, ended) = (false, true),
                    ERROR => return Err(io::Error::from_raw_os_error(answer.code())),
                    _ => out.extend(read(&answer)),
                }
            }
        }
        Ok(whole.then_some(out))
    }

    /// One datagram's answers.
    fn hear<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Vec<Answer<'a>>> {
        let length = loop {
            match (&mut &self.plain).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not answer in time"));
                }
                other => break other?,
            }
        };
        Ok(wire::answers(buffer.get(..length).unwrap_or_default()))
    }
}
