//! What an operator sets, and what is made of it at start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domains::{Gateway, Server};
use mail_types::{Domain, Host};
use retry::{Policy, PolicyChange, PolicyError};
use serde::{Deserialize, Serialize};
use smtp::client::{Credentials, Password, Timeouts};

use crate::sources::{SourceConfig, Sources};
use crate::tls::{TlsClients, TlsError, TlsMode};

/// What a lease must last beyond the longest step of an attempt.
pub const LEASE_MARGIN: Duration = Duration::from_secs(60);

/// The configuration of the delivery role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The port of mail exchangers.
    pub port: u16,
    /// Attempts made at the same time.
    pub connections_max: usize,
    /// Attempts made at the same time for one next hop: most hosts refuse more than a few dozen.
    pub connections_per_destination_max: usize,
    /// Messages sent over a connection before a new one is made, which spreads load over the
    /// destination's hosts.
    pub messages_per_connection_max: u32,
    /// Recipients of one transaction; every server takes 100 (RFC 5321 §4.5.3.1.8).
    pub recipients_per_transaction_max: usize,
    /// Addresses tried in one attempt, over all hosts of a destination.
    pub addresses_per_attempt_max: usize,
    /// How long a connection is kept for the next message when there is none at hand.
    pub idle_connection_seconds: u64,
    pub connect_timeout_seconds: u64,
    pub timeouts: TimeoutConfig,
    /// Deliver to private, loopback and link-local addresses that DNS gives for a foreign domain.
    /// Off, because anybody can make his MX point into this network. Hosts named in `routes` are
    /// always allowed.
    pub allow_private_addresses: bool,
    /// PEM certificates of authorities trusted beside the public ones.
    pub tls_ca_file: Option<PathBuf>,
    /// Where the passwords are by which the servers of gateway domains know us: files
    /// `NAMESPACE/NAME`. Without it there is none.
    pub gateway_passwords_dir: Option<PathBuf>,
    /// The policy of all domains that have none of their own in `routes`.
    pub retry: Policy,
    /// The longest pause between two looks at a next hop that cannot be reached, while mail waits.
    pub probe_interval_seconds_max: u64,
    /// Addresses of this machine that connections come from; without any, the system chooses.
    pub sources: Vec<SourceConfig>,
    /// The first that matches a next hop decides; without one, its MX records do.
    pub routes: Vec<RouteConfig>,
    /// The names under which we take mail besides our own, which no mail is sent to. Set from the
    /// listeners.
    #[serde(skip)]
    pub listener_names: Vec<Host>,
}

/// Waits for answers, in seconds; the defaults are those of RFC 5321 §4.5.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutConfig {
    pub greeting_seconds: u64,
    pub command_seconds: u64,
    pub mail_seconds: u64,
    pub rcpt_seconds: u64,
    pub data_seconds: u64,
    pub block_seconds: u64,
    pub final_dot_seconds: u64,
}

/// Where mail for a domain goes, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteConfig {
    /// A domain, `.domain` for all names below it, or `*` for all that no earlier route names.
    pub domain: String,
    /// The host, a name or an address; its A and AAAA records are used, never its MX. Without it,
    /// the MX records of the domain are.
    #[serde(default)]
    pub host: Option<String>,
    /// Without it, the role's port.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub tls: TlsMode,
    /// Whether a short message goes out in one piece to hosts that offer CHUNKING and PIPELINING.
    /// `false` is for hosts, or what stands before them, that offer what they do not do.
    #[serde(default = "yes")]
    pub chunking: bool,
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// What differs from the role's.
    #[serde(default)]
    pub retry: PolicyChange,
}

/// What a smarthost wants to hear. It is told under TLS only, unless `tls` is `none`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthConfig {
    pub login: String,
    /// A file that holds the password; a line end after it is not part of it.
    pub password_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 25,
            connections_max: 500,
            connections_per_destination_max: 20,
            messages_per_connection_max: 100,
            recipients_per_transaction_max: 100,
            addresses_per_attempt_max: 10,
            idle_connection_seconds: 3,
            connect_timeout_seconds: 30,
            timeouts: TimeoutConfig::default(),
            allow_private_addresses: false,
            tls_ca_file: None,
            gateway_passwords_dir: None,
            retry: Policy::default(),
            probe_interval_seconds_max: 900,
            sources: Vec::new(),
            routes: Vec::new(),
            listener_names: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        let rfc = Timeouts::default();
        Self {
            greeting_seconds: rfc.greeting.as_secs(),
            command_seconds: rfc.command.as_secs(),
            mail_seconds: rfc.mail.as_secs(),
            rcpt_seconds: rfc.rcpt.as_secs(),
            data_seconds: rfc.data.as_secs(),
            block_seconds: rfc.block.as_secs(),
            final_dot_seconds: rfc.final_dot.as_secs(),
        }
    }
}

impl TimeoutConfig {
    pub fn timeouts(self) -> Timeouts {
        Timeouts {
            greeting: Duration::from_secs(self.greeting_seconds),
            command: Duration::from_secs(self.command_seconds),
            mail: Duration::from_secs(self.mail_seconds),
            rcpt: Duration::from_secs(self.rcpt_seconds),
            data: Duration::from_secs(self.data_seconds),
            block: Duration::from_secs(self.block_seconds),
            final_dot: Duration::from_secs(self.final_dot_seconds),
        }
    }
}

/// Why the role cannot start with its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{field} is zero")]
    Zero { field: &'static str },
    #[error("retry: {0}")]
    Retry(PolicyError),
    #[error("routes[{index}].{field}: {problem}")]
    Route { index: usize, field: &'static str, problem: String },
    #[error("routes[{index}].auth.passwordFile cannot be read")]
    PasswordFile { index: usize, source: std::io::Error },
    #[error(
        "a lease of {lease_seconds} s is shorter than the longest step of an attempt \
         ({step_seconds} s) and a minute: another worker would take a job in progress"
    )]
    LeaseTooShort { lease_seconds: u64, step_seconds: u64 },
    #[error("sources[{index}].{field}: {problem}")]
    Source { index: usize, field: &'static str, problem: String },
    #[error("sources[{index}].address: is no address of this machine")]
    SourceElsewhere { index: usize, source: std::io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a configuration is to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Deliveries; `lease` is how long the queue leases a job.
    Delivery { lease: Duration },
    /// Sessions that carry no mail. Somebody waits meanwhile: each connection and each answer has
    /// `step`, if the configuration does not give it less.
    Visit { step: Duration },
}

/// A configuration that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) timeouts: Timeouts,
    pub(crate) tls: TlsClients,
    pub(crate) sources: Sources,
    routes: Vec<Route>,
    default_route: Route,
}

/// A route that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    matches: Pattern,
    pub(crate) way: Way,
    pub(crate) tls: TlsMode,
    pub(crate) chunking: bool,
    pub(crate) login: Option<Login>,
    pub(crate) retry: Policy,
}

/// Which hosts a route leads to.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// The domain's mail exchangers, at this port.
    Exchangers(u16),
    /// A host that the configuration names.
    Smarthost(Server),
    /// The server that a domain of ours has of its own.
    Gateway(Arc<Gateway>),
    /// None: mail of the domain is for mailboxes here.
    Mailboxes,
}

impl Way {
    /// The server of a gateway domain, if it leads there.
    pub(crate) fn gateway(&self) -> Option<&Arc<Gateway>> {
        match self {
            Self::Gateway(gateway) => Some(gateway),
            Self::Exchangers(_) | Self::Smarthost(_) | Self::Mailboxes => None,
        }
    }
}

/// How a host knows us.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Known(Credentials),
    /// What the table says: its file is read when it is needed.
    InFile {
        user: String,
        password: Option<PathBuf>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    All,
    Is(Domain),
    Below(Domain),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, mail_types::DomainError> {
        match (text, text.strip_prefix('.')) {
            ("*", _) => Ok(Self::All),
            (_, Some(parent)) => Domain::parse(parent).map(Self::Below),
            (name, None) => Domain::parse(name).map(Self::Is),
        }
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host.domain()) {
            (Self::All, _) => true,
            (Self::Is(name), Some(domain)) => domain == name,
            (Self::Below(parent), Some(domain)) => domain != parent && domain.is_within(parent),
            (Self::Is(_) | Self::Below(_), None) => false,
        }
    }
}

impl Purpose {
    /// Checks a configuration, and reads the files that it names.
    pub(crate) fn settings(self, config: Config) -> Result<Settings, ConfigError> {
        let settings = match self {
            Self::Delivery { lease } => Settings::new(config, lease)?,
            // Nothing is leased: any lease is long enough.
            Self::Visit { step } => Settings::new(config.hastened(step), Duration::MAX)?,
        };
        settings.sources.check_here()?;
        Ok(settings)
    }
}

impl Settings {
    /// Checks all of it; `lease` is how long the queue leases a job.
    pub(crate) fn new(config: Config, lease: Duration) -> Result<Self, ConfigError> {
        config.check_numbers()?;
        let timeouts = config.timeouts.timeouts();
        let connect = Duration::from_secs(config.connect_timeout_seconds);
        let step = timeouts.longest().max(connect);
        if lease < step + LEASE_MARGIN {
            let (lease_seconds, step_seconds) = (lease.as_secs(), step.as_secs());
            return Err(ConfigError::LeaseTooShort { lease_seconds, step_seconds });
        }
        let routes = config.routes.iter().enumerate();
        let routes = routes.map(|(index, route)| Route::new(index, route, &config));
        Ok(Self {
            routes: routes.collect::<Result<_, _>>()?,
            default_route: Route {
                matches: Pattern::All,
                way: Way::Exchangers(config.port),
                tls: TlsMode::default(),
                chunking: true,
                login: None,
                retry: config.retry.clone(),
            },
            timeouts,
            tls: TlsClients::new(config.tls_ca_file.as_deref())?,
            sources: Sources::new(&config.sources)?,
            config,
        })
    }

    /// Names of ours besides the one.
    pub(crate) fn other_names(&self) -> impl Iterator<Item = &Host> {
        self.config.listener_names.iter().chain(self.sources.names())
    }

    /// Routes that name a host, and the host.
    pub(crate) fn smarthosts(&self) -> impl Iterator<Item = (&Route, &Server)> {
        self.routes.iter().filter_map(|route| match &route.way {
            Way::Smarthost(server) => Some((route, server)),
            Way::Exchangers(_) | Way::Gateway(_) | Way::Mailboxes => None,
        })
    }

    /// The way to the server that a domain of ours has of its own.
    pub(crate) fn route_to_gateway(&self, domain: &Host, gateway: &Arc<Gateway>) -> Route {
        let passwords = self.config.gateway_passwords_dir.as_deref();
        self.route(domain).to_gateway(gateway, passwords)
    }

    pub(crate) fn route(&self, host: &Host) -> &Route {
        self.routes.iter().find(|route| route.matches.matches(host)).unwrap_or(&self.default_route)
    }
}

impl Config {
    /// Checks everything without starting anything; reads the files that it names. `lease` is how
    /// long the queue leases a job.
    pub fn validate(&self, lease: Duration) -> Result<(), ConfigError> {
        Settings::new(self.clone(), lease).map(drop)
    }

    /// The same, with no wait before content is sent that is longer than `step`.
    fn hastened(mut self, step: Duration) -> Self {
        let seconds = step.as_secs().max(1);
        let timeouts = &mut self.timeouts;
        for wait in [
            &mut self.connect_timeout_seconds,
            &mut timeouts.greeting_seconds,
            &mut timeouts.command_seconds,
            &mut timeouts.mail_seconds,
            &mut timeouts.rcpt_seconds,
        ] {
            *wait = seconds.min(*wait);
        }
        self
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let timeouts = &self.timeouts;
        let numbers = [
            ("port", u64::from(self.port)),
            ("connectionsMax", self.connections_max as u64),
            ("connectionsPerDestinationMax", self.connections_per_destination_max as u64),
            ("messagesPerConnectionMax", u64::from(self.messages_per_connection_max)),
            ("recipientsPerTransactionMax", self.recipients_per_transaction_max as u64),
            ("addressesPerAttemptMax", self.addresses_per_attempt_max as u64),
            ("connectTimeoutSeconds", self.connect_timeout_seconds),
            ("probeIntervalSecondsMax", self.probe_interval_seconds_max),
            ("timeouts.greetingSeconds", timeouts.greeting_seconds),
            ("timeouts.commandSeconds", timeouts.command_seconds),
            ("timeouts.mailSeconds", timeouts.mail_seconds),
            ("timeouts.rcptSeconds", timeouts.rcpt_seconds),
            ("timeouts.dataSeconds", timeouts.data_seconds),
            ("timeouts.blockSeconds", timeouts.block_seconds),
            ("timeouts.finalDotSeconds", timeouts.final_dot_seconds),
        ];
        if let Some((field, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return Err(ConfigError::Zero { field });
        }
        self.retry.validate().map_err(ConfigError::Retry)
    }
}

impl Route {
    fn new(index: usize, route: &RouteConfig, config: &Config) -> Result<Self, ConfigError> {
        let problem = |field, problem: String| ConfigError::Route { index, field, problem };
        let matches =
            Pattern::parse(&route.domain).map_err(|e| problem("domain", e.to_string()))?;
        let host = route.host.as_deref().map(parse_host).transpose();
        let host = host.map_err(|e| problem("host", e.to_string()))?;
        if route.port == Some(0) {
            return Err(problem("port", "is zero".into()));
        }
        let retry = route.retry.of(&config.retry);
        retry.validate().map_err(|e| problem("retry", e.to_string()))?;
        let read = |auth: &AuthConfig| {
            auth.read().map_err(|source| ConfigError::PasswordFile { index, source })
        };
        if route.auth.is_some() && route.tls == TlsMode::Opportunistic {
            let remedy = "with auth, say required or verify: a password is not sent in clear";
            return Err(problem("tls", remedy.into()));
        }
        let port = route.port.unwrap_or(config.port);
        Ok(Self {
            matches,
            way: match host {
                Some(host) => Way::Smarthost(Server { host, port }),
                None => Way::Exchangers(port),
            },
            tls: route.tls,
            chunking: route.chunking,
            login: route.auth.as_ref().map(read).transpose()?.map(Login::Known),
            retry,
        })
    }

    /// The same for a gateway domain, whose server decides all but what only we know: when to try
    /// again, and what its host cannot do.
    fn to_gateway(&self, gateway: &Arc<Gateway>, passwords: Option<&Path>) -> Self {
        let login = gateway.login.as_ref().map(|login| Login::InFile {
            user: login.user.clone(),
            password: passwords.map(|dir| dir.join(&login.password_file)),
        });
        Self { way: Way::Gateway(gateway.clone()), tls: gateway.tls.into(), login, ..self.clone() }
    }

    /// The same for a domain that has mailboxes here.
    pub(crate) fn to_mailboxes(&self) -> Self {
        Self { way: Way::Mailboxes, ..self.clone() }
    }
}

impl AuthConfig {
    fn read(&self) -> std::io::Result<Credentials> {
        let password = fs::read_to_string(&self.password_file)?;
        Ok(credentials(&self.login, &password))
    }
}

/// `text` is that of a file: a line end after the password is not part of it.
pub(crate) fn credentials(login: &str, text: &str) -> Credentials {
    let password = Password::new(text.trim_end_matches(['\r', '\n']));
    Credentials { login: login.to_owned(), password }
}

/// A name, an address literal, or a bare address.
fn parse_host(text: &str) -> Result<Host, mail_types::MailboxError> {
    match text.parse() {
        Ok(address) => Ok(Host::Literal(mail_types::AddressLiteral::Ip(address))),
        Err(_) => Host::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(900);

    fn route(json: &str) -> Result<Settings, ConfigError> {
        let config = serde_json::from_str(&format!(r#"{{"routes": [{json}]}}"#)).unwrap();
        Settings::new(config, LEASE)
    }

    #[test]
    fn the_first_route_that_matches() {
        let routes = r#"{"domain": "a.example", "host": "192.0.2.1", "port": 2525},
            {"domain": ".example", "host": "[IPv6:2001:db8::1]"},
            {"domain": "b.test", "tls": "verify"},
            {"domain": "*", "host": "smart.test"}"#;
        let settings = route(routes).unwrap();
        for (domain, host, port) in [
            ("a.example", Some("[192.0.2.1]"), 2525),
            ("x.a.example", Some("[IPv6:2001:db8::1]"), 25),
            ("example", Some("smart.test"), 25),
            ("b.test", None, 25),
            ("[192.0.2.9]", Some("smart.test"), 25),
        ] {
            let found = match &settings.route(&Host::parse(domain).unwrap()).way {
                Way::Smarthost(server) => (Some(server.host.to_string()), server.port),
                Way::Exchangers(port) => (None, *port),
                other @ (Way::Gateway(_) | Way::Mailboxes) => panic!("{domain}: {other:?}"),
            };
            assert_eq!(found, (host.map(str::to_owned), port), "{domain}");
        }
        let settings = Settings::new(Config::default(), LEASE).unwrap();
        let any = settings.route(&Host::parse("any.example").unwrap());
        assert!(matches!(any.way, Way::Exchangers(25)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, message) in [
            (r#"{"domain": "a b"}"#, "routes[0].domain: "),
            (r#"{"domain": "*", "host": "a b"}"#, "routes[0].host: "),
            (r#"{"domain": "*", "port": 0}"#, "routes[0].port: is zero"),
            (r#"{"domain": "*", "retry": {"repeatSeconds": 0}}"#, "routes[0].retry: "),
            (
                r#"{"domain": "*", "auth": {"login": "u", "passwordFile": "/x"}}"#,
                "routes[0].tls: with auth",
            ),
            (
                r#"{"domain": "*", "tls": "none", "auth": {"login": "u", "passwordFile": "/x/y"}}"#,
                "routes[0].auth.passwordFile cannot be read",
            ),
        ] {
            let error = route(json).unwrap_err().to_string();
            assert!(error.starts_with(message), "{json}: {error}");
        }
        let config = Config { connections_max: 0, ..Config::default() };
        let error = Settings::new(config, LEASE).unwrap_err();
        assert_eq!(error.to_string(), "connectionsMax is zero");
        assert!(serde_json::from_str::<Config>(r#"{"connections": 1}"#).is_err());
    }

    #[test]
    fn a_lease_outlasts_the_longest_step() {
        let longest = Timeouts::default().longest();
        assert!(Settings::new(Config::default(), longest + LEASE_MARGIN).is_ok());
        let short = longest + LEASE_MARGIN - Duration::from_secs(1);
        assert!(matches!(
            Settings::new(Config::default(), short),
            Err(ConfigError::LeaseTooShort { .. })
        ));
    }
}
