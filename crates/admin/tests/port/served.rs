//! The port on a simulated queue.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use admin::{PasswordView, Passwords, Sources};
use axum::http::HeaderMap;
use bytes::Bytes;
use history::{History, Kept, Outcomes, Past, PastError, Watched};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use mail_types::{
    BodyType, EnhancedStatus, Envelope, Host, Mailbox, Origin, QueueId, Recipient, Reply,
    ReplyCode, ReversePath, SmtpOrigin, TenantId, Timestamp,
};
use queue::simulated::{Settings, SimulatedQueue, VirtualClock};
use queue::{
    Admission, Attempt, Disposition, Head, HopKind, NewJob, NextHop, Progress, Queue,
    RecipientStatus, Report, Settlement, Wait,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// What no answer may take longer than.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Served {
    pub(crate) queue: SimulatedQueue,
    /// The same, as the roles have it.
    pub(crate) watched: Arc<Watched>,
    pub(crate) past: Arc<Remembered>,
    pub(crate) token_file: PathBuf,
    address: SocketAddr,
    _dir: tempfile::TempDir,
    /// Serving ends with the test.
    _serving: JoinSet<std::io::Result<()>>,
}

/// A history, of which may be told that others have more.
pub(crate) struct Remembered {
    history: History,
    pub(crate) reads: AtomicU32,
    pub(crate) unheard: AtomicU32,
}

#[async_trait::async_trait]
impl Past for Remembered {
    async fn of(&self, message: QueueId) -> Result<Kept, PastError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let unheard = self.unheard.load(Ordering::SeqCst);
        Ok(Kept { unheard, ..self.history.of(message).await? })
    }

    async fn outcomes(&self) -> Result<Outcomes, PastError> {
        let unheard = self.unheard.load(Ordering::SeqCst);
        Ok(Outcomes { unheard, ..self.history.outcomes().await? })
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Knows one password of everybody.
struct Alice;

#[async_trait::async_trait]
impl Passwords for Alice {
    async fn of(&self, _: &str) -> Result<Option<Vec<PasswordView>>, String> {
        Ok(Some(vec![PasswordView {
            name: "phone".to_owned(),
            scheme: "ARGON2ID".to_owned(),
            last_use: Some(NOW),
            listener: Some("submission".to_owned()),
        }]))
    }
}

impl Served {
    pub(crate) async fn start() -> Self {
        let queue = SimulatedQueue::new(1, Settings::default(), VirtualClock::new(NOW).reader());
        let dir = tempfile::tempdir().unwrap();
        let token_file = dir.path().join("token");
        write_token(&token_file, TOKEN);
        let history = history(dir.path());
        let watched = Arc::new(Watched::new(Arc::new(queue.clone()), history.clone()));
        let past =
            Arc::new(Remembered { history, reads: AtomicU32::new(0), unheard: AtomicU32::new(0) });
        let sources = Sources {
            queue: watched.clone(),
            past: past.clone(),
            passwords: Some(Arc::new(Alice)),
        };
        let router = admin::port::router(sources, &token_file);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async { axum::serve(listener, router).await });
        Self { queue, watched, past, token_file, address, _dir: dir, _serving: serving }
    }

    /// Asks with exactly these header fields.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        tokio::time::timeout(LIMIT, self.send(request)).await.unwrap()
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut talking = JoinSet::new();
        talking.spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, body }
    }

    /// Asks as the page does.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &with_token(), "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        let mut headers = with_token().to_vec();
        headers.push(("content-type", "application/json"));
        self.ask("POST", path, &headers, body).await
    }

    /// A message that was tried once and deferred with `reply`.
    pub(crate) async fn deferred(&self, recipient: &str, reply: &str) -> QueueId {
        let mut draft = self.queue.begin(envelope(), Admission::Outside).await.unwrap();
        draft.write(Bytes::from_static(b"body\r\n")).await.unwrap();
        let address = Mailbox::parse(recipient).unwrap();
        let next_hop = NextHop::smtp(&Host::Domain(address.domain().unwrap().clone()));
        let job = NewJob::new(next_hop, vec![Recipient::new(address)]);
        draft.commit(Head::default(), vec![job]).await.unwrap();
        let mut leases = self.watched.lease(HopKind::Smtp, 1, 1).await.unwrap();
        leases[0].settle(&deferral(reply)).await.unwrap();
        draft.id()
    }
}

/// An empty history in a directory.
fn history(dir: &Path) -> History {
    let clock = VirtualClock::new(NOW).reader();
    History::open(&dir.join("history"), history::Config::default(), clock).unwrap()
}

pub(crate) fn write_token(path: &Path, token: &str) {
    std::fs::write(path, format!("{token}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn with_token() -> [(&'static str, &'static str); 2] {
    [("host", "localhost"), ("authorization", "Bearer 0123456789abcdef0123456789abcdef")]
}

/// With every field that an envelope may have.
pub(crate) fn envelope() -> Envelope {
    let origin = SmtpOrigin {
        client: "192.0.2.1:4025".parse().unwrap(),
        helo: "client.example.org".into(),
        protocol: "ESMTPSA".into(),
        tls: Some("TLSv1.3".into()),
        listener: Some("submissions".into()),
    };
    Envelope {
        reverse_path: ReversePath::parse("a@example.org").unwrap(),
        envid: mail_types::EnvId::new("QQ314159").ok(),
        ret: Some(mail_types::Ret::Hdrs),
        body: BodyType::EightBitMime,
        smtputf8: false,
        arrival: NOW,
        expires: NOW + Duration::from_secs(432_000),
        tenant: TenantId::new("default"),
        identity: Some("a@example.org".into()),
        origin: Origin::Smtp(origin),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
    }
}

pub(crate) fn deferral(text: &str) -> Settlement {
    let reply = Reply::new(ReplyCode::new(451), EnhancedStatus::new(4, 7, 1), text);
    let report = Report { at: NOW, remote: Some("mx.example.net".into()), reply: reply.clone() };
    let attempt = Attempt {
        number: 1,
        at: NOW,
        took_ms: 12,
        relay: Some("mx.example.net[192.0.2.25]:25".into()),
        tls: None,
        delivered: 0,
        deferred: 1,
        bounced: 0,
        reply,
    };
    let until = NOW + Duration::from_secs(300);
    Settlement {
        attempt: Some(attempt),
        progress: vec![Progress { recipients: vec![0], status: RecipientStatus::Pending, report }],
        disposition: Disposition::Defer { until, wake_by: until, waiting_for: Wait::Time },
        follow_ups: vec![],
        delay_reported: false,
    }
}
