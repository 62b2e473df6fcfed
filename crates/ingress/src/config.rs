//! What an operator may set, with units in the names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use mail_types::Host;
use senders::Limits as Sending;
use serde::{Deserialize, Serialize};
use smtp::{Limits, ListenerKind};

/// The settings of the role. Every one has a default; listeners are the only thing to choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Our name in the greeting and in Received. Other servers expect it to resolve to us. Set from
    /// the process' own.
    #[serde(skip)]
    pub hostname: String,
    pub listeners: Vec<Listener>,
    pub tls: TlsConfig,
    pub auth: AuthConfig,
    pub limits: LimitsConfig,
    pub sending_limits: SendingConfig,
    /// How long a message is tried before its sender gets it back. RFC 5321 §4.5.4.1: 4–5 days.
    /// Set from the retry policy, which gives up.
    #[serde(skip, default = "message_lifetime_seconds")]
    pub message_lifetime_seconds: u64,
    /// How long open transactions may take to finish when the process stops.
    pub stop_grace_seconds: u64,
}

/// A port, or the same port on several addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    pub kind: Kind,
    /// `0.0.0.0:25`, `[::]:25`: IPv6 addresses take IPv6 only. Port 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// A load balancer stands before it and says who the client is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Our name there, in the greeting and in Received; without it [`Config::hostname`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Clients are asked for a certificate; nothing depends on it but what Received says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

impl Listener {
    pub fn new(kind: Kind, addresses: Vec<SocketAddr>) -> Self {
        Self { kind, addresses, proxy_protocol: None, hostname: None, client_certificates: None }
    }

    /// Our name there, if it has one of its own.
    pub(crate) fn host(&self) -> Option<Host> {
        Host::parse(self.hostname.as_deref()?).ok()
    }
}

/// Whose certificates tell who a client is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM certificates of the authorities; read at start.
    pub ca_file: PathBuf,
}

/// The PROXY protocol, v1 or v2: each connection must begin with its header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The networks of the load balancers, such as `10.0.0.0/8`. Connections from elsewhere are
    /// closed without a word: they could claim to be anybody.
    pub from: Vec<IpNet>,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Mail from other servers (25).
    Relay,
    /// Mail from users: STARTTLS, then AUTH (587, or 2525 where that is blocked).
    Submission,
    /// Mail from users under TLS from the first octet (465).
    Submissions,
}

impl From<Kind> for ListenerKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Relay => Self::Relay,
            Kind::Submission => Self::Submission,
            Kind::Submissions => Self::Submissions,
        }
    }
}

impl From<ListenerKind> for Kind {
    fn from(kind: ListenerKind) -> Self {
        match kind {
            ListenerKind::Relay => Self::Relay,
            ListenerKind::Submission => Self::Submission,
            ListenerKind::Submissions => Self::Submissions,
        }
    }
}

/// Certificates, chosen by the name that the client asks for (SNI).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The first is for clients that ask for no name, or for one we do not have.
    pub certificates: Vec<CertificateFiles>,
    /// Without certificates, one signed by itself is made here at the first start: enough for
    /// opportunistic TLS and for trying things out.
    pub self_signed_directory: Option<PathBuf>,
    /// How often the files are looked at for a change.
    pub reload_seconds: u64,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What checking passwords may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Hashes computed at once; each takes some 20 MiB and 30 ms of a core.
    pub parallelism: usize,
    /// Clients that may wait for one; more get `454 4.7.0`.
    pub waiting_max: usize,
    /// How long the answer to a wrong password takes.
    pub failure_delay_seconds: u64,
    /// Failures in a session before it is closed.
    pub failures_per_session_max: u32,
    /// Failures of a client address (IPv6: /64) in the window before it is refused unchecked.
    pub failures_per_client_max: u32,
    pub failure_window_seconds: u64,
}

/// A limit on everything a client may cost. Each has a reply and a counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub connections_max: usize,
    /// Per client address (IPv6: /64).
    pub connections_per_client_max: u32,
    pub message_size_bytes: u64,
    /// Header fields up to the empty line; they are kept in memory.
    pub header_block_bytes: usize,
    pub command_line_bytes: usize,
    pub auth_line_bytes: usize,
    pub text_line_bytes: usize,
    pub recipients_max: u32,
    /// Permanent refusals since the last accepted message.
    pub errors_max: u32,
    /// Commands since the last accepted message, accepted RCPT not counted.
    pub commands_max: u32,
    /// Received fields before a message counts as looping. RFC 5321 §6.3: at least 100.
    pub received_max: usize,
    pub command_timeout_seconds: u64,
    /// Without one octet of content. RFC 5321 §4.5.3.2.5: 3 minutes.
    pub content_timeout_seconds: u64,
    /// From 354 to the final dot, however it trickles.
    pub content_total_seconds: u64,
    /// A client that does not read our replies.
    pub write_timeout_seconds: u64,
    pub tls_handshake_timeout_seconds: u64,
    /// Of content that is in memory, over all sessions.
    pub memory_budget_bytes: usize,
    /// What of it a client address may hold (IPv6: /64).
    pub memory_per_client_bytes: usize,
    /// How long a message waits for a share of it before `452 4.3.1`.
    pub memory_wait_seconds: u64,
}

/// How many recipients those who log in may send to, in any 60 minutes and in any 24 hours, so that
/// a stolen password is worth little. A Mailbox or MailDomain may say otherwise; `null` is without
/// a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SendingConfig {
    pub mailbox_recipients_per_hour: Option<u32>,
    pub mailbox_recipients_per_day: Option<u32>,
    /// Of all mailboxes of a domain together.
    pub domain_recipients_per_hour: Option<u32>,
    pub domain_recipients_per_day: Option<u32>,
}

impl SendingConfig {
    pub(crate) fn of_mailbox(&self) -> Sending {
        Sending {
            recipients_per_hour: self.mailbox_recipients_per_hour,
            recipients_per_day: self.mailbox_recipients_per_day,
        }
    }

    pub(crate) fn of_domain(&self) -> Sending {
        Sending {
            recipients_per_hour: self.domain_recipients_per_hour,
            recipients_per_day: self.domain_recipients_per_day,
        }
    }
}

/// What one message takes of the memory budget at most: what a store keeps of a draft (1 MiB), and
/// what is being read.
pub(crate) const MESSAGE_MEMORY_BYTES: usize = 1280 * 1024;

fn message_lifetime_seconds() -> u64 {
    Config::default().message_lifetime_seconds
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            listeners: Vec::new(),
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            sending_limits: SendingConfig::default(),
            message_lifetime_seconds: 5 * 24 * 3600,
            stop_grace_seconds: 30,
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { certificates: Vec::new(), self_signed_directory: None, reload_seconds: 30 }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            parallelism: 2,
            waiting_max: 100,
            failure_delay_seconds: 1,
            failures_per_session_max: 3,
            failures_per_client_max: 20,
            failure_window_seconds: 600,
        }
    }
}

impl Default for SendingConfig {
    /// In an hour as many as one message may have.
    fn default() -> Self {
        Self {
            mailbox_recipients_per_hour: Some(1000),
            mailbox_recipients_per_day: Some(5000),
            domain_recipients_per_hour: Some(10_000),
            domain_recipients_per_day: Some(50_000),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connections_per_client_max: 100,
            message_size_bytes: 50 * 1024 * 1024,
            header_block_bytes: 256 * 1024,
            command_line_bytes: 2 * 1024,
            auth_line_bytes: 4 * 1024,
            text_line_bytes: 1024 * 1024,
            recipients_max: 1000,
            errors_max: 20,
            commands_max: 500,
            received_max: 100,
            command_timeout_seconds: 300,
            content_timeout_seconds: 180,
            content_total_seconds: 3600,
            write_timeout_seconds: 120,
            tls_handshake_timeout_seconds: 60,
            memory_budget_bytes: 256 * 1024 * 1024,
            memory_per_client_bytes: 32 * 1024 * 1024,
            memory_wait_seconds: 30,
        }
    }
}

/// A setting that cannot work, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// As in the file: `limits.recipientsMax`.
    pub field: &'static str,
    pub problem: &'static str,
}

impl Config {
    /// Checks what the types cannot say; returns our name.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<Host, ConfigError> {
        let host = Host::parse(&self.hostname)
            .map_err(|_| ConfigError { field: "hostname", problem: HOSTNAME })?;
        let limits = &self.limits;
        for (field, ok, problem) in [
            ("limits.recipientsMax", limits.recipients_max >= 100, RECIPIENTS),
            ("limits.receivedMax", limits.received_max >= 100, "is below 100 (RFC 5321 §6.3)"),
            ("limits.commandLineBytes", limits.command_line_bytes >= 510, LINE),
            ("limits.textLineBytes", limits.text_line_bytes >= 998, "is below 998 (RFC 5321)"),
            ("limits.messageSizeBytes", limits.message_size_bytes >= 64 * 1024, MESSAGE),
            (
                "limits.memoryBudgetBytes",
                limits.memory_budget_bytes >= MESSAGE_MEMORY_BYTES,
                BUDGET,
            ),
            (
                "limits.memoryPerClientBytes",
                limits.memory_per_client_bytes >= MESSAGE_MEMORY_BYTES,
                BUDGET,
            ),
            ("limits.commandTimeoutSeconds", limits.command_timeout_seconds > 0, NO_TIME),
            ("limits.contentTimeoutSeconds", limits.content_timeout_seconds > 0, NO_TIME),
            ("limits.contentTotalSeconds", limits.content_total_seconds > 0, NO_TIME),
            ("limits.writeTimeoutSeconds", limits.write_timeout_seconds > 0, NO_TIME),
            (
                "limits.tlsHandshakeTimeoutSeconds",
                limits.tls_handshake_timeout_seconds > 0,
                NO_TIME,
            ),
            ("limits.connectionsMax", limits.connections_max > 0, "is zero; nobody could connect"),
            ("limits.errorsMax", limits.errors_max > 0, "is zero; raise it"),
            ("limits.commandsMax", limits.commands_max >= 10, "is below 10; raise it"),
            (
                "limits.headerBlockBytes",
                limits.header_block_bytes <= 768 * 1024,
                "is above 786432; header fields are kept in memory",
            ),
            (
                "listeners[].proxyProtocol.from",
                self.listeners.iter().flat_map(|l| &l.proxy_protocol).all(|p| !p.from.is_empty()),
                "is empty; name the networks of the load balancers",
            ),
            (
                "listeners[].hostname",
                self.listeners.iter().all(|l| l.hostname.is_none() || l.host().is_some()),
                HOSTNAME,
            ),
            (
                "sendingLimits",
                [self.sending_limits.of_mailbox(), self.sending_limits.of_domain()]
                    .iter()
                    .flat_map(|of| [of.recipients_per_hour, of.recipients_per_day])
                    .all(|limit| limit != Some(0)),
                "one is zero, and nobody could send; write null for no limit",
            ),
            ("auth.parallelism", self.auth.parallelism > 0, "is zero; nobody could log in"),
            ("messageLifetimeSeconds", self.message_lifetime_seconds > 0, "is zero; raise it"),
        ] {
            if !ok {
                return Err(ConfigError { field, problem });
            }
        }
        Ok(host)
    }

    pub(crate) fn session_limits(&self) -> Limits {
        let limits = &self.limits;
        Limits {
            command_octets_max: limits.command_line_bytes,
            auth_octets_max: limits.auth_line_bytes,
            text_line_octets_max: limits.text_line_bytes,
            message_octets_max: limits.message_size_bytes,
            discard_octets_max: limits.message_size_bytes.saturating_mul(4),
            recipients_max: limits.recipients_max,
            errors_max: limits.errors_max,
            commands_max: limits.commands_max,
            auth_failures_max: self.auth.failures_per_session_max,
            command_timeout: Duration::from_secs(limits.command_timeout_seconds),
            content_timeout: Duration::from_secs(limits.content_timeout_seconds),
        }
    }
}

const HOSTNAME: &str = "is no host name; write the name under which other servers know this one";
const RECIPIENTS: &str = "is below 100, which every server must take (RFC 5321 §4.5.3.1.8)";
const LINE: &str = "is below 510, which every server must take (RFC 5321 §4.5.3.1.4)";
const MESSAGE: &str = "is below 65536, which every server must take (RFC 5321 §4.5.3.1.7)";
const NO_TIME: &str = "is zero; no client could ever be in time";
const BUDGET: &str = "is below 1310720, which one message may need";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_but_for_nothing() {
        assert!(Config::default().validate().is_ok());
    }

    #[test]
    fn what_cannot_work_is_named() {
        let mut config = Config::default();
        config.limits.recipients_max = 99;
        assert_eq!(config.validate().unwrap_err().field, "limits.recipientsMax");
        config = Config::default();
        config.sending_limits.domain_recipients_per_day = Some(0);
        assert_eq!(config.validate().unwrap_err().field, "sendingLimits");
        config = Config { hostname: "two words".to_owned(), ..Config::default() };
        assert_eq!(config.validate().unwrap_err().field, "hostname");
        let mut listener = Listener::new(Kind::Relay, Vec::new());
        listener.hostname = Some("two words".to_owned());
        config = Config { listeners: vec![listener], ..Config::default() };
        assert_eq!(config.validate().unwrap_err().field, "listeners[].hostname");
    }
}
