//! The clock: every date in mail, every retry and every certificate depends on it.
//!
//! Whether it is right cannot be told from here. What can be: that it is not absurd, that the disk
//! agrees, and, if one is named, that a time server does.

pub(crate) mod sntp;

use std::time::Duration;

use mail_types::Timestamp;
use runtime::clock::now;

use super::Site;
use super::finding::{Finding, What};
use super::scratch::Scratch;

/// 2026-01-01: there was no Postrider before. A machine without a battery begins at 1970 or so.
const PLAUSIBLE_FROM: Timestamp = Timestamp::from_unix_ms(1_767_225_600_000);
/// 2100-01-01.
const PLAUSIBLE_TO: Timestamp = Timestamp::from_unix_ms(4_102_444_800_000);
/// What two clocks that are kept right may differ, with the way between them.
const OFFSET_OK: Duration = Duration::from_secs(2);
/// More than this is wrong, not late.
const OFFSET_MAX: Duration = Duration::from_secs(60);

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let asked = async {
        let server = site.time_server.as_ref()?;
        Some((server.to_string(), sntp::ask(server, &site.lookup).await))
    };
    let (disk, asked) = tokio::join!(disk_offset_ms(site), asked);
    let mut findings = vec![judge_now(now())];
    findings.extend(disk.map(|offset_ms| {
        judge_offset("the file system of dataDir", offset_ms, "is it a network disk whose server")
    }));
    findings.extend(asked.map(|(server, offset)| match offset {
        Ok(offset_ms) => judge_offset(&server, offset_ms, "is this machine's clock one that"),
        Err(error) => What::Clock.warning(
            format!("the time server {server} was not to be asked: {error}"),
            "name another one with --time-server",
        ),
    }));
    findings
}

/// By how much a file that is written now is younger than now; nothing when none can be written,
/// of which `disk` tells.
async fn disk_offset_ms(site: &Site) -> Option<i64> {
    let directory = site.config.data_dir.clone();
    let written = Scratch::within_limit(move || {
        let before = now();
        let written = Scratch::write(&directory)?.modified()?;
        Ok((before, written, now()))
    });
    let (before, written, after) = written.await.ok()?;
    // A time between the two is in order; file systems keep it to the tick of a timer, or worse.
    let (written, before, after) = (written.unix_ms(), before.unix_ms(), after.unix_ms());
    Some(written - written.clamp(before, after.max(before)))
}

fn judge_now(now: Timestamp) -> Finding {
    if (PLAUSIBLE_FROM..PLAUSIBLE_TO).contains(&now) {
        return What::Clock.ok(format!("it is {now}, which may be; --time-server compares it"));
    }
    What::Clock
        .error(format!("it is {now}, which cannot be"), "set the clock, and have NTP keep it right")
}

/// `offset_ms`: by how much the other clock is ahead.
fn judge_offset(other: &str, offset_ms: i64, whose: &str) -> Finding {
    let offset = Duration::from_millis(offset_ms.unsigned_abs());
    let relation = if offset_ms < 0 { "behind" } else { "ahead" };
    let detail =
        format!("{other} is {}.{:03} s {relation}", offset.as_secs(), offset.subsec_millis());
    let remedy = format!("{whose} NTP keeps right?");
    match offset {
        offset if offset <= OFFSET_OK => What::Clock.ok(detail),
        offset if offset <= OFFSET_MAX => What::Clock.warning(detail, remedy),
        _ => What::Clock.error(detail, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    #[test]
    fn absurd_times() {
        assert_eq!(PLAUSIBLE_FROM.to_rfc3339(), "2026-01-01T00:00:00.000Z");
        assert_eq!(PLAUSIBLE_TO.to_rfc3339(), "2100-01-01T00:00:00.000Z");
        let level = |ms| judge_now(Timestamp::from_unix_ms(ms)).level;
        assert_eq!(level(0), Level::Error);
        assert_eq!(level(PLAUSIBLE_FROM.unix_ms() - 1), Level::Error);
        assert_eq!(level(PLAUSIBLE_FROM.unix_ms()), Level::Ok);
        assert_eq!(level(PLAUSIBLE_TO.unix_ms()), Level::Error);
    }

    #[test]
    fn two_clocks() {
        let level = |offset_ms| judge_offset("it", offset_ms, "is it one that").level;
        for (offset_ms, expected) in [
            (0, Level::Ok),
            (-2_000, Level::Ok),
            (2_001, Level::Warning),
            (-60_000, Level::Warning),
            (60_001, Level::Error),
            (i64::MIN, Level::Error),
        ] {
            assert_eq!(level(offset_ms), expected, "{offset_ms}");
        }
        let finding = judge_offset("192.0.2.1:123", -62_005, "is it one that");
        assert_eq!(finding.detail, "192.0.2.1:123 is 62.005 s behind");
    }
}
