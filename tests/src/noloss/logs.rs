//! What the roles log, as far as the books need it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use super::accounts::{Accounts, Arrival, Place};

/// How much of the end of a log is read for its last line.
const TAIL: u64 = 64 << 10;

/// Logs that are read as they grow.
pub(super) struct Logs {
    logs: Vec<(PathBuf, u64)>,
    /// Double bounces of messages whose client has not booked their id yet.
    unknown: Vec<Value>,
    /// Ids of messages whose commit was not answered.
    pub(super) unanswered_commits: Vec<String>,
    /// Lines about content that cannot be read.
    pub(super) quarantined: Vec<String>,
}

impl Logs {
    pub(super) fn new(logs: Vec<PathBuf>) -> Self {
        Self {
            logs: logs.into_iter().map(|path| (path, 0)).collect(),
            unknown: Vec::new(),
            unanswered_commits: Vec::new(),
            quarantined: Vec::new(),
        }
    }

    /// Books what is new.
    pub(super) fn look(&mut self, accounts: &Accounts) -> Result<()> {
        let mut bounces = std::mem::take(&mut self.unknown);
        for (path, offset) in &mut self.logs {
            for line in read_lines(path, offset)? {
                if line.contains("\"double_bounce\"") {
                    bounces.extend(serde_json::from_str::<Value>(&line).ok());
                } else if line.contains("\"commit_repeated\"") {
                    let line: Value = serde_json::from_str(&line).unwrap_or_default();
                    self.unanswered_commits.extend(line["id"].as_str().map(str::to_owned));
                } else if line.contains("quarantined") {
                    self.quarantined.push(line);
                }
            }
        }
        for bounce in bounces {
            if !book(&bounce, accounts) {
                self.unknown.push(bounce);
            }
        }
        Ok(())
    }

    /// What all roles said of a message, each line with who said it.
    pub(super) fn about(&self, queue_id: &str) -> Result<Vec<String>> {
        let mut said = Vec::new();
        for (path, _) in &self.logs {
            let role = path.parent().and_then(Path::file_name).unwrap_or_default();
            let lines = read_lines(path, &mut 0)?.into_iter();
            let lines = lines.filter(|line| line.contains(queue_id));
            said.extend(lines.map(|line| format!("{}: {line}", role.display())));
        }
        Ok(said)
    }
}

/// Whole lines beyond `offset`, which moves on.
fn read_lines(path: &Path, offset: &mut u64) -> Result<Vec<String>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(*offset))?;
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let end = octets.iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
    *offset += end as u64;
    Ok(String::from_utf8_lossy(&octets[..end]).lines().map(str::to_owned).collect())
}

fn book(bounce: &Value, accounts: &Accounts) -> bool {
    // The id of the job: the queue id, a full stop and a number.
    let id = bounce["id"].as_str().and_then(|id| id.split('.').next());
    let Some(token) = id.and_then(|id| accounts.token_of(id)) else { return false };
    let now = Instant::now();
    for recipient in bounce["recipients"].as_str().unwrap_or_default().split_whitespace() {
        let recipient = recipient.trim_matches(['<', '>']).to_owned();
        let arrival =
            Arrival { place: Place::Log, began: now, at: now, digest: None, queue_id: None };
        accounts.arrive(token.clone(), recipient, arrival);
    }
    true
}

/// When the last line was written by the clock of its process, in milliseconds since 1970.
pub(super) fn last_time(path: &Path) -> Result<Option<i64>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut octets = Vec::new();
    file.read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets);
    let times = text.lines().rev().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        unix_millis(line["timestamp"].as_str()?)
    });
    Ok(times.into_iter().next())
}

/// Of `2026-01-31T12:34:56.789012Z`.
fn unix_millis(text: &str) -> Option<i64> {
    text.parse().ok().map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read() {
        assert_eq!(unix_millis("1970-01-01T00:00:00.000000Z"), Some(0));
        assert_eq!(unix_millis("2024-02-29T12:00:01.250000Z"), Some(1_709_208_001_250));
    }
}
