//! What was sent and how it was answered, and what has arrived.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::letter::{Letter, digest, domain};
use crate::ledger::Destiny;

/// After so long without an end, mail for a dead destination has been tried.
const TRIED: Duration = Duration::from_secs(2);

/// How a transaction ended for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted {
        queue_id: String,
    },
    /// 4xx after the content.
    Deferred(String),
    /// 5xx after the content.
    Refused(String),
    /// No content was sent.
    RefusedBefore(String),
    /// No reply came to the final dot.
    Unanswered(String),
    /// The session ended before the final dot was sent.
    Broken(String),
}

/// A transaction, in the end.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// The ingress that was spoken to.
    pub(super) ingress: usize,
    /// Those that were not refused at RCPT.
    pub(super) recipients: Vec<(String, Destiny)>,
    /// Those that were refused at RCPT, or should have been.
    pub(super) refused: Vec<String>,
    /// Replies that a client in the right must not be given.
    pub(super) wrong: Vec<String>,
    pub(super) digest: u64,
    pub(super) outcome: Outcome,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

impl Sent {
    pub(super) fn of(letter: &Letter, content: &[u8], ingress: usize) -> Self {
        let now = Instant::now();
        Self {
            ingress,
            recipients: letter.recipients.clone(),
            refused: letter.strangers.clone(),
            wrong: Vec::new(),
            digest: digest(content),
            outcome: Outcome::Broken(String::new()),
            began: now,
            ended: now,
        }
    }
}

/// Where something of a message was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Sink,
    Mailbox,
    /// A failed DSN in the sender's mailbox.
    Report,
    /// `double_bounce` in a log.
    Log,
}

impl Place {
    pub(super) fn fits(self, destiny: Destiny) -> bool {
        matches!(
            (self, destiny),
            (Self::Sink, Destiny::Relayed)
                | (Self::Mailbox, Destiny::Stored)
                | (Self::Report, Destiny::Bounced)
                | (Self::Log, Destiny::DoubleBounced)
        )
    }
}

#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) place: Place,
    /// When the delivery began; what is found afterwards has one time only: when it was written,
    /// or, in a log, found.
    pub(super) began: Instant,
    pub(super) at: Instant,
    /// Of the content, where it is there.
    pub(super) digest: Option<u64>,
    /// By the trace header.
    pub(super) queue_id: Option<String>,
}

/// A recipient of a message: what an arrival belongs to.
pub(super) type Key = (String, String);

/// All that happens in a run.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    books: Mutex<Books>,
    /// Transactions between the final dot and its reply.
    pub(super) accepting: AtomicUsize,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Books {
    pub(super) sent: BTreeMap<String, Sent>,
    pub(super) arrived: HashMap<Key, Vec<Arrival>>,
    /// By queue id, of what was accepted.
    tokens: HashMap<String, String>,
    /// Accepted, and nowhere yet.
    pending: HashMap<Key, Instant>,
    /// Recipients whose destination has said 4xx.
    told_later: HashSet<String>,
    accepted: usize,
}

/// What is under way at a moment.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct InFlight {
    /// Transactions between the final dot and its reply.
    pub accepts: usize,
    /// Transactions with destinations.
    pub deliveries: usize,
    /// Recipients that a destination has put off, or that are for a dead one.
    pub retries: usize,
}

impl InFlight {
    pub(super) fn is_void(self) -> bool {
        self.accepts == 0 || self.deliveries == 0 || self.retries == 0
    }
}

impl Accounts {
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().expect("nobody panics holding it")
    }

    pub(super) fn book(&self, token: String, sent: Sent) {
        let mut books = self.books();
        if let Outcome::Accepted { queue_id } = &sent.outcome {
            books.tokens.insert(queue_id.clone(), token.clone());
            books.accepted += 1;
            for (recipient, _) in &sent.recipients {
                let key = (token.clone(), recipient.clone());
                if !books.arrived.contains_key(&key) {
                    books.pending.insert(key, sent.ended);
                }
            }
        }
        books.sent.insert(token, sent);
    }

    pub(super) fn arrive(&self, token: String, recipient: String, arrival: Arrival) {
        let key = (token, recipient);
        let mut books = self.books();
        books.pending.remove(&key);
        books.told_later.remove(&key.1);
        books.arrived.entry(key).or_default().push(arrival);
    }

    /// True the first time that this recipient is put off.
    pub(super) fn put_off(&self, recipient: &str) -> bool {
        self.books().told_later.insert(recipient.to_owned())
    }

    /// Recipients that have been accepted and are nowhere yet.
    pub(super) fn pending(&self) -> Vec<Key> {
        self.books().pending.keys().cloned().collect()
    }

    pub(super) fn pending_count(&self) -> usize {
        self.books().pending.len()
    }

    pub(super) fn accepted(&self) -> usize {
        self.books().accepted
    }

    pub(super) fn in_flight(&self, deliveries: usize) -> InFlight {
        let books = self.books();
        let is_retried = |(key, since): &(&Key, &Instant)| {
            let is_dead = key.1.ends_with(domain::DEAD) && since.elapsed() > TRIED;
            is_dead || books.told_later.contains(&key.1)
        };
        let retries = books.pending.iter().filter(is_retried).count();
        InFlight { accepts: self.accepting.load(Ordering::SeqCst), deliveries, retries }
    }

    /// A copy to judge.
    pub(super) fn snapshot(&self) -> Books {
        self.books().clone()
    }

    /// The id under which the message with this token was queued.
    pub(super) fn id_of(&self, token: &str) -> Option<String> {
        let books = self.books();
        let Outcome::Accepted { queue_id } = &books.sent.get(token)?.outcome else { return None };
        Some(queue_id.clone())
    }

    /// The token of what was queued under this id.
    pub(super) fn token_of(&self, id: &str) -> Option<String> {
        self.books().tokens.get(id).cloned()
    }
}
