//! Exim sends to us and receives from us, in clear and under TLS; its own words tell which. It
//! speaks CHUNKING and DSN, both ways.

use anyhow::{Result, ensure};
use tests::client::{Client, dot_stuffed};
use tests::exchange::{self, LIMIT, Peer, home, write_certificate};
use tests::exim::Exim;
use tests::home::Kind;
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::wait;

const NO_TLS: &str = "tls_advertise_hosts =";

/// Exim takes a message from a client and hands it to us, in BDAT.
async fn exim_to_us(kind: Kind, transport: &str, protocol: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let home = home(kind, dir.path(), 9).await?;
    let relay = home.ingress().address("relay");
    let exim = Exim::start(dir.path(), relay, NO_TLS, transport).await?;
    exchange::hands_to_us(&exim, &home, protocol).await?;
    let log = exim.log();
    ensure!(log.lines().any(|line| line.contains(" => ") && line.contains(" K ")), "{log}");
    Ok(())
}

#[tokio::test]
async fn exim_sends_in_clear() -> Result<()> {
    exim_to_us(Kind::OneProcess, "hosts_avoid_tls = *", "ESMTP").await
}

const REQUIRES_TLS: &str = "hosts_require_tls = *\n  tls_verify_hosts =";

#[tokio::test]
async fn exim_sends_under_tls() -> Result<()> {
    exim_to_us(Kind::OneProcess, REQUIRES_TLS, "ESMTPS").await
}

#[tokio::test]
async fn exim_sends_to_roles() -> Result<()> {
    exim_to_us(Kind::Roles, REQUIRES_TLS, "ESMTPS").await
}

/// A user of ours sends a message that Exim relays to the sink.
async fn us_to_exim(kind: Kind, main: &str, words: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let exim = Exim::start(dir.path(), sink.address(), main, "").await?;
    let home = home(kind, dir.path(), exim.address().port()).await?;
    exchange::takes_from_us(&exim, &home, &sink, words).await?;
    let log = exim.log();
    ensure!(log.lines().any(|line| line.contains(" <= ") && line.contains(" K ")), "{log}");
    Ok(())
}

#[tokio::test]
async fn exim_receives_in_clear() -> Result<()> {
    us_to_exim(Kind::OneProcess, NO_TLS, "with esmtp (Exim").await
}

#[tokio::test]
async fn exim_receives_under_tls() -> Result<()> {
    us_to_exim_under_tls(Kind::OneProcess).await
}

#[tokio::test]
async fn exim_receives_from_roles() -> Result<()> {
    us_to_exim_under_tls(Kind::Roles).await
}

async fn us_to_exim_under_tls(kind: Kind) -> Result<()> {
    let certificate = tempfile::tempdir()?;
    write_certificate(certificate.path(), "exim.test")?;
    let dir = certificate.path().display();
    let main = format!(
        "tls_advertise_hosts = *\ntls_certificate = {dir}/cert.pem\ntls_privatekey = {dir}/key.pem"
    );
    us_to_exim(kind, &main, "with esmtps").await
}

/// What a user asks for by RFC 3461 goes on to Exim, which knows it: its report of success names
/// the envelope by our user's own id.
#[tokio::test]
async fn exim_reports_what_was_asked_of_us() -> Result<()> {
    exim_reports(Kind::OneProcess).await
}

#[tokio::test]
async fn exim_reports_what_was_asked_of_roles() -> Result<()> {
    exim_reports(Kind::Roles).await
}

async fn exim_reports(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let exim = Exim::start(dir.path(), sink.address(), NO_TLS, "").await?;
    let home = home(kind, dir.path(), exim.address().port()).await?;
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, SENDER, PASSWORD).await?;
    client.command(&format!("MAIL FROM:<{SENDER}> RET=HDRS ENVID=asked-of-us"), 250).await?;
    let recipient = "RCPT TO:<x@remote.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@remote.test";
    client.command(recipient, 250).await?;
    client.command("DATA", 354).await?;
    client.send(&dot_stuffed(&content("P4", SENDER, "body"))).await?;
    client.expect(250).await?;
    let report = wait::until("Exim's report", LIMIT, async || {
        sink.received().into_iter().find(|it| it.reverse_path.is_empty())
    })
    .await
    .map_err(|error| error.context(exim.log()))?;
    ensure!(report.recipients == [SENDER], "{report:?}");
    let text = String::from_utf8(report.content)?;
    ensure!(text.contains("exim.test") && text.contains("asked-of-us"), "{text}");
    ensure!(text.contains("first@remote.test"), "{text}");
    Ok(())
}
