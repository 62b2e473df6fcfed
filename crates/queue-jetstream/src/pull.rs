//! Messages of a consumer, asked for a number at a time.
//!
//! All answers come to one inbox that lasts: a status says that a request is at its end, and what
//! the server has not sent of it. It may overtake messages of that request, which wait until a
//! majority of the servers knows of their delivery; whoever left the inbox at the status, as the
//! client library's batches do, would lose them until `ackWaitSeconds` are over. It may also be
//! late, when the number of messages has told the end before: each request has a subject of its own
//! below the inbox, and what is said of another request than the open one says nothing. Messages do
//! not tell which request they answer; what is left of one that was taken for ended expires at the
//! server.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{StatusCode, Subject, Subscriber};
use futures::StreamExt;
use queue::contract::Cause;
use tokio::time::{Instant, timeout_at};

use crate::names::{Door, Lane};
use crate::shared::Shared;
use crate::streams;

/// How long a server keeps a request that it cannot answer.
const EXPIRES: Duration = Duration::from_secs(5);
/// What its end may be late by.
const GRACE: Duration = Duration::from_millis(500);
/// A request with less room than the largest message would never bring it.
const BYTES_MIN: usize = 2 << 20;
/// How many messages of a request that ends the server has not sent.
const PENDING: &str = "Nats-Pending-Messages";

/// The inbox, and the request that is open.
pub(crate) struct Pull {
    consumer: PullConsumer,
    context: async_nats::jetstream::Context,
    inbox: String,
    messages: Subscriber,
    /// Of the last request, among all.
    number: u64,
    open: Option<Open>,
}

struct Open {
    /// Where its end is told.
    subject: Subject,
    /// Messages that are still to come.
    left: usize,
    /// When it has ended, whatever the server said.
    until: Instant,
}

impl Pull {
    pub(crate) async fn new(shared: &Shared, door: Door, lane: Lane) -> Result<Self, Cause> {
        let consumer = streams::consumer(shared, door, lane).await?;
        let client = &shared.broker.client;
        let inbox = client.new_inbox();
        let messages = client.subscribe(format!("{inbox}.*")).await?;
        let context = shared.broker.context.clone();
        Ok(Self { consumer, context, inbox, messages, number: 0, open: None })
    }

    /// Whether messages are asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Asks for up to `max` messages, and no more once they have so many octets: as they come, or,
    /// `at_once`, for those that are there, waiting only for the first.
    pub(crate) async fn ask(
        &mut self,
        max: usize,
        octets: usize,
        at_once: bool,
    ) -> Result<(), Cause> {
        let request = BatchConfig {
            batch: max,
            max_bytes: octets.max(BYTES_MIN),
            expires: Some(EXPIRES),
            no_wait: at_once,
            ..Default::default()
        };
        self.number += 1;
        let subject = Subject::from(format!("{}.{}", self.inbox, self.number));
        let until = Instant::now() + EXPIRES + GRACE;
        self.open = Some(Open { subject: subject.clone(), left: max, until });
        self.consumer.request_batch(request, subject).await?;
        Ok(())
    }

    /// The next message. `None` when the request has ended; what is late may come nevertheless, and
    /// is waited for until `late` while nothing is asked for.
    ///
    /// Cancel-safe: a message that was not taken is still in the inbox.
    pub(crate) async fn next(&mut self, late: Instant) -> Result<Option<Message>, Cause> {
        loop {
            let until = self.open.as_ref().map_or(late, |open| open.until);
            let message = match timeout_at(until, self.messages.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Err("the inbox is closed".into()),
                Err(_) => {
                    self.open = None;
                    return Ok(None);
                }
            };
            match message.status {
                None => {
                    self.open = self.open.take().and_then(Open::after_one);
                    return Ok(Some(Message { message, context: self.context.clone() }));
                }
                Some(StatusCode::NO_RESPONDERS) => {
                    return Err("no server answers for the consumer".into());
                }
                Some(_) if message.description.as_deref() == Some("Consumer Deleted") => {
                    return Err("the consumer is deleted".into());
                }
                Some(_) if self.open.as_ref().is_some_and(|o| o.subject == message.subject) => {
                    let pending = pending(&message);
                    self.open = self.open.take().and_then(|o| o.at_end(pending, Instant::now()));
                    if self.open.is_none() {
                        return Ok(None);
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn pending(status: &async_nats::Message) -> Option<usize> {
    status.headers.as_ref()?.get(PENDING)?.as_str().parse().ok()
}

impl Open {
    fn after_one(self) -> Option<Self> {
        let left = self.left - 1;
        self.with_left(left)
    }

    /// The server has sent all but `pending` messages, and does not send those. What it has sent
    /// and has not come is waited for a little: asked for again, it would be in hand twice.
    fn at_end(self, pending: Option<usize>, now: Instant) -> Option<Self> {
        let until = self.until.min(now + GRACE);
        let left = pending.map_or(0, |pending| self.left.saturating_sub(pending));
        Self { until, ..self }.with_left(left)
    }

    fn with_left(self, left: usize) -> Option<Self> {
        (left > 0).then_some(Self { left, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(left: usize, until: Instant) -> Open {
        Open { subject: "inbox.1".into(), left, until }
    }

    #[test]
    fn the_last_message_ends_a_request() {
        let two = open(2, Instant::now());
        let one = two.after_one().unwrap();
        assert_eq!(one.left, 1);
        assert!(one.after_one().is_none());
    }

    #[test]
    fn a_status_ends_a_request_of_which_all_that_was_sent_has_come() {
        let now = Instant::now();
        assert!(open(7, now + EXPIRES).at_end(Some(7), now).is_none());
        assert!(open(7, now + EXPIRES).at_end(None, now).is_none());
    }

    #[test]
    fn messages_that_a_status_overtook_are_waited_for_a_little() {
        let now = Instant::now();
        let rest = open(7, now + EXPIRES).at_end(Some(4), now).unwrap();
        assert_eq!((rest.left, rest.until), (3, now + GRACE));
        let rest = open(7, now).at_end(Some(4), now).unwrap();
        assert_eq!(rest.until, now, "not longer than the request");
    }
}
