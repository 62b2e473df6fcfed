//! The envelope: what SMTP says about a message, apart from its content.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::TenantId;
use crate::mailbox::Mailbox;
use crate::path::ReversePath;
use crate::time::Timestamp;

/// Everything about a message that all its recipients share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Envelope {
    #[schema(value_type = String)]
    pub reverse_path: ReversePath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<EnvId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    pub body: BodyType,
    /// The client said SMTPUTF8 (RFC 6531 §3.4).
    #[serde(default)]
    pub smtputf8: bool,
    pub arrival: Timestamp,
    /// When undelivered recipients are given up and reported.
    pub expires: Timestamp,
    pub tenant: TenantId,
    /// The login that was authenticated; never a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    pub origin: Origin,
    /// W3C `traceparent` of the transaction that accepted the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
}

impl Envelope {
    /// The trace of the message: what every log line about it holds.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_parent.as_deref().and_then(trace_id)
    }
}

/// The second field of a `traceparent` (W3C Trace Context §3.2.2); `None` of what is not one.
pub fn trace_id(trace_parent: &str) -> Option<&str> {
    let id = trace_parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|octet| octet.is_ascii_hexdigit())).then_some(id)
}

/// How a message came to us.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    Smtp(SmtpOrigin),
    /// We made it: a DSN.
    Internal,
}

/// The session by which a message came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SmtpOrigin {
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The argument of HELO or EHLO as given.
    pub helo: String,
    /// The `with` value: `ESMTPSA`, … (RFC 3848, RFC 6531 §4.3).
    pub protocol: String,
    /// The TLS version and cipher suite, when there was TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The kind of listener it came to, such as `submission`; older versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// BODY= of MAIL FROM (RFC 6152 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub enum BodyType {
    #[default]
    #[serde(rename = "7BIT")]
    SevenBit,
    #[serde(rename = "8BITMIME")]
    EightBitMime,
}

/// RET= of MAIL FROM: how much of the message a failure DSN returns (RFC 3461 §4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Ret {
    Full,
    Hdrs,
}

/// ENVID= of MAIL FROM (RFC 3461 §4.4), with xtext decoded: printable ASCII, 1 to 100 characters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct EnvId(Box<str>);

/// A text that ENVID or ORCPT may not carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("empty, too long, or with a character that is not printable")]
pub struct DsnParameterError;

impl EnvId {
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, DsnParameterError> {
        let text = text.into();
        let printable = text.bytes().all(|b| matches!(b, b' '..=b'~'));
        if text.is_empty() || text.len() > 100 || !printable {
            return Err(DsnParameterError);
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for EnvId {
    type Error = DsnParameterError;

    fn try_from(text: String) -> Result<Self, DsnParameterError> {
        Self::new(text)
    }
}

impl From<EnvId> for String {
    fn from(envid: EnvId) -> Self {
        envid.0.into()
    }
}

/// NOTIFY= of RCPT TO: which DSNs the sender wants (RFC 3461 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub enum Notify {
    Never,
    On { success: bool, failure: bool, delay: bool },
}

impl Default for Notify {
    /// Without NOTIFY, failures are reported and delays may be (RFC 3461 §4.1).
    fn default() -> Self {
        Self::On { success: false, failure: true, delay: true }
    }
}

impl Notify {
    pub fn success(self) -> bool {
        matches!(self, Self::On { success: true, .. })
    }

    pub fn failure(self) -> bool {
        matches!(self, Self::On { failure: true, .. })
    }

    pub fn delay(self) -> bool {
        matches!(self, Self::On { delay: true, .. })
    }
}

/// ORCPT= of RCPT TO (RFC 3461 §4.2), decoded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct OriginalRecipient {
    addr_type: Box<str>,
    address: Box<str>,
}

impl OriginalRecipient {
    /// `addr_type` is an atom such as `rfc822` or `utf-8`; `address` has no control character and
    /// at most 500 octets (RFC 3461 §4.2).
    pub fn new(
        addr_type: impl Into<Box<str>>,
        address: impl Into<Box<str>>,
    ) -> Result<Self, DsnParameterError> {
        let (addr_type, address) = (addr_type.into(), address.into());
        let atom = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let type_ok = !addr_type.is_empty() && addr_type.bytes().all(atom);
        let too_long = addr_type.len() + address.len() > 500;
        if !type_ok || address.is_empty() || too_long || address.chars().any(char::is_control) {
            return Err(DsnParameterError);
        }
        Ok(Self { addr_type, address })
    }

    pub fn addr_type(&self) -> &str {
        &self.addr_type
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.addr_type, self.address)
    }
}

/// One recipient as it was accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Recipient {
    /// Where it goes, after aliases.
    #[schema(value_type = String)]
    pub address: Mailbox,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<OriginalRecipient>,
}

impl Recipient {
    pub fn new(address: Mailbox) -> Self {
        Self { address, notify: None, orcpt: None }
    }

    /// What the sender wants to hear, with the default of RFC 3461 §4.1.
    pub fn notify_or_default(&self) -> Notify {
        self.notify.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        for not_one in ["", "00", "00--", "00-4bf9-00f067aa0ba902b7-01"] {
            assert_eq!(trace_id(not_one), None, "{not_one}");
        }
    }
}
