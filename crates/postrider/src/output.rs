//! What people and scripts read.
#![allow(clippy::print_stdout, clippy::print_stderr)] // printing is what this module is for

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

/// The error with all its causes, on stderr.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("postrider: {error:#}");
}

/// A line on stdout; a reader that went away ends the process quietly, as `head` expects.
pub(crate) fn line(text: &str) {
    put(&visible(text));
}

/// One JSON object on a line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    put(&serde_json::to_string(value)?);
    Ok(())
}

fn put(line: &str) {
    if writeln!(io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// What strangers have written may not rearrange the line that it stands in: marks of the writing
/// direction, and what no terminal shows, are written as numbers.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    let show = |shown: String, c: char| match is_hidden(c) {
        true => shown + &c.escape_unicode().to_string(),
        false => shown + c.encode_utf8(&mut [0; 4]),
    };
    text.chars().fold(String::new(), show).into()
}

/// The explicit ones of UAX #9, joiners and spaces without width, and controls.
fn is_hidden(c: char) -> bool {
    let is_mark = matches!(
        c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    );
    is_mark || c.is_control() && c != '\n' && c != '\t'
}

/// Rows in columns as wide as their widest cell; the last is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(padded.join("  ").trim_end());
    };
    print(&mut head.iter().copied());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}

/// Something for the person at the terminal, on stderr.
pub(crate) fn hint(text: &str) {
    eprintln!("{text}");
}

/// The same in place of what was there, on a terminal.
pub(crate) fn in_place(text: &str) {
    eprint!("\r{text}\u{1b}[K");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rearranges_a_line_is_seen() {
        for (text, shown) in [
            ("<jörg@bücher.example> → x\n  y\tz", "<jörg@bücher.example> → x\n  y\tz"),
            ("a\u{202e}gnp.exe@b.example", "a\\u{202e}gnp.exe@b.example"),
            ("a\u{2066}\u{200b}b", "a\\u{2066}\\u{200b}b"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }
}
