//! One attempt by LMTP: the recipients that are due, in one transaction.

use std::error::Error;

use handover::{Offer, Transacted, may_have_taken, unanswered_outcome, verdicts};
use mail_types::{Recipient, Timestamp};
use outcome::{Delivery, Outcome, Verdict, due_recipients};
use queue::{Job, Lease};
use smtp::client::{RecipientResult, SessionError};
use tokio::time::Instant;
use tracing::warn;

use super::Worker;
use super::attempt::{Attempted, Obstacle, RECIPIENTS_MAX};
use crate::lmtp::{OpenError, Server, Session};
use crate::recipient::{Place, Undelivered};

/// An attempt in progress.
struct Handing<'a> {
    worker: &'a Worker,
    server: &'a Server,
    lease: &'a mut dyn Lease,
    job: &'a Job,
    at: Timestamp,
    /// Recipients without an answer yet.
    open: Vec<Addressee>,
    verdicts: Vec<Verdict>,
    relay: Box<str>,
}

/// Whom the server is asked to take the message for.
struct Addressee {
    /// In the job.
    index: u32,
    /// As the server knows it.
    recipient: Recipient,
    place: Place,
}

/// How an offer ended.
enum Offered {
    /// Nothing more to do.
    Over,
    /// The session broke before content was sent: another may do better.
    TryNext(SessionError),
    Ended(Attempted),
}

impl Worker {
    /// Hands the job to the server, for all recipients that are due at once.
    pub(super) async fn hand_over(
        &self,
        server: &Server,
        lease: &mut dyn Lease,
        job: &Job,
        at: Timestamp,
    ) -> Attempted {
        let (mut open, mut verdicts) = (Vec::new(), Vec::new());
        for index in due_recipients(job, &self.terms.load().policy, at, RECIPIENTS_MAX) {
            match self.addressee(job, index).await {
                Ok(addressee) => open.push(addressee),
                Err(undelivered) => {
                    let outcome = self.undelivered(job, &undelivered);
                    verdicts.push(Verdict { recipient: index, outcome });
                }
            }
        }
        let relay = server.endpoint().to_string().into();
        let handing = Handing { worker: self, server, lease, job, at, open, verdicts, relay };
        handing.run().await
    }

    /// The recipient with the address that leads to its mailbox now.
    async fn addressee(&self, job: &Job, index: u32) -> Result<Addressee, Undelivered> {
        let recipient = &job.recipients[index as usize].recipient;
        let mut places = self.places(&recipient.address).await?;
        // The replies to several would be one outcome: of two of them that differ, none is right.
        match (places.pop(), places.is_empty()) {
            (Some(place), true) => {
                let recipient = Recipient { address: place.used.clone(), ..recipient.clone() };
                Ok(Addressee { index, recipient, place })
            }
            (Some(_), false) | (None, _) => Err(Undelivered::LeadsToSeveral),
        }
    }
}

impl Handing<'_> {
    async fn run(mut self) -> Attempted {
        if self.open.is_empty() {
            return self.done(None);
        }
        if let Some(session) = self.server.take_idle() {
            match self.offer(session).await {
                Offered::Over => return self.done(None),
                Offered::Ended(attempted) => return attempted,
                // The server may have had enough of it at any time; a new one tells more.
                Offered::TryNext(_) => {}
            }
        }
        if self.lease.extend().await.is_err() {
            return Attempted::LeaseLost;
        }
        let session = match self.server.open().await {
            Ok(session) => session,
            Err(error) => return self.unreachable(error),
        };
        match self.offer(session).await {
            Offered::Over => {}
            Offered::Ended(attempted) => return attempted,
            Offered::TryNext(error) => {
                let outcome = unanswered_outcome(self.server.endpoint().host(), &error, self.at);
                self.all_open(&outcome);
            }
        }
        self.done(None)
    }

    async fn offer(&mut self, mut session: Session) -> Offered {
        self.relay = session.relay.clone();
        let recipients: Vec<&Recipient> = self.open.iter().map(|it| &it.recipient).collect();
        let offer = Offer {
            connection: &mut session.connection,
            host: self.server.endpoint().host(),
            lease: &mut *self.lease,
            job: self.job,
            recipients: &recipients,
            takes_whole: false,
            limit: self.server.limit(),
            metrics: &self.worker.metrics.handover,
        };
        match offer.make().await {
            Transacted::Finished(results) => {
                self.take(&session, results);
                self.server.put_away(session).await;
                Offered::Over
            }
            Transacted::Broken { error, results } => {
                self.take(&session, results);
                self.broken(error)
            }
            Transacted::Withheld(failure) => {
                self.all_open(&failure.outcome(self.at));
                self.server.put_away(session).await;
                Offered::Over
            }
            Transacted::Damaged(what) => Offered::Ended(Attempted::Damaged(what)),
            Transacted::LeaseLost => Offered::Ended(Attempted::LeaseLost),
        }
    }

    fn broken(&mut self, error: SessionError) -> Offered {
        if self.open.is_empty() {
            return Offered::Over;
        }
        if may_have_taken(error.step()) {
            let outcome = unanswered_outcome(self.server.endpoint().host(), &error, self.at);
            self.all_open(&outcome);
            return Offered::Over;
        }
        Offered::TryNext(error)
    }

    /// Turns answers into verdicts; what was not answered stays open.
    fn take(&mut self, session: &Session, results: Vec<RecipientResult>) {
        // Without DSN it is the last that knows of the envelope: nobody else tells the sender.
        let delivery = match session.connection.capabilities().dsn {
            true => Delivery::RelayedWithDsn,
            false => Delivery::Final,
        };
        let recipients = self.open.iter().map(|it| it.index).collect();
        let host = self.server.endpoint().host();
        let (verdicts, open) = verdicts(host, recipients, results, self.at, delivery);
        for Addressee { index, place, .. } in &self.open {
            if let Some(verdict) = verdicts.iter().find(|verdict| verdict.recipient == *index) {
                let (size, now) = (self.job.size, Instant::now());
                self.server.full().learn(place, size, &verdict.outcome, now);
            }
        }
        self.verdicts.extend(verdicts);
        self.open.retain(|it| open.contains(&it.index));
    }

    /// Our fault: it waits, however often.
    fn unreachable(mut self, error: OpenError) -> Attempted {
        let reason = error.source().map(tracing::field::display);
        warn!(id = %self.job.id, step = %error, reason, "the mailbox server cannot be reached");
        let outcome = Undelivered::Unreachable.outcome(runtime::clock::now());
        self.all_open(&outcome);
        self.done(Some(Obstacle::Unreachable))
    }

    fn all_open(&mut self, outcome: &Outcome) {
        for Addressee { index, .. } in std::mem::take(&mut self.open) {
            self.verdicts.push(Verdict { recipient: index, outcome: outcome.clone() });
        }
    }

    fn done(self, obstacle: Option<Obstacle>) -> Attempted {
        Attempted::Done { verdicts: self.verdicts, obstacle, relay: self.relay }
    }
}
