//! Content on its way out: dots stuffed, lines ended by CRLF and by nothing else.

use memchr::memchr2;

/// Encodes content for DATA (RFC 5321 §4.5.2), or for BDAT (RFC 3030 §2), as it comes, in parts
/// cut anywhere.
///
/// A bare CR or LF never leaves us, whatever the store holds: a peer that takes one for a line end
/// would read commands in content (SMTP smuggling). It becomes CRLF.
#[derive(Debug)]
pub struct ContentEncoder {
    at_line_start: bool,
    /// The last octet was a CR, which has not been written yet.
    cr_pending: bool,
    /// For DATA, which ends with a dot; to BDAT a dot is a dot.
    dots: bool,
    mended: u64,
}

impl Default for ContentEncoder {
    fn default() -> Self {
        Self { at_line_start: true, cr_pending: false, dots: true, mended: 0 }
    }
}

impl ContentEncoder {
    /// The whole `content` as BDAT counts it, and how many bare CRs and LFs became CRLF.
    pub(super) fn whole(content: &[u8]) -> (Vec<u8>, u64) {
        let (mut encoder, mut out) = (Self { dots: false, ..Self::default() }, Vec::new());
        encoder.encode(content, &mut out);
        encoder.finish(&mut out);
        (out, encoder.mended)
    }

    /// Appends the encoded `part` to `out`.
    pub fn encode(&mut self, mut part: &[u8], out: &mut Vec<u8>) {
        out.reserve(part.len() + part.len() / 64);
        if self.cr_pending && !part.is_empty() {
            part = self.after_cr(part, out);
        }
        while !part.is_empty() {
            let end = memchr2(b'\r', b'\n', part);
            let (text, rest) = part.split_at(end.unwrap_or(part.len()));
            self.text(text, out);
            part = match rest.split_first() {
                None => rest,
                Some((b'\r', [])) => {
                    self.cr_pending = true;
                    &[]
                }
                Some((b'\r', rest)) => self.after_cr(rest, out),
                Some((_, rest)) => {
                    self.mended += 1;
                    self.end_line(out);
                    rest
                }
            };
        }
    }

    /// Appends what ends the content: the last line's CRLF if it has none; for DATA a dot, CRLF.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.cr_pending {
            self.mended += 1;
        }
        if self.cr_pending || !self.at_line_start {
            self.end_line(out);
        }
        if self.dots {
            out.extend_from_slice(b".\r\n");
        }
    }

    /// How many bare CRs and LFs became CRLF: above zero, a store or a peer of ours is at fault.
    pub fn mended(&self) -> u64 {
        self.mended
    }

    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if self.dots && self.at_line_start && text[0] == b'.' {
            out.push(b'.');
        }
        self.at_line_start = false;
        out.extend_from_slice(text);
    }

    fn after_cr<'a>(&mut self, part: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let rest = part.strip_prefix(b"\n");
        self.mended += u64::from(rest.is_none());
        self.end_line(out);
        rest.unwrap_or(part)
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n");
        self.at_line_start = true;
        self.cr_pending = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(content: &[u8], cuts: &[usize]) -> Vec<u8> {
        let (mut encoder, mut out) = (ContentEncoder::default(), Vec::new());
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (content.len() + 1)).collect();
        ends.push(content.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            encoder.encode(&content[start..end], &mut out);
            start = end;
        }
        encoder.finish(&mut out);
        out
    }

    #[test]
    fn stuffs_and_ends() {
        for (content, want) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a", b"a\r\n.\r\n"),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b".a\r\n.b\r\n", b"..a\r\n..b\r\n.\r\n"),
            (b"a.\r\n\r\n.", b"a.\r\n\r\n..\r\n.\r\n"),
            (b"a\n.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\n.\rMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\r\n.\n", b"a\r\n\r\n..\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
        ] {
            assert_eq!(
                encode(content, &[]).escape_ascii().to_string(),
                want.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn to_bdat_a_dot_is_a_dot_and_a_line_end_is_crlf() {
        for (content, want, mended) in [
            (&b""[..], &b""[..], 0),
            (b".\r\n..a\r\n", b".\r\n..a\r\n", 0),
            (b".", b".\r\n", 0),
            (b"a\n.\rb\r", b"a\r\n.\r\nb\r\n", 3),
        ] {
            assert_eq!(ContentEncoder::whole(content), (want.to_vec(), mended));
        }
    }

    proptest! {
        #[test]
        fn nothing_smuggled_and_any_split_the_same(
            content in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a')], 0..64),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let whole = encode(&content, &[]);
            prop_assert_eq!(&encode(&content, &cuts), &whole);
            let text = String::from_utf8(whole).unwrap();
            let (body, end) = text.split_at(text.len() - 3);
            prop_assert_eq!(end, ".\r\n");
            prop_assert!(body.is_empty() || body.ends_with("\r\n"));
            let bare = body.replace("\r\n", "");
            prop_assert!(!bare.contains(['\r', '\n']));
            prop_assert!(body.split("\r\n").all(|line| line != "."));
        }

        #[test]
        fn strict_content_survives_the_round_trip(
            lines in proptest::collection::vec("[.a]{0,6}", 0..12),
        ) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let encoded = String::from_utf8(encode(content.as_bytes(), &[])).unwrap();
            let body = encoded.strip_suffix(".\r\n").unwrap();
            let decoded: String = body
                .split_inclusive("\r\n")
                .map(|line| line.strip_prefix('.').unwrap_or(line))
                .collect();
            prop_assert_eq!(decoded, content);
        }
    }
}
