//! SCRAM-SHA-256 (RFC 5802, RFC 7677): a login in which the password does not travel.
//!
//! ```text
//! n,,n=alice@d.test,r=CLIENTNONCE    client ──▶  Begun::parse
//! r=CLIENTNONCE…,s=SALT,i=4096       client ◀──  Exchange::challenge
//! c=biws,r=CLIENTNONCE…,p=PROOF      client ──▶  Exchange::finish
//! v=SIGNATURE                        client ◀──
//! ```
//!
//! What is kept of a password lets nobody in: it tells whether a proof is good, and proves to the
//! client that it does. Written as Dovecot does:
//! `{SCRAM-SHA-256}ITERATIONS,SALT,STOREDKEY,SERVERKEY`, the last three in base64. Passwords are
//! taken as they are, without the normalisation of RFC 4013, which leaves those of ASCII alone.
//! Channel binding is not offered.
//!
//! A login that nobody has, or that has no such keys, gets a salt all the same, always the same
//! one: it is made of a secret of the login's own, or of somebody else's.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The scheme's name in Dovecot, and the mechanism's (RFC 7677 §4).
pub(crate) const LABEL: &str = "SCRAM-SHA-256";
/// RFC 7677 §4.
const ITERATIONS_MIN: u32 = 4096;
/// What checking one password may take, where it comes by another mechanism.
const ITERATIONS_MAX: u32 = 1_000_000;
/// What new keys have: some 50 ms of a client's time.
const ITERATIONS: u32 = 100_000;
const SALT_OCTETS: usize = 16;
const SALT_OCTETS_MAX: usize = 64;
const KEY_OCTETS: usize = digest::SHA256_OUTPUT_LEN;
/// Of what a client says; beyond it is none of RFC 5802.
const NONCE_CHARS_MAX: usize = 256;

type Key = [u8; KEY_OCTETS];

/// What is kept of a password. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored: Key,
    server: Key,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Keys {
    /// Of a new password, with a salt that nobody had before.
    pub fn new(password: &str, salt: [u8; SALT_OCTETS]) -> Self {
        Self::derive(password, NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN), &salt)
    }

    /// RFC 5802 §3.
    fn derive(password: &str, iterations: NonZeroU32, salt: &[u8]) -> Self {
        let mut salted = [0; KEY_OCTETS];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        let client = mac(&salted, b"Client Key");
        Self {
            iterations,
            salt: salt.to_vec(),
            stored: sha256(&client),
            server: mac(&salted, b"Server Key"),
        }
    }

    /// Reads what stands behind `{SCRAM-SHA-256}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(',').collect();
        let [iterations, salt, stored, server] = fields[..] else {
            return Err("is not ITERATIONS,SALT,STOREDKEY,SERVERKEY".to_owned());
        };
        let is_number = iterations.bytes().all(|b| b.is_ascii_digit());
        let iterations = iterations.parse().ok().filter(|n: &NonZeroU32| {
            is_number && (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&n.get())
        });
        let wanted = format!("has not {ITERATIONS_MIN} to {ITERATIONS_MAX} iterations");
        let iterations = iterations.ok_or(wanted)?;
        let salt =
            STANDARD.decode(salt).ok().filter(|it| (1..=SALT_OCTETS_MAX).contains(&it.len()));
        let salt = salt.ok_or("has no salt of 1 to 64 octets in base64")?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        let keys = key(stored).zip(key(server));
        let (stored, server) = keys.ok_or("has keys that are not 32 octets in base64")?;
        Ok(Self { iterations, salt, stored, server })
    }

    /// Whether they are of this password.
    pub(crate) fn are_of(&self, password: &str) -> bool {
        let other = Self::derive(password, self.iterations, &self.salt);
        constant_time::verify_slices_are_equal(&self.stored, &other.stored).is_ok()
    }

    /// Those of nobody: they look like the keys of `secret`'s owner, and no proof is good.
    fn fake(login: &str, secret: &str, like: Option<&Self>) -> Self {
        let salt = mac(secret.as_bytes(), login.to_ascii_lowercase().as_bytes());
        let octets = like.map_or(SALT_OCTETS, |keys| keys.salt.len()).min(KEY_OCTETS);
        let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
        Self {
            iterations: like.map_or(iterations, |keys| keys.iterations),
            salt: salt[..octets].to_vec(),
            // The hash of no key that anybody knows.
            stored: mac(secret.as_bytes(), b"the stored key of nobody"),
            server: salt,
        }
    }
}

impl fmt::Display for Keys {
    /// As they are kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored, &self.server].map(|octets| STANDARD.encode(octets));
        write!(f, "{{{LABEL}}}{},{salt},{stored},{server}", self.iterations)
    }
}

/// What a client says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    /// Who it says it is.
    pub login: String,
    nonce: String,
    /// What the proof is about.
    bare: String,
    gs2_header: String,
}

/// A message that is none of RFC 5802, or asks for what is not offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScramError {
    #[error("not a message of SCRAM")]
    Syntax,
    #[error("channel binding is not offered")]
    ChannelBinding,
    #[error("nobody may act for another")]
    Authzid,
    /// Whoever says it does not have the password.
    #[error("the proof is wrong")]
    Proof,
}

impl Begun {
    /// Reads `client-first-message` (RFC 5802 §7).
    ///
    /// # Errors
    /// It is none, or asks for what is not offered.
    pub fn parse(message: &str) -> Result<Self, ScramError> {
        let (binding, rest) = message.split_once(',').ok_or(ScramError::Syntax)?;
        match binding {
            "n" | "y" => {}
            _ if binding.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Syntax),
        }
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Syntax)?;
        let mut fields = bare.split(',');
        let login = fields.next().and_then(|field| name(field.strip_prefix("n=")?));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let (login, nonce) = login.zip(nonce).ok_or(ScramError::Syntax)?;
        if login.is_empty() || !is_nonce(nonce) {
            return Err(ScramError::Syntax);
        }
        match authzid.strip_prefix("a=") {
            Some(authzid) if name(authzid).as_deref() == Some(&*login) => {}
            Some(_) => return Err(ScramError::Authzid),
            None if authzid.is_empty() => {}
            None => return Err(ScramError::Syntax),
        }
        let gs2_header = message[..message.len() - bare.len()].to_owned();
        Ok(Self { login, nonce: nonce.to_owned(), bare: bare.to_owned(), gs2_header })
    }
}

/// `saslname` (RFC 5802 §7).
fn name(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut parts = text.split('=');
    name.push_str(parts.next()?);
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        name.push(match code {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.contains('\0')).then_some(name)
}

fn is_nonce(text: &str) -> bool {
    let printable = |b: u8| (0x21..=0x7e).contains(&b) && b != b',';
    (1..=NONCE_CHARS_MAX).contains(&text.len()) && text.bytes().all(printable)
}

/// A login under way.
#[derive(Debug)]
pub struct Exchange {
    keys: Keys,
    /// Of both sides.
    nonce: String,
    first: String,
    gs2_header: String,
    challenge: String,
}

impl Exchange {
    /// Goes on with what the client began. `nonce` is ours: printable, and new each time.
    pub fn new(begun: &Begun, keys: Keys, nonce: &str) -> Self {
        let nonce = format!("{}{nonce}", begun.nonce);
        let salt = STANDARD.encode(&keys.salt);
        let challenge = format!("r={nonce},s={salt},i={}", keys.iterations);
        let (first, gs2_header) = (begun.bare.clone(), begun.gs2_header.clone());
        Self { keys, nonce, first, gs2_header, challenge }
    }

    /// `server-first-message`.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Reads `client-final-message`. Returns `server-final-message`: the client has the password.
    ///
    /// # Errors
    /// It has not, or the message is none.
    pub fn finish(&self, message: &str) -> Result<String, ScramError> {
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Syntax)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c="));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let (binding, nonce) = binding.zip(nonce).ok_or(ScramError::Syntax)?;
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Syntax)?;
        let proof: Key = proof.try_into().map_err(|_| ScramError::Syntax)?;
        let is_ours = nonce == self.nonce && binding == STANDARD.encode(&self.gs2_header);
        let signed = format!("{},{},{without_proof}", self.first, self.challenge);
        let signature = mac(&self.keys.stored, signed.as_bytes());
        let client: Key = std::array::from_fn(|n| proof[n] ^ signature[n]);
        let is_good = constant_time::verify_slices_are_equal(&sha256(&client), &self.keys.stored);
        if is_good.is_err() || !is_ours {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", STANDARD.encode(mac(&self.keys.server, signed.as_bytes()))))
    }
}

/// The keys by which somebody with these hashes logs in, and which hash that is; or those of
/// nobody.
pub fn keys_of(login: &str, hashes: &[String], is_own: bool) -> (Keys, Option<String>) {
    let found = hashes.iter().find_map(|hash| Some((keys_in(hash)?, hash)));
    match found {
        Some((keys, hash)) if is_own => (keys, Some(hash.clone())),
        found => {
            let secret = hashes.first().map(String::as_str).unwrap_or_default();
            (Keys::fake(login, secret, found.as_ref().map(|(keys, _)| keys)), None)
        }
    }
}

/// Those that a hash of this scheme holds.
fn keys_in(hash: &str) -> Option<Keys> {
    let (label, keys) = hash.strip_prefix('{')?.split_once('}')?;
    label.eq_ignore_ascii_case(LABEL).then(|| Keys::parse(keys).ok()).flatten()
}

fn mac(key: &[u8], message: &[u8]) -> Key {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    octets(tag.as_ref())
}

fn sha256(message: &[u8]) -> Key {
    octets(digest::digest(&digest::SHA256, message).as_ref())
}

/// Sums of SHA-256 have so many.
fn octets(sum: &[u8]) -> Key {
    let mut key = [0; KEY_OCTETS];
    key.copy_from_slice(sum);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7677 §3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SIGNATURE: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn keys() -> Keys {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Keys::derive("pencil", NonZeroU32::new(4096).unwrap(), &salt)
    }

    fn exchange() -> Exchange {
        Exchange::new(&Begun::parse(FIRST).unwrap(), keys(), NONCE)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let exchange = exchange();
        assert_eq!(exchange.challenge(), CHALLENGE);
        assert_eq!(exchange.finish(FINAL).as_deref(), Ok(SIGNATURE));
        let kept = keys().to_string();
        assert!(kept.starts_with("{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,"), "{kept}");
        assert_eq!(keys_in(&kept), Some(keys()));
        assert!(keys().are_of("pencil") && !keys().are_of("pencils"));
        assert!(!format!("{:?}", exchange.keys).contains("W22"));
    }

    #[test]
    fn what_is_refused_at_first() {
        for (message, want) in [
            ("", ScramError::Syntax),
            ("n,,", ScramError::Syntax),
            ("n,n=user,r=abc", ScramError::Syntax),
            ("n,,n=,r=abc", ScramError::Syntax),
            ("n,,n=user,r=", ScramError::Syntax),
            ("n,,n=user", ScramError::Syntax),
            ("n,,r=abc,n=user", ScramError::Syntax),
            ("n,,m=ext,n=user,r=abc", ScramError::Syntax),
            ("n,,n=a=2Xb,r=abc", ScramError::Syntax),
            ("n,,n=a=2,r=abc", ScramError::Syntax),
            ("n,,n=a=ü,r=abc", ScramError::Syntax),
            ("n,,n=us\0er,r=abc", ScramError::Syntax),
            ("n,,n=user,r=a b", ScramError::Syntax),
            ("x,,n=user,r=abc", ScramError::Syntax),
            ("p=tls-exporter,,n=user,r=abc", ScramError::ChannelBinding),
            ("n,a=other,n=user,r=abc", ScramError::Authzid),
            ("n,other,n=user,r=abc", ScramError::Syntax),
        ] {
            assert_eq!(Begun::parse(message), Err(want), "{message:?}");
        }
        for (message, login) in [
            ("y,,n=user,r=abc", "user"),
            ("n,a=user,n=user,r=abc", "user"),
            ("n,,n=a=2Cb=3Dc,r=abc", "a,b=c"),
            ("n,,n=ü@d.test,r=abc,x=ext", "ü@d.test"),
        ] {
            assert_eq!(Begun::parse(message).unwrap().login, login, "{message:?}");
        }
        let long = format!("n,,n=user,r={}", "a".repeat(NONCE_CHARS_MAX + 1));
        assert_eq!(Begun::parse(&long), Err(ScramError::Syntax));
    }

    #[test]
    fn what_is_refused_at_last() {
        for (message, want) in [
            (String::new(), ScramError::Syntax),
            (FINAL.replace(",p=", ",q="), ScramError::Syntax),
            (FINAL.replace("p=dHzb", "p=!Hzb"), ScramError::Syntax),
            (FINAL.replace("ndVQ=", ""), ScramError::Syntax),
            (FINAL.replace("c=biws,", ""), ScramError::Syntax),
            (FINAL.replace("p=dHzb", "p=eHzb"), ScramError::Proof),
            (FINAL.replace("c=biws", "c=eSws"), ScramError::Proof),
            (FINAL.replace("hNlF$k0", "hNlF$k1"), ScramError::Proof),
            (FINAL.replace("r=rOpr", "r=sOpr"), ScramError::Proof),
        ] {
            assert_eq!(exchange().finish(&message), Err(want), "{message:?}");
        }
        // A proof is good for one nonce of ours only.
        let again = Exchange::new(&Begun::parse(FIRST).unwrap(), keys(), "another");
        assert_eq!(again.finish(FINAL), Err(ScramError::Proof));
    }

    #[test]
    fn what_is_kept_is_checked() {
        let kept = keys().to_string();
        let rest = kept.trim_start_matches("{SCRAM-SHA-256}4096,");
        let (salt, rest) = rest.split_once(',').unwrap();
        for (text, want) in [
            (String::new(), "is not ITERATIONS"),
            (format!("4096,{salt}"), "is not ITERATIONS"),
            (format!("4095,{salt},{rest}"), "has not 4096 to"),
            (format!("1000001,{salt},{rest}"), "has not 4096 to"),
            (format!("+4096,{salt},{rest}"), "has not 4096 to"),
            (format!("4096,,{rest}"), "has no salt"),
            (format!("4096,{salt}!,{rest}"), "has no salt"),
            (format!("4096,{},{rest}", STANDARD.encode([7; 65])), "has no salt"),
            (format!("4096,{salt},AAAA,AAAA"), "has keys that are not 32"),
        ] {
            let error = Keys::parse(&text).unwrap_err();
            assert!(error.starts_with(want), "{text}: {error}");
        }
    }

    /// Whom it is asked for cannot be told from who has other passwords, or does not exist.
    #[test]
    fn nobody_has_a_salt_that_stays() {
        let own = [keys().to_string()];
        let (real, hash) = keys_of("user", &own, true);
        assert_eq!((real, hash.as_ref()), (keys(), own.first()));
        let (nobody, none) = keys_of("nobody", &own, false);
        assert_eq!((nobody.iterations, nobody.salt.len(), none), (keys().iterations, 16, None));
        assert_eq!(nobody, keys_of("Nobody", &own, false).0);
        assert_ne!(nobody.salt, keys_of("nobody2", &own, false).0.salt);
        assert_ne!(nobody.salt, keys().salt);
        let other = ["$argon2id$…".to_owned()];
        let (without, none) = keys_of("user", &other, true);
        assert_eq!((without.salt.len(), none), (SALT_OCTETS, None));
        assert!(keys_of("user", &[], true).1.is_none());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(first in ".{0,60}", last in ".{0,60}") {
            let _ = Begun::parse(&first);
            let _ = exchange().finish(&last);
            let _ = Keys::parse(&last);
            let longer = format!("{FINAL}{last}x");
            prop_assert!(exchange().finish(&longer).is_err());
        }

        /// Any name and nonce, written as RFC 5802 says, are read as they are.
        #[test]
        fn names_are_read_back(login in "[^\0]{1,30}", nonce in "[!-+\\-.-~]{1,40}") {
            let escaped = login.replace('=', "=3D").replace(',', "=2C");
            let begun = Begun::parse(&format!("n,,n={escaped},r={nonce}")).unwrap();
            prop_assert_eq!((begun.login, begun.nonce), (login, nonce));
        }
    }
}
