//! A role that runs for a test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use domains::{
    Absence, Answer, AtHome, CallAhead, FullMailboxes, Gateway, Settings, Srs, Table, yaml,
};
use ingress::{Config, Ingress, Kind, Listener, Metrics, Services};
use mail_types::Mailbox;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Client;
use super::last_use_memory::LastUseMemory;
use super::memory_queue::{Handle, MemoryQueue, Stored};

pub(super) const PASSWORD: &str = "correct horse";

pub(super) struct Server {
    pub(super) queue: Arc<MemoryQueue>,
    pub(super) domains: Arc<ArcSwapOption<Table>>,
    pub(super) full: Arc<FullMailboxes>,
    pub(super) last_uses: Arc<LastUseMemory>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) directory: tempfile::TempDir,
    addresses: Vec<(Kind, SocketAddr)>,
    registry: Registry,
}

impl Server {
    pub(super) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts with settings changed by `adjust`.
    pub(super) fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_where(Arc::new(AtHome), adjust)
    }

    /// Starts where `absence` tells whether the table is the one in force.
    pub(super) fn start_where(absence: Arc<dyn Absence>, adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_asking(absence, Arc::new(Unreachable), adjust)
    }

    /// Starts where `call_ahead` speaks for the servers of gateway domains.
    pub(super) fn start_asking(
        absence: Arc<dyn Absence>,
        call_ahead: Arc<dyn CallAhead>,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { hostname: "mx.example.org".to_owned(), ..Config::default() };
        for kind in [Kind::Relay, Kind::Submission, Kind::Submissions] {
            let addresses = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
            config.listeners.push(Listener::new(kind, addresses));
        }
        config.tls.self_signed_directory = Some(directory.path().join("tls"));
        config.auth.failure_delay_seconds = 0;
        adjust(&mut config);
        let mut registry = Registry::default();
        let queue = Arc::new(MemoryQueue::default());
        let domains = Arc::new(ArcSwapOption::from_pointee(table()));
        let full = Arc::new(FullMailboxes::default());
        let last_uses = Arc::new(LastUseMemory::default());
        let services = Services {
            queue: Arc::new(Handle(Arc::clone(&queue))),
            domains: Arc::clone(&domains),
            absence,
            full: Arc::clone(&full),
            call_ahead,
            logins: Arc::new(AtHome),
            pool: Arc::new(senders::InMemory::default()),
            last_uses: Arc::clone(&last_uses) as Arc<dyn senders::LastUseStore>,
            srs: Some(Arc::new(Srs::new(&[7; 32], &[]).unwrap())),
            metrics: Metrics::register(&mut registry),
        };
        let ingress = Ingress::bind(&config, services).unwrap();
        let addresses = ingress.addresses();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(ingress.serve(stop.clone()));
        tasks.close();
        Self { queue, domains, full, last_uses, stop, tasks, directory, addresses, registry }
    }

    pub(super) fn address(&self, kind: Kind) -> SocketAddr {
        self.addresses.iter().find(|(of, _)| *of == kind).unwrap().1
    }

    pub(super) fn ipv6_address(&self) -> SocketAddr {
        self.addresses.iter().find(|(_, address)| address.is_ipv6()).unwrap().1
    }

    /// A client of the relay listener that has read the greeting.
    pub(super) async fn connect(&self) -> Client {
        let mut client = Client::connect(self.address(Kind::Relay)).await;
        client.expect("220").await;
        client
    }

    /// The same, after EHLO.
    pub(super) async fn greeted(&self) -> Client {
        let mut client = self.connect().await;
        client.says("EHLO client.example", "250").await;
        client
    }

    /// A client of the submission listener, under TLS and logged in as alice.
    pub(super) async fn logged_in(&self) -> Client {
        let mut client = Client::connect(self.address(Kind::Submission)).await;
        client.expect("220").await;
        client.says("EHLO client.example", "250").await;
        client.says("STARTTLS", "220 2.0.0").await;
        let mut client = client.start_tls("mx.example.org").await;
        client.says("EHLO client.example", "250").await;
        client.says(&login("alice@example.org", PASSWORD), "235 2.7.0").await;
        client
    }

    /// As the MDA tells.
    pub(super) fn fill(&self, address: &str) {
        self.leave_room(address, 0);
    }

    /// The same of a mailbox with room for so many octets.
    pub(super) fn leave_room(&self, address: &str, octets: u64) {
        let address = address.parse().unwrap();
        let id = self.domains.load().as_ref().unwrap().storage(&address).unwrap().id;
        self.full.note(id, &address, octets);
    }

    pub(super) fn only_message(&self) -> Stored {
        let mut messages = self.queue.messages();
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    /// The value of a metric, with its labels as Prometheus writes them.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value.
    pub(super) async fn until_metric(&self, name: &str, value: f64) {
        let wait = async {
            while self.metric(name) != value {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(in_time.is_ok(), "{name} is {}, not {value}", self.metric(name));
    }
}

/// Servers that nobody can reach.
struct Unreachable;

#[async_trait::async_trait]
impl CallAhead for Unreachable {
    async fn ask(&self, _: &Arc<Gateway>, _: &Mailbox) -> Answer {
        Answer::Unreachable("nobody there".to_owned())
    }
}

/// AUTH PLAIN with an initial response.
pub(super) fn login(user: &str, password: &str) -> String {
    use base64::Engine;
    let response = format!("\0{user}\0{password}");
    format!("AUTH PLAIN {}", base64::engine::general_purpose::STANDARD.encode(response))
}

pub(super) fn hash(password: &str) -> String {
    Argon2::default().hash_password(password.as_bytes()).unwrap().to_string()
}

pub(super) fn table() -> Table {
    let declared = yaml::parse("test.yaml", &table_text()).unwrap();
    Table::compile(&declared, &Settings::default()).unwrap()
}

pub(super) fn table_text() -> String {
    let hash = hash(PASSWORD);
    format!(
        "
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {{ name: example-org, namespace: tenant-a }}
spec:
  domain: example.org
  quota: {{ bytes: 1000000 }}
  inbound:
    enabled: true
    aliases:
      - {{ match: postmaster, to: [alice@example.org] }}
      - {{ match: team, to: [alice@example.org, bob@example.org, carol@elsewhere.example] }}
      - {{ match: both, to: [alice@example.org, bob@example.org] }}
      - {{ match: away, to: [carol@elsewhere.example] }}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: alice, namespace: tenant-a }}
spec:
  address: alice@example.org
  aliases: [alice.smith@example.org]
  passwords: [{{ name: main, hash: \"{hash}\" }}]
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: bob, namespace: tenant-a }}
spec:
  address: bob@example.org
  quota: {{ onFull: reject }}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: bill, namespace: tenant-a }}
spec:
  address: bill@example.org
  quota: {{ onFull: reject }}
---
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {{ name: listed, namespace: tenant-b }}
spec:
  domain: listed.example
  target: relay
  relay:
    hosts: [mail.listed.example]
    recipients: {{ list: [postmaster@listed.example, Carol@listed.example] }}
  inbound:
    aliases:
      - {{ match: both, to: [carol@listed.example, dave@elsewhere.example] }}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: erin, namespace: tenant-b }}
spec:
  address: erin@listed.example
---
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {{ name: asked, namespace: tenant-b }}
spec:
  domain: asked.example
  target: relay
  relay:
    hosts: [mail.asked.example]
    recipients: {{ callAhead: true }}
  inbound:
    aliases:
      - {{ match: sales, to: [sam@asked.example] }}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: robot, namespace: tenant-b }}
spec:
  address: robot@asked.example
  sendOnly: true
---
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {{ name: also, namespace: tenant-b }}
spec:
  domain: also.example
  aliasOf: asked.example
"
    )
}
