//! The port of operators, of a real process: mail that waits is seen with the token, and nothing is
//! without it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::admin_port::{self, TOKEN, ask, json};
use tests::client::Client;
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::wait;

const HOSTILE: &str = "451 4.7.1 <script>alert(1)</script>";
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_mail_is_seen_and_dropped_with_the_token_only() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(Arc::new(|_| Some(HOSTILE))).await?;
    let mut postrider =
        Postrider::new(&dir.path().join("etc"), &admin_port::config(dir.path(), &sink)?)?;
    postrider.write_domain("local.test", &["alice"])?;
    postrider.start().await?;
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let message = content("token", SENDER, "text");
    let reply = client.transaction(SENDER, &["friend@remote.test"], &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let id = reply.text.split_whitespace().last().context("no queue id")?;

    let port = postrider.address("admin");
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let show = format!("GET /v1/messages/{id}");
    let deferred = wait::until("the message to be deferred", LIMIT, async || {
        let (_, answer) = ask(port, &show, &bearer).await.ok()?;
        json(&answer).ok().filter(|jobs| jobs[0]["phase"] == "deferred")
    });
    let jobs = deferred.await?;
    let attempt = &jobs[0]["history"][0]["reply"];
    ensure!(attempt["text"] == "<script>alert(1)</script>", "{jobs:#}");
    let (status, list) = ask(port, "GET /v1/jobs?phase=deferred", &bearer).await?;
    ensure!(status == 200 && list.contains(id), "{list}");
    let (_, top) = ask(port, "GET /v1/top?by=nextHop", &bearer).await?;
    ensure!(json(&top)?["rows"][0]["name"] == "smtp:remote.test", "{top}");
    let (status, page) = ask(port, "GET /", "").await?;
    ensure!(status == 200 && page.contains("content-security-policy"), "{page}");

    let drop = format!(
        "POST /v1/actions|{{\"action\": \"cancelSilently\", \"filter\": {{\"message\": \"{id}\"}}}}"
    );
    for request in [&*show, "GET /v1/jobs", "GET /v1/stats", &drop] {
        for wrong in ["", "authorization: Bearer ffffffffffffffffffffffffffffffff\r\n"] {
            let (status, answer) = ask(port, request, wrong).await?;
            ensure!(status == 401 && !answer.contains("remote.test"), "{request}: {answer}");
        }
    }
    let (status, acted) = ask(port, &drop, &bearer).await?;
    ensure!(status == 200 && acted.contains("\"done\""), "{acted}");
    let (_, gone) = ask(port, &show, &bearer).await?;
    ensure!(json(&gone)?.as_array().is_some_and(Vec::is_empty), "{gone}");

    ensure!(postrider.stop(LIMIT).await? == Some(0), "it did not stop in order");
    let log = fs::read_to_string(postrider.dir().join("postrider.log"))?;
    ensure!(!log.contains(TOKEN), "the token is in the log");
    Ok(())
}
