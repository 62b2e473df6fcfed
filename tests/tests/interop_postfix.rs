//! Postfix sends to us and receives from us, in clear and under TLS; its own words tell which.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::ledger::content;
use tests::load::SENDER;
use tests::postfix::Postfix;
use tests::process::{PASSWORD, Postrider, domain_yaml};
use tests::sink::Sink;
use tests::{maildir, ports, scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);

async fn postrider(dir: &Path, next_hop_port: u16) -> Result<Postrider> {
    let config = scenario::config_for_port(next_hop_port, &dir.join("data"));
    let mut postrider = Postrider::new(&dir.join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice", "bob"])?;
    postrider.start().await?;
    Ok(postrider)
}

/// A message with the lines that go wrong: a dot alone, dots in front, long and empty lines.
fn message(token: &str) -> Vec<u8> {
    let long = "x".repeat(900);
    content(token, SENDER, &format!(".\r\n..\r\n.x\r\n{long}\r\n\r\n\r\nend"))
}

/// Postfix takes a message from a client and hands it to us.
async fn postfix_to_us(settings: &str, protocol: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let postrider = postrider(dir.path(), 9).await?;
    let postfix = Postfix::start(dir.path(), postrider.address("relay"), settings).await?;
    let mut client = Client::connect(postfix.address()).await?;
    client.command("EHLO client.test", 250).await?;
    let recipients = ["bob@local.test", "alice@local.test"];
    let sent = message("P1");
    let reply = client.transaction("sender@remote.test", &recipients, &sent).await?;
    ensure!(reply.code == 250, "Postfix said {reply:?}");
    let found = wait::until("the message in two mailboxes", LIMIT, async || {
        let found = maildir::messages(&dir.path().join("data/mail")).ok()?;
        (found.len() == 2).then_some(found)
    })
    .await;
    let found = found.map_err(|error| error.context(postfix.log()))?;
    let stored = String::from_utf8(std::fs::read(&found[0])?)?;
    let sent_body = sent.windows(4).position(|end| end == b"\r\n\r\n").map(|at| &sent[at..]);
    let sent_body = std::str::from_utf8(sent_body.unwrap_or_default())?;
    ensure!(stored.ends_with(sent_body), "the body was changed: {stored}");
    ensure!(stored.contains(&format!(" with {protocol}\r\n")), "not {protocol}: {stored}");
    ensure!(stored.starts_with("Return-Path: <sender@remote.test>\r\n"), "{stored}");

    let reply = client.transaction("sender@remote.test", &["nobody@local.test"], &sent).await?;
    ensure!(reply.code == 250, "Postfix said {reply:?}");
    wait::until("Postfix to bounce", LIMIT, async || {
        postfix.log().contains("said: 550 5.1.1").then_some(())
    })
    .await
    .map_err(|error| error.context(postfix.log()))
}

#[tokio::test]
async fn postfix_sends_in_clear() -> Result<()> {
    postfix_to_us("smtp_tls_security_level = none", "ESMTP").await
}

#[tokio::test]
async fn postfix_sends_under_tls() -> Result<()> {
    postfix_to_us("smtp_tls_security_level = encrypt", "ESMTPS").await
}

/// A user of ours sends a message that Postfix relays to the sink.
async fn us_to_postfix(settings: &str, words: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let postfix = Postfix::start(dir.path(), sink.address(), settings).await?;
    let postrider = postrider(dir.path(), postfix.address().port()).await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let sent = message("P2");
    let recipients = ["x@remote.test", "y@remote.test", "z@other.test"];
    let reply = client.transaction(SENDER, &recipients, &sent).await?;
    ensure!(reply.code == 250, "{reply:?}");
    let received = wait::until("the message at the sink", LIMIT, async || {
        let received = sink.received();
        let recipients: usize = received.iter().map(|r| r.recipients.len()).sum();
        (recipients == 3).then_some(received)
    })
    .await
    .map_err(|error| error.context(postfix.log()))?;
    for each in &received {
        let text = String::from_utf8(each.content.clone())?;
        ensure!(text.ends_with(std::str::from_utf8(&sent)?), "the content was changed: {text}");
        ensure!(each.reverse_path == SENDER, "{each:?}");
        ensure!(text.contains(words), "Postfix did not write {words:?}: {text}");
        ensure!(text.contains("\r\nDate: ") && text.contains("\r\nMessage-ID: "), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn postfix_receives_in_clear() -> Result<()> {
    us_to_postfix("smtpd_tls_security_level = none", "with ESMTP id").await
}

#[tokio::test]
async fn postfix_receives_under_tls() -> Result<()> {
    let certificate = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["postfix.test".to_owned()])?;
    let (cert, key) = (certificate.path().join("cert.pem"), certificate.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let settings = format!(
        "smtpd_tls_security_level = encrypt\nsmtpd_tls_received_header = yes\n\
         smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}",
        cert.display(),
        key.display()
    );
    us_to_postfix(&settings, "using TLSv1.3").await
}

/// An alias of ours leads to Postfix, which cannot deliver: its bounce, to a reverse-path of ours,
/// comes back by us to whoever wrote.
#[tokio::test]
async fn postfix_bounces_what_we_forwarded_and_its_sender_hears_of_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let relay = ports::free_address()?;
    let postfix = Postfix::start(dir.path(), relay, "").await?;
    let far = format!(
        "routes:\n  - {{domain: far.test, host: \"127.0.0.1\", port: {}}}\n",
        sink.address().port()
    );
    let config = scenario::config_for_port(postfix.address().port(), &dir.path().join("data"));
    let config = config.replacen("127.0.0.1:0", &relay.to_string(), 1).replace("routes:\n", &far);
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    let aliases = "aliases:\n    - {match: team, to: [gone@remote.test]}\n";
    let domain = domain_yaml("local.test", &["alice"])?.replace("aliases:\n", aliases);
    std::fs::write(dir.path().join("etc/domains/local.test.yaml"), domain)?;
    postrider.start().await?;
    let mut client = Client::connect(postrider.address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    let message = content("P3", "writer@far.test", "body");
    let reply = client.transaction("writer@far.test", &["team@local.test"], &message).await?;
    ensure!(reply.code == 250, "{reply:?}");
    let received = wait::until("the bounce at the writer's", LIMIT, async || {
        sink.received().into_iter().find(|it| it.recipients == ["writer@far.test"])
    })
    .await
    .map_err(|error| error.context(postfix.log()))?;
    ensure!(received.reverse_path.is_empty(), "{received:?}");
    let text = String::from_utf8(received.content)?;
    ensure!(text.contains("postfix.test") && text.contains("gone@remote.test"), "{text}");
    ensure!(text.contains("Delivered-To: team@local.test"), "not in what is returned: {text}");
    let log = postfix.log();
    ensure!(log.contains("from=<SRS0=") && log.contains("=far.test=writer@local.test>"), "{log}");
    Ok(())
}
