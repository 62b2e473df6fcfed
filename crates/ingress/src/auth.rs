//! Passwords: checked by few at a time, as slowly for users that do not exist.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use smtp::Credentials;
use tokio::sync::Semaphore;

use crate::clients::{ClientKey, Failures};
use crate::config::AuthConfig;

/// What came of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    /// Wrong, or nobody of that name: the client cannot tell.
    Rejected,
    /// The client has failed too often; nothing was checked.
    Blocked,
    /// Too many wait already; nothing was checked.
    Busy,
}

/// Checks passwords of all sessions.
#[derive(Debug)]
pub(crate) struct Authenticator {
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
    failures: Failures,
    failure_delay: Duration,
}

/// Compared with when there is no such user, so that it takes as long. Its password is random.
static NOBODY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let password: [u8; 32] = rand::random();
    let hash = Argon2::default().hash_password(&password);
    // Default parameters and a short password always hash; without, nobody takes no time.
    hash.map(|hash| hash.to_string()).into_iter().collect()
});

impl Authenticator {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let window = Duration::from_secs(config.failure_window_seconds);
        LazyLock::force(&NOBODY);
        Self {
            hashing: Arc::new(Semaphore::new(config.parallelism)),
            waiting: Semaphore::new(config.waiting_max + config.parallelism),
            failures: Failures::new(config.failures_per_client_max, window),
            failure_delay: Duration::from_secs(config.failure_delay_seconds),
        }
    }

    /// Checks a password against the hashes of an identity; `None` when there is none.
    ///
    /// A failure is counted against the client and takes its time.
    pub(crate) async fn check(
        &self,
        client: ClientKey,
        credentials: &Credentials,
        hashes: Option<Vec<String>>,
    ) -> Verdict {
        if self.failures.is_blocked(client) {
            return Verdict::Blocked;
        }
        let Ok(waiting) = self.waiting.try_acquire() else {
            return Verdict::Busy;
        };
        // Who is suspended has none either.
        let hashes = hashes.filter(|hashes| !hashes.is_empty());
        let known = hashes.is_some();
        let hashes = hashes.unwrap_or_else(|| NOBODY.clone());
        let Some(matches) = self.verify(credentials.password().to_owned(), hashes).await else {
            return Verdict::Busy;
        };
        if matches && known {
            return Verdict::Accepted;
        }
        self.failures.count(client);
        drop(waiting);
        tokio::time::sleep(self.failure_delay).await;
        Verdict::Rejected
    }

    /// `None` when the process is ending.
    async fn verify(&self, password: String, hashes: Vec<String>) -> Option<bool> {
        // The permit goes with the work: a client that leaves frees nothing before it is done.
        let permit = Arc::clone(&self.hashing).acquire_owned().await.ok()?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hashes.iter().any(|hash| is_match(&password, hash))
        });
        work.await.ok()
    }
}

fn is_match(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn authenticator() -> Authenticator {
        let config = AuthConfig {
            failure_delay_seconds: 0,
            failures_per_client_max: 3,
            waiting_max: 0,
            parallelism: 1,
            ..AuthConfig::default()
        };
        Authenticator::new(&config)
    }

    fn client() -> ClientKey {
        ClientKey::of("192.0.2.1".parse().unwrap())
    }

    fn hashed(password: &str) -> Vec<String> {
        vec![Argon2::default().hash_password(password.as_bytes()).unwrap().to_string()]
    }

    #[tokio::test]
    async fn right_wrong_unknown_and_blocked() {
        let authenticator = authenticator();
        let right = Credentials::new("alice", "secret");
        let wrong = Credentials::new("alice", "guess");
        let check = |credentials, hashes| authenticator.check(client(), credentials, hashes);
        assert_eq!(check(&right, Some(hashed("secret"))).await, Verdict::Accepted);
        assert_eq!(check(&wrong, Some(hashed("secret"))).await, Verdict::Rejected);
        assert_eq!(check(&right, None).await, Verdict::Rejected);
        assert_eq!(check(&right, Some(vec!["no hash".to_owned()])).await, Verdict::Rejected);
        assert_eq!(check(&right, Some(hashed("secret"))).await, Verdict::Blocked);
    }

    #[tokio::test]
    async fn unknown_users_take_as_long() {
        let authenticator = Authenticator::new(&AuthConfig {
            failure_delay_seconds: 0,
            failures_per_client_max: 1000,
            ..AuthConfig::default()
        });
        let wrong = Credentials::new("x", "guess");
        let hashes = hashed("secret");
        let mut spent = [Duration::ZERO; 2];
        for _ in 0..5 {
            for (spent, hashes) in spent.iter_mut().zip([Some(hashes.clone()), None]) {
                let start = Instant::now();
                authenticator.check(client(), &wrong, hashes).await;
                *spent += start.elapsed();
            }
        }
        let [known, unknown] = spent.map(|spent| spent.as_secs_f64());
        assert!((0.2..5.0).contains(&(unknown / known)), "{unknown} against {known}");
    }

    #[tokio::test]
    async fn more_than_may_wait_are_told_so() {
        let authenticator = authenticator();
        let credentials = Credentials::new("alice", "secret");
        let first = authenticator.check(client(), &credentials, Some(hashed("secret")));
        let second = authenticator.check(client(), &credentials, Some(hashed("secret")));
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (Verdict::Accepted, Verdict::Busy));
    }
}
