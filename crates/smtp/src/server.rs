//! The server's side of a session.
//!
//! [`ServerSession::next`] takes what the client sent and says what happened; replies gather in
//! [`ServerSession::output`]. A question of policy is an [`Event`] that the driver answers by
//! [`ServerSession::answer`]; until then the session reads nothing further, and pipelined input
//! waits in the driver's buffer. The session holds no buffer but its unsent replies.

mod content;
mod replies;
mod sasl;
mod state;
mod transaction;

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mail_types::{Reply, Severity};

pub use self::replies::write_reply;
use self::state::{Dialect, Greeted, Input, Question, Refusal, State, Step};
use crate::command::{Command, CommandError, MailCommand, RcptCommand};
use crate::framing::{ContentFault, LastLine, Line, LineError, LineReader};
use crate::limits::Limits;

/// What a listener is for; it decides whether AUTH is offered or demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerKind {
    /// Mail from other servers (port 25): opportunistic STARTTLS, no AUTH.
    Relay,
    /// Mail from users (RFC 6409): STARTTLS, then AUTH, then mail.
    Submission,
    /// The same with TLS from the first octet (RFC 8314 §3.3).
    Submissions,
}

/// Whether a session that began in clear can go over to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    Offered,
    /// There is no certificate.
    Unavailable,
}

/// Whether a listener for users offers SCRAM-SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scram {
    Offered,
    /// Nobody could log in by it.
    Unavailable,
}

/// What all sessions of a listener share.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub kind: ListenerKind,
    /// Our name in the greeting and the reply to EHLO.
    pub hostname: String,
    pub starttls: StartTls,
    pub scram: Scram,
    pub limits: Limits,
}

/// What [`ServerSession::next`] found. Ranges are offsets into the input of that call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Write the output, then call again with what was not consumed and more.
    NeedInput,
    /// Write the output, drop every octet not yet read as TLS, shake hands, then call
    /// [`ServerSession::tls_started`]. A transaction that was open is gone.
    StartTls,
    /// A question: are these good?
    Authenticate(Credentials),
    /// A question: what of this, the first message of a client that logs in by SCRAM? An
    /// [`Answer::Challenge`] goes on, [`Answer::AcceptWith`] the login ends it.
    BeginScram(String),
    /// The same of the messages that answer a challenge.
    GoOnWithScram(String),
    /// A question: may a transaction begin?
    Mail(Box<MailCommand>),
    /// A question: is this recipient accepted?
    Recipient(Box<RcptCommand>),
    /// A question: is there room for content now? A refusal ends the transaction.
    BeginContent,
    /// Content, in order. [`ServerSession::refuse_content`] stops it.
    Content(Range<usize>),
    /// A question: is the message safe? A refusal ends the transaction, as does an acceptance.
    EndOfContent { octets: u64, last_line: LastLine },
    /// The open transaction and what there was of its content is void.
    Reset,
    /// Something to count.
    Noted(Note),
    /// Write the output, then close the connection.
    Close,
}

/// What a client did that the operator wants to see counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Note {
    /// Sent what it had to wait with (RFC 2920 §3.1).
    UnauthorizedPipelining,
    Line(LineError),
    Content(ContentFault),
    MessageTooLarge,
    TooManyRecipients,
    TooManyErrors,
    TooManyCommands,
    TooManyAuthFailures,
}

/// A login and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub login: String,
    password: String,
}

impl Credentials {
    pub fn new(login: impl Into<String>, password: impl Into<String>) -> Self {
        Self { login: login.into(), password: password.into() }
    }

    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

/// The driver's answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accept,
    /// Accept and add this to the text of the reply.
    AcceptWith(String),
    /// Go on with this message of SCRAM; for its questions only.
    Challenge(String),
    /// Refuse with this 4xx or 5xx; after a 421 the session is closed (RFC 5321 §3.8).
    Refuse(Reply),
}

/// What the session waits for, which decides the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaiting {
    /// A whole command line.
    Command,
    /// Any octet of content.
    Content,
    /// An answer, a handshake or the end: the driver's turn.
    Driver,
}

/// The `with` value of Received (RFC 3848, RFC 6531 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol(&'static str);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How the octets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Clear,
    Tls,
}

/// One SMTP session from the greeting to its end.
#[derive(Debug)]
pub struct ServerSession {
    config: Arc<ServerConfig>,
    transport: Transport,
    state: State,
    lines: LineReader,
    output: Vec<u8>,
    greeted: Option<Greeted>,
    identity: Option<Box<str>>,
    note: Option<Note>,
    errors: u32,
    commands: u32,
    auth_failures: u32,
}

impl ServerSession {
    pub fn new(config: Arc<ServerConfig>, transport: Transport) -> Self {
        Self {
            config,
            transport,
            state: State::Connected,
            lines: LineReader::default(),
            output: Vec::new(),
            greeted: None,
            identity: None,
            note: None,
            errors: 0,
            commands: 0,
            auth_failures: 0,
        }
    }

    /// Reads on in `bytes`: all that was received and not consumed before.
    ///
    /// Returns how many octets are done with, and what happened. The first call gives the greeting;
    /// octets that came before it are refused as those of a client that does not listen.
    pub fn next(&mut self, bytes: &[u8]) -> (usize, Event) {
        let mut input = Input::new(bytes);
        loop {
            if let Some(note) = self.note.take() {
                return (input.consumed(), Event::Noted(note));
            }
            let state = mem::replace(&mut self.state, State::Closed);
            match self.step(state, &mut input) {
                Step::Go(state) => self.state = state,
                Step::Tell(state, event) => {
                    self.state = state;
                    return (input.consumed(), event);
                }
            }
        }
    }

    /// Answers the question that [`ServerSession::next`] asked last.
    ///
    /// # Panics
    /// When no question is open, or the answer is for another: that is a bug of the driver.
    pub fn answer(&mut self, answer: Answer) {
        let State::Asked(question) = mem::replace(&mut self.state, State::Closed) else {
            panic!("answer without a question");
        };
        self.state = match answer {
            Answer::Accept => self.accept(question, None),
            Answer::AcceptWith(text) => self.accept(question, Some(&text)),
            Answer::Challenge(message) => self.challenge(&question, &message),
            Answer::Refuse(reply) => self.refuse_question(question, reply),
        };
    }

    /// TLS is up: everything the client said in clear is forgotten (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        self.transport = Transport::Tls;
        self.state = State::Command;
        self.lines = LineReader::default();
        self.greeted = None;
        self.identity = None;
    }

    /// Ends the session with a 421, as for a time limit or a stop of the server (RFC 5321 §3.8).
    pub fn stop(&mut self, reply: &Reply) {
        write_reply(reply, &mut self.output);
        self.state = State::Closed;
    }

    /// Replies that have not been written yet; the driver clears what it wrote.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The argument of HELO or EHLO.
    pub fn helo(&self) -> Option<&str> {
        self.greeted.as_ref().map(|greeted| &*greeted.name)
    }

    /// The login that was authenticated.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    pub fn kind(&self) -> ListenerKind {
        self.config.kind
    }

    /// Whether no transaction is open and no question either: the moment for a 421.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Connected | State::Command | State::Sasl(_))
    }

    pub fn awaiting(&self) -> Awaiting {
        match self.state {
            State::Command | State::Transaction(_) | State::Sasl(_) => Awaiting::Command,
            State::Data(_) | State::Chunk(_) => Awaiting::Content,
            State::Connected | State::Asked(_) | State::Handshake | State::Closed => {
                Awaiting::Driver
            }
        }
    }

    /// How long the client may take for what the session waits for; `None` on the driver's turn.
    pub fn timeout(&self) -> Option<Duration> {
        match self.awaiting() {
            Awaiting::Command => Some(self.config.limits.command_timeout),
            Awaiting::Content => Some(self.config.limits.content_timeout),
            Awaiting::Driver => None,
        }
    }

    /// What Received says of how this message came.
    pub fn protocol(&self, mail: &MailCommand) -> Protocol {
        let extended = self.is_extended();
        let tls = self.transport == Transport::Tls;
        Protocol(match (extended, mail.smtputf8, tls, self.identity.is_some()) {
            (false, ..) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (true, false, true, false) => "ESMTPS",
            (true, false, false, true) => "ESMTPA",
            (true, false, true, true) => "ESMTPSA",
            (true, true, false, false) => "UTF8SMTP",
            (true, true, true, false) => "UTF8SMTPS",
            (true, true, false, true) => "UTF8SMTPA",
            (true, true, true, true) => "UTF8SMTPSA",
        })
    }

    fn is_extended(&self) -> bool {
        self.greeted.as_ref().is_some_and(|greeted| greeted.dialect == Dialect::Extended)
    }

    fn step(&mut self, state: State, input: &mut Input<'_>) -> Step {
        match state {
            State::Connected => self.greet(input),
            State::Command | State::Transaction(_) => self.read_command(state, input),
            State::Sasl(step) => self.read_sasl(step, input),
            State::Data(data) => self.read_data(data, input),
            State::Chunk(chunk) => self.read_chunk(chunk, input),
            // Nothing is read until the driver has done its part.
            State::Asked(_) | State::Handshake => Step::Tell(state, Event::NeedInput),
            State::Closed => Step::Tell(state, Event::Close),
        }
    }

    fn greet(&mut self, input: &Input<'_>) -> Step {
        if !input.rest().is_empty() {
            return self.out_of_step();
        }
        self.say(&format!("220 {} ESMTP Postrider", self.config.hostname));
        Step::Go(State::Command)
    }

    fn read_command(&mut self, state: State, input: &mut Input<'_>) -> Step {
        let (consumed, line) = self.lines.read(input.rest(), self.line_octets_max(input.rest()));
        input.consume(consumed);
        match line {
            Line::Incomplete => Step::Tell(state, Event::NeedInput),
            Line::Refused(error) => self.refuse_line(state, error),
            Line::Complete(line) => self.obey(state, line, input),
        }
    }

    fn line_octets_max(&self, start: &[u8]) -> usize {
        let limits = &self.config.limits;
        match start.get(..5) {
            Some(verb) if verb.eq_ignore_ascii_case(b"AUTH ") => limits.auth_octets_max,
            _ => limits.command_octets_max,
        }
    }

    fn obey(&mut self, state: State, line: &[u8], input: &mut Input<'_>) -> Step {
        self.commands += 1;
        if self.commands > self.config.limits.commands_max {
            self.note = Some(Note::TooManyCommands);
            return self.close("421 4.7.0 Too many commands without a message");
        }
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error @ (CommandError::BdatSyntax | CommandError::Http)) => {
                // After BDAT comes content of unknown length; after GET come header lines.
                return self.close(error.reply());
            }
            Err(error) => return self.refuse(state, error.reply()),
        };
        if !input.rest().is_empty() && !self.may_be_followed(&command) {
            return self.out_of_step();
        }
        self.dispatch(state, command, input)
    }

    fn dispatch(&mut self, state: State, command: Command, input: &mut Input<'_>) -> Step {
        match command {
            Command::Helo(name) => self.hello(&state, name, Dialect::Basic),
            Command::Ehlo(name) => self.hello(&state, name, Dialect::Extended),
            Command::Mail(mail) => self.mail(state, mail),
            Command::Rcpt(rcpt) => self.rcpt(state, rcpt),
            Command::Data => self.data(state),
            Command::Bdat { octets, last } => self.bdat(state, octets, last),
            Command::Rset => {
                self.say("250 2.0.0 Ok");
                state.dropped()
            }
            Command::Noop => self.reply(state, "250 2.0.0 Ok"),
            Command::Quit => {
                self.say("221 2.0.0 Bye");
                Step::Go(State::Closed)
            }
            // RFC 5321 §7.3: the same for everybody, so that nothing can be harvested.
            Command::Vrfy => self.reply(state, "252 2.0.0 Send mail to find out"),
            Command::Expn => self.refuse(state, "502 5.5.1 EXPN is not implemented"),
            Command::Help => self.reply(state, "214 2.0.0 See RFC 5321"),
            Command::StartTls => self.starttls(state, input),
            Command::Auth { mechanism, initial } => self.auth(state, mechanism, initial),
        }
    }

    /// RFC 2920 §3.1; without EHLO a client cannot know that it may pipeline at all.
    ///
    /// After STARTTLS and QUIT the rest of the input is dropped instead.
    fn may_be_followed(&self, command: &Command) -> bool {
        let rest_is_dropped = matches!(command, Command::StartTls | Command::Quit);
        rest_is_dropped || self.is_extended() && !command.ends_group()
    }

    fn hello(&mut self, state: &State, name: String, dialect: Dialect) -> Step {
        self.greeted = Some(Greeted { name: name.into(), dialect });
        match dialect {
            Dialect::Basic => self.say(&format!("250 {}", self.config.hostname)),
            Dialect::Extended => self.say_extensions(),
        }
        state.dropped()
    }

    fn starttls(&mut self, state: State, input: &mut Input<'_>) -> Step {
        if self.transport == Transport::Tls {
            return self.refuse(state, "503 5.5.1 TLS is already active");
        }
        if self.config.starttls == StartTls::Unavailable {
            return self.refuse(state, "502 5.5.1 STARTTLS is not offered");
        }
        if !self.is_extended() {
            return self.refuse(state, "503 5.5.1 Send EHLO first");
        }
        // Whatever came with the command was not sent under TLS (CVE-2011-0411).
        input.consume_all();
        self.say("220 2.0.0 Ready to start TLS");
        Step::Tell(State::Handshake, Event::StartTls)
    }

    /// Refuses a line that the grammar never sees: 500 when it is too long
    /// (RFC 5321 §4.5.3.1.9), 501 for characters that no command may have (RFC 5321 §4.1.2).
    fn refuse_line(&mut self, state: State, error: LineError) -> Step {
        self.note = Some(Note::Line(error));
        match error {
            LineError::TooLong => self.refuse(state, "500 5.5.2 Line too long"),
            LineError::BareCr => self.refuse(state, "501 5.5.2 CR without LF"),
            LineError::Nul => self.refuse(state, "501 5.5.2 NUL in a command"),
            LineError::BareLf => self.close("501 5.5.2 LF without CR, closing"),
        }
    }

    fn out_of_step(&mut self) -> Step {
        self.note = Some(Note::UnauthorizedPipelining);
        self.close("554 5.5.0 Input before its turn (RFC 2920), closing")
    }

    fn reply(&mut self, state: State, line: &str) -> Step {
        self.say(line);
        Step::Go(state)
    }

    /// Refuses with a line, and counts it when the client is at fault.
    fn refuse(&mut self, state: State, line: &'static str) -> Step {
        Step::Go(self.give(state, Refusal::Line(line)))
    }

    fn close(&mut self, line: &str) -> Step {
        self.say(line);
        Step::Go(State::Closed)
    }

    /// Gives a refusal; returns `state`, or the end when it was one refusal too many or a 421.
    fn give(&mut self, state: State, refusal: Refusal) -> State {
        if refusal.severity() == Severity::Permanent {
            self.errors += 1;
            if self.errors > self.config.limits.errors_max {
                self.note = Some(Note::TooManyErrors);
                self.say("421 4.7.0 Too many errors");
                return State::Closed;
            }
        }
        match &refusal {
            Refusal::Line(line) => self.say(line),
            Refusal::Reply(reply) => write_reply(reply, &mut self.output),
        }
        if refusal.ends_session() { State::Closed } else { state }
    }

    fn accept(&mut self, question: Question, text: Option<&str>) -> State {
        match question {
            Question::Mail(transaction) => {
                self.say("250 2.1.0 Ok");
                State::Transaction(transaction)
            }
            Question::Recipient(transaction) => {
                self.say("250 2.1.5 Ok");
                self.commands = self.commands.saturating_sub(1);
                State::Transaction(transaction.with_recipient())
            }
            Question::Authenticate(login) => {
                self.say("235 2.7.0 Authentication successful");
                self.identity = Some(login);
                State::Command
            }
            Question::Scram => {
                self.say("235 2.7.0 Authentication successful");
                self.identity = Some(text.unwrap_or_default().into());
                State::Command
            }
            Question::BeginData => {
                self.say("354 End data with <CR><LF>.<CR><LF>");
                State::Data(self.new_data())
            }
            Question::BeginChunk(chunk) => State::Chunk(chunk),
            Question::EndOfContent => {
                self.say_accepted(text);
                (self.errors, self.commands) = (0, 0);
                State::Command
            }
        }
    }

    fn refuse_question(&mut self, question: Question, reply: Reply) -> State {
        let refusal = Refusal::Reply(Box::new(reply));
        match question {
            Question::Mail(_) | Question::BeginData | Question::EndOfContent => {
                self.give(State::Command, refusal)
            }
            Question::Recipient(transaction) => {
                self.give(State::Transaction(transaction.with_refusal()), refusal)
            }
            Question::Authenticate(_) | Question::Scram => self.refuse_authentication(refusal),
            Question::BeginChunk(chunk) => State::Chunk(chunk.refused(refusal)),
        }
    }
}
