//! Secrets in records: sealed by the writer, which cannot open them, for those who have the class's
//! private key (HPKE, RFC 9180, base mode: X25519, HKDF-SHA256, AES-256-GCM).
//!
//! The class and the record's key are authenticated with the secret: put into another record it
//! does not open. Sealing keeps readers out; it does not tell who sealed, for public keys are no
//! secret: who may write the bucket may replace a secret, as one who may write a Mailbox may.
//!
//! Sealed twice, a secret gives two texts, so the writer cannot compare them. It compares a sum
//! under a key of its own (HMAC-SHA256 over class, record and secret), kept beside the text: who
//! lacks the key learns from it only when a record has a secret again that it had before. A plain
//! digest would let anybody try guesses, if a secret was ever one that can be guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke};
use serde::{Deserialize, Serialize};

use crate::class::Class;
use crate::key::{KeyError, PrivateKey, PublicKey, read_compare_key};

const INFO: &[u8] = b"postrider domain table";
/// Of an X25519 public key, which precedes the sealed text.
const ENCAPSULATED_OCTETS: usize = 32;
const SUM_OCTETS: usize = 16;

/// A secret of a record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Sealed {
    /// The id of the key it was sealed to.
    key: String,
    /// By which the writer sees that the secret is the same.
    sum: String,
    text: String,
}

/// Seals, and opens nothing.
pub struct Sealer {
    keys: BTreeMap<Class, PublicKey>,
    compare: hmac::Key,
}

/// Opens what is sealed to the private keys it has.
#[derive(Debug, Default)]
pub struct Opener {
    keys: Vec<PrivateKey>,
}

/// Why a secret was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "there are secrets of class {0} and no key to seal them to: make keys with `postrider \
         domain keys DIR` and name {0}.pub in secrets.publicKeys, compare.key in secrets.compareKey"
    )]
    NoKey(Class),
    #[error("a secret of class {0} cannot be sealed")]
    Failed(Class, #[source] rustls::Error),
}

/// Why a secret is not opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    #[error("key {id} of class {class} is missing: add its file to secrets.privateKeys")]
    NoKey { class: Class, id: String },
    #[error("a secret of class {0} is not what was sealed for its record")]
    Damaged(Class),
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Sealer {
    /// # Errors
    /// A file that holds no such key, a second one of a class, or none to compare by.
    pub fn load(public: &[PathBuf], compare: Option<&Path>) -> Result<Self, KeyError> {
        let mut keys = BTreeMap::new();
        for path in public {
            let key = PublicKey::read(path)?;
            let class = key.class;
            if keys.insert(class, key).is_some() {
                return Err(KeyError::Twice { path: path.clone(), class });
            }
        }
        let compare = match compare {
            Some(compare) => read_compare_key(compare)?,
            None if keys.is_empty() => {
                hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>())
            }
            None => return Err(KeyError::NoCompare),
        };
        Ok(Self { keys, compare })
    }

    /// The id of the key of each class.
    pub(crate) fn ids(&self) -> BTreeMap<Class, String> {
        self.keys.iter().map(|(class, key)| (*class, key.id())).collect()
    }

    /// Whether there is a key to seal secrets of a class to.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self, class: Class) -> Result<(), SealError> {
        self.key(class).map(drop)
    }

    fn key(&self, class: Class) -> Result<&PublicKey, SealError> {
        self.keys.get(&class).ok_or(SealError::NoKey(class))
    }

    pub(crate) fn seal(
        &self,
        class: Class,
        record: &str,
        secret: &[u8],
    ) -> Result<Sealed, SealError> {
        let key = self.key(class)?;
        let sealed = SUITE.seal(INFO, &bound(class, record), secret, &key.key);
        let (EncapsulatedSecret(mut text), sealed) =
            sealed.map_err(|error| SealError::Failed(class, error))?;
        text.extend(sealed);
        Ok(Sealed {
            key: key.id(),
            sum: self.sum(class, record, secret),
            text: STANDARD_NO_PAD.encode(text),
        })
    }

    /// Whether it is what [`Sealer::seal`] would make, but for chance.
    pub(crate) fn is_current(
        &self,
        class: Class,
        record: &str,
        secret: &[u8],
        sealed: &Sealed,
    ) -> bool {
        let is_key = self.keys.get(&class).is_some_and(|key| key.id() == sealed.key);
        is_key && self.sum(class, record, secret) == sealed.sum
    }

    fn sum(&self, class: Class, record: &str, secret: &[u8]) -> String {
        let bound = bound(class, record);
        let mut sum = hmac::Context::with_key(&self.compare);
        sum.update(&(bound.len() as u64).to_be_bytes());
        sum.update(&bound);
        sum.update(secret);
        STANDARD_NO_PAD.encode(&sum.sign().as_ref()[..SUM_OCTETS])
    }
}

impl Opener {
    /// # Errors
    /// A file that holds no private key.
    pub fn load(files: &[PathBuf]) -> Result<Self, KeyError> {
        let keys = files.iter().map(|path| PrivateKey::read(path)).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// Whether it has a key of the class, this one if an id is given.
    ///
    /// # Errors
    /// Which key is missing.
    pub(crate) fn check(&self, class: Class, id: &str) -> Result<(), OpenError> {
        self.key(class, id).map(drop)
    }

    fn key(&self, class: Class, id: &str) -> Result<&PrivateKey, OpenError> {
        let found = self.keys.iter().find(|key| key.class == class && key.id == id);
        found.ok_or_else(|| OpenError::NoKey { class, id: id.to_owned() })
    }

    pub(crate) fn open(
        &self,
        class: Class,
        record: &str,
        sealed: &Sealed,
    ) -> Result<Vec<u8>, OpenError> {
        let key = self.key(class, &sealed.key)?;
        let text = STANDARD_NO_PAD.decode(&sealed.text).unwrap_or_default();
        let (encapsulated, text) =
            text.split_at_checked(ENCAPSULATED_OCTETS).ok_or(OpenError::Damaged(class))?;
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        let opened = SUITE.open(&encapsulated, INFO, &bound(class, record), text, &key.key);
        opened.map_err(|_| OpenError::Damaged(class))
    }
}

/// What a secret is bound to. The record's key has no zero octet.
fn bound(class: Class, record: &str) -> Vec<u8> {
    [class.name(), "\0", record].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::key::{Pair, make_compare_key};

    struct Keys {
        dir: PathBuf,
    }

    impl Keys {
        fn make(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("seal-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            for class in Class::ALL {
                let pair = Pair::make(class).unwrap();
                fs::write(dir.join(format!("{class}.pub")), pair.public).unwrap();
                fs::write(dir.join(format!("{class}.key")), pair.private).unwrap();
            }
            fs::write(dir.join("compare.key"), make_compare_key()).unwrap();
            Self { dir }
        }

        fn sealer(&self) -> Sealer {
            let public = Class::ALL.map(|class| self.dir.join(format!("{class}.pub")));
            Sealer::load(&public, Some(&self.dir.join("compare.key"))).unwrap()
        }

        fn opener(&self, classes: &[Class]) -> Opener {
            let file = |class: &Class| self.dir.join(format!("{class}.key"));
            Opener::load(&classes.iter().map(file).collect::<Vec<_>>()).unwrap()
        }
    }

    impl Drop for Keys {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn a_class_opens_its_own_and_in_its_record_only() {
        let keys = Keys::make("class");
        let sealer = keys.sealer();
        for class in Class::ALL {
            let sealed = sealer.seal(class, "e.a.b", b"secret").unwrap();
            assert!(!sealed.text.contains("secret"));
            for other in Class::ALL {
                let opened = keys.opener(&[other]).open(class, "e.a.b", &sealed);
                assert_eq!(opened.is_ok(), other == class, "{class} by {other}");
            }
            let all = keys.opener(&Class::ALL);
            assert_eq!(all.open(class, "e.a.b", &sealed).unwrap(), b"secret");
            let damaged = Err(OpenError::Damaged(class));
            assert_eq!(all.open(class, "e.a.c", &sealed), damaged, "of another record");
            let cut = Sealed { text: sealed.text[..20].to_owned(), ..sealed };
            assert_eq!(all.open(class, "e.a.b", &cut), damaged);
        }
        let sealed = sealer.seal(Class::Passwords, "e.a.b", b"secret").unwrap();
        let error = keys.opener(&[Class::Tls]).open(Class::Passwords, "e.a.b", &sealed);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&sealed.key) && error.contains("passwords"), "{error}");
    }

    #[test]
    fn the_same_secret_is_seen_without_opening() {
        let (keys, newer) = (Keys::make("same"), Keys::make("newer"));
        let sealer = keys.sealer();
        let of = |sealer: &Sealer| sealer.seal(Class::Passwords, "e.a.b", b"secret").unwrap();
        let (one, two) = (of(&sealer), of(&sealer));
        assert_ne!(one.text, two.text);
        let is_current = |sealer: &Sealer, record, secret: &[u8]| {
            sealer.is_current(Class::Passwords, record, secret, &one)
        };
        assert!(is_current(&sealer, "e.a.b", b"secret"));
        assert!(!is_current(&sealer, "e.a.b", b"another"));
        assert!(!is_current(&sealer, "e.a.c", b"secret"));
        assert!(!is_current(&newer.sealer(), "e.a.b", b"secret"), "the key is another");
        let both = [keys.dir.join("passwords.key"), newer.dir.join("passwords.key")];
        let both = Opener::load(&both).unwrap();
        for sealed in [one, of(&newer.sealer())] {
            assert_eq!(both.open(Class::Passwords, "e.a.b", &sealed).unwrap(), b"secret");
        }
    }

    #[test]
    fn files_are_told_apart() {
        let keys = Keys::make("files");
        let file = |name: &str| keys.dir.join(name);
        let private = Opener::load(&[file("tls.pub")]).unwrap_err().to_string();
        assert!(private.contains("tls.pub holds no private key"), "{private}");
        let load = |public: &[&str], compare: &str| {
            let public: Vec<PathBuf> = public.iter().map(|name| file(name)).collect();
            Sealer::load(&public, Some(&file(compare))).map(drop).unwrap_err().to_string()
        };
        let public = load(&["tls.key"], "compare.key");
        assert!(public.contains("tls.key holds no public key"), "{public}");
        assert!(load(&["tls.pub", "tls.pub"], "compare.key").contains("another key of class tls"));
        assert!(load(&[], "tls.key").contains("no compare key"));
        assert!(load(&[], "none").contains("cannot read"));
        let sealer = Sealer::load(&[file("tls.pub")], Some(&file("compare.key"))).unwrap();
        assert!(sealer.seal(Class::Passwords, "e", b"x").is_err());
        assert!(Sealer::load(&[file("tls.pub")], None).is_err());
        assert!(Sealer::load(&[], None).unwrap().check(Class::Passwords).is_err());
    }
}
