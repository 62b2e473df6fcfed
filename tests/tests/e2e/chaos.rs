//! Pods come and go under load, and no accepted mail is lost.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::helm::{RELEASE, Release, WORLD_PORT};
use tests::process::PASSWORD;
use tests::sink::Sink;
use tests::{tenant, wait};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// From the end of the load to the arrival of all of it: a pod that begins waits for leases to
/// lapse.
const LIMIT: Duration = Duration::from_secs(300);
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A message with a number; tells whether it was accepted.
async fn send(address: SocketAddr, number: u64) -> Result<bool> {
    let mut client = Client::submission(address, "alice@chaos.example", PASSWORD).await?;
    let content = format!("From: <alice@chaos.example>\r\nSubject: n{number}.\r\n\r\nhello\r\n");
    let recipient = "friend@world.example";
    let sent = client.transaction("alice@chaos.example", &[recipient], content.as_bytes()).await?;
    Ok(sent.code == 250)
}

/// Sends until `stop`; gives the numbers of what was accepted.
async fn load(address: SocketAddr, next: Arc<AtomicU64>, stop: CancellationToken) -> Vec<u64> {
    let mut accepted = Vec::new();
    while !stop.is_cancelled() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        // What is not answered is not accepted, as far as anybody knows.
        if let Ok(Ok(true)) = tokio::time::timeout(ANSWER_MAX, send(address, number)).await {
            accepted.push(number);
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    accepted
}

fn number_of(content: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(content);
    let (_, rest) = text.split_once("Subject: n")?;
    rest.split_once('.')?.0.parse().ok()
}

/// Deletes a pod of a part, at once or by its orderly end, and waits until another is ready.
async fn replace(release: &Release, part: &str, at_once: bool) -> Result<()> {
    let selector = format!("--selector=app.kubernetes.io/component={part}");
    let grace = if at_once { "--grace-period=0" } else { "--grace-period=60" };
    let force = format!("--force={at_once}");
    release.run(&["delete", "pods", &selector, grace, &force, "--wait=false"]).await?;
    let kind = if matches!(part, "nats" | "mda") { "statefulset" } else { "deploy" };
    let what = format!("{kind}/{RELEASE}-{part}");
    release.run(&["rollout", "status", &what, "--timeout=120s"]).await.map(drop)
}

#[tokio::test]
async fn pods_come_and_go_and_nothing_is_lost() -> Result<()> {
    let release = Release::shared().await?;
    release.kubectl.namespace("chaos", true).await?;
    let resources = tenant::domain("chaos.example", "alice@chaos.example")
        + &tenant::mailbox_with_password("alice@chaos.example").replace(
            "address: alice@chaos.example",
            "address: alice@chaos.example, sendingLimits: {recipientsPerHour: 1000000, \
             recipientsPerDay: 1000000}",
        );
    tenant::apply(&release.kubectl, "chaos", &resources).await?;
    release.kubectl.wait("chaos", "mailbox/alice-chaos-example", "Ready").await?;
    let world =
        Sink::bind(SocketAddr::from(([0, 0, 0, 0], WORLD_PORT)), Arc::new(|_| None)).await?;
    let address = release.address("submission", 587).await?;

    let (next, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(load(address, Arc::clone(&next), stop.clone()));
    }
    let began = Instant::now();
    let rounds = if std::env::var_os("POSTRIDER_LONG").is_some() { 10 } else { 1 };
    for round in 0..rounds {
        for part in ["worker", "submission", "mx", "nats", "operator", "mda"] {
            let before = world.count();
            replace(&release, part, round % 2 == 0).await.context(part)?;
            // It flows again before the next one goes.
            wait::until(part, LIMIT, async || (world.count() > before + 10).then_some(())).await?;
        }
    }
    stop.cancel();
    let accepted: HashSet<u64> = clients.join_all().await.into_iter().flatten().collect();
    let lasted = began.elapsed();
    let missing = async || {
        let received = world.received();
        let found: HashSet<u64> = received.iter().filter_map(|it| number_of(&it.content)).collect();
        accepted.difference(&found).copied().collect::<Vec<u64>>()
    };
    let all = wait::until_every(PAUSE, "all that was accepted", LIMIT, async || {
        missing().await.is_empty().then_some(())
    });
    if let Err(error) = all.await {
        return Err(error.context(format!("lost: {:?}", missing().await)));
    }
    let received = world.received();
    let numbers: HashSet<u64> = received.iter().filter_map(|it| number_of(&it.content)).collect();
    println!(
        "{} of {} accepted in {:.0} s, all of them delivered; {} twice",
        accepted.len(),
        next.load(Ordering::Relaxed),
        lasted.as_secs_f64(),
        received.len() - numbers.len(),
    );
    ensure!(accepted.len() > 100, "too little load: {}", accepted.len());
    release.kubectl.run(&["delete", "namespace", "chaos", "--wait=false"]).await.map(drop)
}
