//! `plenum host check`: whether hosts reach each other. One host listens on the ports that nobody has, the others dial; the installer runs
//! both halves at the same time and makes the matrix. Places outside the cluster are called by name, as the host itself resolves it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plenum_plan::facts::{Dialed, Opened, Reached};

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

/// Calls every `host:port`, all at the same time: one answer of the addresses of a name is enough.
#[must_use]
pub fn reach(targets: &[String], deadline: Duration) -> Vec<Reached> {
    let (tell, told) = mpsc::channel();
    for (place, target) in targets.iter().take(AT_ONCE).cloned().enumerate() {
        let tell = tell.clone();
        // Not joined: resolving has no deadline of its own.
        std::thread::spawn(move || drop(tell.send((place, try_all(&target, deadline)))));
    }
    drop(tell);
    let end = Instant::now() + deadline * 2;
    let late = |target: &String| Reached { target: target.clone(), ok: false, reason: "deadline".to_owned() };
    let mut answers: Vec<Reached> = targets.iter().map(late).collect();
    while let Ok((place, outcome)) = told.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if let Some(answer) = answers.get_mut(place) {
            answer.ok = outcome.is_ok();
            answer.reason = outcome.err().unwrap_or_default();
        }
    }
    answers
}

fn try_all(target: &str, deadline: Duration) -> Result<(), String> {
    let end = Instant::now() + deadline;
    let mut why = "unresolved".to_owned();
    for address in target.to_socket_addrs().map_err(|_| why.clone())? {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let answer = call(address, left);
        if answer.ok {
            return Ok(());
        }
        why = answer.reason;
    }
    Err(why)
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

    #[test]
    fn places_are_called_by_name() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = open.local_addr().unwrap().port();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let targets = [
            format!("localhost:{port}"),
            format!("127.0.0.1:{free}"),
            "no-such-host.invalid:2379".to_owned(),
        ];
        let answers = reach(&targets, Duration::from_secs(5));
        let told: Vec<(bool, &str)> =
            answers.iter().map(|answer| (answer.ok, answer.reason.as_str())).collect();
        assert_eq!(told[..2], [(true, ""), (false, "refused")]);
        assert!(!told[2].0 && ["unresolved", "deadline"].contains(&told[2].1), "{told:?}");
        assert_eq!(
            answers.iter().map(|answer| &answer.target).collect::<Vec<_>>(),
            targets.iter().collect::<Vec<_>>()
        );
    }
}
