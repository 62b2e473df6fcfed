//! Nothing is lost: `kill -9` under load at random moments.
//!
//! 10 rounds, 200 with `POSTRIDER_LONG=1`. The seed is printed; `POSTRIDER_SEED` repeats it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::ledger::Arrivals;
use tests::load::{Books, Load};
use tests::process::Postrider;
use tests::sink::{Sink, Verdict};
use tests::{maildir, wait};

fn config(sink: &Sink) -> String {
    format!(
        "hostname: mx.local.test\n\
         dataDir: data\n\
         ingress:\n  listeners:\n  - {{kind: relay, address: \"127.0.0.1:0\"}}\n  \
         - {{kind: submission, address: \"127.0.0.1:0\"}}\n\
         delivery:\n  allowPrivateAddresses: true\n  \
         retry: {{scheduleSeconds: [1]}}\n  \
         routes:\n  - {{domain: \"*\", host: \"127.0.0.1\", port: {}}}\n\
         http:\n  address: \"127.0.0.1:0\"\n",
        sink.address().port()
    )
}

/// Refuses `refuse-*` for good, and `defer-*` the first time.
fn verdict() -> Verdict {
    let seen: Mutex<HashSet<String>> = Mutex::default();
    Arc::new(move |recipient| {
        if recipient.starts_with("refuse-") {
            return Some("550 5.1.1 no such user");
        }
        let first = recipient.starts_with("defer-")
            && seen.lock().expect("no panic holding it").insert(recipient.to_owned());
        first.then_some("451 4.7.1 come back later")
    })
}

fn long() -> bool {
    std::env::var_os("POSTRIDER_LONG").is_some()
}

fn seed() -> u64 {
    let given = std::env::var("POSTRIDER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(rand::random)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_by_kill_9() -> Result<()> {
    let (seed, rounds) = (seed(), if long() { 200 } else { 10 });
    println!("seed {seed}, {rounds} rounds");
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(verdict()).await?;
    let mut postrider = Postrider::new(dir.path(), &config(&sink))?;
    postrider.write_domain("local.test", &["alice", "bob"])?;
    let books = Arc::new(Books::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    for round in 0..rounds {
        postrider.start().await?;
        let load = Load::start(&books, postrider.address("submission"), 8, rng.random());
        let accepted = || books.ledger.lock().expect("no panic holding it").len();
        let target = accepted() + rng.random_range(20..200);
        let in_flight = wait::until("a kill with mail in flight", Duration::from_secs(60), async || {
            let in_flight = books.in_flight.load(Ordering::SeqCst);
            (accepted() >= target && in_flight > 0).then_some(in_flight)
        })
        .await?;
        let at_sink = sink.count();
        kills.push(Instant::now());
        postrider.kill().await?;
        load.stop().await;
        println!(
            "round {round}: killed with {in_flight} accepts in flight, {} accepted, {at_sink} relayed",
            accepted()
        );
    }
    postrider.start().await?;
    let balance = settle(&postrider, &sink, &books, &kills).await;
    let code = postrider.stop(Duration::from_secs(60)).await?;
    println!("{balance:?}");
    ensure!(balance?.is_clean(), "mail was lost, doubled or damaged: seed {seed}");
    ensure!(code == Some(0), "exit code {code:?} after SIGTERM");
    Ok(())
}

/// Waits until the books balance, or gives the last balance when they do not.
async fn settle(
    postrider: &Postrider,
    sink: &Sink,
    books: &Books,
    kills: &[Instant],
) -> Result<tests::ledger::Balance> {
    let mut last = None;
    let clean = wait::until("every accepted message", Duration::from_secs(120), async || {
        let mailboxes: Vec<Vec<u8>> = maildir::messages(&postrider.dir().join("data/mail"))
            .ok()?
            .iter()
            .filter_map(|path| std::fs::read(path).ok())
            .collect();
        let (received, log) = (sink.received(), postrider.log().ok()?);
        let arrivals =
            Arrivals { sink: &received, mailboxes: &mailboxes, log: &log, kills };
        let balance = books.ledger.lock().expect("no panic holding it").balance(&arrivals);
        last = Some(balance.clone());
        balance.is_clean().then_some(balance)
    })
    .await;
    clean.or_else(|error| last.ok_or(error))
}
