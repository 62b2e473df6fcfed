//! The books: what was accepted against what arrived.
//!
//! Every message carries a token. At the end each token that was answered `250` must be found where
//! it belongs; a token found twice must be explained by a kill between the two deliveries, before
//! which the process had not yet logged the first one as settled.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

use crate::sink::Received;

/// The header field that carries the token.
const TOKEN_FIELD: &str = "X-Token: ";

/// Where a message must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destiny {
    /// At the sink.
    Relayed,
    /// In a mailbox of ours.
    Stored,
    /// Refused by the sink: a failed DSN lies in the sender's mailbox.
    Bounced,
    /// Refused by the sink, from the null sender: `double_bounce` in the log.
    DoubleBounced,
}

/// A message that was answered `250`.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub destiny: Destiny,
    pub queue_id: String,
    /// The body, to be found unchanged.
    pub body: String,
}

/// What was sent, by token.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: BTreeMap<String, Accepted>,
}

/// What arrived.
#[derive(Debug, Default)]
pub struct Arrivals<'a> {
    pub sink: &'a [Received],
    /// Contents of all mailboxes.
    pub mailboxes: &'a [Vec<u8>],
    pub log: &'a [serde_json::Value],
    pub kills: &'a [Instant],
}

/// The balance.
#[derive(Debug, Default, Clone)]
pub struct Balance {
    pub accepted: usize,
    pub arrived: usize,
    pub duplicates: usize,
    /// Tokens that are nowhere, or not where they belong.
    pub lost: Vec<String>,
    /// Tokens found twice without a kill in between.
    pub unexplained: Vec<String>,
    /// Tokens whose body was changed.
    pub damaged: Vec<String>,
}

impl Balance {
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.unexplained.is_empty() && self.damaged.is_empty()
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} accepted, {} arrived, {} duplicates; lost {:?}, unexplained duplicates {:?}, \
             damaged {:?}",
            self.accepted, self.arrived, self.duplicates, self.lost, self.unexplained, self.damaged
        )
    }
}

/// A message with a token and a body to recognise it by.
pub fn content(token: &str, from: &str, body: &str) -> Vec<u8> {
    format!("From: <{from}>\r\nSubject: {token}\r\n{TOKEN_FIELD}{token}\r\n\r\n{body}\r\n")
        .into_bytes()
}

/// The tokens in a content: one in a message, one in a DSN that returns its header.
fn token(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let at = text.find(TOKEN_FIELD)? + TOKEN_FIELD.len();
    text[at..].split_whitespace().next().map(str::to_owned)
}

fn is_dsn(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).contains("report-type=delivery-status")
}

impl Ledger {
    pub fn accept(&mut self, token: String, accepted: Accepted) {
        self.accepted.insert(token, accepted);
    }

    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    pub fn balance(&self, arrivals: &Arrivals<'_>) -> Balance {
        let relayed = by_token(arrivals.sink.iter().map(|r| (r.content.as_slice(), Some(r.at))));
        let boxes = |dsn: bool| {
            let wanted = move |content: &&Vec<u8>| is_dsn(content) == dsn;
            by_token(arrivals.mailboxes.iter().filter(wanted).map(|c| (c.as_slice(), None)))
        };
        let (stored, reported) = (boxes(false), boxes(true));
        let double_bounced = double_bounces(arrivals.log);
        let nothing = Vec::new();
        let mut balance = Balance { accepted: self.len(), ..Balance::default() };
        for (token, accepted) in &self.accepted {
            let arrived = match accepted.destiny {
                Destiny::Relayed => relayed.get(token),
                Destiny::Stored => stored.get(token),
                Destiny::Bounced => reported.get(token),
                Destiny::DoubleBounced => double_bounced.get(&accepted.queue_id),
            };
            let arrived = arrived.unwrap_or(&nothing);
            match arrived.len() {
                0 => balance.lost.push(token.clone()),
                n => {
                    balance.arrived += 1;
                    balance.duplicates += n - 1;
                }
            }
            let whole = |a: &Arrival<'_>| a.content.ends_with(accepted.body.as_bytes());
            let shows_body = matches!(accepted.destiny, Destiny::Relayed | Destiny::Stored);
            if shows_body && !arrived.iter().all(whole) {
                balance.damaged.push(token.clone());
            }
            if !explained(arrived, arrivals.kills) {
                balance.unexplained.push(token.clone());
            }
        }
        balance
    }
}

#[derive(Debug)]
struct Arrival<'a> {
    content: &'a [u8],
    at: Option<Instant>,
}

fn by_token<'a>(
    contents: impl Iterator<Item = (&'a [u8], Option<Instant>)>,
) -> HashMap<String, Vec<Arrival<'a>>> {
    let mut found: HashMap<String, Vec<Arrival<'a>>> = HashMap::new();
    for (content, at) in contents {
        if let Some(token) = token(content) {
            let content = content.strip_suffix(b"\r\n").unwrap_or(content);
            found.entry(token).or_default().push(Arrival { content, at });
        }
    }
    found
}

/// Queue ids that the log calls double bounces.
fn double_bounces(log: &[serde_json::Value]) -> HashMap<String, Vec<Arrival<'static>>> {
    let mut found: HashMap<String, Vec<Arrival<'static>>> = HashMap::new();
    for line in log.iter().filter(|line| line["event"] == "double_bounce") {
        // The id of the job: the queue id, a full stop and a number.
        let id = line["id"].as_str().and_then(|id| id.split('.').next());
        if let Some(id) = id {
            found.entry(id.to_owned()).or_default().push(Arrival { content: b"", at: None });
        }
    }
    found
}

/// Between any two deliveries to the sink there was a kill; a mailbox holds one copy, for its file
/// name comes from the queue id. A DSN or a log line may be repeated by a kill as well.
fn explained(arrived: &[Arrival<'_>], kills: &[Instant]) -> bool {
    let mut times: Vec<Instant> = arrived.iter().filter_map(|arrival| arrival.at).collect();
    times.sort();
    if times.is_empty() {
        return arrived.len() <= 1 + kills.len();
    }
    times.windows(2).all(|pair| kills.iter().any(|kill| pair[0] <= *kill && *kill <= pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(token: &str, body: &str, at: Instant) -> Received {
        Received {
            at,
            reverse_path: String::new(),
            recipients: Vec::new(),
            content: content(token, "a@b.test", body),
        }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let accepted =
            Accepted { destiny: Destiny::Relayed, queue_id: "Q1".into(), body: "hello".into() };
        ledger.accept("T1".into(), accepted);
        ledger
    }

    #[test]
    fn what_arrived_is_clean() {
        let sink = [received("T1", "hello", Instant::now())];
        let balance = ledger().balance(&Arrivals { sink: &sink, ..Arrivals::default() });
        assert!(balance.is_clean(), "{balance}");
        assert_eq!((balance.accepted, balance.arrived), (1, 1));
    }

    #[test]
    fn what_is_missing_is_lost() {
        assert_eq!(ledger().balance(&Arrivals::default()).lost, ["T1"]);
    }

    #[test]
    fn what_was_changed_is_damaged() {
        let sink = [received("T1", "hell", Instant::now())];
        let balance = ledger().balance(&Arrivals { sink: &sink, ..Arrivals::default() });
        assert_eq!(balance.damaged, ["T1"]);
    }

    #[test]
    fn a_duplicate_needs_a_kill_in_between() {
        let (first, kill) = (Instant::now(), Instant::now());
        let sink = [received("T1", "hello", first), received("T1", "hello", Instant::now())];
        let without = ledger().balance(&Arrivals { sink: &sink, ..Arrivals::default() });
        assert_eq!(without.unexplained, ["T1"]);
        let kills = [kill];
        let with = Arrivals { sink: &sink, kills: &kills, ..Arrivals::default() };
        assert!(ledger().balance(&with).is_clean());
    }
}
