//! The suite that every backend passes.
//!
//! A backend implements [`Harness`] and writes, in a file under `tests/`,
//! `queue::conformance_suite!(TheHarness);`: one test for each sentence of the contract. The last,
//! [`simulation`], does random operations under faults and accounts for every job.
//!
//! A failed check is a panic that says what was promised.

// This is test code that other crates call: an unexpected error fails the test.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result)]

pub mod accepting;
pub mod hops;
pub mod leasing;
pub mod limits;
pub mod operating;
pub mod settling;
pub mod simulation;

mod mail;
mod trial;

use std::sync::Arc;

use async_trait::async_trait;
use mail_types::QueueId;

use crate::contract::Queue;
pub use crate::simulated::{Fault, Settings, Step, VirtualClock};

/// A backend under test, with the means to do it harm.
#[async_trait]
pub trait Harness: Send + Sync + Sized {
    /// An empty queue that takes its time from `clock`. What is random comes from `seed`.
    async fn open(seed: u64, settings: Settings, clock: VirtualClock) -> Self;

    /// The queue, as it is since the last crash.
    fn queue(&self) -> Arc<dyn Queue>;

    /// Loses what is not durable, as a power cut does, and opens the queue again. The suite has
    /// dropped neither leases nor drafts.
    async fn crash(&mut self);

    /// Makes the next `step` fail, if the backend has that failure.
    fn fail_next(&mut self, step: Step, fault: Fault) -> Support;

    /// Damages the stored content of a message for good, if the harness can. It may crash and open
    /// the queue again.
    async fn damage(&mut self, message: QueueId) -> Support;
}

/// Whether a harness can do what it was asked; if not, the check is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    Done,
    Unsupported,
}

/// Makes a test of each check of the suite, for a type that implements
/// [`Harness`](crate::conformance::Harness). The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
#[macro_export]
macro_rules! conformance_suite {
    ($harness:ty) => {
        $crate::conformance_suite! { @checks $harness;
            accepting: [
                committed_mail_survives_a_crash
                a_repeated_commit_queues_once
                a_commit_of_unknown_outcome_is_resolved_by_repeating_it
                an_unavailable_commit_keeps_nothing
                a_dropped_draft_never_was
                content_is_exact_to_the_octet
                damaged_content_is_told_and_other_mail_is_read
            ]
            leasing: [
                a_leased_job_is_nobody_elses
                a_lease_lapses
                an_extended_lease_lasts
                a_lapsed_lease_settles_nothing
                a_released_or_dropped_lease_is_due_at_once
                a_job_that_makes_its_worker_panic_waits_for_the_end_of_its_lease
                a_waiting_lease_gets_what_is_committed
                a_waiting_lease_gets_what_comes_due
                a_dropped_wait_takes_nothing
                kinds_are_apart
                per_hop_bounds_a_next_hop
                next_hops_take_turns
                tenants_take_turns
                a_connection_takes_more_until_others_wait
            ]
            settling: [
                a_done_job_is_forgotten
                a_deferred_job_comes_back_at_its_time
                held_and_quarantined_jobs_stay
                what_was_heard_survives_a_crash
                history_is_bounded
                follow_ups_are_queued_with_the_outcome
                a_settlement_of_unknown_outcome_is_resolved_by_repeating_it
                an_unavailable_settlement_changes_nothing
                jobs_of_a_message_are_settled_apart
            ]
            hops: [
                a_down_hop_holds_back_its_jobs_only
                a_down_hop_is_probed_by_one_job
                a_recovered_hop_wakes_those_that_waited_for_it
                a_deadline_passes_a_closed_gate
                a_crash_opens_the_gates
            ]
            operating: [
                lists_are_filtered_and_in_order_of_arrival
                content_is_shown_whoever_has_the_job
                jobs_are_held_and_released
                a_retry_now_passes_a_closed_gate
                a_silent_cancel_drops_the_job
                a_cancel_with_dsn_is_left_to_a_worker
                requests_wait_for_the_end_of_a_lease
                requests_survive_a_crash
                statistics_count_every_job
            ]
            limits: [
                a_tenant_has_its_quota
                a_full_store_refuses_and_drains
            ]
            simulation: [
                random_operations_lose_nothing
            ]
        }
    };
    (@checks $harness:ty; $($module:ident: [$($check:ident)*])*) => {
        $(mod $module {
            #[allow(unused_imports)] // the harness may be a built-in path
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    $crate::conformance::$module::$check::<$harness>().await;
                }
            )*
        })*
    };
}
