//! What outlives the process: the queue, the table, the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use domains::{Absence, AtHome, FullMailboxes, StorageId, Table};
use mail_types::{
    BodyType, Domain, Envelope, Host, Mailbox, Notify, Origin, QueueId, Recipient, ReversePath,
    TenantId,
};
use mda::{Config, Mda, Metrics, Setup};
use outcome::Route;
use prometheus_client::registry::Registry;
use queue::simulated::{Settings, SimulatedQueue};
use queue::{Admission, Head, Job, NewJob, NextHop, Queue};
use retry::Policy;
use smtp::client::Timeouts;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const DOMAIN: &str = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
    metadata: {name: d}\nspec:\n  domain: example.org\n  inbound:\n    aliases:\n    \
    - {match: postmaster, to: [alice@example.org]}\n    - {match: gone, to: [x@example.net]}\n    \
    - {match: moved, to: [bob@example.org]}\n";
pub(crate) const BODY: &str = "body\r\n";
pub(crate) const HEADER: &str = "Subject: hello\r\n\r\n";

pub(crate) fn table(mailboxes: &[&str]) -> Arc<Table> {
    table_of(DOMAIN, mailboxes)
}

/// The same with a quota for each mailbox.
pub(crate) fn table_with_quota(bytes: u64, mailboxes: &[&str]) -> Arc<Table> {
    let domain = DOMAIN.replace("  inbound:", &format!("  quota: {{bytes: {bytes}}}\n  inbound:"));
    table_of(&domain, mailboxes)
}

fn table_of(domain: &str, mailboxes: &[&str]) -> Arc<Table> {
    let mut text = domain.to_owned();
    for (n, address) in mailboxes.iter().enumerate() {
        text += &format!(
            "---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\nmetadata: {{name: m{n}}}\n\
             spec:\n  address: '{address}'\n"
        );
    }
    Arc::new(Table::from_yaml([("t.yaml", text.as_str())], &Default::default()).unwrap())
}

pub(crate) fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

/// A disk, a queue and a table, which outlive the processes that use them.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) queue: SimulatedQueue,
    pub(crate) domains: Arc<ArcSwapOption<Table>>,
    pub(crate) absence: Arc<dyn Absence>,
    pub(crate) full: Arc<FullMailboxes>,
    /// How long an LMTP server has for each answer.
    pub(crate) timeouts: Timeouts,
    /// Of the messages to come.
    pub(crate) reverse_path: ReversePath,
    pub(crate) body_type: BodyType,
    pub(crate) smtputf8: bool,
    /// By how much the clock of whoever accepts is ahead of ours.
    pub(crate) ahead: Duration,
    /// How long a message is kept.
    pub(crate) keeps: Duration,
    pub(crate) registry: Mutex<Registry>,
}

/// A running MDA.
pub(crate) struct Process {
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl World {
    pub(crate) fn new() -> Self {
        let queue = SimulatedQueue::new(7, Settings::default(), runtime::clock::now);
        let table = table(&["alice@example.org", "bob@example.org", "dot@example.org"]);
        let domains = Arc::new(ArcSwapOption::from(Some(table)));
        let absence = Arc::new(AtHome);
        Self {
            dir: tempfile::tempdir().unwrap(),
            queue,
            domains,
            absence,
            full: Arc::default(),
            timeouts: Timeouts::default(),
            reverse_path: ReversePath::parse("sender@example.net").unwrap(),
            body_type: BodyType::SevenBit,
            smtputf8: false,
            ahead: Duration::ZERO,
            keeps: Duration::from_secs(3600),
            registry: Mutex::default(),
        }
    }

    pub(crate) fn start(&self) -> Process {
        self.start_with(Config::default())
    }

    pub(crate) fn start_with(&self, config: Config) -> Process {
        let route = |sender: &Mailbox| {
            let recipients = vec![Recipient::new(sender.clone())];
            vec![NewJob::new(NextHop::smtp(sender.host()), recipients)]
        };
        let setup = Setup {
            queue: Arc::new(self.queue.clone()),
            domains: self.domains.clone(),
            absence: self.absence.clone(),
            full: self.full.clone(),
            name: Host::parse("mx.example.org").unwrap(),
            route: Route::new(route),
            lease: Settings::default().lease_time,
            retry: Policy { intervals_seconds: vec![1; 20], ..Policy::default() },
            timeouts: self.timeouts,
            data_dir: self.dir.path().to_owned(),
            metrics: Metrics::register(&mut self.registry.lock().unwrap()),
        };
        let mda = Mda::new(config, setup).unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(mda.run(shutdown.clone(), Duration::from_secs(5)));
        tasks.close();
        Process { shutdown, tasks }
    }

    pub(crate) async fn accept(&self, recipients: Vec<Recipient>) -> QueueId {
        self.accept_with(recipients, BODY.into()).await
    }

    pub(crate) async fn accept_with(&self, recipients: Vec<Recipient>, body: Bytes) -> QueueId {
        let now = runtime::clock::now();
        let envelope = Envelope {
            reverse_path: self.reverse_path.clone(),
            envid: None,
            ret: None,
            body: self.body_type,
            smtputf8: self.smtputf8,
            arrival: now + self.ahead,
            expires: now + self.keeps,
            tenant: TenantId::new("default"),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        };
        let mut draft = self.queue.begin(envelope, Admission::Outside).await.unwrap();
        draft.write(body).await.unwrap();
        let head = Head { prefix: Bytes::new(), header: HEADER.into() };
        let domain = Domain::parse("example.org").unwrap();
        let job = NewJob::new(NextHop::mailbox(&domain), recipients);
        draft.commit(head, vec![job]).await.unwrap();
        draft.id()
    }

    /// Waits until the job is gone, or what it has become satisfies `is_so`.
    pub(crate) async fn until(&self, id: QueueId, is_so: impl Fn(&Job) -> bool) -> Option<Job> {
        let wait = async {
            loop {
                match self.queue.show(id).await.unwrap().pop() {
                    None => return None,
                    Some(job) if is_so(&job) => return Some(job),
                    Some(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("within 20 s")
    }

    pub(crate) async fn until_done(&self, id: QueueId) {
        assert!(self.until(id, |_| false).await.is_none());
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("mail")
    }

    /// Of a mailbox at `example.org`.
    pub(crate) fn maildir(&self, name: &str) -> PathBuf {
        let id = StorageId::of(&mailbox(&format!("{name}@example.org"))).unwrap();
        self.root().join(id.directory())
    }

    /// Every file below the root but for `tmp`, by its path, with what is in it.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let (mut found, mut todo) = (BTreeMap::new(), vec![self.root()]);
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.extend((!path.ends_with("tmp")).then_some(path));
                } else {
                    let name = path.strip_prefix(self.root()).unwrap().to_str().unwrap();
                    found.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
                }
            }
        }
        found
    }

    /// What a counter or gauge without labels says.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock().unwrap())
            .unwrap();
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        text.lines().find_map(value).unwrap()
    }
}

impl Process {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.unwrap();
    }
}

pub(crate) fn to(address: &str) -> Recipient {
    Recipient::new(mailbox(address))
}

pub(crate) fn notify(address: &str, notify: Notify) -> Recipient {
    Recipient { notify: Some(notify), ..to(address) }
}

/// The content of the one message that waits for the sender.
pub(crate) async fn dsn_to_sender(world: &World) -> String {
    use futures::StreamExt;
    let leases = world.queue.lease(queue::HopKind::Smtp, 9, 9);
    let leases = tokio::time::timeout(Duration::from_secs(10), leases).await.unwrap().unwrap();
    let [mut lease] = <[_; 1]>::try_from(leases).map_err(|leases| leases.len()).unwrap();
    let mut content = lease.content().await.unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = content.chunks.next().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    let settlement = outcome::Settler::quarantine(lease.job(), "read");
    lease.settle(&settlement).await.unwrap();
    String::from_utf8(text).unwrap()
}
