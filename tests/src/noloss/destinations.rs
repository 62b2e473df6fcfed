//! Where mail goes: destinations that are good, slow, busy or strict, and one that is dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::accounts::{Accounts, Arrival, Place};
use super::letter::{MARK, domain, recognise};
use crate::ports;
use crate::sink::{Keep, Manners, Moment, Received, Sink, Whim, Whims};

/// How late a slow destination answers.
const SLOW: Duration = Duration::from_secs(3);

/// All destinations; dropped, they are gone.
pub(super) struct Destinations {
    good: Sink,
    others: Vec<(&'static str, Sink)>,
    dead_port: u16,
}

impl Destinations {
    pub(super) async fn start(accounts: &Arc<Accounts>) -> Result<Self> {
        let here = "127.0.0.1:0".parse()?;
        let at_final_dot = |whim: fn() -> Option<Whim>| -> Whims {
            Arc::new(move |moment| if moment == Moment::FinalDot { whim() } else { None })
        };
        let whims = [
            (domain::SLOW, at_final_dot(|| Some(Whim::Wait(SLOW)))),
            (domain::BUSY, at_final_dot(|| rand::random::<bool>().then_some(LATER))),
            (domain::STRICT, at_final_dot(|| Some(Whim::Say("554 5.6.0 not this content")))),
        ];
        let mut others = Vec::new();
        for (name, whims) in whims {
            let manners = Manners { whims, keep: keep(accounts), ..Manners::default() };
            others.push((name, Sink::with_manners(here, manners).await?));
        }
        let judge = Arc::clone(accounts);
        let verdict = Arc::new(move |recipient: &str| {
            if recipient.starts_with("refuse-") {
                return Some("550 5.1.1 no such user");
            }
            let later = recipient.starts_with("defer-") && judge.put_off(recipient);
            later.then_some("451 4.7.1 come back later")
        });
        let manners = Manners { verdict, keep: keep(accounts), ..Manners::default() };
        let good = Sink::with_manners(here, manners).await?;
        let dead_port = ports::free_address()?.port();
        Ok(Self { good, others, dead_port })
    }

    /// Where all goes that no other route takes.
    pub(super) fn good(&self) -> &Sink {
        &self.good
    }

    /// Elements of `delivery.routes`.
    pub(super) fn routes(&self) -> Vec<String> {
        let route = |name: &str, port: u16| {
            format!("{{domain: {name}, host: \"127.0.0.1\", port: {port}}}")
        };
        let others = self.others.iter();
        let others = others.map(|(name, sink)| route(name, sink.address().port()));
        others.chain([route(domain::DEAD, self.dead_port)]).collect()
    }

    /// Transactions that have a recipient and no last reply.
    pub(super) fn in_flight(&self) -> usize {
        let others: usize = self.others.iter().map(|(_, sink)| sink.in_flight()).sum();
        self.good.in_flight() + others
    }
}

const LATER: Whim = Whim::Say("450 4.3.2 busy, come back later");

/// Books what arrives and forgets it.
fn keep(accounts: &Arc<Accounts>) -> Keep {
    let accounts = Arc::clone(accounts);
    Arc::new(move |received: Received| {
        let Some((token, digest)) = recognise(&received.content) else { return Some(received) };
        let arrival = Arrival {
            place: Place::Sink,
            began: received.began,
            at: received.at,
            digest: Some(digest),
            queue_id: queue_id(&received.content),
        };
        for recipient in received.recipients {
            accounts.arrive(token.clone(), recipient, arrival.clone());
        }
        None
    })
}

/// From the trace header right above what was sent, also where a DSN returns it:
/// `… with ESMTPSA id ID;`.
pub(super) fn queue_id(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let (above, _) = text.split_once(MARK)?;
    let words: Vec<&str> = above.split_ascii_whitespace().collect();
    let at = words.iter().rposition(|word| *word == "id")?;
    Some(words.get(at + 1)?.trim_end_matches(';').to_owned())
}

/// The same for what was found without having seen it come.
pub(super) fn found(place: Place, at: Instant, content: &[u8]) -> Option<(String, Arrival)> {
    let (token, digest) = recognise(content)?;
    let digest = (place == Place::Mailbox).then_some(digest);
    let queue_id = queue_id(content);
    Some((token, Arrival { place, began: at, at, digest, queue_id }))
}
