//! Lines in which nothing can command a terminal or pass for another line.

use std::io::{self, Write};

/// Writes each line with its control characters escaped, whoever formatted them.
///
/// Fields are escaped by their formatters already; but one that a crate logs by its `Display`, or
/// that holds a character which only some terminals obey, is not. The escape is that of JSON, so
/// that a JSON line stays one.
#[derive(Debug)]
pub(super) struct Clean<W>(pub(super) W);

impl<W: Write> Write for Clean<W> {
    /// Takes a whole line, which is how `tracing-subscriber` writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line)?;
        Ok(line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        // Most lines are plain: one pass over the octets, and out in one write.
        if text.iter().all(|b| matches!(b, b' '..=b'~')) {
            return self.0.write_all(line);
        }
        let mut cleaned = escaped(&String::from_utf8_lossy(text));
        cleaned.push('\n');
        self.0.write_all(cleaned.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escaped(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() || changes_order(c) {
            cleaned.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// Separators of lines and of directions: they show a text other than the one that is there.
fn changes_order(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped_and_text_is_not() {
        for (line, want) in [
            ("plain\n", "plain\n"),
            ("grüße@例え.jp\n", "grüße@例え.jp\n"),
            ("a\r\nforged\n", "a\\u000d\\u000aforged\n"),
            ("\u{1b}[2J\u{9b}31m\u{7f}\0\n", "\\u001b[2J\\u009b31m\\u007f\\u0000\n"),
            ("a\u{202e}gpj.exe\n", "a\\u202egpj.exe\n"),
            ("no end", "no end"),
        ] {
            let mut written = Vec::new();
            Clean(&mut written).write_all(line.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), want);
        }
    }
}
