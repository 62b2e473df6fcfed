//! Client and server over a socket, on the simulated queue.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of a #[test] function

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use admin::client::{Client, ClientError};
use admin::process::{Process, Reloaded, Snapshot, SnapshotFile};
use admin::server::Server;
use admin::socket::BindError;
use admin::{ActRequest, PasswordView, Passwords, Query, Sources};
use bytes::Bytes;
use history::History;
use mail_types::{
    BodyType, Domain, Envelope, Host, Mailbox, Origin, Recipient, ReversePath, TenantId, Timestamp,
};
use queue::simulated::{Fault, Settings, SimulatedQueue, Step, VirtualClock};
use queue::{Action, Admission, Head, NewJob, NextHop, Phase, Queue};
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

async fn commit(queue: &SimulatedQueue, sender: &str, recipient: &str) -> mail_types::QueueId {
    let envelope = Envelope {
        reverse_path: ReversePath::parse(sender).unwrap(),
        envid: None,
        ret: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        arrival: NOW,
        expires: NOW + std::time::Duration::from_secs(432_000),
        tenant: TenantId::new("default"),
        identity: None,
        origin: Origin::Internal,
        trace_parent: None,
    };
    let mut draft = queue.begin(envelope, Admission::Outside).await.unwrap();
    draft.write(Bytes::from_static(b"body\r\n")).await.unwrap();
    let address = Mailbox::parse(recipient).unwrap();
    let next_hop = NextHop::smtp(&Host::Domain(address.domain().unwrap().clone()));
    let job = NewJob::new(next_hop, vec![Recipient::new(address)]);
    draft.commit(Head::default(), vec![job]).await.unwrap();
    draft.id()
}

fn sources(
    queue: SimulatedQueue,
    dir: &std::path::Path,
    passwords: Option<Arc<dyn Passwords>>,
) -> Sources {
    let clock = VirtualClock::new(NOW).reader();
    let history = History::open(&dir.join("history"), history::Config::default(), clock).unwrap();
    Sources { queue: Arc::new(queue), past: Arc::new(history), passwords }
}

struct Alice;

#[async_trait::async_trait]
impl Passwords for Alice {
    async fn of(&self, login: &str) -> Result<Option<Vec<PasswordView>>, String> {
        let view = PasswordView {
            name: "phone".to_owned(),
            scheme: "ARGON2ID".to_owned(),
            last_use: Some(NOW),
            listener: Some("submission".to_owned()),
        };
        Ok((login == "alice&b=c@example.org").then(|| vec![view]))
    }
}

#[tokio::test]
async fn list_show_act_and_refuse() {
    let clock = VirtualClock::new(NOW);
    let queue = SimulatedQueue::new(1, Settings::default(), clock.reader());
    let id = commit(&queue, "a&b=c@example.org", "x@example.net").await;
    commit(&queue, "", "y@example.com").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let client = Client::new(&path);
    assert!(matches!(client.stats().await, Err(ClientError::NotRunning { .. })));

    let server = Server::bind(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Server::bind(&path).await.is_err(), "a socket in use is not taken over");
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.serve(sources(queue, dir.path(), Some(Arc::new(Alice))), stop.clone()));

    let list = async |query: &Query| {
        let mut found = Vec::new();
        client.list(query, |job| found.push(job)).await.unwrap();
        found
    };
    assert_eq!(list(&Query::default()).await.len(), 2);
    let by_sender = Query { sender: Some("a&b=c@example.org".into()), ..Query::default() };
    assert_eq!(list(&by_sender).await[0].id.message, id);
    let by_domain =
        Query { recipient_domain: Domain::parse("example.com").ok(), ..Query::default() };
    assert_eq!(list(&by_domain).await[0].sender, "");

    let hold = |filter: Query, all| ActRequest { action: Action::Hold, filter, all };
    let mut acted = Vec::new();
    let refused = client.act(&hold(Query::default(), false), |_| ()).await;
    assert!(matches!(refused, Err(ClientError::Refused(why)) if why.contains("whole queue")));
    client.act(&hold(by_sender, false), |each| acted.push(each)).await.unwrap();
    assert_eq!(acted.len(), 1);
    let job = client.show(id).await.unwrap().remove(0);
    assert_eq!((job.phase, job.next_hop.as_str()), (Phase::Held, "smtp:example.net"));
    assert_eq!(client.stats().await.unwrap().held, 1);
    let mut content = Vec::new();
    assert_eq!(client.content(id, &mut content).await.unwrap(), 6);
    assert_eq!(content, b"body\r\n");
    let unknown = client.content(mail_types::QueueId::new(NOW, 7), &mut content).await;
    assert!(matches!(unknown, Err(ClientError::Refused(why)) if why.ends_with("not in the queue")));
    let passwords = client.passwords("alice&b=c@example.org").await.unwrap();
    assert_eq!((passwords.len(), passwords[0].last_use), (1, Some(NOW)));
    let nobody = client.passwords("bob@example.org").await;
    assert!(matches!(nobody, Err(ClientError::Refused(why)) if why.contains("no such mailbox")));

    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_socket_that_nobody_serves_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path).await, Err(BindError::NotSocket)));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    let first = Server::bind(&path).await.unwrap();
    assert!(matches!(Server::bind(&path).await, Err(BindError::InUse)));
    // As a killed process leaves it.
    drop(first);
    assert!(path.exists());
    Server::bind(&path).await.unwrap();

    let long = dir.path().join("x".repeat(120));
    assert!(matches!(Server::bind(&long).await, Err(BindError::LongPath)));
}

#[tokio::test]
async fn a_queue_that_fails_says_so_in_the_last_line() {
    let clock = VirtualClock::new(NOW);
    let queue = SimulatedQueue::new(1, Settings::default(), clock.reader());
    commit(&queue, "a@example.org", "x@example.net").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let server = Server::bind(&path).await.unwrap();
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.serve(sources(queue.clone(), dir.path(), None), stop.clone()));
    let client = Client::new(&path);
    let elsewhere = client.passwords("alice@example.org").await;
    assert!(matches!(elsewhere, Err(ClientError::Refused(why)) if why.contains("this process")));
    let start = "the queue does not answer: ";
    let says_why =
        |error: &ClientError| matches!(error, ClientError::Refused(why) if why.starts_with(start));
    queue.fail_next(Step::Ask, Fault::Unavailable);
    let listed = client.list(&Query::default(), |_| ()).await;
    assert!(listed.as_ref().is_err_and(says_why), "{listed:?}");
    queue.fail_next(Step::Ask, Fault::Unavailable);
    let stats = client.stats().await;
    assert!(stats.as_ref().is_err_and(says_why), "{stats:?}");
    assert_eq!(client.stats().await.unwrap().messages, 1);
    let unknown = mail_types::QueueId::new(NOW, 7);
    assert_eq!(client.show(unknown).await.unwrap(), []);
    assert!(client.trace(unknown).await.unwrap().is_empty());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
    assert!(matches!(client.stats().await, Err(ClientError::NotRunning { .. })));
}

/// Changes one field at the first reload, and has a snapshot that ends when it is kept.
#[derive(Default)]
struct Scripted(std::sync::atomic::AtomicBool);

#[async_trait::async_trait]
impl Process for Scripted {
    async fn reload(&self) -> Result<Reloaded, String> {
        match self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            false => Ok(Reloaded { changed: vec!["log.filter".into()] }),
            true => Err("postrider.yaml:3:1: colour: unknown field".into()),
        }
    }

    async fn take_snapshot(&self) -> Result<Snapshot, String> {
        let log = vec![SnapshotFile { path: "log/1.seg".into(), bytes: 5 }];
        Ok(Snapshot { id: u64::MAX, lasts_seconds: 30, log })
    }

    fn keep_snapshot(&self, id: u64) -> Result<(), String> {
        if id == u64::MAX { Ok(()) } else { Err("it has ended".into()) }
    }

    fn end_snapshot(&self, id: u64) -> Result<(), String> {
        self.keep_snapshot(id)
    }
}

#[tokio::test]
async fn what_is_asked_of_the_process_is_on_the_socket() {
    let queue = SimulatedQueue::new(1, Settings::default(), VirtualClock::new(NOW).reader());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let server = Server::bind(&path).await.unwrap();
    let server = server.with_process(Arc::new(Scripted::default()));
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server.serve(sources(queue, dir.path(), None), stop.clone()));
    let client = Client::new(&path);
    assert_eq!(client.reload().await.unwrap().changed, ["log.filter"]);
    let refused = client.reload().await;
    assert!(matches!(refused, Err(ClientError::Refused(why)) if why.contains(":3:1: colour")));
    let Snapshot { id, log, .. } = client.take_snapshot().await.unwrap();
    assert_eq!((&*log[0].path, log[0].bytes), ("log/1.seg", 5));
    client.keep_snapshot(id).await.unwrap();
    client.end_snapshot(id).await.unwrap();
    assert!(matches!(client.end_snapshot(1).await, Err(ClientError::Refused(_))));
    assert_eq!(client.stats().await.unwrap().messages, 0);
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}
