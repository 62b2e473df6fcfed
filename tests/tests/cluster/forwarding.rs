//! What an alias leads elsewhere, by roles in processes of their own: bounces find their way back,
//! whichever process they come to, and also while the key of the reverse-path is being replaced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::ledger::content;
use tests::mesh::{Mesh, Size};
use tests::process::{Postrider, domain_yaml};
use tests::sink::{Received, Sink};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);
const WRITER: &str = "writer@far.test";

/// Two keys, of which another is first in each process: as while one takes the place of the other.
fn write_keys(dir: &Path) -> Result<()> {
    for process in ["ingress-0", "ingress-1", "worker-0", "mda-0"] {
        let home = dir.join(process);
        fs::create_dir_all(&home)?;
        let (first, second) = if process == "ingress-1" { ("b", "a") } else { ("a", "b") };
        for (file, key) in [("first.key", first), ("second.key", second)] {
            fs::write(home.join(file), key.repeat(32))?;
            fs::set_permissions(home.join(file), fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

/// Adds aliases that lead elsewhere: to somebody, and to one whom the sink refuses.
async fn add_aliases(mesh: &Mesh) -> Result<()> {
    let aliases = "aliases:\n    - {match: team, to: [gone@remote.test]}\n    \
                   - {match: lost, to: [refuse-x@remote.test]}\n";
    let domain = domain_yaml("local.test", &["alice", "bob"])?.replace("aliases:\n", aliases);
    for process in mesh.processes() {
        fs::write(process.dir().join("domains/local.test.yaml"), &domain)?;
    }
    for ingress in &mesh.ingresses {
        wait::until("the aliases to be known", LIMIT, async || {
            let code = Client::rcpt(ingress.address("relay"), "lost@local.test").await;
            code.is_ok_and(|code| code == 250).then_some(())
        })
        .await?;
    }
    Ok(())
}

async fn send(to: &Postrider, from: &str, recipient: &str, subject: &str) -> Result<()> {
    let mut client = Client::connect(to.address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    let message = content(subject, WRITER, "body");
    let reply = client.transaction(from, &[recipient], &message).await?;
    ensure!(reply.code == 250, "{from} to {recipient}: {}", reply.text);
    Ok(())
}

/// The next message at the sink for a recipient.
async fn received(sink: &Sink, recipient: &str, count: usize) -> Result<Received> {
    wait::until("the message at the sink", LIMIT, async || {
        let is_for = |it: &Received| it.recipients == [recipient];
        sink.received().into_iter().filter(is_for).nth(count)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounces_find_their_way_back_through_any_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write_keys(dir.path())?;
    let refuse = |it: &str| it.starts_with("refuse-").then_some("550 5.1.1 no such user");
    let sink = Sink::with_verdict(Arc::new(refuse)).await?;
    let sections = "srs: {keyFiles: [first.key, second.key]}\n".to_owned();
    let size = Size { servers: 1, ingresses: 2, workers: 1, sections, ..Size::default() };
    let mut mesh = Mesh::start(dir.path(), size, &sink).await?;
    add_aliases(&mesh).await?;
    let [here, there] = &mesh.ingresses[..] else { unreachable!("there are two") };

    // Each makes an address with a key of its own; the other takes the bounce to it.
    let mut addresses = Vec::new();
    for (count, (by, other)) in [(here, there), (there, here)].into_iter().enumerate() {
        send(by, WRITER, "team@local.test", "out").await?;
        let forwarded = received(&sink, "gone@remote.test", count).await?;
        let address = forwarded.reverse_path;
        ensure!(address.starts_with("SRS0=") && address.ends_with("@local.test"), "{address}");
        send(other, "", &address, "bounce").await?;
        let bounce = received(&sink, WRITER, count).await?;
        ensure!(bounce.reverse_path.is_empty(), "{bounce:?}");
        addresses.push(address);
    }
    // What we cannot deliver ourselves: the writer hears of it, and not the address that we made.
    send(here, WRITER, "lost@local.test", "lost").await?;
    let dsn = String::from_utf8(received(&sink, WRITER, 2).await?.content)?;
    ensure!(dsn.contains("refuse-x@remote.test") && dsn.contains("5.1.1"), "{dsn}");
    // Nor when it comes back to us under that address.
    send(there, &addresses[0], "lost@local.test", "again").await?;
    let dsn = String::from_utf8(received(&sink, WRITER, 3).await?.content)?;
    ensure!(dsn.contains("refuse-x@remote.test"), "{dsn}");
    // Who has no key of ours has no way in.
    let forged = addresses[0].replacen("SRS0=", "SRS0=x", 1);
    ensure!(Client::rcpt(here.address("relay"), &forged).await? == 550, "forged");
    mesh.stop(LIMIT).await
}
