//! Whether a process would find servers and streams as it needs them. Changes nothing.

use queue::HopKind;

use crate::broker::Broker;
use crate::config::Config;
use crate::jet_queue::{OpenError, connect};
use crate::metrics::Metrics;
use crate::permissions;
use crate::server::{self, Silent};
use crate::streams;

/// Servers that could be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// Of the server that answered.
    pub version: String,
    /// Monitoring endpoints that did not answer, fewer than half.
    pub silent: Vec<Silent>,
    /// Streams that are not there: a worker makes them when it starts.
    pub missing: Vec<String>,
}

/// Looks as [`crate::JetQueue::open`] would for a process that serves next hops of `kinds`.
///
/// # Errors
/// It would not open.
pub async fn inspect(config: Config, kinds: &[HopKind]) -> Result<Inspected, OpenError> {
    config.validate().map_err(OpenError::Config)?;
    let client = connect(&config, &permissions::inbox(kinds)).await?;
    let version = client.server_info().version;
    let broker = Broker::new(client, &config, Metrics::default());
    let silent = server::verify(&broker, &config).await?;
    let missing = streams::missing(&broker, &config).await?;
    Ok(Inspected { version, silent, missing })
}
