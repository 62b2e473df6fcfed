//! Records as JSON, and the short form of a state.

use mail_types::{EnhancedStatus, Reply, ReplyCode, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::recipients::RecipientSet;
use super::state::{Group, Place, Request, StoredState};
use super::{StoredError, VERSION};
use crate::model::{Attempt, RecipientStatus, Report};

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    // Our records have string keys only, and a `Vec` does not fail.
    serde_json::to_vec(record).expect("a record is JSON")
}

pub(super) fn decode<R: DeserializeOwned>(
    json: &[u8],
    version: impl Fn(&R) -> u32,
) -> Result<R, StoredError> {
    let read = serde_json::from_slice::<R>(json);
    let v = match &read {
        Ok(record) => version(record),
        Err(_) => serde_json::from_slice(json).map_or(VERSION, |Versioned { v }| v),
    };
    if v > VERSION {
        return Err(StoredError::Newer(v));
    }
    read.map_err(StoredError::Damaged)
}

/// A state as it is written. Hosts and texts repeat, so they are written once.
#[derive(Serialize, Deserialize)]
struct WireState {
    v: u32,
    place: Place,
    #[serde(rename = "wakeBy")]
    wake_by: Timestamp,
    attempts: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    history: Vec<WireAttempt>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<WireGroup>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    texts: Vec<String>,
    #[serde(rename = "delayReported", default, skip_serializing_if = "std::ops::Not::not")]
    delay_reported: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Request>,
}

/// A place in `texts`.
type TextIndex = u16;

/// number, at, took ms, relay, tls, delivered, deferred, bounced, reply
#[derive(Serialize, Deserialize)]
struct WireAttempt(
    u32,
    Timestamp,
    u64,
    Option<TextIndex>,
    Option<TextIndex>,
    u32,
    u32,
    u32,
    WireReply,
);

#[derive(Serialize, Deserialize)]
struct WireReply(ReplyCode, Option<EnhancedStatus>, TextIndex);

#[derive(Serialize, Deserialize)]
struct WireGroup(RecipientSet, RecipientStatus, WireReport);

/// at, remote, reply
#[derive(Serialize, Deserialize)]
struct WireReport(Timestamp, Option<TextIndex>, WireReply);

#[derive(Default)]
struct Texts(Vec<String>);

impl Texts {
    fn index(&mut self, text: &str) -> TextIndex {
        let known = self.0.iter().position(|known| known == text);
        let index = known.unwrap_or_else(|| {
            self.0.push(text.to_owned());
            self.0.len() - 1
        });
        // A state of more distinct texts than that repeats the last.
        TextIndex::try_from(index).unwrap_or(TextIndex::MAX)
    }

    fn reply(&mut self, reply: &Reply) -> WireReply {
        WireReply(reply.code, reply.status, self.index(&reply.text))
    }

    fn report(&mut self, report: &Report) -> WireReport {
        let remote = report.remote.as_ref().map(|remote| self.index(remote));
        WireReport(report.at, remote, self.reply(&report.reply))
    }

    fn attempt(&mut self, attempt: &Attempt) -> WireAttempt {
        WireAttempt(
            attempt.number,
            attempt.at,
            attempt.took_ms,
            attempt.relay.as_ref().map(|relay| self.index(relay)),
            attempt.tls.as_ref().map(|tls| self.index(tls)),
            attempt.delivered,
            attempt.deferred,
            attempt.bounced,
            self.reply(&attempt.reply),
        )
    }

    fn text(&self, index: TextIndex) -> String {
        self.0.get(usize::from(index)).cloned().unwrap_or_default()
    }

    fn boxed(&self, index: Option<TextIndex>) -> Option<Box<str>> {
        index.map(|index| self.text(index).into())
    }

    fn read_reply(&self, WireReply(code, status, text): WireReply) -> Reply {
        Reply { code, status, text: self.text(text) }
    }

    fn read_group(&self, WireGroup(recipients, status, report): WireGroup) -> Group {
        let WireReport(at, remote, reply) = report;
        let report = Report { at, remote: self.boxed(remote), reply: self.read_reply(reply) };
        Group { recipients, status, report }
    }

    fn read_attempt(&self, wire: WireAttempt) -> Attempt {
        let WireAttempt(number, at, took_ms, relay, tls, delivered, deferred, bounced, reply) =
            wire;
        let (relay, tls, reply) = (self.boxed(relay), self.boxed(tls), self.read_reply(reply));
        Attempt { number, at, took_ms, relay, tls, delivered, deferred, bounced, reply }
    }
}

impl StoredState {
    pub fn encode(&self) -> Vec<u8> {
        let mut texts = Texts::default();
        let history = self.history.iter().map(|attempt| texts.attempt(attempt)).collect();
        let group = |group: &Group| {
            WireGroup(group.recipients.clone(), group.status, texts.report(&group.report))
        };
        let recipients = self.groups.iter().map(group).collect();
        encode(&WireState {
            v: VERSION,
            place: self.place.clone(),
            wake_by: self.wake_by,
            attempts: self.attempts,
            history,
            recipients,
            texts: texts.0,
            delay_reported: self.delay_reported,
            request: self.request,
        })
    }

    pub fn decode(json: &[u8]) -> Result<Self, StoredError> {
        let wire: WireState = decode(json, |wire: &WireState| wire.v)?;
        let texts = Texts(wire.texts);
        Ok(Self {
            place: wire.place,
            wake_by: wire.wake_by,
            attempts: wire.attempts,
            history: wire.history.into_iter().map(|wire| texts.read_attempt(wire)).collect(),
            groups: wire.recipients.into_iter().map(|wire| texts.read_group(wire)).collect(),
            delay_reported: wire.delay_reported,
            request: wire.request,
        })
    }
}
