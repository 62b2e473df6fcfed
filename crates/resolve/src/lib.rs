//! DNS as mail needs it: mail exchangers in the order to try them, and addresses.
//!
//! Absence is an answer here, and failure is not absence: [`LookupError`] keeps apart what DNS
//! proved ([`LookupError::NoDomain`], [`LookupError::NoRecords`]) from what it could not say now.
//! The crate knows neither SMTP nor when to try again.

mod dns;
mod fake;
mod host_name;
mod mx;
mod private;

use std::net::IpAddr;

use async_trait::async_trait;
use mail_types::Domain;

pub use dns::{Config, Dns, OpenError};
pub use fake::Fake;
pub use host_name::{HostName, HostNameError};
pub use mx::{MxPlan, MxRecord, mx_plan};
pub use private::private_address;

/// Answers questions about names.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// The MX records of a domain, in no order; at least one.
    async fn mx(&self, domain: &Domain) -> Result<Vec<MxRecord>, LookupError>;

    /// The IPv6 and IPv4 addresses of a host; at least one.
    async fn addresses(&self, host: &HostName) -> Result<Vec<IpAddr>, LookupError>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN): it will not exist for the next message either.
    #[error("the domain does not exist")]
    NoDomain,
    /// The name exists and has no record of this type.
    #[error("the domain has no record of this type")]
    NoRecords,
    /// No answer, or no usable one (SERVFAIL, REFUSED, time-out): ask again later.
    #[error("DNS gave no answer: {0}")]
    Temporary(Box<str>),
}
