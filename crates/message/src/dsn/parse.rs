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

/// One recipient group. Addresses are mail addresses, without their type; one of X.400 is none.
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
    let mut parameters = parameters(value).into_iter().skip(1);
    let parameter = parameters.find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then_some(value.trim())
    })?;
    let text = match parameter.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => parameter.split_whitespace().next().unwrap_or_default(),
    };
    (!text.is_empty()).then(|| text.to_owned())
}

/// The pieces between those `;` that are not quoted.
fn parameters(value: &str) -> Vec<&str> {
    let mut quoted = false;
    let separates = |c: char| {
        quoted ^= c == '"';
        c == ';' && !quoted
    };
    value.split(separates).collect()
}

/// The body parts between boundary lines; line ends may be LF.
fn parts<'a>(content: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    let mut at = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        if is_delimiter(line, boundary) {
            ends.push(at);
            starts.push(at + line.len());
        }
        at += line.len();
    }
    ends.push(content.len());
    starts.into_iter().zip(ends.into_iter().skip(1)).map(|(start, end)| &content[start..end])
}

/// `--boundary`, or `--boundary--` (RFC 2046 §5.1.1).
fn is_delimiter(line: &[u8], boundary: &str) -> bool {
    let after = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary.as_bytes()));
    after.is_some_and(|after| matches!(after.trim_ascii_end(), b"" | b"--"))
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
    (!value.is_empty()).then(|| value.to_owned())
}

/// The mail address of `rfc822; address` or `utf-8; address`; some leave the type out.
fn address(field: &Field<'_>) -> Option<String> {
    let text = text(field);
    let (addr_type, value) = text.split_once(';').unwrap_or(("rfc822", &text));
    let value = value.trim().trim_start_matches('<').trim_end_matches('>');
    let address = match addr_type.trim().to_ascii_lowercase().as_str() {
        "rfc822" => value.to_owned(),
        "utf-8" => utf8_address(value),
        _ => return None,
    };
    (!address.is_empty()).then_some(address)
}

/// Reads `\x{HEX}` of RFC 6533 §3; what is no escape stays, and so does one of a control.
fn utf8_address(text: &str) -> String {
    let (mut address, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("\\x{") {
        address.push_str(before);
        let digits = after.split_once('}').filter(|(digits, _)| digits.len() <= 6);
        let character = digits.and_then(|(digits, _)| u32::from_str_radix(digits, 16).ok());
        match (digits, character.and_then(char::from_u32).filter(|c| !c.is_control())) {
            (Some((_, after)), Some(character)) => {
                address.push(character);
                rest = after;
            }
            (Some(_) | None, _) => {
                address.push_str("\\x{");
                rest = after;
            }
        }
    }
    address + rest
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
            recipient.original = address(&field);
        } else if field.is("Final-Recipient") {
            recipient.final_recipient = address(&field);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_quoted() {
        for (value, want) in [
            ("multipart/report; boundary=abc", Some("abc")),
            ("multipart/report; report-type=x; BOUNDARY = \"a;b=c\"", Some("a;b=c")),
            ("multipart/report; x=\"boundary=no\"; boundary=yes", Some("yes")),
            ("multipart/report; boundary=", None),
            ("multipart/report", None),
        ] {
            assert_eq!(parameter(value, "boundary").as_deref(), want, "{value}");
        }
    }

    #[test]
    fn delimiters_are_whole_lines() {
        for line in ["--a--\r\n", "--a-- \n", "--a----\r\n", "--a--"] {
            assert!(is_delimiter(line.as_bytes(), "a--"), "{line:?}");
        }
        for line in ["--a", "--a--b", " --a--", "-a--", ""] {
            assert!(!is_delimiter(line.as_bytes(), "a--"), "{line:?}");
        }
    }

    #[test]
    fn addresses_of_every_type() {
        for (value, want) in [
            ("rfc822; a@b.example", Some("a@b.example")),
            ("Rfc822;<a@b.example>", Some("a@b.example")),
            ("<a@b.example>", Some("a@b.example")),
            ("utf-8; j\\x{F6}\\x{2B}@b.example", Some("jö+@b.example")),
            ("utf-8; jö@b.example", Some("jö@b.example")),
            ("utf-8; \\x{\\x{D800}\\x{7}x", Some("\\x{\\x{D800}\\x{7}x")),
            ("x400; /S=a/C=WW/", None),
            ("rfc822;", None),
        ] {
            let line = format!("Final-Recipient: {value}\r\n");
            let field = fields(line.as_bytes()).next().unwrap();
            assert_eq!(address(&field).as_deref(), want, "{value}");
        }
    }
}
