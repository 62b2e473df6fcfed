//! Passwords: checked by few at a time, as slowly for users that do not exist.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use domains::{Claimant, Identity, password};
use smtp::Credentials;
use tokio::sync::Semaphore;

use crate::clients::{ClientKey, Failures};
use crate::config::AuthConfig;

/// Longer ones are nobody's: what some hashes take to check grows with the password.
const PASSWORD_OCTETS_MAX: usize = 256;

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// By this hash.
    Accepted(String),
    /// Wrong, or nobody of that name: the client cannot tell.
    Rejected,
    /// The client has failed too often; nothing was checked.
    Blocked,
    /// Too many wait already; nothing was checked.
    Busy,
}

/// Checks passwords of all sessions.
#[derive(Debug)]
pub struct Authenticator {
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
    failures: Failures,
    failure_delay: Duration,
}

/// What a password is compared with.
#[derive(Debug, Clone)]
pub enum Hashes {
    Own(Vec<String>),
    /// There is no such user: somebody else's, so that it takes as long, in vain.
    StandIn(Vec<String>),
}

impl Hashes {
    pub fn of(claimant: &Claimant) -> Self {
        let hashes = |identity: &Identity| identity.password_hashes().to_vec();
        match claimant {
            Claimant::Somebody(identity) => Self::Own(hashes(identity)),
            Claimant::Nobody(other) => {
                Self::StandIn(other.as_ref().map_or_else(|| NOBODY.clone(), hashes))
            }
        }
    }
}

/// The stand-in when nobody has a password. Its password is random.
static NOBODY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let password: [u8; 32] = rand::random();
    let hash = Argon2::default().hash_password(&password);
    // Default parameters and a short password always hash; without, nobody takes no time.
    hash.map(|hash| hash.to_string()).into_iter().collect()
});

impl Authenticator {
    pub fn new(config: &AuthConfig) -> Self {
        let window = Duration::from_secs(config.failure_window_seconds);
        LazyLock::force(&NOBODY);
        Self {
            hashing: Arc::new(Semaphore::new(config.parallelism)),
            waiting: Semaphore::new(config.waiting_max + config.parallelism),
            failures: Failures::new(config.failures_per_client_max, window),
            failure_delay: Duration::from_secs(config.failure_delay_seconds),
        }
    }

    /// Checks a password.
    ///
    /// A failure is counted against the client and takes its time.
    pub async fn check(
        &self,
        client: ClientKey,
        credentials: &Credentials,
        hashes: Hashes,
    ) -> Verdict {
        if self.failures.is_blocked(client) {
            return Verdict::Blocked;
        }
        let Ok(waiting) = self.waiting.try_acquire() else {
            return Verdict::Busy;
        };
        let (is_own, hashes) = match hashes {
            Hashes::Own(hashes) => (true, hashes),
            Hashes::StandIn(hashes) => (false, hashes),
        };
        let password = credentials.password().to_owned();
        let matched = match password.len() > PASSWORD_OCTETS_MAX {
            true => None,
            false => match self.verify(password, hashes).await {
                Some(matched) => matched,
                None => return Verdict::Busy,
            },
        };
        if let Some(hash) = matched.filter(|_| is_own) {
            return Verdict::Accepted(hash);
        }
        drop(waiting);
        self.punish(client).await;
        Verdict::Rejected
    }

    /// Whether the client has failed too often to be heard.
    pub(crate) fn is_blocked(&self, client: ClientKey) -> bool {
        self.failures.is_blocked(client)
    }

    /// Counts a failure against the client, and takes its time.
    pub(crate) async fn punish(&self, client: ClientKey) {
        self.failures.count(client);
        tokio::time::sleep(self.failure_delay).await;
    }

    /// The hash that matches, if any; `None` when the process is ending.
    async fn verify(&self, password: String, hashes: Vec<String>) -> Option<Option<String>> {
        // The permit goes with the work: a client that leaves frees nothing before it is done.
        let permit = Arc::clone(&self.hashing).acquire_owned().await.ok()?;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hashes.into_iter().find(|hash| password::is_match(&password, hash))
        });
        work.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use domains::{AtHome, Logins, Table};

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

    fn hash(password: &str) -> String {
        Argon2::default().hash_password(password.as_bytes()).unwrap().to_string()
    }

    fn own(password: &str) -> Hashes {
        Hashes::Own(vec![hash(password)])
    }

    /// A table in which alice has two passwords, of unlike cost.
    fn table() -> (Table, [String; 2]) {
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        let cheap = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hashes = [hash("one"), cheap.hash_password(b"two").unwrap().to_string()];
        let text = format!(
            "
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {{ name: d, namespace: t }}
spec:
  domain: d.example
  inbound: {{ aliases: [{{ match: postmaster, to: [alice@d.example] }}] }}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {{ name: alice, namespace: t }}
spec:
  address: alice@d.example
  passwords: [{{ name: a, hash: \"{}\" }}, {{ name: b, hash: \"{}\" }}]
",
            hashes[0], hashes[1]
        );
        let declared = domains::yaml::parse("test.yaml", &text).unwrap();
        (Table::compile(&declared, &domains::Settings::default()).unwrap(), hashes)
    }

    #[tokio::test]
    async fn a_password_that_is_too_long_is_nobodys() {
        let authenticator = authenticator();
        for (octets, is_accepted) in [(PASSWORD_OCTETS_MAX, true), (PASSWORD_OCTETS_MAX + 1, false)]
        {
            let password = "p".repeat(octets);
            let credentials = Credentials::new("alice", &password);
            let verdict = authenticator.check(client(), &credentials, own(&password)).await;
            assert_eq!(matches!(verdict, Verdict::Accepted(_)), is_accepted, "{octets} octets");
        }
    }

    #[tokio::test]
    async fn right_wrong_unknown_and_blocked() {
        let authenticator = authenticator();
        let right = Credentials::new("alice", "secret");
        let wrong = Credentials::new("alice", "guess");
        let check = |credentials, hashes| authenticator.check(client(), credentials, hashes);
        let secret = hash("secret");
        let mine = Hashes::Own(vec![hash("other"), secret.clone()]);
        assert_eq!(check(&right, mine).await, Verdict::Accepted(secret.clone()));
        assert_eq!(check(&wrong, own("secret")).await, Verdict::Rejected);
        assert_eq!(check(&right, Hashes::StandIn(vec![secret])).await, Verdict::Rejected);
        let none = Hashes::Own(vec!["no hash".to_owned()]);
        assert_eq!(check(&right, none).await, Verdict::Rejected);
        assert_eq!(check(&right, own("secret")).await, Verdict::Blocked);
    }

    /// All passwords of somebody are tried for nobody, whatever each of them costs.
    #[tokio::test]
    async fn unknown_users_are_as_much_work() {
        let (table, hashes) = table();
        let (table, empty) = (Arc::new(table), Arc::new(Table::default()));
        let of = async |table, login| Hashes::of(&AtHome.find(table, login).await.unwrap());
        for login in ["nobody@d.example", "zoe@d.example", "x", "", "Alice@elsewhere.example"] {
            let Hashes::StandIn(stand_in) = of(&table, login).await else { panic!("{login}") };
            assert_eq!(stand_in, hashes, "{login}");
        }
        let Hashes::Own(own) = of(&table, "ALICE@d.example").await else { panic!("unknown") };
        assert_eq!(own, hashes);
        let Hashes::StandIn(nobody) = of(&empty, "x").await else { panic!("known") };
        assert_eq!(nobody.len(), 1);
    }

    #[tokio::test]
    async fn unknown_users_take_as_long() {
        let authenticator = Authenticator::new(&AuthConfig {
            failure_delay_seconds: 0,
            failures_per_client_max: 1000,
            ..AuthConfig::default()
        });
        let wrong = Credentials::new("x", "guess");
        let (known, nobody) = (own("secret"), Hashes::StandIn(NOBODY.clone()));
        let mut spent = [Duration::ZERO; 2];
        for _ in 0..5 {
            for (spent, hashes) in spent.iter_mut().zip([known.clone(), nobody.clone()]) {
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
        let secret = hash("secret");
        let hashes = Hashes::Own(vec![secret.clone()]);
        let first = authenticator.check(client(), &credentials, hashes.clone());
        let second = authenticator.check(client(), &credentials, hashes);
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (Verdict::Accepted(secret), Verdict::Busy));
    }
}
