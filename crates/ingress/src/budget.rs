//! A bound on the octets of content that are in memory, over all sessions.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    wait: Duration,
    /// Octets held by all shares.
    held: Gauge,
}

/// What a message holds of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

/// Nothing became free in time: `452 4.3.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no memory for content became free in time")]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(bytes: usize, wait: Duration, held: Gauge) -> Self {
        Self { permits: Arc::new(Semaphore::new(bytes / PERMIT_BYTES)), wait, held }
    }

    /// A share for a message of which nothing has come yet: what it declares to have is no reason
    /// to hold others back.
    pub(crate) async fn enter(&self) -> Result<Share, Exhausted> {
        let permit = self.take(FIRST_BYTES).await?;
        self.held.inc_by(FIRST_BYTES as i64);
        Ok(Share { budget: self.clone(), permit, bytes: FIRST_BYTES })
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Exhausted> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_many_owned(permits) {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_many_owned(permits);
        match tokio::time::timeout(self.wait, permit).await {
            Ok(Ok(permit)) => Ok(permit),
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
            self.permit.merge(self.budget.take(step).await?);
            self.bytes += step;
            self.budget.held.inc_by(step as i64);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.dec_by(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_is_bounded_and_comes_back() {
        let budget =
            Budget::new(2 * MESSAGE_MEMORY_BYTES, Duration::from_millis(1), Gauge::default());
        let mut first = budget.enter().await.unwrap();
        first.grow(u64::MAX).await.unwrap();
        let mut second = budget.enter().await.unwrap();
        second.grow(u64::MAX).await.unwrap();
        assert_eq!(budget.enter().await.unwrap_err(), Exhausted);
        drop(second);
        let mut third = budget.enter().await.unwrap();
        third.grow(FIRST_BYTES as u64 + 1).await.unwrap();
        let held = MESSAGE_MEMORY_BYTES + FIRST_BYTES + STEP_BYTES;
        assert_eq!(budget.held.get(), held as i64);
        drop((first, third));
        assert_eq!(budget.held.get(), 0);
        assert_eq!(budget.permits.available_permits(), 2 * MESSAGE_MEMORY_BYTES / PERMIT_BYTES);
    }
}
