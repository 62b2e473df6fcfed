//! `postrider restore DIR`: puts a backup into place, where nothing is yet.
//!
//! All of it is read and compared before anything is written. What is put into place is marked
//! until all of it is there: a process does not start on half a restore.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use futures::StreamExt;
use queue::{Action, Filter, Queue};
use queue_log::LogQueue;
use serde::Serialize;

use crate::backup::archive::{Count, Kind, Manifest, QueueKind, Saved, is_empty, walk};
use crate::backup::progress::Progress;
use crate::backup::sums;
use crate::backup::tree::Tree;
use crate::cli::{Output, Target};
use crate::config::{Config, FILE, Refused, refused};
use crate::queue_command::size;
use crate::{output, resources};

/// What becomes of the mail in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mail {
    GoesOn,
    /// Nothing is tried before an operator releases it.
    Held,
}

pub(crate) async fn run(directory: &Path, mail: Mail, target: Target) -> anyhow::Result<()> {
    let plan = Plan::make(directory, &target)?;
    plan.saved.verify(Progress::new(target.output, "compared"))?;
    let config = plan.config.clone();
    let marker = Marker::set(&config)?;
    let unfinished = || {
        let place = config.data_dir.display();
        format!("the restore was not finished: remove what is in {place}, and restore again")
    };
    let put = tokio::task::spawn_blocking(move || plan.put(target.output));
    let put = put.await.context("restoring panicked")?.with_context(unfinished)?;
    let queue = match put.manifest.queue {
        QueueKind::Embedded => Some(look_at_queue(&config, mail).await.with_context(unfinished)?),
        QueueKind::JetStream => None,
    };
    marker.remove().with_context(unfinished)?;
    let Put { manifest, trees } = put;
    tell(&Restored { from: manifest, trees, queue }, mail, target.output)
}

/// Where the parts of a backup go.
struct Plan {
    saved: Saved,
    /// What is in force there: the one that is there, or else the saved one.
    config: Config,
    trees: Vec<Tree>,
}

/// What was done.
struct Put {
    manifest: Manifest,
    trees: Vec<Tree>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    /// What the backup says of itself.
    from: Manifest,
    #[serde(serialize_with = "names")]
    trees: Vec<Tree>,
    /// Jobs and messages in the queue.
    queue: Option<InQueue>,
}

#[derive(Clone, Copy, Serialize)]
struct InQueue {
    messages: u64,
    held: u64,
    /// Whose records cannot be read.
    quarantined: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    restored: &'a Restored,
}

fn names<S: serde::Serializer>(trees: &[Tree], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(trees.iter().map(|tree| tree.name()))
}

impl Plan {
    /// Looks at everything, and changes nothing.
    fn make(directory: &Path, target: &Target) -> anyhow::Result<Self> {
        let saved = Saved::open(directory)?;
        let is_configured = target.config.join(FILE).exists();
        let config = match is_configured {
            true => Config::load(&target.config)?,
            false => Config::load_for(&saved.tree(Tree::Config), &target.config)?,
        };
        ensure!(
            config.jetstream.is_none() || saved.manifest.queue == QueueKind::JetStream,
            "the backup has an embedded queue, and the configuration has jetstream: nobody would \
             deliver the mail in it; restore with a configuration without jetstream"
        );
        for (what, path) in
            [("dataDir", config.data_dir.clone()), ("mda.directory", config.mail_directory())]
        {
            let place = path.display();
            let is_free = free(&path).with_context(|| format!("cannot read {place}"))?;
            ensure!(
                is_free,
                "{what}: {place} is not empty, and nothing was restored: restore into an empty \
                 one, or move what is there away"
            );
        }
        let has_domains = !resources::files_if_any(&config.domains_dir)?.is_empty();
        let keeps = |tree: &Tree| match tree {
            Tree::Config => is_configured,
            Tree::Domains => has_domains,
            Tree::Data | Tree::Queue | Tree::Mail => false,
        };
        let trees = Tree::ALL.into_iter().filter(|tree| !keeps(tree)).collect();
        config.queue.validate().map_err(|problem| refused("queue")(&problem))?;
        let plan = Self { saved, config, trees };
        plan.check_nothing_is_replaced()?;
        Ok(plan)
    }

    /// Beside the configuration there may be other files.
    fn check_nothing_is_replaced(&self) -> anyhow::Result<()> {
        for file in self.saved.files()? {
            let file = file?;
            let may_be_there = matches!(file.tree, Tree::Config | Tree::Domains);
            if may_be_there && self.trees.contains(&file.tree) {
                let path = file.tree.root(&self.config).join(&file.below);
                let is_there = path.symlink_metadata().is_ok();
                ensure!(
                    !is_there,
                    "{} is there, and nothing was restored: move it",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// Copies, and compares once more with what was saved.
    fn put(self, output: Output) -> anyhow::Result<Put> {
        let mut progress = Progress::new(output, "restored");
        for &tree in &self.trees {
            let (from, to) = (self.saved.tree(tree), tree.root(&self.config));
            walk(&from, &mut |path, kind| {
                if kind == Kind::Directory {
                    let made = to.join(path.strip_prefix(&from)?);
                    sums::private_directory(&made)
                        .with_context(|| format!("cannot make {}", made.display()))?;
                }
                Ok(())
            })?;
        }
        for file in self.saved.files()? {
            let file = file?;
            if !self.trees.contains(&file.tree) {
                continue;
            }
            let (from, to) = (self.saved.path_of(&file), file.tree.root(&self.config));
            let to = to.join(&file.below);
            let copied = sums::copy(&from, &to, None)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            ensure!(copied.sum == file.sum, "{} is not as it was saved", from.display());
            progress.add(copied.bytes);
        }
        for tree in &self.trees {
            sync(&tree.root(&self.config))?;
        }
        Ok(Put { manifest: self.saved.manifest, trees: self.trees })
    }
}

/// Half a restore would be taken for all the mail that there is.
pub(crate) fn ensure_restored(config: &Config) -> anyhow::Result<()> {
    let marker = config.restore_marker();
    if !marker.exists() {
        return Ok(());
    }
    let (marker, place) = (marker.display(), config.data_dir.display());
    let problem = format!(
        "{marker}: a restore has begun and has not ended; wait for it, or if nobody restores, \
         remove what is in {place} and run `postrider restore` again"
    );
    Err(Refused::of_lines(&[problem]).into())
}

/// Whether nothing is there, not even a process.
fn free(directory: &Path) -> io::Result<bool> {
    match is_empty(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        is_empty => is_empty,
    }
}

/// Makes durable what was written below a directory, if it is there.
fn sync(directory: &Path) -> anyhow::Result<()> {
    let place = directory.display();
    match File::open(directory) {
        Ok(file) => rustix::fs::syncfs(file).with_context(|| format!("cannot sync {place}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot open {place}")),
    }
}

/// A file that says that a restore is not finished.
struct Marker(PathBuf);

impl Marker {
    fn set(config: &Config) -> anyhow::Result<Self> {
        let marker = config.restore_marker();
        let text = "A restore has begun and has not ended. See docs/operations.md.\n";
        sums::private_directory(&config.data_dir)
            .and_then(|()| runtime::private_file::write_whole(&marker, text))
            .with_context(|| format!("cannot write {}", marker.display()))?;
        Ok(Self(marker))
    }

    fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.0)?;
        self.0.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

/// Reads the queue as a process would, so that what is wrong with it is told now.
async fn look_at_queue(config: &Config, mail: Mail) -> anyhow::Result<InQueue> {
    let (directory, settings) = (config.queue_directory(), config.queue.clone());
    let opened = tokio::task::spawn_blocking(move || {
        LogQueue::open(&directory, settings, queue_log::Metrics::default(), runtime::clock::now)
    });
    let queue = opened.await.context("opening the queue panicked")??;
    if mail == Mail::Held {
        let mut acted = queue.act(Filter::default(), Action::Hold);
        while let Some(acted) = acted.next().await {
            acted.context("mail cannot be held")?;
        }
    }
    let stats = queue.stats().await?;
    queue.close().await;
    Ok(InQueue { messages: stats.messages, held: stats.held, quarantined: stats.quarantined })
}

fn tell(restored: &Restored, mail: Mail, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&Line { restored });
    }
    for tree in &restored.trees {
        let Count { files, bytes } =
            restored.from.trees.get(tree.name()).copied().unwrap_or_default();
        output::line(&format!("{:<8} {files:>8} files  {:>6}", tree.name(), size(bytes)));
    }
    for tree in Tree::ALL.into_iter().filter(|tree| !restored.trees.contains(tree)) {
        output::hint(&format!("{}: what is there already stays", tree.name()));
    }
    for path in &restored.from.left_out {
        output::hint(&format!("not in the backup: {path}"));
    }
    if let Some(queue) = restored.queue {
        let InQueue { messages, held, quarantined } = queue;
        let counts = format!("{messages} messages ({held} held, {quarantined} quarantined)");
        output::line(&format!("in the queue: {counts}"));
    }
    let began = &restored.from.began;
    output::hint(&match mail {
        Mail::Held => format!(
            "what was delivered after {began} is in the queue too: `postrider queue list`, and \
             `postrider queue release` for what is to go"
        ),
        Mail::GoesOn => format!("what was delivered after {began} is delivered again"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::archive::Archive;

    /// What would be restored from a backup of a domain, where this is in `domains`.
    fn trees(in_domains: &str) -> Vec<Tree> {
        let dir = tempfile::tempdir().unwrap();
        let (saved, to) = (dir.path().join("saved"), dir.path().join("to"));
        let from = dir.path().join("from");
        fs::write(&from, "a resource").unwrap();
        let mut archive = Archive::create(&saved, Progress::new(Output::Table, "copied")).unwrap();
        archive.add(Tree::Domains, Path::new("a.yaml"), &from, None).unwrap();
        let began = "2026-01-01T00:00:00Z".to_owned();
        archive.finish(Manifest::new("mx.example.org", began, QueueKind::Embedded)).unwrap();
        fs::create_dir_all(to.join("domains")).unwrap();
        fs::write(to.join("domains").join(in_domains), "").unwrap();
        fs::write(to.join(FILE), "hostname: mx.example.org\n").unwrap();
        Plan::make(&saved, &Target { config: to, output: Output::Table }).unwrap().trees
    }

    #[test]
    fn only_resources_are_domains_that_stay() {
        assert!(!trees("b.yaml").contains(&Tree::Domains));
        assert!(!trees("b.yml").contains(&Tree::Domains));
        assert!(trees("README.md").contains(&Tree::Domains));
        assert!(trees(".gitkeep").contains(&Tree::Domains));
    }
}
