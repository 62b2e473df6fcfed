//! The third part: what of the message goes back, and as what.

use std::borrow::Cow;

use memchr::memchr2_iter;

use super::Returned;
use crate::header::fields;

/// RFC 5322 §2.1.1, without CRLF.
const LINE_OCTETS_MAX: usize = 998;

/// The message, or a piece of it, as a body part.
pub(super) struct Part<'a> {
    pub(super) description: &'static str,
    pub(super) media_type: &'static str,
    pub(super) content: Cow<'a, [u8]>,
}

impl<'a> Part<'a> {
    /// The part of what is returned.
    ///
    /// Content that a mail system on the way could refuse (long lines, a bare CR or LF, NUL) is
    /// represented by those of its header fields which are free of that: a DSN must arrive.
    pub(super) fn new(returned: Returned<'a>) -> Self {
        match returned {
            Returned::Full(content) if is_sound(content) => Self::full(content),
            Returned::Headers(block) if is_sound(block) => Self::headers(Cow::Borrowed(block)),
            Returned::Full(content) | Returned::Headers(content) => {
                let sound = fields(content).map(|field| field.raw).filter(|raw| is_sound(raw));
                Self::headers(Cow::Owned(sound.collect::<Vec<_>>().concat()))
            }
        }
    }

    fn full(content: &'a [u8]) -> Self {
        let end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
        let media_type = if is_utf8(&content[..end]) { "message/global" } else { "message/rfc822" };
        Self { description: "Undelivered message", media_type, content: Cow::Borrowed(content) }
    }

    fn headers(content: Cow<'a, [u8]>) -> Self {
        let media_type =
            if is_utf8(&content) { "message/global-headers" } else { "text/rfc822-headers" };
        Self { description: "Message headers", media_type, content }
    }

    pub(super) fn is_ascii(&self) -> bool {
        self.content.is_ascii()
    }
}

/// Whether a header block is of the kind that RFC 6532 introduced: the types for it promise UTF-8,
/// so that raw letters of another charset do not count (RFC 6533 §5).
fn is_utf8(header: &[u8]) -> bool {
    !header.is_ascii() && std::str::from_utf8(header).is_ok()
}

/// Whether all lines end in CRLF, but perhaps the last, and none is too long or has a NUL.
fn is_sound(content: &[u8]) -> bool {
    let mut line_start = 0;
    for at in memchr2_iter(b'\n', 0, content) {
        let ends_line = content[at] == b'\n' && at > line_start && content[at - 1] == b'\r';
        if !ends_line || !is_sound_line(&content[line_start..at - 1]) {
            return false;
        }
        line_start = at + 1;
    }
    is_sound_line(&content[line_start..])
}

fn is_sound_line(line: &[u8]) -> bool {
    line.len() <= LINE_OCTETS_MAX && !line.contains(&b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_content_is_returned_as_it_is() {
        let longest = [&b"A: b\r\n\r\n"[..], &[b'x'; 998], b"\r\n"].concat();
        for content in [&b"A: b\r\n\r\nbody\r\n"[..], b"", b"\r\n", b"\r\n\r\n", b"A: b", &longest]
        {
            let part = Part::new(Returned::Full(content));
            assert_eq!((&*part.content, part.media_type), (content, "message/rfc822"));
        }
    }

    #[test]
    fn other_content_is_represented_by_its_sound_fields() {
        let long_line = [&b"A: b\r\n\r\n"[..], &[b'x'; 999]].concat();
        let long_field = [&b"A: b\r\nC: "[..], &[b'x'; 999], b"\r\n\r\n"].concat();
        for content in [
            &b"A: b\r\n\r\nbare\nLF\r\n"[..],
            b"A: b\r\n\r\nbare\rCR\r\n",
            b"A: b\r\n\r\nCR at the end\r",
            b"A: b\r\n\r\nNUL\0\r\n",
            b"A: b\r\nC: d\n\r\n",
            &long_line,
            &long_field,
        ] {
            let part = Part::new(Returned::Full(content));
            assert_eq!(part.content, &b"A: b\r\n"[..], "{}", content.escape_ascii());
            assert_eq!(part.media_type, "text/rfc822-headers");
        }
        assert_eq!(Part::new(Returned::Headers(b"A: b\r\nC: \n\r\n")).content, &b"A: b\r\n"[..]);
    }

    #[test]
    fn the_types_for_utf_8_are_not_given_to_other_charsets() {
        for (returned, want) in [
            (Returned::Full("A: ä\r\n\r\nx".as_bytes()), "message/global"),
            (Returned::Full("A: a\r\n\r\nä".as_bytes()), "message/rfc822"),
            (Returned::Full(b"A: \xe4\r\n\r\nx"), "message/rfc822"),
            (Returned::Headers("A: ä\r\n".as_bytes()), "message/global-headers"),
            (Returned::Headers(b"A: \xe4\r\n"), "text/rfc822-headers"),
        ] {
            assert_eq!(Part::new(returned).media_type, want, "{returned:?}");
        }
    }
}
