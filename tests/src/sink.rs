//! An SMTP server that keeps what it is given, with faults of the test's choosing.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A transaction whose content the sink has kept.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its MAIL came. By BDAT all came with it, and may have lain in the socket since the
    /// client had nothing else to wait for: then it is that time.
    pub began: Instant,
    /// When the `250` was about to be written.
    pub at: Instant,
    /// Where its client connected from.
    pub client: IpAddr,
    /// The name that the client gave.
    pub hello: String,
    pub reverse_path: String,
    pub recipients: Vec<String>,
    /// With dots unstuffed.
    pub content: Vec<u8>,
    pub end: End,
}

/// How a transaction that was kept ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was told `250`.
    Answered,
    /// The sink went away right before or after the `250`: the client may not know.
    Cut,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    Greeting,
    Hello,
    Mail,
    Rcpt,
    Data,
    /// In the middle of the content; only a disconnect is possible.
    Content,
    /// The content is there and was not kept.
    FinalDot,
    /// It was kept and not answered; only a disconnect is possible.
    Kept,
    /// The `250` was written; only a disconnect is possible.
    Answered,
}

/// What the sink does instead of going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whim {
    Say(&'static str),
    Disconnect,
    /// Goes on as it would, but not before this.
    Wait(Duration),
}

const HELLO: &str = "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8";
const HELLO_CHUNKING: &str =
    "250-sink.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 SMTPUTF8";

/// Asked at each moment; `None` goes on.
pub type Whims = Arc<dyn Fn(Moment) -> Option<Whim> + Send + Sync>;

#[derive(Debug, Default)]
struct Kept {
    received: Mutex<Vec<Received>>,
    /// Transactions between an accepted recipient and the reply to the final dot.
    in_flight: AtomicUsize,
}

/// What the sink answers to a recipient.
pub type Verdict = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// What the sink does with a message before it says `250`: gives back what it is to remember.
pub type Keep = Arc<dyn Fn(Received) -> Option<Received> + Send + Sync>;

/// How a sink behaves.
#[derive(Clone)]
pub struct Manners {
    pub verdict: Verdict,
    pub whims: Whims,
    pub keep: Keep,
}

impl Default for Manners {
    /// Takes and remembers everything.
    fn default() -> Self {
        Self { verdict: Arc::new(|_| None), whims: Arc::new(|_| None), keep: Arc::new(Some) }
    }
}

/// A running sink; dropped, it stops.
pub struct Sink {
    address: SocketAddr,
    kept: Arc<Kept>,
    _accepting: JoinSet<()>,
}

impl Sink {
    /// Accepts everything.
    pub async fn start() -> Result<Self> {
        Self::with_verdict(Arc::new(|_| None)).await
    }

    /// Asks `verdict` at each RCPT: `None` accepts, `Some(reply)` is said instead.
    pub async fn with_verdict(verdict: Verdict) -> Result<Self> {
        Self::bind("127.0.0.1:0".parse()?, verdict).await
    }

    pub async fn bind(address: SocketAddr, verdict: Verdict) -> Result<Self> {
        Self::with_whims(address, verdict, Arc::new(|_| None)).await
    }

    /// Also does what `whims` says, whoever the recipient is.
    pub async fn with_whims(address: SocketAddr, verdict: Verdict, whims: Whims) -> Result<Self> {
        Self::with_manners(address, Manners { verdict, whims, ..Manners::default() }).await
    }

    pub async fn with_manners(address: SocketAddr, manners: Manners) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Kept::default());
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&kept);
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            // Every other session takes content by BDAT: clients are to do either.
            for hello in [HELLO_CHUNKING, HELLO].into_iter().cycle() {
                let Ok((stream, client)) = listener.accept().await else { return };
                let client = (client.ip(), String::new());
                let session = session(stream, hello, client, Arc::clone(&shared), manners.clone());
                sessions.spawn(session);
            }
        });
        Ok(Self { address, kept, _accepting: accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn received(&self) -> Vec<Received> {
        self.kept.received.lock().expect("no session panics holding it").clone()
    }

    /// What it has kept; it forgets that.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.kept.received.lock().expect("no session panics holding it"))
    }

    /// Transactions with a recipient, not yet answered.
    pub fn in_flight(&self) -> usize {
        self.kept.in_flight.load(Ordering::SeqCst)
    }

    pub fn count(&self) -> usize {
        self.kept.received.lock().expect("no session panics holding it").len()
    }
}

/// Counts its session among those in a transaction, until told otherwise or dropped.
struct Open<'a>(&'a AtomicUsize, AtomicBool);

impl Open<'_> {
    fn set(&self, open: bool) {
        match (self.1.swap(open, Ordering::SeqCst), open) {
            (false, true) => _ = self.0.fetch_add(1, Ordering::SeqCst),
            (true, false) => _ = self.0.fetch_sub(1, Ordering::SeqCst),
            (true, true) | (false, false) => {}
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

async fn session(
    stream: TcpStream,
    hello: &'static str,
    client: (IpAddr, String),
    kept: Arc<Kept>,
    manners: Manners,
) {
    let open = Open(&kept.in_flight, AtomicBool::new(false));
    let stream = BufReader::new(stream);
    let answered = Instant::now();
    let session =
        Session { stream, hello, client, kept: &kept, open, manners, mail: None, answered };
    // A client that goes away in the middle is a case of the tests, not a failure of the sink.
    let _ = session.converse().await;
}

/// A session with a client.
struct Session<'a> {
    stream: BufReader<TcpStream>,
    hello: &'static str,
    /// Its address, and its name once it has given that.
    client: (IpAddr, String),
    kept: &'a Kept,
    open: Open<'a>,
    manners: Manners,
    mail: Option<Mail>,
    /// When the client had its answer to all that it had sent.
    answered: Instant,
}

/// What MAIL and RCPT have said.
struct Mail {
    began: Instant,
    /// It was sent no earlier.
    sent_after: Instant,
    reverse_path: String,
    recipients: Vec<String>,
}

/// Whether the session goes on.
enum Next {
    Reply(&'static str),
    Close,
}

impl Session<'_> {
    async fn converse(mut self) -> Result<()> {
        self.stream.get_ref().set_nodelay(true)?;
        match (self.manners.whims)(Moment::Greeting) {
            None => {}
            Some(Whim::Wait(time)) => tokio::time::sleep(time).await,
            Some(Whim::Disconnect) => return Ok(()),
            Some(Whim::Say(reply)) => return self.say(reply).await,
        }
        self.say("220 sink.test").await?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match self.command(&line).await? {
                Next::Reply(reply) => self.say(reply).await?,
                Next::Close => return Ok(()),
            }
        }
    }

    async fn say(&mut self, reply: &str) -> Result<()> {
        if self.stream.buffer().is_empty() {
            self.answered = Instant::now();
        }
        Ok(self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?)
    }

    async fn command(&mut self, line: &str) -> Result<Next> {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let moment = match verb.as_str() {
            "EHLO" | "HELO" => Some(Moment::Hello),
            "MAIL" => Some(Moment::Mail),
            "RCPT" => Some(Moment::Rcpt),
            "DATA" => Some(Moment::Data),
            _ => None,
        };
        match moment.and_then(|moment| (self.manners.whims)(moment)) {
            Some(Whim::Disconnect) => return Ok(Next::Close),
            Some(Whim::Say(reply)) => return Ok(Next::Reply(reply)),
            Some(Whim::Wait(time)) => tokio::time::sleep(time).await,
            None => {}
        }
        let path = between(line, '<', '>').to_owned();
        Ok(Next::Reply(match verb.as_str() {
            "EHLO" => {
                line[4..].trim().clone_into(&mut self.client.1);
                self.hello
            }
            "MAIL" => {
                let (began, sent_after) = (Instant::now(), self.answered);
                let recipients = Vec::new();
                self.mail = Some(Mail { began, sent_after, reverse_path: path, recipients });
                self.open.set(false);
                "250 2.1.0 ok"
            }
            "RCPT" => self.recipient(path),
            "DATA" => return self.data().await,
            "BDAT" => return self.bdat(line).await,
            "RSET" => {
                self.mail = None;
                self.open.set(false);
                "250 2.0.0 ok"
            }
            "QUIT" => {
                self.say("221 2.0.0 bye").await?;
                return Ok(Next::Close);
            }
            _ => "250 2.0.0 ok",
        }))
    }

    fn recipient(&mut self, path: String) -> &'static str {
        let Some(mail) = &mut self.mail else { return "503 5.5.1 no MAIL" };
        match (self.manners.verdict)(&path) {
            None => {
                mail.recipients.push(path);
                self.open.set(true);
                "250 2.1.5 ok"
            }
            Some(reply) => reply,
        }
    }

    async fn data(&mut self) -> Result<Next> {
        let Some(mail) = self.mail.take().filter(|mail| !mail.recipients.is_empty()) else {
            return Ok(Next::Reply("554 5.5.1 no recipients"));
        };
        self.say("354 go").await?;
        if (self.manners.whims)(Moment::Content) == Some(Whim::Disconnect) {
            self.stream.read_line(&mut String::new()).await?;
            return Ok(Next::Close);
        }
        let content = read_content(&mut self.stream).await?;
        self.end_of_content(mail, content).await
    }

    /// Reads the octets, whatever becomes of them (RFC 3030 §2).
    async fn bdat(&mut self, line: &str) -> Result<Next> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, octets, "LAST"] = words[..] else { anyhow::bail!("not one BDAT: {line:?}") };
        let octets: u64 = octets.parse().context("octets of BDAT")?;
        if (self.manners.whims)(Moment::Content) == Some(Whim::Disconnect) {
            return Ok(Next::Close);
        }
        let mut content = Vec::new();
        let read = (&mut self.stream).take(octets).read_to_end(&mut content).await?;
        anyhow::ensure!(read as u64 == octets, "gone in BDAT");
        let Some(mut mail) = self.mail.take().filter(|mail| !mail.recipients.is_empty()) else {
            return Ok(Next::Reply("554 5.5.1 no recipients"));
        };
        mail.began = mail.sent_after;
        self.end_of_content(mail, content).await
    }

    async fn end_of_content(&mut self, mail: Mail, content: Vec<u8>) -> Result<Next> {
        match (self.manners.whims)(Moment::FinalDot) {
            Some(Whim::Disconnect) => return Ok(Next::Close),
            Some(Whim::Say(reply)) => {
                self.open.set(false);
                return Ok(Next::Reply(reply));
            }
            Some(Whim::Wait(time)) => tokio::time::sleep(time).await,
            None => {}
        }
        self.keep(mail, content).await
    }

    async fn keep(&mut self, mail: Mail, content: Vec<u8>) -> Result<Next> {
        let leaves = |moment| (self.manners.whims)(moment) == Some(Whim::Disconnect);
        let (unanswered, answered) = (leaves(Moment::Kept), leaves(Moment::Answered));
        let end = if unanswered || answered { End::Cut } else { End::Answered };
        let Mail { began, reverse_path, recipients, .. } = mail;
        let at = Instant::now();
        let (client, hello) = self.client.clone();
        let received =
            Received { began, at, client, hello, reverse_path, recipients, content, end };
        if let Some(received) = (self.manners.keep)(received) {
            self.kept.received.lock().expect("no session panics holding it").push(received);
        }
        self.open.set(false);
        if answered && !unanswered {
            self.say("250 2.0.0 kept").await?;
        }
        match end {
            End::Answered => Ok(Next::Reply("250 2.0.0 kept")),
            End::Cut => Ok(Next::Close),
        }
    }
}

/// The content up to the final dot, with dots unstuffed.
async fn read_content(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        anyhow::ensure!(stream.read_until(b'\n', &mut content).await? > 0, "gone in DATA");
        match &content[start..] {
            b".\r\n" => {
                content.truncate(start);
                return Ok(content);
            }
            [b'.', ..] => {
                content.remove(start);
            }
            _ => {}
        }
    }
}

fn between(line: &str, open: char, close: char) -> &str {
    let start = line.find(open).map_or(line.len(), |at| at + 1);
    let rest = &line[start..];
    rest.find(close).map_or("", |end| &rest[..end])
}
