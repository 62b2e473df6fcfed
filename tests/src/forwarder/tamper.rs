//! What a forwarder before a nats-server may do to its clients: sabotage that the checkers must
//! notice.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::nats_frame::{self, HeadedPublish};
use super::{CHUNK, Gate};

const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Keys of the bucket in which partitions are owned.
const LEASES: &str = "$KV.own.l.";
const MEMBERS: &str = "$KV.own.m.";
/// How long a message that was acknowledged early is on its way: as long as it can be lost.
const HASTE: Duration = Duration::from_secs(2);
/// Messages on their way.
const HASTY_MAX: usize = 10_000;

/// A way to break what the queue relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampering {
    /// Says that mail in an intake is stored, and passes it on two seconds later: `250` before the
    /// commit.
    EarlyAnswer,
    /// Says that the record of a job is stored, and drops it: a dropped deferral.
    DropRecords,
    /// Takes the expected sequence from each record: the compare-and-set is forgotten.
    ForgetExpected,
    /// Tells each process that it is alone and that every partition is its own: doubled leases.
    DoubleLeases,
}

impl Tampering {
    /// Whether the client is told at once that this is stored.
    fn forges_answer(self, subject: &str) -> bool {
        match self {
            Self::EarlyAnswer => subject.starts_with("in."),
            Self::DropRecords => subject.starts_with("job."),
            Self::DoubleLeases => subject.starts_with(LEASES),
            Self::ForgetExpected => false,
        }
    }
}

/// From the client to the server, frame by frame.
pub(super) async fn forth(
    tampering: Tampering,
    mut from_client: OwnedReadHalf,
    to_server: OwnedWriteHalf,
    to_client: &Mutex<OwnedWriteHalf>,
    own: &Own,
    mut gate: Gate,
) -> Result<()> {
    let to_server = Arc::new(Mutex::new(to_server));
    let (later, hasty) = mpsc::channel(HASTY_MAX);
    let passing_on = pass_on_late(hasty, Arc::clone(&to_server));
    let reading = async {
        let mut client = Client { inboxes: Vec::new() };
        let mut frames = Frames::default();
        while let Some(frame) = frames.next(&mut from_client).await? {
            gate.passed().await?;
            client.learn(&frame);
            let Some(publish) = HeadedPublish::parse(&frame) else {
                to_server.lock().await.write_all(&frame).await?;
                continue;
            };
            own.learn(publish.subject);
            if tampering == Tampering::ForgetExpected {
                to_server.lock().await.write_all(&publish.without(EXPECTED)).await?;
            } else if let Some(answer) = client.answer(&publish, tampering) {
                to_client.lock().await.write_all(&answer).await?;
                if tampering == Tampering::EarlyAnswer {
                    later.send((Instant::now() + HASTE, frame)).await?;
                }
            } else {
                to_server.lock().await.write_all(&frame).await?;
            }
        }
        Ok(())
    };
    // The end of the connection takes what is on its way with it: that is the crime.
    tokio::select! { ended = reading => ended, ended = passing_on => ended }
}

/// From the server to the client, frame by frame, so that a forged answer is never within one.
pub(super) async fn back(
    tampering: Tampering,
    mut from_server: OwnedReadHalf,
    to_client: &Mutex<OwnedWriteHalf>,
    own: &Own,
    mut gate: Gate,
) -> Result<()> {
    let mut frames = Frames::default();
    while let Some(mut frame) = frames.next(&mut from_server).await? {
        gate.passed().await?;
        if tampering == Tampering::DoubleLeases {
            own.hide_others(&mut frame);
        }
        to_client.lock().await.write_all(&frame).await?;
    }
    Ok(())
}

async fn pass_on_late(
    mut hasty: mpsc::Receiver<(Instant, Vec<u8>)>,
    to_server: Arc<Mutex<OwnedWriteHalf>>,
) -> Result<()> {
    while let Some((due, frame)) = hasty.recv().await {
        tokio::time::sleep_until(due).await;
        to_server.lock().await.write_all(&frame).await?;
    }
    Ok(())
}

/// The subjects by which a client says that it is alive.
#[derive(Default)]
pub(super) struct Own(std::sync::Mutex<Vec<String>>);

impl Own {
    fn subjects(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().expect("nobody panics holding it")
    }

    fn learn(&self, subject: &str) {
        let mut subjects = self.subjects();
        if subject.starts_with(MEMBERS) && !subjects.iter().any(|known| known == subject) {
            subjects.push(subject.to_owned());
        }
    }

    /// Makes of a message about another process, or about who has a partition, one that says
    /// nothing. It is not left out: that would be noticed.
    fn hide_others(&self, frame: &mut [u8]) {
        let line = frame.split(|octet| *octet == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let Some(subject) = line.split_ascii_whitespace().nth(1) else { return };
        let at = line.find(subject).unwrap_or_default();
        if subject.starts_with(LEASES) {
            frame[at + LEASES.len() - 2] = b'x';
        } else if subject.starts_with(MEMBERS) && !self.subjects().iter().any(|own| own == subject)
        {
            frame[at + MEMBERS.len()] = b'x';
        }
    }
}

/// What a client has told of itself.
struct Client {
    /// Prefixes of the inboxes that it listens to, with the id of the subscription.
    inboxes: Vec<(String, String)>,
}

impl Client {
    fn learn(&mut self, frame: &[u8]) {
        let line = String::from_utf8_lossy(frame);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let ["SUB", subject, id] = words[..]
            && subject.starts_with("_INBOX")
        {
            let prefix = subject.trim_end_matches(['*', '>']).to_owned();
            self.inboxes.push((prefix, id.to_owned()));
        }
    }

    /// What the stream would answer to a publish that it has stored.
    fn answer(&self, publish: &HeadedPublish<'_>, tampering: Tampering) -> Option<Vec<u8>> {
        if !tampering.forges_answer(publish.subject) {
            return None;
        }
        let (_, id) = self.inboxes.iter().find(|(prefix, _)| publish.reply.starts_with(prefix))?;
        let text = r#"{"stream":"S","seq":1000000000}"#;
        let frame = format!("MSG {} {id} {}\r\n{text}\r\n", publish.reply, text.len());
        Some(frame.into_bytes())
    }
}

/// Whole frames out of a stream of octets.
#[derive(Default)]
struct Frames {
    buffered: Vec<u8>,
}

impl Frames {
    async fn next(&mut self, from: &mut OwnedReadHalf) -> Result<Option<Vec<u8>>> {
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(length) = nats_frame::length(&self.buffered) {
                return Ok(Some(self.buffered.drain(..length).collect()));
            }
            match from.read(&mut chunk).await? {
                0 => return Ok(None),
                read => self.buffered.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_hidden() {
        let own = Own::default();
        own.learn("$KV.own.m.s.me");
        let hidden = |frame: &str| {
            let mut octets = frame.as_bytes().to_vec();
            own.hide_others(&mut octets);
            String::from_utf8(octets).unwrap()
        };
        assert_eq!(hidden("MSG $KV.own.m.s.me 1 0\r\n\r\n"), "MSG $KV.own.m.s.me 1 0\r\n\r\n");
        assert_eq!(hidden("MSG $KV.own.m.s.it 1 0\r\n\r\n"), "MSG $KV.own.m.x.it 1 0\r\n\r\n");
        assert_eq!(hidden("MSG $KV.own.l.s0 1 0\r\n\r\n"), "MSG $KV.own.x.s0 1 0\r\n\r\n");
        assert_eq!(hidden("PING\r\n"), "PING\r\n");
    }

    #[test]
    fn an_answer_is_forged_for_who_waits() {
        let mut client = Client { inboxes: Vec::new() };
        client.learn(b"SUB _INBOX.abc.* 7\r\n");
        let frame = b"HPUB in.s0.t.h.M _INBOX.abc.1 12 13\r\nNATS/1.0\r\n\r\nx\r\n";
        let publish = HeadedPublish::parse(frame).unwrap();
        let answer = client.answer(&publish, Tampering::EarlyAnswer).unwrap();
        assert!(answer.starts_with(b"MSG _INBOX.abc.1 7 "));
        assert_eq!(nats_frame::length(&answer), Some(answer.len()));
        assert!(client.answer(&publish, Tampering::DropRecords).is_none());
    }
}
