//! Reading a DSN that somebody else wrote.

use crate::header::{Field, fields};

/// The most recipients that are read of one DSN.
const RECIPIENTS_MAX: usize = 1_000;

/// A DSN as read. Texts are as they came, with bad UTF-8 replaced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parsed {
    pub reporting_mta: Option<String>,
    pub envid: Option<String>,
    pub recipients: Vec<ParsedRecipient>,
}

/// One recipient group. Addresses are without their type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ParsedRecipient {
    pub original: Option<String>,
    pub final_recipient: Option<String>,
    /// In lower case.
    pub action: Option<String>,
    pub status: Option<String>,
    pub diagnostic: Option<String>,
}

/// Reads a message as a DSN; `None` when it is none, or names no recipient.
pub fn parse(content: &[u8]) -> Option<Parsed> {
    let content_type = unfolded(content, "Content-Type")?;
    if !content_type.to_ascii_lowercase().starts_with("multipart/report") {
        return None;
    }
    let boundary = parameter(&content_type, "boundary")?;
    let status = parts(content, &boundary).find(|part| {
        let media_type = unfolded(part, "Content-Type").unwrap_or_default().to_ascii_lowercase();
        media_type.starts_with("message/delivery-status")
            || media_type.starts_with("message/global-delivery-status")
    })?;
    let mut groups = groups(body(status));
    let mut parsed = message_group(groups.next()?);
    parsed.recipients = groups
        .map(recipient_group)
        .filter(|recipient| recipient.final_recipient.is_some() || recipient.original.is_some())
        .take(RECIPIENTS_MAX)
        .collect();
    (!parsed.recipients.is_empty()).then_some(parsed)
}

fn unfolded(block: &[u8], name: &str) -> Option<String> {
    let field = fields(block).find(|field| field.is(name))?;
    Some(String::from_utf8_lossy(&field.unfolded()).into_owned())
}

/// The value of a parameter, quoted or not (RFC 2045 §5.1).
fn parameter(value: &str, name: &str) -> Option<String> {
    let parameter = value.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })?;
    let text = match parameter.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => parameter.split_whitespace().next().unwrap_or_default(),
    };
    (!text.is_empty()).then(|| text.to_owned())
}

/// The body parts between boundary lines; line ends may be LF.
fn parts<'a>(content: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = format!("--{boundary}").into_bytes();
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let mut at = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        if line.trim_ascii_end().strip_suffix(b"--").unwrap_or(line.trim_ascii_end()) == delimiter {
            ends.push(at);
            starts.push(at + line.len());
        }
        at += line.len();
    }
    ends.push(content.len());
    starts.into_iter().zip(ends.into_iter().skip(1)).map(|(start, end)| &content[start..end])
}

/// What follows the first empty line.
fn body(part: &[u8]) -> &[u8] {
    let mut at = 0;
    for line in part.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        if line.trim_ascii().is_empty() {
            return &part[at..];
        }
    }
    b""
}

/// Groups of fields between empty lines.
fn groups(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        while let Some(line) = rest.split_inclusive(|b| *b == b'\n').next()
            && line.trim_ascii().is_empty()
        {
            rest = &rest[line.len()..];
        }
        let lines = rest.split_inclusive(|b| *b == b'\n');
        let length: usize =
            lines.take_while(|line| !line.trim_ascii().is_empty()).map(<[u8]>::len).sum();
        let (group, after) = rest.split_at(length);
        rest = after;
        (!group.is_empty()).then_some(group)
    })
}

fn text(field: &Field<'_>) -> String {
    String::from_utf8_lossy(&field.unfolded()).into_owned()
}

/// `type; value` without its type.
fn untyped(field: &Field<'_>) -> Option<String> {
    let text = text(field);
    let value = text.split_once(';').map_or(text.as_str(), |(_, value)| value).trim();
    let value = value.trim_start_matches('<').trim_end_matches('>');
    (!value.is_empty()).then(|| value.to_owned())
}

fn message_group(group: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    for field in fields(group) {
        if field.is("Reporting-MTA") {
            parsed.reporting_mta = untyped(&field);
        } else if field.is("Original-Envelope-Id") {
            parsed.envid = Some(text(&field));
        }
    }
    parsed
}

fn recipient_group(group: &[u8]) -> ParsedRecipient {
    let mut recipient = ParsedRecipient::default();
    for field in fields(group) {
        if field.is("Original-Recipient") {
            recipient.original = untyped(&field);
        } else if field.is("Final-Recipient") {
            recipient.final_recipient = untyped(&field);
        } else if field.is("Action") {
            let action = text(&field).to_ascii_lowercase();
            recipient.action = action.split_whitespace().next().map(str::to_owned);
        } else if field.is("Status") {
            recipient.status = text(&field).split_whitespace().next().map(str::to_owned);
        } else if field.is("Diagnostic-Code") {
            recipient.diagnostic = Some(text(&field));
        }
    }
    recipient
}
