//! `plenum hello`: the web service of the package `hello`. It answers `GET /` with a message and who answered, and `GET /health` with 200.
//! A few hundred kilobytes of its own, so that a demonstration costs next to nothing.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// Connections that are answered at once.
const AT_ONCE: usize = 64;
/// A request's head may be this long.
const MAX_HEAD: u64 = 16 << 10;

/// What the service says.
#[derive(clap::Args, Debug)]
pub struct Hello {
    /// The port to listen on.
    #[arg(long, env = "PORT0")]
    port: u16,
    /// The first line of each answer.
    #[arg(long, env = "PLENUM_HELLO_MESSAGE", default_value = "Hello from Plenum")]
    message: String,
}

/// Serves until killed.
pub fn run(hello: &Hello) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, hello.port))
        .with_context(|| format!("port {} cannot be opened", hello.port))?;
    let task = std::env::var("MESOS_TASK_ID").unwrap_or_else(|_| "nobody".to_owned());
    let answer: Arc<str> = Arc::from(format!("{}\ninstance {task}\n", hello.message));
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (answer, counted) = (Arc::clone(&answer), Arc::clone(&open));
        let started = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            // A client that goes away is no event.
            let _ = talk(stream, &answer);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Answers requests on one connection until the client has no more.
fn talk(stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        let mut bounded = reader.by_ref().take(MAX_HEAD);
        while bounded.read_line(&mut head)? > 2 {}
        if !head.ends_with("\r\n\r\n") && !head.ends_with("\n\n") {
            return Ok(());
        }
        let mut words = head.split_ascii_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, body) = match (method, path) {
            ("GET" | "HEAD", "/health") => ("200 OK", "ok\n"),
            ("GET" | "HEAD", _) => ("200 OK", answer),
            _ => ("405 Method Not Allowed", "only GET and HEAD\n"),
        };
        let length = body.len();
        let close = head.to_ascii_lowercase().contains("connection: close") || method != "GET";
        let keep = if close { "close" } else { "keep-alive" };
        let shown = if method == "HEAD" { "" } else { body };
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: {keep}\r\n\r\n{shown}"
        )?;
        if close {
            return Ok(());
        }
    }
}
