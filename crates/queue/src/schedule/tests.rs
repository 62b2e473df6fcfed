//! Examples, and agreement with a model that does everything the slow way.

#![allow(clippy::wildcard_enum_match_arm)] // the model names the cases that matter

use std::collections::{BTreeMap, HashMap, HashSet};

use mail_types::{Host, QueueId};
use proptest::prelude::*;

use super::leasing::RUN;
use super::*;
use crate::census::Tally;
use crate::model::HopKind;

const LEASE: Duration = Duration::from_secs(100);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(1_795_388_000_000 + seconds * 1000)
}

fn hop(n: u8) -> NextHop {
    NextHop::smtp(&Host::Domain(format!("hop{n}.example").parse().unwrap()))
}

fn id(n: u32) -> JobId {
    JobId { message: QueueId::new(at(0), u128::from(n)), index: 0 }
}

fn entry(n: u32, hop_number: u8, tenant: &str, placement: Placement) -> NewEntry<u32> {
    NewEntry {
        id: id(n),
        tenant: TenantId::new(tenant),
        next_hop: hop(hop_number),
        size: 1000,
        placement,
        payload: n,
    }
}

const READY: Placement = Placement::Ready { wake_by: Timestamp::from_unix_ms(i64::MAX) };

fn deferred(until: i64, wake_by: i64, wait: Wait) -> Placement {
    Placement::Deferred { until: at(until), wake_by: at(wake_by), wait }
}

#[test]
fn wakeups_are_told() {
    let mut schedule = Schedule::new(LEASE);
    assert_eq!(schedule.next_wakeup(), None);
    schedule.insert(entry(1, 1, "a", deferred(50, 900, Wait::Time)), at(0));
    assert_eq!(schedule.next_wakeup(), Some(at(50)));
    let leased = schedule.lease(HopKind::Smtp, 9, 9, at(50)).remove(0);
    assert_eq!(schedule.next_wakeup(), Some(at(150)), "when the lease lapses");
    assert_eq!(schedule.finish(&leased.token), Ok(1));
    assert_eq!(schedule.next_wakeup(), None);
}

#[test]
fn a_pinned_lease_does_not_lapse() {
    let mut schedule = Schedule::new(LEASE);
    schedule.insert(entry(1, 1, "a", READY), at(0));
    let leased = schedule.lease(HopKind::Smtp, 1, 1, at(0)).remove(0);
    schedule.pin(&leased.token, at(99)).unwrap();
    assert!(schedule.lease(HopKind::Smtp, 1, 1, at(500)).is_empty());
    schedule.release(&leased.token, at(500));
    assert!(schedule.lease(HopKind::Smtp, 1, 1, at(500)).is_empty(), "its outcome is awaited");
    schedule.unpin(&leased.token, at(501));
    assert_eq!(schedule.lease(HopKind::Smtp, 1, 1, at(501)).len(), 1, "it was given back");
    assert_eq!(schedule.extend(&leased.token, at(501)), Err(LeaseLost));
}

#[test]
fn a_job_that_is_gone_is_told() {
    let mut schedule = Schedule::new(LEASE);
    schedule.insert(entry(7, 1, "a", READY), at(0));
    schedule.lease(HopKind::Smtp, 1, 1, at(0));
    assert!(schedule.request(id(7), Back::Gone, 8));
    schedule.advance(at(100));
    assert_eq!(schedule.take_gone(), [(id(7), 8)]);
    assert_eq!(schedule.counts(), Counts::default());
}

#[test]
fn what_is_not_used_is_forgotten() {
    let mut schedule = Schedule::new(LEASE);
    for n in 0..200 {
        schedule.insert(entry(n, (n % 100) as u8, "a", READY), at(0));
        schedule.hop_down(&hop((n % 100) as u8), at(10), at(0));
    }
    for n in 0..200 {
        assert_eq!(schedule.remove(id(n)), Some(n));
    }
    schedule.lease(HopKind::Smtp, 1, 1, at(11));
    assert_eq!((schedule.hops.iter().count(), schedule.usages().count()), (0, 0));
    assert!(schedule.timers.is_empty());
}

/// What the parts take; B-trees are at worst half full.
#[test]
fn a_job_takes_at_most_300_octets() {
    let entry = size_of::<Option<Entry<[u64; 8]>>>();
    let by_id = 2 * (size_of::<JobKey>() + size_of::<u32>());
    let timer = 2 * size_of::<(i64, Timer)>();
    let list = 2 * size_of::<(i64, u32)>();
    let total = entry + by_id + timer + list;
    assert!(total <= 300, "{entry} + {by_id} + {timer} + {list} = {total}");
}

#[test]
fn ten_thousand_wait_for_a_hop_in_one_timer_each() {
    let mut schedule = Schedule::new(LEASE);
    for n in 0..10_000 {
        schedule.insert(entry(n, 1, "a", deferred(5000, 9000, Wait::Hop)), at(0));
    }
    schedule.hop_down(&hop(1), at(60), at(0));
    assert!(schedule.lease(HopKind::Smtp, 100, 100, at(59)).is_empty());
    let probe = schedule.lease(HopKind::Smtp, 100, 100, at(60));
    assert_eq!((probe.len(), probe[0].reason), (1, LeaseReason::Probe));
    schedule.hop_up(&hop(1), at(61));
    assert_eq!(schedule.lease(HopKind::Smtp, 20_000, 20_000, at(61)).len(), 9_999);
}

// The model.

#[derive(Clone, Debug)]
enum Op {
    Insert { hop: u8, tenant: u8, wait: Wait, until: i64, wake_by: i64 },
    Lease { max: usize, per_hop: usize },
    LeaseMore { hop: u8 },
    Settle { pick: usize, wait: Wait, until: i64, wake_by: i64 },
    Finish { pick: usize },
    Release { pick: usize },
    Extend { pick: usize },
    Place { pick: u32, placement: Placement },
    Request { pick: u32, back: Back },
    Remove { pick: u32 },
    Down { hop: u8, for_seconds: i64 },
    Up { hop: u8 },
    Pass { seconds: i64 },
}

fn wait() -> impl Strategy<Value = Wait> {
    prop_oneof![Just(Wait::Time), Just(Wait::Hop)]
}

fn op() -> impl Strategy<Value = Op> {
    let placement = prop_oneof![
        Just(READY),
        Just(Placement::Held),
        Just(Placement::Quarantined),
        Just(Placement::Cancelled),
        Just(Placement::Urgent { wake_by: at(400) }),
    ];
    let back =
        prop_oneof![Just(Back::Due), Just(Back::Held), Just(Back::Cancelled), Just(Back::Gone)];
    let times = || (wait(), -5i64..80, 0i64..200);
    prop_oneof![
        8 => (0u8..3, 0u8..3, times()).prop_map(|(hop, tenant, (wait, until, wake_by))| {
            Op::Insert { hop, tenant, wait, until, wake_by }
        }),
        6 => (1usize..4, 1usize..4).prop_map(|(max, per_hop)| Op::Lease { max, per_hop }),
        3 => (0u8..3).prop_map(|hop| Op::LeaseMore { hop }),
        4 => (0usize..8, times()).prop_map(|(pick, (wait, until, wake_by))| {
            Op::Settle { pick, wait, until, wake_by }
        }),
        2 => (0usize..8).prop_map(|pick| Op::Finish { pick }),
        2 => (0usize..8).prop_map(|pick| Op::Release { pick }),
        1 => (0usize..8).prop_map(|pick| Op::Extend { pick }),
        2 => (0u32..30, placement).prop_map(|(pick, placement)| Op::Place { pick, placement }),
        2 => (0u32..30, back).prop_map(|(pick, back)| Op::Request { pick, back }),
        1 => (0u32..30).prop_map(|pick| Op::Remove { pick }),
        3 => (0u8..3, 0i64..80).prop_map(|(hop, for_seconds)| Op::Down { hop, for_seconds }),
        2 => (0u8..3).prop_map(|hop| Op::Up { hop }),
        6 => (0i64..60).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

/// A job in the model: its placement, or its lease.
#[derive(Clone, Debug)]
struct Known {
    hop: u8,
    placement: Placement,
    wake_by: Timestamp,
    lease: Option<(LeaseToken, Timestamp, Back)>,
}

#[derive(Default)]
struct Model {
    jobs: BTreeMap<u32, Known>,
    /// Until when a hop is down.
    down: BTreeMap<u8, Timestamp>,
    probes: HashSet<(u8, LeaseToken)>,
}

fn wake_by(placement: Placement) -> Timestamp {
    match placement {
        Placement::Ready { wake_by }
        | Placement::Deferred { wake_by, .. }
        | Placement::Urgent { wake_by } => wake_by,
        Placement::Cancelled | Placement::Held | Placement::Quarantined => {
            Timestamp::from_unix_ms(i64::MAX)
        }
    }
}

impl Model {
    /// Leases lapse, and hops without jobs are forgotten once they may be probed.
    fn advance(&mut self, now: Timestamp) {
        for n in self.jobs.keys().copied().collect::<Vec<_>>() {
            if let Some((_, deadline, _)) = self.jobs[&n].lease
                && deadline <= now
            {
                self.give_back(n);
            }
        }
        let used = |hop: &u8, jobs: &BTreeMap<u32, Known>| jobs.values().any(|job| job.hop == *hop);
        self.down.retain(|hop, until| *until > now || used(hop, &self.jobs));
    }

    fn give_back(&mut self, n: u32) {
        let job = self.jobs.get_mut(&n).unwrap();
        let (token, _, back) = job.lease.take().unwrap();
        self.probes.retain(|(_, probe)| *probe != token);
        match back {
            Back::Due => job.placement = Placement::Ready { wake_by: job.wake_by },
            Back::Held => job.placement = Placement::Held,
            Back::Cancelled => {
                job.placement = Placement::Cancelled;
                job.wake_by = wake_by(job.placement);
            }
            Back::Gone => {
                self.jobs.remove(&n);
            }
        }
    }

    fn place(&mut self, n: u32, placement: Placement) {
        let job = self.jobs.get_mut(&n).unwrap();
        if let Some((token, ..)) = job.lease.take() {
            self.probes.retain(|(_, probe)| *probe != token);
        }
        let job = self.jobs.get_mut(&n).unwrap();
        job.placement = placement;
        job.wake_by = wake_by(placement);
    }

    /// Why a job may be leased now, if it may.
    fn reason(&self, job: &Known, now: Timestamp) -> Option<LeaseReason> {
        if job.lease.is_some() {
            return None;
        }
        let due = match job.placement {
            Placement::Held | Placement::Quarantined => return None,
            Placement::Cancelled => return Some(LeaseReason::Cancelled),
            Placement::Urgent { .. } => return Some(LeaseReason::Due),
            Placement::Ready { .. } => true,
            Placement::Deferred { until, .. } => until <= now,
        };
        let woken = job.wake_by <= now;
        let Some(until) = self.down.get(&job.hop) else {
            return (due || woken).then_some(LeaseReason::Due);
        };
        if woken {
            return Some(LeaseReason::Deadline);
        }
        let waits = matches!(job.placement, Placement::Deferred { wait: Wait::Hop, .. });
        let probing = self.probes.iter().any(|(hop, _)| *hop == job.hop);
        (*until <= now && !probing && (due || waits)).then_some(LeaseReason::Probe)
    }

    fn leased_of(&self, hop: u8) -> usize {
        self.jobs.values().filter(|job| job.hop == hop && job.lease.is_some()).count()
    }

    /// A lease that the schedule gave must be one that the model allows.
    fn lease(&mut self, leased: &Leased<u32>, now: Timestamp) {
        let job = self.jobs[&leased.payload].clone();
        assert_eq!(Some(leased.reason), self.reason(&job, now), "{job:?}");
        let back = match leased.reason {
            LeaseReason::Cancelled => Back::Cancelled,
            LeaseReason::Due | LeaseReason::Probe | LeaseReason::Deadline => Back::Due,
        };
        if leased.reason == LeaseReason::Probe {
            let due = match job.placement {
                Placement::Deferred { until, .. } => until <= now,
                _ => true,
            };
            let others_due = self.jobs.values().any(|other| {
                other.hop == job.hop
                    && other.lease.is_none()
                    && match other.placement {
                        Placement::Ready { .. } => true,
                        Placement::Deferred { until, .. } => until <= now,
                        _ => false,
                    }
            });
            assert!(due || !others_due, "a probe is a due job, if there is one");
            self.probes.insert((job.hop, leased.token));
        }
        let known = self.jobs.get_mut(&leased.payload).unwrap();
        known.lease = Some((leased.token, now + LEASE, back));
    }

    fn may_lease(&self, hop: u8, now: Timestamp) -> bool {
        self.jobs.values().any(|job| job.hop == hop && self.reason(job, now).is_some())
    }

    fn counts(&self, now: Timestamp) -> [u64; 5] {
        let mut counts = [0; 5];
        for job in self.jobs.values() {
            let down = self.down.contains_key(&job.hop);
            let phase = match (&job.lease, job.placement) {
                (Some(_), _) => 1,
                (None, Placement::Held) => 3,
                (None, Placement::Quarantined) => 4,
                (None, Placement::Cancelled | Placement::Urgent { .. }) => 0,
                (None, _) if job.wake_by <= now => 0,
                (None, Placement::Ready { .. }) if !down => 0,
                (None, Placement::Deferred { until, .. }) if !down && until <= now => 0,
                (None, Placement::Ready { .. } | Placement::Deferred { .. }) => 2,
            };
            counts[phase] += 1;
        }
        counts
    }
}

struct Pair {
    schedule: Schedule<u32>,
    model: Model,
    now: i64,
    inserted: u32,
    tokens: Vec<(u32, LeaseToken)>,
}

impl Pair {
    fn holds(&self, pick: usize) -> Option<(u32, LeaseToken, bool)> {
        let &(n, token) = self.tokens.get(pick % self.tokens.len().max(1))?;
        let lease = self.model.jobs.get(&n).and_then(|job| job.lease);
        Some((n, token, lease.is_some_and(|(held, ..)| held == token)))
    }

    fn take(&mut self, leased: Vec<Leased<u32>>, now: Timestamp) {
        for leased in leased {
            self.model.lease(&leased, now);
            self.tokens.push((leased.payload, leased.token));
        }
    }

    fn run(&mut self, op: Op) {
        if let Op::Pass { seconds } = op {
            self.now += seconds;
        }
        let now = at(self.now);
        self.model.advance(now);
        self.schedule.advance(now);
        let from_now = |seconds| self.now + seconds;
        match op {
            Op::Pass { .. } => {}
            Op::Insert { hop, tenant, wait, until, wake_by: by } => {
                let placement = deferred(from_now(until), from_now(by), wait);
                let n = self.inserted;
                self.inserted += 1;
                let tenant = format!("tenant{tenant}");
                assert!(self.schedule.insert(entry(n, hop, &tenant, placement), now));
                assert!(!self.schedule.insert(entry(n, hop, &tenant, placement), now));
                let wake_by = wake_by(placement);
                self.model.jobs.insert(n, Known { hop, placement, wake_by, lease: None });
            }
            Op::Lease { max, per_hop } => {
                let leased = self.schedule.lease(HopKind::Smtp, max, per_hop, now);
                let full = leased.len() == max;
                self.take(leased, now);
                for hop in 0..3 {
                    let free = self.model.leased_of(hop) < per_hop;
                    assert!(full || !free || !self.model.may_lease(hop, now), "hop {hop}");
                }
            }
            Op::LeaseMore { hop: n } => {
                let allowed = self.model.may_lease(n, now);
                let leased = self.schedule.lease_more(&hop(n), now);
                assert!(allowed || leased.is_none());
                let run = self.schedule.hops.find(&hop(n)).map(|hop| self.schedule.hops[hop].run);
                assert!(leased.is_some() || !allowed || run >= Some(RUN));
                self.take(leased.into_iter().collect(), now);
            }
            Op::Settle { pick, wait, until, wake_by } => {
                let Some((n, token, held)) = self.holds(pick) else { return };
                let placement = deferred(from_now(until), from_now(wake_by), wait);
                let settled = self.schedule.settle(&token, placement, n, now);
                assert_eq!(settled.is_ok(), held);
                if held {
                    self.model.place(n, placement);
                }
            }
            Op::Finish { pick } => {
                let Some((n, token, held)) = self.holds(pick) else { return };
                assert_eq!(self.schedule.finish(&token).is_ok(), held);
                if held {
                    self.model.place(n, Placement::Held);
                    self.model.jobs.remove(&n);
                    self.model.advance(now);
                }
            }
            Op::Release { pick } => {
                let Some((n, token, held)) = self.holds(pick) else { return };
                self.schedule.release(&token, now);
                if held {
                    self.model.give_back(n);
                    self.model.advance(now);
                }
            }
            Op::Extend { pick } => {
                let Some((n, token, held)) = self.holds(pick) else { return };
                assert_eq!(self.schedule.extend(&token, now).is_ok(), held);
                if held && let Some(lease) = &mut self.model.jobs.get_mut(&n).unwrap().lease {
                    lease.1 = now + LEASE;
                }
            }
            Op::Place { pick: n, placement } => {
                let known = self.model.jobs.get(&n).is_some_and(|job| job.lease.is_none());
                assert_eq!(self.schedule.replace(id(n), placement, n, now), known);
                if known {
                    self.model.place(n, placement);
                }
            }
            Op::Request { pick: n, back } => {
                let job = self.model.jobs.get_mut(&n);
                let lease = job.and_then(|job| job.lease.as_mut());
                assert_eq!(self.schedule.request(id(n), back, n), lease.is_some());
                if let Some(lease) = lease {
                    lease.2 = back;
                }
            }
            Op::Remove { pick: n } => {
                let known = self.model.jobs.get(&n).is_some_and(|job| job.lease.is_none());
                assert_eq!(self.schedule.remove(id(n)).is_some(), known);
                if known {
                    self.model.jobs.remove(&n);
                    self.model.advance(now);
                }
            }
            Op::Down { hop: n, for_seconds } => {
                let until = at(from_now(for_seconds));
                self.schedule.hop_down(&hop(n), until, now);
                self.model.down.insert(n, until);
            }
            Op::Up { hop: n } => {
                self.schedule.hop_up(&hop(n), now);
                self.model.down.remove(&n);
                for job in self.model.jobs.values_mut() {
                    let waits = matches!(
                        job.placement,
                        Placement::Deferred { wait: Wait::Hop, until, .. } if until > now
                    );
                    if job.hop == n && job.lease.is_none() && waits && job.wake_by > now {
                        job.placement = Placement::Ready { wake_by: job.wake_by };
                    }
                }
            }
        }
        self.schedule.advance(now);
        self.model.advance(now);
        let counts = self.schedule.counts();
        let counted =
            [counts.ready, counts.active, counts.deferred(), counts.held, counts.quarantined];
        assert_eq!(counted, self.model.counts(now));
        assert_eq!(counts.messages, self.model.jobs.len() as u64);
        let listed: Vec<u32> =
            self.schedule.page(None, 1000).jobs.iter().map(|view| view.payload).collect();
        assert!(listed.iter().eq(self.model.jobs.keys()));
        self.tallies_agree_with_views();
        self.selections_agree_with_pages();
    }

    fn selections_agree_with_pages(&self) {
        let all = self.schedule.page(None, 1000).jobs;
        let wanted = all.iter().filter(|view| view.phase == Phase::Deferred).map(|view| view.id);
        let (mut selected, mut from) = (Vec::new(), None);
        loop {
            let page = self.schedule.select(from, 2, |glance| glance.phase == Phase::Deferred);
            assert!(page.jobs.len() <= 2);
            selected.extend(page.jobs.iter().map(|view| view.id));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        assert!(wanted.eq(selected));
    }

    fn tallies_agree_with_views(&self) {
        let (mut hops, mut tenants) = (HashMap::new(), HashMap::new());
        for view in self.schedule.page(None, 1000).jobs {
            let count = |phase| u64::from(view.phase == phase);
            let is_work = matches!(view.phase, Phase::Ready | Phase::Active);
            assert_eq!(self.schedule.is_ready(view.id), view.phase == Phase::Ready);
            let tally = Tally {
                jobs: 1,
                ready: count(Phase::Ready),
                active: count(Phase::Active),
                held: count(Phase::Held),
                quarantined: count(Phase::Quarantined),
                oldest: is_work.then(|| view.id.message.arrival()),
            };
            hops.entry(view.next_hop).or_insert_with(Tally::default).add(&tally);
            tenants.entry(view.tenant).or_insert_with(Tally::default).add(&tally);
        }
        let tallied = self.schedule.hop_tallies().map(|(hop, tally)| (hop.clone(), tally));
        assert_eq!(tallied.collect::<HashMap<_, _>>(), hops);
        let tallied = self.schedule.tenant_tallies();
        let tallied = tallied.into_iter().map(|(tenant, tally)| (tenant.clone(), tally));
        assert_eq!(tallied.collect::<HashMap<_, _>>(), tenants);
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn schedule_and_model_agree(ops in proptest::collection::vec(op(), 1..120)) {
        let mut pair = Pair {
            schedule: Schedule::new(LEASE),
            model: Model::default(),
            now: 0,
            inserted: 0,
            tokens: Vec::new(),
        };
        for op in ops {
            pair.run(op);
        }
    }
}
