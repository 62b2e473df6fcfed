//! The simulated backend passes the suite that all backends pass.

use std::sync::Arc;

use async_trait::async_trait;
use mail_types::QueueId;
use queue::Queue;
use queue::conformance::{Fault, Harness, Settings, Step, Support, VirtualClock};
use queue::simulated::SimulatedQueue;

struct Simulated(SimulatedQueue);

#[async_trait]
impl Harness for Simulated {
    async fn open(seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        Self(SimulatedQueue::new(seed, settings, clock.reader()))
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.0.clone())
    }

    async fn crash(&mut self) {
        self.0.crash();
    }

    fn fail_next(&mut self, step: Step, fault: Fault) -> Support {
        self.0.fail_next(step, fault);
        Support::Done
    }

    async fn damage(&mut self, message: QueueId) -> Support {
        if self.0.damage(message) { Support::Done } else { Support::Unsupported }
    }
}

queue::conformance_suite!(Simulated);

/// A simulation in which nothing happens proves nothing.
#[tokio::test]
async fn simulations_are_eventful() {
    for seed in 100..200 {
        let tally = queue::conformance::simulation::simulate::<Simulated>(seed, 500).await.unwrap();
        assert!(tally.committed > 50 && tally.done > 50, "seed {seed}: {tally:?}");
        assert!(tally.deferred > 5 && tally.crashes > 2, "seed {seed}: {tally:?}");
    }
}
