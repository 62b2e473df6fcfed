//! What a session of the client says and comes to, for tests to compare.

use mail_types::{Mailbox, Recipient};
use smtp::client::{ClientSession, Event, RecipientResult};

pub(super) fn recipients(n: usize) -> Vec<Recipient> {
    let mailbox = |i| Mailbox::parse(&format!("r{i}@there.example")).unwrap();
    (0..n).map(|i| Recipient::new(mailbox(i))).collect()
}

pub(super) fn sent(session: &mut ClientSession) -> String {
    let text = String::from_utf8(session.output().to_vec()).unwrap();
    session.output_written();
    text
}

/// `+code` for accepted, `step code` for refused, `?` for unanswered.
pub(super) fn show(results: &[RecipientResult]) -> Vec<String> {
    let one = |result: &RecipientResult| match result {
        RecipientResult::Accepted(reply) => format!("+{}", reply.code),
        RecipientResult::Refused { step, reply } => format!("{} {}", step.as_str(), reply.code),
        RecipientResult::Unanswered => "?".into(),
    };
    results.iter().map(one).collect()
}

pub(super) fn finished(session: &mut ClientSession) -> Vec<String> {
    match session.poll() {
        Some(Ok(Event::Finished(results))) => show(&results),
        other => panic!("not finished: {other:?}"),
    }
}
