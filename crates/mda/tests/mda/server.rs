//! An LMTP server that answers as it is told to, written without our own protocol code.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What is said of a recipient.
#[derive(Clone)]
pub(crate) enum Answer {
    Say(&'static str),
    Close,
    /// Says nothing, and reads on.
    Silence,
    /// Accepts once there is a permit in [`Script::gate`].
    Wait,
}

/// How the server behaves; it may be changed while it runs.
pub(crate) struct Script {
    pub(crate) offers: &'static str,
    /// By address; without one, it is accepted.
    pub(crate) rcpt: HashMap<&'static str, &'static str>,
    /// To the final dot, by address; without one, it is taken.
    pub(crate) end: HashMap<&'static str, Answer>,
    pub(crate) at_data: Arc<dyn Fn() + Send + Sync>,
    pub(crate) gate: Arc<Semaphore>,
}

/// What came for somebody, and was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub(crate) recipient: String,
    pub(crate) mail: String,
    pub(crate) content: String,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) taken: Vec<Taken>,
    /// Without MAIL and RCPT.
    pub(crate) commands: Vec<String>,
    /// Contents that came to their end.
    pub(crate) dots: usize,
    pub(crate) open: usize,
    pub(crate) most_open: usize,
}

#[derive(Clone)]
pub(crate) struct Server {
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
    /// Ends the connections of now.
    hang_up: Arc<Mutex<CancellationToken>>,
    stop: CancellationToken,
    /// Everything ends with the test.
    _guard: Arc<DropGuard>,
}

impl Server {
    /// It listens nowhere yet.
    pub(crate) fn new() -> Self {
        let script = Script {
            offers: "250-server.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n",
            rcpt: HashMap::new(),
            end: HashMap::new(),
            at_data: Arc::new(|| ()),
            gate: Arc::new(Semaphore::new(0)),
        };
        let stop = CancellationToken::new();
        Self {
            script: Arc::new(Mutex::new(script)),
            seen: Arc::default(),
            hang_up: Arc::new(Mutex::new(stop.child_token())),
            _guard: Arc::new(stop.clone().drop_guard()),
            stop,
        }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Who has got it, how often, in the order of their names.
    pub(crate) fn recipients(&self) -> Vec<String> {
        let mut all: Vec<_> = self.seen().taken.iter().map(|it| it.recipient.clone()).collect();
        all.sort();
        all
    }

    pub(crate) async fn until(&self, is_so: impl Fn(&Seen) -> bool) {
        let wait = async {
            while !is_so(&self.seen()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("within 20 s");
    }

    pub(crate) fn hang_up(&self) {
        let next = self.stop.child_token();
        std::mem::replace(&mut *self.hang_up.lock().unwrap(), next).cancel();
    }

    pub(crate) async fn listen(&self, address: &str) -> String {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.accept(move |cx| listener.poll_accept(cx).map_ok(|(stream, _)| stream));
        address
    }

    pub(crate) fn listen_at(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        self.accept(move |cx| listener.poll_accept(cx).map_ok(|(stream, _)| stream));
    }

    fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>> + Send + 'static,
    ) {
        let (server, tasks) = (self.serving(), TaskTracker::new());
        let connections = tasks.clone();
        let accept = async move {
            while let Ok(stream) = poll_fn(&mut next).await {
                connections.spawn(server.clone().serve(stream));
            }
        };
        tasks.spawn(self.stop.clone().run_until_cancelled_owned(accept));
    }

    fn serving(&self) -> Serving {
        let Self { script, seen, hang_up, .. } = self.clone();
        Serving { script, seen, hang_up }
    }
}

/// A connection's view of the server.
#[derive(Clone)]
struct Serving {
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
    hang_up: Arc<Mutex<CancellationToken>>,
}

impl Serving {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.open += 1;
            seen.most_open = seen.most_open.max(seen.open);
        }
        let stop = self.hang_up.lock().unwrap().clone();
        let _ = stop.run_until_cancelled(self.session(BufReader::new(stream))).await;
        self.seen.lock().unwrap().open -= 1;
    }

    async fn session(
        &self,
        mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>,
    ) -> io::Result<()> {
        stream.write_all(b"220 server.test LMTP\r\n").await?;
        let (mut mail, mut accepted) = (String::new(), Vec::<String>::new());
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            let (verb, _) = line.split_once(' ').unwrap_or((&line, ""));
            if !matches!(verb, "MAIL" | "RCPT") {
                self.seen.lock().unwrap().commands.push(line.clone());
            }
            let reply = match verb {
                "LHLO" => self.script.lock().unwrap().offers.to_owned(),
                "MAIL" => {
                    mail = line;
                    accepted.clear();
                    "250 ok\r\n".to_owned()
                }
                "RCPT" => {
                    let address = line.split(['<', '>']).nth(1).unwrap().to_owned();
                    let refusal = self.script.lock().unwrap().rcpt.get(&*address).copied();
                    if refusal.is_none() {
                        accepted.push(address);
                    }
                    format!("{}\r\n", refusal.unwrap_or("250 ok"))
                }
                "DATA" if accepted.is_empty() => "503 5.5.1 no recipients\r\n".to_owned(),
                "DATA" => {
                    let at_data = self.script.lock().unwrap().at_data.clone();
                    at_data();
                    stream.write_all(b"354 go\r\n").await?;
                    let Some(content) = content(&mut stream).await? else { return Ok(()) };
                    self.seen.lock().unwrap().dots += 1;
                    if !self.take(&mut stream, &mail, &accepted, &content).await? {
                        return Ok(());
                    }
                    continue;
                }
                "RSET" => "250 ok\r\n".to_owned(),
                "QUIT" => "221 bye\r\n".to_owned(),
                _ => "500 5.5.2 LMTP is spoken here\r\n".to_owned(),
            };
            stream.write_all(reply.as_bytes()).await?;
        }
    }

    /// A reply for each recipient. `false` when the connection is to be closed.
    async fn take(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        mail: &str,
        accepted: &[String],
        content: &str,
    ) -> io::Result<bool> {
        for recipient in accepted {
            let answer = self.script.lock().unwrap().end.get(&**recipient).cloned();
            match answer {
                Some(Answer::Close) => return Ok(false),
                Some(Answer::Silence) => continue,
                Some(Answer::Say(reply)) => {
                    stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
                    continue;
                }
                Some(Answer::Wait) => {
                    let gate = Arc::clone(&self.script.lock().unwrap().gate);
                    gate.acquire().await.unwrap().forget();
                }
                None => {}
            }
            self.seen.lock().unwrap().taken.push(Taken {
                recipient: recipient.clone(),
                mail: mail.to_owned(),
                content: content.to_owned(),
            });
            let reply = format!("250-2.0.0 <{recipient}>\r\n250 2.0.0 saved\r\n");
            stream.write_all(reply.as_bytes()).await?;
        }
        Ok(true)
    }
}

/// Up to the final dot, with dots unstuffed; `None` when the connection ended before.
async fn content(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
) -> io::Result<Option<String>> {
    let mut content = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line == ".\r\n" {
            return Ok(Some(content));
        }
        content += line.strip_prefix('.').unwrap_or(&line);
    }
}
