//! Clients that keep the ingresses busy through all faults, and book every answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use super::accounts::{Accounts, Outcome, Sent};
use super::letter::{Door, End, Letter};
use crate::client::{Client, Reply, dot_stuffed};
use crate::load::SENDER;
use crate::process::PASSWORD;

/// Recipients that may be under way: more would only be waited for at the end.
const PENDING_MAX: usize = 1_500;
/// Before a client looks again for an ingress that is down, or for room.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two messages of a session, at most.
const PACE_MS: u64 = 150;
const SESSION_MESSAGES: usize = 20;

/// Where an ingress listens; it changes with each start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doors {
    pub(super) submission: SocketAddr,
    pub(super) relay: SocketAddr,
}

/// The doors of one ingress, as far as it is up.
pub(super) type Reception = Arc<ArcSwap<Option<Doors>>>;

/// Sessions that send until they are stopped.
pub(super) struct Clients {
    crowd: Arc<Crowd>,
    sessions: JoinSet<()>,
}

struct Crowd {
    accounts: Arc<Accounts>,
    stop: AtomicBool,
    next: AtomicUsize,
}

impl Clients {
    /// Six sessions for each ingress, a third of them at port 25.
    pub(super) fn start(accounts: &Arc<Accounts>, ingresses: &[Reception], seed: u64) -> Self {
        let crowd = Arc::new(Crowd {
            accounts: Arc::clone(accounts),
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
        });
        let mut sessions = JoinSet::new();
        for (ingress, reception) in ingresses.iter().enumerate() {
            for n in 0..6 {
                let door = if n % 3 == 2 { Door::Relay } else { Door::Submission };
                let session = Session {
                    crowd: Arc::clone(&crowd),
                    reception: Arc::clone(reception),
                    ingress,
                    door,
                    rng: StdRng::seed_from_u64(seed ^ ((ingress * 16 + n + 1) as u64)),
                };
                sessions.spawn(session.run());
            }
        }
        Self { crowd, sessions }
    }

    /// Lets every session finish its transaction.
    pub(super) async fn stop(mut self) {
        self.crowd.stop.store(true, Ordering::SeqCst);
        while self.sessions.join_next().await.is_some() {}
    }
}

struct Session {
    crowd: Arc<Crowd>,
    reception: Reception,
    ingress: usize,
    door: Door,
    rng: StdRng,
}

impl Session {
    fn is_stopped(&self) -> bool {
        self.crowd.stop.load(Ordering::SeqCst)
    }

    async fn run(mut self) {
        while !self.is_stopped() {
            let has_room = self.crowd.accounts.pending_count() < PENDING_MAX;
            let doors = **self.reception.load();
            if let Some(doors) = doors.filter(|_| has_room) {
                // What a session was in the middle of is booked; that it ended is no news.
                let _ = self.converse(doors).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn converse(&mut self, doors: Doors) -> Result<()> {
        let mut client = match self.door {
            Door::Submission => Client::submission(doors.submission, SENDER, PASSWORD).await?,
            Door::Relay => {
                let mut client = Client::connect(doors.relay).await?;
                client.command("EHLO elsewhere.test", 250).await?;
                client
            }
        };
        for _ in 0..SESSION_MESSAGES {
            if self.is_stopped() || self.crowd.accounts.pending_count() >= PENDING_MAX {
                break;
            }
            self.send_one(&mut client).await?;
            let pace = Duration::from_millis(self.rng.random_range(0..PACE_MS));
            tokio::time::sleep(pace).await;
        }
        client.command("QUIT", 221).await?;
        Ok(())
    }

    async fn send_one(&mut self, client: &mut Client) -> Result<()> {
        let n = self.crowd.next.fetch_add(1, Ordering::SeqCst);
        let token = format!("T{n:07}");
        let letter = Letter::draw(token.clone(), self.door, &mut self.rng);
        let content = letter.content();
        let mut sent = Sent::of(&letter, &content, self.ingress);
        let spoken = Transaction { client, sent: &mut sent, accounts: &self.crowd.accounts };
        let result = spoken.speak(&letter, &content).await;
        sent.ended = Instant::now();
        self.crowd.accounts.book(token, sent);
        result
    }
}

/// One transaction, from MAIL to its end.
struct Transaction<'a> {
    client: &'a mut Client,
    sent: &'a mut Sent,
    accounts: &'a Accounts,
}

impl Transaction<'_> {
    /// Fails when the session is over.
    async fn speak(mut self, letter: &Letter, content: &[u8]) -> Result<()> {
        let spoken = self.try_speak(letter, content).await;
        if let (Err(error), Outcome::Broken(reason)) = (&spoken, &mut self.sent.outcome) {
            *reason = format!("{error:#}");
        }
        spoken
    }

    async fn try_speak(&mut self, letter: &Letter, content: &[u8]) -> Result<()> {
        let mail = self.ask(&format!("MAIL FROM:<{}>", letter.reverse_path)).await?;
        if mail.code >= 400 {
            self.must_be_transient(&mail);
            return self.refused_before(mail).await;
        }
        self.recipients(letter).await?;
        let data = self.ask("DATA").await?;
        if data.code != 354 {
            if !self.sent.recipients.is_empty() {
                self.must_be_transient(&data);
            }
            return self.refused_before(data).await;
        }
        self.content(letter, content).await
    }

    async fn recipients(&mut self, letter: &Letter) -> Result<()> {
        self.sent.recipients.clear();
        for (recipient, destiny) in &letter.recipients {
            let reply = self.ask(&format!("RCPT TO:<{recipient}>")).await?;
            if reply.code == 250 {
                self.sent.recipients.push((recipient.clone(), *destiny));
            } else {
                self.must_be_transient(&reply);
                self.sent.refused.push(recipient.clone());
            }
        }
        for stranger in &letter.strangers {
            let reply = self.ask(&format!("RCPT TO:<{stranger}>")).await?;
            if reply.code == 250 {
                self.sent.wrong.push(format!("{stranger} was taken"));
            }
        }
        Ok(())
    }

    async fn content(&mut self, letter: &Letter, content: &[u8]) -> Result<()> {
        let counted = Counted::new(self.accounts);
        self.sent.outcome = Outcome::Unanswered(String::new());
        let sent = self.client.send(&dot_stuffed(content)).await;
        let answered = match sent {
            Ok(()) => self.client.reply().await,
            Err(error) => Err(error),
        };
        drop(counted);
        let reply = match answered {
            Ok(reply) => reply,
            Err(error) => {
                self.sent.outcome = Outcome::Unanswered(format!("{error:#}"));
                return Err(error);
            }
        };
        if letter.end == End::Accepted {
            self.must_be_transient(&reply);
        }
        self.sent.outcome = match reply.code {
            250 => {
                if letter.end != End::Accepted {
                    self.sent.wrong.push(format!("taken: {}", reply.text));
                }
                let id = reply.text.split_whitespace().last().context("no queue id")?;
                Outcome::Accepted { queue_id: id.to_owned() }
            }
            400..500 => Outcome::Deferred(reply.text.clone()),
            _ => Outcome::Refused(reply.text.clone()),
        };
        ensure!(reply.code != 421, "told to go: {}", reply.text);
        Ok(())
    }

    async fn refused_before(&mut self, reply: Reply) -> Result<()> {
        self.sent.outcome = Outcome::RefusedBefore(reply.text.clone());
        let refused = std::mem::take(&mut self.sent.recipients);
        self.sent.refused.extend(refused.into_iter().map(|(recipient, _)| recipient));
        ensure!(reply.code != 421, "told to go: {}", reply.text);
        self.client.command("RSET", 250).await?;
        Ok(())
    }

    async fn ask(&mut self, line: &str) -> Result<Reply> {
        self.client.send(format!("{line}\r\n").as_bytes()).await?;
        let reply = self.client.reply().await?;
        ensure!(reply.code != 421 || line == "DATA", "told to go: {}", reply.text);
        Ok(reply)
    }

    /// A client in the right hears no 5xx.
    fn must_be_transient(&mut self, reply: &Reply) {
        if reply.code >= 500 {
            self.sent.wrong.push(reply.text.clone());
        }
    }
}

/// A transaction between the final dot and its reply.
struct Counted<'a>(&'a Accounts);

impl<'a> Counted<'a> {
    fn new(accounts: &'a Accounts) -> Self {
        accounts.accepting.fetch_add(1, Ordering::SeqCst);
        Self(accounts)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::SeqCst);
    }
}
