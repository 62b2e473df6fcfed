//! A name server on loopback that answers from a script, over UDP and TCP.
//!
//! It speaks the wire format of RFC 1035 §4 by itself, so that a mistake of the resolver under test
//! is not made twice.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const AAAA: u16 = 28;

pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;
pub const REFUSED: u8 = 5;

/// Names and their answers. A name that it does not have at all is NXDOMAIN; one that it has with
/// another type only, an empty answer.
pub type Zone = HashMap<(String, u16), Answer>;

/// What a question gets.
#[derive(Clone, Debug)]
pub enum Answer {
    Records(Vec<Record>),
    /// Truncated over UDP; the records over TCP.
    OverTcp(Vec<Record>),
    /// Nothing but this response code.
    Code(u8),
    /// No response at all.
    Silence,
    /// Octets that are no response.
    Garbage,
}

/// A record with its data; it lives for an hour.
#[derive(Clone, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Mx(u16, String),
    Ptr(String),
    /// The name is another name for this one; answers about that one follow by themselves.
    Cname(String),
}

impl Record {
    pub fn mx(preference: u16, exchange: &str) -> Self {
        Self::Mx(preference, exchange.to_owned())
    }
}

/// The server; dropping it stops it.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    script: Arc<Script>,
    _tasks: JoinSet<io::Result<()>>,
}

#[derive(Debug)]
struct Script {
    zone: Zone,
    asked: Mutex<Vec<(String, u16)>>,
}

impl NameServer {
    /// Serves `zone`, whose names are lower case without a final dot, on a free port.
    pub async fn start(zone: Zone) -> io::Result<Self> {
        let (udp, tcp) = bind_both().await?;
        let address = udp.local_addr()?;
        let script = Arc::new(Script { zone, asked: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&script)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&script)));
        Ok(Self { address, script, _tasks: tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The questions so far, in order, repeated ones too.
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.script.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A port that is free for both protocols.
async fn bind_both() -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::other("no port");
    for _ in 0..20 {
        let udp = UdpSocket::bind("127.0.0.1:0").await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn serve_udp(socket: UdpSocket, script: Arc<Script>) -> io::Result<()> {
    let mut query = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut query).await?;
        if let Some(response) = script.respond(&query[..length], Transport::Udp) {
            socket.send_to(&response, client).await?;
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Script>) -> io::Result<()> {
    let mut clients = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        clients.spawn(serve_client(stream, Arc::clone(&script)));
    }
}

async fn serve_client(mut stream: TcpStream, script: Arc<Script>) -> io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        if let Some(response) = script.respond(&query, Transport::Tcp) {
            let length = u16::try_from(response.len()).map_err(io::Error::other)?;
            stream.write_u16(length).await?;
            stream.write_all(&response).await?;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Script {
    fn respond(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let key = (question.name.clone(), question.kind);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        let mut response = Response::to(query, &question);
        match self.answer(&question.name, question.kind) {
            Answer::Silence => return None,
            Answer::Garbage => return Some(vec![0xff; 40]),
            Answer::Code(code) => response.code = code,
            Answer::OverTcp(_) if transport == Transport::Udp => response.truncated = true,
            Answer::Records(records) | Answer::OverTcp(records) => {
                self.add(&mut response, &question.name, question.kind, &records);
            }
        }
        Some(response.finish())
    }

    fn answer(&self, name: &str, kind: u16) -> Answer {
        let key = (name.to_owned(), kind);
        let alias = (name.to_owned(), CNAME);
        if let Some(answer) = self.zone.get(&key).or_else(|| self.zone.get(&alias)) {
            return answer.clone();
        }
        let exists = self.zone.keys().any(|(known, _)| known == name);
        if exists { Answer::Records(Vec::new()) } else { Answer::Code(NXDOMAIN) }
    }

    fn add(&self, response: &mut Response, name: &str, kind: u16, records: &[Record]) {
        for record in records {
            response.add(name, record);
            if let (Record::Cname(target), true) = (record, kind != CNAME) {
                match self.answer(target, kind) {
                    Answer::Records(records) => self.add(response, target, kind, &records),
                    Answer::Code(code) => response.code = code,
                    Answer::OverTcp(_) | Answer::Silence | Answer::Garbage => {}
                }
            }
        }
    }
}

/// What is asked, and where in the query it ends.
struct Question {
    name: String,
    kind: u16,
    end: usize,
}

impl Question {
    fn parse(query: &[u8]) -> Option<Self> {
        let (mut at, mut labels) = (12, Vec::new());
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = query.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
        Some(Self { name: labels.join("."), kind, end: at + 4 })
    }
}

/// A response being written.
struct Response {
    id: [u8; 2],
    question: Vec<u8>,
    name: String,
    answers: Vec<u8>,
    count: u16,
    code: u8,
    truncated: bool,
}

impl Response {
    fn to(query: &[u8], question: &Question) -> Self {
        Self {
            id: [query[0], query[1]],
            question: query.get(12..question.end).unwrap_or_default().to_vec(),
            name: question.name.clone(),
            answers: Vec::new(),
            count: 0,
            code: 0,
            truncated: false,
        }
    }

    fn add(&mut self, name: &str, record: &Record) {
        let (kind, data) = match record {
            Record::A(address) => (A, address.octets().to_vec()),
            Record::Aaaa(address) => (AAAA, address.octets().to_vec()),
            Record::Cname(target) => (CNAME, encoded(target)),
            Record::Ptr(name) => (PTR, encoded(name)),
            Record::Mx(preference, host) => {
                (MX, [&preference.to_be_bytes()[..], &encoded(host)].concat())
            }
        };
        self.answers.extend(resource(name, kind, &data));
        self.count += 1;
    }

    fn finish(self) -> Vec<u8> {
        let negative = self.count == 0 && !self.truncated && matches!(self.code, 0 | NXDOMAIN);
        // A response, authoritative, recursion desired and available.
        let flags = [0x85 | u8::from(self.truncated) << 1, 0x80 | self.code];
        let [one, authorities] = [1_u16, u16::from(negative)].map(u16::to_be_bytes);
        let counts = [one, self.count.to_be_bytes(), authorities, [0; 2]].concat();
        let mut octets = [&self.id[..], &flags, &counts, &self.question, &self.answers].concat();
        if negative {
            // RFC 2308 §3: an absence is believed for as long as this record says.
            let times = [1_u32, 3_600, 600, 86_400, 60].map(u32::to_be_bytes).concat();
            let data = [encoded("ns.invalid"), encoded("hostmaster.invalid"), times].concat();
            octets.extend(resource(&self.name, SOA, &data));
        }
        octets
    }
}

fn resource(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("records of a script are short");
    let head = [kind.to_be_bytes(), 1_u16.to_be_bytes()].concat();
    let rest = [&3_600_u32.to_be_bytes()[..], &length.to_be_bytes(), data].concat();
    [encoded(name), head, rest].concat()
}

/// A name as labels, without compression.
fn encoded(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).expect("labels of a script are short"));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets
}
