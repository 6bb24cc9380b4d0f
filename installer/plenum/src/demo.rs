//! `plenum up --demo`: the main job from end to end, a line for each step: a package is installed, is healthy, has a name, and answers through
//! its virtual address and through the gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use plenum_base::client::Client;
use plenum_base::places::Places;
use plenum_cli::api::Session;
use plenum_cli::api::packages::Installation;
use plenum_cli::context::Contexts;
use tokio::net::UdpSocket;

use crate::up::progress::Progress;

/// No step takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const APP: &str = "/hello";
const NAME: &str = "hello.marathon.mesos";
const VIP_NAME: &str = "hello.marathon.l4lb.thisdcos.directory";

/// Carries the demonstration out.
pub fn run(places: &Places, progress: &Progress) -> Result<()> {
    let session =
        Contexts::of_this_user().session(&places.instance, None).context("the command line's login")?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(steps(places, &session, progress))
}

async fn steps(places: &Places, session: &Session, progress: &Progress) -> Result<()> {
    let nodes = until("a node", async || Ok(session.nodes().await?.len()), |count| *count > 0).await?;
    progress.step(&format!("cluster healthy: {nodes} node"));
    install(session).await?;
    progress.step("package hello installed");
    let app = until("healthy instances", async || Ok(session.app(APP).await?), |app| app.settled()).await?;
    progress.step(&format!("instances healthy: {} of {}", app.good(), app.instances));
    let found =
        until(NAME, async || Ok(lookup(places.dns(), NAME).await?), |found| !found.is_empty()).await?;
    progress.step(&format!("{NAME} resolved to {}", found[0]));
    let web = Client::plain()?;
    if places.root {
        let vip =
            until(VIP_NAME, async || Ok(lookup(places.dns(), VIP_NAME).await?), |found| !found.is_empty());
        let vip = vip.await?[0];
        let url = format!("http://{vip}:80/");
        let said = until(&url, async || ask(&web, &url).await, |said| !said.is_empty()).await?;
        progress.step(&format!("answer through the virtual address {vip}:80: {}", first_line(&said)));
    } else {
        progress.note("no virtual address without root");
    }
    let url = format!("{}/service/hello/", session.url());
    let said =
        until(&url, async || Ok(session.text("/service/hello/").await?), |said| !said.is_empty()).await?;
    progress.step(&format!("answer through the gateway {url}: {}", first_line(&said)));
    reach(places, session, progress);
    Ok(())
}

/// How to go on from here.
fn reach(places: &Places, session: &Session, progress: &Progress) {
    let instance = match places.instance.as_str() {
        "default" => String::new(),
        name => format!(" --instance {name}"),
    };
    progress.note(&format!("gateway    {} (user admin; the CA is {})", session.url(), places.ca().display()));
    progress.note(&format!("names      dig @{} -p {} {NAME}", places.dns().ip(), places.dns().port()));
    progress.note(&format!("apps       plenum app list{instance}; plenum task logs hello{instance}"));
    progress.note(&format!("stop it    plenum down{instance}"));
}

/// Installs the package; one that is installed already is as good.
async fn install(session: &Session) -> Result<()> {
    if session.installed().await?.iter().any(|one| one.app_id == APP) {
        return Ok(());
    }
    let what = Installation { name: "hello".to_owned(), ..Installation::default() };
    session.install(&what).await.context("the package hello")?;
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

async fn ask(web: &Client, url: &str) -> Result<String> {
    let reply = web.get(url).deadline(Duration::from_secs(2)).send().await?.success().await?;
    Ok(String::from_utf8_lossy(&reply.bytes().await?).into_owned())
}

/// Asks again until the answer is good; the last trouble is told when time runs out.
async fn until<T>(what: &str, ask: impl AsyncFn() -> Result<T>, good: impl Fn(&T) -> bool) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let trouble = match ask().await {
            Ok(answer) if good(&answer) => return Ok(answer),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            match trouble {
                Some(error) => {
                    return Err(error.context(format!("waited {} s for {what}", PATIENCE.as_secs())));
                }
                None => bail!("waited {} s for {what}; see `plenum app why hello`", PATIENCE.as_secs()),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The A records of a name, asked of one server (RFC 1035, section 4).
async fn lookup(server: SocketAddr, name: &str) -> Result<Vec<Ipv4Addr>> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { bail!("no IPv4 server") };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    // Recursion desired, one question.
    let mut query = vec![0x50, 0x4c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query).await?;
    let mut answer = [0; 1500];
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer)).await??;
    addresses(&answer[..length], query.len())
}

/// Reads the answer section, which begins behind the question. Owner names are compressed to two bytes, as our server writes them, or spelt
/// out.
fn addresses(answer: &[u8], question_end: usize) -> Result<Vec<Ipv4Addr>> {
    let short = "a short answer";
    let code = answer.get(3).context(short)? & 0xf;
    ensure!(code == 0 || code == 3, "the name server answers with code {code}");
    let count =
        usize::from(u16::from_be_bytes([*answer.get(6).context(short)?, *answer.get(7).context(short)?]));
    let (mut at, mut found) = (question_end, Vec::new());
    for _ in 0..count {
        while *answer.get(at).context(short)? != 0 && answer[at] < 0xc0 {
            at += usize::from(answer[at]) + 1;
        }
        at += if answer[at] >= 0xc0 { 2 } else { 1 };
        let head: [u8; 10] = answer.get(at..at + 10).context(short)?.try_into()?;
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        at += 10;
        let data = answer.get(at..at + length).context(short)?;
        if head[..2] == [0, 1] {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data)?));
        }
        at += length;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn answers_are_read_and_rubbish_is_refused() {
        let mut answer = vec![0x50, 0x4c, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let end = answer.len();
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        answer.extend([1, b'a', 0, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 2]);
        let found: Vec<String> = addresses(&answer, end).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "10.0.0.2"]);
        for length in 0..answer.len() {
            assert!(addresses(&answer[..length], end).is_err(), "cut at {length}");
        }
    }
}
