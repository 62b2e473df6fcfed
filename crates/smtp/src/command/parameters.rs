//! ESMTP parameters of MAIL and RCPT (RFC 5321 §4.1.2).

use mail_types::{BodyType, EnvId, Mailbox, Notify, OriginalRecipient, Ret};

use super::{CommandError, MailCommand, RcptCommand};
use crate::xtext;

/// A keyword and its value, with a check that none comes twice.
struct Parameters<'a> {
    words: std::str::Split<'a, char>,
    seen: Vec<String>,
}

impl<'a> Parameters<'a> {
    fn new(text: &'a str) -> Self {
        Self { words: text.split(' '), seen: Vec::new() }
    }

    /// The next keyword in upper case, with its value.
    fn next(&mut self) -> Result<Option<(String, Option<&'a str>)>, CommandError> {
        // Nobody means anything by two spaces in a row.
        let Some(word) = self.words.find(|word| !word.is_empty()) else {
            return Ok(None);
        };
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        let keyword = keyword.to_ascii_uppercase();
        let value_ok = value.is_none_or(is_value);
        if !is_keyword(&keyword) || !value_ok || self.seen.contains(&keyword) {
            return Err(CommandError::Parameter);
        }
        self.seen.push(keyword.clone());
        Ok(Some((keyword, value)))
    }
}

fn is_keyword(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    text.bytes().all(inner) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// esmtp-value, with the characters of RFC 6531 §3.3.
fn is_value(text: &str) -> bool {
    !text.is_empty() && !text.contains('=') && !text.chars().any(char::is_control)
}

pub(super) fn apply_to_mail(text: &str, mail: &mut MailCommand) -> Result<(), CommandError> {
    let mut parameters = Parameters::new(text);
    while let Some((keyword, value)) = parameters.next()? {
        match (keyword.as_str(), value) {
            ("SIZE", Some(value)) => mail.size = Some(required(number(value))?),
            ("BODY", Some(value)) => mail.body = required(body(value))?,
            ("SMTPUTF8", None) => mail.smtputf8 = true,
            ("RET", Some(value)) => mail.ret = Some(required(ret(value))?),
            ("ENVID", Some(value)) => mail.envid = Some(required(envid(value))?),
            ("AUTH", Some(value)) => required(submitter(value))?,
            ("SIZE" | "BODY" | "SMTPUTF8" | "RET" | "ENVID" | "AUTH", _) => {
                return Err(CommandError::Parameter);
            }
            _ => return Err(CommandError::UnknownParameter),
        }
    }
    Ok(())
}

pub(super) fn apply_to_rcpt(text: &str, rcpt: &mut RcptCommand) -> Result<(), CommandError> {
    let mut parameters = Parameters::new(text);
    while let Some((keyword, value)) = parameters.next()? {
        match (keyword.as_str(), value) {
            ("NOTIFY", Some(value)) => rcpt.notify = Some(required(notify(value))?),
            ("ORCPT", Some(value)) => rcpt.orcpt = Some(required(orcpt(value))?),
            ("NOTIFY" | "ORCPT", None) => return Err(CommandError::Parameter),
            _ => return Err(CommandError::UnknownParameter),
        }
    }
    Ok(())
}

fn required<T>(value: Option<T>) -> Result<T, CommandError> {
    value.ok_or(CommandError::Parameter)
}

/// 1 to 20 digits (RFC 1870 §3); more than fits counts as more than anybody accepts.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Option<BodyType> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Some(BodyType::SevenBit),
        "8BITMIME" => Some(BodyType::EightBitMime),
        _ => None,
    }
}

fn ret(value: &str) -> Option<Ret> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Some(Ret::Full),
        "HDRS" => Some(Ret::Hdrs),
        _ => None,
    }
}

fn envid(value: &str) -> Option<EnvId> {
    EnvId::new(xtext::decode(value).ok()?).ok()
}

/// Who first submitted the message (RFC 4954 §5). Nobody who says so is trusted here, so the value
/// is checked and forgotten, as the RFC asks.
fn submitter(value: &str) -> Option<()> {
    let address = xtext::decode(value).ok()?;
    (address == "<>" || Mailbox::parse(&address).is_ok()).then_some(())
}

fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in value.split(',') {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => success = true,
            "FAILURE" => failure = true,
            "DELAY" => delay = true,
            _ => return None,
        }
    }
    Some(Notify::On { success, failure, delay })
}

fn orcpt(value: &str) -> Option<OriginalRecipient> {
    let (addr_type, address) = value.split_once(';')?;
    let address = xtext::decode(address).ok()?;
    let address = if addr_type.eq_ignore_ascii_case("utf-8") {
        xtext::decode_utf8_addr(&address).ok()?
    } else {
        address
    };
    OriginalRecipient::new(addr_type, address).ok()
}
