//! DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030 §2).

use mail_types::Reply;

use super::state::{Input, Question, Refusal, State, Step};
use super::transaction::Transaction;
use super::{Event, Note, ServerSession};
use crate::framing::{ChunkChecker, ContentFault, DataDecoder, DataStep, LastLine};

const TOO_LARGE: &str = "552 5.3.4 Message is larger than this server accepts";

/// Mail data up to the final dot.
#[derive(Debug)]
pub(super) struct Data {
    decoder: DataDecoder,
    octets: u64,
    discarded: u64,
    /// What the message gets at its end, instead of a question.
    refusal: Option<Refusal>,
}

/// The octets of one BDAT.
#[derive(Debug)]
pub(super) struct Chunk {
    left: u64,
    octets: u64,
    last: bool,
    fate: Fate,
}

/// What becomes of a chunk.
#[derive(Debug)]
enum Fate {
    Taken(Transaction),
    /// It is read, dropped and refused at its end.
    Refused(Refusal, After),
}

/// Where a refused chunk leads.
#[derive(Debug)]
enum After {
    /// The transaction goes on: the chunk came out of turn.
    Transaction(Transaction),
    Command,
    Closed,
}

/// What several BDAT bring.
#[derive(Debug)]
pub(super) struct Chunks {
    octets: u64,
    checker: ChunkChecker,
}

impl Chunk {
    /// The driver wants none of it; with that the transaction is over.
    pub(super) fn refused(self, refusal: Refusal) -> Self {
        Self { fate: Fate::Refused(refusal, After::Command), ..self }
    }
}

fn fault_reply(fault: ContentFault) -> &'static str {
    match fault {
        ContentFault::BareCr => "550 5.6.11 Content has a CR without LF, closing",
        ContentFault::BareLf => "550 5.6.11 Content has an LF without CR, closing",
        ContentFault::LineTooLong => "554 5.6.0 Content has a line that is too long",
    }
}

/// Where bare CR or LF stand, what follows the message may have been meant as part of it.
fn ends_session(fault: Option<ContentFault>) -> bool {
    matches!(fault, Some(ContentFault::BareCr | ContentFault::BareLf))
}

impl ServerSession {
    /// Stops the content that is coming in: its rest is read and dropped, then `reply` is given.
    ///
    /// For use after [`Event::Content`]; the transaction is over.
    pub fn refuse_content(&mut self, reply: Reply) {
        let refusal = Refusal::Reply(Box::new(reply));
        if let State::Data(data) = &mut self.state {
            data.refusal = Some(refusal);
        } else if let State::Chunk(chunk) = &mut self.state {
            chunk.fate = Fate::Refused(refusal, After::Command);
        } else {
            debug_assert!(false, "no content is coming in");
        }
    }

    pub(super) fn new_data(&self) -> Data {
        Data {
            decoder: DataDecoder::new(self.config.limits.text_line_octets_max),
            octets: 0,
            discarded: 0,
            refusal: None,
        }
    }

    pub(super) fn data(&mut self, state: State) -> Step {
        let State::Transaction(transaction) = state else {
            return self.refuse(state, "503 5.5.1 Send MAIL first");
        };
        let refusal = match &transaction.chunks {
            Some(_) => Some("503 5.5.1 Content has begun with BDAT"),
            None => transaction.content_refusal(),
        };
        match refusal {
            Some(line) => self.refuse(State::Transaction(transaction), line),
            None => Step::Tell(State::Asked(Question::BeginData), Event::BeginContent),
        }
    }

    pub(super) fn read_data(&mut self, mut data: Data, input: &mut Input<'_>) -> Step {
        let base = input.consumed();
        let (consumed, step) = data.decoder.decode(input.rest());
        input.consume(consumed);
        if data.refusal.is_some() {
            data.discarded += consumed as u64;
        }
        if data.discarded > self.config.limits.discard_octets_max {
            return Step::Go(self.finish_data(data, State::Closed));
        }
        match step {
            DataStep::More => Step::Tell(State::Data(data), Event::NeedInput),
            DataStep::Content(_) if data.refusal.is_some() => Step::Go(State::Data(data)),
            DataStep::Content(range) => {
                data.octets += range.len() as u64;
                if data.octets > self.config.limits.message_octets_max {
                    return self.refuse_data(data, Note::MessageTooLarge, TOO_LARGE);
                }
                let range = base + range.start..base + range.end;
                Step::Tell(State::Data(data), Event::Content(range))
            }
            DataStep::Fault(fault) => {
                self.refuse_data(data, Note::Content(fault), fault_reply(fault))
            }
            DataStep::End => self.end_data(data),
        }
    }

    fn refuse_data(&mut self, mut data: Data, note: Note, line: &'static str) -> Step {
        self.note = Some(note);
        match data.refusal.replace(Refusal::Line(line)) {
            Some(_) => Step::Go(State::Data(data)),
            None => Step::Tell(State::Data(data), Event::Reset),
        }
    }

    fn end_data(&mut self, data: Data) -> Step {
        if data.refusal.is_none() {
            let (octets, last_line) = (data.octets, LastLine::Complete);
            let event = Event::EndOfContent { octets, last_line };
            return Step::Tell(State::Asked(Question::EndOfContent), event);
        }
        let closing = ends_session(data.decoder.fault());
        let next = if closing { State::Closed } else { State::Command };
        Step::Go(self.finish_data(data, next))
    }

    fn finish_data(&mut self, data: Data, next: State) -> State {
        let refusal = data.refusal.unwrap_or(Refusal::Line(TOO_LARGE));
        self.give(next, refusal)
    }

    pub(super) fn bdat(&mut self, state: State, octets: u64, last: bool) -> Step {
        if octets > self.config.limits.discard_octets_max {
            self.note = Some(Note::MessageTooLarge);
            return self.close("552 5.3.4 Chunk is larger than this server reads, closing");
        }
        let chunk = |fate| Chunk { left: octets, octets, last, fate };
        let State::Transaction(mut transaction) = state else {
            let refusal = Refusal::Line("503 5.5.1 Send MAIL first");
            return Step::Go(State::Chunk(chunk(Fate::Refused(refusal, After::Command))));
        };
        if let Some(line) = transaction.content_refusal() {
            let after = After::Transaction(transaction);
            return Step::Go(State::Chunk(chunk(Fate::Refused(Refusal::Line(line), after))));
        }
        let line_octets_max = self.config.limits.text_line_octets_max;
        let first = transaction.chunks.is_none();
        let chunks = transaction.chunks.get_or_insert_with(|| Chunks {
            octets: 0,
            checker: ChunkChecker::new(line_octets_max),
        });
        chunks.octets = chunks.octets.saturating_add(octets);
        if chunks.octets > self.config.limits.message_octets_max {
            self.note = Some(Note::MessageTooLarge);
            let fate = Fate::Refused(Refusal::Line(TOO_LARGE), After::Command);
            return Step::Tell(State::Chunk(chunk(fate)), Event::Reset);
        }
        let chunk = chunk(Fate::Taken(transaction));
        if first {
            return Step::Tell(State::Asked(Question::BeginChunk(chunk)), Event::BeginContent);
        }
        Step::Go(State::Chunk(chunk))
    }

    pub(super) fn read_chunk(&mut self, mut chunk: Chunk, input: &mut Input<'_>) -> Step {
        if chunk.left == 0 {
            return self.end_chunk(chunk);
        }
        let rest = input.rest();
        let octets = rest.len().min(usize::try_from(chunk.left).unwrap_or(usize::MAX));
        if octets == 0 {
            return Step::Tell(State::Chunk(chunk), Event::NeedInput);
        }
        let base = input.consumed();
        input.consume(octets);
        chunk.left -= octets as u64;
        let Fate::Taken(transaction) = &mut chunk.fate else {
            return Step::Go(State::Chunk(chunk));
        };
        let checked = match &mut transaction.chunks {
            Some(chunks) => chunks.checker.check(&rest[..octets]),
            None => Ok(()),
        };
        match checked {
            Ok(()) => Step::Tell(State::Chunk(chunk), Event::Content(base..base + octets)),
            Err(fault) => self.refuse_chunk(chunk, fault),
        }
    }

    fn refuse_chunk(&mut self, chunk: Chunk, fault: ContentFault) -> Step {
        self.note = Some(Note::Content(fault));
        let after = if ends_session(Some(fault)) { After::Closed } else { After::Command };
        let fate = Fate::Refused(Refusal::Line(fault_reply(fault)), after);
        Step::Tell(State::Chunk(Chunk { fate, ..chunk }), Event::Reset)
    }

    fn end_chunk(&mut self, chunk: Chunk) -> Step {
        let transaction = match chunk.fate {
            Fate::Taken(transaction) => transaction,
            Fate::Refused(refusal, after) => {
                let next = match after {
                    After::Transaction(transaction) => State::Transaction(transaction),
                    After::Command => State::Command,
                    After::Closed => State::Closed,
                };
                return Step::Go(self.give(next, refusal));
            }
        };
        if !chunk.last {
            self.say(&format!("250 2.0.0 {} octets received", chunk.octets));
            return Step::Go(State::Transaction(transaction));
        }
        let (octets, finished) = match &transaction.chunks {
            Some(chunks) => (chunks.octets, chunks.checker.finish()),
            None => (0, Ok(LastLine::Complete)),
        };
        match finished {
            Ok(last_line) => {
                let event = Event::EndOfContent { octets, last_line };
                Step::Tell(State::Asked(Question::EndOfContent), event)
            }
            Err(fault) => {
                let chunk = Chunk { fate: Fate::Taken(transaction), ..chunk };
                self.refuse_chunk(chunk, fault)
            }
        }
    }
}
