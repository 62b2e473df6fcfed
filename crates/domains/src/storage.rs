//! Where a mailbox's mail is kept, and how much of it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use aws_lc_rs::digest;
use mail_types::{Domain, Mailbox};
use serde::{Deserialize, Serialize};

use crate::identity::name;
use crate::table::{Declaration, Entry, Table, Target};

/// Octets of each half of an id: too many for anybody to find another address with the same ones.
pub(crate) const HALF: usize = 16;

/// Names the directory of a mailbox: no part of an address is ever a path.
///
/// 64 hexadecimal digits. The first half stands for the address that the mailbox had when it was
/// made, the second for the domain of that address: by it an id that somebody gives is known to be
/// one of his own domains', and nobody comes by another's mail by naming its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorageId {
    mailbox: [u8; HALF],
    domain: [u8; HALF],
}

/// A text that is no [`StorageId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a storage id is 64 of 0-9 and a-f")]
pub struct StorageIdError;

impl StorageId {
    /// Of a mailbox that nobody gave one: needs no memory, and is the same everywhere.
    pub fn of(address: &Mailbox) -> Option<Self> {
        Some(Self::derived(&name(address.local_part()), address.domain()?))
    }

    /// `name` is the local part as it is compared.
    pub(crate) fn derived(name: &str, domain: &Domain) -> Self {
        let domain = domain.as_str();
        Self { mailbox: half(&format!("{name}@{domain}")), domain: half(domain) }
    }

    /// The second half of the ids of a domain's mailboxes.
    pub(crate) fn half_of(domain: &Domain) -> [u8; HALF] {
        half(domain.as_str())
    }

    pub(crate) fn domain_half(&self) -> [u8; HALF] {
        self.domain
    }

    /// The mailbox's directory below that of all Maildirs, for whoever writes or reads there: the
    /// id, below its first two digits, so that no directory has a million of them.
    pub fn directory(&self) -> PathBuf {
        let name = self.to_string();
        [&name[..2], &name].iter().collect()
    }
}

/// The first half of a SHA-256.
pub(crate) fn half(text: &str) -> [u8; HALF] {
    let sum = digest::digest(&digest::SHA256, text.as_bytes());
    let mut half = [0; HALF];
    half.copy_from_slice(&sum.as_ref()[..HALF]);
    half
}

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mailbox.iter().chain(&self.domain).try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StorageId {
    type Err = StorageIdError;

    /// Takes what `Display` writes and nothing else: an id has one spelling.
    fn from_str(text: &str) -> Result<Self, StorageIdError> {
        let digits = text.as_bytes();
        if digits.len() != 4 * HALF {
            return Err(StorageIdError);
        }
        let mut octets = [0; 2 * HALF];
        for (octet, pair) in octets.iter_mut().zip(digits.chunks_exact(2)) {
            *octet = (digit(pair[0])? << 4) | digit(pair[1])?;
        }
        let mut id = Self { mailbox: [0; HALF], domain: [0; HALF] };
        id.mailbox.copy_from_slice(&octets[..HALF]);
        id.domain.copy_from_slice(&octets[HALF..]);
        Ok(id)
    }
}

fn digit(digit: u8) -> Result<u8, StorageIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(StorageIdError),
    }
}

impl TryFrom<String> for StorageId {
    type Error = StorageIdError;

    fn try_from(text: String) -> Result<Self, StorageIdError> {
        text.parse()
    }
}

impl From<StorageId> for String {
    fn from(id: StorageId) -> Self {
        id.to_string()
    }
}

/// What mail for a full mailbox is answered at RCPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnFull {
    /// `452 4.2.2`: the sender's server tries again, for days.
    #[default]
    Defer,
    /// `552 5.2.2`: the sender hears of it at once.
    Reject,
}

/// How much mail a mailbox may hold, as somebody declares it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Quota {
    /// Octets, 65536 to 2^50; without it any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
}

impl Quota {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What was declared of how one mailbox's mail is kept: of most, nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Keeping {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_id: Option<StorageId>,
    #[serde(skip_serializing_if = "Quota::is_nothing")]
    pub quota: Quota,
}

impl Keeping {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// How a mailbox's mail is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Storage {
    pub id: StorageId,
    /// Octets at which it is full; `None` when it never is.
    pub quota_bytes: Option<u64>,
    pub on_full: OnFull,
}

impl Storage {
    /// Whether no more mail is to be accepted for it, when it holds so many octets.
    pub fn is_full(&self, used_bytes: u64) -> bool {
        self.quota_bytes.is_some_and(|quota| used_bytes >= quota)
    }

    /// Whether a message that *was* accepted is stored in it. Who asked at RCPT was told that there
    /// is room; so one message may go beyond the quota, however large, and what was on its way
    /// meanwhile by a tenth.
    pub fn admits(&self, used_bytes: u64, size_bytes: u64) -> bool {
        let Some(quota) = self.quota_bytes else { return true };
        used_bytes < quota
            || used_bytes.saturating_add(size_bytes) <= quota.saturating_add(quota / 10)
    }
}

impl Table {
    /// How the mail of a mailbox is kept, by its address or a sub-address. An alias keeps none.
    pub fn storage(&self, address: &Mailbox) -> Option<Storage> {
        let domain = self.canonical(address.domain()?);
        let declaration = self.domain(domain)?;
        let (name, entry) = declaration.entry(&name(address.local_part()))?;
        declaration.storage(domain, name, entry)
    }

    /// The mailbox that an address or a sub-address is of, by its own address, whether or not it
    /// takes mail, and how its mail is kept.
    pub fn stored(&self, address: &Mailbox) -> Option<(Mailbox, Storage)> {
        let own = match self.named(address.local_part(), address.domain()?)? {
            Target::Mailbox(own) | Target::SendOnly(own) => own,
            Target::Alias(_) | Target::Recipient => return None,
        };
        let storage = self.storage(&own)?;
        Some((own, storage))
    }

    /// Every mailbox that may be full one day, by its own address.
    pub fn mailboxes_with_quota(&self) -> impl Iterator<Item = (Mailbox, Storage)> + '_ {
        self.domains.iter().flat_map(|(domain, declaration)| {
            declaration.entries.iter().filter_map(|(name, entry)| {
                let Some(Target::Mailbox(address)) = entry.target(name, domain) else {
                    return None;
                };
                declaration.quota_of(entry).bytes?;
                Some((address, declaration.storage(domain, name, entry)?))
            })
        })
    }
}

impl Declaration {
    fn storage(&self, domain: &Domain, name: &str, entry: &Entry) -> Option<Storage> {
        let given = entry.keeping()?.storage_id;
        let quota = self.quota_of(entry);
        Some(Storage {
            id: given.unwrap_or_else(|| StorageId::derived(name, domain)),
            quota_bytes: quota.bytes,
            on_full: quota.on_full.unwrap_or_default(),
        })
    }

    /// What the mailbox itself says, or else its domain.
    fn quota_of(&self, entry: &Entry) -> Quota {
        let own = entry.keeping().unwrap_or_default().quota;
        Quota { bytes: own.bytes.or(self.quota.bytes), on_full: own.on_full.or(self.quota.on_full) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(address: &str) -> StorageId {
        StorageId::of(&address.parse().unwrap()).unwrap()
    }

    /// What mail was stored under once is never to change.
    #[test]
    fn ids_stay_what_they_are() {
        // `printf alice@example.org | sha256sum`, and of the domain: 32 digits of each.
        let alice = "7a64adf28737ea90719cbdf0b1a87a5ebfabc37432958b063360d3ad6461c9c4";
        assert_eq!(id("alice@example.org").to_string(), alice);
        assert_eq!(id("ALICE@Example.ORG"), id("alice@example.org"));
        assert_eq!(id("\"alice\"@example.org"), id("alice@example.org"));
        assert_ne!(id("alice@example.org"), id("bob@example.org"));
        assert_ne!(id("alice@example.org"), id("alice@example.net"));
        assert_eq!(id("a@b.example").domain_half(), id("c@b.example").domain_half());
        assert_eq!(StorageId::of(&"a@[192.0.2.1]".parse().unwrap()), None);
    }

    #[test]
    fn a_directory_is_an_id_below_its_first_digits() {
        let id = id("\"../../x\"@a.example");
        let text = id.to_string();
        assert_eq!(id.directory(), PathBuf::from(format!("{}/{text}", &text[..2])));
    }

    #[test]
    fn ids_have_one_spelling() {
        let text = id("alice@example.org").to_string();
        assert_eq!(text.parse(), Ok(id("alice@example.org")));
        let json = format!("{text:?}");
        assert_eq!(serde_saphyr::from_str::<StorageId>(&json).unwrap().to_string(), text);
        for wrong in [
            String::new(),
            text[1..].to_owned(),
            format!("{text}0"),
            text.to_uppercase(),
            format!("/{}", &text[1..]),
            format!("..{}", &text[2..]),
            format!(" {}", &text[1..]),
            format!("\u{e9}{}", &text[2..]),
        ] {
            assert_eq!(wrong.parse::<StorageId>(), Err(StorageIdError), "{wrong}");
        }
    }

    #[test]
    fn room_for_what_was_accepted() {
        let storage = Storage {
            id: id("alice@example.org"),
            quota_bytes: Some(1000),
            on_full: OnFull::Defer,
        };
        for (used, size, is_full, admits) in [
            (0, 0, false, true),
            (0, 5000, false, true),
            (999, 5000, false, true),
            (1000, 100, true, true),
            (1000, 101, true, false),
            (1100, 0, true, true),
            (1101, 0, true, false),
            (u64::MAX, u64::MAX, true, false),
        ] {
            assert_eq!(storage.is_full(used), is_full, "{used}");
            assert_eq!(storage.admits(used, size), admits, "{used} {size}");
        }
        let boundless = Storage { quota_bytes: None, ..storage };
        assert!(!boundless.is_full(u64::MAX) && boundless.admits(u64::MAX, u64::MAX));
    }

    proptest! {
        /// Whatever the address, its directory is two names of hexadecimal digits.
        #[test]
        fn no_part_of_an_address_is_a_path(text in "\\PC{0,20}", plain in "[./~%a-c]{1,8}") {
            for local_part in [&text, &plain] {
                let quoted = local_part.replace('\\', "\\\\").replace('"', "\\\"");
                let Ok(address) = format!("\"{quoted}\"@a.example").parse() else { continue };
                let directory = StorageId::of(&address).unwrap().directory();
                let parts: Vec<_> = directory.iter().map(|part| part.to_str().unwrap()).collect();
                prop_assert_eq!((parts.len(), parts[0].len(), parts[1].len()), (2, 2, 64));
                prop_assert!(parts.concat().bytes().all(|b| b.is_ascii_hexdigit()));
            }
        }

        #[test]
        fn ids_are_read_as_they_are_written(octets in proptest::array::uniform32(any::<u8>())) {
            let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            let id: StorageId = text.parse().unwrap();
            prop_assert_eq!(id.to_string(), text);
        }

        /// Growth by messages that were accepted while there was room ends by itself.
        #[test]
        fn use_is_bounded(quota in 65_536u64..1 << 40, sizes in
            proptest::collection::vec(1u64..1 << 30, 0..50))
        {
            let id = id("alice@example.org");
            let storage = Storage { id, quota_bytes: Some(quota), on_full: OnFull::Reject };
            let mut used = 0;
            for size in &sizes {
                if storage.admits(used, *size) {
                    used += size;
                }
            }
            let largest = sizes.iter().max().copied().unwrap_or_default();
            prop_assert!(used <= (quota + largest).max(quota + quota / 10));
        }
    }
}
