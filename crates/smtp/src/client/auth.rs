//! AUTH as a client speaks it (RFC 4954): PLAIN, or LOGIN where there is no PLAIN.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::capabilities::Capabilities;

/// What a smarthost wants to hear.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub login: String,
    pub password: Password,
}

/// A password; it does not print itself.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// The next answer that a challenge `334` gets.
#[derive(Debug)]
pub(super) enum Exchange {
    /// Everything has been said.
    Told,
    Login(Credentials),
    LoginPassword(Password),
}

impl Exchange {
    /// Starts with the best mechanism that the server offers; `None` when it offers neither.
    pub(super) fn start(
        offered: &Capabilities,
        credentials: &Credentials,
        out: &mut Vec<u8>,
    ) -> Option<Self> {
        let Credentials { login, password } = credentials;
        if offered.auth_plain {
            let message = STANDARD.encode(format!("\0{login}\0{}", password.0));
            push_line(out, &format!("AUTH PLAIN {message}"));
            return Some(Self::Told);
        }
        if offered.auth_login {
            push_line(out, "AUTH LOGIN");
            return Some(Self::Login(credentials.clone()));
        }
        None
    }

    /// Answers a challenge; `None` when there should be none.
    pub(super) fn answer(self, out: &mut Vec<u8>) -> Option<Self> {
        match self {
            Self::Told => None,
            Self::Login(Credentials { login, password }) => {
                push_line(out, &STANDARD.encode(login));
                Some(Self::LoginPassword(password))
            }
            Self::LoginPassword(password) => {
                push_line(out, &STANDARD.encode(password.0));
                Some(Self::Told)
            }
        }
    }
}

fn push_line(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}
