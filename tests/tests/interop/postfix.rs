//! Postfix sends to us and receives from us, in clear and under TLS; its own words tell which.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::exchange::{self, LIMIT, Peer, home, write_certificate};
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::postfix::Postfix;
use tests::process::domain_yaml;
use tests::sink::Sink;
use tests::{ports, scenario, wait};

/// Postfix takes a message from a client and hands it to us.
async fn postfix_to_us(kind: Kind, settings: &str, protocol: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = home(kind, dir.path(), 9).await?;
    let relay = home.ingress().address("relay");
    let postfix = Postfix::start(dir.path(), relay, settings).await?;
    exchange::hands_to_us(&postfix, &home, protocol).await
}

#[tokio::test]
async fn postfix_sends_in_clear() -> Result<()> {
    postfix_to_us(Kind::OneProcess, "smtp_tls_security_level = none", "ESMTP").await
}

#[tokio::test]
async fn postfix_sends_under_tls() -> Result<()> {
    postfix_to_us(Kind::OneProcess, "smtp_tls_security_level = encrypt", "ESMTPS").await
}

#[tokio::test]
async fn postfix_sends_to_roles() -> Result<()> {
    postfix_to_us(Kind::Roles, "smtp_tls_security_level = encrypt", "ESMTPS").await
}

/// A user of ours sends a message that Postfix relays to the sink.
async fn us_to_postfix(kind: Kind, settings: &str, words: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let postfix = Postfix::start(dir.path(), sink.address(), settings).await?;
    let home = home(kind, dir.path(), postfix.address().port()).await?;
    exchange::takes_from_us(&postfix, &home, &sink, words).await
}

#[tokio::test]
async fn postfix_receives_in_clear() -> Result<()> {
    let settings = "smtpd_tls_security_level = none";
    us_to_postfix(Kind::OneProcess, settings, "with ESMTP id").await
}

#[tokio::test]
async fn postfix_receives_under_tls() -> Result<()> {
    us_to_postfix_under_tls(Kind::OneProcess).await
}

#[tokio::test]
async fn postfix_receives_from_roles() -> Result<()> {
    us_to_postfix_under_tls(Kind::Roles).await
}

async fn us_to_postfix_under_tls(kind: Kind) -> Result<()> {
    let certificate = tempfile::tempdir()?;
    write_certificate(certificate.path(), "postfix.test")?;
    let dir = certificate.path().display();
    let settings = format!(
        "smtpd_tls_security_level = encrypt\nsmtpd_tls_received_header = yes\n\
         smtpd_tls_cert_file = {dir}/cert.pem\nsmtpd_tls_key_file = {dir}/key.pem"
    );
    us_to_postfix(kind, &settings, "using TLSv1.3").await
}

/// An alias of ours leads to Postfix, which cannot deliver: its bounce, to a reverse-path of ours,
/// comes back by us to whoever wrote.
#[tokio::test]
async fn postfix_bounces_what_we_forwarded_and_its_sender_hears_of_it() -> Result<()> {
    postfix_bounces_what_we_forwarded(Kind::OneProcess).await
}

#[tokio::test]
async fn postfix_bounces_what_roles_forwarded_and_its_sender_hears_of_it() -> Result<()> {
    postfix_bounces_what_we_forwarded(Kind::Roles).await
}

async fn postfix_bounces_what_we_forwarded(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let relay = ports::free_address()?;
    let postfix = Postfix::start(dir.path(), relay, "").await?;
    let far = format!(
        "routes:\n  - {{domain: far.test, host: \"127.0.0.1\", port: {}}}\n",
        sink.address().port()
    );
    let key = dir.path().join("srs.key");
    std::fs::write(&key, "0123456789abcdef".repeat(4))?;
    let srs = match kind {
        // It makes one of its own.
        Kind::OneProcess => String::new(),
        Kind::Roles => format!("srs: {{keyFiles: [{key:?}]}}\n"),
    };
    let config = |data: &Path| {
        let config = scenario::config_for_port(postfix.address().port(), data) + &srs;
        config.replacen("127.0.0.1:0", &relay.to_string(), 1).replace("routes:\n", &far)
    };
    let mut home =
        Home::start(kind, &dir.path().join("home"), config, ("local.test", &["alice"])).await?;
    let aliases = "aliases:\n    - {match: team, to: [gone@remote.test]}\n";
    let domain = domain_yaml("local.test", &["alice"])?.replace("aliases:\n", aliases);
    home.change("local.test.yaml", &domain).await?;
    let mut client = Client::connect(home.ingress().address("relay")).await?;
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
