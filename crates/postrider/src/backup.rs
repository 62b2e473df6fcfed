//! `postrider backup DIR`: copies what a process has, while it works.
//!
//! The queue first: the process says where its log ends and deletes nothing until the log up to
//! there and the files of content are copied. Then the mailboxes: what left the queue since is in
//! them. A message that was accepted before is in one or the other, or in both.

pub(crate) mod archive;
pub(crate) mod mailboxes;
pub(crate) mod progress;
pub(crate) mod snapshot;
pub(crate) mod sums;
pub(crate) mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin::client::{Client, ClientError};
use admin::process::SnapshotFile;
use anyhow::{Context, ensure};
use queue_log::AtRest;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::archive::{Archive, Kind, Manifest, QueueKind, entries};
use self::progress::Progress;
use self::tree::{Tree, is_below};
use crate::cli::{Output, Target};
use crate::config::{Config, FILE};
use crate::output;
use crate::queue_command::size;

#[derive(Serialize)]
struct Line<'a> {
    backup: &'a Manifest,
}

pub(crate) async fn run(directory: PathBuf, target: Target) -> anyhow::Result<()> {
    let config = Config::load(&target.config)?;
    let directory = std::path::absolute(&directory)?;
    check_outside(&directory, &config)?;
    let archive = Archive::create(&directory, Progress::new(target.output, "copied"))?;
    let made = make(archive, config).await.with_context(|| {
        format!("{} is no backup: remove it, and take another", directory.display())
    })?;
    tell(&made, &directory, target.output)
}

/// A backup that is in what it copies would never end.
fn check_outside(directory: &Path, config: &Config) -> anyhow::Result<()> {
    for tree in [Tree::Data, Tree::Queue, Tree::Mail] {
        let root = tree.root(config);
        ensure!(
            !directory.starts_with(&root),
            "{} is in {}, which is copied: name a directory elsewhere",
            directory.display(),
            root.display()
        );
    }
    Ok(())
}

async fn make(archive: Archive, config: Config) -> anyhow::Result<Manifest> {
    let began = runtime::clock::now().to_rfc3339();
    let queue = match config.jetstream {
        Some(_) => QueueKind::JetStream,
        None => QueueKind::Embedded,
    };
    let mut manifest = Manifest::new(&config.hostname, began, queue);
    let archive = match queue {
        QueueKind::Embedded => copy_queue(archive, &config).await?,
        QueueKind::JetStream => archive,
    };
    let copied = tokio::task::spawn_blocking(move || {
        let mut archive = archive;
        copy_rest(&mut archive, &config, &mut manifest.left_out)?;
        manifest.ended = runtime::clock::now().to_rfc3339();
        archive.finish(manifest)
    });
    copied.await.context("copying panicked")?
}

/// Copies the queue of the running process, or the one that no process has open.
async fn copy_queue(archive: Archive, config: &Config) -> anyhow::Result<Archive> {
    let root = config.queue_directory();
    let client = Client::new(&config.admin_socket());
    let snapshot = match client.take_snapshot().await {
        Ok(snapshot) => snapshot,
        Err(ClientError::NotRunning { .. }) => return copy_queue_at_rest(archive, root).await,
        Err(error) => return Err(error).context("the process gives no snapshot of its queue"),
    };
    let cancel = CancellationToken::new();
    let log = snapshot.log;
    let copying = tokio::task::spawn_blocking({
        let cancel = cancel.clone();
        move || copy_queue_files(archive, &root, &log, &cancel)
    });
    let pause = Duration::from_secs(snapshot.lasts_seconds) / 3;
    let mut copying = std::pin::pin!(copying);
    loop {
        // Cancel-safe: a copy that was not waited for to its end is waited for again.
        tokio::select! {
            copied = &mut copying => {
                let archive = copied.context("copying panicked")??;
                client.end_snapshot(snapshot.id).await?;
                return Ok(archive);
            }
            () = tokio::time::sleep(pause) => {
                if let Err(error) = client.keep_snapshot(snapshot.id).await {
                    cancel.cancel();
                    return Err(error).context("the queue could not be kept as it was");
                }
            }
        }
    }
}

async fn copy_queue_at_rest(archive: Archive, root: PathBuf) -> anyhow::Result<Archive> {
    let copying = tokio::task::spawn_blocking(move || {
        ensure!(
            root.is_dir(),
            "nobody serves this configuration, and there is no queue in {}: is dataDir right?",
            root.display()
        );
        // Nobody begins to change it while it is held.
        let rest = AtRest::open(&root)?;
        let file =
            |file: &queue_log::LogFile| SnapshotFile { path: file.path.clone(), bytes: file.bytes };
        let log: Vec<SnapshotFile> = rest.log().iter().map(file).collect();
        copy_queue_files(archive, &root, &log, &CancellationToken::new())
    });
    copying.await.context("copying panicked")?
}

fn copy_queue_files(
    mut archive: Archive,
    root: &Path,
    log: &[SnapshotFile],
    cancel: &CancellationToken,
) -> anyhow::Result<Archive> {
    for SnapshotFile { path, bytes } in log {
        ensure!(!cancel.is_cancelled(), "cancelled");
        let (below, from) = (Path::new(path), root.join(path));
        ensure!(is_below(below), "the process names a file that is not its queue's: {path}");
        let added = archive.add(Tree::Queue, below, &from, Some(*bytes));
        added.with_context(|| format!("cannot copy {}", from.display()))?;
    }
    for directory in queue_log::Snapshot::WHOLE {
        for (from, kind) in entries(&root.join(directory))? {
            ensure!(!cancel.is_cancelled(), "cancelled");
            let Some(name) = from.file_name().filter(|_| kind == Kind::File) else { continue };
            match archive.add(Tree::Queue, &Path::new(directory).join(name), &from, None) {
                // Of a message that was given up while it was received.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                added => added.with_context(|| format!("cannot copy {}", from.display()))?,
            }
        }
    }
    Ok(archive)
}

/// Copies all but the queue.
fn copy_rest(
    archive: &mut Archive,
    config: &Config,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    mailboxes::copy(archive, &Tree::Mail.root(config), left_out)?;
    let named = copy_config(archive, config, left_out)?;
    for (path, kind) in entries(&config.domains_dir)? {
        let is_resource = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        let Some(name) = path.file_name().filter(|_| is_resource && kind != Kind::Directory) else {
            continue;
        };
        add(archive, Tree::Domains, Path::new(name), &path)?;
    }
    copy_data(archive, config, &named, left_out)
}

/// Copies `postrider.yaml` and what it names beside it; gives what was copied.
fn copy_config(
    archive: &mut Archive,
    config: &Config,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    for path in [config.directory.join(FILE)].into_iter().chain(config.files()) {
        if copied.contains(&path) {
            continue;
        }
        match path.strip_prefix(&config.directory) {
            Ok(below) if is_below(below) => {
                add(archive, Tree::Config, below, &path)?;
                copied.push(path);
            }
            // What was made in `dataDir` is copied with it.
            Ok(_) | Err(_) if path.starts_with(&config.data_dir) => {}
            Ok(_) | Err(_) => left_out.push(path.display().to_string()),
        }
    }
    Ok(copied)
}

/// Copies what is in `dataDir` and has no tree of its own.
fn copy_data(
    archive: &mut Archive,
    config: &Config,
    named: &[PathBuf],
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    let others = [Tree::Queue, Tree::Mail, Tree::Domains].map(|tree| tree.root(config));
    let socket = config.admin_socket();
    let mut directories = vec![config.data_dir.clone()];
    while let Some(directory) = directories.pop() {
        for (path, kind) in entries(&directory)? {
            // A socket that is being made has another extension.
            let is_socket = path == socket || path == socket.with_extension("new");
            if others.contains(&path) || named.contains(&path) || is_socket {
                continue;
            }
            let below = path.strip_prefix(&config.data_dir)?;
            match kind {
                Kind::Directory => directories.push(path),
                Kind::File => add(archive, Tree::Data, below, &path)?,
                Kind::Other => left_out.push(path.display().to_string()),
            }
        }
    }
    Ok(())
}

fn add(archive: &mut Archive, tree: Tree, below: &Path, from: &Path) -> anyhow::Result<()> {
    let added = archive.add(tree, below, from, None);
    added.with_context(|| format!("cannot copy {}", from.display()))
}

fn tell(manifest: &Manifest, directory: &Path, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&Line { backup: manifest });
    }
    for (tree, count) in &manifest.trees {
        output::line(&format!("{tree:<8} {:>8} files  {:>6}", count.files, size(count.bytes)));
    }
    for path in &manifest.left_out {
        output::hint(&format!("not in it: {path}"));
    }
    if manifest.queue == QueueKind::JetStream {
        output::hint(
            "not in it: queue and domain table, which are on the NATS servers; docs/operations.md \
             says how to save them with `nats backup`",
        );
    }
    let place = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    output::line(&format!(
        "{} has mail and private keys: keep it as safe as they are",
        place.display()
    ));
    Ok(())
}
