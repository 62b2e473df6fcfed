//! Clients behind a load balancer that speaks the PROXY protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ingress::{Kind, ProxyProtocol};
use mail_types::Origin;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::client::Client;
use super::server::Server;

const CLIENT: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 4321 25\r\n";
const MESSAGE: &str = "Subject: x\r\n\r\nbody\r\n.\r\n";

fn server(from: &str) -> Server {
    server_for(from, 100)
}

fn server_for(from: &str, connections_max: usize) -> Server {
    Server::start_with(|config| {
        config.limits.connections_max = connections_max;
        config.limits.connections_per_client_max = 1;
        for listener in &mut config.listeners {
            listener.proxy_protocol = Some(ProxyProtocol { from: vec![from.parse().unwrap()] });
        }
    })
}

async fn proxied(server: &Server, header: &str) -> Client {
    let mut client = Client::connect(server.address(Kind::Relay)).await;
    client.send(header.as_bytes()).await;
    client
}

#[tokio::test]
async fn the_client_is_whom_the_proxy_names() {
    let server = server("127.0.0.0/8");
    let mut client = proxied(&server, CLIENT).await;
    client.expect("220").await;
    client.says("EHLO client.example", "250").await;
    client.send_message("a@example.com", "bob@example.org", MESSAGE).await;
    let stored = server.only_message();
    let Origin::Smtp(origin) = &stored.envelope.origin else { panic!() };
    assert_eq!(origin.client.to_string(), "192.0.2.7:4321");
    assert!(stored.text().contains("[192.0.2.7]"), "{}", stored.text());

    // Limits are the client's, not the proxy's.
    let mut second = proxied(&server, CLIENT).await;
    second.expect("421 4.7.0").await;
    proxied(&server, &CLIENT.replace("2.7", "2.8")).await.expect("220").await;
    proxied(&server, "PROXY UNKNOWN\r\n").await.expect("220").await;
}

#[tokio::test]
async fn tls_begins_after_the_header() {
    let server = server("127.0.0.1/32");
    let mut client = Client::connect(server.address(Kind::Submissions)).await;
    client.send(CLIENT.as_bytes()).await;
    client.start_tls("mx.example.org").await.expect("220").await;
}

#[tokio::test]
async fn nobody_else_is_heard_and_probes_are_no_fault() {
    let refused = |reason| format!("ingress_connections_refused_total{{reason=\"{reason}\"}}");
    let foreign = server("10.0.0.0/8");
    drop(Client::connect(foreign.address(Kind::Relay)).await);
    let mut client = proxied(&foreign, CLIENT).await;
    client.expect_end().await;
    foreign.until_metric(&refused("proxy_foreign"), 1.0).await;
    // Who says nothing and stays is none.
    Client::connect(foreign.address(Kind::Relay)).await.expect_end().await;
    foreign.until_metric(&refused("proxy_foreign"), 2.0).await;
    foreign.stop.cancel();
    foreign.tasks.wait().await;
    assert_eq!(foreign.metric(&refused("proxy_foreign")), 2.0, "for a probe");

    let server = server("127.0.0.1/32");
    drop(Client::connect(server.address(Kind::Relay)).await);
    let mut client = proxied(&server, "EHLO client.example\r\n").await;
    client.expect_end().await;
    server.until_metric(&refused("proxy_malformed"), 1.0).await;
    assert_eq!(server.metric(&refused("proxy_incomplete")), 0.0, "for a probe");
    assert_eq!(server.metric("ingress_connections_open"), 0.0);
}

/// Counts what is logged as an error or a warning.
#[derive(Clone, Default)]
struct Complaints(Arc<AtomicUsize>);

impl Subscriber for Complaints {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Waits until a client is served: the one before may not have been missed yet.
async fn until_greeted(server: &Server) -> Client {
    let greeted = async {
        loop {
            let mut client = proxied(server, CLIENT).await;
            if client.reply().await.starts_with("220") {
                return client;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), greeted).await.expect("a greeting in time")
}

/// Wherever a connection is reset, its place is free again, the client's as well as ours, and
/// nobody is called to look after it.
#[tokio::test]
async fn a_reset_leaves_nothing_behind() {
    let complaints = Complaints::default();
    let _logging = tracing::subscriber::set_default(complaints.clone());
    let server = server_for("127.0.0.1/32", 1);
    let envelope = "EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<bob@example.org>\r\n";
    for sent in [
        String::new(),
        "P".to_owned(),
        CLIENT[..CLIENT.len() - 1].to_owned(),
        CLIENT.to_owned(),
        format!("{CLIENT}EHLO"),
        format!("{CLIENT}{envelope}DATA\r\nSubject: x\r\n\r\nbody"),
        format!("{CLIENT}{envelope}BDAT 1000\r\nSubject: x\r\n\r\nbody"),
    ] {
        let mut tcp = TcpStream::connect(server.address(Kind::Relay)).await.unwrap();
        tcp.write_all(sent.as_bytes()).await.unwrap();
        SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
        if sent.starts_with(CLIENT) {
            tcp.readable().await.unwrap();
        }
        drop(tcp);
        until_greeted(&server).await.says("QUIT", "221").await;
    }
    server.until_metric("ingress_connections_open", 0.0).await;
    let broken = "ingress_connections_refused_total{reason=\"proxy_incomplete\"}";
    assert_eq!(server.metric(broken), 2.0);
    assert!(server.queue.messages().is_empty());
    assert_eq!(complaints.0.load(Ordering::SeqCst), 0, "complaints are logged");
}
