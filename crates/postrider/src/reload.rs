//! The configuration of a process that works: read again when its file changes, on SIGHUP, and when
//! an operator asks for it.
//!
//! All of a change is put in force or nothing of it: what is wrong, or what a running process can
//! not take up, leaves the configuration as it was. Sessions and attempts that have begun end as
//! they began.

use std::path::PathBuf;

use anyhow::Context;
use runtime::telemetry::Filter;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::check::ensure_readable;
use crate::cli::{LogFormat, Output, Target};
use crate::config::{Config, FILE, Refused, placed, refused_by};
use crate::output;
use crate::reloads::Reloads;
use crate::resources::{Fingerprint, LOOK, Watch, fingerprint_of};
use crate::serve::{Role, read_config};

/// Operators that may wait for an answer.
const ASKS: usize = 8;

/// Fields that whoever reads them takes up while it works, unless they are in [`AT_START`].
const LIVE: [&str; 41] = [
    "ingress.tls.certificates",
    "ingress.auth.failuresPerSessionMax",
    "ingress.limits.connectionsPerClientMax",
    "ingress.limits.messageSizeBytes",
    "ingress.limits.headerBlockBytes",
    "ingress.limits.commandLineBytes",
    "ingress.limits.authLineBytes",
    "ingress.limits.textLineBytes",
    "ingress.limits.recipientsMax",
    "ingress.limits.errorsMax",
    "ingress.limits.commandsMax",
    "ingress.limits.receivedMax",
    "ingress.limits.commandTimeoutSeconds",
    "ingress.limits.contentTimeoutSeconds",
    "ingress.limits.writeTimeoutSeconds",
    "ingress.limits.tlsHandshakeTimeoutSeconds",
    "ingress.sendingLimits.mailboxRecipientsPerHour",
    "ingress.sendingLimits.mailboxRecipientsPerDay",
    "ingress.sendingLimits.domainRecipientsPerHour",
    "ingress.sendingLimits.domainRecipientsPerDay",
    "delivery.port",
    "delivery.connectionsPerDestinationMax",
    "delivery.messagesPerConnectionMax",
    "delivery.recipientsPerTransactionMax",
    "delivery.addressesPerAttemptMax",
    "delivery.connectTimeoutSeconds",
    "delivery.allowPrivateAddresses",
    "delivery.tlsCaFile",
    "delivery.gatewayPasswordsDir",
    "delivery.retry.intervalsSeconds",
    "delivery.retry.repeatSeconds",
    "delivery.retry.jitterPercent",
    "delivery.retry.expireSeconds",
    "delivery.retry.bounceExpireSeconds",
    "delivery.retry.delayNoticeSeconds",
    "delivery.sources",
    "delivery.routes",
    "mda.retry",
    "log.filter",
    // Of programs that are started anew each time.
    "secrets.publicKeys",
    "secrets.compareKey",
];

/// Fields that a process with one of these roles reads at its start, and sections that all do. Who
/// has none of them does not read the field, or takes it up.
const AT_START: [(&[Role], &[&str]); 5] = [
    (
        &Role::ALL,
        &[
            "hostname",
            "dataDir",
            "domainsDir",
            "domainsFrom",
            "postmaster",
            // When what nobody refers to is deleted depends on it.
            "ingress.limits.contentTotalSeconds",
            // How long an attempt may take to finish is the same.
            "ingress.stopGraceSeconds",
            "queue",
            "jetstream",
            "history",
            "secrets.privateKeys",
            "srs",
            "resolver",
            "http",
            "admin",
            "log.format",
            "telemetry",
        ],
    ),
    (
        &[Role::Ingress],
        &[
            "ingress.listeners",
            "ingress.tls.selfSignedDirectory",
            "ingress.tls.reloadSeconds",
            "ingress.limits.connectionsMax",
            "ingress.limits.memoryBudgetBytes",
            "ingress.limits.memoryPerClientBytes",
            "ingress.limits.memoryWaitSeconds",
        ],
    ),
    (
        // Dovecot's logins are limited as those of submission.
        &[Role::Ingress, Role::Mda],
        &[
            "ingress.auth.parallelism",
            "ingress.auth.waitingMax",
            "ingress.auth.failureDelaySeconds",
            "ingress.auth.failuresPerClientMax",
            "ingress.auth.failureWindowSeconds",
        ],
    ),
    (
        &[Role::Worker],
        &[
            "delivery.connectionsMax",
            "delivery.idleConnectionSeconds",
            "delivery.probeIntervalSecondsMax",
        ],
    ),
    (
        &[Role::Mda],
        &[
            // Those of an LMTP server.
            "delivery.timeouts.greetingSeconds",
            "delivery.timeouts.commandSeconds",
            "delivery.timeouts.mailSeconds",
            "delivery.timeouts.rcptSeconds",
            "delivery.timeouts.dataSeconds",
            "delivery.timeouts.blockSeconds",
            "delivery.timeouts.finalDotSeconds",
            "mda.directory",
            "mda.lmtp",
            "mda.deliveriesMax",
            "dovecot.socket",
        ],
    ),
];

/// Where a configuration is read from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) directory: PathBuf,
    /// What the command line says instead of the file.
    pub(crate) log: Option<LogFormat>,
}

/// A configuration in force.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) source: Source,
    pub(crate) roles: Vec<Role>,
    pub(crate) config: Config,
}

/// Those who take up changes.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) ingress: Option<ingress::Live>,
    /// The worker, and who asks the servers of gateway domains for the ingress.
    pub(crate) delivery: Vec<delivery::Live>,
    pub(crate) mda: Option<mda::Live>,
    pub(crate) log: Filter,
}

/// A configuration that all of them can take up.
struct Prepared {
    config: Config,
    ingress: Option<ingress::Change>,
    delivery: Vec<delivery::Change>,
    mda: Option<mda::Change>,
    /// Fields that are not as they were.
    changed: Vec<String>,
}

impl Live {
    fn prepare(&self, config: Config, changed: Vec<String>) -> anyhow::Result<Prepared> {
        if self.ingress.is_some() {
            ensure_readable(&config)?;
        }
        let ingress = self.ingress.as_ref().map(|live| live.prepare(&config.ingress));
        let delivery = self.delivery.iter().map(|live| live.prepare(config.delivery.clone()));
        let retry = &config.delivery.retry;
        let mda = self.mda.as_ref().map(|live| live.prepare(&config.mda, retry));
        let (ingress, delivery, mda) = (
            ingress.transpose().map_err(refused_by("ingress"))?,
            delivery.collect::<Result<_, _>>().map_err(refused_by("delivery"))?,
            mda.transpose().map_err(refused_by("mda"))?,
        );
        Ok(Prepared { config, ingress, delivery, mda, changed })
    }

    /// None of it can fail.
    fn apply(&self, prepared: Prepared) -> (Config, Vec<String>) {
        let Prepared { config, ingress, delivery, mda, changed } = prepared;
        if let Some(change) = ingress {
            change.apply();
        }
        for change in delivery {
            change.apply();
        }
        if let Some(change) = mda {
            change.apply();
        }
        self.log.set(&config.log);
        (config, changed)
    }
}

impl Setting {
    /// Reads what is in the file now; tells what all of it changes.
    fn read_again(&self) -> anyhow::Result<(Config, Vec<String>)> {
        let config = read_config(&self.source.directory, self.source.log)?;
        let changed = changes(&self.config, &config)?;
        let at_start = changed.iter().filter(|field| !is_live(field, &self.roles));
        let at_start: Vec<&str> = at_start.map(String::as_str).collect();
        let Some((first, others)) = at_start.split_first() else { return Ok((config, changed)) };
        let others = match others {
            [] => String::new(),
            others => format!(", and so do {}", others.join(", ")),
        };
        let problem = format!(
            "{FILE}: {first} needs a restart{others}: restart the process, or take this back to \
             have the rest in force"
        );
        Err(placed(&config.directory, Refused::of_lines(&[problem]).into()))
    }
}

/// The fields that differ.
fn changes(old: &Config, new: &Config) -> anyhow::Result<Vec<String>> {
    let mut changed = Vec::new();
    compare("", &serde_json::to_value(old)?, &serde_json::to_value(new)?, &mut changed);
    Ok(changed)
}

fn compare(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(path.to_owned());
        }
        return;
    };
    let added = new.keys().filter(|name| !old.contains_key(*name));
    for name in old.keys().chain(added) {
        let dot = if path.is_empty() { "" } else { "." };
        let value = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or_default();
        compare(&format!("{path}{dot}{name}"), &value(old), &value(new), changed);
    }
}

/// Whether a process with these roles takes up a field, or has nothing to do with it.
fn is_live(field: &str, roles: &[Role]) -> bool {
    let reads = |(readers, fields): &(&[Role], &[&str])| {
        fields.iter().any(|it| is_in(field, it)) && readers.iter().any(|it| roles.contains(it))
    };
    !AT_START.iter().any(reads) && all_fields().any(|it| is_in(field, it))
}

/// All that there are.
fn all_fields() -> impl Iterator<Item = &'static str> {
    LIVE.into_iter().chain(AT_START.into_iter().flat_map(|(_, fields)| fields.iter().copied()))
}

fn is_in(field: &str, section: &str) -> bool {
    field.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

type Reply = oneshot::Sender<Result<Vec<String>, String>>;

/// Asks the reloader.
#[derive(Clone)]
pub(crate) struct Reloading(mpsc::Sender<Reply>);

impl Reloading {
    /// The fields that have changed, or why nothing has.
    pub(crate) async fn reload(&self) -> Result<Vec<String>, String> {
        let stopping = || "the process is stopping".to_owned();
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// Keeps the configuration in force up to date.
pub(crate) struct Reloader {
    setting: Setting,
    live: Live,
    reloads: Reloads,
    asks: mpsc::Receiver<Reply>,
    hangups: Signal,
    watch: Watch,
}

impl Reloader {
    pub(crate) fn new(
        setting: Setting,
        live: Live,
        reloads: Reloads,
    ) -> anyhow::Result<(Reloading, Self)> {
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let (sender, asks) = mpsc::channel(ASKS);
        let watch = Watch::new(fingerprint(&setting));
        Ok((Reloading(sender), Self { setting, live, reloads, asks, hangups, watch }))
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            // Cancel-safe: a tick, a signal or a question that is not taken is there the next time.
            let reply = tokio::select! {
                _ = ticks.tick() => match self.watch.look(fingerprint(&self.setting)) {
                    true => None,
                    false => continue,
                },
                _ = self.hangups.recv() => None,
                Some(reply) = self.asks.recv() => Some(reply),
                () = stop.cancelled() => return,
            };
            let result = self.reload().await;
            if let Some(reply) = reply {
                // Who asked may have gone away.
                let _ = reply.send(result);
            }
        }
    }

    async fn reload(&mut self) -> Result<Vec<String>, String> {
        self.watch.use_now(fingerprint(&self.setting));
        let (setting, live) = (self.setting.clone(), self.live.clone());
        // Files are read: not on a thread that other tasks need.
        let prepared = tokio::task::spawn_blocking(move || {
            let (config, changed) = setting.read_again()?;
            let directory = config.directory.clone();
            live.prepare(config, changed).map_err(|error| placed(&directory, error))
        });
        let prepared = prepared.await.context("reading the configuration panicked");
        match prepared.and_then(|prepared| prepared) {
            Ok(prepared) => {
                let (config, changed) = self.live.apply(prepared);
                self.setting.config = config;
                self.reloads.succeeded();
                tracing::info!(event = "config_changed", fields = changed.join(", "));
                Ok(changed)
            }
            Err(error) => {
                let error = format!("{error:#}");
                self.reloads.refused();
                tracing::error!(
                    event = "config_refused",
                    error,
                    "the configuration before stays in force"
                );
                Err(error)
            }
        }
    }
}

fn fingerprint(setting: &Setting) -> Fingerprint {
    fingerprint_of([setting.source.directory.join(FILE)])
}

/// `postrider reload`.
pub(crate) async fn ask(target: &Target) -> anyhow::Result<()> {
    let config = Config::load(&target.config)?;
    let reloaded = admin::client::Client::new(&config.admin_socket()).reload().await?;
    match (target.output, &*reloaded.changed) {
        (Output::Json, _) => output::json(&reloaded)?,
        (Output::Table, []) => output::line("no field has changed; files it names were read again"),
        (Output::Table, changed) => output::line(&format!("changed: {}", changed.join(", "))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path, text: &str) -> Config {
        std::fs::write(dir.join(FILE), format!("hostname: mx.example.org\n{text}")).unwrap();
        Config::load(dir).unwrap()
    }

    #[test]
    fn what_differs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let old = config(dir.path(), "");
        let changed = |text| changes(&old, &config(dir.path(), text)).unwrap();
        assert_eq!(changed("# a comment\ndataDir: data\n"), Vec::<String>::new());
        assert_eq!(
            changed("ingress: {limits: {recipientsMax: 500}}"),
            ["ingress.limits.recipientsMax"]
        );
        assert_eq!(changed("dataDir: other"), ["dataDir", "ingress.tls.selfSignedDirectory"]);
        assert_eq!(
            changed("delivery: {port: 26, routes: [{domain: a.example}]}"),
            ["delivery.port", "delivery.routes"]
        );
        assert_eq!(changed("jetstream: {}"), ["jetstream"]);
        assert_eq!(
            changed("delivery: {retry: {expireSeconds: 86400}}"),
            ["delivery.retry.expireSeconds"]
        );
    }

    /// The names of all fields that are no sections.
    fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
        match value.as_object().filter(|section| !section.is_empty()) {
            Some(section) => section.iter().for_each(|(name, value)| {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{name}"), value, found);
            }),
            None => found.push(path.to_owned()),
        }
    }

    /// A new field has to be said to be one or the other, or it comes with a section that is read
    /// at the start of every process.
    #[test]
    fn every_field_is_taken_up_or_read_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let (all, mut fields) = (serde_json::to_value(config(dir.path(), "")).unwrap(), vec![]);
        leaves("", &all, &mut fields);
        for field in &fields {
            let named: Vec<_> = all_fields().filter(|it| is_in(field, it)).collect();
            assert_eq!(named.len(), 1, "{field} is to be named once: {named:?}");
        }
        let is_for_all = |name: &str| AT_START[0].1.contains(&name);
        for name in all_fields() {
            let is_there = match is_for_all(name) {
                true => all.pointer(&format!("/{}", name.replace('.', "/"))).is_some(),
                false => fields.iter().any(|field| field == name),
            };
            assert!(is_there, "{name} is no field");
        }
        assert_eq!(AT_START[0].0, Role::ALL);
    }

    #[test]
    fn what_needs_a_restart() {
        let (all, ingress) = (&Role::ALL[..], &[Role::Ingress][..]);
        let (worker, mda) = (&[Role::Worker][..], &[Role::Mda][..]);
        let cases: [(&str, &[&[Role]]); 21] = [
            ("ingress.limits.recipientsMax", &[all, ingress, worker, mda]),
            ("ingress.sendingLimits.domainRecipientsPerDay", &[all, ingress, worker, mda]),
            ("ingress.tls.certificates", &[all, ingress, worker, mda]),
            ("delivery.tlsCaFile", &[all, ingress, worker, mda]),
            ("delivery.sources", &[all, ingress, worker, mda]),
            ("delivery.retry.expireSeconds", &[all, ingress, worker, mda]),
            ("mda.retry.expireSeconds", &[all, ingress, worker, mda]),
            ("log.filter", &[all, ingress, worker, mda]),
            ("ingress.listeners", &[worker, mda]),
            ("ingress.auth.parallelism", &[worker]),
            ("delivery.connectionsMax", &[ingress, mda]),
            ("delivery.timeouts.dataSeconds", &[ingress, worker]),
            ("mda.lmtp.address", &[ingress, worker]),
            ("dovecot.socket", &[ingress, worker]),
            ("hostname", &[]),
            ("ingress.stopGraceSeconds", &[]),
            ("ingress.limits.contentTotalSeconds", &[]),
            ("queue.maxBytes", &[]),
            ("jetstream.urls", &[]),
            ("log.format", &[]),
            ("delivery.portable", &[]),
        ];
        for (field, takes_up) in cases {
            for roles in [all, ingress, worker, mda] {
                assert_eq!(is_live(field, roles), takes_up.contains(&roles), "{field} {roles:?}");
            }
        }
    }
}
