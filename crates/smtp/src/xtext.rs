//! xtext, the armour of ESMTP parameter values (RFC 3461 §4).

use std::fmt::Write;

/// A text that is no xtext, or that does not decode to UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not xtext (RFC 3461 §4)")]
pub struct XtextError;

/// Decodes `+HH`; refuses what xtext may not hold.
///
/// Octets above 127 pass, since with SMTPUTF8 they may stand for themselves (RFC 6533 §3).
pub fn decode(text: &str) -> Result<String, XtextError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => {
                let [high, low, tail @ ..] = tail else { return Err(XtextError) };
                octets.push(hex(*high)? << 4 | hex(*low)?);
                rest = tail;
            }
            b'=' | 0..=b' ' | 127 => return Err(XtextError),
            octet => octets.push(*octet),
        }
    }
    String::from_utf8(octets).map_err(|_| XtextError)
}

/// Only upper-case digits: RFC 3461 §4 has no others.
fn hex(digit: u8) -> Result<u8, XtextError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(XtextError),
    }
}

/// Encodes all that xtext cannot hold as it is.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if matches!(octet, b'!'..=b'~') && octet != b'+' && octet != b'=' {
            out.push(char::from(octet));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "+{octet:02X}");
        }
    }
    out
}

/// Decodes utf-8-addr-xtext: `\x{HEX}` stands for a character (RFC 6533 §3).
pub fn decode_utf8_addr(text: &str) -> Result<String, XtextError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.push_str(before);
        let (digits, after) =
            escape.strip_prefix("x{").and_then(|e| e.split_once('}')).ok_or(XtextError)?;
        if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| hex(b).is_ok()) {
            return Err(XtextError);
        }
        let number = u32::from_str_radix(digits, 16).map_err(|_| XtextError)?;
        out.push(char::from_u32(number).ok_or(XtextError)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Encodes to utf-8-addr-xtext, which is ASCII (RFC 6533 §3).
pub fn encode_utf8_addr(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '!'..='~') && !matches!(c, '+' | '=' | '\\') {
            out.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{{{:X}}}", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_what_is_xtext() {
        for (text, want) in [
            ("QQ314159", Some("QQ314159")),
            ("a+2Bb+3D", Some("a+b=")),
            ("a+20b", Some("a b")),
            ("", Some("")),
            ("a+2", None),
            ("a+", None),
            ("a+2b", None),
            ("a=b", None),
            ("a b", None),
            ("+FF", None),
        ] {
            assert_eq!(decode(text).ok().as_deref(), want, "{text}");
        }
        assert_eq!(decode_utf8_addr("\\x{FC}ser@x.example").as_deref(), Ok("üser@x.example"));
        for bad in ["\\", "\\x", "\\x{", "\\x{}", "\\x{D800}", "\\x{110000}", "\\x{fc}"] {
            assert_eq!(decode_utf8_addr(bad), Err(XtextError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in "\\PC{0,40}") {
            prop_assert_eq!(&decode(&encode(&text)).unwrap(), &text);
            prop_assert_eq!(&decode_utf8_addr(&encode_utf8_addr(&text)).unwrap(), &text);
        }
    }
}
