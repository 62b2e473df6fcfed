//! What each client address is doing at the moment.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A client as limits see it: an IPv4 address, or a /64 of IPv6, which is what one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(IpAddr);

impl ClientKey {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.into()),
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into()),
        }
    }
}

/// Counts connections per client.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Mutex<HashMap<ClientKey, u32>>,
}

/// A counted connection; it is given back when dropped.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    clients: Arc<Clients>,
    client: ClientKey,
}

impl Clients {
    /// `None` when the client has `max` connections already.
    pub(crate) fn enter(self: &Arc<Self>, client: ClientKey, max: u32) -> Option<ClientSlot> {
        let mut open = lock(&self.open);
        let count = open.entry(client).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(ClientSlot { clients: Arc::clone(self), client })
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut open = lock(&self.clients.open);
        let Some(count) = open.get_mut(&self.client) else { return };
        *count -= 1;
        if *count == 0 {
            open.remove(&self.client);
        }
    }
}

/// Failed logins per client in a window of time.
#[derive(Debug)]
pub(crate) struct Failures {
    max: u32,
    window: Duration,
    recent: Mutex<HashMap<ClientKey, Recent>>,
}

#[derive(Debug)]
struct Recent {
    count: u32,
    since: Instant,
}

/// How many clients are remembered; beyond it the table starts over, which forgives rather than
/// grows.
const CLIENTS_MAX: usize = 100_000;

impl Failures {
    pub(crate) fn new(max: u32, window: Duration) -> Self {
        Self { max, window, recent: Mutex::default() }
    }

    /// Whether the client has failed too often to be heard.
    pub(crate) fn is_blocked(&self, client: ClientKey) -> bool {
        let recent = lock(&self.recent);
        recent
            .get(&client)
            .is_some_and(|recent| recent.count >= self.max && recent.since.elapsed() < self.window)
    }

    pub(crate) fn count(&self, client: ClientKey) {
        let mut recent = lock(&self.recent);
        if recent.len() >= CLIENTS_MAX {
            recent.retain(|_, recent| recent.since.elapsed() < self.window);
        }
        if recent.len() >= CLIENTS_MAX {
            recent.clear();
        }
        let entry = recent.entry(client).or_insert(Recent { count: 0, since: Instant::now() });
        if entry.since.elapsed() >= self.window {
            *entry = Recent { count: 0, since: Instant::now() };
        }
        entry.count += 1;
    }
}

/// A panic while counting leaves counts, not broken ones.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ClientKey {
        ClientKey::of(text.parse().unwrap())
    }

    #[test]
    fn a_client_is_an_address_or_a_64() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    }

    #[test]
    fn slots_come_back() {
        let clients = Arc::new(Clients::default());
        let client = key("192.0.2.1");
        let first = clients.enter(client, 2);
        let _second = clients.enter(client, 2);
        assert!(first.is_some());
        assert!(clients.enter(client, 2).is_none());
        assert!(clients.enter(key("192.0.2.2"), 2).is_some());
        drop(first);
        assert!(clients.enter(client, 2).is_some());
    }

    #[test]
    fn failures_block_and_lapse() {
        let failures = Failures::new(2, Duration::from_secs(60));
        let client = key("192.0.2.1");
        failures.count(client);
        assert!(!failures.is_blocked(client));
        failures.count(client);
        assert!(failures.is_blocked(client));
        assert!(!failures.is_blocked(key("192.0.2.2")));
        let forgetful = Failures::new(0, Duration::ZERO);
        forgetful.count(client);
        assert!(!forgetful.is_blocked(client));
    }
}
