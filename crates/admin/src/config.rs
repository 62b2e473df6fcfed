//! Where operators reach the queue besides the socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::token::{Token, TokenError};

/// The port of operators; without `listen` there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// A loopback address: the token travels in clear.
    pub listen: Option<SocketAddr>,
    /// A file with the token that requests must show. Read for each of them: a new token holds at
    /// once.
    pub token_file: Option<PathBuf>,
}

/// A port that may be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub address: SocketAddr,
    pub token_file: PathBuf,
}

/// Why the port may not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "listen: {0} is not a loopback address, and the token would travel in clear; listen on \
         127.0.0.1 or [::1], and come from elsewhere by a tunnel (ssh -L, kubectl port-forward)"
    )]
    NotLoopback(SocketAddr),
    #[error(
        "tokenFile: is not set but listen is, and whoever reaches the port could drop all mail; \
         make a file with `(umask 077; openssl rand -hex 32 > admin.token)` and name it here"
    )]
    NoTokenFile,
    #[error("tokenFile: {} {reason}", path.display())]
    Token { path: PathBuf, reason: TokenError },
}

impl Config {
    /// The port, if there is to be one. Looks at the file of the token.
    pub fn port(&self) -> Result<Option<Port>, ConfigError> {
        let Some(address) = self.listen else { return Ok(None) };
        if !address.ip().is_loopback() {
            return Err(ConfigError::NotLoopback(address));
        }
        let token_file = self.token_file.clone().ok_or(ConfigError::NoTokenFile)?;
        let unusable = |reason| ConfigError::Token { path: token_file.clone(), reason };
        Token::read(&token_file).map_err(unusable)?;
        Ok(Some(Port { address, token_file }))
    }
}
