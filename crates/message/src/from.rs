//! The mailboxes of a From field, to hold them against a login.
//!
//! Conservative on purpose: what two readers could understand differently is an error, for the one
//! that checks the login must not see another sender than the one who shows the message.

use mail_types::{Mailbox, MailboxError};

use crate::header::{Field, fields};

/// Why the sender of a message cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromError {
    #[error("the message has no From field")]
    Missing,
    #[error("the message has more than one From field")]
    Several,
    #[error("the header block has a line that is no field, or a bare CR or LF")]
    Block,
    #[error("the From field is not UTF-8")]
    Encoding,
    #[error("the From field is not a list of addresses (RFC 5322 §3.6.2)")]
    Syntax,
    #[error("the From field has an address that is none: {0}")]
    Address(#[from] MailboxError),
}

/// All mailboxes of the one From field; at least one.
///
/// `block` ends with its empty line, or with its last field.
pub fn mailboxes(block: &[u8]) -> Result<Vec<Mailbox>, FromError> {
    let field = only_from(block)?;
    let value = String::from_utf8(field.unfolded()).map_err(|_| FromError::Encoding)?;
    let tokens = tokens(&value).ok_or(FromError::Syntax)?;
    address_list(&tokens)
}

/// The From field, in a block where every reader finds the same fields: behind a line that ends
/// the block for us, or at a line end that is none for us, another one could hide.
fn only_from(block: &[u8]) -> Result<Field<'_>, FromError> {
    let mut fields = fields(block);
    let found: Vec<Field<'_>> = fields.by_ref().filter(|field| field.is("From")).collect();
    let rest = fields.rest();
    let read = &block[..block.len() - rest.len()];
    let whole = rest.is_empty() || rest.starts_with(b"\r\n");
    if !whole || has_bare_line_end(read) {
        return Err(FromError::Block);
    }
    match found[..] {
        [] => Err(FromError::Missing),
        [field] => Ok(field),
        _ => Err(FromError::Several),
    }
}

/// Whether a CR or LF stands alone.
fn has_bare_line_end(fields: &[u8]) -> bool {
    let crlf = memchr::memmem::find_iter(fields, b"\r\n").count();
    memchr::memchr2_iter(b'\r', b'\n', fields).count() != 2 * crlf
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Atoms, dots and `@` in one run.
    Atom,
    /// With its quotes.
    Quoted,
    /// Between `<` and `>`.
    Angle,
    Comma,
    Colon,
    Semicolon,
}

#[derive(Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// No space or comment stands before it.
    glued: bool,
}

/// The tokens of a value without comments; `None` if a quote, comment or bracket is not closed or
/// a control stands anywhere.
fn tokens(value: &str) -> Option<Vec<Token<'_>>> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return None;
    }
    let (mut found, mut rest, mut glued) = (Vec::new(), value, false);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = match first {
            ' ' | '\t' => {
                (rest, glued) = (&rest[1..], false);
                continue;
            }
            '(' => {
                (rest, glued) = (&rest[comment_length(rest)?..], false);
                continue;
            }
            '"' => (Kind::Quoted, quoted_length(rest)?),
            '<' => (Kind::Angle, angle_length(rest)?),
            ',' => (Kind::Comma, 1),
            ':' => (Kind::Colon, 1),
            ';' => (Kind::Semicolon, 1),
            '>' | ')' | '\\' => return None,
            _ => (Kind::Atom, atom_length(rest)?),
        };
        found.push(Token { kind, text: &rest[..length], glued });
        (rest, glued) = (&rest[length..], true);
    }
    Some(found)
}

fn quoted_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, b) in text.bytes().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

fn comment_length(text: &str) -> Option<usize> {
    let (mut depth, mut escaped) = (0usize, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn angle_length(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.as_bytes().get(at)? {
            b'>' => return Some(at + 1),
            b'"' => at += quoted_length(&text[at..])?,
            b'<' | b'(' | b')' => return None,
            _ => at += 1,
        }
    }
}

/// Up to a special; a bracketed literal is taken whole.
fn atom_length(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        match c {
            '[' => at += text[at..].find(']')? + 1,
            ' ' | '\t' | '(' | ')' | '<' | '>' | ',' | ':' | ';' | '"' | '\\' => break,
            c => at += c.len_utf8(),
        }
    }
    Some(at)
}

fn address_list(tokens: &[Token<'_>]) -> Result<Vec<Mailbox>, FromError> {
    let (mut found, mut element) = (Vec::new(), Vec::new());
    let (mut in_group, mut after_group) = (false, false);
    for token in tokens {
        match token.kind {
            Kind::Comma if after_group => after_group = false,
            _ if after_group => return Err(FromError::Syntax),
            Kind::Atom | Kind::Quoted | Kind::Angle => element.push(token),
            Kind::Comma => found.push(mailbox(&std::mem::take(&mut element))?),
            Kind::Colon if !in_group && !element.is_empty() => {
                (in_group, element) = (true, Vec::new());
            }
            Kind::Semicolon if in_group => {
                (in_group, after_group) = (false, true);
                found.push(mailbox(&std::mem::take(&mut element))?);
            }
            Kind::Colon | Kind::Semicolon => return Err(FromError::Syntax),
        }
    }
    match (in_group, after_group) {
        (true, _) => return Err(FromError::Syntax),
        (false, true) => {}
        (false, false) => found.push(mailbox(&element)?),
    }
    Ok(found)
}

/// `display name <address>` or a bare address.
fn mailbox(element: &[&Token<'_>]) -> Result<Mailbox, FromError> {
    let (last, before) = element.split_last().ok_or(FromError::Syntax)?;
    if last.kind == Kind::Angle {
        // An `@` in an unquoted display name is an address to some readers.
        let phrase = |token: &&Token<'_>| match token.kind {
            Kind::Quoted => true,
            Kind::Atom => !token.text.contains('@'),
            Kind::Angle | Kind::Comma | Kind::Colon | Kind::Semicolon => false,
        };
        if !before.iter().all(phrase) {
            return Err(FromError::Syntax);
        }
        let inner = last.text.trim_start_matches('<').trim_end_matches('>').trim();
        return Ok(Mailbox::parse(inner)?);
    }
    let whole = element.iter().skip(1).all(|token| token.glued);
    if !whole || element.iter().any(|token| token.kind == Kind::Angle) {
        return Err(FromError::Syntax);
    }
    let text: String = element.iter().map(|token| token.text).collect();
    Ok(Mailbox::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Result<Vec<String>, FromError> {
        let block = format!("Subject: x\r\nFrom: {value}\r\n\r\n");
        mailboxes(block.as_bytes()).map(|found| found.iter().map(Mailbox::to_string).collect())
    }

    #[test]
    fn forms_of_rfc_5322() {
        for (value, want) in [
            ("a@b.example", vec!["a@b.example"]),
            ("A B <a@b.example>", vec!["a@b.example"]),
            ("\"B, A\" <a@b.example>", vec!["a@b.example"]),
            ("\"x@evil.example\" <a@b.example>", vec!["a@b.example"]),
            ("=?utf-8?q?J=C3=B6?= <a@b.example>", vec!["a@b.example"]),
            ("Jö <jö@b.example>", vec!["jö@b.example"]),
            ("J. R. <a@b.example>", vec!["a@b.example"]),
            ("(comment (nested)) a@b.example (end)", vec!["a@b.example"]),
            ("\"a b\"@b.example", vec!["\"a b\"@b.example"]),
            ("a@[IPv6:::1]", vec!["a@[IPv6:::1]"]),
            ("a@b.example, C <c@d.example>", vec!["a@b.example", "c@d.example"]),
            ("group: a@b.example, c@d.example;", vec!["a@b.example", "c@d.example"]),
            ("A\r\n <a@b.example>", vec!["a@b.example"]),
            ("<a@b.example>", vec!["a@b.example"]),
        ] {
            assert_eq!(read(value), Ok(want.into_iter().map(str::to_owned).collect()), "{value}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for value in [
            "",
            "nobody",
            "<>",
            "a@b.example c@d.example",
            "x@evil.example <a@b.example>",
            "<a@b.example> x@evil.example",
            "<a@b.example><x@evil.example>",
            "a@b.example,",
            ",a@b.example",
            "\"a@b.example",
            "(a@b.example",
            "<a@b.example",
            "group: a@b.example",
            "group:;",
            "g: a@b.example; c@d.example",
            "a:b:c@d.example;",
            "a @b.example",
            "a@b.example\0",
            "a@b.example>",
            "<a@b.example (x)>",
            "<@r.example:a@b.example>",
        ] {
            assert!(read(value).is_err(), "{value:?} gave {:?}", read(value));
        }
        let twice = b"From: a@b.example\r\nfrom: x@evil.example\r\n\r\n";
        assert_eq!(mailboxes(twice), Err(FromError::Several));
        assert_eq!(mailboxes(b"\r\n"), Err(FromError::Missing));
        assert_eq!(mailboxes(b"From: \xff@b.example\r\n\r\n"), Err(FromError::Encoding));
    }

    #[test]
    fn another_from_cannot_hide() {
        for hide in [
            "no field\r\n",
            "X\x0c: a form feed before the colon\r\n",
            "Subject: x\nno field\r\n",
            "Subject: x\n\r\n",
            "Subject: x\r\r\n",
            "Subject: x\rFrom: y@evil.example\r\n",
            "\n",
        ] {
            let block = format!("From: a@b.example\r\n{hide}From: x@evil.example\r\n\r\n");
            assert_eq!(mailboxes(block.as_bytes()), Err(FromError::Block), "{hide:?}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(value in "[a@.<>\"(), :;\\\\\\[\\]ä\t]{0,40}") {
            let _ = read(&value);
        }
    }
}
