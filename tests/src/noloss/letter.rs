//! What the clients send: mail of every kind, each marked, and what must become of it.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::ledger::Destiny;
use crate::load::SENDER;

/// The first header field of every message; what is above it was added on the way.
pub(super) const MARK: &str = "X-Token: ";
/// Not hosted, and nobody's.
const OUTSIDER: &str = "outsider@elsewhere.test";
/// Received fields that make a loop (`receivedMax`).
const LOOP: usize = 101;
/// Octets of a line of a body.
const LINE: &str = "a line of a body\r\n";

/// Destinations, by domain.
pub(super) mod domain {
    /// Takes all but those it refuses by name.
    pub(crate) const GOOD: &str = "good";
    /// Answers the final dot late.
    pub(crate) const SLOW: &str = "slow.test";
    /// Answers the final dot with 4xx half of the time.
    pub(crate) const BUSY: &str = "busy.test";
    /// Answers the final dot with 5xx.
    pub(crate) const STRICT: &str = "strict.test";
    /// Nobody listens: its mail is cancelled by the operator after a while, with a DSN.
    pub(crate) const DEAD: &str = "dead.test";
}

/// By which door a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Submission,
    Relay,
}

/// Where a transaction must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Accepted,
    /// No recipient is taken: there is no content.
    RefusedBefore,
    /// With 5xx after the content.
    RefusedAfter,
}

/// A message that is to be sent.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) token: String,
    /// Empty: the null sender.
    pub(super) reverse_path: &'static str,
    pub(super) recipients: Vec<(String, Destiny)>,
    /// To be refused at RCPT.
    pub(super) strangers: Vec<String>,
    pub(super) end: End,
    lines: usize,
}

impl Letter {
    /// One of the kinds, at random.
    pub(super) fn draw(token: String, door: Door, rng: &mut StdRng) -> Self {
        let lines = match rng.random_range(0..200) {
            0 => 180_000,
            1..5 => 36_000,
            _ => rng.random_range(1..300),
        };
        let letter = Self {
            token,
            reverse_path: if door == Door::Relay { OUTSIDER } else { SENDER },
            recipients: Vec::new(),
            strangers: Vec::new(),
            end: End::Accepted,
            lines,
        };
        match door {
            Door::Submission => letter.submitted(rng),
            Door::Relay => letter.relayed(rng),
        }
    }

    fn submitted(mut self, rng: &mut StdRng) -> Self {
        use Destiny::{Bounced, DoubleBounced, Relayed, Stored};
        let good = |rng: &mut StdRng| format!("{}{}.test", domain::GOOD, rng.random_range(0..8));
        let of = |who: &str, domain: &str| format!("{who}-{}@{domain}", self.token);
        let bob = ("bob@local.test".to_owned(), Stored);
        let one = |address, destiny| vec![(address, destiny)];
        self.recipients = match rng.random_range(0..100) {
            0..30 => one(of("user", &good(rng)), Relayed),
            30..42 => one(of("defer", &good(rng)), Relayed),
            42..50 => one(of("refuse", &good(rng)), Bounced),
            50..54 => one(of("user", domain::STRICT), Bounced),
            54..60 => one(of("user", domain::BUSY), Relayed),
            60..66 => one(of("user", domain::SLOW), Relayed),
            66..71 => one(of("user", domain::DEAD), Bounced),
            71..80 => vec![bob],
            80..90 => vec![
                (of("user", &good(rng)), Relayed),
                (of("defer", "more.test"), Relayed),
                (of("refuse", "most.test"), Bounced),
                (of("user", domain::BUSY), Relayed),
                bob,
            ],
            90..93 => {
                self.reverse_path = "";
                one(of("user", &good(rng)), Relayed)
            }
            93..95 => {
                self.reverse_path = "";
                one(of("refuse", &good(rng)), DoubleBounced)
            }
            95..98 => {
                self.strangers = vec![of("nobody", "local.test")];
                one(of("user", &good(rng)), Relayed)
            }
            _ => {
                self.end = End::RefusedAfter;
                one(of("user", &good(rng)), Relayed)
            }
        };
        self
    }

    /// From outside, to port 25.
    fn relayed(mut self, rng: &mut StdRng) -> Self {
        let of = |who: &str, domain: &str| format!("{who}-{}@{domain}", self.token);
        let bob = ("bob@local.test".to_owned(), Destiny::Stored);
        match rng.random_range(0..10) {
            0 => self.strangers = vec![of("nobody", "local.test")],
            1 => self.strangers = vec![of("user", "good0.test")],
            2 => self.reverse_path = "",
            _ => {}
        }
        if rng.random_bool(0.1) {
            self.end = End::RefusedBefore;
            self.strangers = vec![of("nobody", "local.test")];
        } else {
            self.recipients = vec![bob];
        }
        self
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let Self { token, reverse_path, .. } = self;
        let from = if reverse_path.is_empty() { SENDER } else { reverse_path };
        let hops = if self.end == End::RefusedAfter { LOOP } else { 0 };
        let received = "Received: from a.test by b.test; 1 Jan 2026 00:00:00 +0000\r\n";
        format!(
            "{MARK}{token}\r\n{}From: <{from}>\r\nSubject: {token}\r\n\r\n{token}\r\n{}",
            received.repeat(hops),
            LINE.repeat(self.lines)
        )
        .into_bytes()
    }
}

/// The token of a message that has arrived, and a digest of what was sent.
pub(super) fn recognise(content: &[u8]) -> Option<(String, u64)> {
    let at = content.windows(MARK.len()).position(|octets| octets == MARK.as_bytes())?;
    let sent = &content[at..];
    let line = sent.split(|octet| *octet == b'\r').next()?;
    let token = std::str::from_utf8(&line[MARK.len()..]).ok()?.trim();
    Some((token.to_owned(), digest(sent)))
}

pub(super) fn digest(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_message_is_recognised_below_what_was_added() {
        let mut rng = StdRng::seed_from_u64(1);
        let content = Letter::draw("T1".into(), Door::Submission, &mut rng).content();
        let arrived = [b"Received: from x\r\n", &content[..]].concat();
        assert_eq!(recognise(&arrived), Some(("T1".into(), digest(&content))));
        assert_eq!(recognise(b"Subject: x\r\n\r\n"), None);
        let changed = [&content[..], b"x"].concat();
        assert_ne!(recognise(&changed), recognise(&arrived));
    }

    #[test]
    fn every_door_has_mail_of_every_end() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |door| -> Vec<Letter> {
            (0..500).map(|n| Letter::draw(format!("T{n}"), door, &mut rng)).collect()
        };
        let submitted = draw(Door::Submission);
        let has = |wanted: Destiny| {
            submitted.iter().flat_map(|l| &l.recipients).any(|(_, destiny)| *destiny == wanted)
        };
        for destiny in [Destiny::Relayed, Destiny::Stored, Destiny::Bounced, Destiny::DoubleBounced]
        {
            assert!(has(destiny), "{destiny:?}");
        }
        assert!(submitted.iter().any(|letter| letter.end == End::RefusedAfter));
        assert!(draw(Door::Relay).iter().any(|letter| letter.end == End::RefusedBefore));
    }
}
