//! Exim sends to us and receives from us, in clear and under TLS; its own words tell which. It
//! speaks CHUNKING and DSN, both ways.

use anyhow::{Result, ensure};
use tests::client::{Client, dot_stuffed};
use tests::exchange::{self, LIMIT, Peer, postrider, write_certificate};
use tests::exim::Exim;
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::wait;

const NO_TLS: &str = "tls_advertise_hosts =";

/// Exim takes a message from a client and hands it to us, in BDAT.
async fn exim_to_us(transport: &str, protocol: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let postrider = postrider(dir.path(), 9).await?;
    let exim = Exim::start(dir.path(), postrider.address("relay"), NO_TLS, transport).await?;
    exchange::hands_to_us(&exim, dir.path(), protocol).await?;
    let log = exim.log();
    ensure!(log.lines().any(|line| line.contains(" => ") && line.contains(" K ")), "{log}");
    Ok(())
}

#[tokio::test]
async fn exim_sends_in_clear() -> Result<()> {
    exim_to_us("hosts_avoid_tls = *", "ESMTP").await
}

#[tokio::test]
async fn exim_sends_under_tls() -> Result<()> {
    exim_to_us("hosts_require_tls = *\n  tls_verify_hosts =", "ESMTPS").await
}

/// A user of ours sends a message that Exim relays to the sink.
async fn us_to_exim(main: &str, words: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let exim = Exim::start(dir.path(), sink.address(), main, "").await?;
    let postrider = postrider(dir.path(), exim.address().port()).await?;
    exchange::takes_from_us(&exim, &postrider, &sink, words).await?;
    let log = exim.log();
    ensure!(log.lines().any(|line| line.contains(" <= ") && line.contains(" K ")), "{log}");
    Ok(())
}

#[tokio::test]
async fn exim_receives_in_clear() -> Result<()> {
    us_to_exim(NO_TLS, "with esmtp (Exim").await
}

#[tokio::test]
async fn exim_receives_under_tls() -> Result<()> {
    let certificate = tempfile::tempdir()?;
    write_certificate(certificate.path(), "exim.test")?;
    let dir = certificate.path().display();
    let main = format!(
        "tls_advertise_hosts = *\ntls_certificate = {dir}/cert.pem\ntls_privatekey = {dir}/key.pem"
    );
    us_to_exim(&main, "with esmtps").await
}

/// What a user asks for by RFC 3461 goes on to Exim, which knows it: its report of success names
/// the envelope by our user's own id.
#[tokio::test]
async fn exim_reports_what_was_asked_of_us() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let exim = Exim::start(dir.path(), sink.address(), NO_TLS, "").await?;
    let postrider = postrider(dir.path(), exim.address().port()).await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
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
