//! A role that is there before its servers waits for them; one that is told to stop finishes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::{join, try_join};
use tests::client::Client;
use tests::health::{is_ready, readyz};
use tests::load::SENDER;
use tests::mesh::{Mesh, Size};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{ports, wait};

const LIMIT: Duration = Duration::from_secs(60);

fn small() -> Size {
    Size { servers: 1, ingresses: 1, workers: 1, ..Size::default() }
}

/// Has a process tell its health where it is known beforehand.
fn tell_health_at(process: &Postrider) -> Result<SocketAddr> {
    let address = ports::free_address()?;
    let file = process.dir().join("postrider.yaml");
    let config = std::fs::read_to_string(&file)?;
    let http = "http:\n  address: \"127.0.0.1:0\"";
    ensure!(config.contains(http), "the configuration has no {http}");
    let changed = config.replace(http, &format!("http:\n  address: \"{address}\""));
    std::fs::write(file, changed)?;
    Ok(address)
}

/// Waits until each says that it waits for its queue.
async fn until_waiting(addresses: &[SocketAddr]) -> Result<()> {
    for address in addresses {
        let answer = wait::until("health", LIMIT, async || readyz(*address).await.ok()).await?;
        ensure!(answer.starts_with("HTTP/1.1 503"), "ready without servers: {answer}");
        ensure!(answer.contains("queue"), "it does not say what is missing: {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_there_before_its_servers_waits_for_them() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let mut mesh = Mesh::start(dir.path(), small(), &sink).await?;
    mesh.stop(LIMIT).await?;
    mesh.servers.kill(0)?;
    let addresses = mesh.processes().into_iter().map(tell_health_at).collect::<Result<Vec<_>>>()?;

    let Mesh { servers, ingresses, workers, mda, .. } = &mut mesh;
    let starts =
        async { try_join(ingresses[0].start(), try_join(workers[0].start(), mda.start())).await };
    let servers_later = async {
        until_waiting(&addresses).await?;
        servers.restart(0)
    };
    try_join(starts, servers_later).await?;
    for address in &addresses {
        wait::until("readiness", LIMIT, async || is_ready(*address).await.ok()?.then_some(()))
            .await?;
    }
    let ingress = mesh.ingresses[0].address("submission");
    let mut client = Client::submission(ingress, SENDER, PASSWORD).await?;
    let content = format!("From: <{SENDER}>\r\n\r\nbody\r\n");
    let reply = client.transaction(SENDER, &["there@far.test"], content.as_bytes()).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    wait::until("the message", LIMIT, async || (sink.count() == 1).then_some(())).await?;
    mesh.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_is_open_and_ends_well() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let mut mesh = Mesh::start(dir.path(), small(), &sink).await?;
    let ingress = &mut mesh.ingresses[0];
    let (address, health) = (ingress.address("submission"), ingress.address("http"));
    let mut idle = Client::submission(address, SENDER, PASSWORD).await?;
    let mut busy = Client::submission(address, SENDER, PASSWORD).await?;
    busy.command(&format!("MAIL FROM:<{SENDER}>"), 250).await?;
    busy.command("RCPT TO:<there@far.test>", 250).await?;
    busy.command("DATA", 354).await?;
    busy.send(format!("From: <{SENDER}>\r\n\r\n").as_bytes()).await?;

    let clients = async {
        idle.expect(421).await?;
        let answer = readyz(health).await?;
        ensure!(answer.starts_with("HTTP/1.1 503"), "ready while it stops: {answer}");
        ensure!(Client::connect(address).await.is_err(), "somebody new was let in");
        busy.send(b"the rest\r\n.\r\n").await?;
        busy.expect(250).await?;
        busy.expect(421).await.map(drop)
    };
    let (code, told) = join(ingress.stop(LIMIT), clients).await;
    told?;
    ensure!(code? == Some(0), "the ingress did not end well");
    wait::until("the message", LIMIT, async || (sink.count() == 1).then_some(())).await?;
    for process in mesh.workers.iter_mut().chain([&mut mesh.mda]) {
        ensure!(process.stop(LIMIT).await? == Some(0), "{} did not end well", process.role());
    }
    Ok(())
}
