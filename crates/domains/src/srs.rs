//! The Sender Rewriting Scheme: how the bounce of a forwarded message finds its way back.
//!
//! Who forwards mail under its sender's reverse-path speaks for a domain whose SPF record does not
//! name him. Forwarded mail therefore leaves under a reverse-path of the forwarding domain, which
//! says whom it stands for:
//!
//! ```text
//! alice@there.test        SRS0=HASH=DAY=there.test=alice@here.test
//! SRS0=rest@first.test    SRS1=HASH=first.test==rest@here.test
//! ```
//!
//! The second form is for mail that was forwarded before: its bounce goes straight to whoever did
//! so first, and the address does not grow with each forwarder. HASH tells our own addresses from
//! forged ones, which would make us relay to anybody, and is good at the forwarding domain only.
//! DAY ends what was made [`LIFETIME_DAYS`] ago; in the second form there is none. Compared in
//! lower case, for there are hosts that change it.

use std::fmt;

use aws_lc_rs::hmac;
use mail_types::{Domain, Host, LocalPart, Mailbox, Timestamp};

/// Five bits a character, in either case (RFC 4648 §6).
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// What may follow `SRS0` and `SRS1`.
const SEPARATORS: [char; 3] = ['=', '+', '-'];
/// Characters of the hash: 30 bits, so that it is not guessed within the addresses' lifetime.
const HASH_CHARS: usize = 6;
/// DAY comes again after so many: two characters.
const DAYS: u64 = 1024;
/// How long a bounce is taken: the 4 to 5 days of a queue, and what others add to them.
const LIFETIME_DAYS: u64 = 21;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Octets of a key at least: as many as a hash of it has.
const KEY_OCTETS_MIN: usize = 16;

/// Makes reverse-paths of forwarded mail, and reads them.
pub struct Srs {
    first: hmac::Key,
    /// What was signed before the last rotations.
    old: Vec<hmac::Key>,
}

/// A key that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a key for forwarding has at least {KEY_OCTETS_MIN} octets")]
pub struct SrsKeyError;

/// What is signed, so that no text of one form is one of the other.
#[derive(Clone, Copy)]
enum Form {
    Zero,
    One,
}

impl Srs {
    /// `key` signs; what `old` ones signed is read too.
    ///
    /// # Errors
    /// A key is too short.
    pub fn new(key: &[u8], old: &[Vec<u8>]) -> Result<Self, SrsKeyError> {
        let key_of = |octets: &[u8]| {
            let is_long = octets.len() >= KEY_OCTETS_MIN;
            is_long.then(|| hmac::Key::new(hmac::HMAC_SHA256, octets)).ok_or(SrsKeyError)
        };
        let old = old.iter().map(|octets| key_of(octets)).collect::<Result<_, _>>()?;
        Ok(Self { first: key_of(key)?, old })
    }

    /// The reverse-path under which `forwarder` passes on what `sender` sent. `None` when it would
    /// be longer than an address may be.
    pub fn forward(&self, sender: &Mailbox, forwarder: &Domain, now: Timestamp) -> Option<Mailbox> {
        let local_part = sender.local_part().as_str();
        let (name, form, signed) = match first_forwarder(sender) {
            Some(first) => ("SRS1", Form::One, first),
            None => {
                let signed = format!("{}={}={local_part}", Day::of(now), sender.host());
                ("SRS0", Form::Zero, signed)
            }
        };
        let made = format!("{name}={}={signed}", hash(&self.first, form, forwarder, &signed));
        let local_part = LocalPart::of_content(&made).ok()?;
        // Read again, for its bounds.
        Mailbox::parse(&Mailbox::new(local_part, Host::Domain(forwarder.clone())).to_string()).ok()
    }

    /// Whom an address of [`Srs::forward`] stands for. `None` when it is none of ours, or was
    /// made too long ago.
    pub fn reverse(&self, address: &Mailbox, now: Timestamp) -> Option<Mailbox> {
        let (form, rest) = forwarded_before(address.local_part().as_str())?;
        let (theirs, signed) = rest.strip_prefix('=')?.split_once('=')?;
        let forwarder = address.domain()?;
        let hash_by = |key: &hmac::Key| hash(key, form, forwarder, signed);
        let is_ours = |key: &hmac::Key| hash_by(key).eq_ignore_ascii_case(theirs);
        if !is_ours(&self.first) && !self.old.iter().any(is_ours) {
            return None;
        }
        let (local_part, host) = match form {
            Form::Zero => {
                let (day, rest) = signed.split_once('=')?;
                Day::parse(day)?.is_near(now).then_some(())?;
                let (host, local_part) = rest.split_once('=')?;
                (local_part.to_owned(), host)
            }
            Form::One => {
                let (host, rest) = signed.split_once('=')?;
                (format!("SRS0{rest}"), host)
            }
        };
        let local_part = LocalPart::of_content(&local_part).ok()?;
        Some(Mailbox::new(local_part, Host::parse(host).ok()?))
    }
}

impl fmt::Debug for Srs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Srs").finish_non_exhaustive()
    }
}

/// The form of a local part by whomever it was made, and what comes after its name, from the
/// separator on.
fn forwarded_before(local_part: &str) -> Option<(Form, &str)> {
    let (name, rest) = local_part.split_at_checked(4)?;
    if !rest.starts_with(SEPARATORS) {
        return None;
    }
    match name.to_ascii_uppercase().as_str() {
        "SRS0" => Some((Form::Zero, rest)),
        "SRS1" => Some((Form::One, rest)),
        _ => None,
    }
}

/// Who forwarded first what `sender` has forwarded: `first.test==rest`, with the separator of that
/// address at the beginning of the rest. `None` when nobody did, whatever the name looks like.
fn first_forwarder(sender: &Mailbox) -> Option<String> {
    match forwarded_before(sender.local_part().as_str())? {
        (Form::Zero, rest) => Some(format!("{}={rest}", sender.host())),
        (Form::One, rest) => {
            // Our hash takes the place of the other forwarder's.
            let (_, first) = rest.get(1..)?.split_once('=')?;
            let (host, rest) = first.split_once('=')?;
            Host::parse(host).ok()?;
            rest.starts_with(SEPARATORS).then(|| first.to_owned())
        }
    }
}

fn hash(key: &hmac::Key, form: Form, forwarder: &Domain, signed: &str) -> String {
    let form = match form {
        Form::Zero => "0",
        Form::One => "1",
    };
    let signed = format!("{form}{}={}", forwarder.as_str(), signed.to_ascii_lowercase());
    let tag = hmac::sign(key, signed.as_bytes());
    let bits = tag.as_ref().iter().take(8).fold(0u64, |bits, b| (bits << 8) | u64::from(*b));
    (0..HASH_CHARS).map(|n| character(bits >> (59 - 5 * n))).collect()
}

/// The character of the lowest five bits.
fn character(bits: u64) -> char {
    // Five bits are a place in the alphabet.
    char::from(ALPHABET[(bits & 31) as usize])
}

/// A day, as far as two characters tell it.
#[derive(Clone, Copy)]
struct Day(u64);

impl Day {
    fn of(now: Timestamp) -> Self {
        Self(u64::try_from(now.unix_ms()).unwrap_or(0) / DAY_MS % DAYS)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut value = 0;
        for b in text.bytes() {
            let place = ALPHABET.iter().position(|known| *known == b.to_ascii_uppercase())?;
            value = value * 32 + place as u64;
        }
        (text.len() == 2).then_some(Self(value))
    }

    fn is_near(self, now: Timestamp) -> bool {
        // The clock that wrote it may be ahead of ours, at midnight by a day.
        (DAYS + Self::of(now).0 + 1 - self.0) % DAYS <= LIFETIME_DAYS + 1
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", character(self.0 >> 5), character(self.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn srs(key: u8) -> Srs {
        Srs::new(&[key; 32], &[]).unwrap()
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn here() -> Domain {
        "here.test".parse().unwrap()
    }

    #[test]
    fn a_bounce_finds_its_way_back() {
        for sender in [
            "alice@there.test",
            "Alice+tag=x@there.test",
            "\"a b\"@there.test",
            "\"\"@there.test",
            "alice@[192.0.2.1]",
            "alice@[IPv6:2001:db8::1]",
            "jürgen@bücher.example",
            "bounces+1234567-0123-user=gmail.example@em1234567890.newsletter.example",
        ] {
            let sender = mailbox(sender);
            let made = srs(1).forward(&sender, &here(), NOW).unwrap();
            assert_eq!(made.domain(), Some(&here()));
            let later = NOW + DAY * 20;
            assert_eq!(srs(1).reverse(&made, later), Some(sender), "{made}");
        }
    }

    #[test]
    fn it_is_written_as_others_write_it() {
        let made = srs(1).forward(&mailbox("alice@there.test"), &here(), NOW).unwrap();
        let made = made.to_string();
        assert!(
            made.starts_with("SRS0=") && made.ends_with("=there.test=alice@here.test"),
            "{made}"
        );
        assert_eq!(made.len(), "SRS0=HHHHHH=DD=there.test=alice@here.test".len());
    }

    #[test]
    fn what_was_forwarded_before_goes_back_to_whoever_did_so_first() {
        for first in ["SRS0=xxxx=AB=there.test=alice@first.test", "srs0+xxxx=AB=t=a@first.test"] {
            let second = srs(1).forward(&mailbox(first), &here(), NOW).unwrap();
            assert!(second.to_string().starts_with("SRS1="), "{second}");
            let back = srs(1).reverse(&second, NOW).unwrap().to_string();
            assert!(back.eq_ignore_ascii_case(first), "{back}");
            let third = srs(2).forward(&second, &"third.test".parse().unwrap(), NOW).unwrap();
            assert_eq!(third.to_string().len(), second.to_string().len() + 1, "it does not grow");
            let back = srs(2).reverse(&third, NOW).unwrap().to_string();
            assert!(back.eq_ignore_ascii_case(first), "{back}");
        }
    }

    #[test]
    fn what_is_forged_or_old_is_nobodys() {
        let made = srs(1).forward(&mailbox("alice@there.test"), &here(), NOW).unwrap();
        let local_part = made.local_part().as_str().to_owned();
        let of = |text: &str, domain: &str| {
            let local_part = LocalPart::of_content(text).unwrap();
            Mailbox::new(local_part, Host::Domain(domain.parse().unwrap()))
        };
        let read = |text: &str, now| srs(1).reverse(&of(text, "here.test"), now);
        assert!(srs(1).reverse(&of(&local_part, "there.test"), NOW).is_none(), "another's domain");
        let before = Timestamp::from_unix_ms(NOW.unix_ms() - 24 * 3600 * 1000);
        assert!(read(&local_part, before).is_some(), "another's clock");
        assert!(read(&local_part, NOW).is_some());
        assert!(read(&local_part.to_lowercase(), NOW).is_some(), "there are hosts that do so");
        assert!(srs(2).reverse(&made, NOW).is_none(), "another's key");
        assert!(read(&local_part, NOW + DAY * 22).is_none(), "too old");
        assert!(read(&local_part, NOW + DAY * 400).is_none(), "too old");
        assert!(read(&local_part.replace("alice", "mallory"), NOW).is_none());
        assert!(read(&local_part.replace("there", "where"), NOW).is_none());
        assert!(read(&local_part.replace("SRS0", "SRS1"), NOW).is_none());
        for text in ["SRS0", "SRS0=", "SRS0=x", "SRS0=x=y=z", "SRS1=x=y", "alice", "SRS0\u{fc}"] {
            assert!(read(text, NOW).is_none(), "{text}");
        }
    }

    #[test]
    fn a_name_that_only_looks_like_it_is_a_name() {
        for name in ["srs1-team@there.test", "SRS1=x=host=foo@there.test", "SRS1=x@there.test"] {
            let sender = mailbox(name);
            let made = srs(1).forward(&sender, &here(), NOW).unwrap();
            assert!(made.to_string().starts_with("SRS0="), "{made}");
            assert_eq!(srs(1).reverse(&made, NOW), Some(sender));
        }
    }

    #[test]
    fn keys_rotate() {
        let made = srs(1).forward(&mailbox("alice@there.test"), &here(), NOW).unwrap();
        let both = Srs::new(&[2; 32], &[vec![1; 32]]).unwrap();
        assert_eq!(both.reverse(&made, NOW), Some(mailbox("alice@there.test")));
        assert!(Srs::new(&[1; 15], &[]).is_err());
    }

    #[test]
    fn what_would_be_too_long_is_not_made() {
        let long = format!("{}@{}.test", "a".repeat(60), "b".repeat(60).as_str());
        assert!(srs(1).forward(&mailbox(&long), &here(), NOW).is_some());
        let long = format!("{}@{}.{}.test", "a".repeat(120), "b".repeat(60), "c".repeat(50));
        assert!(srs(1).forward(&mailbox(&long), &here(), NOW).is_none());
    }

    proptest! {
        #[test]
        fn any_sender_comes_back(content in "[ -~äß漢]{0,20}", day in 0u64..21) {
            let quoted = content.replace('\\', "\\\\").replace('"', "\\\"");
            let sender = mailbox(&format!("\"{quoted}\"@there.test"));
            let made = srs(1).forward(&sender, &here(), NOW).unwrap();
            let later = NOW + DAY * u32::try_from(day).unwrap();
            let again = mailbox(&made.to_string());
            let back = srs(1).reverse(&again, later);
            if forwarded_before(&content).is_none() {
                prop_assert_eq!(back, Some(sender));
            }
        }

        #[test]
        fn nothing_that_strangers_write_is_ours(content in "(SRS0|SRS1)[=+-][A-Z2-7=a-z.]{0,40}") {
            let local_part = LocalPart::of_content(&content).unwrap();
            let address = Mailbox::new(local_part, Host::Domain(here()));
            prop_assert_eq!(srs(1).reverse(&address, NOW), None);
        }
    }
}
