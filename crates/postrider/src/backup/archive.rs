//! A backup on the disk.
//!
//! ```text
//! config/ domains/ data/ queue/ mail/    copies, see `Tree`
//! SHA256SUMS                             a line for each file of these
//! manifest.json                          what it is; written last, when all else is on the disk
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::sums::{self, Summed};
use super::tree::Tree;

const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";
const VERSION: u32 = 1;
/// Faults that are told of one backup.
const FAULTS_MAX: usize = 20;

/// What a backup is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    /// Of the form of backups.
    pub(crate) version: u32,
    /// The program that made it.
    pub(crate) postrider: String,
    pub(crate) hostname: String,
    /// RFC 3339. Mail that was accepted before and not done with is in it.
    pub(crate) began: String,
    pub(crate) ended: String,
    pub(crate) queue: QueueKind,
    /// By the name of the tree.
    pub(crate) trees: BTreeMap<String, Count>,
    /// What belongs to the configuration and is not in it.
    pub(crate) left_out: Vec<String>,
    /// SHA-256 of `SHA256SUMS`.
    pub(crate) sums: String,
}

/// Where the queue was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum QueueKind {
    Embedded,
    /// Not in the backup.
    JetStream,
}

/// Files of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// A backup in the making.
pub(crate) struct Archive {
    directory: PathBuf,
    sums: BufWriter<File>,
    /// Opened at the beginning: a failed write is told to whoever had the directory open.
    root: File,
    trees: BTreeMap<String, Count>,
    pub(crate) progress: Progress,
}

impl Archive {
    /// Begins one in a directory that is empty, or is not there yet.
    pub(crate) fn create(directory: &Path, progress: Progress) -> anyhow::Result<Self> {
        let place = directory.display();
        sums::private_directory(directory).with_context(|| format!("cannot make {place}"))?;
        let is_empty = is_empty(directory).with_context(|| format!("cannot read {place}"))?;
        ensure!(is_empty, "{place} is not empty: name a new directory for each backup");
        let begin = || -> io::Result<Self> {
            let (root, sums) = (File::open(directory)?, File::create_new(directory.join(SUMS))?);
            let directory = directory.to_owned();
            let trees = Tree::ALL.map(|tree| (tree.name().to_owned(), Count::default())).into();
            Ok(Self { directory, sums: BufWriter::new(sums), root, trees, progress })
        };
        begin().with_context(|| format!("cannot write to {place}"))
    }

    /// Copies a file, or its first `bytes`.
    pub(crate) fn add(
        &mut self,
        tree: Tree,
        below: &Path,
        from: &Path,
        bytes: Option<u64>,
    ) -> io::Result<()> {
        let path = Path::new(tree.name()).join(below);
        let Summed { bytes, sum } = sums::copy(from, &self.directory.join(&path), bytes)?;
        self.sums.write_all(&sums::line(&path, &sum))?;
        let count = self.trees.entry(tree.name().to_owned()).or_default();
        count.files += 1;
        count.bytes += bytes;
        self.progress.add(bytes);
        Ok(())
    }

    /// Makes a directory that may stay empty.
    pub(crate) fn add_directory(&self, tree: Tree, below: &Path) -> io::Result<()> {
        sums::private_directory(&self.directory.join(tree.name()).join(below))
    }

    /// Makes it a backup. `manifest` says all but what is counted here.
    pub(crate) fn finish(mut self, manifest: Manifest) -> anyhow::Result<Manifest> {
        let place = self.directory.join(SUMS);
        self.sums.flush().with_context(|| format!("cannot write {}", place.display()))?;
        let sums = sums::of_file(&place)?.sum;
        rustix::fs::syncfs(&self.root)
            .with_context(|| format!("cannot sync {}", self.directory.display()))?;
        let manifest = Manifest { trees: self.trees, sums, ..manifest };
        let path = self.directory.join(MANIFEST);
        let text = serde_json::to_string_pretty(&manifest)? + "\n";
        runtime::private_file::write_whole(&path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(manifest)
    }
}

impl Manifest {
    pub(crate) fn new(hostname: &str, began: String, queue: QueueKind) -> Self {
        Self {
            version: VERSION,
            postrider: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: hostname.to_owned(),
            began,
            ended: String::new(),
            queue,
            trees: BTreeMap::new(),
            left_out: Vec::new(),
            sums: String::new(),
        }
    }

    pub(crate) fn total(&self) -> Count {
        let add =
            |a: Count, b: &Count| Count { files: a.files + b.files, bytes: a.bytes + b.bytes };
        self.trees.values().fold(Count::default(), add)
    }
}

/// What a file system makes at its root; only root looks into it.
const LOST_FOUND: &str = "lost+found";

/// Whether nothing is in a directory that somebody has put there.
pub(crate) fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        if entry?.file_name() != LOST_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A finished backup.
pub(crate) struct Saved {
    directory: PathBuf,
    pub(crate) manifest: Manifest,
}

/// A file of a backup.
pub(crate) struct SavedFile {
    /// Relative to the backup.
    pub(crate) path: PathBuf,
    pub(crate) tree: Tree,
    /// Relative to the tree.
    pub(crate) below: PathBuf,
    pub(crate) sum: String,
}

impl Saved {
    /// Reads what the backup is, and nothing of its content.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(MANIFEST);
        let place = path.display();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => anyhow::bail!(
                "{place} is not there: this is no backup, or one that was not finished; nothing of \
                 it can be relied on, take another"
            ),
            text => text.with_context(|| format!("cannot read {place}"))?,
        };
        // The version first: the form of another one is not ours to judge.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = || format!("{place} is damaged");
        let Versioned { version } = serde_json::from_str(&text).with_context(damaged)?;
        ensure!(
            version == VERSION,
            "{place}: version {version} is newer than this program: upgrade it"
        );
        let manifest = serde_json::from_str(&text).with_context(damaged)?;
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// The directory of a tree.
    pub(crate) fn tree(&self, tree: Tree) -> PathBuf {
        self.directory.join(tree.name())
    }

    pub(crate) fn path_of(&self, file: &SavedFile) -> PathBuf {
        self.directory.join(&file.path)
    }

    /// The files by the list, one after the other.
    pub(crate) fn files(&self) -> anyhow::Result<impl Iterator<Item = anyhow::Result<SavedFile>>> {
        let path = self.directory.join(SUMS);
        let list = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lines = BufReader::new(list).split(b'\n').enumerate();
        Ok(lines.map(move |(n, line)| {
            let place = || format!("{}:{}", path.display(), n + 1);
            let line = line.with_context(|| format!("cannot read {}", place()))?;
            let file = sums::parse(&line).and_then(|(path, sum)| {
                let (tree, below) = Tree::split(&path)?;
                let below = below.to_owned();
                Some(SavedFile { path, tree, below, sum })
            });
            file.with_context(|| format!("{} is no line of a backup's file", place()))
        }))
    }

    /// Reads every octet. Names what is not as it was saved, and what is there and was not saved.
    pub(crate) fn verify(&self, mut progress: Progress) -> anyhow::Result<()> {
        let list = self.directory.join(SUMS);
        let sum =
            sums::of_file(&list).with_context(|| format!("cannot read {}", list.display()))?.sum;
        ensure!(
            sum == self.manifest.sums,
            "{} is not as it was saved: it is damaged",
            list.display()
        );
        let mut faults = Faults(Vec::new());
        let mut trees: BTreeMap<String, Count> =
            self.manifest.trees.keys().map(|name| (name.clone(), Count::default())).collect();
        for file in self.files()? {
            let file = file?;
            let path = self.path_of(&file);
            let count = trees.entry(file.tree.name().to_owned()).or_default();
            count.files += 1;
            match sums::of_file(&path) {
                Ok(summed) => {
                    count.bytes += summed.bytes;
                    progress.add(summed.bytes);
                    if summed.sum != file.sum {
                        faults.add(format!("{} is not as it was saved", path.display()));
                    }
                }
                Err(error) => faults.add(format!("{}: {error}", path.display())),
            }
        }
        self.find_strangers(&mut faults)?;
        faults.none()?;
        ensure!(
            trees == self.manifest.trees,
            "{} names other files than were saved",
            list.display()
        );
        Ok(())
    }

    /// Files that nobody has saved would be restored with those that were.
    fn find_strangers(&self, faults: &mut Faults) -> anyhow::Result<()> {
        let mut found = Count::default();
        let mut strangers = BTreeSet::new();
        for tree in Tree::ALL {
            walk(&self.tree(tree), &mut |path, kind| {
                match kind {
                    Kind::File => found.files += 1,
                    Kind::Directory => {}
                    Kind::Other => {
                        strangers.insert(path.to_owned());
                    }
                }
                Ok(())
            })?;
        }
        for stranger in strangers {
            faults.add(format!("{} is neither a file nor a directory", stranger.display()));
        }
        if found.files > self.manifest.total().files {
            faults.add(format!(
                "{} has {} files that were not saved: remove them, or take another backup",
                self.directory.display(),
                found.files - self.manifest.total().files
            ));
        }
        Ok(())
    }
}

/// What is wrong with a backup.
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: String) {
        if self.0.len() <= FAULTS_MAX {
            self.0.push(fault);
        }
    }

    fn none(mut self) -> anyhow::Result<()> {
        if self.0.len() > FAULTS_MAX {
            self.0[FAULTS_MAX] = "and more".to_owned();
        }
        ensure!(
            self.0.is_empty(),
            "the backup is damaged, and nothing was restored:\n{}",
            self.0.join("\n")
        );
        Ok(())
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    File,
    Directory,
    /// A link, a socket, a device.
    Other,
}

/// Calls `each` with all that is below a directory, directories before what is in them. One that is
/// not there is empty. What goes away meanwhile is passed over.
pub(crate) fn walk(
    directory: &Path,
    each: &mut impl FnMut(&Path, Kind) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for (path, kind) in entries(directory)? {
        each(&path, kind)?;
        if kind == Kind::Directory {
            walk(&path, each)?;
        }
    }
    Ok(())
}

/// What somebody has put in a directory, in order of names; nothing if it is not there.
pub(crate) fn entries(directory: &Path) -> anyhow::Result<Vec<(PathBuf, Kind)>> {
    let read = || -> io::Result<Vec<(PathBuf, Kind)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name() == LOST_FOUND {
                continue;
            }
            let kind = match entry.file_type()? {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Directory,
                _ => Kind::Other,
            };
            entries.push((entry.path(), kind));
        }
        entries.sort();
        Ok(entries)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", directory.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;

    fn manifest() -> Manifest {
        Manifest::new("mx.example.org", "2026-01-01T00:00:00Z".into(), QueueKind::Embedded)
    }

    /// A backup of two files.
    fn saved(dir: &Path) -> PathBuf {
        let backup = dir.join("backup");
        let from = dir.join("from");
        fs::write(&from, "octets").unwrap();
        let mut archive = Archive::create(&backup, Progress::new(Output::Table, "copied")).unwrap();
        archive.add(Tree::Mail, Path::new("a.example/b/new/1"), &from, None).unwrap();
        archive.add(Tree::Queue, Path::new("log/1.seg"), &from, Some(3)).unwrap();
        archive.add_directory(Tree::Mail, Path::new("a.example/b/cur")).unwrap();
        assert_eq!(archive.finish(manifest()).unwrap().total(), Count { files: 2, bytes: 9 });
        backup
    }

    fn verify(backup: &Path) -> Result<(), String> {
        let progress = Progress::new(Output::Table, "read");
        let verified = Saved::open(backup).and_then(|saved| saved.verify(progress));
        verified.map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let backup = saved(dir.path());
        assert_eq!(verify(&backup), Ok(()));
        let saved = Saved::open(&backup).unwrap();
        let files: Vec<_> = saved.files().unwrap().map(Result::unwrap).collect();
        let paths: Vec<_> = files.iter().map(|file| (file.tree, &*file.below)).collect();
        let mail = (Tree::Mail, Path::new("a.example/b/new/1"));
        assert_eq!(paths, [mail, (Tree::Queue, Path::new("log/1.seg"))]);
        let again = Archive::create(&backup, Progress::new(Output::Table, "copied")).err().unwrap();
        assert!(again.to_string().contains("is not empty"), "{again}");
    }

    #[test]
    fn what_is_not_as_it_was_is_named() {
        type Damage = fn(&Path);
        let damages: [(Damage, &str); 9] = [
            (|dir| fs::remove_file(dir.join(MANIFEST)).unwrap(), "was not finished"),
            (
                |dir| fs::write(dir.join(MANIFEST), "{\"version\": 1").unwrap(),
                "manifest.json is damaged",
            ),
            (|dir| fs::write(dir.join(MANIFEST), "{\"version\": 2}").unwrap(), "upgrade"),
            (|dir| fs::write(dir.join(SUMS), "").unwrap(), "SHA256SUMS is not as it was saved"),
            (
                |dir| fs::write(dir.join("queue/log/1.seg"), "ocT").unwrap(),
                "queue/log/1.seg is not as",
            ),
            (
                |dir| fs::write(dir.join("queue/log/1.seg"), "octets").unwrap(),
                "queue/log/1.seg is not as",
            ),
            (
                |dir| fs::remove_file(dir.join("mail/a.example/b/new/1")).unwrap(),
                "b/new/1: No such",
            ),
            (
                |dir| fs::write(dir.join("mail/a.example/b/new/2"), "").unwrap(),
                "1 files that were not",
            ),
            (
                |dir| {
                    std::os::unix::fs::symlink("/etc", dir.join("data-link"))
                        .and_then(|()| {
                            fs::create_dir(dir.join("data"))?;
                            fs::rename(dir.join("data-link"), dir.join("data/link"))
                        })
                        .unwrap()
                },
                "data/link is neither",
            ),
        ];
        for (damage, wants) in damages {
            let dir = tempfile::tempdir().unwrap();
            let backup = saved(dir.path());
            damage(&backup);
            let told = verify(&backup).unwrap_err();
            assert!(told.contains(wants), "{wants}: {told}");
        }
    }

    #[test]
    fn a_list_that_leads_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let backup = saved(dir.path());
        let line = sums::line(Path::new("mail/../../outside"), &"0".repeat(64));
        fs::write(backup.join(SUMS), line).unwrap();
        let mut forged = Saved::open(&backup).unwrap();
        forged.manifest.sums = sums::of_file(&backup.join(SUMS)).unwrap().sum;
        let refused = forged.verify(Progress::new(Output::Table, "read")).unwrap_err();
        assert!(refused.to_string().contains("SHA256SUMS:1 is no line"), "{refused}");
    }

    #[test]
    fn of_many_faults_some_are_told() {
        let mut faults = Faults(Vec::new());
        (0..100).for_each(|n| faults.add(format!("fault {n}.")));
        let told = faults.none().unwrap_err().to_string();
        assert!(told.contains("fault 19.") && !told.contains("fault 20."), "{told}");
        assert!(told.ends_with("and more"), "{told}");
    }
}
