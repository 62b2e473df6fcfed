//! A gateway domain whose server is a real Postfix.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::exchange::Peer;
use crate::ledger::content;
use crate::postfix::Postfix;
use crate::sink::Sink;
use crate::wait;

pub const DOMAIN: &str = "branch.test";
/// Whom its server takes mail for; and one whom it does not, so that it is asked about him.
pub const ALICE: &str = "alice@branch.test";
pub const BOB: &str = "bob@branch.test";
pub const NOBODY: &str = "nobody@branch.test";
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// The server: it takes mail under TLS only, for two recipients and a postmaster, and passes it on
/// to a sink.
pub struct Branch {
    pub postfix: Postfix,
    pub sink: Sink,
    certificate: String,
}

impl Branch {
    pub async fn start(dir: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let (cert, key) = (dir.join("branch.pem"), dir.join("branch.key"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let settings = format!(
            "relay_domains = {DOMAIN}\n\
             relay_recipient_maps = inline:{{ {ALICE}=x, {BOB}=x, postmaster@{DOMAIN}=x }}\n\
             smtpd_tls_security_level = encrypt\nsmtpd_tls_received_header = yes\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}",
            cert.display(),
            key.display()
        );
        let sink = Sink::start().await?;
        let postfix = Postfix::start(dir, sink.address(), &settings).await?;
        Ok(Self { postfix, sink, certificate: made.cert.pem() })
    }

    /// Its MailDomain.
    pub fn yaml(&self) -> String {
        yaml(self.postfix.address(), &self.certificate, "")
    }

    /// One whom it takes is accepted and delivered, one whom it does not take is refused at RCPT.
    pub async fn takes_whom_it_knows(&self, relay: SocketAddr) -> Result<()> {
        ensure!(Client::rcpt(relay, NOBODY).await? == 550, "{}", self.postfix.log());
        let log = wait::until("Postfix to log that it was asked", LIMIT, async || {
            let log = self.postfix.log();
            log.contains("User unknown in relay recipient table").then_some(log)
        })
        .await
        .map_err(|error| error.context(self.postfix.log()))?;
        ensure!(log.contains("from=<> to=<nobody@branch.test>"), "{log}");
        let mut client = Client::connect(relay).await?;
        client.command("EHLO client.test", 250).await?;
        let sent = content("G1", "writer@far.test", "a body");
        let reply = client.transaction("writer@far.test", &[ALICE], &sent).await?;
        ensure!(reply.code == 250, "{reply:?} {}", self.postfix.log());
        let received = wait::until("the message behind the server", LIMIT, async || {
            self.sink.received().into_iter().next()
        })
        .await
        .map_err(|error| error.context(self.postfix.log()))?;
        ensure!(received.recipients == [ALICE], "{received:?}");
        ensure!(received.reverse_path == "writer@far.test", "{received:?}");
        let text = String::from_utf8(received.content)?;
        ensure!(text.contains("using TLSv1.3"), "not under TLS: {text}");
        let is_whole = text.contains("\r\nSubject: G1\r\n") && text.ends_with("\r\n\r\na body\r\n");
        ensure!(is_whole, "the content was changed: {text}");
        Ok(())
    }
}

/// The MailDomain of such a server, with `more` said of it; TLS with its certificate and no other.
pub fn yaml(server: SocketAddr, certificate: &str, more: &str) -> String {
    let certificate: String = certificate.lines().map(|line| format!("        {line}\n")).collect();
    format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: branch}}\n\
         spec:\n  domain: {DOMAIN}\n  target: relay\n  relay:\n    hosts: [\"{server}\"]\n    \
         recipients: {{callAhead: true}}\n{more}    \
         tls:\n      mode: verify\n      ca: |\n{certificate}"
    )
}

/// It cannot be reached any more: whom it took is taken, and nobody else, for now.
pub async fn takes_whom_it_knew(relay: SocketAddr) -> Result<()> {
    for (recipient, want) in [(ALICE, 250), (NOBODY, 550), (BOB, 450)] {
        let code = Client::rcpt(relay, recipient).await?;
        ensure!(code == want, "{code} for {recipient} without the server");
    }
    Ok(())
}
