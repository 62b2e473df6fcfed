//! Which server takes the mail.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use mail_types::Domain;
use serde::{Deserialize, Serialize};

/// A server that takes mail by LMTP: `address` or `socket`, one of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LmtpConfig {
    /// `HOST:PORT`; the host is a name or an address. Neither TLS nor a login is spoken: the
    /// network up to it must be one to be trusted.
    pub address: Option<String>,
    /// A Unix socket.
    pub socket: Option<PathBuf>,
    /// Connections open at the same time: as many messages are handed over at once.
    pub connections_max: usize,
}

impl Default for LmtpConfig {
    fn default() -> Self {
        Self { address: None, socket: None, connections_max: 4 }
    }
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum LmtpError {
    #[error("lmtp: neither address nor socket is set; set one of them")]
    Nowhere,
    #[error("lmtp: address and socket are both set; remove one of them")]
    Both,
    #[error("lmtp.address: {0:?} is not HOST:PORT; write it like imap.example:24 or [::1]:24")]
    Address(String),
    /// RFC 2033 §3.
    #[error("lmtp.address: port 25 is SMTP's; set the port where the server takes LMTP, often 24")]
    SmtpPort,
    #[error("lmtp.connectionsMax is not from 1 to 256")]
    ConnectionsMax,
}

impl LmtpConfig {
    pub(crate) fn endpoint(&self) -> Result<Endpoint, LmtpError> {
        if !(1..=256).contains(&self.connections_max) {
            return Err(LmtpError::ConnectionsMax);
        }
        match (&self.address, &self.socket) {
            (None, None) => Err(LmtpError::Nowhere),
            (Some(_), Some(_)) => Err(LmtpError::Both),
            (None, Some(path)) => Ok(Endpoint::Unix(path.clone())),
            (Some(address), None) => match Endpoint::tcp(address) {
                None => Err(LmtpError::Address(address.clone())),
                Some(Endpoint::Tcp { port: 25, .. }) => Err(LmtpError::SmtpPort),
                Some(endpoint) => Ok(endpoint),
            },
        }
    }
}

/// Where the server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Endpoint {
    fn tcp(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = literal.unwrap_or(host);
        let is_host = match literal {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => host.parse::<Ipv4Addr>().is_ok() || Domain::parse(host).is_ok(),
        };
        is_host.then(|| Self::Tcp { host: host.to_owned(), port })
    }

    /// The host that DSNs name.
    pub(crate) fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Endpoint, String> {
        let config: LmtpConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.endpoint().map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_or_a_socket() {
        for (json, want) in [
            (r#"{"address": "imap.example:24"}"#, "imap.example:24"),
            (r#"{"address": "dovecot:24"}"#, "dovecot:24"),
            (r#"{"address": "127.0.0.1:2424", "connectionsMax": 1}"#, "127.0.0.1:2424"),
            (r#"{"address": "[::1]:24"}"#, "[::1]:24"),
            (r#"{"socket": "/run/dovecot/lmtp"}"#, "/run/dovecot/lmtp"),
        ] {
            assert_eq!(parse(json).unwrap().to_string(), want, "{json}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_do() {
        for (json, want) in [
            ("{}", "lmtp: neither address nor socket is set; set one of them"),
            (r#"{"address": "a:1", "socket": "/s"}"#, "lmtp: address and socket are both set"),
            (r#"{"address": "a:1", "connectionsMax": 0}"#, "lmtp.connectionsMax is not from 1"),
            (r#"{"address": "a:25"}"#, "lmtp.address: port 25 is SMTP's; set the port"),
            (r#"{"address": "a:1", "port": 24}"#, "unknown field"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.starts_with(want), "{json}: {error}");
        }
        for address in ["", "24", ":24", "imap", "imap:", "imap:0", "imap:65536", "::1:24", "[a]:1"]
        {
            let error = parse(&format!(r#"{{"address": "{address}"}}"#)).unwrap_err();
            assert!(error.contains("is not HOST:PORT; write it like"), "{address}: {error}");
        }
    }
}
