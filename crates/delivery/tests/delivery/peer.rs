//! A mail host that says what its script says, on loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// What the peer does when it is its turn.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Exactly these octets.
    Say(Vec<u8>),
    SayAndClose(Vec<u8>),
    Close,
    /// Never anything again; the connection stays open.
    Silent,
    /// These octets, when told to.
    SayWhen(Arc<Notify>, Vec<u8>),
}

pub(crate) fn say(text: &str) -> Act {
    Act::Say(text.replace('\n', "\r\n").into_bytes())
}

pub(crate) fn say_and_close(text: &str) -> Act {
    Act::SayAndClose(text.replace('\n', "\r\n").into_bytes())
}

/// One answer for each kind of turn; the defaults accept everything.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) greeting: Act,
    pub(crate) ehlo: Act,
    /// After the handshake.
    pub(crate) ehlo_tls: Act,
    pub(crate) start_tls: Act,
    pub(crate) mail: Act,
    pub(crate) rcpt: Act,
    /// Used for recipients whose local part is `bad`.
    pub(crate) rcpt_bad: Act,
    pub(crate) auth: Act,
    pub(crate) data: Act,
    /// When content begins, before it is read.
    pub(crate) early: Option<Act>,
    pub(crate) dot: Act,
    /// How many messages a connection serves before the peer closes it without a word.
    pub(crate) messages_max: usize,
}

impl Script {
    /// Whether nothing out of the way happens between DATA and the final dot.
    pub(crate) fn takes_data(&self) -> bool {
        let goes_on = matches!(&self.data, Act::Say(octets) if octets.starts_with(b"354"));
        goes_on && self.early.is_none()
    }

    /// The same, to a client that may send content by BDAT.
    pub(crate) fn chunking(mut self) -> Self {
        if let Act::Say(octets) = &mut self.ehlo
            && let Some(rest) = octets.strip_prefix(b"250-peer\r\n250-PIPELINING\r\n")
        {
            *octets = [b"250-peer\r\n250-PIPELINING\r\n250-CHUNKING\r\n", rest].concat();
        }
        self
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: say("220 peer ESMTP\n"),
            ehlo: say("250-peer\n250-PIPELINING\n250-8BITMIME\n250 SIZE 1000000\n"),
            ehlo_tls: say("250-peer\n250 PIPELINING\n"),
            start_tls: say("220 go\n"),
            mail: say("250 2.1.0 ok\n"),
            rcpt: say("250 2.1.5 ok\n"),
            rcpt_bad: say("550 5.1.1 no such user\n"),
            auth: say("235 2.7.0 ok\n"),
            data: say("354 go\n"),
            early: None,
            dot: say("250 2.0.0 queued as X\n"),
            messages_max: usize::MAX,
        }
    }
}

/// A message as it came over the wire, dots still stuffed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) mail: String,
    pub(crate) rcpts: Vec<String>,
    pub(crate) content: Vec<u8>,
    pub(crate) tls: bool,
    /// Where it came from, and how the client greeted.
    pub(crate) client: Option<IpAddr>,
    pub(crate) ehlo: String,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    /// With a reply to the final dot that was sent, whatever it said.
    pub(crate) messages: Vec<Message>,
    pub(crate) commands: Vec<String>,
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    script: Arc<Mutex<Script>>,
    tasks: TaskTracker,
}

impl Peer {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0", script, None).await
    }

    pub(crate) async fn start_tls(script: Script, acceptor: TlsAcceptor) -> Self {
        Self::start_at("127.0.0.1:0", script, Some(acceptor)).await
    }

    pub(crate) async fn start_at(at: &str, script: Script, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            script: Arc::new(Mutex::new(script)),
            tasks: TaskTracker::new(),
        };
        let (seen, script, tasks) = (peer.seen.clone(), peer.script.clone(), peer.tasks.clone());
        peer.tasks.spawn(async move {
            while let Ok((stream, client)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                seen.lock().unwrap().connections += 1;
                let script = script.lock().unwrap().clone();
                let (seen, acceptor) = (seen.clone(), acceptor.clone());
                let talk = Talk { script, seen, acceptor, client: client.ip() };
                tasks.spawn(talk.run(stream));
            }
        });
        peer
    }

    /// For connections from now on.
    pub(crate) fn set_script(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.seen.lock().unwrap().messages.clone()
    }

    pub(crate) fn messages_count(&self) -> usize {
        self.seen.lock().unwrap().messages.len()
    }

    /// Waits until a command was received.
    pub(crate) async fn saw(&self, command: &str) {
        let waiting = async {
            let mut looks = tokio::time::interval(std::time::Duration::from_millis(2));
            while !self.commands().iter().any(|line| line == command) {
                looks.tick().await;
            }
        };
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, waiting).await.expect("the command does not come");
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.seen.lock().unwrap().commands.clone()
    }
}

struct Talk {
    script: Script,
    seen: Arc<Mutex<Seen>>,
    acceptor: Option<TlsAcceptor>,
    client: IpAddr,
}

/// The connection is over.
struct Over;

impl Talk {
    async fn run(self, mut stream: tokio::net::TcpStream) {
        if self.act(&mut stream, &self.script.greeting).await.is_err() {
            return;
        }
        let tls = matches!(self.serve(&mut stream, false).await, Ok(()));
        if let Some(acceptor) = self.acceptor.clone().filter(|_| tls)
            && let Ok(mut stream) = acceptor.accept(stream).await
        {
            let _ = self.serve(&mut stream, true).await;
        }
    }

    async fn act(&self, stream: &mut (impl AsyncWrite + Unpin), act: &Act) -> Result<(), Over> {
        match act {
            Act::Say(octets) => stream.write_all(octets).await.map_err(|_| Over),
            Act::SayAndClose(octets) => {
                let _ = stream.write_all(octets).await;
                let _ = stream.shutdown().await;
                Err(Over)
            }
            Act::SayWhen(told, octets) => {
                told.notified().await;
                stream.write_all(octets).await.map_err(|_| Over)
            }
            Act::Close => Err(Over),
            Act::Silent => {
                std::future::pending::<()>().await;
                Err(Over)
            }
        }
    }

    /// `Ok` when TLS is to start.
    async fn serve(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        tls: bool,
    ) -> Result<(), Over> {
        let client = Some(self.client);
        let mut greeted = String::new();
        let mut message = Message { tls, ..Message::default() };
        let mut input = Vec::new();
        let mut served = 0;
        loop {
            let line = line(stream, &mut input).await?;
            self.seen.lock().unwrap().commands.push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            if let "EHLO" | "HELO" = &*verb {
                greeted.clone_from(&line);
            }
            let script = &self.script;
            let act = match &*verb {
                "EHLO" | "HELO" if tls => &script.ehlo_tls,
                "EHLO" | "HELO" => &script.ehlo,
                "STARTTLS" => {
                    self.act(stream, &script.start_tls).await?;
                    if matches!(&script.start_tls, Act::Say(octets) if octets.starts_with(b"220")) {
                        return Ok(());
                    }
                    continue;
                }
                "MAIL" => {
                    let ehlo = greeted.clone();
                    message = Message { mail: line, tls, client, ehlo, ..Message::default() };
                    &script.mail
                }
                "RCPT" => {
                    let bad = line.contains("<bad@");
                    message.rcpts.push(line);
                    if bad { &script.rcpt_bad } else { &script.rcpt }
                }
                "DATA" => {
                    self.act(stream, &script.data).await?;
                    if !matches!(&script.data, Act::Say(octets) if octets.starts_with(b"354")) {
                        continue;
                    }
                    if let Some(early) = &script.early {
                        self.act(stream, early).await?;
                    }
                    message.content = content(stream, &mut input).await?;
                    self.end_of_content(stream, std::mem::take(&mut message), &mut served).await?;
                    continue;
                }
                "BDAT" => {
                    let octets = line.split(' ').nth(1).and_then(|octets| octets.parse().ok());
                    message.content = take(stream, &mut input, octets.unwrap()).await?;
                    self.end_of_content(stream, std::mem::take(&mut message), &mut served).await?;
                    continue;
                }
                "AUTH" => &script.auth,
                "QUIT" => {
                    let _ = stream.write_all(b"221 bye\r\n").await;
                    return Err(Over);
                }
                _ => &Act::Say(b"250 ok\r\n".to_vec()),
            };
            self.act(stream, act).await?;
        }
    }

    async fn end_of_content(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        message: Message,
        served: &mut usize,
    ) -> Result<(), Over> {
        self.act(stream, &self.script.dot).await?;
        self.seen.lock().unwrap().messages.push(message);
        *served += 1;
        if *served == self.script.messages_max { Err(Over) } else { Ok(()) }
    }
}

async fn line(stream: &mut (impl AsyncRead + Unpin), input: &mut Vec<u8>) -> Result<String, Over> {
    let end = until(stream, input, b"\r\n").await?;
    let line = input.drain(..end + 2).collect::<Vec<u8>>();
    Ok(String::from_utf8_lossy(&line[..end]).into_owned())
}

/// Up to CRLF.CRLF, which is not part of it but for the first CRLF.
async fn content(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
) -> Result<Vec<u8>, Over> {
    input.splice(..0, *b"\r\n");
    let end = until(stream, input, b"\r\n.\r\n").await?;
    let content = input.drain(..end + 5).collect::<Vec<u8>>();
    Ok(content[2..end + 2].to_vec())
}

async fn take(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
    octets: usize,
) -> Result<Vec<u8>, Over> {
    while input.len() < octets {
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            return Err(Over);
        }
    }
    Ok(input.drain(..octets).collect())
}

async fn until(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut Vec<u8>,
    mark: &[u8],
) -> Result<usize, Over> {
    let mut from = 0;
    loop {
        let found = input[from..].windows(mark.len()).position(|window| window == mark);
        if let Some(at) = found {
            return Ok(from + at);
        }
        from = input.len().saturating_sub(mark.len());
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            return Err(Over);
        }
    }
}
