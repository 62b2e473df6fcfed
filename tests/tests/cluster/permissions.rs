//! Each role may do on the servers what it needs, and nothing else: tried cell by cell on the wire,
//! and by real processes that have nothing more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use queue::HopKind;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tests::client::Client;
use tests::jet;
use tests::nats::{Server, Settings};
use tests::process::{PASSWORD, Postrider, binary};
use tests::sink::Sink;
use tests::{maildir, scenario, wait};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const LIMIT: Duration = Duration::from_secs(60);
const ROLES: [&str; 4] = ["ingress", "worker", "mda", "admin"];

/// Who may (by first letters), how, and where; all others may not.
const CELLS: &[(&str, &str, &str)] = &[
    // Mail comes in.
    ("i", "PUB", "in.s0.t.h.m"),
    ("i", "PUB", "in.m0.t.h.m"),
    ("i", "PUB", "in.split.t.h.m"),
    ("iwm", "PUB", "body.0"),
    ("wm", "PUB", "re.s1.t.h.m"),
    ("wm", "PUB", "re.split.t.h.m"),
    ("wm", "PUB", "job.s0.t.h.m.0"),
    ("wm", "PUB", "job.m0.t.h.m.0"),
    // Nobody hears it in passing, nor what others are answered.
    ("", "SUB", "in.>"),
    ("", "SUB", "re.>"),
    ("", "SUB", "job.>"),
    ("", "SUB", "body.*"),
    ("", "SUB", ">"),
    ("", "SUB", "*.*"),
    ("", "SUB", "_INBOX.>"),
    ("", "SUB", "$JS.>"),
    ("", "SUB", "$KV.>"),
    ("", "SUB", "$SYS.>"),
    ("i", "SUB", "_INBOX_ingress.x"),
    ("w", "SUB", "_INBOX_worker.x"),
    ("m", "SUB", "_INBOX_mda.x"),
    ("a", "SUB", "_INBOX_admin.x"),
    ("", "PUB", "_INBOX_ingress.x"),
    ("", "PUB", "_INBOX_worker.x"),
    ("", "PUB", "_INBOX_admin.x"),
    // First attempts: by the role of the next hop.
    ("w", "PUB", "$JS.API.CONSUMER.INFO.intake-s0.s0"),
    ("w", "PUB", "$JS.API.CONSUMER.CREATE.intake-s0.s0.in.s0.>"),
    ("w", "PUB", "$JS.API.CONSUMER.MSG.NEXT.intake-s0.s0"),
    ("w", "PUB", "$JS.ACK.intake-s0.s0.1.1.1.1.0"),
    ("w", "PUB", "$JS.API.CONSUMER.CREATE.intake.s0.in.s0.>"),
    ("w", "PUB", "$JS.API.CONSUMER.MSG.NEXT.intake.s0"),
    ("w", "PUB", "$JS.ACK.intake.s0.1.1.1.1.0"),
    ("m", "PUB", "$JS.ACK.intake.m0.1.1.1.1.0"),
    ("", "PUB", "$JS.API.CONSUMER.CREATE.intake.s0.in.>"),
    ("", "PUB", "$JS.API.STREAM.MSG.GET.intake"),
    ("m", "PUB", "$JS.API.CONSUMER.CREATE.intake-m0.m0.in.m0.>"),
    ("m", "PUB", "$JS.API.CONSUMER.MSG.NEXT.intake-m0.m0"),
    ("m", "PUB", "$JS.ACK.intake-m0.m0.1.1.1.1.0"),
    ("wm", "PUB", "$JS.API.CONSUMER.MSG.NEXT.intake-split.split"),
    ("wm", "PUB", "$JS.ACK.intake-split.split.1.1.1.1.0"),
    ("w", "PUB", "$JS.API.CONSUMER.CREATE.reserve.s3.re.s3.>"),
    ("m", "PUB", "$JS.API.CONSUMER.CREATE.reserve.m0.re.m0.>"),
    ("wm", "PUB", "$JS.API.CONSUMER.CREATE.reserve.split.re.split.>"),
    ("w", "PUB", "$JS.API.CONSUMER.MSG.NEXT.reserve.s3"),
    ("m", "PUB", "$JS.ACK.reserve.m0.1.1.1.1.0"),
    ("", "PUB", "$JS.API.CONSUMER.CREATE.reserve.s0.re.>"),
    ("", "PUB", "$JS.API.CONSUMER.CREATE.intake-s0.spy.in.s0.>"),
    ("", "PUB", "$JS.API.CONSUMER.CREATE.intake-s0"),
    ("", "PUB", "$JS.API.CONSUMER.CREATE.intake-s4.s4.in.s4.>"),
    ("", "PUB", "$JS.API.CONSUMER.DURABLE.CREATE.intake-s0.s0"),
    ("", "PUB", "$JS.API.CONSUMER.DELETE.intake-s0.s0"),
    ("", "PUB", "$JS.API.STREAM.MSG.GET.intake-s0"),
    ("", "PUB", "$JS.API.DIRECT.GET.intake-s0"),
    ("", "PUB", "$JS.API.STREAM.MSG.GET.reserve"),
    // Records: their own are followed, the last one of any is seen.
    ("w", "PUB", "$JS.API.CONSUMER.CREATE.jobs-s0"),
    ("w", "PUB", "$JS.API.CONSUMER.MSG.NEXT.jobs-s0.x"),
    ("w", "PUB", "$JS.API.DIRECT.GET.jobs-s0"),
    ("m", "PUB", "$JS.API.CONSUMER.CREATE.jobs-m0"),
    ("m", "PUB", "$JS.API.DIRECT.GET.jobs-m0"),
    ("wm", "PUB", "$JS.API.STREAM.MSG.GET.jobs-s0"),
    ("wm", "PUB", "$JS.API.STREAM.MSG.GET.jobs-m0"),
    // Content: written by all three, read by those that deliver it.
    ("wm", "PUB", "$JS.API.DIRECT.GET.body-0"),
    ("wm", "PUB", "$JS.API.STREAM.MSG.GET.body-1"),
    ("wm", "PUB", "$JS.API.STREAM.MSG.DELETE.body-0"),
    ("w", "PUB", "$JS.API.CONSUMER.CREATE.body-0"),
    ("w", "PUB", "$JS.API.CONSUMER.MSG.NEXT.body-0.x"),
    ("", "PUB", "$JS.API.DIRECT.GET.body-0.body.0"),
    // Nobody deletes mail by the stream, copies it away, or is told all names.
    ("", "PUB", "$JS.API.STREAM.PURGE.body-0"),
    ("", "PUB", "$JS.API.STREAM.DELETE.body-0"),
    ("", "PUB", "$JS.API.STREAM.UPDATE.body-0"),
    ("", "PUB", "$JS.API.STREAM.SNAPSHOT.body-0"),
    ("", "PUB", "$JS.API.STREAM.RESTORE.body-0"),
    ("", "PUB", "$JS.API.STREAM.MSG.DELETE.intake-s0"),
    ("", "PUB", "$JS.API.STREAM.MSG.DELETE.jobs-s0"),
    ("", "PUB", "$JS.API.STREAM.CREATE.mirror"),
    ("", "PUB", "$JS.API.STREAM.NAMES"),
    ("", "PUB", "$JS.API.STREAM.LIST"),
    ("", "PUB", "$SYS.REQ.SERVER.PING"),
    ("wa", "PUB", "$JS.API.STREAM.CREATE.body-0"),
    ("wa", "PUB", "$JS.API.STREAM.CREATE.KV_own"),
    ("a", "PUB", "$JS.API.STREAM.CREATE.KV_domains"),
    ("a", "PUB", "$JS.API.INFO"),
    ("iwma", "PUB", "$JS.API.STREAM.INFO.intake-s0"),
    // Ownership.
    ("w", "PUB", "$KV.own.l.s0"),
    ("m", "PUB", "$KV.own.l.m0"),
    ("w", "PUB", "$KV.own.m.s.x"),
    ("m", "PUB", "$KV.own.m.m.x"),
    ("wma", "PUB", "$JS.API.STREAM.MSG.GET.KV_own"),
    ("wm", "PUB", "$JS.API.CONSUMER.CREATE.KV_own.x.$KV.own.>"),
    ("wm", "PUB", "$JS.FC.KV_own.x.y"),
    // What processes tell each other.
    ("wm", "PUB", "postrider.usage"),
    ("iwma", "SUB", "postrider.usage"),
    ("wma", "PUB", "postrider.everybody"),
    ("wm", "SUB", "postrider.everybody"),
    ("wma", "PUB", "postrider.owner.x"),
    ("wm", "SUB", "postrider.owner.x"),
    ("wma", "PUB", "postrider.answer.x"),
    ("wma", "SUB", "postrider.answer.x"),
    // What those who log in have sent, and when passwords were used: of no concern to others.
    ("i", "PUB", "$KV.sending.m.alice=40local_test"),
    ("im", "PUB", "$KV.logins.alice=40local_test"),
    ("i", "PUB", "$JS.API.STREAM.MSG.GET.KV_sending"),
    ("im", "PUB", "$JS.API.STREAM.MSG.GET.KV_logins"),
    ("i", "PUB", "$JS.API.STREAM.CREATE.KV_sending"),
    ("wm", "PUB", "$JS.API.STREAM.CREATE.KV_logins"),
    ("", "PUB", "$JS.API.STREAM.PURGE.KV_sending"),
    ("", "PUB", "$JS.API.STREAM.DELETE.KV_sending"),
    // The domain table.
    ("a", "PUB", "$KV.domains.d.local_test"),
    ("a", "PUB", "$JS.API.STREAM.MSG.DELETE.KV_domains"),
    ("iwma", "PUB", "$JS.API.STREAM.MSG.GET.KV_domains"),
    ("iwma", "PUB", "$JS.API.CONSUMER.CREATE.KV_domains.x.$KV.domains.>"),
    ("iwma", "PUB", "$JS.FC.KV_domains.x.y"),
    // Full mailboxes.
    ("m", "PUB", "$KV.mailboxes.full.0a"),
    ("", "PUB", "$KV.mailboxes.other.0a"),
    ("m", "PUB", "$JS.API.STREAM.CREATE.KV_mailboxes"),
    ("", "PUB", "$JS.API.STREAM.PURGE.KV_mailboxes"),
    ("m", "PUB", "$JS.API.DIRECT.GET.KV_mailboxes.$KV.mailboxes.full.0a"),
    ("im", "PUB", "$JS.API.CONSUMER.CREATE.KV_mailboxes.x.$KV.mailboxes.>"),
    ("im", "PUB", "$JS.FC.KV_mailboxes.x.y"),
];

#[tokio::test]
async fn every_role_may_what_its_row_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let realm = Realm::start(dir.path()).await?;
    let mut wrong = Vec::new();
    for (role, key) in ROLES.iter().zip(&realm.keys) {
        let mut wire = Wire::log_in(&realm, Some(key)).await?;
        for (roles, verb, subject) in CELLS {
            let may = roles.contains(&role[..1]);
            if wire.is_denied(verb, subject).await? == may {
                wrong.push(format!("{role} {verb} {subject}: should be allowed: {may}"));
            }
        }
    }
    println!("{} cells tried", ROLES.len() * CELLS.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let stranger = KeyPair::new_user();
    ensure!(Wire::log_in(&realm, Some(&stranger)).await.is_err(), "a stranger logged in");
    ensure!(Wire::log_in(&realm, None).await.is_err(), "nobody in particular logged in");
    ensure!(read_info(&mut connect(&realm).await?).await?["tls_required"] == true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_with_no_more_than_that_deliver_mail() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let realm = Realm::start(dir.path()).await?;
    let mut ingress = realm.process("ingress", 0, &sink)?;
    let mut workers = [realm.process("worker", 0, &sink)?, realm.process("worker", 1, &sink)?];
    let mut mda = realm.process("mda", 0, &sink)?;
    let [first, second] = &mut workers;
    // The first two find no streams, may not make any, and wait for those who may.
    tokio::try_join!(ingress.start(), mda.start(), first.start(), second.start())?;

    let mut client =
        Client::submission(ingress.address("submission"), "alice@local.test", PASSWORD).await?;
    let large = format!("Subject: large\r\n\r\n{}", "0123456789\r\n".repeat(80_000));
    let mut bounced = String::new();
    for (recipients, content) in [
        (&["bob@local.test"][..], "Subject: a mailbox\r\n\r\nbody\r\n"),
        (&["u@one.test"], "Subject: a next hop\r\n\r\nbody\r\n"),
        (&["u@one.test", "u@two.test", "bob@local.test"], "Subject: several\r\n\r\nbody\r\n"),
        (&["defer-a@three.test"], &large),
        (&["refuse-b@four.test"], "Subject: a DSN to alice\r\n\r\nbody\r\n"),
        (&["u@one.test", "defer-c@five.test", "bob@local.test"], &large),
    ] {
        let content = format!("From: <alice@local.test>\r\n{content}");
        let reply = client.transaction("alice@local.test", recipients, content.as_bytes()).await?;
        ensure!(reply.code == 250, "{}", reply.text);
        if recipients[0].starts_with("refuse-") {
            bounced = reply.text.split_whitespace().last().context("no id")?.to_owned();
        }
    }
    let mail = realm.dir.join("mda-0/data/mail");
    wait::until("all mail", LIMIT, async || {
        let stored = maildir::messages(&mail).ok()?.len();
        let relayed: usize = sink.received().iter().map(|mail| mail.recipients.len()).sum();
        (relayed == 6 && stored == 4).then_some(())
    })
    .await?;
    // A worker has the message, the MDA its DSN: each is told by the other.
    for process in [&workers[0], &mda] {
        wait::until("the way of a message", LIMIT, async || {
            let trace = process.cli(&["trace", &bounced]).await.ok()?;
            let all = ["<refuse-b@four.test> bounced", "<alice@local.test> delivered"];
            all.iter().all(|part| trace.contains(part)).then_some(())
        })
        .await?;
    }
    operators_are_answered_by_owners(&mut client, &workers, &mda).await?;
    content_is_read_by_those_who_deliver(&realm).await?;
    // What a dead one had, another takes.
    workers[0].kill().await?;
    wait::until("mail of a dead worker", LIMIT, async || {
        workers[1].cli(&["queue", "release", "--all"]).await.ok()?;
        sink.received().iter().any(|mail| mail.recipients == ["defer-held@six.test"]).then_some(())
    })
    .await?;
    for process in [&mut ingress, &mut workers[1], &mut mda] {
        ensure!(process.stop(LIMIT).await? == Some(0));
    }
    collect_orphans(&realm).await?;
    // The one that waits for streams asks for too much, and the spy of this test; nobody else does.
    let log = realm.server.log();
    let (foreseen, unforeseen): (Vec<&str>, Vec<&str>) = log
        .lines()
        .filter(|line| line.contains("Violation"))
        .partition(|line| line.contains(CREATE) || line.contains(&format!("{SPY}body-")));
    ensure!(foreseen.iter().any(|line| line.contains(SPY)), "the log does not tell violations");
    ensure!(unforeseen.is_empty(), "a role needs more than it may: {unforeseen:#?}");
    Ok(())
}

#[tokio::test]
async fn a_check_finds_what_its_role_would() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let mut realm = Realm::start(dir.path()).await?;
    let make = |role| realm.process(role, 0, &sink);
    let (ingress, mut worker, mda) = (make("ingress")?, make("worker")?, make("mda")?);
    ensure_found(&ingress, "warning", "start a worker: it makes them").await?;
    ensure_found(&mda, "warning", "start a worker: it makes them").await?;
    ensure_found(&worker, "ok", "they are made at the start").await?;
    let streams = async || realm.server.monitor().json("/jsz").await;
    ensure!(streams().await?["streams"] == 0, "the check made something: {}", streams().await?);

    worker.start().await?;
    for process in [&ingress, &worker, &mda] {
        ensure_found(process, "ok", "with all streams as they must be").await?;
    }
    // An MDA needs nothing that this machine has not: all of its check is well.
    let (findings, code) = mda.check_live().await?;
    let whats: Vec<_> = findings.iter().map(|finding| finding["what"].as_str()).collect();
    let expected = ["configuration", "disk", "disk", "clock", "clock", "nats"].map(Some);
    ensure!(code == Some(0) && whats == expected, "exit {code:?}: {findings:?}");
    // With another's login it is not answered.
    fs::copy(dir.path().join("worker.nk"), dir.path().join("mda.nk"))?;
    ensure_found(&mda, "error", "whether this login is that of --role").await?;
    fs::write(dir.path().join("mda.nk"), KeyPair::new_user().seed()?)?;
    ensure_found(&mda, "error", "nkeyFile").await?;
    realm.server.kill()?;
    ensure_found(&ingress, "error", "see whether the servers run").await
}

/// What `postrider check --live` says of the servers.
async fn ensure_found(process: &Postrider, level: &str, words: &str) -> Result<()> {
    let (findings, code) = process.check_live().await?;
    let found = findings.iter().find(|finding| finding["what"] == "nats");
    let found = found.with_context(|| format!("nothing of NATS: {findings:?}"))?;
    ensure!(found["level"] == level, "{level} {words:?}: {found}");
    let text = format!("{}; {}", found["detail"], found["remedy"]);
    ensure!(text.contains(words), "{words:?}: {found}");
    ensure!(level != "error" || code == Some(1), "exit {code:?} after {found}");
    Ok(())
}

/// What a worker does only now and then.
async fn collect_orphans(realm: &Realm) -> Result<()> {
    let (url, monitor_url) = (realm.server.url(), realm.server.monitor_url());
    let config = queue_jetstream::Config {
        nkey_file: Some(realm.dir.join("worker.nk")),
        ca_file: Some(realm.dir.join("ca.pem")),
        ..jet::config(vec![url], vec![monitor_url])
    };
    let queue = jet::open(config, &[HopKind::Smtp]).await?;
    queue.collect_orphans(Duration::ZERO).await?;
    queue.close().await;
    Ok(())
}

/// What is held at a worker is seen, held and released from another role's process.
async fn operators_are_answered_by_owners(
    client: &mut Client,
    workers: &[Postrider],
    mda: &Postrider,
) -> Result<()> {
    let from = "From: <alice@local.test>\r\n";
    let content = format!("{from}Subject: held\r\n\r\n{}", "held content\r\n".repeat(60_000));
    // Deferred the first time, and held before the second.
    let recipient = "defer-held@six.test";
    let reply = client.transaction("alice@local.test", &[recipient], content.as_bytes()).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    wait::until("a held job", LIMIT, async || {
        mda.cli(&["queue", "hold", "--all"]).await.ok()?;
        let held = workers[1].cli(&["queue", "list", "--output", "json"]).await.ok()?;
        held.contains("held").then_some(())
    })
    .await
}

const CREATE: &str = "$JS.API.STREAM.CREATE.";
/// How content is asked for.
const SPY: &str = "$JS.API.STREAM.MSG.GET.";

/// Both ask for all content that there is.
async fn content_is_read_by_those_who_deliver(realm: &Realm) -> Result<()> {
    let [ingress, worker, ..] = &realm.keys;
    let mut wire = Wire::log_in(realm, Some(worker)).await?;
    ensure!(wire.contents("_INBOX_worker").await?.contains("\"data\""), "no content to be read");
    let mut wire = Wire::log_in(realm, Some(ingress)).await?;
    let answer = wire.contents("_INBOX_ingress").await;
    let denied = answer.err().context("the ingress read content")?.to_string();
    ensure!(denied.contains("Permissions Violation"), "{denied}");
    Ok(())
}

/// A server with TLS that knows one key for each role, by what the command line printed.
struct Realm {
    dir: PathBuf,
    server: Server,
    keys: [KeyPair; 4],
    authority: CertificateDer<'static>,
}

impl Realm {
    async fn start(dir: &Path) -> Result<Self> {
        let keys = ROLES.map(|_| KeyPair::new_user());
        let mut command = tokio::process::Command::new(binary()?);
        command.args(["nats", "permissions"]);
        for (role, key) in ROLES.iter().zip(&keys) {
            fs::write(dir.join(format!("{role}.nk")), key.seed()?)?;
            command.arg(format!("--role={role}={}", key.public_key()));
        }
        let printed = command.output().await?;
        ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let authority = certificates(dir)?;
        let more = format!(
            "tls {{ cert_file: {:?}, key_file: {:?} }}\n{}",
            dir.join("server.pem"),
            dir.join("server.key"),
            String::from_utf8(printed.stdout)?
        );
        let settings = Settings { more, ..Settings::default() };
        let server = Server::start_in(&dir.join("nats"), &settings).await?;
        Ok(Self { dir: dir.to_owned(), server, keys, authority })
    }

    fn process(&self, role: &str, number: usize, sink: &Sink) -> Result<Postrider> {
        let home = self.dir.join(format!("{role}-{number}"));
        let data = home.join("data");
        fs::create_dir_all(&data)?;
        let config = scenario::config(sink, &data)
            + &format!(
                "jetstream:\n  urls: [{:?}]\n  monitorUrls: [{:?}]\n  replicas: 1\n  \
                 nkeyFile: ../{role}.nk\n  caFile: ../ca.pem\n  ackWaitSeconds: 10\n  \
                 ownershipTtlSeconds: 5\n  timeoutSeconds: 3\n  \
                 intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
                self.server.url(),
                self.server.monitor_url(),
            );
        let process = Postrider::of_role(role, &home, &config)?;
        process.write_domain("local.test", &["alice", "bob"])?;
        Ok(process)
    }
}

/// Writes `ca.pem`, and `server.pem` and `server.key` for loopback.
fn certificates(dir: &Path) -> Result<CertificateDer<'static>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate()?;
    let authority = params.self_signed(&ca_key)?;
    let issuer = Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate()?;
    let server = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    fs::write(dir.join("ca.pem"), authority.pem())?;
    fs::write(dir.join("server.pem"), server.pem())?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    Ok(authority.der().clone())
}

/// A connection by the plain text protocol of NATS, so that no client hides what the server does.
struct Wire {
    stream: BufReader<TlsStream<TcpStream>>,
}

async fn connect(realm: &Realm) -> Result<BufReader<TcpStream>> {
    let url = realm.server.url();
    let address = url.strip_prefix("nats://").context("not a NATS URL")?;
    Ok(BufReader::new(TcpStream::connect(address).await?))
}

async fn read_info(stream: &mut BufReader<TcpStream>) -> Result<Value> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(serde_json::from_str(line.strip_prefix("INFO ").context("no INFO")?)?)
}

impl Wire {
    async fn log_in(realm: &Realm, key: Option<&KeyPair>) -> Result<Self> {
        let mut plain = connect(realm).await?;
        let info = read_info(&mut plain).await?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(realm.authority.clone())?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = connector.connect(name, plain.into_inner()).await?;
        let mut wire = Self { stream: BufReader::new(stream) };
        let nonce = info["nonce"].as_str().context("no nonce")?;
        let mut options =
            json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true});
        if let Some(key) = key {
            options["nkey"] = key.public_key().into();
            options["sig"] = URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes())?).into();
        }
        let (errors, _) = wire.exchange(&format!("CONNECT {options}\r\n")).await?;
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(wire)
    }

    /// Whether the server says that this is not permitted.
    async fn is_denied(&mut self, verb: &str, subject: &str) -> Result<bool> {
        let (errors, _) = match verb {
            "PUB" => self.exchange(&format!("PUB {subject} 0\r\n\r\n")).await?,
            "SUB" => self.exchange(&format!("SUB {subject} 7\r\nUNSUB 7\r\n")).await?,
            _ => bail!("no such verb: {verb}"),
        };
        let is_violation = |error: &String| {
            error.contains("Permissions Violation") && error.contains(&format!("{subject:?}"))
        };
        ensure!(errors.iter().all(is_violation), "{subject}: {errors:?}");
        Ok(!errors.is_empty())
    }

    /// What the body streams begin with, by the leaders' answers.
    async fn contents(&mut self, inbox: &str) -> Result<String> {
        self.exchange(&format!("SUB {inbox}.x 7\r\n")).await?;
        let mut contents = String::new();
        for subject in ["body-0", "body-1"].map(|stream| format!("{SPY}{stream}")) {
            let wanted = json!({"seq": 1, "next_by_subj": "body.*"}).to_string();
            let ask = format!("PUB {subject} {inbox}.x {}\r\n{wanted}\r\n", wanted.len());
            let (errors, mut messages) = self.exchange(&ask).await?;
            ensure!(errors.is_empty(), "{errors:?}");
            while messages.is_empty() {
                messages = self.exchange("").await?.1;
            }
            contents += &messages.concat();
        }
        Ok(contents)
    }

    /// Sends commands; returns the errors and messages that come before the server has done them.
    async fn exchange(&mut self, commands: &str) -> Result<(Vec<String>, Vec<String>)> {
        self.stream.write_all(format!("{commands}PING\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        let answers = tokio::time::timeout(LIMIT, self.read_to_pong()).await;
        answers.context("no PONG")?
    }

    async fn read_to_pong(&mut self) -> Result<(Vec<String>, Vec<String>)> {
        let (mut errors, mut messages) = (Vec::new(), Vec::new());
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line).await? > 0, "closed: {errors:?}");
            let line = line.trim_end();
            match line.split_once(' ').unwrap_or((line, "")) {
                ("PONG", _) => return Ok((errors, messages)),
                ("-ERR", error) => errors.push(error.to_owned()),
                ("PING", _) => self.stream.write_all(b"PONG\r\n").await?,
                ("MSG" | "HMSG", rest) => {
                    let length = rest.rsplit(' ').next().context("no length")?.parse::<usize>()?;
                    let mut payload = vec![0; length + 2];
                    self.stream.read_exact(&mut payload).await?;
                    messages.push(String::from_utf8_lossy(&payload).into_owned());
                }
                _ => {}
            }
        }
    }
}
