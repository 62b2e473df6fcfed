//! Connections that wait a moment for the next message to the same next hop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use queue::NextHop;
use tokio::time::Instant;

use crate::config::Settings;
use crate::session::Session;

/// Idle connections in total; beyond, a connection is closed after its message.
const IDLE_MAX: usize = 256;

#[derive(Debug)]
struct Idle {
    session: Session,
    since: Instant,
    /// Those that it was opened by: another route may be in force by now.
    settings: Arc<Settings>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<NextHop, Vec<Idle>>>,
    keep: Duration,
}

impl Pool {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { idle: Mutex::default(), keep }
    }

    /// A connection to the hop by these settings that fits, the one used last; those of which the
    /// peer has had enough are passed over.
    pub(crate) fn take(
        &self,
        hop: &NextHop,
        settings: &Arc<Settings>,
        fits: impl Fn(&Session) -> bool,
    ) -> Option<Session> {
        let mut all = self.lock();
        let idle = all.get_mut(hop)?;
        let mut found = None;
        let fits = |idle: &Idle| Arc::ptr_eq(&idle.settings, settings) && fits(&idle.session);
        while let Some(at) = idle.iter().rposition(&fits) {
            let Idle { mut session, since, .. } = idle.remove(at);
            if since.elapsed() < self.keep && session.is_reusable() {
                found = Some(session);
                break;
            }
        }
        if idle.is_empty() {
            all.remove(hop);
        }
        found
    }

    /// Keeps a connection; gives it back when there is no room.
    pub(crate) fn put(
        &self,
        hop: &NextHop,
        session: Session,
        settings: &Arc<Settings>,
    ) -> Option<Session> {
        let mut all = self.lock();
        let count: usize = all.values().map(Vec::len).sum();
        if count >= IDLE_MAX || self.keep.is_zero() {
            return Some(session);
        }
        let idle = Idle { session, since: Instant::now(), settings: Arc::clone(settings) };
        all.entry(hop.clone()).or_default().push(idle);
        None
    }

    /// Takes out what has waited long enough.
    pub(crate) fn expired(&self) -> Vec<Session> {
        self.drain(|idle| idle.since.elapsed() >= self.keep)
    }

    /// Takes out everything.
    pub(crate) fn drain_all(&self) -> Vec<Session> {
        self.drain(|_| true)
    }

    fn drain(&self, mut done: impl FnMut(&Idle) -> bool) -> Vec<Session> {
        let mut out = Vec::new();
        self.lock().retain(|_, idle| {
            out.extend(idle.extract_if(.., |idle| done(idle)).map(|idle| idle.session));
            !idle.is_empty()
        });
        out
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NextHop, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
