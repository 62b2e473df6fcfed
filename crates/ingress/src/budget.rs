//! A bound on the octets of content that are in memory: over all sessions, and of each client, so
//! that one who sends much and ends nothing leaves room for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::clients::ClientKey;
use crate::config::MESSAGE_MEMORY_BYTES;

/// The unit of the budget.
const PERMIT_BYTES: usize = 1024;
/// What is taken at a time as a message grows.
const STEP_BYTES: usize = 64 * 1024;
/// What a message holds before any of it has come: as many silent ones as there may be connections
/// fit into the smallest sensible budget.
const FIRST_BYTES: usize = 4 * 1024;

/// Shared by all sessions.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    client_permits: usize,
    clients: Arc<Mutex<HashMap<ClientKey, Arc<Semaphore>>>>,
    wait: Duration,
    /// Octets held by all shares.
    held: Gauge,
}

/// What a message holds of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    client: ClientKey,
    of_client: OwnedSemaphorePermit,
    of_all: OwnedSemaphorePermit,
    bytes: usize,
}

/// Nothing became free in time: `452 4.3.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for content became free in time")]
pub(crate) struct Exhausted;

impl Budget {
    /// Of `bytes` in all a client gets up to `client_bytes`.
    pub(crate) fn new(bytes: usize, client_bytes: usize, wait: Duration, held: Gauge) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(bytes / PERMIT_BYTES)),
            client_permits: client_bytes / PERMIT_BYTES,
            clients: Arc::default(),
            wait,
            held,
        }
    }

    /// A share for a message of which nothing has come yet: what it declares to have is no reason
    /// to hold others back.
    pub(crate) async fn enter(&self, client: ClientKey) -> Result<Share, Exhausted> {
        let its = self.of(client);
        let taken = self.take(&its, FIRST_BYTES).await;
        let (of_client, of_all) = taken.inspect_err(|_| self.left(client, &its))?;
        self.held.inc_by(FIRST_BYTES as i64);
        Ok(Share { budget: self.clone(), client, of_client, of_all, bytes: FIRST_BYTES })
    }

    fn of(&self, client: ClientKey) -> Arc<Semaphore> {
        let fresh = || Arc::new(Semaphore::new(self.client_permits));
        Arc::clone(self.clients().entry(client).or_insert_with(fresh))
    }

    /// Forgets a client whose semaphore nobody has but the table and the one who says so.
    fn left(&self, client: ClientKey, its: &Arc<Semaphore>) {
        let mut clients = self.clients();
        if Arc::strong_count(its) == 2 {
            clients.remove(&client);
        }
    }

    /// A panic while counting leaves counts, not broken ones.
    fn clients(&self) -> MutexGuard<'_, HashMap<ClientKey, Arc<Semaphore>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's first: who waits for its own shares to come back holds nothing of others.
    async fn take(
        &self,
        client: &Arc<Semaphore>,
        bytes: usize,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Exhausted> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let take = async {
            let of_client = Arc::clone(client).acquire_many_owned(permits).await?;
            let of_all = Arc::clone(&self.permits).acquire_many_owned(permits).await?;
            Ok::<_, AcquireError>((of_client, of_all))
        };
        match tokio::time::timeout(self.wait, take).await {
            Ok(Ok(taken)) => Ok(taken),
            Ok(Err(_)) | Err(_) => Err(Exhausted),
        }
    }
}

impl Share {
    /// Makes room for a message of `octets` so far. Beyond what a store keeps of a draft in memory,
    /// more octets cost nothing more.
    pub(crate) async fn grow(&mut self, octets: u64) -> Result<(), Exhausted> {
        let octets = usize::try_from(octets).unwrap_or(usize::MAX).min(MESSAGE_MEMORY_BYTES);
        while self.bytes < octets {
            let step = STEP_BYTES.min(MESSAGE_MEMORY_BYTES - self.bytes);
            let client = Arc::clone(self.of_client.semaphore());
            let (of_client, of_all) = self.budget.take(&client, step).await?;
            self.of_client.merge(of_client);
            self.of_all.merge(of_all);
            self.bytes += step;
            self.budget.held.inc_by(step as i64);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.dec_by(self.bytes as i64);
        self.budget.left(self.client, self.of_client.semaphore());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_bounded_and_comes_back() {
        let budget = budget(2, 2);
        let mut first = budget.enter(client(1)).await.unwrap();
        first.grow(u64::MAX).await.unwrap();
        let mut second = budget.enter(client(1)).await.unwrap();
        second.grow(u64::MAX).await.unwrap();
        assert_eq!(budget.enter(client(2)).await.unwrap_err(), Exhausted);
        drop(second);
        let mut third = budget.enter(client(1)).await.unwrap();
        third.grow(FIRST_BYTES as u64 + 1).await.unwrap();
        let held = MESSAGE_MEMORY_BYTES + FIRST_BYTES + STEP_BYTES;
        assert_eq!(budget.held.get(), held as i64);
        drop((first, third));
        assert_eq!(budget.held.get(), 0);
        assert_eq!(budget.permits.available_permits(), 2 * MESSAGE_MEMORY_BYTES / PERMIT_BYTES);
        assert!(budget.clients().is_empty());
    }

    #[tokio::test]
    async fn a_client_leaves_room_for_others() {
        let budget = budget(4, 1);
        let mut greedy = budget.enter(client(1)).await.unwrap();
        greedy.grow(u64::MAX).await.unwrap();
        assert_eq!(budget.enter(client(1)).await.unwrap_err(), Exhausted);
        assert!(budget.enter(client(2)).await.is_ok());
        drop(greedy);
        assert!(budget.enter(client(1)).await.is_ok());
        assert!(budget.clients().is_empty());
    }

    /// Room for so many messages, and for so many of one client.
    fn budget(messages: usize, of_client: usize) -> Budget {
        let [all, client] = [messages, of_client].map(|n| n * MESSAGE_MEMORY_BYTES);
        Budget::new(all, client, Duration::from_millis(1), Gauge::default())
    }

    fn client(last: u8) -> ClientKey {
        ClientKey::of([192, 0, 2, last].into())
    }
}
