//! A resolver of canned answers, for tests and simulations.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use async_trait::async_trait;
use mail_types::Domain;

use crate::{HostName, LookupError, MxRecord, Resolver};

/// Answers from tables; a name in none of them does not exist.
#[derive(Debug, Default)]
pub struct Fake {
    mx: Mutex<HashMap<String, Result<Vec<MxRecord>, LookupError>>>,
    addresses: Mutex<HashMap<String, Result<Vec<IpAddr>, LookupError>>>,
}

impl Fake {
    /// Sets what `mx` answers for a domain.
    pub fn set_mx(&self, domain: &str, answer: Result<Vec<MxRecord>, LookupError>) {
        lock(&self.mx).insert(domain.into(), answer);
    }

    /// Sets what `addresses` answers for a host.
    pub fn set_addresses(&self, host: &str, answer: Result<Vec<IpAddr>, LookupError>) {
        lock(&self.addresses).insert(host.into(), answer);
    }
}

fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while holding it left a whole table behind: inserts and gets cannot be torn.
    table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[async_trait]
impl Resolver for Fake {
    async fn mx(&self, domain: &Domain) -> Result<Vec<MxRecord>, LookupError> {
        let known = lock(&self.mx).get(domain.as_str()).cloned();
        let has_address = lock(&self.addresses).contains_key(domain.as_str());
        let absent = if has_address { LookupError::NoRecords } else { LookupError::NoDomain };
        known.unwrap_or(Err(absent))
    }

    async fn addresses(&self, host: &HostName) -> Result<Vec<IpAddr>, LookupError> {
        let known = lock(&self.addresses).get(host.as_str()).cloned();
        known.unwrap_or(Err(LookupError::NoDomain))
    }
}
