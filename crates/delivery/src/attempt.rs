//! One attempt: a job's recipients offered to the hosts of its next hop, one after the other.

use std::time::Instant;

use handover::{Offer, Transacted, may_have_taken, unanswered_outcome, verdicts};
use mail_types::{Host, Recipient, Timestamp};
use outcome::{Delivery, Effort, Outcome, Verdict, due_recipients};
use queue::{Job, Lease, LeaseReason};
use smtp::client::{RecipientResult, SessionError};
use tokio::time::timeout;

use crate::config::{LEASE_MARGIN, Route};
use crate::failure::{Blame, HopFailure};
use crate::session::Session;
use crate::sources;
use crate::targets::Targets;
use crate::worker::Worker;

/// How long the parts of an attempt took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Delays {
    /// From arrival to the attempt.
    pub(crate) queued_ms: u64,
    /// Name resolution, connecting, greeting, TLS, authentication.
    pub(crate) connect_ms: u64,
    /// The transaction.
    pub(crate) transmit_ms: u64,
}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Attempted {
    Done {
        effort: Effort,
        delays: Delays,
        verdicts: Vec<Verdict>,
        hop: HopState,
    },
    /// The content is damaged for good.
    Damaged(Box<str>),
    /// Nothing may be recorded.
    LeaseLost,
}

/// What was learnt about the next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HopState {
    Reached,
    Unreachable,
    /// Nothing to reach, or nothing learnt.
    Unknown,
}

/// An attempt in progress.
pub(crate) struct Attempt<'a> {
    worker: &'a Worker,
    lease: &'a mut dyn Lease,
    job: &'a Job,
    route: &'a Route,
    at: Timestamp,
    started: Instant,
    delays: Delays,
    /// Recipients without an answer yet.
    open: Vec<u32>,
    verdicts: Vec<Verdict>,
    relay: Option<Box<str>>,
    tls: Option<Box<str>>,
    hop: HopState,
}

/// How the offer to one host ended.
enum Offered {
    /// Nothing more to do; the session may be good for another message.
    Done(Session),
    /// The session broke before content was sent: another host may do better.
    TryNext(HopFailure),
    /// The session broke and that was that.
    Over,
    Ended(Attempted),
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        worker: &'a Worker,
        lease: &'a mut dyn Lease,
        job: &'a Job,
        route: &'a Route,
    ) -> Self {
        let at = runtime::clock::now();
        let max = worker.settings.config.recipients_per_transaction_max;
        let queued = at.since(job.envelope.arrival);
        Self {
            worker,
            lease,
            job,
            route,
            at,
            started: Instant::now(),
            delays: Delays { queued_ms: millis(queued), ..Delays::default() },
            open: due_recipients(job, &route.retry, at, max),
            verdicts: Vec::new(),
            relay: None,
            tls: None,
            hop: HopState::Unknown,
        }
    }

    /// Makes the attempt, first with `session` if there is one in hand. Returns a session that may
    /// be used again.
    pub(crate) async fn run(mut self, session: Option<Session>) -> (Attempted, Option<Session>) {
        if let Some(session) = session {
            self.worker.metrics.connections_reused.inc();
            match self.offer(session).await {
                Offered::Done(session) => return (self.done(), Some(session)),
                Offered::Over => return (self.done(), None),
                Offered::Ended(attempted) => return (attempted, None),
                // A host may have enough of a connection at any time; a new one tells more.
                Offered::TryNext(_) => self.hop = HopState::Unknown,
            }
        }
        self.over_hosts().await
    }

    async fn over_hosts(mut self) -> (Attempted, Option<Session>) {
        let resolving = Instant::now();
        let found = Targets::find(self.worker.finder(), &self.job.next_hop, self.route).await;
        self.delays.connect_ms += millis(resolving.elapsed());
        let mut targets = match found {
            Ok(targets) => targets,
            Err(failure) => return (self.failed(failure).await, None),
        };
        let mut worst: Option<HopFailure> = None;
        loop {
            if self.lease.extend().await.is_err() {
                return (Attempted::LeaseLost, None);
            }
            let failure = match self.next_host(&mut targets).await {
                None => break,
                Some(Err(failure)) => failure,
                Some(Ok(session)) => match self.offer(session).await {
                    Offered::Done(session) => return (self.done(), Some(session)),
                    Offered::Over => return (self.done(), None),
                    Offered::Ended(attempted) => return (attempted, None),
                    Offered::TryNext(failure) => failure,
                },
            };
            // Of equals, the later is reported: it is about the host of last resort.
            let graver = worst.as_ref().is_none_or(|worst| failure.blame() >= worst.blame());
            worst = if graver { Some(failure) } else { worst };
        }
        let failure = worst.unwrap_or_else(|| HopFailure::NoAddress(targets.name().to_owned()));
        (self.failed(failure).await, None)
    }

    /// Opens a session with the next address; `None` when there is none left.
    async fn next_host(&mut self, targets: &mut Targets) -> Option<Result<Session, HopFailure>> {
        let connecting = Instant::now();
        let opened = match targets.next(self.worker.finder()).await? {
            Ok(target) => {
                // Each of its steps has its own time; together they must not outlast the lease.
                let limit = self.worker.lease.saturating_sub(LEASE_MARGIN);
                let sender = sources::sender(&self.job.envelope);
                let opening = self.worker.opener(&sender).open(&target, self.route);
                let opened = timeout(limit, opening).await;
                let late = |_| Err(HopFailure::ConnectTimedOut { relay: target.relay() });
                let opened = opened.unwrap_or_else(late);
                if opened.is_err() && self.relay.is_none() {
                    self.relay = Some(target.relay().into());
                }
                opened
            }
            Err(failure) => Err(failure),
        };
        self.delays.connect_ms += millis(connecting.elapsed());
        Some(opened)
    }

    /// Offers the message to a host.
    async fn offer(&mut self, mut session: Session) -> Offered {
        self.hop = HopState::Reached;
        if session.transactions == 0 {
            self.worker.hop_reached(&self.job.next_hop);
        }
        self.relay = Some(session.relay.clone());
        self.tls.clone_from(&session.tls);
        let sending = Instant::now();
        session.transactions += 1;
        let job = self.job;
        let recipient = |index: &u32| &job.recipients[*index as usize].recipient;
        let recipients: Vec<&Recipient> = self.open.iter().map(recipient).collect();
        let offer = Offer {
            connection: &mut session.connection,
            host: &session.host,
            lease: &mut *self.lease,
            job,
            recipients: &recipients,
            takes_whole: session.takes_whole,
            limit: self.worker.lease.saturating_sub(LEASE_MARGIN),
            metrics: &self.worker.metrics.handover,
        };
        let ended = offer.make().await;
        self.delays.transmit_ms += millis(sending.elapsed());
        match ended {
            Transacted::Finished(results) => {
                if self.lease.reason() == LeaseReason::Probe {
                    // By a connection from before the hop was down, perhaps.
                    self.worker.hop_reached(&self.job.next_hop);
                }
                self.take(&session, results);
                Offered::Done(session)
            }
            Transacted::Broken { error, results } => self.broken(&session, error, results),
            Transacted::Withheld(failure) => {
                let outcome = failure.outcome(self.at);
                self.all_open(&outcome);
                Offered::Done(session)
            }
            Transacted::Damaged(what) => Offered::Ended(Attempted::Damaged(what)),
            Transacted::LeaseLost => Offered::Ended(Attempted::LeaseLost),
        }
    }

    fn broken(
        &mut self,
        session: &Session,
        error: SessionError,
        results: Vec<RecipientResult>,
    ) -> Offered {
        self.take(session, results);
        if self.open.is_empty() {
            return Offered::Over;
        }
        if may_have_taken(error.step()) {
            let outcome = unanswered_outcome(&session.host, &error, self.at);
            self.all_open(&outcome);
            return Offered::Over;
        }
        Offered::TryNext(HopFailure::Session { host: session.host.to_string(), error })
    }

    /// Turns answers into verdicts; what was not answered stays open.
    fn take(&mut self, session: &Session, results: Vec<RecipientResult>) {
        let delivery = match session.connection.capabilities().dsn {
            true => Delivery::RelayedWithDsn,
            false => Delivery::RelayedWithoutDsn,
        };
        let recipients = std::mem::take(&mut self.open);
        let (verdicts, open) = verdicts(&session.host, recipients, results, self.at, delivery);
        self.verdicts.extend(verdicts);
        self.open = open;
    }

    fn all_open(&mut self, outcome: &Outcome) {
        for recipient in std::mem::take(&mut self.open) {
            self.verdicts.push(Verdict { recipient, outcome: outcome.clone() });
        }
    }

    /// No host took the message.
    async fn failed(mut self, failure: HopFailure) -> Attempted {
        let is_permanent = failure.blame() == Blame::Permanent;
        let failure = match is_permanent && !self.worker.is_certain().await {
            true => HopFailure::Uncertain(self.job.next_hop.key().to_owned()),
            false => failure,
        };
        if self.hop == HopState::Unknown && failure.blame() == Blame::Hop {
            self.hop = HopState::Unreachable;
        }
        let mut outcome = failure.outcome(self.at);
        if let Outcome::Deferred { waiting_for, .. } = &mut outcome
            && self.hop != HopState::Unreachable
        {
            *waiting_for = queue::Wait::Time;
        }
        self.all_open(&outcome);
        self.done()
    }

    fn done(self) -> Attempted {
        let effort = Effort {
            at: self.at,
            took_ms: millis(self.started.elapsed()),
            relay: self.relay,
            tls: self.tls,
        };
        let Self { delays, verdicts, hop, .. } = self;
        Attempted::Done { effort, delays, verdicts, hop }
    }
}

/// The host that a job goes to, as [`queue::NextHop::smtp`] was given it.
pub(crate) fn host_of(hop: &queue::NextHop) -> Result<Host, HopFailure> {
    Host::parse(hop.key()).map_err(|_| HopFailure::Literal(hop.key().to_owned()))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
