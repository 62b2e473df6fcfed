//! The port of operators, of a process under test.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::scenario;
use crate::sink::Sink;

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(30);

/// A configuration with the port, and the file of its token in `dir`. Deferred mail waits for five
/// minutes.
pub fn config(dir: &Path, sink: &Sink) -> Result<String> {
    let token_file = dir.join("admin.token");
    fs::write(&token_file, TOKEN)?;
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600))?;
    let admin =
        format!("admin: {{listen: \"127.0.0.1:0\", tokenFile: \"{}\"}}\n", token_file.display());
    let config = scenario::config(sink, &dir.join("data"));
    Ok(config.replace("intervalsSeconds: [1]", "intervalsSeconds: [300]") + &admin)
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
