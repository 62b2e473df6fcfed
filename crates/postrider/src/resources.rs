//! The directory of resources, and the table made of it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use domains::{Compiled, GatewayLogin, Problem, Settings, Table};
use mail_types::Domain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Refused};
use crate::reloads::Reloads;

/// How often the directory is looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// The table of every `*.yaml` of the directory.
pub(crate) fn load(config: &Config) -> anyhow::Result<Arc<Table>> {
    Ok(compile(config, None)?.table)
}

/// The same with what the next one is made faster by; what is as it was `before` is taken over.
fn compile(config: &Config, before: Option<&Compiled>) -> anyhow::Result<Compiled> {
    let files = files(&config.domains_dir)?;
    let names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let paths: HashMap<&str, &PathBuf> = names.iter().map(String::as_str).zip(&files).collect();
    let settings = Settings { postmaster: config.postmaster.clone() };
    let read =
        |name: &str| fs::read_to_string(paths[name]).with_context(|| format!("cannot read {name}"));
    Compiled::of_files(&names, before, &settings, read)?.map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
        anyhow::Error::new(Refused::of_lines(&lines))
    })
}

/// Whether the passwords that gateway domains name can be read here.
///
/// # Errors
/// All that cannot.
pub(crate) fn check_passwords(config: &Config, table: &Table) -> anyhow::Result<()> {
    let directory = config.delivery.gateway_passwords_dir.as_deref();
    let logins = table.gateways().filter_map(|(domain, it)| Some((domain, it.login.as_ref()?)));
    let wrong = |(domain, login): (&Domain, &GatewayLogin)| {
        let Some(directory) = directory else {
            return Some(format!(
                "{domain}: relay.auth names a password, and delivery.gatewayPasswordsDir is not \
                 set; name the directory that has {}",
                login.password_file
            ));
        };
        let path = directory.join(&login.password_file);
        let error = fs::read_to_string(&path).err()?;
        Some(format!("{domain}: relay.auth.passwordFile: {}: {error}", path.display()))
    };
    let mut lines: Vec<String> = logins.filter_map(wrong).collect();
    lines.sort();
    if lines.is_empty() { Ok(()) } else { Err(Refused::of_lines(&lines).into()) }
}

/// The resource files of a directory, which may not be there.
pub(crate) fn files_if_any(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if directory.exists() { files(directory) } else { Ok(Vec::new()) }
}

fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut files = read().map_err(|error| {
        let path = directory.display();
        Refused::of_lines(&[format!("{path}: {error}; put MailDomain and Mailbox files there")])
    })?;
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    files.sort();
    Ok(files)
}

/// How long files that drop more than half of the domains must stay as they are before they count.
const CONFIRM: Duration = Duration::from_secs(60);

/// What changes when a file does.
pub(crate) type Fingerprint = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// That of the resource files of a directory.
pub(crate) fn fingerprint(directory: &Path) -> Fingerprint {
    fingerprint_of(files(directory).unwrap_or_default())
}

/// That of files; those that are not there are left out.
pub(crate) fn fingerprint_of(files: impl IntoIterator<Item = PathBuf>) -> Fingerprint {
    files
        .into_iter()
        .filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            Some((path, (metadata.len(), metadata.modified().ok())))
        })
        .collect()
}

/// Which files are in use, and which were seen last.
pub(crate) struct Watch {
    used: Fingerprint,
    seen: Fingerprint,
}

impl Watch {
    pub(crate) fn new(used: Fingerprint) -> Self {
        Self { seen: used.clone(), used }
    }

    /// These are in use, whatever was seen before.
    pub(crate) fn use_now(&mut self, used: Fingerprint) {
        *self = Self::new(used);
    }

    /// Whether there is something new to read: other files than those used, and the same as at the
    /// last look. What is being written would make recipients vanish, and a vanished one is a 550.
    pub(crate) fn look(&mut self, now: Fingerprint) -> bool {
        let is_settled = now == self.seen;
        self.seen = now;
        is_settled && self.seen != self.used
    }
}

/// Whether more than half of the domains would be gone: a wiped or half-copied directory, more
/// often than somebody's wish.
fn drops_most(old: &Table, new: &Table) -> bool {
    new.hosted_domains().len() * 2 < old.hosted_domains().len()
}

/// Files that drop most domains, and since when they are there.
#[derive(Default)]
struct Doubt(Option<(Fingerprint, Instant)>);

impl Doubt {
    /// Whether these files have been there, unchanged, for [`CONFIRM`].
    fn is_over(&mut self, files: &Fingerprint, now: Instant) -> bool {
        match &self.0 {
            Some((same, since)) if same == files => now.duration_since(*since) >= CONFIRM,
            Some(_) | None => {
                let waits = CONFIRM.as_secs();
                tracing::error!(
                    event = "table_doubted",
                    "most domains would be gone: the table before stays in force for {waits} s"
                );
                self.0 = Some((files.clone(), now));
                false
            }
        }
    }
}

/// What was made of files, and what these were before they were read.
pub(crate) struct Loaded {
    pub(crate) used: Fingerprint,
    pub(crate) compiled: Compiled,
}

impl Loaded {
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let used = fingerprint(&config.domains_dir);
        Ok(Self { used, compiled: compile(config, None)? })
    }
}

/// Puts a new table in place when the files are others than those of `loaded`; one that is wrong
/// changes nothing.
pub(crate) async fn keep_fresh(
    config: Config,
    table: Arc<ArcSwapOption<Table>>,
    loaded: Loaded,
    reloads: Reloads,
    stop: CancellationToken,
) {
    let mut watch = Watch::new(loaded.used);
    let mut current = loaded.compiled;
    let mut doubt = Doubt::default();
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        // Cancel-safe: a tick that is not taken comes again.
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if !watch.look(fingerprint(&config.domains_dir)) {
            continue;
        }
        let loaded = compile_again(&config, &current).await;
        if fingerprint(&config.domains_dir) != watch.seen {
            // Changed while it was read.
            continue;
        }
        if let Ok(new) = &loaded
            && drops_most(&current.table, &new.table)
            && !doubt.is_over(&watch.seen, Instant::now())
        {
            continue;
        }
        watch.used.clone_from(&watch.seen);
        match loaded {
            Ok(new) => {
                let domains = new.table.hosted_domains().len();
                tracing::info!(event = "table_changed", domains);
                table.store(Some(Arc::clone(&new.table)));
                current = new;
                reloads.succeeded();
            }
            Err(error) => {
                reloads.refused();
                tracing::error!(event = "table_refused", %error, "the table before stays in force");
            }
        }
    }
}

/// Not on a thread that other tasks need: there may be much to read.
async fn compile_again(config: &Config, before: &Compiled) -> anyhow::Result<Compiled> {
    let (config, before) = (config.clone(), before.clone());
    let loaded = tokio::task::spawn_blocking(move || compile(&config, Some(&before))).await;
    loaded.context("compiling the table panicked")?
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::config::FILE;

    #[test]
    fn files_are_read_when_nobody_writes_them() {
        let of = |len| Fingerprint::from([(PathBuf::from("a.yaml"), (len, None))]);
        let mut watch = Watch::new(of(100));
        assert!(!watch.look(of(100)), "nothing new");
        assert!(!watch.look(of(0)), "truncated, and perhaps being written");
        assert!(!watch.look(of(120)), "written a moment ago");
        assert!(watch.look(of(120)));
        watch.used.clone_from(&watch.seen);
        assert!(!watch.look(of(120)), "nothing new");
        assert!(!watch.look(of(0)));
        assert!(!watch.look(of(120)), "as it was");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_while_the_files_are_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let domain = |name: &str| {
            let text = format!(
                "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: d}}\n\
                 spec:\n  domain: {name}\n  inbound:\n    aliases:\n    \
                 - {{match: postmaster, to: [p@elsewhere.example]}}\n"
            );
            fs::write(dir.path().join("domains/d.yaml"), text).unwrap();
        };
        fs::create_dir(dir.path().join("domains")).unwrap();
        fs::write(dir.path().join(FILE), "hostname: mx.example.org\n").unwrap();
        let config = Config::load(dir.path()).unwrap();
        domain("a.example");
        let loaded = Loaded::new(&config).unwrap();
        let table = Arc::new(ArcSwapOption::from(Some(Arc::clone(&loaded.compiled.table))));
        domain("longer.example");
        let stop = CancellationToken::new();
        let reloads = Reloads::of_domains(&mut Registry::default());
        let fresh = keep_fresh(config, Arc::clone(&table), loaded, reloads, stop.clone());
        let seen = async {
            while !table.load().as_ref().unwrap().is_hosted(&"longer.example".parse().unwrap()) {
                tokio::time::sleep(LOOK).await;
            }
            stop.cancel();
        };
        let both = async { tokio::join!(fresh, seen) };
        tokio::time::timeout(LOOK * 10, both).await.unwrap();
    }

    #[test]
    fn most_domains_vanish_only_when_it_is_meant() {
        let files = |len| Fingerprint::from([(PathBuf::from("a.yaml"), (len, None))]);
        let (start, mut doubt) = (Instant::now(), Doubt::default());
        assert!(!doubt.is_over(&files(1), start));
        assert!(!doubt.is_over(&files(1), start + CONFIRM / 2));
        assert!(!doubt.is_over(&files(2), start + CONFIRM), "other files: from the beginning");
        assert!(!doubt.is_over(&files(2), start + CONFIRM + CONFIRM / 2));
        assert!(doubt.is_over(&files(2), start + CONFIRM * 2));
    }
}
