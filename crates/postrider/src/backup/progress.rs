//! How far long work is.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::Output;
use crate::output;
use crate::queue_command::size;

/// Between two words.
const PAUSE: Duration = Duration::from_secs(2);

/// Files that are done with, told of every few seconds: to people on stderr, to programs as a line
/// of JSON.
pub(crate) struct Progress {
    output: Output,
    verb: &'static str,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    told: Instant,
}

#[derive(Serialize)]
struct Line {
    progress: Step,
}

#[derive(Serialize)]
struct Step {
    step: &'static str,
    files: u64,
    bytes: u64,
}

impl Progress {
    /// `verb` is what was done to files: *copied*.
    pub(crate) fn new(output: Output, verb: &'static str) -> Self {
        Self { output, verb, files: 0, bytes: 0, told: Instant::now() }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
        if self.told.elapsed() >= PAUSE {
            self.told = Instant::now();
            self.tell();
        }
    }

    fn tell(&self) {
        let Self { verb, files, bytes, .. } = *self;
        match self.output {
            Output::Table => output::hint(&format!("{verb} {files} files so far, {}", size(bytes))),
            Output::Json => {
                let line = Line { progress: Step { step: verb, files, bytes } };
                output::json(&line).unwrap_or_else(|error| output::error(&error));
            }
        }
    }
}
