//! Lines in two files, of which the older makes room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mail_types::QueueId;
use memchr::memmem;

use crate::remains::Remains;

const NEW: &str = "new";
const OLD: &str = "old";

/// The files, open for more.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    /// Octets at which a file is full.
    file_max: u64,
    newest: File,
    size: u64,
}

impl Files {
    /// Opens the files, or makes them. They name senders and recipients: nobody else reads them.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let (newest, size) = open_new(directory)?;
        Ok(Self { directory: directory.to_owned(), file_max: max_bytes / 2, newest, size })
    }

    /// Adds whole lines. After an error some of them may be there.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.file_max {
            fs::rename(self.directory.join(NEW), self.directory.join(OLD))?;
            (self.newest, self.size) = open_new(&self.directory)?;
        }
        self.newest.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }
}

/// Opens the newer file at its end. A line that was cut by a crash is ended.
fn open_new(directory: &Path) -> io::Result<(File, u64)> {
    let path = directory.join(NEW);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).read(true).append(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

/// Characters of an id that tell when its message came: a DSN has those of the message it is for.
const ARRIVAL: usize = 10;

/// What is kept of messages that came when `message` did, oldest first. Reads all there is: blocks.
pub(crate) fn find(directory: &Path, message: QueueId) -> io::Result<Vec<Remains>> {
    let mut found = Vec::new();
    // In this order a file that is renamed meanwhile is read twice, and not missed.
    let newer = File::open(directory.join(NEW));
    let older = File::open(directory.join(OLD));
    for file in [older, newer] {
        match file {
            Ok(file) => find_in(file, message, &mut found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn find_in(file: File, message: QueueId, found: &mut Vec<Remains>) -> io::Result<()> {
    let id = message.to_string();
    let needle = memmem::Finder::new(&id[..ARRIVAL]);
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        // A line that was cut, or is of a newer version, is passed over.
        let is_there = needle.find(&line).is_some();
        let remains = is_there.then(|| serde_json::from_slice::<Remains>(&line).ok()).flatten();
        if let Some(remains) = remains.filter(|remains| remains.came_with(message))
            && !found.contains(&remains)
        {
            found.push(remains);
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use mail_types::Timestamp;
    use queue::JobId;

    use super::*;
    use crate::remains::What;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

    fn dropped(n: u128) -> Remains {
        let job = JobId { message: QueueId::new(NOW, n), index: 0 };
        Remains { at: NOW, job, what: What::Dropped }
    }

    fn line(n: u128) -> Vec<u8> {
        line_of(&dropped(n))
    }

    fn line_of(remains: &Remains) -> Vec<u8> {
        let mut line = serde_json::to_vec(remains).unwrap();
        line.push(b'\n');
        line
    }

    #[test]
    fn the_oldest_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let each = line(1).len() as u64;
        let mut files = Files::open(&path, 20 * each).unwrap();
        for n in 0..100 {
            files.append(&line(n)).unwrap();
        }
        let size = |name: &str| fs::metadata(path.join(name)).unwrap().len();
        assert_eq!((size(OLD), size(NEW)), (10 * each, 10 * each));
        let kept = find(&path, dropped(0).job.message).unwrap();
        assert_eq!(kept, (80..100).map(dropped).collect::<Vec<_>>());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join(NEW))), (0o700, 0o600));
    }

    #[test]
    fn a_line_that_a_crash_cut_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(dir.path(), 1 << 20).unwrap();
        files.append(&line(1)).unwrap();
        files.append(&line(2)[..30]).unwrap();
        drop(files);
        Files::open(dir.path(), 1 << 20).unwrap().append(&line(3)).unwrap();
        let kept = find(dir.path(), dropped(0).job.message).unwrap();
        assert_eq!(kept, [dropped(1), dropped(3)]);
    }

    #[test]
    fn a_dsn_is_found_with_its_message_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(dir.path(), 1 << 20).unwrap();
        let of = |message| Remains { job: JobId { message, index: 0 }, ..dropped(1) };
        let message = dropped(1).job.message;
        let dsn = of(QueueId::new(NOW, u128::MAX));
        let later = of(QueueId::new(NOW + Duration::from_millis(1), 1));
        for remains in [&dropped(1), &later, &dsn] {
            files.append(&line_of(remains)).unwrap();
        }
        assert_eq!(find(dir.path(), message).unwrap(), [dropped(1), dsn]);
        assert_eq!(find(dir.path(), later.job.message).unwrap(), [later]);
    }
}
