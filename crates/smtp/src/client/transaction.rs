//! One transaction: MAIL, RCPT for each recipient, DATA, content, the final dot; or all of it in
//! one piece, with BDAT in place of DATA; or MAIL and RCPT alone, to hear what is said to them.

use mail_types::{Recipient, Reply, Severity};
use memchr::memchr;

use super::capabilities::Capabilities;
use super::command::{Mail, write_rcpt};
use super::content::ContentEncoder;
use super::protocol::Protocol;

/// Where in a session something happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    Greeting,
    Hello,
    /// The hello of LMTP.
    Lhlo,
    StartTls,
    Auth,
    /// Between transactions.
    Idle,
    Reset,
    Mail,
    Rcpt,
    Data,
    /// While content was being sent.
    Content,
    /// After the final dot: the message may have been taken.
    FinalDot,
    /// The same after content that was sent by BDAT.
    Bdat,
    Quit,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::Lhlo => "LHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Idle => "idle",
            Self::Reset => "RSET",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "content",
            Self::FinalDot => "end of DATA",
            Self::Bdat => "BDAT",
            Self::Quit => "QUIT",
        }
    }
}

/// What a transaction found out about a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecipientResult {
    /// The next hop has taken the message for it; or would, if it was only asked.
    Accepted(Reply),
    Refused {
        step: Step,
        reply: Reply,
    },
    /// The session ended before there was an answer.
    Unanswered,
}

/// What the session does after a reply.
#[derive(Debug)]
pub(super) enum Next {
    Wait,
    SendContent,
    ContentSent,
    Finished,
    /// The connection must not be used again.
    FinishedForGood,
    /// A reply that has no place here.
    Misplaced(Reply),
}

#[derive(Debug)]
enum Phase {
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    Content(ContentEncoder),
    /// After the end of the content, be it the final dot or BDAT LAST.
    Dot,
    /// The end of a transaction of which every recipient was refused.
    DiscardedDot,
}

/// The commands go out in one piece when the server offers PIPELINING (RFC 2920), else one by one.
/// With CHUNKING a short content goes with them (RFC 3030 §4.2).
#[derive(Debug)]
pub(super) struct Transaction {
    protocol: Protocol,
    phase: Phase,
    commands: Vec<u8>,
    /// How many octets of `commands` have been sent.
    sent: usize,
    /// The content has gone with the commands.
    whole: bool,
    /// There is none: it ends with the last RCPT.
    only_asks: bool,
    mail_refused: bool,
    content_refused: bool,
    /// `None` until refused, for better or worse, or accepted with the content.
    results: Vec<Option<RecipientResult>>,
    recipients_accepted: usize,
}

impl Transaction {
    pub(super) fn start<'a>(
        protocol: Protocol,
        reset: bool,
        mail: &Mail<'_>,
        recipients: impl IntoIterator<Item = &'a Recipient>,
        offered: &Capabilities,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut transaction = Self::compose(reset, mail, recipients, offered);
        transaction.protocol = protocol;
        transaction.commands.extend_from_slice(b"DATA\r\n");
        if offered.pipelining {
            transaction.sent = transaction.commands.len();
            out.append(&mut transaction.commands);
        } else {
            transaction.send_line(out);
        }
        transaction
    }

    /// Sends everything at once; `content` is as [`ContentEncoder::whole`] makes it.
    pub(super) fn start_whole<'a>(
        reset: bool,
        mail: &Mail<'_>,
        recipients: impl IntoIterator<Item = &'a Recipient>,
        content: &[u8],
        offered: &Capabilities,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut transaction = Self::compose(reset, mail, recipients, offered);
        transaction.whole = true;
        transaction.sent = transaction.commands.len();
        out.append(&mut transaction.commands);
        out.extend_from_slice(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
        out.extend_from_slice(content);
        transaction
    }

    /// Asks about a recipient and leaves the transaction open.
    pub(super) fn start_asking(
        reset: bool,
        mail: &Mail<'_>,
        recipient: &Recipient,
        offered: &Capabilities,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut transaction = Self::compose(reset, mail, [recipient], offered);
        transaction.only_asks = true;
        // One by one: after a refused MAIL there is nothing to ask.
        transaction.send_line(out);
        transaction
    }

    /// With the commands up to the last RCPT, of which none has been sent.
    fn compose<'a>(
        reset: bool,
        mail: &Mail<'_>,
        recipients: impl IntoIterator<Item = &'a Recipient>,
        offered: &Capabilities,
    ) -> Self {
        let mut commands = String::with_capacity(256);
        commands.push_str(if reset { "RSET\r\n" } else { "" });
        mail.write(offered, &mut commands);
        let mut results = Vec::new();
        for recipient in recipients {
            write_rcpt(recipient, offered, &mut commands);
            results.push(None);
        }
        Self {
            protocol: Protocol::Smtp,
            phase: if reset { Phase::Reset } else { Phase::Mail },
            commands: commands.into_bytes(),
            sent: 0,
            whole: false,
            only_asks: false,
            mail_refused: false,
            content_refused: false,
            results,
            recipients_accepted: 0,
        }
    }

    pub(super) fn step(&self) -> Step {
        match self.phase {
            Phase::Reset => Step::Reset,
            Phase::Mail => Step::Mail,
            Phase::Rcpt(_) => Step::Rcpt,
            Phase::Data => Step::Data,
            Phase::Content(_) => Step::Content,
            Phase::Dot | Phase::DiscardedDot if self.whole => Step::Bdat,
            Phase::Dot | Phase::DiscardedDot => Step::FinalDot,
        }
    }

    /// Where a fault leaves the transaction: when all has been sent, whatever is lost is lost
    /// after the end of the content, and the message may have been taken.
    pub(super) fn fault_step(&self) -> Step {
        if self.whole { Step::Bdat } else { self.step() }
    }

    /// Where a `421` leaves it. Who says so to a recipient may yet take the message for those
    /// before, if the channel is not closed as it should be.
    pub(super) fn closing_step(&self) -> Step {
        match self.phase {
            Phase::Reset | Phase::Mail => self.step(),
            Phase::Rcpt(_) | Phase::Data | Phase::Content(_) | Phase::Dot | Phase::DiscardedDot => {
                self.fault_step()
            }
        }
    }

    /// Whether RSET must come before the next transaction: the server still has this one open. It
    /// must too after a BDAT that failed (RFC 3030 §2).
    pub(super) fn is_open(&self) -> bool {
        match self.phase {
            Phase::Dot | Phase::DiscardedDot => self.whole && self.content_refused,
            Phase::Reset | Phase::Mail | Phase::Rcpt(_) | Phase::Data | Phase::Content(_) => {
                !self.mail_refused
            }
        }
    }

    pub(super) fn into_results(self) -> Vec<RecipientResult> {
        let answer = |result: Option<_>| result.unwrap_or(RecipientResult::Unanswered);
        self.results.into_iter().map(answer).collect()
    }

    pub(super) fn handle(&mut self, reply: Reply, out: &mut Vec<u8>) -> Next {
        match self.phase {
            Phase::Reset => self.handle_reset(reply, out),
            Phase::Mail => self.handle_mail(reply, out),
            Phase::Rcpt(index) => self.handle_rcpt(index, reply, out),
            Phase::Data => self.handle_data(reply, out),
            Phase::Content(_) => self.handle_early(reply),
            Phase::Dot => match self.protocol {
                Protocol::Smtp => self.handle_dot(reply),
                Protocol::Lmtp => self.handle_dot_of_one(reply),
            },
            Phase::DiscardedDot => {
                self.content_refused = !reply.is_positive();
                Next::Finished
            }
        }
    }

    /// Encodes content; called between [`Next::SendContent`] and `finish`.
    pub(super) fn content(&mut self, part: &[u8], out: &mut Vec<u8>) {
        if let Phase::Content(encoder) = &mut self.phase {
            encoder.encode(part, out);
        }
    }

    /// Writes the final dot. Returns how many bare CRs and LFs the content had.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> u64 {
        let Phase::Content(encoder) = &mut self.phase else {
            return 0;
        };
        encoder.finish(out);
        let mended = encoder.mended();
        self.phase = Phase::Dot;
        mended
    }

    fn handle_reset(&mut self, reply: Reply, out: &mut Vec<u8>) -> Next {
        if !reply.is_positive() {
            return Next::Misplaced(reply);
        }
        self.phase = Phase::Mail;
        self.send_line(out);
        Next::Wait
    }

    fn handle_mail(&mut self, reply: Reply, out: &mut Vec<u8>) -> Next {
        match reply.severity() {
            Severity::Completion => {}
            Severity::Intermediate => return Next::Misplaced(reply),
            Severity::Transient | Severity::Permanent => {
                self.mail_refused = true;
                self.refuse_open(Step::Mail, &reply);
                if !self.all_sent() {
                    return Next::Finished;
                }
            }
        }
        if self.results.is_empty() {
            return self.recipients_done(out);
        }
        self.phase = Phase::Rcpt(0);
        self.send_line(out);
        Next::Wait
    }

    fn handle_rcpt(&mut self, index: usize, reply: Reply, out: &mut Vec<u8>) -> Next {
        match reply.severity() {
            Severity::Intermediate => return Next::Misplaced(reply),
            Severity::Completion => {
                self.recipients_accepted += usize::from(!self.mail_refused);
                if self.only_asks {
                    self.results[index].get_or_insert(RecipientResult::Accepted(reply));
                }
            }
            Severity::Transient | Severity::Permanent => {
                let refused = RecipientResult::Refused { step: Step::Rcpt, reply };
                self.results[index].get_or_insert(refused);
            }
        }
        if index + 1 < self.results.len() {
            self.phase = Phase::Rcpt(index + 1);
        } else if self.only_asks || (self.recipients_accepted == 0 && !self.all_sent()) {
            return Next::Finished;
        } else {
            return self.recipients_done(out);
        }
        self.send_line(out);
        Next::Wait
    }

    /// The last RCPT has been answered: what comes next is about the content.
    fn recipients_done(&mut self, out: &mut Vec<u8>) -> Next {
        let nobody = self.recipients_accepted == 0;
        self.phase = match (self.whole, nobody) {
            (false, _) => Phase::Data,
            (true, true) => Phase::DiscardedDot,
            (true, false) => Phase::Dot,
        };
        self.send_line(out);
        if self.whole && !nobody { Next::ContentSent } else { Next::Wait }
    }

    /// With PIPELINING, DATA has been sent before it was known that nobody is left. A server
    /// that says `354` all the same gets the dot alone (RFC 2920 §3.1).
    fn handle_data(&mut self, reply: Reply, out: &mut Vec<u8>) -> Next {
        match reply.severity() {
            Severity::Completion => Next::Misplaced(reply),
            Severity::Intermediate if self.recipients_accepted == 0 => {
                if self.protocol == Protocol::Lmtp {
                    // The dot has no reply then (RFC 2033 §4.2): the connection goes instead.
                    return Next::FinishedForGood;
                }
                out.extend_from_slice(b".\r\n");
                self.phase = Phase::DiscardedDot;
                Next::Wait
            }
            Severity::Intermediate => {
                self.phase = Phase::Content(ContentEncoder::default());
                Next::SendContent
            }
            Severity::Transient | Severity::Permanent => {
                self.refuse_open(Step::Data, &reply);
                Next::Finished
            }
        }
    }

    /// A reply before the final dot: a refusal counts, but the server still waits for the dot. An
    /// acceptance of a message that it has not seen the end of does not count. Nor does a refusal
    /// by LMTP, for it is not known whom it is about.
    fn handle_early(&mut self, reply: Reply) -> Next {
        if self.protocol == Protocol::Lmtp {
            return Next::Misplaced(reply);
        }
        if reply.is_transient() || reply.is_permanent() {
            self.refuse_open(Step::Content, &reply);
            return Next::FinishedForGood;
        }
        Next::Misplaced(reply)
    }

    fn handle_dot(&mut self, reply: Reply) -> Next {
        match reply.severity() {
            Severity::Completion => {
                for result in &mut self.results {
                    result.get_or_insert_with(|| RecipientResult::Accepted(reply.clone()));
                }
                Next::Finished
            }
            Severity::Intermediate => Next::Misplaced(reply),
            Severity::Transient | Severity::Permanent => {
                self.content_refused = true;
                self.refuse_open(self.step(), &reply);
                Next::Finished
            }
        }
    }

    /// One of the replies to the final dot: they come in the order of the recipients that were
    /// accepted (RFC 2033 §4.2).
    fn handle_dot_of_one(&mut self, reply: Reply) -> Next {
        let step = self.step();
        let mut open = self.results.iter_mut().filter(|result| result.is_none());
        let (Some(first), next) = (open.next(), open.next()) else {
            return Next::Misplaced(reply);
        };
        let is_last = next.is_none();
        *first = Some(match reply.severity() {
            Severity::Completion => RecipientResult::Accepted(reply),
            Severity::Intermediate => return Next::Misplaced(reply),
            Severity::Transient | Severity::Permanent => RecipientResult::Refused { step, reply },
        });
        if is_last { Next::Finished } else { Next::Wait }
    }

    fn refuse_open(&mut self, step: Step, reply: &Reply) {
        for result in &mut self.results {
            result.get_or_insert_with(|| RecipientResult::Refused { step, reply: reply.clone() });
        }
    }

    fn all_sent(&self) -> bool {
        self.sent >= self.commands.len()
    }

    /// Sends the next command, unless all have been sent in one piece.
    fn send_line(&mut self, out: &mut Vec<u8>) {
        let rest = self.commands.get(self.sent..).unwrap_or_default();
        let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        out.extend_from_slice(&rest[..end]);
        self.sent += end;
    }
}
