//! Words: what the reader is told, and field values made safe.

use std::fmt::Write;

use mail_types::{Mailbox, OriginalRecipient};

use super::{Action, RecipientReport, Report};

/// Longest text of others that is quoted, in characters: with a field name in front it fits a line.
const QUOTE_MAX: usize = 900;

/// The Subject, by the worst that happened.
pub(super) fn subject(report: &Report<'_>) -> &'static str {
    let any = |action| report.recipients.iter().any(|r| r.action == action);
    if any(Action::Failed) {
        "Undelivered mail returned to sender"
    } else if any(Action::Delayed) {
        "Delayed mail (still being tried)"
    } else {
        "Successful mail delivery report"
    }
}

/// The first part: for the person who wrote the message.
pub(super) fn explanation(report: &Report<'_>) -> String {
    let mut text = format!("This is the mail system at {}.\r\n", report.reporting_mta);
    for (action, words) in [
        (Action::Failed, FAILED),
        (Action::Delayed, DELAYED),
        (Action::Delivered, "\r\nYour message was delivered to:\r\n"),
        (Action::Relayed, RELAYED),
    ] {
        let recipients: Vec<_> = report.recipients.iter().filter(|r| r.action == action).collect();
        if recipients.is_empty() {
            continue;
        }
        text.push_str(words);
        for recipient in recipients {
            describe(&mut text, recipient);
        }
    }
    let _ = write!(
        text,
        "\r\nThe message arrived here on {}.\r\nFor help, write to postmaster and name the queue \
         id {}.\r\n",
        report.arrival.to_rfc5322(),
        report.message
    );
    text
}

const FAILED: &str = "\r\nYour message could not be delivered to the recipients below, and will \
                      not be tried again.\r\nPlease check each address, or read what the other \
                      side said.\r\n";
const DELAYED: &str = "\r\nYour message could not be delivered to the recipients below yet. You \
                       need not do anything:\r\nit is still being tried.\r\n";
const RELAYED: &str = "\r\nYour message was handed to another system, which does not report \
                       delivery, for:\r\n";

fn describe(text: &mut String, recipient: &RecipientReport) {
    let _ = write!(text, "\r\n    <{}>\r\n", recipient.final_recipient);
    if let Some(reply) = &recipient.reply {
        let said = match &recipient.remote {
            Some(host) => format!("{} said: {}", ascii(host), printable(&reply.to_string())),
            None => printable(&reply.to_string()),
        };
        for line in wrapped(&said, 68) {
            let _ = write!(text, "        {line}\r\n");
        }
    }
    if let Some(until) = recipient.will_retry_until {
        let _ = write!(text, "        It is tried until {}.\r\n", until.to_rfc5322());
    }
}

/// Bounded and without controls, which become `?`.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(QUOTE_MAX).collect()
}

/// Printable ASCII of bounded length: a control or a letter of another script becomes `?`.
pub(super) fn ascii(text: &str) -> String {
    let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
    text.chars().map(printable).take(QUOTE_MAX).collect()
}

/// A field value folded at spaces.
pub(super) fn folded(value: &str) -> String {
    wrapped(value, 70).join("\r\n ")
}

/// Lines of at most `width` where spaces allow it.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `type; address` of a recipient field: `utf-8` in the 7-bit form when it is not ASCII
/// (RFC 6533 §3).
pub(super) fn typed_address(mailbox: &Mailbox) -> String {
    let text = mailbox.to_string();
    if text.is_ascii() {
        format!("rfc822; {text}")
    } else {
        format!("utf-8; {}", utf8_xtext(&text))
    }
}

/// `type; address` as the sender gave it (RFC 3464 §2.3.1), in seven bits; `None` if that is longer
/// than a line.
pub(super) fn original_address(original: &OriginalRecipient) -> Option<String> {
    let (addr_type, address) = (original.addr_type(), original.address());
    let field = if address.is_ascii() && !addr_type.eq_ignore_ascii_case("utf-8") {
        format!("{addr_type}; {address}")
    } else {
        format!("utf-8; {}", utf8_xtext(address))
    };
    (field.len() <= QUOTE_MAX).then_some(field)
}

/// utf-8-addr-xtext: printable ASCII but `+`, `=` and `\`; all else as `\x{HEX}` (RFC 6533 §3).
fn utf8_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\') {
            encoded.push(c);
        } else {
            let _ = write!(encoded, "\\x{{{:X}}}", u32::from(c));
        }
    }
    encoded
}
