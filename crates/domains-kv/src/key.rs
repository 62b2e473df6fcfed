//! Keys of classes, and the files that they are in.
//!
//! ```text
//! postrider-public-key  passwords PUBLIC            the writer's
//! postrider-private-key passwords PUBLIC PRIVATE    of the roles that need the class
//! postrider-compare-key COMPARE                     the writer's
//! ```
//! Each is one line, octets in base64.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{Hpke, HpkePrivateKey, HpkePublicKey};

use crate::class::Class;

const PUBLIC: &str = "postrider-public-key";
const PRIVATE: &str = "postrider-private-key";
const COMPARE: &str = "postrider-compare-key";
const COMPARE_OCTETS: usize = 32;

/// A file that holds no such key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no {kind} key: make one with `postrider domain keys`", path.display())]
    Form { path: PathBuf, kind: &'static str },
    #[error("{} is another key of class {class}: name one", path.display())]
    Twice { path: PathBuf, class: Class },
    #[error(
        "publicKeys are set and compareKey is not: name a compare.key of `postrider domain keys`"
    )]
    NoCompare,
    #[error("no key can be made")]
    Make(#[source] rustls::Error),
}

/// To it secrets of a class are sealed.
#[derive(Clone, Debug)]
pub(crate) struct PublicKey {
    pub(crate) class: Class,
    pub(crate) key: HpkePublicKey,
}

/// It opens them.
pub(crate) struct PrivateKey {
    pub(crate) class: Class,
    pub(crate) id: String,
    pub(crate) key: HpkePrivateKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} {})", self.class, self.id)
    }
}

/// A new pair, as the texts of its files.
pub struct Pair {
    pub id: String,
    pub public: String,
    pub private: String,
}

impl Pair {
    /// # Errors
    /// There is no randomness.
    pub fn make(class: Class) -> Result<Self, KeyError> {
        let (public, private) = SUITE.generate_key_pair().map_err(KeyError::Make)?;
        let id = id(class, &public.0);
        let encode = |octets: &[u8]| STANDARD.encode(octets);
        let (public, private) = (encode(&public.0), encode(private.secret_bytes()));
        Ok(Self {
            id,
            private: format!("{PRIVATE} {class} {public} {private}\n"),
            public: format!("{PUBLIC} {class} {public}\n"),
        })
    }
}

/// The text of the file with the public key, from that of the file with the private one.
pub fn public_of(private: &str) -> Option<String> {
    match *private.split_whitespace().collect::<Vec<_>>() {
        [PRIVATE, class, public, _] => Some(format!("{PUBLIC} {class} {public}\n")),
        _ => None,
    }
}

/// The text of a new file with the key by which the writer tells whether secrets have changed.
pub fn make_compare_key() -> String {
    format!("{COMPARE} {}\n", STANDARD.encode(rand::random::<[u8; COMPARE_OCTETS]>()))
}

impl PublicKey {
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        let parse = || match *text.split_whitespace().collect::<Vec<_>>() {
            [PUBLIC, class, key] => {
                let key = HpkePublicKey(STANDARD.decode(key).ok()?);
                Some(Self { class: class.parse().ok()?, key })
            }
            _ => None,
        };
        // One that nothing can be sealed to is none.
        let usable = |found: &Self| SUITE.setup_sealer(b"", &found.key).is_ok();
        let wrong = || KeyError::Form { path: path.to_owned(), kind: "public" };
        parse().filter(usable).ok_or_else(wrong)
    }

    pub(crate) fn id(&self) -> String {
        id(self.class, &self.key.0)
    }
}

impl PrivateKey {
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        let parse = || match *text.split_whitespace().collect::<Vec<_>>() {
            [PRIVATE, class, public, private] => {
                let (public, private) =
                    (STANDARD.decode(public).ok()?, STANDARD.decode(private).ok()?);
                let class = class.parse().ok()?;
                Some(Self { class, id: id(class, &public), key: private.into() })
            }
            _ => None,
        };
        parse().ok_or_else(|| KeyError::Form { path: path.to_owned(), kind: "private" })
    }
}

pub(crate) fn read_compare_key(path: &Path) -> Result<hmac::Key, KeyError> {
    let text = read(path)?;
    let parse = || match *text.split_whitespace().collect::<Vec<_>>() {
        [COMPARE, key] => STANDARD.decode(key).ok().filter(|key| key.len() == COMPARE_OCTETS),
        _ => None,
    };
    let wrong = || KeyError::Form { path: path.to_owned(), kind: "compare" };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &parse().ok_or_else(wrong)?))
}

fn read(path: &Path) -> Result<String, KeyError> {
    std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

/// Names a key in records.
fn id(class: Class, public: &[u8]) -> String {
    let sum = digest::digest(&digest::SHA256, &[class.name().as_bytes(), b"\0", public].concat());
    sum.as_ref().iter().take(8).map(|octet| format!("{octet:02x}")).collect()
}
