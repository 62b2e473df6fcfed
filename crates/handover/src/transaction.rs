//! One message over one session: from MAIL to the reply to the final dot, or to BDAT.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use mail_types::{BodyType, Mailbox, Recipient};
use queue::{Content, ContentError, Job, Lease};
use smtp::client::{Event, Mail, RecipientResult, SessionError};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::Connection;
use crate::failure::MessageFailure;
use crate::forward;
use crate::metrics::Metrics;

/// While content is sent, the lease is renewed this often; a block of content takes less.
const RENEWAL: Duration = Duration::from_secs(60);

/// The longest content, in octets, that is sent before the recipients have been answered: refused,
/// it was sent in vain.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// How a transaction ended.
#[derive(Debug)]
pub enum Transacted {
    /// One result for each recipient of the transaction.
    Finished(Vec<RecipientResult>),
    /// The session ended first.
    Broken { error: SessionError, results: Vec<RecipientResult> },
    /// The message was not offered, or the session had to be given up because of us.
    Withheld(MessageFailure),
    /// The content is damaged for good.
    Damaged(Box<str>),
    /// The job may be somebody else's by now: nothing may be recorded.
    LeaseLost,
}

/// Why content was not sent to its end.
enum Stop {
    Session(SessionError),
    /// Refused before its end.
    Event(Event),
    Content(ContentError),
    LeaseLost,
}

impl From<SessionError> for Stop {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<ContentError> for Stop {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

/// A message, to whom it is offered, and with what.
pub struct Offer<'a, S> {
    pub connection: &'a mut Connection<S>,
    /// What the peer is called in failures.
    pub host: &'a str,
    pub lease: &'a mut dyn Lease,
    pub job: &'a Job,
    pub recipients: &'a [&'a Recipient],
    /// Whether a short message may go out in one piece.
    pub takes_whole: bool,
    /// What the commands may take in all, and the replies to the end of the content: less than the
    /// lease. Who says little, and late, is timed out and deferred rather than tried again and
    /// again without a record.
    pub limit: Duration,
    pub metrics: &'a Metrics,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Offer<'_, S> {
    /// Makes it. The connection must be idle.
    ///
    /// The lease is checked before MAIL and before the end of the content goes out, which may be
    /// the same moment: two workers never complete the same transaction, unless one of them is
    /// stopped for longer than the lease in between.
    pub async fn make(mut self) -> Transacted {
        let smtputf8 = match self.refuse_beforehand().await {
            Ok(smtputf8) => smtputf8,
            Err(ended) => return ended,
        };
        if self.lease.extend().await.is_err() {
            return Transacted::LeaseLost;
        }
        let job = self.job;
        let offered = *self.connection.capabilities();
        if job.envelope.body == BodyType::EightBitMime && !offered.eight_bit_mime {
            self.metrics.eight_bit_unannounced.inc();
        }
        let mail = mail(job, smtputf8);
        // Whoever failed once gets it the plain way: it may have been the way that failed.
        let whole = self.takes_whole && job.size <= WHOLE_BYTES_MAX && job.attempts == 0;
        let answer = match whole {
            true => self.whole(&mail).await,
            false => self.in_turn(&mail).await,
        };
        match answer {
            Ok(event) | Err(Stop::Event(event)) => self.ended(event),
            Err(Stop::Session(error)) => self.broken(error),
            Err(Stop::Content(ContentError::Damaged(what))) => Transacted::Damaged(what),
            Err(Stop::Content(ContentError::Unavailable(_))) => {
                Transacted::Withheld(MessageFailure::ContentUnavailable)
            }
            Err(Stop::LeaseLost) => Transacted::LeaseLost,
        }
    }

    /// Sees to what the server says beforehand that it will not take. `Ok`: whether SMTPUTF8 is
    /// used.
    async fn refuse_beforehand(&self) -> Result<bool, Transacted> {
        let offered = self.connection.capabilities();
        let host = || self.host.to_owned();
        let sender = self.job.reverse_path().mailbox();
        let mut addresses = self.recipients.iter().map(|recipient| &recipient.address);
        let ascii = addresses.all(Mailbox::is_ascii) && sender.is_none_or(Mailbox::is_ascii);
        let needed = self.job.envelope.smtputf8 || !ascii;
        let size = forward::size(self.job, needed && offered.smtputf8);
        if offered.size.excludes(size) {
            let failure = MessageFailure::TooLarge { host: host(), size };
            return Err(Transacted::Withheld(failure));
        }
        if !needed || offered.smtputf8 {
            return Ok(needed);
        }
        // RFC 6531 §3.2: without the extension, only what needs none of it may be sent.
        match ascii {
            true if header_is_ascii(&*self.lease).await? => Ok(false),
            true | false => Err(Transacted::Withheld(MessageFailure::NeedsSmtputf8(host()))),
        }
    }

    /// In one piece: the content, which is at hand and short, goes with the commands.
    async fn whole(&mut self, mail: &Mail<'_>) -> Result<Event, Stop> {
        let content = forward::content(&*self.lease, self.job, mail.smtputf8).await?;
        let content = all_of(content).await?;
        self.lease.extend().await.map_err(|_| Stop::LeaseLost)?;
        let recipients = self.recipients.iter().copied();
        let begun = self.connection.begin_whole(mail, recipients, &content, self.limit);
        let (begun, mended) = begun.await;
        self.metrics.line_breaks_mended.inc_by(mended);
        let event = begun?;
        if event != Event::ContentSent {
            return Ok(event);
        }
        // Nothing can be held back any more. Whether the answer may be recorded is seen then.
        let _ = self.lease.extend().await;
        Ok(self.connection.reply_to_content().await?)
    }

    /// The content once the peer asks for it.
    async fn in_turn(&mut self, mail: &Mail<'_>) -> Result<Event, Stop> {
        let recipients = self.recipients.iter().copied();
        let event = self.connection.begin(mail, recipients, self.limit).await?;
        if event != Event::SendContent {
            return Ok(event);
        }
        self.send_content(mail.smtputf8).await
    }

    async fn send_content(&mut self, smtputf8: bool) -> Result<Event, Stop> {
        let mut content = forward::content(&*self.lease, self.job, smtputf8).await?;
        let mut renewed = Instant::now();
        while let Some(chunk) = content.chunks.next().await {
            if let Some(event) = self.connection.content(&chunk?).await? {
                return Err(Stop::Event(event));
            }
            if renewed.elapsed() > RENEWAL {
                self.lease.extend().await.map_err(|_| Stop::LeaseLost)?;
                renewed = Instant::now();
            }
        }
        if let Some(event) = self.connection.flush_content().await? {
            return Err(Stop::Event(event));
        }
        self.lease.extend().await.map_err(|_| Stop::LeaseLost)?;
        let (answer, mended) = self.connection.finish_content(self.limit).await;
        self.metrics.line_breaks_mended.inc_by(mended);
        Ok(answer?)
    }

    fn ended(&mut self, event: Event) -> Transacted {
        match event {
            Event::Finished(results) => Transacted::Finished(results),
            Event::Ready
            | Event::StartTls
            | Event::StartTlsRefused(_)
            | Event::Authenticated
            | Event::AuthRefused(_)
            | Event::SendContent
            | Event::ContentSent
            | Event::Goodbye => {
                // No transaction ends so; what is left unanswered is tried again.
                self.broken(SessionError::Disconnected(self.connection.step()))
            }
        }
    }

    fn broken(&mut self, error: SessionError) -> Transacted {
        Transacted::Broken { error, results: self.connection.take_results() }
    }
}

fn mail(job: &Job, smtputf8: bool) -> Mail<'_> {
    let envelope = &job.envelope;
    Mail {
        reverse_path: job.reverse_path(),
        size: forward::size(job, smtputf8),
        body: envelope.body,
        smtputf8,
        ret: envelope.ret,
        envid: envelope.envid.as_ref(),
    }
}

async fn header_is_ascii(lease: &dyn Lease) -> Result<bool, Transacted> {
    let unread = |error| match error {
        ContentError::Damaged(what) => Transacted::Damaged(what),
        ContentError::Unavailable(_) => Transacted::Withheld(MessageFailure::ContentUnavailable),
    };
    let mut content = lease.content().await.map_err(unread)?;
    let mut line_ends = *b"\0\0\r\n";
    while let Some(chunk) = content.chunks.next().await {
        for octet in chunk.map_err(unread)? {
            line_ends.rotate_left(1);
            line_ends[3] = octet;
            if line_ends == *b"\r\n\r\n" {
                return Ok(true);
            }
            if !octet.is_ascii() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn all_of(mut content: Content) -> Result<Bytes, ContentError> {
    let mut all = match content.chunks.next().await {
        Some(chunk) => chunk?,
        None => return Ok(Bytes::new()),
    };
    while let Some(chunk) = content.chunks.next().await {
        let mut longer = BytesMut::from(all);
        longer.extend_from_slice(&chunk?);
        all = longer.freeze();
    }
    Ok(all)
}
