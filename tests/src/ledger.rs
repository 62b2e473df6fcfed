//! The books: what was accepted against what arrived.
//!
//! Every message carries a token. At the end each token that was answered `250` must be found
//! where it belongs and nowhere else; a token found twice must be explained: by a kill or a crash
//! of the queue while the two were delivered, by a fault of the queue when it was to record that
//! one, or by the sink, which went away about the time of its `250`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

use mail_types::Timestamp;

use crate::sink::{End, Received};

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
#[derive(Debug, Default, Clone)]
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
    /// Kills of the process, or crashes of its queue.
    pub kills: &'a [Instant],
    pub unsettled: &'a [Unsettled],
}

/// The queue failed to say that it recorded an outcome of this message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    pub at: Instant,
    pub queue_id: String,
}

/// The balance.
#[derive(Debug, Default, Clone)]
pub struct Balance {
    pub accepted: usize,
    pub arrived: usize,
    pub duplicates: usize,
    /// Tokens that are nowhere, or not where they belong.
    pub lost: Vec<String>,
    /// Tokens found twice without a fault that explains it.
    pub unexplained: Vec<String>,
    /// Tokens found where they belong as well as where they do not: both delivered and bounced, or
    /// reported to the null sender.
    pub contradicted: Vec<String>,
    /// Tokens whose body was changed.
    pub damaged: Vec<String>,
}

impl Balance {
    pub fn is_clean(&self) -> bool {
        let wrong = [&self.lost, &self.unexplained, &self.contradicted, &self.damaged];
        wrong.iter().all(|tokens| tokens.is_empty())
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} accepted, {} arrived, {} duplicates; lost {:?}, unexplained duplicates {:?}, \
             contradicted {:?}, damaged {:?}",
            self.accepted,
            self.arrived,
            self.duplicates,
            self.lost,
            self.unexplained,
            self.contradicted,
            self.damaged
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
        let relayed = by_token(arrivals.sink.iter().map(|r| (r.content.as_slice(), Some(r))));
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
            let contradicted = match accepted.destiny {
                Destiny::Relayed | Destiny::Stored => reported.contains_key(token),
                Destiny::Bounced => relayed.contains_key(token),
                Destiny::DoubleBounced => {
                    relayed.contains_key(token) || reported.contains_key(token)
                }
            };
            if contradicted {
                balance.contradicted.push(token.clone());
            }
            if !explained(arrived, &accepted.queue_id, arrivals) {
                balance.unexplained.push(token.clone());
            }
        }
        balance
    }

    /// What is known of a message, for who has to find out why its token is not in the balance.
    pub fn story(&self, token: &str, arrivals: &Arrivals<'_>) -> String {
        let Some(accepted) = self.accepted.get(token) else { return String::new() };
        let mut story = format!("{token}, {accepted:?}\n");
        for at in arrivals.kills {
            story += &format!("  fault {}\n", time_of_day(*at));
        }
        let is_its =
            |received: &&Received| String::from_utf8_lossy(&received.content).contains(token);
        for received in arrivals.sink.iter().filter(is_its) {
            let (began, at) = (time_of_day(received.began), time_of_day(received.at));
            story += &format!("  sink {began} to {at}, {:?}\n", received.end);
        }
        let lines = arrivals.log.iter().map(serde_json::Value::to_string);
        for line in lines.filter(|line| line.contains(&accepted.queue_id)) {
            story += &format!("  {line}\n");
        }
        story
    }
}

/// As log lines have it.
fn time_of_day(at: Instant) -> String {
    let ago = i64::try_from(at.elapsed().as_millis()).unwrap_or_default();
    Timestamp::from_unix_ms(runtime::clock::now().unix_ms().saturating_sub(ago)).to_rfc3339()
}

#[derive(Debug)]
struct Arrival<'a> {
    content: &'a [u8],
    /// How it came to the sink, if it did.
    received: Option<&'a Received>,
}

fn by_token<'a>(
    contents: impl Iterator<Item = (&'a [u8], Option<&'a Received>)>,
) -> HashMap<String, Vec<Arrival<'a>>> {
    let mut found: HashMap<String, Vec<Arrival<'a>>> = HashMap::new();
    for (content, received) in contents {
        if let Some(token) = token(content) {
            let content = content.strip_suffix(b"\r\n").unwrap_or(content);
            found.entry(token).or_default().push(Arrival { content, received });
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
            found.entry(id.to_owned()).or_default().push(Arrival { content: b"", received: None });
        }
    }
    found
}

/// Any two deliveries to the sink have a fault between them; a mailbox holds one copy, for its file
/// name comes from the queue id. A DSN or a log line may be repeated by a kill as well.
fn explained(arrived: &[Arrival<'_>], queue_id: &str, arrivals: &Arrivals<'_>) -> bool {
    let mut received: Vec<&Received> = arrived.iter().filter_map(|a| a.received).collect();
    if received.is_empty() {
        return arrived.len() <= 1 + arrivals.kills.len();
    }
    received.sort_by_key(|received| received.at);
    received.windows(2).all(|pair| explains(pair[0], pair[1], queue_id, arrivals))
}

/// Whether a fault fell between the begin of the first and the end of the last of two deliveries.
///
/// From the begin, not the end, of the first: a queue that crashes after the lease was checked and
/// before the final dot arrives gives the job to another worker, who may even be quicker.
fn explains(first: &Received, last: &Received, queue_id: &str, arrivals: &Arrivals<'_>) -> bool {
    let between = |at: &Instant| first.began.min(last.began) <= *at && *at <= last.at;
    let unsettled = |fault: &Unsettled| fault.queue_id == queue_id && between(&fault.at);
    first.end == End::Cut
        || arrivals.kills.iter().any(between)
        || arrivals.unsettled.iter().any(unsettled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(token: &str, body: &str, at: Instant) -> Received {
        Received {
            began: at,
            at,
            client: std::net::Ipv4Addr::LOCALHOST.into(),
            hello: String::new(),
            reverse_path: String::new(),
            recipients: Vec::new(),
            content: content(token, "a@b.test", body),
            end: End::Answered,
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

    #[test]
    fn a_duplicate_is_explained_by_the_sink_or_by_the_queue() {
        let received = || received("T1", "hello", Instant::now());
        let mut sink = [received(), received()];
        let fault = |queue_id: &str| [Unsettled { at: sink[0].at, queue_id: queue_id.into() }];
        let (its, others) = (fault("Q1"), fault("Q2"));
        let unexplained = |sink: &[Received], unsettled: &[Unsettled]| {
            let arrivals = Arrivals { sink, unsettled, ..Arrivals::default() };
            ledger().balance(&arrivals).unexplained
        };
        assert_eq!(unexplained(&sink, &others), ["T1"]);
        assert!(unexplained(&sink, &its).is_empty());
        sink[1].end = End::Cut;
        assert_eq!(unexplained(&sink, &[]), ["T1"], "only the first explains the second");
        sink[0].end = End::Cut;
        assert!(unexplained(&sink, &[]).is_empty());
    }

    #[test]
    fn what_is_delivered_and_bounced_is_contradicted() {
        let sink = [received("T1", "hello", Instant::now())];
        let mailboxes = [b"report-type=delivery-status\r\nX-Token: T1\r\n".to_vec()];
        let arrivals = Arrivals { sink: &sink, mailboxes: &mailboxes, ..Arrivals::default() };
        assert_eq!(ledger().balance(&arrivals).contradicted, ["T1"]);
    }
}
