//! Where a path ends and its parameters begin.

/// What follows `keyword`, in any case.
pub(super) fn keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let head = text.get(..keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| &text[keyword.len()..])
}

/// Splits `<path> parameters` into the path without brackets and the parameters.
///
/// A `>` inside a quoted local part is part of it (RFC 5321 §4.1.2).
pub(super) fn bracketed(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let mut quoted = false;
    let mut escaped = false;
    for (at, octet) in inner.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &inner[at + 1..];
                let parameters = rest.strip_prefix(' ');
                return match parameters {
                    Some(parameters) => Some((&inner[..at], parameters)),
                    None if rest.is_empty() => Some((&inner[..at], "")),
                    None => None,
                };
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        for (text, want) in [
            ("<>", Some(("", ""))),
            ("<a@b>", Some(("a@b", ""))),
            ("<a@b> SIZE=1 X", Some(("a@b", "SIZE=1 X"))),
            ("<\"a>b\\\" \"@b> X", Some(("\"a>b\\\" \"@b", "X"))),
            ("<a@b>SIZE=1", None),
            ("<a@b", None),
            (" <a@b>", None),
            ("a@b", None),
            ("<\"a@b>", None),
        ] {
            assert_eq!(bracketed(text), want, "{text}");
        }
        assert_eq!(keyword("from:<>", "FROM:"), Some("<>"));
        assert_eq!(keyword("FROM", "FROM:"), None);
        assert_eq!(keyword("FRÖM:<>", "FROM:"), None);
    }
}
