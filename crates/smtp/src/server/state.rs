//! The states of a session; each owns what is known in it and nowhere else.

use mail_types::{Reply, Severity};

use super::Event;
use super::content::{Chunk, Data};
use super::sasl::SaslStep;
use super::transaction::Transaction;

#[derive(Debug)]
pub(super) enum State {
    /// Nothing has been said yet.
    Connected,
    /// Between transactions.
    Command,
    /// After MAIL.
    Transaction(Transaction),
    /// Inside AUTH, the client's turn.
    Sasl(SaslStep),
    /// After 354.
    Data(Data),
    /// Inside the octets of a BDAT.
    Chunk(Chunk),
    /// The driver's turn.
    Asked(Question),
    /// After 220 to STARTTLS.
    Handshake,
    Closed,
}

impl State {
    /// Between transactions, telling the driver if there was one.
    pub(super) fn dropped(&self) -> Step {
        if matches!(self, Self::Transaction(_)) {
            return Step::Tell(Self::Command, Event::Reset);
        }
        Step::Go(Self::Command)
    }
}

#[derive(Debug)]
pub(super) enum Question {
    Mail(Transaction),
    Recipient(Transaction),
    /// The login that asks.
    Authenticate(Box<str>),
    Scram,
    BeginData,
    BeginChunk(Chunk),
    EndOfContent,
}

/// Where a step leads.
pub(super) enum Step {
    Go(State),
    Tell(State, Event),
}

#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) name: Box<str>,
    pub(super) dialect: Dialect,
}

/// What the client greeted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// HELO.
    Basic,
    /// EHLO.
    Extended,
}

/// A reply that refuses: ours, or one that policy gave.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Without CR LF.
    Line(&'static str),
    Reply(Box<Reply>),
}

impl Refusal {
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::Line(line) if line.starts_with('4') => Severity::Transient,
            Self::Line(_) => Severity::Permanent,
            Self::Reply(reply) => reply.severity(),
        }
    }

    pub(super) fn ends_session(&self) -> bool {
        match self {
            Self::Line(line) => line.starts_with("421"),
            Self::Reply(reply) => reply.code.value() == 421,
        }
    }
}

/// What was received, and how much of it is done with.
pub(super) struct Input<'i> {
    bytes: &'i [u8],
    at: usize,
}

impl<'i> Input<'i> {
    pub(super) fn new(bytes: &'i [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn consumed(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'i [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn consume(&mut self, octets: usize) {
        self.at += octets;
    }

    pub(super) fn consume_all(&mut self) {
        self.at = self.bytes.len();
    }
}
