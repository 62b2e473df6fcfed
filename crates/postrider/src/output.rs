//! What people and scripts read.
#![allow(clippy::print_stdout, clippy::print_stderr)] // printing is what this module is for

use std::io::{self, Write};

use serde::Serialize;

/// The error with all its causes, on stderr.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("postrider: {error:#}");
}

/// A line on stdout; a reader that went away ends the process quietly, as `head` expects.
pub(crate) fn line(text: &str) {
    if writeln!(io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// One JSON object on a line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?);
    Ok(())
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
