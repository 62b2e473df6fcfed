//! One connection: octets to the core, its questions to policy, its replies back.

mod content;
mod forwards;
mod header;
mod prefix;
mod scram;
mod transaction;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use domains::{Claimant, Identity, Table};
use mail_types::Reply;
use runtime::trace::{self, TARGET};
use senders::Refusal;
use smtp::{
    Answer, Awaiting, Credentials, Event, MailCommand, RcptCommand, ServerSession, Transport,
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{Span, debug_span, field};

use self::scram::ScramLogin;
use self::transaction::Transaction;
use crate::auth::{Hashes, Verdict};
use crate::clients::ClientKey;
use crate::deadline::Deadline;
use crate::metrics::{End, fault, listener};
use crate::policy::{self, Policy};
use crate::port::Port;
use crate::replies::{self, Canned};
use crate::shared::Shared;
use crate::stream::Stream;

/// Room for command lines: what an active session without content holds.
const COMMAND_ROOM: usize = 4 * 1024;
/// Room for the first octets of content: most messages fit.
const FIRST_CONTENT_ROOM: usize = 16 * 1024;
/// Room for more of it.
const CONTENT_ROOM: usize = 64 * 1024;
/// Replies of a group are gathered up to this, then written even if input is left.
const OUTPUT_MAX: usize = 16 * 1024;
/// How long we listen after we closed, so that our last reply is not lost in a reset.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client that was cut off is given to take the reply that says so.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A session with what it needs to decide.
pub(crate) struct Session {
    shared: Arc<Shared>,
    port: Arc<Port>,
    core: ServerSession,
    stream: Stream,
    buffer: BytesMut,
    peer: SocketAddr,
    client: ClientKey,
    deadline: Deadline,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    tls: Option<String>,
    /// Who the client is by its certificate, where it was asked and an authority says so.
    certificate: Option<String>,
    login: Option<Login>,
    scram: Option<Box<ScramLogin>>,
    transaction: Option<Box<Transaction>>,
    had_transaction: bool,
    /// When content that trickles is given up.
    content_until: Instant,
}

/// Who logged in, and by what.
struct Login {
    identity: Identity,
    hash: String,
    /// The table that this is true of.
    table: Arc<Table>,
}

impl Login {
    fn new(claimant: Claimant, hash: String, table: Arc<Table>) -> Option<Self> {
        let Claimant::Somebody(identity) = claimant else { return None };
        identity.password_hashes().contains(&hash).then_some(Self { identity, hash, table })
    }
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        port: Arc<Port>,
        stream: Stream,
        peer: SocketAddr,
        stop: CancellationToken,
    ) -> Self {
        let transport = match &stream {
            Stream::Clear(_) | Stream::Gone => Transport::Clear,
            Stream::Tls(_) => Transport::Tls,
        };
        let core = ServerSession::new(port.session(shared.scram()), transport);
        Self {
            core,
            tls: stream.tls(),
            certificate: stream.client_name(&port),
            port,
            stream,
            buffer: BytesMut::new(),
            peer,
            client: ClientKey::of(peer.ip()),
            deadline: Deadline::after(shared.times.command),
            stop: Box::pin(stop.cancelled_owned()),
            login: None,
            scram: None,
            transaction: None,
            had_transaction: false,
            content_until: Instant::now(),
            shared,
        }
    }

    /// Serves the client until one of us ends it, or `abort` does.
    pub(crate) async fn run(mut self, abort: CancellationToken) -> End {
        // Not cancel-safe, and need not be: a draft that was not committed is discarded.
        tokio::select! {
            end = self.serve() => return end,
            () = abort.cancelled() => {}
        }
        let goodbye = self.say_goodbye(replies::STOPPING, End::Aborted);
        tokio::time::timeout(LAST_WORD, Box::pin(goodbye)).await.unwrap_or(End::Aborted)
    }

    async fn serve(&mut self) -> End {
        if self.tls.is_none() && self.stream.has_unread() {
            // The core refuses whatever comes before the greeting.
            self.buffer.extend_from_slice(b"\0");
        }
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
            // A thousand commands in one packet are no reason for other sessions to wait.
            tokio::task::consume_budget().await;
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        let (consumed, event) = self.core.next(&self.buffer);
        if let Event::Content(range) = event {
            let octets = self.buffer.split_to(consumed).freeze().slice(range);
            return self.take_content(octets).await;
        }
        self.buffer.advance(consumed);
        let answer = match event {
            Event::NeedInput => return self.exchange().await,
            Event::StartTls => return self.start_tls().await,
            Event::Close => return Err(self.close().await),
            Event::Noted(note) => {
                self.shared.metrics.noted(note);
                tracing::info!(event = "client_fault", client = %self.peer, fault = fault(note));
                return Ok(());
            }
            Event::Reset | Event::Content(_) => {
                self.transaction = None;
                return Ok(());
            }
            Event::Authenticate(credentials) => self.authenticate(credentials).await,
            Event::BeginScram(message) => self.begin_scram(&message).await,
            Event::GoOnWithScram(message) => self.go_on_with_scram(&message).await,
            Event::Mail(mail) => self.mail(*mail).await,
            Event::Recipient(rcpt) => self.recipient(*rcpt).await,
            Event::BeginContent => self.begin_content().await,
            Event::EndOfContent { last_line, .. } => self.end_of_content(last_line).await,
        };
        self.core.answer(answer);
        if self.core.output().len() > OUTPUT_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes the replies and reads what the client says to them.
    async fn exchange(&mut self) -> Result<(), End> {
        let replied = !self.core.output().is_empty();
        self.flush().await?;
        let room = self.set_deadline(replied);
        // Cancel-safe: octets are in the buffer or still in the socket; the others hold nothing.
        tokio::select! {
            biased;
            read = self.stream.read(&mut self.buffer, room) => match read {
                Ok(0) | Err(_) => Err(End::Disconnected),
                Ok(_) => Ok(()),
            },
            () = &mut self.stop, if self.core.is_idle() => {
                Err(self.say_goodbye(replies::STOPPING, End::Stopped).await)
            }
            () = self.deadline.passed() => {
                Err(self.say_goodbye(replies::TIMEOUT, End::Timeout).await)
            }
        }
    }

    /// Sets the time for what is awaited and returns how much to read.
    ///
    /// A command has one time limit, however slowly it drips in; content has one for each block and
    /// one for all of it.
    fn set_deadline(&mut self, replied: bool) -> usize {
        match self.core.awaiting() {
            Awaiting::Command | Awaiting::Driver => {
                if replied {
                    let command = Instant::now() + self.shared.times.command;
                    // Between two BDAT the message is still being received: pauses count.
                    let in_content = self.transaction.as_ref().is_some_and(|t| t.content.is_some());
                    let until = if in_content { command.min(self.content_until) } else { command };
                    self.deadline.set_at(until);
                }
                COMMAND_ROOM
            }
            Awaiting::Content => {
                let block = Instant::now() + self.shared.times.content;
                self.deadline.set_at(block.min(self.content_until));
                let fresh = self.transaction.as_ref().is_none_or(|open| open.octets() == 0);
                if fresh { FIRST_CONTENT_ROOM } else { CONTENT_ROOM }
            }
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.core.output().is_empty() {
            return Ok(());
        }
        let output = std::mem::take(self.core.output());
        self.deadline.set(self.shared.times.write);
        // Not cancel-safe, and need not be: when time is up the session ends.
        tokio::select! {
            biased;
            written = self.stream.write_all(&output) => written.map_err(|_| End::Disconnected),
            () = self.deadline.passed() => Err(End::Timeout),
        }
    }

    async fn start_tls(&mut self) -> Result<(), End> {
        self.transaction = None;
        self.flush().await?;
        self.buffer = BytesMut::new();
        // Only a listener with certificates offers STARTTLS.
        let Some(acceptor) = self.port.acceptor() else { return Err(End::Closed) };
        let Some(tcp) = self.stream.take_clear() else { return Err(End::Closed) };
        // Boxed: a handshake is large, and every idle session would carry room for it.
        let shake_hands = Box::pin(self.shared.shake_hands(acceptor, tcp));
        self.stream = Stream::Tls(shake_hands.await.ok_or(End::Disconnected)?);
        self.tls = self.stream.tls();
        self.certificate = self.stream.client_name(&self.port);
        self.core.tls_started();
        self.deadline.set(self.shared.times.command);
        Ok(())
    }

    /// Writes what is left and closes, without a reset that could overtake it.
    async fn close(&mut self) -> End {
        self.transaction = None;
        if self.flush().await.is_err() {
            return End::Disconnected;
        }
        if !self.stream.has_unread() && self.stream.tls().is_none() {
            return End::Closed;
        }
        // Boxed, since it is rare; what it leaves unread nobody reads.
        let _ = Box::pin(tokio::time::timeout(LINGER, self.linger())).await;
        End::Closed
    }

    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut left = 16;
        while left > 0
            && self.stream.read(&mut self.buffer, CONTENT_ROOM).await.is_ok_and(|n| n > 0)
        {
            self.buffer.clear();
            left -= 1;
        }
    }

    async fn say_goodbye(&mut self, canned: Canned, end: End) -> End {
        self.core.stop(&canned.reply());
        self.close().await;
        end
    }

    async fn authenticate(&mut self, credentials: Credentials) -> Answer {
        let (table, claimant) = match self.shared.claimant(&credentials.login, self.peer).await {
            Ok(found) => found,
            Err(refusal) => return self.refuse("auth", refusal),
        };
        let hashes = Hashes::of(&claimant);
        let verdict = self.shared.authenticator.check(self.client, &credentials, hashes).await;
        let (result, refusal) = match verdict {
            Verdict::Accepted(hash) => {
                self.log_in(claimant, hash, table);
                return Answer::Accept;
            }
            Verdict::Rejected => ("rejected", replies::BAD_CREDENTIALS),
            Verdict::Blocked => ("blocked", replies::TOO_MANY_FAILURES),
            Verdict::Busy => ("busy", replies::AUTH_BUSY),
        };
        self.refuse_login(&credentials.login, result, refusal)
    }

    fn log_in(&mut self, claimant: Claimant, hash: String, table: Arc<Table>) {
        self.login = Login::new(claimant, hash, table);
        if let Some(Login { identity, hash, .. }) = &self.login {
            self.shared.uses.note(identity, hash, listener(self.core.kind()));
        }
        self.shared.metrics.authenticated("accepted");
    }

    fn refuse_login(&self, login: &str, result: &'static str, refusal: Canned) -> Answer {
        self.shared.metrics.authenticated(result);
        tracing::info!(event = "auth_refused", client = %self.peer, ?login, result);
        self.refuse("auth", refusal)
    }

    fn identity(&self) -> Option<&Identity> {
        self.login.as_ref().map(|login| &login.identity)
    }

    async fn mail(&mut self, mail: MailCommand) -> Answer {
        if let Err(refusal) = self.renew_login().await {
            self.log_refusal("mail", &mail.reverse_path, refusal);
            return self.refuse("mail", refusal);
        }
        if let Some(Login { identity, table, .. }) = &self.login
            && !policy::may_send_from(identity, table, &mail.reverse_path)
        {
            self.log_refusal("mail", &mail.reverse_path, replies::NOT_YOUR_ADDRESS);
            return self.refuse("mail", replies::NOT_YOUR_ADDRESS);
        }
        let protocol = self.core.protocol(&mail);
        let span = self.transaction_span();
        let login = self.login.as_ref();
        let tally = login.map(|login| self.shared.sending.tally(&login.identity, &login.table));
        self.transaction = Some(Box::new(Transaction::new(mail, protocol, span, tally)));
        Answer::Accept
    }

    /// The first transaction is part of the session's trace; each later one begins a trace of its
    /// own and links to the session: ids tell messages apart, however many a client sends at once.
    fn transaction_span(&mut self) -> Span {
        let session = Span::current();
        let is_first = !std::mem::replace(&mut self.had_transaction, true);
        let span = debug_span!(
            target: TARGET,
            parent: is_first.then(|| session.id()).flatten(),
            "smtp.transaction",
            otel.kind = "server",
            network.protocol.name = "smtp",
            smtp.listener = listener(self.core.kind()),
            client.address = %self.peer.ip(),
            messaging.message.id = field::Empty,
        );
        if !is_first {
            trace::link(&span, &session);
        }
        span
    }

    /// A session may outlast what it was allowed by: a mailbox is suspended, a password revoked.
    /// While no table is known, nothing has changed.
    async fn renew_login(&mut self) -> Result<(), Canned> {
        let table = self.shared.domains.load_full();
        let (Some(login), Some(table)) = (&mut self.login, table) else { return Ok(()) };
        if Arc::ptr_eq(&login.table, &table) {
            return Ok(());
        }
        let found = self.shared.logins.find(&table, login.identity.login()).await;
        let claimant = found.map_err(|_| replies::LOGIN_UNKNOWN)?;
        *login = Login::new(claimant, login.hash.clone(), table).ok_or(replies::LOGIN_ENDED)?;
        Ok(())
    }

    async fn recipient(&mut self, rcpt: RcptCommand) -> Answer {
        let Some(table) = self.shared.domains.load_full() else {
            return self.refuse("rcpt", replies::NO_TABLE);
        };
        let Some(transaction) = &self.transaction else {
            return self.refuse("rcpt", replies::CANNOT_STORE);
        };
        let policy = Policy {
            table: &table,
            srs: self.shared.srs.as_deref(),
            identity: self.identity(),
            sender: transaction.reverse_path(),
            size: transaction.declared_size(),
            now: runtime::clock::now(),
        };
        let route = match policy.route(&rcpt.forward_path) {
            // Boxed, since it is rare: every idle session would carry room for it.
            Ok(route) if route.question.is_some() => {
                Box::pin(self.shared.call_aheads.answer_for(route)).await
            }
            route => route,
        };
        let route = match route.and_then(|route| policy.with_room(route, &self.shared.full)) {
            Ok(route) => route,
            Err(refusal) => {
                let is_certain =
                    refusal.is_transient() || self.shared.absence.is_proven(&table).await;
                let refusal = if is_certain { refusal } else { replies::NOT_CERTAIN };
                self.log_refusal("rcpt", &rcpt.forward_path, refusal);
                return self.refuse("rcpt", refusal);
            }
        };
        let Some(transaction) = &mut self.transaction else {
            return self.refuse("rcpt", replies::CANNOT_STORE);
        };
        if let Err(refusal) = transaction.count_recipient(runtime::clock::now()).await {
            return self.refuse_too_many(&refusal);
        }
        transaction.add(rcpt, route);
        Answer::Accept
    }

    /// One line an hour says that a limit is reached: whoever floods must not flood the log.
    fn refuse_too_many(&self, refusal: &Refusal) -> Answer {
        let (account, exceeded, is_news) = match refusal {
            Refusal::Exceeded { account, exceeded, is_news } => (account, exceeded, *is_news),
            Refusal::Unknown { why, is_news } => {
                if *is_news {
                    tracing::warn!(event = "sending_unknown", why);
                }
                return self.refuse("rcpt", replies::SENDING_UNKNOWN);
            }
        };
        self.shared.metrics.limited(account.scope);
        if is_news {
            tracing::warn!(
                event = "sending_limited",
                scope = %account.scope,
                account = &*account.name,
                limit = exceeded.limit,
                per = %exceeded.period,
                wait_seconds = exceeded.wait.as_secs(),
                login = self.identity().map(Identity::login),
                client = %self.peer,
            );
        }
        let reply = replies::sent_enough(account.scope, exceeded);
        self.shared.metrics.refused("rcpt", &reply);
        Answer::Refuse(reply)
    }

    fn refuse(&self, at: &'static str, canned: Canned) -> Answer {
        let reply = canned.reply();
        self.shared.metrics.refused(at, &reply);
        Answer::Refuse(reply)
    }

    /// Texts of the client are values of type `str`, which the human form quotes: an address cannot
    /// pretend to be the fields after it.
    fn log_refusal(&self, at: &'static str, subject: &dyn std::fmt::Display, canned: Canned) {
        let sender = self.transaction.as_ref().map(|open| open.reverse_path().to_string());
        tracing::info!(
            event = "refused",
            at,
            listener = listener(self.core.kind()),
            client = %self.peer,
            helo = self.core.helo(),
            sender,
            trace_id = self.transaction.as_ref().and_then(|open| open.trace_id()),
            subject = subject.to_string(),
            reply = %canned.reply(),
        );
    }

    async fn take_content(&mut self, octets: Bytes) -> Result<(), End> {
        if let Err(refusal) = self.store_content(octets).await {
            if let Some(id) = self.transaction.as_ref().and_then(|open| open.id()) {
                self.log_refusal("content", &id, refusal);
            }
            self.drop_content(refusal.reply());
        }
        Ok(())
    }

    /// The message is refused; the core reads to its end.
    fn drop_content(&mut self, reply: Reply) {
        self.shared.metrics.refused("content", &reply);
        self.transaction = None;
        self.core.refuse_content(reply);
    }
}
