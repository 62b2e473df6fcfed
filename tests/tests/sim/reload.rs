//! A configuration that changes while mail flows: taken up as a whole, or not at all.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::exposition::Exposition;
use tests::ledger::content;
use tests::load::{Books, Load, SENDER};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);

/// `postrider.yaml` as it changes.
struct File {
    text: String,
    path: std::path::PathBuf,
}

impl File {
    fn set(&mut self, from: &str, to: &str) -> Result<()> {
        ensure!(self.text.contains(from), "{from:?} is not in {}", self.text);
        self.text = self.text.replacen(from, to, 1);
        // As editors and Kubernetes do it: another file under the name.
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, &self.text)?;
        Ok(fs::rename(fresh, &self.path)?)
    }
}

/// What a client is told that a message may have.
async fn size(client: &mut Client) -> Result<u64> {
    let reply = client.command("EHLO client.test", 250).await?;
    let line = reply.text.lines().find_map(|line| line[4..].strip_prefix("SIZE "));
    Ok(line.context("no SIZE")?.parse()?)
}

async fn size_of_new(postrider: &Postrider) -> Result<u64> {
    size(&mut Client::connect(postrider.address("relay")).await?).await
}

async fn wait_for_size(postrider: &Postrider, bytes: u64) -> Result<()> {
    wait::until("another limit", LIMIT, async || {
        (size_of_new(postrider).await.ok()? == bytes).then_some(())
    })
    .await
}

/// The errors of the changes that were refused, in order.
fn refusals(postrider: &Postrider) -> Result<Vec<String>> {
    let refused = |line: &serde_json::Value| line["event"] == "config_refused";
    let lines = postrider.log()?.into_iter().filter(refused);
    Ok(lines.map(|line| line["error"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn wait_for_refusal(postrider: &Postrider, count: usize) -> Result<String> {
    let what = format!("refusal {count}");
    wait::until(&what, LIMIT, async || refusals(postrider).ok()?.into_iter().nth(count - 1)).await
}

async fn is_successful(postrider: &Postrider) -> Result<bool> {
    let metrics = Exposition::of(postrider).await?;
    Ok(metrics.sum("postrider_config_last_reload_successful", "") == 1.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_taken_up_as_a_whole_or_not_at_all() -> Result<()> {
    let seed = scenario::seed();
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    let sink = Sink::with_verdict(scenario::verdict()).await?;
    let (here, there) = (Sink::start().await?, Sink::start().await?);
    let route = |sink: &Sink| {
        format!("- {{domain: moving.test, host: \"127.0.0.1\", port: {}}}", sink.address().port())
    };
    let text = scenario::config(&sink, &data_dir)
        .replace("delivery:\n", "  limits: {messageSizeBytes: 20000000}\ndelivery:\n")
        .replace("routes:\n", &format!("routes:\n  {}\n", route(&here)));
    let mut postrider = Postrider::new(dir.path(), &text)?;
    let mut file = File { text, path: dir.path().join("postrider.yaml") };
    postrider.write_domain("local.test", &["alice", "bob"])?;
    postrider.start().await?;
    let books = Arc::new(Books::default());
    let load = Load::start(&books, postrider.address("submission"), 4, seed);
    wait::until("mail to flow", LIMIT, async || (books.accepted() > 20).then_some(())).await?;
    let mut open = Client::connect(postrider.address("relay")).await?;
    ensure!(size(&mut open).await? == 20_000_000, "the first limit");

    // A limit, for connections from then on.
    file.set("20000000", "30000000")?;
    wait_for_size(&postrider, 30_000_000).await?;
    ensure!(size(&mut open).await? == 20_000_000, "an open connection ends as it began");

    // A route and a limit, at the word of an operator; the route for the next attempts.
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let mut send = async |token: &str| {
        let message = content(token, SENDER, "text");
        let reply = client.transaction(SENDER, &["x@moving.test"], &message).await?;
        ensure!(reply.code == 250, "{}", reply.text);
        anyhow::Ok(())
    };
    send("before").await?;
    wait::until("the old route", LIMIT, async || (here.count() == 1).then_some(())).await?;
    file.set(&route(&here), &route(&there))?;
    file.set("30000000", "31000000")?;
    let told = postrider.cli(&["reload"]).await?;
    ensure!(told == "changed: delivery.routes, ingress.limits.messageSizeBytes\n", "{told}");
    ensure!(size_of_new(&postrider).await? == 31_000_000, "at once");
    send("after").await?;
    wait::until("the new route", LIMIT, async || (there.count() == 1).then_some(())).await?;
    ensure!(here.count() == 1, "the old route was taken again");
    ensure!(is_successful(&postrider).await?, "the last reload was fine");

    // Not a number: file, line, column and field are named, and nothing changes.
    file.set("31000000", "many")?;
    let refused = wait_for_refusal(&postrider, 1).await?;
    let line = 1 + file.text.lines().position(|line| line.contains("many")).context("a line")?;
    let place = format!("postrider.yaml:{line}:");
    ensure!(refused.contains(&place), "{refused}");
    ensure!(refused.contains(": ingress.limits.messageSizeBytes: "), "{refused}");
    ensure!(refused.contains("docs/configuration.md"), "{refused}");
    ensure!(size_of_new(&postrider).await? == 31_000_000, "the last good one stays");
    ensure!(!is_successful(&postrider).await?, "the last reload failed");

    // A value that cannot work.
    file.set("many", "1000")?;
    let refused = wait_for_refusal(&postrider, 2).await?;
    let wants = "ingress.limits.messageSizeBytes: is below 65536";
    ensure!(refused.contains(&place) && refused.contains(wants), "{refused}");

    // What needs a restart takes what stands beside it with it.
    file.set("1000", "32000000")?;
    file.set("\"127.0.0.1:0\"", "\"127.0.0.2:0\"")?;
    let refused = wait_for_refusal(&postrider, 3).await?;
    ensure!(refused.contains("ingress.listeners needs a restart"), "{refused}");
    ensure!(refused.contains("postrider.yaml:4:3: "), "{refused}");
    let asked = postrider.cli(&["reload"]).await.err().context("it was taken up")?.to_string();
    ensure!(asked.contains("ingress.listeners needs a restart"), "{asked}");
    ensure!(size_of_new(&postrider).await? == 31_000_000, "nothing of it");

    // Taken back, and hung up instead of waited for.
    file.set("\"127.0.0.2:0\"", "\"127.0.0.1:0\"")?;
    postrider.hang_up().await?;
    wait_for_size(&postrider, 32_000_000).await?;
    ensure!(is_successful(&postrider).await?, "the last reload was fine");

    load.stop().await;
    let limit = Duration::from_secs(120);
    let balance = scenario::settle(&[&postrider], &data_dir, &sink, &books, &[], limit).await?;
    println!("{balance}");
    ensure!(balance.is_clean(), "seed {seed}: {balance}");
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it stops in order");
    Ok(())
}

/// The servers of gateway domains are asked by the configuration in force, as mail is sent by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_to_the_servers_of_domains_are_put_by_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::start().await?;
    let text = scenario::config(&sink, &dir.path().join("data"))
        .replace("delivery:\n", "delivery:\n  addressesPerAttemptMax: 2\n");
    let mut postrider = Postrider::new(dir.path(), &text)?;
    let mut file = File { text, path: dir.path().join("postrider.yaml") };
    let domain = format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: branch}}\n\
         spec:\n  domain: branch.test\n  target: relay\n  relay:\n    \
         hosts: [\"127.0.0.1:9\", \"{}\"]\n    recipients: {{callAhead: true}}\n    \
         tls: {{mode: opportunistic}}\n",
        sink.address()
    );
    fs::write(dir.path().join("domains/branch.yaml"), domain)?;
    postrider.start().await?;
    let relay = postrider.address("relay");
    ensure!(Client::rcpt(relay, "a@branch.test").await? == 250, "the second host takes him");
    file.set("addressesPerAttemptMax: 2", "addressesPerAttemptMax: 1")?;
    let told = postrider.cli(&["reload"]).await?;
    ensure!(told == "changed: delivery.addressesPerAttemptMax\n", "{told}");
    ensure!(Client::rcpt(relay, "b@branch.test").await? == 450, "nobody listens at the first");
    ensure!(postrider.stop(LIMIT).await? == Some(0), "it stops in order");
    Ok(())
}
