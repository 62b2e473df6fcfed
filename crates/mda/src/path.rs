//! Names in the file system, from names that strangers choose.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use mail_types::{Domain, Mailbox};
use queue::Job;

/// The Maildir of a mailbox below `root`.
pub(crate) fn of_mailbox(root: &Path, domain: &Domain, mailbox: &Mailbox) -> PathBuf {
    // A domain is letters, digits, hyphens and single full stops between them.
    root.join(domain.as_str()).join(escaped(mailbox.local_part().as_str()))
}

/// A local part as the name of a directory: one for one, in `[a-z0-9._+=-]` with all else as `%XX`.
///
/// ASCII letters are written in lower case, for hosted local parts are compared so. A local part
/// has at most 64 octets (RFC 5321 §4.5.3.1.1), hence the name at most 192.
fn escaped(local_part: &str) -> String {
    if local_part.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::with_capacity(local_part.len());
    for (n, b) in local_part.bytes().enumerate() {
        match b.to_ascii_lowercase() {
            b'.' if n == 0 => name.push_str("%2E"),
            b @ (b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'=' | b'-') => {
                name.push(char::from(b));
            }
            // Writing to a String does not fail.
            b => _ = write!(name, "%{b:02X}"),
        }
    }
    name
}

/// The part of a file's name that does not depend on its size: unique for the recipient of a job,
/// and the same in every attempt. In the form of the Maildir specification: time, a part that is
/// unique, and a host, which the unique part makes needless.
pub(crate) fn unique_name(job: &Job, recipient: u32) -> String {
    let seconds = job.id.message.arrival().unix_ms() / 1000;
    format!("{seconds}.{}_{}_{recipient}.postrider", job.id.message, job.id.index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_local_parts() {
        let long = "\u{fc}".repeat(32);
        for (address, want) in [
            ("alice@a.example", "alice"),
            ("ALICE@a.example", "alice"),
            ("a.b_c+d-e=f@a.example", "a.b_c+d-e=f"),
            ("\"..\"@a.example", "%2E."),
            ("\".\"@a.example", "%2E"),
            ("\"../../../etc/passwd\"@a.example", "%2E.%2F..%2F..%2Fetc%2Fpasswd"),
            ("\"/etc/passwd\"@a.example", "%2Fetc%2Fpasswd"),
            ("/etc/passwd@a.example", "%2Fetc%2Fpasswd"),
            ("\"a b\"@a.example", "a%20b"),
            ("\"\"@a.example", "%"),
            ("%@a.example", "%25"),
            ("j\u{fc}rgen@a.example", "j%C3%BCrgen"),
            ("~root@a.example", "%7Eroot"),
            ("*@a.example", "%2A"),
        ] {
            let mailbox = Mailbox::parse(address).unwrap();
            let path = of_mailbox(Path::new("/m"), mailbox.domain().unwrap(), &mailbox);
            assert_eq!(path, Path::new("/m/a.example").join(want), "{address}");
        }
        assert_eq!(escaped(&long).len(), 192);
    }

    proptest! {
        #[test]
        fn one_plain_name_for_each(a in "\\PC{0,16}", b in "[./%\\\\a-cA-C~ \u{fc}]{0,6}") {
            for name in [escaped(&a), escaped(&b)] {
                prop_assert!(!name.is_empty() && !name.starts_with('.'));
                prop_assert!(name.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
            }
            prop_assert_eq!(escaped(&a) == escaped(&b), a.eq_ignore_ascii_case(&b));
        }
    }
}
