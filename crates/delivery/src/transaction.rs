//! One message over one session: from MAIL to the reply to the final dot, or to BDAT.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use mail_types::{BodyType, Mailbox, Recipient};
use queue::{Content, ContentError, Job, Lease};
use smtp::client::{Event, Mail, RecipientResult, SessionError};

use crate::failure::MessageFailure;
use crate::forward;
use crate::metrics::Metrics;
use crate::session::Session;

/// While content is sent, the lease is renewed this often; a block of content takes less.
const RENEWAL: Duration = Duration::from_secs(60);

/// The longest content, in octets, that is sent before the recipients have been answered: refused,
/// it was sent in vain.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// How a transaction ended.
#[derive(Debug)]
pub(crate) enum Transacted {
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

/// Offers the message to `recipients`, places in [`Job::recipients`].
///
/// The lease is checked before MAIL and before the end of the content goes out, which may be the
/// same moment: two workers never complete the same transaction, unless one of them is stopped for
/// longer than the lease in between.
/// Up to the content it may take `limit`, less than the lease: who says little, and late, is timed
/// out and deferred rather than tried again and again without a record.
pub(crate) async fn transact(
    session: &mut Session,
    lease: &mut dyn Lease,
    job: &Job,
    recipients: &[u32],
    limit: Duration,
    metrics: &Metrics,
) -> Transacted {
    let smtputf8 = match refuse_beforehand(session, lease, job, recipients).await {
        Ok(smtputf8) => smtputf8,
        Err(ended) => return ended,
    };
    if lease.extend().await.is_err() {
        return Transacted::LeaseLost;
    }
    session.transactions += 1;
    let offered = *session.connection.capabilities();
    if job.envelope.body == BodyType::EightBitMime && !offered.eight_bit_mime {
        metrics.eight_bit_unannounced.inc();
    }
    let mail = mail(job, smtputf8);
    let recipients = recipients.iter().map(|index| recipient(job, *index));
    let offer = Offer { job, mail: &mail, recipients, limit, metrics };
    // Whoever failed once gets it the plain way: it may have been the way that failed.
    let whole = session.takes_whole && job.size <= WHOLE_BYTES_MAX && job.attempts == 0;
    let answer = match whole {
        true => offer.whole(session, lease).await,
        false => offer.in_turn(session, lease).await,
    };
    match answer {
        Ok(event) | Err(Stop::Event(event)) => ended(session, event),
        Err(Stop::Session(error)) => broken(session, error),
        Err(Stop::Content(ContentError::Damaged(what))) => Transacted::Damaged(what),
        Err(Stop::Content(ContentError::Unavailable(_))) => {
            Transacted::Withheld(MessageFailure::ContentUnavailable)
        }
        Err(Stop::LeaseLost) => Transacted::LeaseLost,
    }
}

fn mail(job: &Job, smtputf8: bool) -> Mail<'_> {
    let envelope = &job.envelope;
    Mail {
        reverse_path: job.reverse_path(),
        size: forward::size(job),
        body: envelope.body,
        smtputf8,
        ret: envelope.ret,
        envid: envelope.envid.as_ref(),
    }
}

fn recipient(job: &Job, index: u32) -> &Recipient {
    &job.recipients[index as usize].recipient
}

/// Sees to what the server says beforehand that it will not take. `Ok`: whether SMTPUTF8 is used.
async fn refuse_beforehand(
    session: &Session,
    lease: &dyn Lease,
    job: &Job,
    recipients: &[u32],
) -> Result<bool, Transacted> {
    let offered = session.connection.capabilities();
    let host = || session.host.to_string();
    let size = forward::size(job);
    if offered.size.excludes(size) {
        let failure = MessageFailure::TooLarge { host: host(), size };
        return Err(Transacted::Withheld(failure));
    }
    let sender = job.reverse_path().mailbox();
    let mut addresses = recipients.iter().map(|index| &recipient(job, *index).address);
    let ascii = addresses.all(Mailbox::is_ascii) && sender.is_none_or(Mailbox::is_ascii);
    let needed = job.envelope.smtputf8 || !ascii;
    if !needed || offered.smtputf8 {
        return Ok(needed);
    }
    // RFC 6531 §3.2: without the extension, only what needs none of it may be sent.
    match ascii {
        true if header_is_ascii(lease).await? => Ok(false),
        true | false => Err(Transacted::Withheld(MessageFailure::NeedsSmtputf8(host()))),
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

/// What is offered, and within which time up to the content.
struct Offer<'a, R> {
    job: &'a Job,
    mail: &'a Mail<'a>,
    recipients: R,
    limit: Duration,
    metrics: &'a Metrics,
}

impl<'a, R: Iterator<Item = &'a Recipient>> Offer<'a, R> {
    /// In one piece: the content, which is at hand and short, goes with the commands.
    async fn whole(self, session: &mut Session, lease: &mut dyn Lease) -> Result<Event, Stop> {
        let Self { job, mail, recipients, limit, metrics } = self;
        let content = all_of(forward::content(lease, job).await?).await?;
        lease.extend().await.map_err(|_| Stop::LeaseLost)?;
        let connection = &mut session.connection;
        let (begun, mended) = connection.begin_whole(mail, recipients, &content, limit).await;
        metrics.line_breaks_mended.inc_by(mended);
        let event = begun?;
        if event != Event::ContentSent {
            return Ok(event);
        }
        // Nothing can be held back any more. Whether the answer may be recorded is seen then.
        let _ = lease.extend().await;
        Ok(connection.reply_to_content().await?)
    }

    /// The content once the peer asks for it.
    async fn in_turn(self, session: &mut Session, lease: &mut dyn Lease) -> Result<Event, Stop> {
        let event = session.connection.begin(self.mail, self.recipients, self.limit).await?;
        if event != Event::SendContent {
            return Ok(event);
        }
        send_content(session, lease, self.job, self.metrics).await
    }
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

async fn send_content(
    session: &mut Session,
    lease: &mut dyn Lease,
    job: &Job,
    metrics: &Metrics,
) -> Result<Event, Stop> {
    let mut content = forward::content(lease, job).await?;
    let mut renewed = Instant::now();
    while let Some(chunk) = content.chunks.next().await {
        if let Some(event) = session.connection.content(&chunk?).await? {
            return Err(Stop::Event(event));
        }
        if renewed.elapsed() > RENEWAL {
            lease.extend().await.map_err(|_| Stop::LeaseLost)?;
            renewed = Instant::now();
        }
    }
    if let Some(event) = session.connection.flush_content().await? {
        return Err(Stop::Event(event));
    }
    lease.extend().await.map_err(|_| Stop::LeaseLost)?;
    let (event, mended) = session.connection.finish_content().await?;
    metrics.line_breaks_mended.inc_by(mended);
    Ok(event)
}

fn ended(session: &mut Session, event: Event) -> Transacted {
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
            broken(session, SessionError::Disconnected(session.connection.step()))
        }
    }
}

fn broken(session: &mut Session, error: SessionError) -> Transacted {
    Transacted::Broken { error, results: session.connection.take_results() }
}
