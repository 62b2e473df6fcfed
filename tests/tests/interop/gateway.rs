//! Postfix as the server that a domain of ours has of its own: asked at RCPT, and handed its mail.
//! Exim as one that wants a login for either.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::exchange::{Peer, write_certificate};
use tests::exim::Exim;
use tests::gateway::{self, ALICE, Branch, NOBODY, takes_whom_it_knew};
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::nats::{self, Cluster};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
/// Where all other mail would go: nobody listens there.
const NOWHERE: u16 = 9;

#[tokio::test]
async fn postfix_is_asked_and_handed_the_mail_of_its_domain() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let branch = Branch::start(dir.path()).await?;
    let config = scenario::config_for_port(NOWHERE, &dir.path().join("data"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    std::fs::write(dir.path().join("etc/domains/branch.yaml"), branch.yaml())?;
    postrider.start().await?;
    let relay = postrider.address("relay");
    branch.takes_whom_it_knows(relay).await?;
    let port = branch.postfix.address().port();
    drop(branch);
    wait::until("Postfix to be gone", LIMIT, async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err().then_some(())
    })
    .await?;
    takes_whom_it_knew(relay).await?;
    let mut client = Client::connect(relay).await?;
    client.command("EHLO client.test", 250).await?;
    let message = content("G2", "writer@far.test", "body");
    let reply = client.transaction("writer@far.test", &[ALICE], &message).await?;
    ensure!(reply.code == 250, "{reply:?}");
    wait::until("the message to wait for the server", LIMIT, async || {
        let listed = postrider.cli(&["queue", "list", "--output", "json"]).await.ok()?;
        let is_tried = listed.contains("branch.test") && !listed.contains("\"attempts\":0");
        is_tried.then_some(())
    })
    .await
}

fn process(servers: &Cluster, role: &str, dir: &Path, more: &str) -> Result<Postrider> {
    let home = dir.join(role);
    let config = scenario::config_for_port(NOWHERE, &home.join("data"));
    let jetstream = format!(
        "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: 1\n  timeoutSeconds: 5\n  \
         intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
        servers.urls(),
        servers.monitor_urls(),
    );
    Postrider::of_role(role, &home, &(config + &jetstream + more))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_is_asked_by_the_ingress_and_handed_mail_by_the_worker() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let branch = Branch::start(dir.path()).await?;
    let settings = nats::Settings::default();
    let servers = Cluster::start_in(&dir.path().join("nats"), 1, &settings).await?;
    let operator = process(&servers, "serve", dir.path(), "")?;
    let mut ingress = process(&servers, "ingress", dir.path(), "domainsFrom: kv\n")?;
    let mut worker = process(&servers, "worker", dir.path(), "domainsFrom: kv\n")?;
    ingress.start().await?;
    worker.start().await?;
    let relay = ingress.address("relay");
    ensure!(Client::rcpt(relay, NOBODY).await? == 451, "there is no table yet");
    std::fs::write(operator.dir().join("domains/branch.yaml"), branch.yaml())?;
    operator.cli(&["domain", "apply", "--output", "json"]).await.context("domain apply")?;
    wait::until("the table", LIMIT, async || {
        (Client::rcpt(relay, ALICE).await.ok()? == 250).then_some(())
    })
    .await
    .map_err(|error| error.context(branch.postfix.log()))?;
    branch.takes_whom_it_knows(relay).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exim_lets_one_process_in_by_auth() -> Result<()> {
    exim_lets_in_by_auth(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exim_lets_roles_in_by_auth() -> Result<()> {
    exim_lets_in_by_auth(Kind::Roles).await
}

/// Who has logged in under TLS may say MAIL, and nobody else.
fn wants_a_login(certificate: &Path) -> String {
    let dir = certificate.display();
    format!(
        "tls_advertise_hosts = *\ntls_certificate = {dir}/cert.pem\n\
         tls_privatekey = {dir}/key.pem\nacl_smtp_mail = accept authenticated = *\n\
         begin authenticators\n\
         plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  \
         server_advertise_condition = ${{if def:tls_in_cipher}}\n  \
         server_condition = ${{if and{{{{eq{{$auth2}}{{us}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}\n  \
         server_set_id = $auth2"
    )
}

async fn exim_lets_in_by_auth(kind: Kind) -> Result<()> {
    let (dir, certificate, sink) =
        (tempfile::tempdir()?, tempfile::tempdir()?, Sink::start().await?);
    write_certificate(certificate.path(), "127.0.0.1")?;
    let main = wants_a_login(certificate.path());
    let exim = Exim::start(dir.path(), sink.address(), &main, "").await?;
    let passwords = dir.path().join("passwords");
    std::fs::create_dir_all(passwords.join("default"))?;
    std::fs::write(passwords.join("default/at-branch"), format!("{PASSWORD}\n"))?;
    let config = |data: &Path| {
        let directory = format!("delivery:\n  gatewayPasswordsDir: {}\n", passwords.display());
        scenario::config_for_port(NOWHERE, data).replace("delivery:\n", &directory)
    };
    let homes = dir.path().join("homes");
    let mut home = Home::start(kind, &homes, config, ("local.test", &["alice"])).await?;
    let pem = std::fs::read_to_string(certificate.path().join("cert.pem"))?;
    let auth = "    auth: {user: us, passwordFile: at-branch}\n";
    home.change("branch.yaml", &gateway::yaml(exim.address(), &pem, auth)).await?;

    let mut stranger = Client::connect(exim.address()).await?;
    stranger.command("EHLO client.test", 250).await?;
    stranger.command("MAIL FROM:<writer@far.test>", 550).await?;
    let mut client = Client::connect(home.ingress().address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    let sent = content("G3", "writer@far.test", "a body");
    let reply = client.transaction("writer@far.test", &[ALICE], &sent).await?;
    ensure!(reply.code == 250, "{reply:?} {}", exim.log());
    let received =
        wait::until("the message behind Exim", LIMIT, async || sink.received().pop()).await;
    let received = received.map_err(|error| error.context(exim.log()))?;
    ensure!(received.recipients == [ALICE], "{received:?}");
    let text = String::from_utf8(received.content)?;
    ensure!(text.contains("with esmtpsa"), "no login under TLS: {text}");
    home.stop(LIMIT).await
}
