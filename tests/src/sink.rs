//! An SMTP server that keeps what it is given, with faults of the test's choosing.

use std::net::SocketAddr;
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

/// What the sink answers to a recipient.
pub type Verdict = Arc<dyn Fn(&str) -> Option<&'static str> + Send + Sync>;

/// A running sink; dropped, it stops.
pub struct Sink {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
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
        let received = Arc::new(Mutex::new(Vec::new()));
        let mut accepting = JoinSet::new();
        let kept = Arc::clone(&received);
        accepting.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(session(stream, Arc::clone(&kept), Arc::clone(&verdict)));
            }
        });
        Ok(Self { address, received, _accepting: accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no session panics holding it").clone()
    }

    pub fn count(&self) -> usize {
        self.received.lock().expect("no session panics holding it").len()
    }
}

async fn session(stream: TcpStream, kept: Arc<Mutex<Vec<Received>>>, verdict: Verdict) {
    // A client that goes away in the middle is a case of the tests, not a failure of the sink.
    let _ = converse(stream, &kept, &verdict).await;
}

async fn converse(
    stream: TcpStream,
    kept: &Mutex<Vec<Received>>,
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
                kept.lock().expect("no session panics holding it").push(received);
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
async fn read_content(stream: &mut (impl AsyncBufReadExt + AsyncReadExt + Unpin)) -> Result<Vec<u8>> {
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
