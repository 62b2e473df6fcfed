//! AUTH (RFC 4954 §4) with PLAIN (RFC 4616), LOGIN, and SCRAM-SHA-256 (RFC 7677), of which the
//! driver does all but the framing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::state::{Input, Question, Refusal, State, Step};
use super::{Credentials, Event, ListenerKind, Note, Scram, ServerSession, Transport};
use crate::command::{CommandError, Mechanism};
use crate::framing::{Line, LineError};

/// What the next line from the client is.
#[derive(Debug)]
pub(super) enum SaslStep {
    Plain,
    LoginName,
    LoginPassword { login: String },
    ScramFirst,
    Scram,
}

/// `Username:` and `Password:`.
const LOGIN_NAME_PROMPT: &str = "334 VXNlcm5hbWU6";
const LOGIN_PASSWORD_PROMPT: &str = "334 UGFzc3dvcmQ6";

impl ServerSession {
    pub(super) fn auth(
        &mut self,
        state: State,
        mechanism: Mechanism,
        initial: Option<String>,
    ) -> Step {
        if let Some(line) = self.auth_refusal(&state) {
            return self.refuse(state, line);
        }
        if mechanism == Mechanism::ScramSha256 && self.config.scram == Scram::Unavailable {
            return self.refuse(state, CommandError::Mechanism.reply());
        }
        match (mechanism, initial) {
            (Mechanism::ScramSha256, None) => self.reply(State::Sasl(SaslStep::ScramFirst), "334 "),
            (Mechanism::ScramSha256, Some(initial)) => self.respond(SaslStep::ScramFirst, &initial),
            (Mechanism::Plain, None) => self.reply(State::Sasl(SaslStep::Plain), "334 "),
            (Mechanism::Login, None) => {
                self.reply(State::Sasl(SaslStep::LoginName), LOGIN_NAME_PROMPT)
            }
            (Mechanism::Plain, Some(initial)) => self.respond(SaslStep::Plain, &initial),
            (Mechanism::Login, Some(initial)) => self.respond(SaslStep::LoginName, &initial),
        }
    }

    fn auth_refusal(&self, state: &State) -> Option<&'static str> {
        if self.config.kind == ListenerKind::Relay {
            return Some("503 5.5.1 AUTH is not offered here");
        }
        if self.transport == Transport::Clear {
            return Some("538 5.7.11 Encryption is required for AUTH");
        }
        if !self.is_extended() {
            return Some("503 5.5.1 Send EHLO first");
        }
        if self.identity.is_some() {
            return Some("503 5.5.1 Already authenticated");
        }
        if matches!(state, State::Transaction(_)) {
            return Some("503 5.5.1 AUTH is not allowed in a transaction");
        }
        None
    }

    pub(super) fn read_sasl(&mut self, step: SaslStep, input: &mut Input<'_>) -> Step {
        let octets_max = self.config.limits.auth_octets_max;
        let (consumed, line) = self.lines.read(input.rest(), octets_max);
        input.consume(consumed);
        let line = match line {
            Line::Incomplete => return Step::Tell(State::Sasl(step), Event::NeedInput),
            Line::Refused(LineError::TooLong) => {
                self.note = Some(Note::Line(LineError::TooLong));
                return self.refuse(State::Command, "500 5.5.6 Line too long");
            }
            Line::Refused(error) => return self.refuse_line(State::Command, error),
            Line::Complete(line) => line,
        };
        if !input.rest().is_empty() {
            return self.out_of_step();
        }
        match std::str::from_utf8(line) {
            Ok("*") => self.refuse(State::Command, "501 5.7.0 Authentication cancelled"),
            Ok(line) => self.respond(step, line),
            Err(_) => self.refuse_response(),
        }
    }

    fn respond(&mut self, step: SaslStep, response: &str) -> Step {
        let Some(response) = decode(response) else {
            return self.refuse_response();
        };
        match step {
            SaslStep::Plain => match plain(&response) {
                Some(credentials) => ask(credentials),
                None => self.refuse_response(),
            },
            SaslStep::LoginName => {
                let next = SaslStep::LoginPassword { login: response };
                self.reply(State::Sasl(next), LOGIN_PASSWORD_PROMPT)
            }
            SaslStep::LoginPassword { login } => ask(Credentials::new(login, response)),
            SaslStep::ScramFirst => {
                Step::Tell(State::Asked(Question::Scram), Event::BeginScram(response))
            }
            SaslStep::Scram => {
                Step::Tell(State::Asked(Question::Scram), Event::GoOnWithScram(response))
            }
        }
    }

    /// The server's next message of SCRAM.
    pub(super) fn challenge(&mut self, question: &Question, message: &str) -> State {
        assert!(matches!(question, Question::Scram), "a challenge where none was asked for");
        self.say(&format!("334 {}", STANDARD.encode(message)));
        State::Sasl(SaslStep::Scram)
    }

    fn refuse_response(&mut self) -> Step {
        self.refuse(State::Command, "501 5.5.2 Bad authentication response")
    }

    pub(super) fn refuse_authentication(&mut self, refusal: Refusal) -> State {
        self.auth_failures += 1;
        if self.auth_failures >= self.config.limits.auth_failures_max {
            self.note = Some(Note::TooManyAuthFailures);
            return self.give(State::Closed, Refusal::Line("421 4.7.0 Too many failures of AUTH"));
        }
        self.give(State::Command, refusal)
    }
}

/// Base64 of UTF-8; `=` stands for nothing (RFC 4954 §4).
fn decode(response: &str) -> Option<String> {
    if response == "=" {
        return Some(String::new());
    }
    String::from_utf8(STANDARD.decode(response).ok()?).ok()
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 §2); nobody may act for another.
fn plain(response: &str) -> Option<Credentials> {
    let mut parts = response.split('\0');
    let (authzid, login, password) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && !login.is_empty();
    let same = authzid.is_empty() || authzid == login;
    (whole && same).then(|| Credentials::new(login, password))
}

fn ask(credentials: Credentials) -> Step {
    let login = credentials.login.clone().into();
    Step::Tell(State::Asked(Question::Authenticate(login)), Event::Authenticate(credentials))
}
