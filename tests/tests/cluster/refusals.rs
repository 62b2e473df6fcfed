//! Servers and streams that would not keep mail are refused, with what to do about it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use async_nats::jetstream;
use async_nats::jetstream::stream::{
    Config as Stream, DiscardPolicy, RetentionPolicy, StorageType,
};
use queue::HopKind;
use queue_jetstream::{Config, JetQueue, OpenError};
use tests::jet;
use tests::nats::{Cluster, Server, Settings};
use tests::process::Postrider;
use tests::scenario;
use tests::sink::Sink;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(30);

fn config(servers: &Cluster) -> Config {
    jet::config(servers.urls(), servers.monitor_urls())
}

async fn open(config: Config) -> Result<JetQueue, OpenError> {
    jet::open(config, &[HopKind::Smtp]).await
}

/// The error's text, and of those it comes from.
async fn refusal(config: Config) -> Result<String> {
    match open(config).await {
        Ok(_) => bail!("it was opened"),
        Err(error) => Ok(format!("{:#}", anyhow::Error::from(error))),
    }
}

fn lazy() -> Settings {
    Settings { sync_interval: "2m", ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_later_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let servers = Cluster::start_in(dir.path(), 1, &lazy()).await?;
    let error = refusal(config(&servers)).await?;
    ensure!(error.contains("`sync_interval: always`"), "{error}");
    ensure!(error.contains(&servers.monitor_urls()[0]), "it does not say which: {error}");
    let error = refusal(Config { monitor_urls: Vec::new(), ..config(&servers) }).await?;
    ensure!(error.contains("monitorUrls") && error.contains("allowUnverifiedSync"), "{error}");
    let page = servers.server(0).monitor().json("/jsz").await?;
    ensure!(page["streams"] == 0, "a refused server has streams: {page}");
    open(Config { allow_unverified_sync: true, ..config(&servers) }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_must_be_named_and_one_may_be_down() -> Result<()> {
    let mut servers = Cluster::start(3).await?;
    let all = config(&servers);
    let some = Config { monitor_urls: all.monitor_urls[1..].to_vec(), ..all.clone() };
    let error = refusal(some).await?;
    ensure!(error.contains("2 servers, but the cluster has 3"), "{error}");
    servers.kill(0)?;
    servers.until_current(LIMIT).await?;
    drop(open(all.clone()).await?);
    servers.kill(1)?;
    let error = refusal(all).await?;
    ensure!(error.contains("does not answer"), "{error}");
    Ok(())
}

/// What an operator, or a release of another mind, may have made of it.
fn odd(intake: Stream) -> Vec<(&'static str, Stream)> {
    vec![
        ("retention", Stream { retention: RetentionPolicy::Limits, ..intake.clone() }),
        ("discard", Stream { discard: DiscardPolicy::Old, ..intake.clone() }),
        ("max_bytes", Stream { max_bytes: 1 << 20, ..intake.clone() }),
        ("max_age", Stream { max_age: Duration::from_secs(3600), ..intake.clone() }),
        ("max_msgs", Stream { max_messages: 1000, ..intake.clone() }),
        ("max_msgs_per_subject", Stream { max_messages_per_subject: 1, ..intake.clone() }),
        ("storage", Stream { storage: StorageType::Memory, max_bytes: 1 << 20, ..intake.clone() }),
        ("subjects", Stream { subjects: vec!["in.s0.a".into()], ..intake }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_differ_are_refused_and_left_as_they_are() -> Result<()> {
    let servers = Cluster::start(1).await?;
    let context = jetstream::new(async_nats::connect(servers.urls()).await?);
    drop(open(config(&servers)).await?);
    let right = context.get_stream("intake-s0").await?.cached_info().config.clone();
    context.delete_stream("intake-s0").await?;
    for (setting, stream) in odd(right) {
        let created = context.create_stream(stream).await?.cached_info().config.clone();
        let error = refusal(config(&servers)).await?;
        let wanted = format!("stream intake-s0: {setting} is");
        ensure!(error.contains(&wanted), "{setting}: {error}");
        ensure!(error.contains("nats stream edit intake-s0"), "no remedy: {error}");
        let mut found = context.get_stream("intake-s0").await?;
        ensure!(found.info().await?.config == created, "{setting}: the stream was changed");
        context.delete_stream("intake-s0").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_numbers_of_copies_are_refused() -> Result<()> {
    let servers = Cluster::start(1).await?;
    let three = Config { replicas: 3, ..config(&servers) };
    let error = refusal(three.clone()).await?;
    ensure!(error.contains("stream intake is not there, and cannot be created"), "{error}");
    let context = jetstream::new(async_nats::connect(servers.urls()).await?);
    let intake = Stream {
        name: "intake".into(),
        subjects: vec!["in.>".into()],
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        ..Stream::default()
    };
    context.create_stream(intake).await?;
    let error = refusal(three).await?;
    ensure!(error.contains("replicas is 1, but must be 3"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_server_is_refused() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("nats://{}", listener.local_addr()?);
    // No such server is built here: what one says is all that is looked at.
    let mut old = JoinSet::new();
    old.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let info = r#"{"server_id":"OLD","version":"2.14.3","max_payload":1048576,"proto":1}"#;
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 {
                if line.starts_with("PING") {
                    stream.write_all(b"PONG\r\n").await?;
                }
                line.clear();
            }
        }
        Ok::<_, std::io::Error>(())
    });
    let error = refusal(Config { urls: vec![url], ..Config::default() }).await?;
    ensure!(error.contains("2.14.3 is too old: upgrade it to 2.15.1"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_says_what_to_do_and_ends() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = Server::start_in(&dir.path().join("nats"), &lazy()).await?;
    let sink = Sink::start().await?;
    let error = started(dir.path(), &server, &sink).await?;
    ensure!(error.contains("`sync_interval: always`"), "{error}");
    Ok(())
}

/// Why an ingress on this server does not start.
async fn started(dir: &Path, server: &Server, sink: &Sink) -> Result<String> {
    let home = dir.join("ingress");
    let jetstream = format!(
        "jetstream:\n  urls: [\"{}\"]\n  monitorUrls: [\"{}\"]\n  replicas: 1\n",
        server.url(),
        server.monitor_url()
    );
    let config = scenario::config(sink, &home.join("data")) + &jetstream;
    let mut ingress = Postrider::of_role("ingress", &home, &config)?;
    ingress.write_domain("local.test", &["alice"])?;
    match ingress.start().await {
        Ok(()) => bail!("it started"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
