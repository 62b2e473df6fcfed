//! TLS by mode of the route and doings of the host.

use std::io::Write;
use std::sync::Arc;

use delivery::{AuthConfig, RouteConfig, TlsMode};
use mail_types::Notify;
use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::peer::{Act, Peer, Script, say};
use crate::world::{CONTENT, Summary, World, job, route_to};

pub(crate) const HOST: &str = "mx.peer.example";

/// The certificate of [`HOST`].
pub(crate) struct Identity {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) pem: tempfile::NamedTempFile,
}

pub(crate) fn identity() -> Identity {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut pem = tempfile::NamedTempFile::new().unwrap();
    pem.write_all(cert.pem().as_bytes()).unwrap();
    Identity { acceptor: TlsAcceptor::from(Arc::new(config)), pem }
}

pub(crate) fn offering() -> Script {
    Script { ehlo: say("250-peer\n250-PIPELINING\n250 STARTTLS\n"), ..Script::default() }
}

/// Delivers by a route with `mode` to `host`, which is the peer.
async fn deliver(
    peer: &Peer,
    identity: &Identity,
    mode: TlsMode,
    host: &str,
    auth: Option<AuthConfig>,
) -> (Summary, World) {
    let route = RouteConfig { host: Some(host.into()), tls: mode, auth, ..route_to(peer) };
    let mut world = World::with_routes(vec![route]);
    world.config.tls_ca_file = Some(identity.pem.path().to_owned());
    world.dns.set_addresses(host, Ok(vec![peer.address.ip()]));
    let (summary, _) = world.deliver(job(&["good@there.example"]), CONTENT).await;
    (summary, world)
}

/// (mode, what the host does, host name, connections, delivered under TLS or the outcome)
type Case = (TlsMode, fn() -> Script, &'static str, usize, Result<bool, &'static str>);

#[tokio::test]
async fn by_mode_and_host() {
    let refusing = || Script { start_tls: say("454 4.7.0 not now\n"), ..offering() };
    let breaking =
        || Script { start_tls: say("220 go\nrubbish, and no handshake\n"), ..offering() };
    let closing = || Script { start_tls: Act::Close, ..offering() };
    let cases: [Case; 13] = [
        (TlsMode::Opportunistic, offering, HOST, 1, Ok(true)),
        (TlsMode::Opportunistic, offering, "other.example", 1, Ok(true)),
        (TlsMode::Opportunistic, Script::default, HOST, 1, Ok(false)),
        (TlsMode::Opportunistic, refusing, HOST, 1, Ok(false)),
        (TlsMode::None, offering, HOST, 1, Ok(false)),
        (TlsMode::Required, offering, "other.example", 1, Ok(true)),
        (TlsMode::Required, Script::default, HOST, 1, Err("pending 451 4.7.4")),
        (TlsMode::Required, refusing, HOST, 1, Err("pending 451 4.7.5")),
        (TlsMode::Required, closing, HOST, 1, Err("pending 451 4.4.2")),
        (TlsMode::Verify, offering, HOST, 1, Ok(true)),
        (TlsMode::Verify, offering, "other.example", 1, Err("pending 451 4.7.5")),
        (TlsMode::Verify, Script::default, HOST, 1, Err("pending 451 4.7.4")),
        (TlsMode::Verify, breaking, HOST, 1, Ok(true)),
    ];
    let identity = identity();
    for (index, (mode, script, host, connections, want)) in cases.into_iter().enumerate() {
        let peer = Peer::start_tls(script(), identity.acceptor.clone()).await;
        let (summary, _) = deliver(&peer, &identity, mode, host, None).await;
        let got = match peer.messages().first() {
            Some(message) => Ok(message.tls),
            None => Err(&*summary.recipients[0]),
        };
        assert_eq!((got, peer.connections()), (want, connections), "{index}: {}", summary.reply);
    }
}

#[tokio::test]
async fn a_failed_handshake_goes_on_in_clear_when_opportunistic() {
    let identity = identity();
    let peer = Peer::start(offering()).await;
    let (summary, world) = deliver(&peer, &identity, TlsMode::Opportunistic, HOST, None).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
    assert_eq!(peer.connections(), 2);
    assert!(!peer.messages()[0].tls);
    let failed = "delivery_tls_handshakes_failed_total";
    assert!((world.metric(failed) - 1.0).abs() < f64::EPSILON);

    let peer = Peer::start(offering()).await;
    let (summary, _) = deliver(&peer, &identity, TlsMode::Required, HOST, None).await;
    assert_eq!(summary.recipients, ["pending 451 4.7.5"]);
    assert!(peer.messages().is_empty());
}

/// NO STARTTLS: replies put in before the handshake are not taken for the server's after it.
#[tokio::test]
async fn injected_replies_are_dropped_rfc3207_4_2() {
    let identity = identity();
    let script =
        Script { start_tls: say("220 go\n250-evil\n250-DSN\n250 PIPELINING\n"), ..offering() };
    let peer = Peer::start_tls(script, identity.acceptor.clone()).await;
    let route = RouteConfig { tls: TlsMode::Required, ..route_to(&peer) };
    let world = World::with_routes(vec![route]);
    let mut job = job(&["good@there.example"]);
    job.recipients[0].recipient.notify = Some(Notify::Never);
    let (summary, _) = world.deliver(job, CONTENT).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
    let message = peer.messages().remove(0);
    assert!(message.tls);
    assert_eq!(message.rcpts, ["RCPT TO:<good@there.example>"], "DSN was only injected");
}

#[tokio::test]
async fn authentication_at_a_smarthost() {
    let identity = identity();
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(b"p\n").unwrap();
    let auth = || Some(AuthConfig { login: "u".into(), password_file: password.path().to_owned() });
    let cases: [(&str, Act, &str); 3] = [
        ("250-peer\n250 AUTH PLAIN\n", say("235 ok\n"), "delivered 250 2.0.0"),
        ("250-peer\n250 AUTH PLAIN\n", say("535 5.7.8 no\n"), "pending 451 4.7.8"),
        ("250 peer\n", say("235 ok\n"), "pending 451 4.7.9"),
    ];
    for (ehlo, answer, want) in cases {
        let script = Script { ehlo_tls: say(ehlo), auth: answer, ..offering() };
        let peer = Peer::start_tls(script, identity.acceptor.clone()).await;
        let (summary, _) = deliver(&peer, &identity, TlsMode::Verify, HOST, auth()).await;
        assert_eq!(summary.recipients, [want], "{ehlo:?}");
        let told = peer.commands().iter().any(|line| line == "AUTH PLAIN AHUAcA==");
        assert_eq!(told, ehlo.contains("AUTH"));
    }
}
