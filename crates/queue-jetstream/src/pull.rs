//! Messages of a consumer, asked for a number at a time.
//!
//! All answers come to one inbox that lasts: a status only says that a request is at its end. It
//! may overtake messages of that request, which wait until a majority of the servers knows of
//! their delivery; whoever left the inbox at the status, as the client library's batches do, would
//! lose them until `ackWaitSeconds` are over.

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
/// While nothing is asked for, what is late is waited for so long.
const LATE: Duration = Duration::from_millis(50);
/// A request with less room than the largest message would never bring it.
const BYTES_MIN: usize = 2 << 20;

/// The inbox, and the request that is open.
pub(crate) struct Pull {
    consumer: PullConsumer,
    context: async_nats::jetstream::Context,
    inbox: Subject,
    messages: Subscriber,
    open: Option<Open>,
}

#[derive(Clone, Copy)]
struct Open {
    /// Messages that are still to come.
    left: usize,
    /// When it has ended, whatever the server said.
    until: Instant,
}

impl Pull {
    pub(crate) async fn new(shared: &Shared, door: Door, lane: Lane) -> Result<Self, Cause> {
        let consumer = streams::consumer(shared, door, lane).await?;
        let client = &shared.broker.client;
        let inbox = Subject::from(client.new_inbox());
        let messages = client.subscribe(inbox.clone()).await?;
        let context = shared.broker.context.clone();
        Ok(Self { consumer, context, inbox, messages, open: None })
    }

    /// Whether messages are asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Asks for up to `max` messages, and no more once they have so many octets.
    pub(crate) async fn ask(&mut self, max: usize, octets: usize) -> Result<(), Cause> {
        let request = BatchConfig {
            batch: max,
            max_bytes: octets.max(BYTES_MIN),
            expires: Some(EXPIRES),
            ..Default::default()
        };
        self.open = Some(Open { left: max, until: Instant::now() + EXPIRES + GRACE });
        self.consumer.request_batch(request, self.inbox.clone()).await?;
        Ok(())
    }

    /// The next message. `None` when the request has ended; what is late may come nevertheless.
    ///
    /// Cancel-safe: a message that was not taken is still in the inbox.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Cause> {
        let late = Instant::now() + LATE;
        let until = self.open.map_or(late, |open| open.until.max(late));
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
                self.open = self.open.and_then(Open::after_one);
                Ok(Some(Message { message, context: self.context.clone() }))
            }
            Some(StatusCode::NO_RESPONDERS) => Err("no server answers for the consumer".into()),
            Some(_) if message.description.as_deref() == Some("Consumer Deleted") => {
                Err("the consumer is deleted".into())
            }
            Some(_) => {
                self.open = None;
                Ok(None)
            }
        }
    }
}

impl Open {
    fn after_one(self) -> Option<Self> {
        (self.left > 1).then(|| Self { left: self.left - 1, ..self })
    }
}
