//! Whether the servers keep what they acknowledge.
//!
//! A server that is too old, or that syncs later than it acknowledges, loses mail in a power cut.
//! The version it says itself; how it syncs, only its monitoring endpoint tells.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use queue::contract::Cause;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::broker::Broker;
use crate::config::Config;

/// Before it, `sync_interval: always` syncs once for each message.
const VERSION_MIN: (u64, u64, u64) = (2, 15, 1);
const ANSWER: Duration = Duration::from_secs(5);
const ANSWER_BYTES: usize = 1 << 20;

/// Why mail must not be accepted.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("nats-server {0} is too old: upgrade it to 2.15.1 or later")]
    Old(String),
    #[error(
        "the server at {0} acknowledges before it syncs, so a power cut loses mail: set \
         `sync_interval: always` in its `jetstream` block, or allowUnverifiedSync here"
    )]
    Lazy(String),
    #[error(
        "nobody can tell whether the servers sync before they acknowledge: name the monitoring \
         endpoint of each in monitorUrls, or set allowUnverifiedSync"
    )]
    Unverified,
    #[error(
        "monitorUrls names the endpoints of {named} servers, but the cluster has {size}: name \
         the endpoint of each, or set allowUnverifiedSync"
    )]
    Unnamed { named: usize, size: usize },
    #[error("the monitoring endpoint {url} does not answer")]
    Silent {
        url: String,
        #[source]
        source: Cause,
    },
}

#[derive(Deserialize)]
struct JetStreamPage {
    server_id: String,
    /// JetStream is off; while the server starts or stops, too.
    #[serde(default)]
    disabled: bool,
    config: JetStreamConfig,
    /// Unless the server is alone.
    meta_cluster: Option<MetaCluster>,
}

#[derive(Deserialize)]
struct MetaCluster {
    cluster_size: usize,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
}

#[derive(Deserialize)]
struct VersionPage {
    version: String,
}

/// A monitoring endpoint that does not tell what is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silent {
    pub url: String,
    pub why: String,
}

/// Asks the server that we are connected to, and every monitoring endpoint. Returns those that do
/// not answer, which are fewer than half: what is acknowledged is on one of the others too.
pub(crate) async fn verify(broker: &Broker, config: &Config) -> Result<Vec<Silent>, ServerError> {
    check_version(&broker.client.server_info().version)?;
    if config.allow_unverified_sync {
        return Ok(Vec::new());
    }
    if config.monitor_urls.is_empty() {
        return Err(ServerError::Unverified);
    }
    let (mut servers, mut silent, mut size) = (HashSet::new(), Vec::new(), 1);
    let asked = join_all(config.monitor_urls.iter().map(|url| ask(url))).await;
    for (url, answer) in config.monitor_urls.iter().zip(asked) {
        match answer? {
            Ok(page) => {
                servers.insert(page.server_id);
                size = size.max(page.meta_cluster.map_or(1, |cluster| cluster.cluster_size));
            }
            Err(source) => silent.push((url, source)),
        }
    }
    let named = servers.len() + silent.len();
    if named < size {
        return Err(ServerError::Unnamed { named, size });
    }
    if let Some((url, source)) = silent.pop_if(|_| servers.len() * 2 <= size) {
        return Err(ServerError::Silent { url: url.clone(), source });
    }
    let told =
        silent.into_iter().map(|(url, why)| Silent { url: url.clone(), why: why.to_string() });
    Ok(told.collect())
}

/// What a server says of itself, if it does.
async fn ask(url: &str) -> Result<Result<JetStreamPage, Cause>, ServerError> {
    match get::<VersionPage>(url, "/varz").await {
        Ok(page) => check_version(&page.version)?,
        Err(silent) => return Ok(Err(silent)),
    }
    match get::<JetStreamPage>(url, "/jsz?config=1").await {
        Ok(page) => judge(url, page),
        Err(silent) => Ok(Err(silent)),
    }
}

/// Without JetStream a server keeps nothing, and does not tell how it would.
fn judge(url: &str, page: JetStreamPage) -> Result<Result<JetStreamPage, Cause>, ServerError> {
    if page.disabled {
        return Ok(Err("JetStream is off there, or not on yet".into()));
    }
    if !page.config.sync_always {
        return Err(ServerError::Lazy(url.to_owned()));
    }
    Ok(Ok(page))
}

fn check_version(version: &str) -> Result<(), ServerError> {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < VERSION_MIN {
        return Err(ServerError::Old(version.to_owned()));
    }
    Ok(())
}

async fn get<P: for<'de> Deserialize<'de>>(url: &str, page: &str) -> Result<P, Cause> {
    let body = tokio::time::timeout(ANSWER, exchange(url, page)).await??;
    Ok(serde_json::from_slice(&body)?)
}

async fn exchange(url: &str, page: &str) -> Result<Bytes, Cause> {
    let address = url.strip_prefix("http://").ok_or("not an http:// address")?;
    let address = address.trim_end_matches('/');
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(page).header("host", address).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await?;
        Ok::<Bytes, Cause>(body.to_bytes())
    };
    tokio::pin!(answer);
    // The connection does its work while the answer is waited for.
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nats-server 2.15.2 writes them.
    #[test]
    fn a_server_that_starts_is_not_lazy() {
        let judged = |page: &str| judge("http://n0", serde_json::from_str(page).unwrap());
        let starting = r#"{"server_id":"A","disabled":true,"config":{"max_memory":0}}"#;
        assert!(matches!(judged(starting), Ok(Err(_))));
        let always = r#"{"server_id":"A","config":{"sync_interval":1,"sync_always":true}}"#;
        assert!(matches!(judged(always), Ok(Ok(_))));
        let lazy = r#"{"server_id":"A","config":{"sync_interval":1}}"#;
        assert!(matches!(judged(lazy), Err(ServerError::Lazy(_))));
    }

    #[test]
    fn versions() {
        for (version, is_new) in [
            ("2.15.1", true),
            ("2.15.2", true),
            ("2.16.0-dev", true),
            ("3.0.0", true),
            ("2.15.0", false),
            ("2.12.8", false),
            ("", false),
        ] {
            assert_eq!(check_version(version).is_ok(), is_new, "{version}");
        }
    }
}
