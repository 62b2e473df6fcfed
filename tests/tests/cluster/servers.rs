//! The servers of the cluster tests themselves: what was killed, stopped or replaced by an empty
//! one comes back with all that was acknowledged.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::nats::{Cluster, Server};
use tests::wait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const CURRENT_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_killed_server_comes_back_current() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    make_stream(&cluster.server(0).url(), 3).await?;
    let leader = cluster.meta_leader().await.context("no meta leader")?;
    let alive = (leader + 1) % 3;
    publish(&cluster.server(alive).url(), 0..20).await?;
    cluster.kill(leader)?;
    cluster.until_current(CURRENT_MAX).await?;
    let next = cluster.meta_leader().await.context("no meta leader")?;
    ensure!(next != leader, "a dead server leads");
    publish(&cluster.server(alive).url(), 20..40).await?;
    cluster.kill(next)?;
    let lonely = cluster.until_current(Duration::from_secs(1)).await;
    ensure!(lonely.is_err(), "one of three servers cannot be current");
    cluster.restart(next)?;
    cluster.restart(leader)?;
    cluster.until_current(CURRENT_MAX).await?;
    // Who leads may call it current by what it had said before it was killed.
    let has_all = async || (messages(cluster.server(leader)).await.ok()? == 40).then_some(());
    wait::until("it to have all messages", CURRENT_MAX, has_all).await
}

#[tokio::test]
async fn an_empty_server_in_the_place_of_another_gets_its_messages() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    make_stream(&cluster.server(0).url(), 3).await?;
    publish(&cluster.server(0).url(), 0..20).await?;
    cluster.stop_process(1)?;
    publish(&cluster.server(0).url(), 20..40).await?;
    ensure!(cluster.replace(2).is_err(), "a second server must not lose its store");
    cluster.resume(1)?;
    cluster.until_current(CURRENT_MAX).await?;
    ensure!(messages(cluster.server(1)).await? == 40);
    cluster.replace(2)?;
    cluster.until_current(CURRENT_MAX).await?;
    ensure!(messages(cluster.server(2)).await? == 40);
    Ok(())
}

#[tokio::test]
async fn a_single_server_keeps_what_it_acknowledged() -> Result<()> {
    let mut server = Server::start().await?;
    make_stream(&server.url(), 1).await?;
    publish(&server.url(), 0..20).await?;
    server.restart().await?;
    ensure!(messages(&server).await? == 20);
    let page = server.monitor().json("/jsz?config=1").await?;
    ensure!(page["config"]["sync_always"] == true, "sync is lazy: {page}");
    server.stop_process()?;
    ensure!(!server.monitor().is_healthy().await, "a stopped server answers");
    server.resume()?;
    server.until_ready(CURRENT_MAX).await
}

async fn make_stream(url: &str, replicas: usize) -> Result<()> {
    let config = json!({
        "name": "S", "subjects": ["s"], "retention": "limits", "storage": "file",
        "num_replicas": replicas,
    });
    let answer = request(url, "$JS.API.STREAM.CREATE.S", "", &config.to_string()).await?;
    ensure!(answer["error"].is_null(), "{answer}");
    Ok(())
}

/// Each is acknowledged; while the stream has no leader none is, and it is sent again under the
/// same id.
async fn publish(url: &str, ids: Range<u32>) -> Result<()> {
    for id in ids {
        let header = format!("Nats-Msg-Id: {id}\r\n");
        wait::until("an acknowledgement", CURRENT_MAX, async || {
            let answer = request(url, "s", &header, "mail").await.ok()?;
            answer["seq"].as_u64()
        })
        .await?;
    }
    Ok(())
}

/// In the copy of the stream that this server has.
async fn messages(server: &Server) -> Result<u64> {
    let page = server.monitor().json("/jsz?accounts=1&streams=1").await?;
    let stream = &page["account_details"][0]["stream_detail"][0];
    stream["state"]["messages"].as_u64().with_context(|| format!("no stream: {page}"))
}

/// One request by the plain text protocol of NATS, so that no client hides what the servers do.
async fn request(url: &str, subject: &str, header: &str, payload: &str) -> Result<Value> {
    let header = format!("NATS/1.0\r\n{header}\r\n");
    let (header_length, length) = (header.len(), header.len() + payload.len());
    let commands = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB in 1\r\n\
         HPUB {subject} in {header_length} {length}\r\n{header}{payload}\r\n"
    );
    let answer = tokio::time::timeout(ANSWER_MAX, exchange(url, &commands)).await;
    answer.with_context(|| format!("no answer to {subject}"))?
}

async fn exchange(url: &str, commands: &str) -> Result<Value> {
    let address = url.strip_prefix("nats://").context("not a NATS URL")?;
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(commands.as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if let Some(head) = line.strip_prefix("MSG in 1 ") {
            let mut body = vec![0; head.trim().rsplit(' ').next().context("no length")?.parse()?];
            stream.read_exact(&mut body).await?;
            return Ok(serde_json::from_slice(&body)?);
        }
        ensure!(!line.starts_with("-ERR") && !line.starts_with("HMSG"), "{line}");
        line.clear();
    }
    bail!("the connection ended")
}
