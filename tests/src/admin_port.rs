//! The port of operators, of a process under test.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::home::{Home, Kind};
use crate::ledger::content;
use crate::load::SENDER;
use crate::process::PASSWORD;
use crate::sink::Sink;
use crate::{scenario, wait};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(30);
/// What a next hop says to be shown as it is.
const HOSTILE: &str = "451 4.7.1 <script>alert(1)</script>";

/// Processes with the port, and the file of its token in `dir`. Deferred mail waits for five
/// minutes.
pub async fn home(kind: Kind, dir: &Path, sink: &Sink) -> Result<Home> {
    let token_file = dir.join("admin.token");
    fs::write(&token_file, TOKEN)?;
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
    let admin =
        format!("admin: {{listen: \"127.0.0.1:0\", tokenFile: \"{}\"}}\n", token_file.display());
    let config = |data: &Path| {
        let config = scenario::config(sink, data);
        config.replace("intervalsSeconds: [1]", "intervalsSeconds: [300]") + &admin
    };
    Home::start(kind, dir, config, ("local.test", &["alice"])).await
}

/// The status and the whole answer to `METHOD /path|body`.
pub async fn ask(address: SocketAddr, request: &str, authorization: &str) -> Result<(u16, String)> {
    let (head, body) = request.split_once('|').unwrap_or((request, ""));
    let text = format!(
        "{head} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{authorization}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await??;
    let status = answer.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, answer))
}

/// The JSON of an answer that is not a stream.
pub fn json(answer: &str) -> Result<Value> {
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(serde_json::from_str(body)?)
}

/// The JSON that a path answers to whoever has the token.
pub async fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    json(&ask(address, &format!("GET {path}"), &bearer).await?.1)
}

/// Mail that waits is seen and dropped with the token, and nothing is without it.
pub async fn check(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sink = Sink::with_verdict(Arc::new(|_| Some(HOSTILE))).await?;
    let mut home = home(kind, dir.path(), &sink).await?;
    let submission = home.ingress().address("submission");
    let mut client = Client::submission(submission, SENDER, PASSWORD).await?;
    let message = content("token", SENDER, "text");
    let reply = client.transaction(SENDER, &["friend@remote.test"], &message).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let id = reply.text.split_whitespace().last().context("no queue id")?;

    let port = home.worker().address("admin");
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

    home.stop(LIMIT).await?;
    for process in [home.ingress(), home.worker(), home.mda()] {
        let log = fs::read_to_string(process.dir().join("postrider.log"))?;
        ensure!(!log.contains(TOKEN), "the token is in the log");
    }
    Ok(())
}
