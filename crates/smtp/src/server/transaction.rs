//! MAIL and RCPT (RFC 5321 §3.3).

use super::content::Chunks;
use super::state::{Question, State, Step};
use super::{Event, ListenerKind, Note, ServerSession, StartTls, Transport};
use crate::command::{MailCommand, RcptCommand};

/// What the session itself must know of an open transaction; the driver holds the rest.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    smtputf8: bool,
    pub(super) recipients: u32,
    refused: u32,
    /// What BDAT brought so far.
    pub(super) chunks: Option<Chunks>,
}

impl Transaction {
    pub(super) fn with_recipient(mut self) -> Self {
        self.recipients += 1;
        self
    }

    pub(super) fn with_refusal(mut self) -> Self {
        self.refused += 1;
        self
    }

    /// Why content cannot come now, if so.
    pub(super) fn content_refusal(&self) -> Option<&'static str> {
        match (self.recipients, self.refused) {
            (0, 0) => Some("503 5.5.1 Send RCPT first"),
            (0, _) => Some("554 5.5.1 No valid recipients"),
            _ => None,
        }
    }
}

impl ServerSession {
    pub(super) fn mail(&mut self, state: State, mail: Box<MailCommand>) -> Step {
        if let Some(line) = self.mail_refusal(&state, &mail) {
            return self.refuse(state, line);
        }
        if mail.size.is_some_and(|size| size > self.config.limits.message_octets_max) {
            self.note = Some(Note::MessageTooLarge);
            return self.refuse(state, "552 5.3.4 Message is larger than this server accepts");
        }
        let transaction = Transaction { smtputf8: mail.smtputf8, ..Transaction::default() };
        Step::Tell(State::Asked(Question::Mail(transaction)), Event::Mail(mail))
    }

    fn mail_refusal(&self, state: &State, mail: &MailCommand) -> Option<&'static str> {
        if self.greeted.is_none() {
            return Some("503 5.5.1 Send EHLO first");
        }
        if matches!(state, State::Transaction(_)) {
            return Some("503 5.5.1 A transaction is open already");
        }
        if self.config.kind != ListenerKind::Relay && self.identity.is_none() {
            let starttls = self.config.starttls == StartTls::Offered;
            return Some(if self.transport == Transport::Clear && starttls {
                "530 5.7.0 Send STARTTLS first"
            } else {
                "530 5.7.0 Authentication is required"
            });
        }
        if mail.extended && !self.is_extended() {
            return Some("555 5.5.4 Parameters need EHLO");
        }
        None
    }

    pub(super) fn rcpt(&mut self, state: State, rcpt: Box<RcptCommand>) -> Step {
        let State::Transaction(transaction) = state else {
            return self.refuse(state, "503 5.5.1 Send MAIL first");
        };
        if transaction.chunks.is_some() {
            let state = State::Transaction(transaction);
            return self.refuse(state, "503 5.5.1 Content has begun");
        }
        if rcpt.extended && !self.is_extended() {
            return self.refuse_rcpt(transaction, "555 5.5.4 Parameters need EHLO");
        }
        if rcpt.needs_smtputf8 && !transaction.smtputf8 {
            return self.refuse_rcpt(transaction, "553 5.6.7 Address needs SMTPUTF8");
        }
        if transaction.recipients >= self.config.limits.recipients_max {
            self.note = Some(Note::TooManyRecipients);
            return self.refuse_rcpt(transaction, "452 4.5.3 Too many recipients");
        }
        Step::Tell(State::Asked(Question::Recipient(transaction)), Event::Recipient(rcpt))
    }

    fn refuse_rcpt(&mut self, transaction: Transaction, line: &'static str) -> Step {
        self.refuse(State::Transaction(transaction.with_refusal()), line)
    }
}
