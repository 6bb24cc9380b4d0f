//! One query in, one answer out. Pure: no sockets, no clock. Whatever the bytes are, this returns.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::{Message, MessageBuilder, Name, Question, Serial, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ns, Soa, Srv};

use crate::names::MESOS;
use crate::replica::core::{Found, Replica};
use crate::replica::records::Data;

/// The most that is sent over UDP, as is usual since 2020: it passes every link unfragmented.
const MOST_UDP: u16 = 1232;
/// What a client without EDNS takes.
const PLAIN_UDP: usize = 512;
/// Room for an OPT record without options.
const OPT: usize = 11;
/// The size of a message's header.
const HEADER: usize = 12;

/// The zones that are answered here and never forwarded.
const ZONES: [&str; 5] = [MESOS, "thisdcos.directory", "thisdcos.global", "spartan", "localhost"];

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream, which takes long answers.
    Tcp,
}

/// What never changes while the server runs.
#[derive(Debug, Clone)]
pub struct Site {
    /// How long answers may be kept, in seconds.
    pub ttl: u32,
    /// The server's own address, which `ns1.mesos` has.
    pub server: IpAddr,
}

/// What to do with a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send this back.
    Reply(Vec<u8>),
    /// The name is not ours: somebody else knows.
    Forward,
    /// This is no query: an answer would make loops.
    Drop,
}

type Out = StaticCompressor<Vec<u8>>;

/// Works out what to do with a packet.
#[must_use]
pub fn answer(packet: &[u8], replica: &Replica, site: &Site, transport: Transport) -> Outcome {
    let Ok(query) = Message::from_slice(packet) else { return Outcome::Drop };
    if query.header().qr() {
        return Outcome::Drop;
    }
    let plan = match read(query) {
        Ok(plan) => plan,
        Err(refused) => return reply(refuse(query, refused)),
    };
    let Some(name) = ours(&plan.name) else { return Outcome::Forward };
    reply(compose(query, &plan, &name, replica, site, transport))
}

/// The answer when nobody else knows either: `REFUSED` or `SERVFAIL`.
#[must_use]
pub fn failure(packet: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let query = Message::from_slice(packet).ok()?;
    refuse(query, Refusal { rcode: OptRcode::from(rcode), edns: query.opt().is_some() }).ok()
}

fn reply(built: Result<Vec<u8>, PushError>) -> Outcome {
    // Only a question that does not fit can fail here.
    built.map_or(Outcome::Drop, Outcome::Reply)
}

struct Refusal {
    rcode: OptRcode,
    edns: bool,
}

struct Plan {
    /// Lower case, without the last dot.
    name: String,
    kind: Rtype,
    /// The client's largest datagram, if it said so.
    edns: Option<u16>,
}

fn read(query: &Message<[u8]>) -> Result<Plan, Refusal> {
    let plain = |rcode: OptRcode| Refusal { rcode, edns: false };
    if query.header().opcode() != Opcode::QUERY {
        return Err(plain(OptRcode::NOTIMP));
    }
    if query.header_counts().qdcount() != 1 || query.header().tc() {
        return Err(plain(OptRcode::FORMERR));
    }
    let Some(Ok(question)) = query.question().next() else { return Err(plain(OptRcode::FORMERR)) };
    let edns = edns(query)?;
    if !matches!(question.qclass(), Class::IN | Class::ANY) {
        return Err(Refusal { rcode: OptRcode::REFUSED, edns: edns.is_some() });
    }
    if matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR) {
        return Err(Refusal { rcode: OptRcode::REFUSED, edns: edns.is_some() });
    }
    Ok(Plan { name: text(&question), kind: question.qtype(), edns })
}

/// What the client's OPT record says: its largest datagram.
fn edns(query: &Message<[u8]>) -> Result<Option<u16>, Refusal> {
    let broken = || Refusal { rcode: OptRcode::FORMERR, edns: false };
    let mut found = 0;
    for record in query.additional().map_err(|_| broken())? {
        let record = record.map_err(|_| broken())?;
        found += u32::from(record.rtype() == Rtype::OPT);
    }
    if found == 0 {
        return Ok(None);
    }
    let opt = query.opt().filter(|_| found == 1).ok_or_else(broken)?;
    if opt.version() != 0 {
        return Err(Refusal { rcode: OptRcode::BADVERS, edns: true });
    }
    Ok(Some(opt.udp_payload_size()))
}

/// The name as the replica writes it. A label with a dot or with bytes that no name of ours has becomes one that matches nothing.
fn text<N: ToName>(question: &Question<N>) -> String {
    let mut out = String::new();
    for label in question.qname().iter_labels().filter(|label| !label.is_root()) {
        if !out.is_empty() {
            out.push('.');
        }
        for byte in label.as_slice() {
            let strange = !byte.is_ascii_graphic() || *byte == b'.';
            out.push(if strange { '\u{0}' } else { char::from(byte.to_ascii_lowercase()) });
        }
    }
    out
}

fn within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn swap(name: &str, from: &str, to: &str) -> Option<String> {
    within(name, from).then(|| format!("{}{to}", name.strip_suffix(from).unwrap_or_default()))
}

/// The name under which the replica has it, if its zone is ours; older names of the same zones are turned into today's.
fn ours(name: &str) -> Option<String> {
    if !ZONES.iter().any(|zone| within(name, zone)) {
        return None;
    }
    let name = swap(name, "thisdcos.global", "thisdcos.directory").unwrap_or_else(|| name.to_owned());
    let name = swap(&name, "dclb.thisdcos.directory", "l4lb.thisdcos.directory").unwrap_or(name);
    Some(swap(&name, "mesos.thisdcos.directory", MESOS).unwrap_or(name))
}

/// The apex of the zone of a name, as it was asked.
fn apex(name: &str) -> &'static str {
    const APEXES: [&str; 9] = [
        "mesos.thisdcos.directory",
        "l4lb.thisdcos.directory",
        "dclb.thisdcos.directory",
        "dcos.thisdcos.directory",
        "thisdcos.directory",
        "thisdcos.global",
        "spartan",
        "localhost",
        MESOS,
    ];
    APEXES.into_iter().find(|zone| within(name, zone)).unwrap_or(MESOS)
}

/// Names that are there without anybody running anything.
fn fixed(name: &str, site: &Site) -> Vec<Data> {
    match name {
        "ns1.mesos" | "root.ns1.mesos" => vec![site.server.into()],
        "ready.spartan" => vec![Data::A([127, 0, 0, 1].into())],
        "localhost" => vec![Data::A([127, 0, 0, 1].into()), Data::Aaaa(std::net::Ipv6Addr::LOCALHOST)],
        _ => Vec::new(),
    }
}

fn refuse(query: &Message<[u8]>, refusal: Refusal) -> Result<Vec<u8>, PushError> {
    let builder = start()?;
    let rcode = refusal.rcode;
    // A question that cannot be read is not repeated.
    let readable = query.header_counts().qdcount() == 1 && matches!(query.question().next(), Some(Ok(_)));
    let mut additional = if readable {
        builder.start_answer(query, rcode.rcode())?.additional()
    } else {
        let mut builder = builder;
        let header = builder.header_mut();
        header.set_id(query.header().id());
        header.set_qr(true);
        header.set_opcode(query.header().opcode());
        header.set_rd(query.header().rd());
        header.set_rcode(rcode.rcode());
        builder.additional()
    };
    if refusal.edns {
        push_opt(&mut additional, rcode)?;
    }
    Ok(additional.finish().into_target())
}

fn start() -> Result<MessageBuilder<Out>, PushError> {
    MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(PLAIN_UDP))).map_err(PushError::from)
}

fn push_opt(additional: &mut AdditionalBuilder<Out>, rcode: OptRcode) -> Result<(), PushError> {
    additional.opt(|opt| {
        opt.set_udp_payload_size(MOST_UDP);
        opt.set_rcode(rcode);
        Ok(())
    })
}

fn compose(
    query: &Message<[u8]>,
    plan: &Plan,
    name: &str,
    replica: &Replica,
    site: &Site,
    transport: Transport,
) -> Result<Vec<u8>, PushError> {
    let limit = match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp => plan.edns.map_or(PLAIN_UDP, |most| usize::from(most.clamp(512, MOST_UDP))),
    };
    let found = replica.find(name);
    let fixed = fixed(name, site);
    let asked_apex = plan.name == apex(&plan.name);
    let exists = found.exists() || !fixed.is_empty() || asked_apex;
    let mut builder = start()?;
    builder.set_push_limit(limit.saturating_sub(if plan.edns.is_some() { OPT } else { 0 }).max(HEADER));
    let rcode = if exists { Rcode::NOERROR } else { Rcode::NXDOMAIN };
    let mut answers = builder.start_answer(query, rcode)?;
    answers.header_mut().set_aa(true);
    answers.header_mut().set_ra(true);
    let data = chosen(found, &fixed, plan.kind, query.header().id());
    let serial = u32::try_from(replica.step().1 & u64::from(u32::MAX)).unwrap_or(0);
    let filled = fill(&mut answers, query, plan, &data, asked_apex.then_some(serial), site);
    let mut additional = match filled {
        Err(_) => {
            answers.rewind();
            answers.header_mut().set_tc(true);
            answers.additional()
        }
        Ok(count) => {
            let mut authority = answers.authority();
            if count == 0 {
                // An answer without a SOA is still right; it is only not kept by caches.
                let _ = authority.push((dns_name(apex(&plan.name)), Class::IN, ttl(site), soa(serial, site)));
            }
            let mut additional = authority.additional();
            targets(&mut additional, &data, replica, site);
            additional
        }
    };
    if plan.edns.is_some() {
        additional.clear_push_limit();
        push_opt(&mut additional, OptRcode::from(rcode))?;
    }
    Ok(additional.finish().into_target())
}

/// The data of the kind that is asked for, turned by the query's number, so that clients which take the first spread themselves.
fn chosen(found: Found<'_>, fixed: &[Data], kind: Rtype, turn: u16) -> Vec<Data> {
    let fits = |data: &&Data| {
        kind == Rtype::ANY
            || match data {
                Data::A(_) => kind == Rtype::A,
                Data::Aaaa(_) => kind == Rtype::AAAA,
                Data::Srv { .. } => kind == Rtype::SRV,
            }
    };
    let mut data: Vec<Data> = found.data().chain(fixed).filter(fits).cloned().collect();
    let count = data.len();
    if count > 1 {
        data.rotate_left(usize::from(turn) % count);
    }
    data
}

/// Puts the answers in; gives their count.
fn fill(
    answers: &mut AnswerBuilder<Out>,
    query: &Message<[u8]>,
    plan: &Plan,
    data: &[Data],
    apex_serial: Option<u32>,
    site: &Site,
) -> Result<usize, PushError> {
    let Some(Ok(question)) = query.question().next() else { return Ok(0) };
    let owner = question.qname();
    let mut count = data.len();
    for data in data {
        push(answers, owner, data, site)?;
    }
    if let Some(serial) = apex_serial {
        if matches!(plan.kind, Rtype::SOA | Rtype::ANY) {
            answers.push((owner, Class::IN, ttl(site), soa(serial, site)))?;
            count += 1;
        }
        if matches!(plan.kind, Rtype::NS | Rtype::ANY) {
            answers.push((owner, Class::IN, ttl(site), Ns::new(dns_name("ns1.mesos"))))?;
            count += 1;
        }
    }
    Ok(count)
}

fn push<N: ToName>(
    answers: &mut AnswerBuilder<Out>,
    owner: N,
    data: &Data,
    site: &Site,
) -> Result<(), PushError> {
    let (class, ttl) = (Class::IN, ttl(site));
    match data {
        Data::A(address) => answers.push((owner, class, ttl, A::new(*address))),
        Data::Aaaa(address) => answers.push((owner, class, ttl, Aaaa::new(*address))),
        Data::Srv { target, port } => {
            answers.push((owner, class, ttl, Srv::new(0, 0, *port, dns_name(target))))
        }
    }
}

/// The addresses of the hosts of services, as far as there is room.
fn targets(additional: &mut AdditionalBuilder<Out>, data: &[Data], replica: &Replica, site: &Site) {
    let mut seen = std::collections::BTreeSet::new();
    for target in data.iter().filter_map(|data| match data {
        Data::Srv { target, .. } => Some(target),
        _ => None,
    }) {
        if !seen.insert(target) {
            continue;
        }
        for data in replica.find(target).data() {
            let (owner, class, ttl) = (dns_name(target), Class::IN, ttl(site));
            let pushed = match data {
                Data::A(address) => additional.push((owner, class, ttl, A::new(*address))),
                Data::Aaaa(address) => additional.push((owner, class, ttl, Aaaa::new(*address))),
                Data::Srv { .. } => Ok(()),
            };
            if pushed.is_err() {
                return;
            }
        }
    }
}

fn ttl(site: &Site) -> Ttl {
    Ttl::from_secs(site.ttl)
}

fn soa(serial: u32, site: &Site) -> Soa<Name<Vec<u8>>> {
    let (server, person) = (dns_name("ns1.mesos"), dns_name("root.ns1.mesos"));
    let ttl = ttl(site);
    Soa::new(server, person, Serial(serial), ttl, ttl, Ttl::from_secs(86_400), ttl)
}

/// A name of ours as DNS writes it. What is too long for DNS becomes the root, which nothing resolves.
fn dns_name(text: &str) -> Name<Vec<u8>> {
    Name::vec_from_str(text).unwrap_or_else(|_| Name::root_vec())
}
