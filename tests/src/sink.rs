//! An SMTP server that keeps what it is given, with faults of the test's choosing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A transaction that the sink answered with `250`.
#[derive(Debug, Clone)]
pub struct Received {
    /// When the `250` was about to be written.
    pub at: Instant,
    pub reverse_path: String,
    pub recipients: Vec<String>,
    /// With dots unstuffed.
    pub content: Vec<u8>,
}

#[derive(Debug, Default)]
struct Kept {
    received: Mutex<Vec<Received>>,
    /// Transactions between MAIL and the reply to the final dot.
    in_flight: AtomicUsize,
}

/// What the sink answers to a recipient.
pub type Verdict = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

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
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Kept::default());
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&kept);
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(session(stream, Arc::clone(&shared), Arc::clone(&verdict)));
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

    /// Transactions begun and not yet answered.
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

async fn session(stream: TcpStream, kept: Arc<Kept>, verdict: Verdict) {
    // A client that goes away in the middle is a case of the tests, not a failure of the sink.
    let open = Open(&kept.in_flight, AtomicBool::new(false));
    let _ = converse(stream, &kept, &open, &verdict).await;
}

async fn converse(
    stream: TcpStream,
    kept: &Kept,
    open: &Open<'_>,
    verdict: &Verdict,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink.test\r\n").await?;
    let (mut reverse_path, mut recipients) = (String::new(), Vec::new());
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let path = between(&line, '<', '>').to_owned();
        let reply = match verb.as_str() {
            "EHLO" => "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8",
            "MAIL" => {
                (reverse_path, recipients) = (path, Vec::new());
                open.set(true);
                "250 2.1.0 ok"
            }
            "RCPT" => match verdict(&path) {
                None => {
                    recipients.push(path);
                    "250 2.1.5 ok"
                }
                Some(reply) => reply,
            },
            "DATA" if recipients.is_empty() => "554 5.5.1 no recipients",
            "DATA" => {
                stream.write_all(b"354 go\r\n").await?;
                let content = read_content(&mut stream).await?;
                let (reverse_path, recipients) = (reverse_path.clone(), recipients.clone());
                let at = Instant::now();
                let received = Received { at, reverse_path, recipients, content };
                kept.received.lock().expect("no session panics holding it").push(received);
                open.set(false);
                "250 2.0.0 kept"
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 bye\r\n").await?;
                return Ok(());
            }
            _ => "250 2.0.0 ok",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

/// The content up to the final dot, with dots unstuffed.
async fn read_content(
    stream: &mut (impl AsyncBufReadExt + AsyncReadExt + Unpin),
) -> Result<Vec<u8>> {
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
