//! Clients behind a load balancer that speaks the PROXY protocol.

use ingress::{Kind, ProxyProtocol};
use mail_types::Origin;

use super::client::Client;
use super::server::Server;

const CLIENT: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 4321 25\r\n";
const MESSAGE: &str = "Subject: x\r\n\r\nbody\r\n.\r\n";

fn server(from: &str) -> Server {
    Server::start_with(|config| {
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
    let mut client = Client::connect(foreign.address(Kind::Relay)).await;
    client.expect_end().await;
    foreign.until_metric(&refused("proxy_foreign"), 1.0).await;

    let server = server("127.0.0.1/32");
    drop(Client::connect(server.address(Kind::Relay)).await);
    let mut client = proxied(&server, "EHLO client.example\r\n").await;
    client.expect_end().await;
    server.until_metric(&refused("proxy_malformed"), 1.0).await;
    assert_eq!(server.metric(&refused("proxy_incomplete")), 0.0, "for a probe");
    assert_eq!(server.metric("ingress_connections_open"), 0.0);
}
