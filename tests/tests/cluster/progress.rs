//! Who acts on a long queue sees how far it is: a line now and then in a file, a number that
//! changes on a terminal, the count at the end. In one process, and in roles.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider, binary};
use tests::{memory, ports, scenario, wait};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(120);
/// Each of as many jobs as a message may have recipients.
const MESSAGES: usize = 6;
const JOBS: usize = 6_000;
const PEAK_MAX: u64 = 800 << 20;

async fn fill(postrider: &Postrider) -> Result<()> {
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    for message in 0..MESSAGES {
        let recipients: Vec<String> =
            (0..JOBS / MESSAGES).map(|n| format!("u@m{message}-{n}.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        let text = content(&format!("many-{message}"), SENDER, "text");
        let reply = client.transaction(SENDER, &recipients, &text).await?;
        ensure!(reply.code == 250, "{}", reply.text);
    }
    Ok(())
}

/// Runs `postrider queue ARGS…` with nobody at a terminal; gives stdout and stderr.
async fn piped(postrider: &Postrider, arguments: &[&str]) -> Result<(String, String)> {
    let mut command = Command::new(binary()?);
    command.arg("queue").args(arguments).arg("--config").arg(postrider.dir());
    let output = command.output().await?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout[..]), text(&output.stderr[..]));
    ensure!(output.status.success(), "{stdout}{stderr}");
    Ok((stdout, stderr))
}

/// Jobs that were acted on, of the line at the end.
fn acted_on(end: &str) -> Result<usize> {
    let is_other = |c: char| !c.is_ascii_digit();
    let number = |text: &str| text.rsplit(is_other).next()?.parse::<usize>().ok();
    let (done, rest) = end.split_once(" done, ").with_context(|| format!("no count: {end}"))?;
    let requested = rest.split_once(" will be").and_then(|(text, _)| number(text));
    number(done).zip(requested).map(|(a, b)| a + b).with_context(|| format!("no numbers: {end}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_action_of_one_process_shows_how_far_it_is() -> Result<()> {
    a_long_action_shows_how_far_it_is(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_action_of_roles_shows_how_far_it_is() -> Result<()> {
    a_long_action_shows_how_far_it_is(Kind::Roles).await
}

async fn a_long_action_shows_how_far_it_is(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Nobody listens there: all of it waits.
    let port = ports::free_address()?.port();
    let config = |data: &Path| {
        scenario::config_for_port(port, data).replace(": [1], repeatSeconds: 1", ": [3600]")
    };
    let domain = ("local.test", &["alice"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    fill(home.ingress()).await?;
    let postrider = home.worker();
    wait::until("every job to be known", LIMIT, async || {
        let stats = postrider.cli(&["queue", "stats", "--output", "json"]).await.ok()?;
        let stats: serde_json::Value = serde_json::from_str(&stats).ok()?;
        let counts = ["ready", "active", "deferred"].map(|phase| stats[phase].as_u64());
        (counts.into_iter().flatten().sum::<u64>() == JOBS as u64).then_some(())
    })
    .await?;

    let (end, shown) = piped(postrider, &["hold", "--sender", "@local.test"]).await?;
    ensure!(acted_on(&end)? == JOBS, "{end}");
    let lines: Vec<&str> = shown.lines().collect();
    ensure!(lines.iter().any(|line| line.starts_with("5000 jobs in ")), "{shown}");
    ensure!(lines.len() <= 1 + LIMIT.as_secs() as usize / 30, "few lines: {shown}");
    ensure!(!shown.contains('\r'), "{shown:?}");
    // What was leased meanwhile is held once its attempt is over.
    wait::until("every job to be held", LIMIT, async || {
        let stats = postrider.cli(&["queue", "stats", "--output", "json"]).await.ok()?;
        stats.contains(&format!("\"held\":{JOBS}")).then_some(())
    })
    .await?;

    // `script` gives the command a terminal.
    let command = format!(
        "{} queue cancel --silently --phase held --config {}",
        binary()?.display(),
        postrider.dir().display()
    );
    let script = Command::new("script").args(["-qec", &command, "/dev/null"]).output().await?;
    let shown = String::from_utf8_lossy(&script.stdout);
    ensure!(script.status.success(), "{shown}");
    let drawn: Vec<usize> =
        shown.split('\r').filter_map(|part| part.split_once(" jobs in ")?.0.parse().ok()).collect();
    ensure!(drawn.len() > 1 && drawn.is_sorted() && drawn[0] < JOBS, "{shown:?}");
    ensure!(acted_on(shown.rsplit('\r').nth(1).context("no end")?)? == JOBS, "{shown:?}");
    let left = postrider.cli(&["queue", "list"]).await?;
    ensure!(left.is_empty(), "{left}");
    // For a message of a thousand jobs, what one of them costs is little.
    let peak = memory::peak(postrider.pid())?;
    ensure!(peak < PEAK_MAX, "{} MiB", memory::mib(peak));
    home.stop(LIMIT).await
}
