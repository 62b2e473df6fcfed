//! Content: room for it, its way into the store, and the moment it is safe.

use bytes::Bytes;
use mail_types::{QueueId, SmtpOrigin};
use queue::{AcceptError, Admission, Head, NewJob};
use smtp::Answer;
use smtp::framing::LastLine;
use tokio::time::Instant;
use tracing::Instrument;

use super::Session;
use super::header::HeaderBlock;
use super::prefix::{Examined, examine};
use super::transaction::{Content, ContentError, Source, Transaction};
use crate::metrics::listener;
use crate::replies::{self, Canned};
use crate::tls::chain;

/// How often a commit of unknown outcome is repeated before the client is asked to.
const COMMIT_TRIES: u32 = 3;

impl Session {
    /// Finds room for content before the client is told to send it.
    pub(super) async fn begin_content(&mut self) -> Answer {
        self.content_until = Instant::now() + self.shared.times.content_total;
        match self.prepare_content().await {
            Ok(()) => Answer::Accept,
            Err(refusal) => {
                self.transaction = None;
                self.refuse("content", refusal)
            }
        }
    }

    async fn prepare_content(&mut self) -> Result<(), Canned> {
        let Some(transaction) = &mut self.transaction else { return Err(replies::CANNOT_STORE) };
        let size = transaction.declared_size();
        if size.zip(transaction.size_max()).is_some_and(|(size, max)| size > max) {
            return Err(replies::TOO_LARGE_FOR_RECIPIENT);
        }
        let share = self.shared.budget.enter(self.client).await.map_err(|_| replies::NO_MEMORY)?;
        let arrival = runtime::clock::now();
        let origin = SmtpOrigin {
            client: self.peer,
            helo: self.core.helo().unwrap_or_default().to_owned(),
            protocol: transaction.protocol().to_string(),
            tls: self.tls.clone(),
            listener: Some(listener(self.core.kind()).to_owned()),
        };
        let source = Source { origin, identity: self.login.as_ref().map(|login| &login.identity) };
        let expires = arrival + self.shared.message_lifetime;
        let envelope = transaction.envelope(source, arrival, expires);
        self.deadline.set(self.shared.times.store);
        // Not cancel-safe, and need not be: a draft that nobody has is discarded.
        let draft = tokio::select! {
            biased;
            draft = self.shared.queue.begin(envelope, Admission::Outside) => {
                draft.map_err(|error| log_store_error("begin", &error))?
            }
            () = self.deadline.passed() => return Err(replies::CANNOT_STORE),
        };
        let header = HeaderBlock::new(self.shared.limits.header_block_bytes);
        transaction.content = Some(Content { draft, header, octets: 0, share, arrival });
        Ok(())
    }

    /// Passes content on, no faster than the store takes it.
    pub(super) async fn store_content(&mut self, octets: Bytes) -> Result<(), Canned> {
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        let size_max = transaction.size_max();
        let Some(content) = &mut transaction.content else { return Ok(()) };
        self.deadline.set(self.shared.times.store);
        // Not cancel-safe, and need not be: when time is up the message is refused.
        tokio::select! {
            biased;
            taken = content.take(octets) => taken.map_err(|error| of_content(&error))?,
            () = self.deadline.passed() => return Err(replies::CANNOT_STORE),
        }
        if size_max.is_some_and(|max| content.octets > max) {
            return Err(replies::TOO_LARGE_FOR_RECIPIENT);
        }
        Ok(())
    }

    /// Makes the message durable; only then is the client told that it is.
    pub(super) async fn end_of_content(&mut self, last_line: LastLine) -> Answer {
        if last_line == LastLine::Open
            && let Err(refusal) = self.store_content(Bytes::from_static(b"\r\n")).await
        {
            return self.refuse("content", refusal);
        }
        let Some(mut transaction) = self.transaction.take() else {
            return self.refuse("content", replies::CANNOT_STORE);
        };
        let Some(content) = transaction.content.take() else {
            return self.refuse("content", replies::CANNOT_STORE);
        };
        let id = content.id();
        let table = self.shared.domains.load_full();
        let stranger = table.as_deref().filter(|_| self.login.is_none());
        let cut = transaction.settle_forwards(content.header.bytes(), stranger);
        if cut > 0 {
            tracing::info!(event = "forwarding_loop", %id, trace_id = transaction.trace_id(), cut);
        }
        let committed = match self.examine(&transaction, &content) {
            Ok(head) => {
                transaction.span.record("messaging.message.id", tracing::field::display(id));
                let span = tracing::debug_span!(
                    target: runtime::trace::TARGET,
                    parent: &transaction.span,
                    "smtp.commit",
                    messaging.message.id = %id,
                );
                self.commit(content, head, transaction.jobs()).instrument(span).await
            }
            Err(refusal) => Err(refusal),
        };
        match committed {
            Ok(octets) => {
                transaction.keep_count();
                self.log_accepted(&transaction, id, octets);
                Answer::AcceptWith(format!("queued as {id}"))
            }
            Err(refusal) => {
                self.log_refusal("content", &id, refusal);
                self.refuse("content", refusal)
            }
        }
    }

    fn examine(&self, transaction: &Transaction, content: &Content) -> Result<Head, Canned> {
        if transaction.jobs().is_empty() {
            return Err(replies::FORWARD_LOOP);
        }
        let context = Examined {
            shared: &self.shared,
            host: &self.port.host,
            login: self.login.as_ref(),
            helo: self.core.helo().unwrap_or_default(),
            peer: self.peer,
            tls: self.tls.as_deref(),
            certificate: self.certificate.as_deref(),
            transaction,
            id: content.id(),
            arrival: content.arrival,
        };
        examine(&context, content.header.bytes())
    }

    /// Repeats a commit of unknown outcome: the same commit is kept once.
    ///
    /// Returns how many octets the message has.
    async fn commit(
        &mut self,
        content: Content,
        head: Head,
        jobs: &[NewJob],
    ) -> Result<u64, Canned> {
        let Content { mut draft, octets, share: _share, .. } = content;
        let octets = octets + head.prefix.len() as u64;
        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            self.deadline.set(self.shared.times.store);
            // A commit whose future is dropped has happened or not: the client is told to repeat.
            let committed = tokio::select! {
                biased;
                committed = draft.commit(head.clone(), jobs.to_vec()) => committed,
                () = self.deadline.passed() => return Err(replies::CANNOT_STORE),
            };
            match committed {
                Ok(()) => {
                    let seconds = began.elapsed().as_secs_f64();
                    self.shared.metrics.commit_seconds.observe(seconds);
                    return Ok(octets);
                }
                Err(AcceptError::Unknown(error)) if tries < COMMIT_TRIES => {
                    tracing::warn!(event = "commit_repeated", id = %draft.id(), %error);
                }
                Err(error) => return Err(log_store_error("commit", &error)),
            }
        }
    }

    fn log_accepted(&self, transaction: &Transaction, id: QueueId, octets: u64) {
        let metrics = &self.shared.metrics;
        metrics.messages_accepted.inc();
        metrics.octets_accepted.inc_by(octets);
        metrics.recipients_accepted.inc_by(u64::from(transaction.recipients()));
        tracing::info!(
            event = "accepted",
            id = %id,
            trace_id = transaction.trace_id(),
            listener = listener(self.core.kind()),
            client = %self.peer,
            helo = self.core.helo(),
            sender = transaction.reverse_path().to_string(),
            recipients = transaction.recipients(),
            size = octets,
            protocol = %transaction.protocol(),
            tls = self.tls.as_deref(),
            client_certificate = self.certificate.as_deref(),
            identity = self.identity().map(domains::Identity::login),
        );
    }
}

fn of_content(error: &ContentError) -> Canned {
    match error {
        ContentError::NoMemory => replies::NO_MEMORY,
        ContentError::HeaderTooLarge => replies::HEADER_TOO_LARGE,
        ContentError::Store(error) => log_store_error("write", error),
    }
}

/// The store's error is logged here, once; the client hears a 4xx.
fn log_store_error(step: &'static str, error: &AcceptError) -> Canned {
    match error {
        AcceptError::Full | AcceptError::TenantQuota => {
            tracing::info!(event = "store_full", step, %error);
        }
        AcceptError::Unavailable(_) | AcceptError::Unknown(_) => {
            tracing::error!(event = "store_failed", step, error = %chain(error));
        }
    }
    replies::of_store(error)
}
