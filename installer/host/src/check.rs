//! `plenum host check`: whether hosts reach each other. One host listens on the ports that nobody has, the others dial; the installer runs
//! both halves at the same time and makes the matrix.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use plenum_plan::facts::{Dialed, Opened};

/// Calls made at the same time.
const AT_ONCE: usize = 64;

/// Opens `ports` on `address`, prints which ([`Opened`], one line of JSON), and answers for `seconds`: whoever connects is let in and gets
/// nothing.
///
/// # Errors
/// When the line cannot be printed.
pub fn listen(address: IpAddr, ports: &[u16], time: Duration, out: &mut dyn Write) -> std::io::Result<()> {
    let mut opened = Opened::default();
    let mut listeners = Vec::new();
    for port in ports {
        match TcpListener::bind(SocketAddr::new(address, *port)) {
            Ok(listener) => {
                opened.opened.push(*port);
                listeners.push(listener);
            }
            Err(_) => opened.taken.push(*port),
        }
    }
    writeln!(out, "{}", serde_json::to_string(&opened)?)?;
    out.flush()?;
    let end = Instant::now() + time;
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    while Instant::now() < end {
        for listener in &listeners {
            while listener.accept().is_ok() {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Calls every address, many at the same time.
#[must_use]
pub fn dial(addresses: &[SocketAddr], deadline: Duration) -> Vec<Dialed> {
    let mut answers = Vec::with_capacity(addresses.len());
    for some in addresses.chunks(AT_ONCE) {
        let calls: Vec<_> = some
            .iter()
            .map(|address| {
                let address = *address;
                std::thread::spawn(move || call(address, deadline))
            })
            .collect();
        answers.extend(calls.into_iter().filter_map(|call| call.join().ok()));
    }
    answers
}

fn call(address: SocketAddr, deadline: Duration) -> Dialed {
    let begun = Instant::now();
    let outcome = TcpStream::connect_timeout(&address, deadline);
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let reason = match &outcome {
        Ok(_) => String::new(),
        Err(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "deadline".to_owned(),
            std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable => {
                "unreachable".to_owned()
            }
            _ => error.to_string(),
        },
    };
    Dialed { address: address.ip(), port: address.port(), ok: outcome.is_ok(), reason, took_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_is_reached_and_what_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut out = Vec::new();
        listen("127.0.0.1".parse().unwrap(), &[port, free], Duration::ZERO, &mut out).unwrap();
        let opened: Opened = serde_json::from_slice(&out).unwrap();
        assert_eq!((opened.opened, opened.taken), (vec![free], vec![port]));
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let answers = dial(&[to(port), to(free)], Duration::from_secs(2));
        assert!(answers[0].ok && !answers[1].ok);
        assert_eq!(answers[1].reason, "refused");
    }
}
