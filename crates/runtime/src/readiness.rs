//! Whether the process can take work, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Named conditions that must all hold. Cheap to clone; clones share the conditions.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// Says that a condition does not hold, and why.
    pub fn not_ready(&self, condition: &'static str, reason: impl Into<String>) {
        self.lock().insert(condition, reason.into());
    }

    /// Says that a condition holds.
    pub fn ready(&self, condition: &'static str) {
        self.lock().remove(condition);
    }

    /// The conditions that do not hold, with their reasons.
    pub fn missing(&self) -> Vec<String> {
        self.lock().iter().map(|(condition, reason)| format!("{condition}: {reason}")).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        // A map is whole between two operations on it, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
