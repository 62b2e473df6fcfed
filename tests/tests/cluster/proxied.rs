//! Clients behind a load balancer that speaks the PROXY protocol, certificates by the name that is
//! asked for, and mail that leaves by several addresses. In one process, and in roles.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tests::client::Client;
use tests::exposition::Exposition;
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::process::{PASSWORD, domain_yaml};
use tests::sink::Sink;
use tests::{maildir, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);
const DOMAIN: &str = "local.test";
const ALICE: &str = "alice@local.test";
/// What a load balancer says of 192.0.2.7 (v1), and of 192.0.2.8 (v2).
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 25\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xc0\0\x02\x01\x10\xe1\0\x19";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_and_certificates_in_one_process() -> Result<()> {
    proxies_and_certificates(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_and_certificates_in_roles() -> Result<()> {
    proxies_and_certificates(Kind::Roles).await
}

/// The listener of submission is for load balancers elsewhere.
fn config(data: &Path, certificates: &[Certificate], sink: u16) -> String {
    let files = certificates.iter().map(|it| {
        let (certificate, key) = (it.file("crt"), it.file("key"));
        format!("{{certificate: {}, key: {}}}", certificate.display(), key.display())
    });
    let files: Vec<String> = files.collect();
    format!(
        "hostname: mx.local.test\ndataDir: {}\ningress:\n  \
         tls: {{certificates: [{}], reloadSeconds: 1}}\n  listeners:\n  \
         - kind: relay\n    addresses: [\"127.0.0.1:0\"]\n    \
         proxyProtocol: {{from: [\"127.0.0.0/8\"]}}\n  \
         - kind: submissions\n    addresses: [\"127.0.0.1:0\"]\n    \
         proxyProtocol: {{from: [\"192.0.2.0/24\"]}}\n  \
         - {{kind: submission, addresses: [\"127.0.0.1:0\"]}}\n\
         delivery:\n  allowPrivateAddresses: true\n  sources:\n  \
         - {{address: 127.0.0.2, name: out2.local.test}}\n  \
         - {{address: 127.0.0.3, name: out3.local.test}}\n  \
         routes: [{{domain: \"*\", host: \"127.0.0.1\", port: {sink}}}]\n\
         http: {{address: \"127.0.0.1:0\"}}\n",
        data.display(),
        files.join(", "),
    )
}

async fn proxies_and_certificates(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let certificates = [("own", "mx.local.test"), ("hosted", "mail.hosted.test")]
        .map(|(file, name)| Certificate { path: dir.path().join(file), name });
    certificates.iter().try_for_each(Certificate::issue)?;
    let config = |data: &Path| config(data, &certificates, sink.address().port());
    let domain = (DOMAIN, &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    clients_are_whom_the_proxy_names(&home).await?;
    strangers_are_not_heard_and_probes_are_no_fault(&home).await?;
    certificates_are_by_name_and_renewed(&home, &certificates).await?;
    mail_leaves_by_the_source_of_its_domain(&mut home, &sink).await?;
    home.stop(LIMIT).await
}

/// A client behind the proxy.
async fn proxied(home: &Home, header: &[u8]) -> Result<Client> {
    let mut stream = TcpStream::connect(home.ingress().address("relay")).await?;
    stream.write_all(header).await?;
    Client::over(stream).await
}

async fn clients_are_whom_the_proxy_names(home: &Home) -> Result<()> {
    for (header, address) in [(V1, "[192.0.2.7]"), (V2, "[192.0.2.8]")] {
        let mut client = proxied(home, header).await?;
        client.command("EHLO client.test", 250).await?;
        let sent = content(address, "writer@far.test", "body");
        let reply = client.transaction("writer@far.test", &[ALICE], &sent).await?;
        ensure!(reply.code == 250, "{reply:?}");
        let mail = home.mda().dir().join("data/mail");
        let received = format!("from client.test ({address})");
        wait::until(&received, LIMIT, async || {
            let texts = maildir::messages(&mail).ok()?.into_iter().map(fs::read_to_string);
            texts.flatten().any(|text| text.contains(&received)).then_some(())
        })
        .await?;
    }
    Ok(())
}

async fn strangers_are_not_heard_and_probes_are_no_fault(home: &Home) -> Result<()> {
    for kind in ["relay", "submissions"] {
        drop(TcpStream::connect(home.ingress().address(kind)).await?);
    }
    let mut stranger = TcpStream::connect(home.ingress().address("submissions")).await?;
    stranger.write_all(V1).await?;
    // Octets that nobody reads make it a reset.
    let said = stranger.read(&mut [0; 64]).await;
    ensure!(said.is_err() || matches!(said, Ok(0)), "{said:?}");
    let mut silent = TcpStream::connect(home.ingress().address("relay")).await?;
    silent.write_all(b"EHLO client.test\r\n").await?;
    let said = silent.read(&mut [0; 64]).await;
    ensure!(said.is_err() || matches!(said, Ok(0)), "{said:?}");
    let refused = async |reason: &str| {
        let numbers = Exposition::of(home.ingress()).await.ok()?;
        let label = format!("reason=\"proxy_{reason}\"");
        Some(numbers.sum("postrider_ingress_connections_refused_total", &label))
    };
    wait::until("refused connections", LIMIT, async || {
        let counted = (refused("foreign").await?, refused("malformed").await?);
        (counted == (1.0, 1.0)).then_some(())
    })
    .await?;
    ensure!(refused("incomplete").await == Some(0.0), "a probe is counted");
    Ok(())
}

/// A chain and its key below a path.
struct Certificate {
    path: PathBuf,
    name: &'static str,
}

impl Certificate {
    fn file(&self, end: &str) -> PathBuf {
        self.path.with_extension(end)
    }

    /// Makes another one, as who renews it does: the key first, each under its name at once.
    fn issue(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(vec![self.name.to_owned()])?;
        for (end, text) in [("key", made.signing_key.serialize_pem()), ("crt", made.cert.pem())] {
            let fresh = self.file("new");
            fs::write(&fresh, text)?;
            fs::rename(fresh, self.file(end))?;
        }
        Ok(())
    }

    fn is(&self, shown: &[u8]) -> Result<bool> {
        Ok(CertificateDer::from_pem_file(self.file("crt"))?.as_ref() == shown)
    }
}

async fn certificates_are_by_name_and_renewed(home: &Home, own: &[Certificate; 2]) -> Result<()> {
    let shown = async |name: &'static str| {
        let mut client = proxied(home, V1).await?;
        client.command("EHLO client.test", 250).await?;
        client.certificate(name).await
    };
    let [host, hosted] = own;
    ensure!(host.is(&shown("mx.local.test").await?)?, "our own name");
    ensure!(hosted.is(&shown("mail.hosted.test").await?)?, "a hosted domain's name");
    ensure!(host.is(&shown("unknown.test").await?)?, "the first for all others");
    hosted.issue()?;
    wait::until("the renewed certificate", LIMIT, async || {
        hosted.is(&shown("mail.hosted.test").await.ok()?).ok()?.then_some(())
    })
    .await?;
    ensure!(host.is(&shown("mx.local.test").await?)?, "the other one stays");
    Ok(())
}

/// A sending domain has one of them for all of its mail.
async fn mail_leaves_by_the_source_of_its_domain(home: &mut Home, sink: &Sink) -> Result<()> {
    let hosted = domain_yaml("hosted.test", &["bob"])?.replace("name: d}", "name: hosted}");
    home.change("hosted.test.yaml", &hosted).await?;
    for (address, number) in [(ALICE, 2), ("bob@hosted.test", 3), (ALICE, 2)] {
        let before = sink.count();
        let submission = home.ingress().address("submission");
        let mut client = Client::submission(submission, address, PASSWORD).await?;
        let sent = content(address, address, "body");
        let reply = client.transaction(address, &["friend@far.test"], &sent).await?;
        ensure!(reply.code == 250, "{reply:?}");
        let received =
            wait::until("the message", LIMIT, async || sink.received().into_iter().nth(before));
        let received = received.await?;
        let (hello, client) = (received.hello, received.client);
        ensure!(hello == format!("out{number}.local.test"), "{address}: {hello}");
        ensure!(client == IpAddr::from([127, 0, 0, number]), "{address}: {client}");
    }
    Ok(())
}
