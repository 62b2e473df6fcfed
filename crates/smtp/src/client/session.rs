//! The session of a client: greeting, EHLO or LHLO, STARTTLS, AUTH, transactions, QUIT.

use std::time::Duration;

use mail_types::{BodyType, Host, Recipient, Reply, ReversePath};

use super::auth::{Credentials, Exchange};
use super::capabilities::{Capabilities, SizeLimit};
use super::command::Mail;
use super::content::ContentEncoder;
use super::protocol::Protocol;
use super::timeouts::Timeouts;
use super::transaction::{Next, RecipientResult, Step, Transaction};
use crate::reply::{ReplyError, ReplyLimits, ReplyParser};

/// Octets of an EHLO reply that are kept: some servers list a great deal.
const HELLO_TEXT_BYTES_MAX: usize = 16 * 1024;

/// What a session is told at its start.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub protocol: Protocol,
    /// Our own name, the argument of EHLO or LHLO.
    pub name: Host,
    pub timeouts: Timeouts,
    pub reply_limits: ReplyLimits,
}

impl ClientConfig {
    pub fn new(name: Host) -> Self {
        Self {
            protocol: Protocol::Smtp,
            name,
            timeouts: Timeouts::default(),
            reply_limits: ReplyLimits::default(),
        }
    }
}

/// What the driver has to do, or may do, next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The server greeted and said what it offers.
    Ready,
    /// Shake hands now, then call [`ClientSession::tls_started`].
    StartTls,
    /// The server offers STARTTLS and then refuses it; the session can go on in clear.
    StartTlsRefused(Reply),
    Authenticated,
    AuthRefused(Reply),
    /// Call [`ClientSession::content`] with the content, then
    /// [`ClientSession::finish_content`].
    SendContent,
    /// All recipients have been answered; the content, sent with them by
    /// [`ClientSession::begin_whole`], has not.
    ContentSent,
    /// The transaction is over, with one result for each recipient in the order given.
    Finished(Vec<RecipientResult>),
    /// The server answered QUIT.
    Goodbye,
}

/// Why a session ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The server closes the channel (RFC 5321 §3.8): `421`, at any step.
    #[error("at {}: {reply}", step.as_str())]
    Closing { step: Step, reply: Reply },
    /// The server greeted with a refusal, or refused EHLO and HELO, or LHLO.
    #[error("at {}: {reply}", step.as_str())]
    Refused { step: Step, reply: Reply },
    #[error("at {}: {violation}", step.as_str())]
    Protocol { step: Step, violation: Violation },
    #[error("connection lost at {}", .0.as_str())]
    Disconnected(Step),
    #[error("no answer in time at {}", .0.as_str())]
    TimedOut(Step),
}

/// How a server broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{0}")]
    Reply(#[from] ReplyError),
    /// A reply to nothing, or of a kind that has no place here, such as `250` to DATA.
    #[error("out of place: {0}")]
    Misplaced(Reply),
}

impl SessionError {
    pub fn step(&self) -> Step {
        match self {
            Self::Closing { step, .. }
            | Self::Refused { step, .. }
            | Self::Protocol { step, .. }
            | Self::Disconnected(step)
            | Self::TimedOut(step) => *step,
        }
    }
}

#[derive(Debug)]
enum State {
    Greeting,
    /// EHLO, or LHLO.
    Ehlo,
    Helo,
    Idle,
    StartTls,
    /// TLS shakes hands; nothing may be received meanwhile.
    Handshake,
    Auth(Exchange),
    Transaction(Box<Transaction>),
    Quit,
    Ended,
}

/// A session in progress. After an error it is over; [`Self::take_results`] tells what the
/// transaction had found out until then.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    parser: ReplyParser,
    state: State,
    offered: Capabilities,
    output: Vec<u8>,
    event: Option<Event>,
    error: Option<SessionError>,
    /// The last transaction was left open at the server.
    reset_needed: bool,
    replies: u64,
}

impl ClientSession {
    /// A session on a new connection: the server speaks first.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            parser: ReplyParser::new(config.reply_limits),
            config,
            state: State::Greeting,
            offered: Capabilities::default(),
            output: Vec::new(),
            event: None,
            error: None,
            reset_needed: false,
            replies: 0,
        }
    }

    /// What the server offers, as of its last EHLO reply.
    pub fn capabilities(&self) -> &Capabilities {
        &self.offered
    }

    /// Octets to be written; then call [`Self::output_written`].
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    pub fn output_written(&mut self) {
        self.output.clear();
    }

    /// The next event; then, for ever, the error that ended the session. `None` means: write the
    /// output, read the next input.
    pub fn poll(&mut self) -> Option<Result<Event, SessionError>> {
        match (self.event.take(), &self.error) {
            (Some(event), _) => Some(Ok(event)),
            (None, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        }
    }

    /// Whether a new transaction can begin.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.event.is_none() && self.error.is_none()
    }

    /// Where the session is.
    pub fn step(&self) -> Step {
        match &self.state {
            State::Greeting => Step::Greeting,
            State::Ehlo | State::Helo => self.config.protocol.hello_step(),
            State::Idle => Step::Idle,
            State::StartTls | State::Handshake => Step::StartTls,
            State::Auth(_) => Step::Auth,
            State::Transaction(transaction) => transaction.step(),
            State::Quit | State::Ended => Step::Quit,
        }
    }

    /// How long the next reply, or the writing of a block of content, may take. The wait starts
    /// anew with each reply ([`Self::replies`]), not with each octet.
    pub fn timeout(&self) -> Duration {
        let timeouts = &self.config.timeouts;
        match self.step() {
            Step::Greeting => timeouts.greeting,
            Step::Hello | Step::Lhlo | Step::StartTls | Step::Auth => timeouts.command,
            Step::Reset | Step::Idle | Step::Quit => timeouts.command,
            Step::Mail => timeouts.mail,
            Step::Rcpt => timeouts.rcpt,
            Step::Data => timeouts.data,
            Step::Content => timeouts.block,
            Step::FinalDot | Step::Bdat => timeouts.final_dot,
        }
    }

    /// How many replies have been received so far.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Takes what was read from the connection; [`Self::poll`] tells what it means.
    pub fn receive(&mut self, mut input: &[u8]) {
        while !input.is_empty() && self.error.is_none() {
            if matches!(self.state, State::Handshake | State::Ended) {
                // Sent before the handshake: not protected, not a reply (RFC 3207 §6).
                return;
            }
            let step = self.fault_step();
            match self.parser.read(&mut input) {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    self.replies += 1;
                    self.handle(reply);
                }
                Err(error) => self.fail(SessionError::Protocol { step, violation: error.into() }),
            }
        }
    }

    /// The server closed the connection, or it broke.
    pub fn disconnected(&mut self) {
        self.fail(SessionError::Disconnected(self.fault_step()));
    }

    /// The driver waited for longer than [`Self::timeout`].
    pub fn timed_out(&mut self) {
        self.fail(SessionError::TimedOut(self.fault_step()));
    }

    /// Asks for TLS (RFC 3207 §4). The session must be idle and the server offer STARTTLS.
    pub fn start_tls(&mut self) {
        debug_assert!(self.is_idle(), "STARTTLS in the middle of something");
        self.send("STARTTLS");
        self.state = State::StartTls;
    }

    /// The handshake is done: what the server said before is forgotten, EHLO comes again
    /// (RFC 3207 §4.2).
    pub fn tls_started(&mut self) {
        debug_assert!(matches!(self.state, State::Handshake), "no handshake was asked for");
        self.parser.reset();
        self.offered = Capabilities::default();
        self.hello();
    }

    /// Authenticates. `false` when the server offers no mechanism that we speak.
    pub fn authenticate(&mut self, credentials: &Credentials) -> bool {
        debug_assert!(self.is_idle(), "AUTH in the middle of something");
        match Exchange::start(&self.offered, credentials, &mut self.output) {
            Some(exchange) => {
                self.state = State::Auth(exchange);
                true
            }
            None => false,
        }
    }

    /// Begins a transaction. The session must be idle.
    pub fn begin<'a>(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl IntoIterator<Item = &'a Recipient>,
    ) {
        debug_assert!(self.is_idle(), "a transaction in the middle of something");
        let reset = std::mem::take(&mut self.reset_needed);
        let (protocol, offered, out) = (self.config.protocol, &self.offered, &mut self.output);
        let transaction = Transaction::start(protocol, reset, mail, recipients, offered, out);
        self.state = State::Transaction(Box::new(transaction));
    }

    /// Begins a transaction and sends the content with it, which saves a round trip
    /// (RFC 3030 §4.2). The session must be idle and the server offer what it takes
    /// ([`Capabilities::takes_whole`]). Returns how many bare CRs and LFs had to be mended.
    pub fn begin_whole<'a>(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl IntoIterator<Item = &'a Recipient>,
        content: &[u8],
    ) -> u64 {
        debug_assert!(self.is_idle(), "a transaction in the middle of something");
        let reset = std::mem::take(&mut self.reset_needed);
        let (content, mended) = ContentEncoder::whole(content);
        let (offered, out) = (&self.offered, &mut self.output);
        let transaction = Transaction::start_whole(reset, mail, recipients, &content, offered, out);
        self.state = State::Transaction(Box::new(transaction));
        mended
    }

    /// Asks whether mail from the null sender would be taken for a recipient, and sends none. The
    /// session must be idle; the answer is [`Event::Finished`].
    pub fn ask(&mut self, recipient: &Recipient) {
        debug_assert!(self.is_idle(), "a question in the middle of something");
        let reset = std::mem::take(&mut self.reset_needed);
        // Nobody knows how large the message will be.
        let offered = Capabilities { size: SizeLimit::NotOffered, ..self.offered };
        let mail = Mail {
            reverse_path: &ReversePath::Null,
            size: 0,
            body: BodyType::SevenBit,
            smtputf8: !recipient.address.is_ascii(),
            ret: None,
            envid: None,
        };
        let asking = Transaction::start_asking(reset, &mail, recipient, &offered, &mut self.output);
        self.state = State::Transaction(Box::new(asking));
    }

    /// Encodes a part of the content into the output.
    pub fn content(&mut self, part: &[u8]) {
        if let State::Transaction(transaction) = &mut self.state {
            transaction.content(part, &mut self.output);
        }
    }

    /// Ends the content with the final dot. Returns how many bare CRs and LFs had to be mended.
    pub fn finish_content(&mut self) -> u64 {
        match &mut self.state {
            State::Transaction(transaction) => transaction.finish(&mut self.output),
            State::Greeting | State::Ehlo | State::Helo | State::Idle | State::StartTls => 0,
            State::Handshake | State::Auth(_) | State::Quit | State::Ended => 0,
        }
    }

    /// Says goodbye. The connection may be closed without waiting for the answer.
    pub fn quit(&mut self) {
        self.send("QUIT");
        self.state = State::Quit;
    }

    /// What the transaction that was cut off had found out; empty when there was none.
    pub fn take_results(&mut self) -> Vec<RecipientResult> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Transaction(transaction) => transaction.into_results(),
            State::Greeting | State::Ehlo | State::Helo | State::Idle | State::StartTls => vec![],
            State::Handshake | State::Auth(_) | State::Quit | State::Ended => vec![],
        }
    }

    /// Where the session is when it breaks ([`Transaction::fault_step`]).
    fn fault_step(&self) -> Step {
        if let State::Transaction(transaction) = &self.state {
            return transaction.fault_step();
        }
        self.step()
    }

    fn send(&mut self, command: &str) {
        self.output.extend_from_slice(command.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn hello(&mut self) {
        self.send(&format!("{} {}", self.config.protocol.hello(), self.config.name));
        self.parser.set_text_bytes_max(HELLO_TEXT_BYTES_MAX);
        self.state = State::Ehlo;
    }

    /// Ends the session with its first error. Results that are complete stand; other events are
    /// void. A transaction stays for [`Self::take_results`].
    fn fail(&mut self, error: SessionError) {
        self.event.take_if(|event| !matches!(event, Event::Finished(_)));
        self.error.get_or_insert(error);
    }

    fn misplaced(&mut self, step: Step, reply: Reply) {
        self.fail(SessionError::Protocol { step, violation: Violation::Misplaced(reply) });
    }

    fn handle(&mut self, reply: Reply) {
        let step = self.step();
        let is_hello = step == self.config.protocol.hello_step();
        let reply = if is_hello { self.shortened(reply) } else { reply };
        if reply.code.value() == 421 {
            let step = match &self.state {
                State::Transaction(transaction) => transaction.closing_step(),
                State::Greeting | State::Ehlo | State::Helo | State::Idle | State::StartTls => step,
                State::Handshake | State::Auth(_) | State::Quit | State::Ended => step,
            };
            return self.fail(SessionError::Closing { step, reply });
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Greeting if reply.is_positive() => self.hello(),
            State::Ehlo | State::Helo if reply.is_positive() => self.greeted(&reply),
            State::Ehlo if reply.is_permanent() && self.config.protocol == Protocol::Smtp => {
                self.send(&format!("HELO {}", self.config.name));
                self.state = State::Helo;
            }
            State::Greeting | State::Ehlo | State::Helo => {
                self.fail(SessionError::Refused { step, reply });
            }
            State::StartTls => self.handle_start_tls(reply),
            State::Auth(exchange) => self.handle_auth(exchange, reply),
            State::Transaction(transaction) => self.handle_transaction(transaction, reply),
            State::Quit => self.event = Some(Event::Goodbye),
            State::Idle | State::Handshake | State::Ended => self.misplaced(step, reply),
        }
    }

    /// More is kept of a reply to EHLO than an outcome may store.
    fn shortened(&self, mut reply: Reply) -> Reply {
        if !reply.is_positive() {
            let max = self.config.reply_limits.text_bytes_max;
            reply.text.truncate(reply.text.floor_char_boundary(max));
        }
        reply
    }

    fn greeted(&mut self, reply: &Reply) {
        self.offered = Capabilities::parse(reply);
        if self.config.protocol == Protocol::Lmtp {
            // How many replies a BDAT for nobody has is not said anywhere.
            self.offered.chunking = false;
        }
        self.parser.set_text_bytes_max(self.config.reply_limits.text_bytes_max);
        self.state = State::Idle;
        self.event = Some(Event::Ready);
    }

    fn handle_start_tls(&mut self, reply: Reply) {
        if reply.is_positive() {
            self.state = State::Handshake;
            self.event = Some(Event::StartTls);
        } else {
            self.state = State::Idle;
            self.event = Some(Event::StartTlsRefused(reply));
        }
    }

    fn handle_auth(&mut self, exchange: Exchange, reply: Reply) {
        use mail_types::Severity::{Completion, Intermediate, Permanent, Transient};
        match reply.severity() {
            Completion => {
                self.state = State::Idle;
                self.event = Some(Event::Authenticated);
            }
            Transient | Permanent => {
                self.state = State::Idle;
                self.event = Some(Event::AuthRefused(reply));
            }
            Intermediate => match exchange.answer(&mut self.output) {
                Some(exchange) => self.state = State::Auth(exchange),
                None => self.misplaced(Step::Auth, reply),
            },
        }
    }

    fn handle_transaction(&mut self, mut transaction: Box<Transaction>, reply: Reply) {
        let step = transaction.fault_step();
        match transaction.handle(reply, &mut self.output) {
            Next::Wait => self.state = State::Transaction(transaction),
            Next::ContentSent => {
                self.state = State::Transaction(transaction);
                self.event = Some(Event::ContentSent);
            }
            Next::SendContent => {
                self.state = State::Transaction(transaction);
                self.event = Some(Event::SendContent);
            }
            Next::Finished => {
                self.reset_needed = transaction.is_open();
                self.state = State::Idle;
                self.event = Some(Event::Finished(transaction.into_results()));
            }
            Next::FinishedForGood => {
                self.event = Some(Event::Finished(transaction.into_results()));
            }
            Next::Misplaced(reply) => {
                self.state = State::Transaction(transaction);
                self.misplaced(step, reply);
            }
        }
    }
}
