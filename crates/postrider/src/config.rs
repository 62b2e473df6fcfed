//! `postrider.yaml`: the sections of the roles, and what they share.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use domains::yaml::Places;
use mail_types::{Host, Mailbox};
use runtime::config::ConfigError;
use serde::{Deserialize, Serialize};

use crate::secrets::Secrets;
use crate::{dovecot, srs};

/// The file in a configuration directory.
pub(crate) const FILE: &str = "postrider.yaml";

/// What every role reads. Paths are relative to the file's directory.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// The directory that paths are relative to; absolute.
    #[serde(skip)]
    pub(crate) directory: PathBuf,
    /// Our name: in the greeting, in EHLO, in trace fields and DSNs.
    pub(crate) hostname: String,
    /// Where queue, mailboxes and generated certificates are kept.
    #[serde(default = "data_dir")]
    pub(crate) data_dir: PathBuf,
    /// Where MailDomain and Mailbox resources are.
    #[serde(default = "domains_dir")]
    pub(crate) domains_dir: PathBuf,
    /// Where the domain table comes from; without it from files, unless there is `jetstream` and no
    /// directory of files.
    #[serde(default)]
    pub(crate) domains_from: Option<DomainsFrom>,
    /// Where mail for `<postmaster>` without a domain goes.
    #[serde(default)]
    pub(crate) postmaster: Option<Mailbox>,
    #[serde(default)]
    pub(crate) ingress: ingress::Config,
    #[serde(default)]
    pub(crate) queue: queue_log::Config,
    /// The queue that processes share; without it, it is the embedded log of `queue`.
    #[serde(default)]
    pub(crate) jetstream: Option<queue_jetstream::Config>,
    /// What is kept of mail that has left the queue.
    #[serde(default)]
    pub(crate) history: history::Config,
    /// What secrets in the domain table are sealed to and opened with.
    #[serde(default)]
    pub(crate) secrets: Secrets,
    /// How forwarded mail finds its way back.
    #[serde(default)]
    pub(crate) srs: srs::Keys,
    #[serde(default)]
    pub(crate) delivery: delivery::Config,
    #[serde(default)]
    pub(crate) mda: mda::Config,
    /// What a Dovecot that serves the Maildirs may ask.
    #[serde(default)]
    pub(crate) dovecot: dovecot::Config,
    #[serde(default)]
    pub(crate) resolver: resolve::Config,
    #[serde(default)]
    pub(crate) http: runtime::http::Config,
    /// Where operators reach the queue besides the socket.
    #[serde(default)]
    pub(crate) admin: admin::Config,
    #[serde(default)]
    pub(crate) log: runtime::telemetry::Config,
    #[serde(default)]
    pub(crate) telemetry: runtime::trace::Config,
}

/// Where a process has the domain table from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DomainsFrom {
    /// `domainsDir`, compiled here.
    Files,
    /// The bucket that `postrider domain apply` publishes to.
    Kv,
}

fn data_dir() -> PathBuf {
    "data".into()
}

fn domains_dir() -> PathBuf {
    "domains".into()
}

/// The configuration is wrong: restarting does not help.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    pub(crate) fn of_lines(lines: &[String]) -> Self {
        Self(lines.join("\n"))
    }
}

/// Makes an error of a section one that names the file and the section.
pub(crate) fn refused(section: &'static str) -> impl Fn(&dyn fmt::Display) -> anyhow::Error {
    move |problem| anyhow::Error::new(Refused(format!("{FILE}: {section}.{problem}")))
}

/// The same of an error with its causes.
pub(crate) fn refused_by<E: std::error::Error + Send + Sync + 'static>(
    section: &'static str,
) -> impl Fn(E) -> anyhow::Error {
    move |error| refused(section)(&format!("{:#}", anyhow::Error::new(error)))
}

/// What the reader says, with the field that it stumbled over.
fn with_field(error: ConfigError) -> String {
    let ConfigError::Field { path, line, column, reason } = &error else {
        return error.to_string();
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    let field = Places::of_document(&text).field_at(*line, *column);
    if field.is_empty() {
        return error.to_string();
    }
    let (path, line, column) = (path.clone(), *line, *column);
    ConfigError::Field { path, line, column, reason: format!("{field}: {reason}") }.to_string()
}

/// Says where in the file the field stands that an error begins with.
pub(crate) fn placed(directory: &Path, error: anyhow::Error) -> anyhow::Error {
    let path = directory.join(FILE);
    let Some(Refused(text)) = error.downcast_ref() else { return error };
    let problem = text.strip_prefix(FILE).and_then(|problem| problem.strip_prefix(": "));
    let (Some(problem), Ok(text)) = (problem, fs::read_to_string(&path)) else { return error };
    let field = problem.split([':', ' ']).next().unwrap_or_default();
    let (line, column) = Places::of_document(&text).of(field);
    Refused(format!("{}:{line}:{column}: {problem}", path.display())).into()
}

/// Makes an error with its causes one that names the file.
fn refused_whole(error: &anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(Refused(format!("{FILE}: {error:#}")))
}

impl Config {
    /// Reads the file in `directory`, and makes paths absolute.
    pub(crate) fn load(directory: &Path) -> anyhow::Result<Self> {
        Self::load_for(directory, directory)
    }

    /// Reads the file in `saved` as if it was in `directory`.
    pub(crate) fn load_for(saved: &Path, directory: &Path) -> anyhow::Result<Self> {
        let read = runtime::config::load(&saved.join(FILE));
        let mut config: Self = read.map_err(|error| Refused(with_field(error)))?;
        let base = std::path::absolute(directory)?;
        config.data_dir = base.join(&config.data_dir);
        config.domains_dir = base.join(&config.domains_dir);
        let ingress = &mut config.ingress;
        ingress.hostname.clone_from(&config.hostname);
        ingress.message_lifetime_seconds = config.delivery.retry.expire_seconds;
        let names = ingress.listeners.iter().filter_map(|listener| listener.hostname.as_ref());
        config.delivery.listener_names = names.filter_map(|name| Host::parse(name).ok()).collect();
        config.queue.longest_data_seconds = ingress.limits.content_total_seconds;
        if let Some(jetstream) = &mut config.jetstream {
            jetstream.longest_data_seconds = ingress.limits.content_total_seconds;
        }
        let own = ingress.tls.self_signed_directory.take();
        ingress.tls.self_signed_directory =
            Some(own.map_or_else(|| config.data_dir.join("tls"), |own| base.join(own)));
        if let Some(socket) = config.mda.lmtp.as_mut().and_then(|lmtp| lmtp.socket.as_mut()) {
            *socket = base.join(&*socket);
        }
        if let Some(socket) = &mut config.dovecot.socket {
            *socket = base.join(&*socket);
        }
        if let Some(directory) = &mut config.delivery.gateway_passwords_dir {
            *directory = base.join(&*directory);
        }
        config.files_mut().for_each(|file| *file = base.join(&*file));
        config.directory = base;
        Ok(config)
    }

    /// The files that sections name: keys, certificates, passwords.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.clone().files_mut().map(|file| file.clone()).collect()
    }

    /// The directories that sections name, of files that are read or made when they are needed.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        let passwords = self.delivery.gateway_passwords_dir.iter();
        passwords.chain(self.ingress.tls.self_signed_directory.iter())
    }

    fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { ingress, jetstream, secrets, srs, delivery, admin, telemetry, .. } = self;
        let certificates = ingress.tls.certificates.iter_mut();
        let certificates = certificates.flat_map(|files| [&mut files.certificate, &mut files.key]);
        let asked = ingress.listeners.iter_mut();
        let asked = asked.filter_map(|listener| listener.client_certificates.as_mut());
        let jetstream = jetstream.iter_mut().flat_map(|jetstream| jetstream.files_mut());
        let auths = delivery.routes.iter_mut().filter_map(|route| route.auth.as_mut());
        certificates
            .chain(asked.map(|asked| &mut asked.ca_file))
            .chain(jetstream)
            .chain(secrets.files_mut())
            .chain(srs.files_mut())
            .chain(delivery.tls_ca_file.as_mut())
            .chain(auths.map(|auth| &mut auth.password_file))
            .chain(admin.token_file.as_mut())
            .chain(telemetry.files_mut())
    }

    /// Checks every section, as `serve` and `check` both do before anything else.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        self.host()?;
        // What others derive from a section is checked here and before them: an error names the
        // field that can be set.
        if self.ingress.limits.content_total_seconds == 0 {
            return Err(refused("ingress")(&"limits.contentTotalSeconds is zero; raise it"));
        }
        self.delivery.validate(self.lease()).map_err(refused_by("delivery"))?;
        self.ingress.validate().map_err(refused_by("ingress"))?;
        self.queue.validate().map_err(|error| refused("queue")(&error))?;
        if let Some(jetstream) = &self.jetstream {
            jetstream.validate().map_err(|error| refused("jetstream")(&error))?;
        }
        if self.domains_from() == DomainsFrom::Kv {
            self.domains_kv(String::new())?;
            self.secrets.opener().map_err(|error| refused_whole(&error))?;
        }
        self.mda.validate(&self.delivery.retry).map_err(refused_by("mda"))?;
        if self.dovecot.socket.is_some() && self.mda.lmtp.is_some() {
            let problem = "socket: with mda.lmtp no Maildirs are written; remove one of the two";
            return Err(refused("dovecot")(&problem));
        }
        resolve::Dns::new(&self.resolver).context("resolver")?;
        self.telemetry.validate().map_err(|error| refused("telemetry")(&error))?;
        self.log.validate().map_err(|error| refused("log")(&error))
    }

    /// The same, with the secrets that only who serves can read.
    pub(crate) fn validate_serving(&self) -> anyhow::Result<()> {
        let validated = self.validate().and_then(|()| {
            self.srs.load()?;
            self.admin_port().map(drop)
        });
        validated.map_err(|error| placed(&self.directory, error))
    }

    /// Our name, checked.
    pub(crate) fn host(&self) -> anyhow::Result<Host> {
        let host = Host::parse(&self.hostname);
        host.map_err(|error| {
            let problem = format!("{FILE}: hostname: {:?}: {error}", self.hostname);
            anyhow::Error::new(Refused(problem))
        })
    }

    pub(crate) fn domains_from(&self) -> DomainsFrom {
        let by_default = match self.jetstream {
            Some(_) if !self.domains_dir.exists() => DomainsFrom::Kv,
            Some(_) | None => DomainsFrom::Files,
        };
        self.domains_from.unwrap_or(by_default)
    }

    /// Where the bucket of the domain table is, for a client that is answered below `inbox`.
    pub(crate) fn domains_kv(&self, inbox: String) -> anyhow::Result<domains_kv::Buckets> {
        self.buckets(inbox).ok_or_else(|| {
            let problem = "jetstream is not set: the domain table's bucket is on its servers";
            Refused(format!("{FILE}: {problem}")).into()
        })
    }

    /// Where buckets are, for a client that is answered below `inbox`.
    pub(crate) fn buckets(&self, inbox: String) -> Option<domains_kv::Buckets> {
        let jetstream = self.jetstream.as_ref()?;
        Some(domains_kv::Buckets {
            urls: jetstream.urls.clone(),
            nkey_file: jetstream.nkey_file.clone(),
            ca_file: jetstream.ca_file.clone(),
            inbox_prefix: inbox,
            replicas: jetstream.replicas,
            timeout: Duration::from_secs(jetstream.timeout_seconds),
        })
    }

    /// How long the queue leases a job to a role.
    pub(crate) fn lease(&self) -> Duration {
        let of_log = self.queue.lease_seconds;
        Duration::from_secs(self.jetstream.as_ref().map_or(of_log, |it| it.lease_seconds))
    }

    /// Where the embedded log is.
    pub(crate) fn queue_directory(&self) -> PathBuf {
        self.data_dir.join("queue")
    }

    /// Where the history of this process is.
    pub(crate) fn history_directory(&self) -> PathBuf {
        self.data_dir.join("history")
    }

    /// Where Maildirs are, or were before an LMTP server took the mail.
    pub(crate) fn mail_directory(&self) -> PathBuf {
        self.data_dir.join(&self.mda.directory)
    }

    /// There as long as a restore has not put everything into place.
    pub(crate) fn restore_marker(&self) -> PathBuf {
        self.data_dir.join("restoring")
    }

    /// Where the Maildirs are, each below it in the directory of its storage id; none with LMTP.
    pub(crate) fn maildirs(&self) -> Option<PathBuf> {
        self.mda.lmtp.is_none().then(|| self.mail_directory())
    }

    /// When passwords were used last, in a process that shares it with no other.
    pub(crate) fn last_use_file(&self) -> PathBuf {
        self.data_dir.join("last-uses.json")
    }

    /// Where operators reach the process by TCP, if they may.
    pub(crate) fn admin_port(&self) -> anyhow::Result<Option<admin::Port>> {
        self.admin.port().map_err(|error| refused("admin")(&error))
    }

    /// Where the running process listens for operators.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/configuration.md");

    /// A YAML block of the page, counted from 0.
    fn documented(block: usize) -> &'static str {
        PAGE.split("```yaml\n").nth(block + 1).and_then(|rest| rest.split("```").next()).unwrap()
    }

    fn parse(text: &str) -> serde_json::Value {
        let dir = std::env::temp_dir().join(format!("postrider-config-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{}.yaml", text.len()));
        fs::write(&path, text).unwrap();
        let config: Config = runtime::config::load(&path).unwrap();
        fs::remove_file(path).unwrap();
        serde_json::to_value(config).unwrap()
    }

    #[test]
    fn the_page_shows_every_field_with_its_default() {
        let defaults = parse("hostname: mx.example.org\n");
        assert_eq!(parse(documented(0)), defaults);
        all_are_shown(&defaults, documented(0));
        let jetstream = parse(&format!("hostname: mx.example.org\n{}", documented(1)));
        let defaults = serde_json::to_value(queue_jetstream::Config::default()).unwrap();
        assert_eq!(jetstream["jetstream"], defaults);
        all_are_shown(&defaults, documented(1));
        let lmtp = parse(&format!("hostname: mx.example.org\n{}", documented(3)));
        let defaults = serde_json::to_value(mda::LmtpConfig::default()).unwrap();
        assert_eq!(lmtp["mda"]["lmtp"]["connectionsMax"], defaults["connectionsMax"]);
        all_are_shown(&defaults, documented(3));
    }

    #[test]
    fn delivery_knows_the_names_of_listeners() {
        let dir = tempfile::tempdir().unwrap();
        let listeners = "ingress: {listeners: [{kind: relay, addresses: [\"127.0.0.1:0\"], \
                         hostname: in.example.org}, {kind: relay, addresses: [\"127.0.0.1:0\"]}]}";
        let text = format!("hostname: mx.example.org\n{listeners}\n");
        fs::write(dir.path().join(FILE), text).unwrap();
        let config = Config::load(dir.path()).unwrap();
        assert_eq!(config.delivery.listener_names, [Host::parse("in.example.org").unwrap()]);
    }

    fn all_are_shown(value: &serde_json::Value, text: &str) {
        let mut missing = Vec::new();
        collect_keys(value, &mut missing);
        missing.retain(|key| !text.contains(&format!("{key}:")));
        assert!(missing.is_empty(), "not on the page: {missing:?}");
    }

    fn collect_keys(value: &serde_json::Value, keys: &mut Vec<String>) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            keys.push(key.clone());
            collect_keys(inner, keys);
        }
    }
}
