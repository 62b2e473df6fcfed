//! The directories of queue and mailboxes: they can be written, and there is room.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::Site;
use super::finding::{Finding, What};
use super::scratch::Scratch;
use crate::serve::Role;

/// A message takes a file in its Maildir.
const FILES_WARNING: u64 = 100_000;
const FILES_LEAST: u64 = 1_000;

/// A directory, and the room that it is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    purpose: &'static str,
    path: PathBuf,
    /// With less, mail is not taken.
    bytes_least: u64,
    /// With less, that is near.
    bytes_warning: u64,
    /// What that is called.
    limit: &'static str,
}

/// What is there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    /// What is to be made at the first start, below this directory that is there.
    missing_below: Option<PathBuf>,
    /// The directory's owner, and whom the check runs as, where they differ.
    strangers: Option<(u32, u32)>,
    bytes_free: u64,
    /// `None` on a file system that makes them as it goes.
    files_free: Option<u64>,
}

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in places(site) {
        let path = place.path.clone();
        let seen = Scratch::within_limit(move || look(&path)).await;
        findings.extend(judge(&place, &seen));
    }
    findings
}

fn places(site: &Site) -> Vec<Place> {
    let config = &site.config;
    let (free, message) = (config.queue.min_free_bytes, config.ingress.limits.message_size_bytes);
    let reserve = free.saturating_add(config.queue.segment_bytes.into());
    let mail = Place {
        purpose: "mailboxes",
        path: config.data_dir.join(&config.mda.directory),
        bytes_least: message,
        bytes_warning: free.max(message),
        limit: "the largest message",
    };
    let queue = match &config.jetstream {
        None => Place {
            purpose: "queue",
            path: config.queue_directory(),
            bytes_least: reserve,
            bytes_warning: reserve.saturating_add(message.saturating_mul(10)),
            limit: "queue.minFreeBytes and a segment",
        },
        Some(_) => Place {
            purpose: "data",
            path: config.data_dir.clone(),
            bytes_least: mail.bytes_least,
            bytes_warning: mail.bytes_warning,
            limit: mail.limit,
        },
    };
    match config.mda.lmtp.is_none() && site.is(Role::Mda) {
        true => vec![queue, mail],
        false => vec![queue],
    }
}

fn look(path: &Path) -> io::Result<Seen> {
    let there = path.ancestors().find(|path| path.exists());
    let there = there.ok_or(io::ErrorKind::NotFound)?;
    let metadata = fs::metadata(there)?;
    if !metadata.is_dir() {
        return Err(io::Error::other(format!("{} is no directory", there.display())));
    }
    let mut strangers = None;
    if there == path {
        let us = Scratch::write(path)?.owner()?;
        strangers = (us != metadata.uid()).then_some((metadata.uid(), us));
    } else {
        // Nothing is written outside of our own directories.
        access(there, Access::WRITE_OK | Access::EXEC_OK)?;
    }
    let room = statvfs(there)?;
    Ok(Seen {
        missing_below: (there != path).then(|| there.to_owned()),
        strangers,
        bytes_free: room.f_bavail.saturating_mul(room.f_frsize),
        files_free: (room.f_files > 0).then_some(room.f_favail),
    })
}

fn judge(place: &Place, seen: &io::Result<Seen>) -> Vec<Finding> {
    let what = format!("{} {}", place.purpose, place.path.display());
    let seen = match seen {
        Ok(seen) => seen,
        Err(error) => {
            let detail = format!("{what} cannot be written: {error}");
            let remedy = "give it to the user that serves, or set dataDir to a place of his";
            return vec![What::Disk.error(detail, remedy)];
        }
    };
    let problems: Vec<Finding> =
        [judge_owner(&what, seen), judge_bytes(place, &what, seen), judge_files(&what, seen)]
            .into_iter()
            .flatten()
            .collect();
    if !problems.is_empty() {
        return problems;
    }
    let state = match &seen.missing_below {
        None => "can be written".to_owned(),
        Some(there) => format!("can be made in {}", there.display()),
    };
    vec![What::Disk.ok(format!("{what} {state}, {} MiB free", mebibytes(seen.bytes_free)))]
}

fn judge_owner(what: &str, seen: &Seen) -> Option<Finding> {
    let (owner, us) = seen.strangers?;
    let detail = format!("{what} is user {owner}'s, and this check is user {us}'s");
    let remedy = "run it as the user that serves: what it says of the disk is true for him only";
    Some(What::Disk.warning(detail, remedy))
}

fn judge_bytes(place: &Place, what: &str, seen: &Seen) -> Option<Finding> {
    let (free, limit) = (mebibytes(seen.bytes_free), place.limit);
    let detail =
        |least| format!("{what} has {free} MiB free of {} MiB ({limit})", mebibytes(least));
    if seen.bytes_free < place.bytes_least {
        let remedy = "make room: mail is answered 452 or waits";
        return Some(What::Disk.error(detail(place.bytes_least), remedy));
    }
    let is_near = seen.bytes_free < place.bytes_warning;
    is_near.then(|| What::Disk.warning(detail(place.bytes_least), "make room soon"))
}

fn judge_files(what: &str, seen: &Seen) -> Option<Finding> {
    let free = seen.files_free.filter(|free| *free < FILES_WARNING)?;
    let detail = format!("{what}: its file system has room for {free} more files (inodes)");
    let remedy = "remove files, or make a file system with more inodes";
    Some(match free < FILES_LEAST {
        true => What::Disk.error(detail, remedy),
        false => What::Disk.warning(detail, remedy),
    })
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    const ROOMY: Seen = Seen {
        missing_below: None,
        strangers: None,
        bytes_free: 1 << 40,
        files_free: Some(1 << 30),
    };

    fn levels(seen: io::Result<Seen>) -> Vec<Level> {
        let place = Place {
            purpose: "queue",
            path: "/var/lib/postrider/queue".into(),
            bytes_least: 320 << 20,
            bytes_warning: 640 << 20,
            limit: "queue.minFreeBytes and a segment",
        };
        judge(&place, &seen).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn room_and_rights() {
        let (ok, warning, error) = (Level::Ok, Level::Warning, Level::Error);
        assert_eq!(levels(Ok(ROOMY)), [ok]);
        assert_eq!(levels(Ok(Seen { missing_below: Some("/var/lib".into()), ..ROOMY })), [ok]);
        assert_eq!(levels(Ok(Seen { files_free: None, ..ROOMY })), [ok]);
        assert_eq!(levels(Ok(Seen { bytes_free: (640 << 20) - 1, ..ROOMY })), [warning]);
        assert_eq!(levels(Ok(Seen { bytes_free: (320 << 20) - 1, ..ROOMY })), [error]);
        assert_eq!(levels(Ok(Seen { files_free: Some(99_999), ..ROOMY })), [warning]);
        let full = Seen { bytes_free: 0, files_free: Some(0), strangers: Some((1, 0)), ..ROOMY };
        assert_eq!(levels(Ok(full)), [warning, error, error]);
        assert_eq!(levels(Err(io::ErrorKind::PermissionDenied.into())), [error]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let seen = look(&dir.path().join("data/queue")).unwrap();
        assert_eq!(seen.missing_below.as_deref(), Some(dir.path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("data"), "").unwrap();
        let error = look(&dir.path().join("data/queue")).unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
        assert!(look(dir.path()).unwrap().missing_below.is_none());
    }
}
