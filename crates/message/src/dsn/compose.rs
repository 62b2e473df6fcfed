//! Writing a DSN.

use std::fmt::Write;

use mail_types::{BodyType, QueueId};

use super::text::{ascii, diagnostic, explanation, folded, subject, typed_address, utf8_xtext};
use super::{Action, RecipientReport, Report, Returned};

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
    let (Returned::Full(returned) | Returned::Headers(returned)) = report.returned;
    let boundary = boundary(report.random, returned);
    let eight_bit = !returned.is_ascii();
    let header = header(report, &boundary, eight_bit);
    let mut body = String::new();
    let _ = write!(
        body,
        "This is a report in MIME format (RFC 3464).\r\n\
         \r\n--{boundary}\r\nContent-Description: Notification\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\r\n{}\
         \r\n--{boundary}\r\nContent-Description: Delivery report\r\n\
         Content-Type: message/delivery-status\r\n\r\n{}",
        explanation(report),
        status_fields(report)
    );
    let (description, media_type) = match report.returned {
        Returned::Full(content) => ("Undelivered message", media_type(content, "rfc822", "global")),
        Returned::Headers(_) if eight_bit => ("Message headers", "message/global-headers"),
        Returned::Headers(_) => ("Message headers", "text/rfc822-headers"),
    };
    let _ = write!(
        body,
        "\r\n--{boundary}\r\nContent-Description: {description}\r\nContent-Type: {media_type}\r\n"
    );
    if eight_bit {
        body.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    body.push_str("\r\n");
    let mut body = body.into_bytes();
    body.extend_from_slice(returned);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Composed {
        header: header.into_bytes(),
        body,
        body_type: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        smtputf8: !report.to.is_ascii(),
    }
}

/// `message/global` only where the header block itself is not ASCII (RFC 6533 §5).
fn media_type(content: &[u8], ascii: &'static str, utf8: &'static str) -> &'static str {
    let end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
    match (content[..end].is_ascii(), ascii, utf8) {
        (true, "rfc822", _) => "message/rfc822",
        _ => "message/global",
    }
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

/// A boundary that occurs nowhere in the returned content.
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
    if let Some(original) = &recipient.original {
        // An original recipient is quoted as it was given, but never with raw 8-bit letters.
        let address = match original.address().is_ascii() {
            true => original.address().to_owned(),
            false => utf8_xtext(original.address()),
        };
        let _ = write!(fields, "Original-Recipient: {}; {address}\r\n", original.addr_type());
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
        let _ = write!(
            fields,
            "Diagnostic-Code: {}\r\n",
            folded(&format!("{kind}; {}", diagnostic(reply)))
        );
    }
    if let Some(at) = recipient.last_attempt {
        let _ = write!(fields, "Last-Attempt-Date: {}\r\n", at.to_rfc5322());
    }
    if let (Action::Delayed, Some(until)) = (recipient.action, recipient.will_retry_until) {
        let _ = write!(fields, "Will-Retry-Until: {}\r\n", until.to_rfc5322());
    }
}
