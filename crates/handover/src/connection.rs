//! A session on a connection: carries octets and keeps its time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use mail_types::{Recipient, Reply};
use smtp::client::{
    Capabilities, ClientConfig, ClientSession, Credentials, Event, Mail, RecipientResult,
    SessionError, Step,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

/// How much is read at a time; replies are short.
const READ_BYTES: usize = 2048;
/// How much encoded content is collected before it is written.
const WRITE_BYTES: usize = 64 * 1024;
/// How long a goodbye may take to be sent.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How AUTH ended.
#[derive(Debug)]
pub enum Authentication {
    Done,
    NotOffered,
    Refused(Reply),
}

/// An open connection with its session.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    session: ClientSession,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S, config: ClientConfig) -> Self {
        Self { stream, session: ClientSession::new(config) }
    }

    /// With a session that has begun on another stream, such as the one below TLS.
    pub fn resumed(stream: S, session: ClientSession) -> Self {
        Self { stream, session }
    }

    pub fn into_parts(self) -> (S, ClientSession) {
        (self.stream, self.session)
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn capabilities(&self) -> &Capabilities {
        self.session.capabilities()
    }

    /// Whether another transaction may begin on it.
    pub fn is_idle(&self) -> bool {
        self.session.is_idle()
    }

    /// Whether the peer has been silent, as it should between transactions.
    pub fn is_quiet(&mut self) -> bool {
        let mut space = [0; 1];
        let mut buffer = ReadBuf::new(&mut space);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut buffer).is_pending()
    }

    /// Waits for the greeting and for what the server offers.
    pub async fn ready(&mut self) -> Result<(), SessionError> {
        while self.event().await? != Event::Ready {}
        Ok(())
    }

    /// Asks for TLS; `Some` is a refusal.
    pub async fn start_tls(&mut self) -> Result<Option<Reply>, SessionError> {
        self.session.start_tls();
        loop {
            match self.event().await? {
                Event::StartTls => return Ok(None),
                Event::StartTlsRefused(reply) => return Ok(Some(reply)),
                Event::Ready | Event::Authenticated | Event::AuthRefused(_) => {}
                Event::SendContent | Event::ContentSent => {}
                Event::Finished(_) | Event::Goodbye => {}
            }
        }
    }

    /// Authenticates.
    pub async fn authenticate(
        &mut self,
        credentials: &Credentials,
    ) -> Result<Authentication, SessionError> {
        if !self.session.authenticate(credentials) {
            return Ok(Authentication::NotOffered);
        }
        loop {
            match self.event().await? {
                Event::Authenticated => return Ok(Authentication::Done),
                Event::AuthRefused(reply) => return Ok(Authentication::Refused(reply)),
                Event::Ready | Event::StartTls | Event::StartTlsRefused(_) => {}
                Event::SendContent | Event::ContentSent => {}
                Event::Finished(_) | Event::Goodbye => {}
            }
        }
    }

    /// Begins a transaction; the answer is [`Event::SendContent`] or [`Event::Finished`].
    ///
    /// `limit` is for all of it: each reply has its own time, and there may be a hundred.
    pub async fn begin(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = &Recipient>,
        limit: Duration,
    ) -> Result<Event, SessionError> {
        self.session.begin(mail, recipients);
        self.within(limit).await
    }

    /// Begins a transaction with all of its content; the answer is [`Event::ContentSent`] or
    /// [`Event::Finished`]. Also says how many bare CRs and LFs had to be mended.
    ///
    /// `limit` is for the replies to MAIL and RCPT; [`Self::reply_to_content`] waits for the last.
    pub async fn begin_whole(
        &mut self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = &Recipient>,
        content: &[u8],
        limit: Duration,
    ) -> (Result<Event, SessionError>, u64) {
        let mended = self.session.begin_whole(mail, recipients, content);
        (self.within(limit).await, mended)
    }

    /// Asks whether mail from the null sender would be taken for a recipient, and sends none.
    ///
    /// `limit` is for both replies together.
    pub async fn ask(
        &mut self,
        recipient: &Recipient,
        limit: Duration,
    ) -> Result<RecipientResult, SessionError> {
        self.session.ask(recipient);
        loop {
            match self.within(limit).await? {
                Event::Finished(mut results) => {
                    return Ok(results.pop().unwrap_or(RecipientResult::Unanswered));
                }
                Event::Ready | Event::StartTls | Event::StartTlsRefused(_) => {}
                Event::Authenticated | Event::AuthRefused(_) => {}
                Event::SendContent | Event::ContentSent | Event::Goodbye => {}
            }
        }
    }

    async fn within(&mut self, limit: Duration) -> Result<Event, SessionError> {
        // Not cancel-safe, and need not be: when time is up the session ends.
        if let Ok(answer) = timeout(limit, self.event()).await {
            return answer;
        }
        self.session.timed_out();
        self.event().await
    }

    /// Waits for what the peer says to content that it has.
    pub async fn reply_to_content(&mut self) -> Result<Event, SessionError> {
        self.event().await
    }

    /// Sends a part of the content. `Some` when the server did not wait for the end of it.
    pub async fn content(&mut self, part: &[u8]) -> Result<Option<Event>, SessionError> {
        for piece in part.chunks(WRITE_BYTES) {
            self.session.content(piece);
            if self.session.output().len() >= WRITE_BYTES
                && let Some(event) = self.write_watching().await?
            {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Writes what is left of a long content, so that the final dot does not wait behind it.
    pub async fn flush_content(&mut self) -> Result<Option<Event>, SessionError> {
        match self.session.output().len() >= WRITE_BYTES {
            true => self.write_watching().await,
            false => Ok(None),
        }
    }

    /// Sends the final dot, with what is left of a short content, and waits for the reply, or for
    /// the replies of LMTP. Also says how many bare CRs and LFs had to be mended.
    ///
    /// `limit` is for all of it: each reply has its own time, and there may be a hundred.
    pub async fn finish_content(&mut self, limit: Duration) -> (Result<Event, SessionError>, u64) {
        let mended = self.session.finish_content();
        (self.within(limit).await, mended)
    }

    pub fn step(&self) -> Step {
        self.session.step()
    }

    pub fn take_results(&mut self) -> Vec<RecipientResult> {
        self.session.take_results()
    }

    /// Says goodbye and closes. The answer is not waited for: it changes nothing.
    ///
    /// What is left of content that was refused or given up is not sent: a peer that has stopped
    /// reading it as content would read commands in it.
    pub async fn quit(mut self) {
        let is_idle = self.session.is_idle();
        if is_idle {
            self.session.quit();
        }
        let goodbye = async {
            if is_idle {
                self.stream.write_all(self.session.output()).await?;
            }
            self.stream.shutdown().await
        };
        // A peer that does not listen to a goodbye is left without one.
        let _ = timeout(QUIT_TIMEOUT, goodbye).await;
    }

    /// Waits for what the session wants next.
    async fn event(&mut self) -> Result<Event, SessionError> {
        let mut replies = self.session.replies();
        let mut deadline = Instant::now() + self.session.timeout();
        loop {
            if let Some(event) = self.session.poll() {
                return event;
            }
            self.flush().await;
            if self.session.replies() != replies {
                replies = self.session.replies();
                deadline = Instant::now() + self.session.timeout();
            }
            self.receive(deadline).await;
        }
    }

    async fn flush(&mut self) {
        if self.session.output().is_empty() {
            return;
        }
        let write = async {
            self.stream.write_all(self.session.output()).await?;
            self.stream.flush().await
        };
        match timeout(self.session.timeout(), write).await {
            Ok(Ok(())) => self.session.output_written(),
            Ok(Err(_)) => self.last_words().await,
            Err(_) => self.session.timed_out(),
        }
    }

    /// A write failed: the peer has closed. It may have said why.
    async fn last_words(&mut self) {
        let mut buffer = [0; READ_BYTES];
        let deadline = Instant::now() + QUIT_TIMEOUT;
        while let Ok(Ok(read @ 1..)) = timeout_at(deadline, self.stream.read(&mut buffer)).await {
            self.session.receive(&buffer[..read]);
        }
        self.session.disconnected();
    }

    async fn receive(&mut self, deadline: Instant) {
        let mut buffer = [0; READ_BYTES];
        match timeout_at(deadline, self.stream.read(&mut buffer)).await {
            Ok(Ok(read @ 1..)) => self.session.receive(&buffer[..read]),
            Ok(Ok(0) | Err(_)) => self.session.disconnected(),
            Err(_) => self.session.timed_out(),
        }
    }

    /// Writes all output, and reads when the peer speaks instead of taking more: it need not
    /// wait for the end of a message to refuse it.
    async fn write_watching(&mut self) -> Result<Option<Event>, SessionError> {
        let mut written = 0;
        let mut buffer = [0; READ_BYTES];
        let deadline = Instant::now() + self.session.timeout();
        while written < self.session.output().len() {
            let output = &self.session.output()[written..];
            let step = poll_fn(|cx| poll_write_or_read(&mut self.stream, cx, output, &mut buffer));
            match timeout_at(deadline, step).await {
                Ok(Ok(Moved::Written(count @ 1..))) => written += count,
                Ok(Ok(Moved::Read(count @ 1..))) => self.session.receive(&buffer[..count]),
                Ok(Ok(Moved::Written(0) | Moved::Read(0))) => self.session.disconnected(),
                Ok(Err(_)) => self.last_words().await,
                Err(_) => self.session.timed_out(),
            }
            if let Some(event) = self.session.poll() {
                return event.map(Some);
            }
        }
        self.session.output_written();
        Ok(None)
    }
}

enum Moved {
    Written(usize),
    Read(usize),
}

fn poll_write_or_read<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut std::task::Context<'_>,
    output: &[u8],
    buffer: &mut [u8],
) -> Poll<io::Result<Moved>> {
    if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, output) {
        return Poll::Ready(written.map(Moved::Written));
    }
    let mut buffer = ReadBuf::new(buffer);
    match Pin::new(stream).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(Moved::Read(buffer.filled().len()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

#[cfg(test)]
mod tests {
    use mail_types::{BodyType, Host, ReversePath};
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::task::TaskTracker;

    use super::*;

    /// Says what it is told to, one line for each that it reads; gives what came after.
    async fn peer(listener: TcpListener, replies: &'static [&'static str]) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 peer.test\r\n").await.unwrap();
        for reply in replies {
            stream.read_line(&mut String::new()).await.unwrap();
            stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
        }
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        rest
    }

    async fn begun(
        replies: &'static [&'static str],
        limit: Duration,
    ) -> (Connection<TcpStream>, Result<Event, SessionError>, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = TaskTracker::new().spawn(peer(listener, replies));
        let config = ClientConfig::new(Host::parse("own.test").unwrap());
        let mut connection = Connection::new(stream, config);
        connection.ready().await.unwrap();
        let mail = Mail {
            reverse_path: &ReversePath::Null,
            size: 100,
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        let recipient = Recipient::new("a@peer.test".parse().unwrap());
        let begun = connection.begin(&mail, std::iter::once(&recipient), limit).await;
        (connection, begun, peer)
    }

    #[tokio::test]
    async fn content_that_was_given_up_does_not_follow() {
        let replies = &["250 peer.test", "250 ok", "250 ok", "354 go on"];
        let (mut connection, begun, peer) = begun(replies, Duration::from_secs(60)).await;
        assert_eq!(begun, Ok(Event::SendContent));
        assert_eq!(connection.content(b"MAIL FROM:<>\r\n").await, Ok(None));
        connection.quit().await;
        assert_eq!(peer.await.unwrap(), "");
    }

    #[tokio::test]
    async fn all_replies_together_have_a_limit() {
        let (_, begun, _) = begun(&["250 peer.test", "250 ok"], Duration::from_millis(20)).await;
        assert!(matches!(begun, Err(SessionError::TimedOut(_))), "{begun:?}");
    }
}
