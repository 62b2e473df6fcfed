//! Header fields as slices of their block (RFC 5322 §2.2).

/// A field: `name: value`, with its folding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Without the colon.
    pub name: &'a [u8],
    /// What follows the colon, folding included, without the last line's end.
    pub value: &'a [u8],
    /// The whole field with its last line's end.
    pub raw: &'a [u8],
}

impl Field<'_> {
    /// Whether the field has this name; case does not matter (RFC 5322 §1.2.2).
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line: folding removed, white space at the ends cut (RFC 5322 §2.2.3).
    pub fn unfolded(&self) -> Vec<u8> {
        let line: Vec<u8> =
            self.value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        line.trim_ascii().to_vec()
    }
}

/// The fields of a header block, up to the empty line or the first line that is no field.
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { rest: block }
}

/// Iterator of [`fields`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// What has not been read; after the last field, all that is none.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let colon = name_length(self.rest)?;
        let mut end = line_end(self.rest, 0);
        while matches!(self.rest.get(end), Some(b' ' | b'\t')) {
            end = line_end(self.rest, end);
        }
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        let name = raw[..colon].trim_ascii_end();
        let value = raw.get(colon + 1..).unwrap_or_default();
        Some(Field { name, value: without_line_end(value), raw })
    }
}

/// Where the colon of a field stands, if `line` begins one: printable ASCII but the colon, then
/// white space (which RFC 5322 §4.5 had to allow), then the colon.
fn name_length(line: &[u8]) -> Option<usize> {
    let name = line.iter().take_while(|b| matches!(b, b'!'..=b'9' | b';'..=b'~')).count();
    let space = line[name..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    (name > 0 && line.get(name + space) == Some(&b':')).then_some(name + space)
}

/// Just after the line that holds `start`.
fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1)
}

fn without_line_end(value: &[u8]) -> &[u8] {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    value.strip_suffix(b"\r").unwrap_or(value)
}

/// How often a field occurs.
pub fn count(block: &[u8], name: &str) -> usize {
    fields(block).filter(|field| field.is(name)).count()
}

/// Whether a field occurs.
pub fn has(block: &[u8], name: &str) -> bool {
    fields(block).any(|field| field.is(name))
}

/// The block without the fields of this name, otherwise octet for octet the same.
pub fn without(block: &[u8], name: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(block.len());
    let mut fields = fields(block);
    for field in fields.by_ref() {
        if !field.is(name) {
            kept.extend_from_slice(field.raw);
        }
    }
    kept.extend_from_slice(fields.rest);
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: &[u8] = b"Received: a\r\n\tb\r\nFrom: x@y.example\r\nreceived : c\r\n\r\n";

    #[test]
    fn fields_are_slices() {
        let found: Vec<_> = fields(BLOCK).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].raw, b"Received: a\r\n\tb\r\n");
        assert_eq!(found[0].unfolded(), b"a\tb");
        assert_eq!((found[2].name, found[2].value), (&b"received"[..], &b" c"[..]));
        assert_eq!((count(BLOCK, "RECEIVED"), has(BLOCK, "to")), (2, false));
    }

    #[test]
    fn removing_leaves_the_rest_alone() {
        assert_eq!(without(BLOCK, "Received"), b"From: x@y.example\r\n\r\n");
        assert_eq!(without(BLOCK, "Subject"), BLOCK);
    }

    #[test]
    fn what_is_no_field_ends_the_block() {
        for block in
            ["\r\nA: b\r\n", "not a field\r\nA: b\r\n", ": x\r\n", " folded\r\n", "ä: b\r\n", ""]
        {
            assert_eq!(fields(block.as_bytes()).count(), 0, "{block:?}");
        }
        assert_eq!(fields(b"A: no line end").count(), 1);
    }

    proptest! {
        #[test]
        fn no_octet_is_lost(block in prop::collection::vec(prop::sample::select(
            b"aB: \t\r\n\0\xff".to_vec()), 0..60)) {
            let mut iterator = fields(&block);
            let mut read: Vec<u8> = iterator.by_ref().flat_map(|f| f.raw.to_vec()).collect();
            read.extend_from_slice(iterator.rest);
            prop_assert_eq!(&read, &block);
            prop_assert_eq!(without(&block, "no-such-name"), block);
        }
    }
}
