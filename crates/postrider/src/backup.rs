//! `postrider backup DIR`: copies what a process has, while it works.
//!
//! The queue first: the process says where its log ends and deletes nothing until the log up to
//! there and the files of content are copied. Then the mailboxes: what left the queue since is in
//! them. A message that was accepted before is in one or the other, or in both.

pub(crate) mod archive;
mod data;
mod looks;
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
use crate::queue_command::size;
use crate::restore::ensure_restored;
use crate::{output, resources};

#[derive(Serialize)]
struct Line<'a> {
    backup: &'a Manifest,
}

pub(crate) async fn run(directory: PathBuf, target: Target) -> anyhow::Result<()> {
    let config = Config::load(&target.config)?;
    ensure_restored(&config)?;
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
    let target = real(directory)?;
    let trees = [Tree::Data, Tree::Queue, Tree::Mail].map(|tree| tree.root(config));
    for root in trees.iter().chain(config.directories()) {
        ensure!(
            !target.starts_with(real(root)?),
            "{} is in {}, which is copied: name a directory elsewhere",
            directory.display(),
            root.display()
        );
    }
    Ok(())
}

/// Where a path leads by way of links; the end of it may not be there yet.
fn real(path: &Path) -> anyhow::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Ok(real) => return Ok(real),
        Err(error) => error,
    };
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            Ok(real(parent)?.join(name))
        }
        _ => Err(error).with_context(|| format!("cannot find {}", path.display())),
    }
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
    for path in resources::files_if_any(&config.domains_dir)? {
        let Some(name) = path.file_name() else { continue };
        add(archive, Tree::Domains, Path::new(name), &path)?;
    }
    copy_data(archive, config, named, left_out)
}

/// Copies `postrider.yaml` and what it names beside it; gives what was copied.
fn copy_config(
    archive: &mut Archive,
    config: &Config,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut named = vec![config.directory.join(FILE)];
    named.extend(config.files());
    for directory in config.directories() {
        match Place::of(directory, config) {
            Place::Beside(_) => add_files(directory, DEPTH_MAX, &mut named)?,
            Place::InData => {}
            Place::Elsewhere => left_out.push(directory.display().to_string()),
        }
    }
    let mut copied = Vec::new();
    for path in named {
        if copied.contains(&path) {
            continue;
        }
        match Place::of(&path, config) {
            Place::Beside(below) => {
                add(archive, Tree::Config, below, &path)?;
                copied.push(path);
            }
            Place::InData => {}
            Place::Elsewhere => left_out.push(path.display().to_string()),
        }
    }
    Ok(copied)
}

/// Where something is that the configuration names.
enum Place<'a> {
    /// Below its directory, by this path.
    Beside(&'a Path),
    /// What was made in `dataDir` is copied with it.
    InData,
    Elsewhere,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path, config: &Config) -> Self {
        let is_in_data = path.starts_with(&config.data_dir);
        match path.strip_prefix(&config.directory) {
            // As a rule `dataDir` is below the directory; it may be the same.
            _ if is_in_data && !config.directory.starts_with(&config.data_dir) => Self::InData,
            Ok(below) if is_below(below) => Self::Beside(below),
            Ok(_) | Err(_) if is_in_data => Self::InData,
            Ok(_) | Err(_) => Self::Elsewhere,
        }
    }
}

/// Passwords are in files `NAMESPACE/NAME`.
const DEPTH_MAX: usize = 2;

/// The files of a directory that is named. Links are followed: in Kubernetes each file of a Secret
/// is one, into a directory whose name begins with a dot.
fn add_files(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for (path, kind) in entries(directory)? {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        let kind = match kind {
            Kind::Other if path.is_file() => Kind::File,
            Kind::Other if path.is_dir() => Kind::Directory,
            Kind::File | Kind::Directory | Kind::Other => kind,
        };
        match kind {
            Kind::File => files.push(path),
            Kind::Directory if depth > 1 => add_files(&path, depth - 1, files)?,
            Kind::Directory | Kind::Other => {}
        }
    }
    Ok(())
}

/// Copies what is in `dataDir` and has no tree of its own.
fn copy_data(
    archive: &mut Archive,
    config: &Config,
    named: Vec<PathBuf>,
    left_out: &mut Vec<String>,
) -> anyhow::Result<()> {
    let others = [Tree::Queue, Tree::Mail, Tree::Domains].map(|tree| tree.root(config));
    let socket = config.admin_socket();
    // One that is being made has another extension.
    let sockets = [socket.with_extension("new"), socket];
    let passed = named.into_iter().chain(others).chain(sockets).collect();
    data::copy(archive, &config.data_dir, passed, left_out)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A configuration and what lies beside it.
    fn config(dir: &Path, more: &str, files: &[&str]) -> Config {
        fs::create_dir_all(dir).unwrap();
        for file in files {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, *file).unwrap();
        }
        fs::write(dir.join(FILE), format!("hostname: mx.example.org\n{more}")).unwrap();
        Config::load(dir).unwrap()
    }

    /// All but the queue, and what was left out.
    fn copied(config: &Config, backup: &Path) -> Vec<String> {
        let mut archive = Archive::create(backup, Progress::new(Output::Table, "copied")).unwrap();
        let mut left_out = Vec::new();
        copy_rest(&mut archive, config, &mut left_out).unwrap();
        left_out
    }

    #[test]
    fn passwords_of_gateway_domains_are_copied_or_named() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, backup) = (dir.path().join("etc"), dir.path().join("backup"));
        let files = ["passwords/default/at-branch", "secret/..data/at-other"];
        let beside = config(&etc, "delivery: {gatewayPasswordsDir: passwords}\n", &files);
        symlink(etc.join("secret"), etc.join("passwords/other")).unwrap();
        symlink("..data/at-other", etc.join("secret/at-other")).unwrap();
        assert_eq!(copied(&beside, &backup), Vec::<String>::new());
        for (below, text) in [("default/at-branch", files[0]), ("other/at-other", files[1])] {
            let saved = backup.join("config/passwords").join(below);
            assert_eq!(fs::read_to_string(saved).unwrap(), text);
        }
        let elsewhere = dir.path().join("elsewhere");
        let more = format!("delivery: {{gatewayPasswordsDir: {:?}}}\n", etc.join("passwords"));
        let elsewhere = config(&elsewhere, &more, &[]);
        let left_out = copied(&elsewhere, &dir.path().join("second"));
        assert_eq!(left_out, [etc.join("passwords").display().to_string()]);
    }

    /// `dataDir` is restored even where a configuration is.
    #[test]
    fn what_is_named_and_in_data_dir_is_copied_with_it() {
        for (data_dir, tree) in [("data", "data"), (".", "config")] {
            let dir = tempfile::tempdir().unwrap();
            let (etc, backup) = (dir.path().join("etc"), dir.path().join("backup"));
            let key = format!("{data_dir}/key.pem");
            let more = format!(
                "dataDir: {data_dir}\n\
                 ingress: {{tls: {{certificates: [{{certificate: {key}, key: {key}}}]}}}}\n"
            );
            let config = config(&etc, &more, &[&key, &format!("{data_dir}/srs.key")]);
            assert_eq!(copied(&config, &backup), Vec::<String>::new());
            assert!(backup.join(tree).join("key.pem").exists(), "{data_dir}");
            assert!(backup.join("data/srs.key").exists(), "{data_dir}");
            assert!(backup.join("config").join(FILE).exists(), "{data_dir}");
        }
    }

    #[test]
    fn what_a_file_system_keeps_for_itself_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, backup) = (dir.path().join("etc"), dir.path().join("backup"));
        let files = ["data/srs.key", "data/lost+found/#1", "data/mail/lost+found/#2"];
        assert_eq!(copied(&config(&etc, "", &files), &backup), Vec::<String>::new());
        assert!(backup.join("data/srs.key").exists());
        assert!(!backup.join("data/lost+found").exists());
        assert!(!backup.join("mail/lost+found").exists());
    }

    #[test]
    fn no_backup_is_in_what_it_copies_by_whatever_way() {
        let dir = tempfile::tempdir().unwrap();
        let more = "delivery: {gatewayPasswordsDir: passwords}\nmda: {directory: ../mail}\n";
        let config = config(&dir.path().join("etc"), more, &["data/srs.key", "mail/note"]);
        symlink(dir.path().join("etc/data"), dir.path().join("link")).unwrap();
        symlink(dir.path().join("link"), dir.path().join("again")).unwrap();
        for inside in [
            "etc/data",
            "etc/data/backup",
            "link/backup",
            "again/none/yet",
            "etc/mail/backup",
            "etc/passwords/backup",
        ] {
            let told = check_outside(&dir.path().join(inside), &config).unwrap_err().to_string();
            assert!(told.contains("name a directory elsewhere"), "{inside}: {told}");
        }
        for outside in ["backup", "etc/backup", "etc/database"] {
            check_outside(&dir.path().join(outside), &config).unwrap();
        }
    }
}
