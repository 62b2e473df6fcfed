//! Writing a DSN.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mail_types::{BodyType, QueueId};

use super::returned::Part;
use super::text::{ascii, explanation, folded, original_address, subject, typed_address};
use super::{Action, RecipientReport, Report};

/// A DSN as it is queued: strict CRLF, a header block with its empty line, and a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Composed {
    pub header: Vec<u8>,
    pub body: Vec<u8>,
    /// 8BITMIME when the returned message is not ASCII.
    pub body_type: BodyType,
    /// Whether the next hop must know SMTPUTF8: the address it goes to is not ASCII.
    pub smtputf8: bool,
}

/// Writes the DSN of a report.
pub fn compose(report: &Report<'_>) -> Composed {
    let returned = Part::new(report.returned);
    let boundary = boundary(report.random, &returned.content);
    let eight_bit = !returned.is_ascii();
    let mut body = format!(
        "This is a report in MIME format (RFC 3464).\r\n\
         \r\n--{boundary}\r\nContent-Description: Notification\r\n{}\
         \r\n--{boundary}\r\nContent-Description: Delivery report\r\n\
         Content-Type: message/delivery-status\r\n\r\n{}\
         \r\n--{boundary}\r\nContent-Description: {}\r\nContent-Type: {}\r\n",
        text_part(&explanation(report)),
        status_fields(report),
        returned.description,
        returned.media_type,
    );
    if eight_bit {
        body.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    body.push_str("\r\n");
    let closing = format!("\r\n--{boundary}--\r\n");
    Composed {
        header: header(report, &boundary, eight_bit).into_bytes(),
        body: [body.as_bytes(), &returned.content, closing.as_bytes()].concat(),
        body_type: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        smtputf8: !report.to.is_ascii(),
    }
}

/// Fields and content of a text part, in seven bits so that any next hop takes it.
fn text_part(text: &str) -> String {
    if text.is_ascii() {
        return format!("Content-Type: text/plain; charset=us-ascii\r\n\r\n{text}");
    }
    let mut part = "Content-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\n"
        .to_owned();
    // 57 octets are 76 characters, the longest line of RFC 2045 §6.8.
    for octets in text.as_bytes().chunks(57) {
        part += &BASE64_STANDARD.encode(octets);
        part += "\r\n";
    }
    part
}

fn header(report: &Report<'_>, boundary: &str, eight_bit: bool) -> String {
    let host = report.reporting_mta;
    let mut header = format!(
        "Date: {}\r\nFrom: Mail Delivery System <MAILER-DAEMON@{host}>\r\nTo: <{}>\r\n\
         Subject: {}\r\nMessage-ID: <{}@{host}>\r\nAuto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\nContent-Type: multipart/report; \
         report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n",
        report.date.to_rfc5322(),
        report.to,
        subject(report),
        QueueId::new(report.date, report.random),
    );
    if eight_bit {
        header.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    header.push_str("\r\n");
    header
}

/// A boundary that occurs nowhere in the returned content; no line of our own begins with `--`.
fn boundary(random: u128, returned: &[u8]) -> String {
    let mut number = random;
    loop {
        let boundary = format!("=_{number:032x}");
        if memchr::memmem::find(returned, boundary.as_bytes()).is_none() {
            return boundary;
        }
        number = number.wrapping_add(1);
    }
}

/// The second part: one group for the message, one for each recipient (RFC 3464 §2.1).
fn status_fields(report: &Report<'_>) -> String {
    let mut fields = format!("Reporting-MTA: dns; {}\r\n", report.reporting_mta);
    if let Some(envid) = report.envid {
        let _ = write!(fields, "Original-Envelope-Id: {}\r\n", envid.as_str());
    }
    if let Some(host) = report.received_from.filter(|host| !host.is_empty()) {
        let _ = write!(fields, "Received-From-MTA: dns; {}\r\n", ascii(host));
    }
    let _ = write!(fields, "Arrival-Date: {}\r\n", report.arrival.to_rfc5322());
    for recipient in report.recipients {
        recipient_fields(&mut fields, recipient);
        let _ = write!(fields, "Final-Log-ID: {}\r\n", report.message);
    }
    fields
}

fn recipient_fields(fields: &mut String, recipient: &RecipientReport) {
    fields.push_str("\r\n");
    if let Some(original) = recipient.original.as_ref().and_then(original_address) {
        let _ = write!(fields, "Original-Recipient: {original}\r\n");
    }
    let _ = write!(
        fields,
        "Final-Recipient: {}\r\nAction: {}\r\nStatus: {}\r\n",
        typed_address(&recipient.final_recipient),
        recipient.action.as_str(),
        recipient.status
    );
    if let Some(remote) = &recipient.remote {
        // `name[address]:port` names more than the field has room for.
        let name = remote.split('[').next().filter(|name| !name.is_empty()).unwrap_or(remote);
        let _ = write!(fields, "Remote-MTA: dns; {}\r\n", ascii(name));
    }
    if let Some(reply) = &recipient.reply {
        // A reply that no host gave is ours; it did not come by SMTP.
        let kind = if recipient.remote.is_some() { "smtp" } else { "X-Postrider" };
        let diagnostic = folded(&ascii(&format!("{kind}; {reply}")));
        let _ = write!(fields, "Diagnostic-Code: {diagnostic}\r\n");
    }
    if let Some(at) = recipient.last_attempt {
        let _ = write!(fields, "Last-Attempt-Date: {}\r\n", at.to_rfc5322());
    }
    if let (Action::Delayed, Some(until)) = (recipient.action, recipient.will_retry_until) {
        let _ = write!(fields, "Will-Retry-Until: {}\r\n", until.to_rfc5322());
    }
}
