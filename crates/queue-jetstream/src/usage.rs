//! What each tenant has in the queue, told by the owners of partitions to all who accept mail, and
//! what the body streams have.
//!
//! Not durable, and about a second old: a quota bounds a flood, it is no account.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use mail_types::TenantId;
use queue::contract::Cause;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};

use crate::crowd::Crowd;
use crate::names::body_stream;
use crate::shared::Shared;
use crate::streams::{self, BODY_STREAMS};

const SUBJECT: &str = "postrider.usage";
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the body streams are looked at while nobody here asks how full they are.
const BODY_INTERVAL: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(300);
/// What a process told counts so long: then it is gone, and others tell of what it had.
const LASTS: Duration = Duration::from_secs(30);

/// Messages and octets.
pub(crate) type Tenants = HashMap<TenantId, (u64, u64)>;

/// What one process has in its partitions.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Told {
    Tenants { process: String, tenants: Tenants },
    Crowds { process: String, crowds: Vec<Crowd> },
}

/// What other processes told last.
#[derive(Debug, Default)]
pub(crate) struct Others {
    told: HashMap<String, (Instant, Tenants)>,
}

impl Others {
    /// Messages and octets of a tenant in the partitions of others.
    pub(crate) fn of(&self, tenant: &TenantId) -> (u64, u64) {
        let fresh = self.told.values().filter(|(at, _)| at.elapsed() < LASTS);
        let usages = fresh.filter_map(|(_, tenants)| tenants.get(tenant));
        usages.fold((0, 0), |(messages, bytes), (m, b)| (messages + m, bytes + b))
    }

    fn hear(&mut self, process: String, tenants: Tenants) {
        self.told.retain(|_, (at, _)| at.elapsed() < LASTS);
        self.told.insert(process, (Instant::now(), tenants));
    }
}

/// Tells and listens until the queue is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    let work = async {
        loop {
            if let Err(error) = exchange(&shared).await {
                tracing::debug!(%error, "what tenants have is not told");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    shared.closed.run_until_cancelled(work).await;
}

async fn exchange(shared: &Shared) -> Result<(), Cause> {
    let mut heard = shared.broker.client.subscribe(SUBJECT).await?;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = None;
    loop {
        // Cancel-safe: what was not taken is still there.
        tokio::select! {
            message = heard.next() => {
                let message = message.ok_or("nothing is heard any more")?;
                hear(shared, serde_json::from_slice(&message.payload)?);
            }
            _ = ticks.tick() => {
                look_at_bodies(shared, &mut looked).await?;
                tell(shared).await?;
            }
        }
    }
}

fn hear(shared: &Shared, told: Told) {
    match told {
        Told::Tenants { process, tenants } if process != shared.writer => {
            shared.index().others.hear(process, tenants);
        }
        Told::Crowds { process, crowds } if process != shared.writer => {
            shared.crowds.hear(process, crowds);
        }
        // Our own is known.
        Told::Tenants { .. } | Told::Crowds { .. } => {}
    }
}

/// Says something to all processes.
pub(crate) async fn say(shared: &Shared, told: &Told) -> Result<(), Cause> {
    Ok(shared.broker.client.publish(SUBJECT, serde_json::to_vec(told)?.into()).await?)
}

/// Who accepts mail must soon see the body streams fill, by whomever; others need not. `looked` is
/// when that was done last.
async fn look_at_bodies(shared: &Shared, looked: &mut Option<Instant>) -> Result<(), Cause> {
    let is_asked = shared.body_bytes_asked.swap(false, Ordering::AcqRel);
    if !is_asked && looked.is_some_and(|at| at.elapsed() < BODY_INTERVAL) {
        return Ok(());
    }
    *looked = Some(Instant::now());
    let mut body_bytes = 0;
    for stream in (0..BODY_STREAMS).map(body_stream) {
        body_bytes += streams::state(shared, &stream).await?.bytes;
    }
    shared.body_bytes.store(body_bytes, Ordering::Release);
    Ok(())
}

async fn tell(shared: &Shared) -> Result<(), Cause> {
    shared.index().arriving.expire();
    if shared.tenures().is_empty() {
        return Ok(());
    }
    let tenants = {
        let index = shared.index();
        let usages = index.schedule.usages().filter(|(_, usage)| usage.messages > 0);
        usages.map(|(tenant, usage)| (tenant.clone(), (usage.messages, usage.bytes))).collect()
    };
    say(shared, &Told::Tenants { process: shared.writer.clone(), tenants }).await
}
