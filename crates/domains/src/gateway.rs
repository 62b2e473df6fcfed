//! Gateway domains: their mail is handed to a server of their own, which may be asked for whom it
//! takes any.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;
use mail_types::{AddressLiteral, Domain, Host, Mailbox};
use serde::{Deserialize, Serialize};

use crate::spec::RelayTlsMode;

/// Octets of an authentication identity (RFC 4616 §2) that anybody needs.
const USER_BYTES_MAX: usize = 255;
/// A file name of every system.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Where the mail of a gateway domain goes. Wherever it comes from, a login is not sent in clear.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Unchecked")]
#[non_exhaustive] // made of what was declared, or of what was stored and is checked
pub struct Gateway {
    /// In the order in which they are tried; at least one.
    pub servers: Vec<Server>,
    /// Whether they are asked for a recipient that the table does not have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub call_ahead: bool,
    pub tls: RelayTlsMode,
    /// PEM certificates of the only authorities that are trusted; without it, those that are
    /// trusted elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<GatewayLogin>,
}

/// A host with the port where it takes mail.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server {
    pub host: Host,
    pub port: u16,
}

/// How its server knows us. The password is in a file of those who connect, never in a table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "UncheckedLogin")]
#[non_exhaustive] // made by `GatewayLogin::new`
pub struct GatewayLogin {
    pub user: String,
    /// `NAMESPACE/NAME`, below a directory that whoever runs the process has set aside: no table
    /// can name any other file.
    pub password_file: String,
}

/// A gateway as it is stored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Unchecked {
    servers: Vec<Server>,
    #[serde(default)]
    call_ahead: bool,
    tls: RelayTlsMode,
    #[serde(default)]
    authorities: Option<String>,
    #[serde(default)]
    login: Option<GatewayLogin>,
}

/// A login as it is stored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UncheckedLogin {
    user: String,
    password_file: String,
}

/// Why there is no such gateway, or no such login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatewayError {
    #[error("no server is named")]
    Nowhere,
    #[error("with a login, a password might be sent in clear")]
    InClear,
    #[error("what is to log in is no login")]
    User,
    #[error("the file of the password is not one in the directory of a namespace")]
    PasswordFile,
}

impl TryFrom<Unchecked> for Gateway {
    type Error = GatewayError;

    fn try_from(stored: Unchecked) -> Result<Self, GatewayError> {
        let Unchecked { servers, call_ahead, tls, authorities, login } = stored;
        if servers.is_empty() {
            return Err(GatewayError::Nowhere);
        }
        if tls == RelayTlsMode::Opportunistic && login.is_some() {
            return Err(GatewayError::InClear);
        }
        Ok(Self { servers, call_ahead, tls, authorities, login })
    }
}

impl GatewayLogin {
    /// `password_file` is `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// What is no login, or would be another file.
    pub(crate) fn new(user: String, password_file: String) -> Result<Self, GatewayError> {
        if !Self::is_user(&user) {
            return Err(GatewayError::User);
        }
        let parts = password_file.split_once('/');
        let is_below =
            |(namespace, name)| Self::is_file_name(namespace) && Self::is_file_name(name);
        if !parts.is_some_and(is_below) {
            return Err(GatewayError::PasswordFile);
        }
        Ok(Self { user, password_file })
    }

    /// RFC 4616 §2 ends it with a NUL.
    pub(crate) fn is_user(text: &str) -> bool {
        (1..=USER_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
    }

    /// Whether it stays in its directory.
    pub(crate) fn is_file_name(text: &str) -> bool {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=FILE_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.starts_with('.')
    }
}

impl TryFrom<UncheckedLogin> for GatewayLogin {
    type Error = GatewayError;

    fn try_from(
        UncheckedLogin { user, password_file }: UncheckedLogin,
    ) -> Result<Self, GatewayError> {
        Self::new(user, password_file)
    }
}

/// A text that is no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a host with or without a port")]
pub struct ServerError;

impl Server {
    /// Of mail exchangers (RFC 5321 §4.5.4.2).
    pub const PORT: u16 = 25;

    /// `name`, `192.0.2.1` or `[2001:db8::1]`, each with or without `:port`.
    pub fn parse(text: &str) -> Result<Self, ServerError> {
        let (host, port) = match text.rsplit_once(':') {
            // What follows a colon within brackets belongs to the address.
            Some((host, port)) if !port.ends_with(']') => {
                let is_number = port.bytes().all(|digit| digit.is_ascii_digit());
                let port = port.parse().ok().filter(|port| is_number && *port != 0);
                (host, port.ok_or(ServerError)?)
            }
            Some(_) | None => (text, Self::PORT),
        };
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = match in_brackets {
            Some(inside) => inside.parse::<Ipv6Addr>().map(IpAddr::V6),
            None => host.parse().map(IpAddr::V4),
        };
        let host = match (address, in_brackets) {
            (Ok(address), _) => Host::Literal(AddressLiteral::Ip(address)),
            (Err(_), Some(_)) => return Err(ServerError),
            (Err(_), None) => Host::Domain(Domain::parse(host).map_err(|_| ServerError)?),
        };
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for Server {
    type Error = ServerError;

    fn try_from(text: String) -> Result<Self, ServerError> {
        Self::parse(&text)
    }
}

impl From<Server> for String {
    fn from(Server { host, port }: Server) -> Self {
        match host {
            Host::Literal(AddressLiteral::Ip(IpAddr::V6(address))) => format!("[{address}]:{port}"),
            Host::Literal(AddressLiteral::Ip(IpAddr::V4(address))) => format!("{address}:{port}"),
            other @ (Host::Domain(_) | Host::Literal(AddressLiteral::General { .. })) => {
                format!("{other}:{port}")
            }
        }
    }
}

/// Asks the server of a gateway domain whether it takes mail for a recipient (call-ahead).
#[async_trait]
pub trait CallAhead: Send + Sync {
    /// Takes as long as the server does. No mail is sent.
    async fn ask(&self, gateway: &Arc<Gateway>, address: &Mailbox) -> Answer;
}

/// What its server says of a recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Taken {
        /// The largest message that it takes, in octets, if it says so (RFC 1870).
        size_max: Option<u64>,
    },
    /// It has said that there is no such recipient.
    Absent,
    /// There is no telling from what it has said; who reads it is an operator.
    Unclear(String),
    /// It has not said anything: there was no session.
    Unreachable(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_written() {
        for (text, want) in [
            ("mail.b.example", "mail.b.example:25"),
            ("Mail.B.example:2525", "mail.b.example:2525"),
            ("exchange:26", "exchange:26"),
            ("192.0.2.1", "192.0.2.1:25"),
            ("192.0.2.1:26", "192.0.2.1:26"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
            ("[2001:db8::1]:26", "[2001:db8::1]:26"),
        ] {
            let server = Server::parse(text).unwrap();
            let written = String::from(server.clone());
            assert_eq!(written, want, "{text}");
            assert_eq!(Server::parse(&written), Ok(server), "{text}");
        }
        for wrong in [
            "",
            ":25",
            "a b",
            "a:",
            "a:0",
            "a:65536",
            "a:+25",
            "a:smtp",
            "[a]",
            "[192.0.2.1]:25",
            "2001:db8::1",
            "192.0.2.256",
            "[2001:db8::1",
            "a@b.example",
            "b.example.",
            "smtp://a",
        ] {
            assert_eq!(Server::parse(wrong), Err(ServerError), "{wrong}");
        }
    }

    /// Whoever may write the table has no say in which files are read, nor in what is sent in
    /// clear.
    #[test]
    fn what_is_stored_is_checked_again() {
        let stored = |tls: &str, login: &str| {
            let text = format!(r#"{{"servers":["mail.b.example:25"],"tls":"{tls}"{login}}}"#);
            serde_saphyr::from_str::<Gateway>(&text).map_err(|error| error.to_string())
        };
        let login = |user: &str, file: &str| {
            format!(r#","login":{{"user":"{user}","passwordFile":"{file}"}}"#)
        };
        for tls in ["verify", "required"] {
            assert!(stored(tls, &login("us", "t/at-b")).is_ok(), "{tls}");
        }
        assert!(stored("opportunistic", "").is_ok());
        let in_clear = stored("opportunistic", &login("us", "t/at-b")).unwrap_err();
        assert!(in_clear.contains("might be sent in clear"), "{in_clear}");
        let (long, user) = ("t/".to_owned() + &"x".repeat(256), "u".repeat(256));
        for (user, file, said) in [
            ("us", "", "not one in the directory"),
            ("us", "at-b", "not one in the directory"),
            ("us", "/at-b", "not one in the directory"),
            ("us", "t/", "not one in the directory"),
            ("us", "../at-b", "not one in the directory"),
            ("us", "t/../x", "not one in the directory"),
            ("us", "t/..", "not one in the directory"),
            ("us", "t/x/y", "not one in the directory"),
            ("us", "/etc/passwd", "not one in the directory"),
            ("us", &long, "not one in the directory"),
            ("", "t/at-b", "no login"),
            (&user, "t/at-b", "no login"),
            ("a\\u0000b", "t/at-b", "no login"),
        ] {
            let error = stored("verify", &login(user, file)).unwrap_err();
            assert!(error.contains(said), "{user:?} {file:?}: {error}");
        }
        let nowhere = serde_saphyr::from_str::<Gateway>(r#"{"servers":[],"tls":"verify"}"#);
        assert!(nowhere.unwrap_err().to_string().contains("no server"));
    }
}
