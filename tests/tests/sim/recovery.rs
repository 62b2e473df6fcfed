//! A destination that was down: little is tried meanwhile, other mail flows, and all that waited
//! arrives soon after it is back.
//!
//! 2,000 messages wait, 10,000 with `POSTRIDER_LONG=1`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::ledger::{Accepted, Arrivals, Destiny, Ledger, content};
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{ports, scenario, wait};
use tokio::task::JoinSet;

const SESSIONS: usize = 8;
/// Messages to another destination.
const OTHERS: usize = 100;
/// From the return of the destination to the last message.
const RECOVERY: Duration = Duration::from_secs(60);

/// Jobs wait for minutes on their own, the destination is looked at every 5 s: only its recovery
/// can make all of them flow.
fn config(down: SocketAddr, alive: &Sink, data_dir: &Path) -> String {
    let routes =
        format!("routes:\n  - {{domain: down.test, host: 127.0.0.1, port: {}}}", down.port());
    scenario::config(alive, data_dir)
        .replace("intervalsSeconds: [1], repeatSeconds: 1", "intervalsSeconds: [300]")
        .replace("routes:", &format!("probeIntervalSecondsMax: 5\n  {routes}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_destination_gets_all_that_waited() -> Result<()> {
    let count = if scenario::is_long() { 10_000 } else { 2_000 };
    let dir = tempfile::tempdir()?;
    let alive = Sink::start().await?;
    let down = ports::free_address()?;
    let config = config(down, &alive, &dir.path().join("data"));
    let mut postrider = Postrider::new(&dir.path().join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let ledger = Arc::new(Mutex::new(Ledger::default()));

    let since = Instant::now();
    send(&postrider, &ledger, "down.test", count).await?;
    send(&postrider, &ledger, "alive.test", OTHERS).await?;
    wait::until("mail to another destination", Duration::from_secs(30), async || {
        (alive.count() >= OTHERS).then_some(())
    })
    .await?;
    wait::until("two probes in vain", Duration::from_secs(60), async || {
        let log = postrider.log().ok()?;
        let found_down = log.iter().filter(|line| line["event"] == "hop_down").count();
        (found_down > 2).then_some(())
    })
    .await?;
    let (down_for, attempts) = (since.elapsed(), attempts(&postrider)?);

    let back = Instant::now();
    let sink = Sink::bind(down, Arc::new(|_| None)).await?;
    let all = wait::until("all that waited", RECOVERY, async || {
        (sink.count() >= count).then(|| back.elapsed())
    });
    let took = all.await.with_context(|| format!("{} of {count} arrived", sink.count()))?;
    println!(
        "{count} messages waited {down_for:?} for a destination that was tried {attempts} times; \
         {OTHERS} others flowed; all arrived {took:?} after its return"
    );
    ensure!(attempts > 0, "it was never tried: nothing is shown");
    ensure!(attempts * 20 <= count, "{attempts} attempts for {count} messages");
    let mut received = sink.received();
    received.extend(alive.received());
    let arrivals = Arrivals { sink: &received, ..Arrivals::default() };
    let balance = ledger.lock().expect("no client panics holding it").balance(&arrivals);
    ensure!(balance.is_clean(), "{balance}");
    Ok(())
}

/// Sends so many messages over a few sessions; each must be accepted.
async fn send(
    postrider: &Postrider,
    ledger: &Arc<Mutex<Ledger>>,
    domain: &'static str,
    count: usize,
) -> Result<()> {
    let submission = postrider.address("submission");
    let mut sessions = JoinSet::new();
    for session in 0..SESSIONS {
        let ledger = Arc::clone(ledger);
        let share = (session..count).step_by(SESSIONS);
        sessions.spawn(async move {
            let mut client = Client::submission(submission, SENDER, PASSWORD).await?;
            for n in share {
                send_one(&mut client, &ledger, domain, n).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = sessions.join_next().await {
        ended??;
    }
    Ok(())
}

async fn send_one(
    client: &mut Client,
    ledger: &Mutex<Ledger>,
    domain: &str,
    n: usize,
) -> Result<()> {
    let token = format!("{domain}-{n}");
    let body = format!("{token} {}", "x".repeat(900));
    let message = content(&token, SENDER, &body);
    let reply = client.transaction(SENDER, &[&format!("user-{n}@{domain}")], &message).await?;
    ensure!(reply.code == 250, "message {n} was answered {}", reply.text);
    let queue_id = reply.text.split_whitespace().last().context("no queue id")?.to_owned();
    let accepted = Accepted { destiny: Destiny::Relayed, queue_id, body };
    ledger.lock().expect("no client panics holding it").accept(token, accepted);
    Ok(())
}

/// Attempts at the destination that was down: each makes one connection.
fn attempts(postrider: &Postrider) -> Result<usize> {
    let log = postrider.log()?;
    let is_attempt = |line: &&serde_json::Value| {
        line["event"] == "deferred" && line["next_hop"] == "down.test" && line["attempt"] != 0
    };
    Ok(log.iter().filter(is_attempt).count())
}
