//! Hashes of passwords: which are taken, and whether a password is one's.
//!
//! Ours are of argon2id, or keys of SCRAM-SHA-256 for clients that log in by it. Those of
//! SHA512-CRYPT and bcrypt are taken so that people who come from elsewhere keep their passwords,
//! also with Dovecot's `{SCHEME}` before them.

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use sha_crypt::{PasswordHashRef, ShaCrypt};

use crate::scram::{self, Keys};

/// What checking one password may take: a hash is an instruction to spend this much.
const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
const HASH_PASSES_MAX: u32 = 32;
const HASH_LANES_MAX: u32 = 16;
const SHA_ROUNDS_MAX: u32 = 1_000_000;
const BCRYPT_COST_MAX: u32 = 14;

/// How a hash was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Argon2id,
    Sha512Crypt,
    Bcrypt,
    ScramSha256,
}

impl Scheme {
    /// Its name in Dovecot.
    fn label(self) -> &'static str {
        match self {
            Self::Argon2id => "ARGON2ID",
            Self::Sha512Crypt => "SHA512-CRYPT",
            Self::Bcrypt => "BLF-CRYPT",
            Self::ScramSha256 => scram::LABEL,
        }
    }
}

/// The scheme of a hash, and the hash as crypt(3) writes it.
fn split(hash: &str) -> Result<(Scheme, &str), String> {
    let (label, crypt) = match hash.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((label, crypt)) => (Some(label), crypt),
        None => (None, hash),
    };
    if label.is_some_and(|label| label.eq_ignore_ascii_case(scram::LABEL)) {
        return Ok((Scheme::ScramSha256, crypt));
    }
    let scheme = match crypt.split('$').nth(1).filter(|_| crypt.starts_with('$')) {
        Some("argon2id") => Scheme::Argon2id,
        Some("6") => Scheme::Sha512Crypt,
        Some("2a" | "2b" | "2y") => Scheme::Bcrypt,
        Some(_) | None => {
            return Err("is none of argon2id ($argon2id$…), SHA512-CRYPT ($6$…), bcrypt ($2y$…) \
                        and {SCRAM-SHA-256}"
                .to_owned());
        }
    };
    let is_crypt = |label: &str| label.eq_ignore_ascii_case("CRYPT") && scheme != Scheme::Argon2id;
    match label {
        Some(label) if !label.eq_ignore_ascii_case(scheme.label()) && !is_crypt(label) => {
            Err(format!("says {{{label}}} and is {}", scheme.label()))
        }
        Some(_) | None => Ok((scheme, crypt)),
    }
}

/// How a hash was made, by its name in Dovecot.
pub fn scheme(hash: &str) -> Option<&'static str> {
    split(hash).ok().map(|(scheme, _)| scheme.label())
}

/// What is wrong with a hash, if anything.
pub fn check(hash: &str) -> Result<(), String> {
    let checked = split(hash).and_then(|(scheme, crypt)| match scheme {
        Scheme::Argon2id => check_argon2(crypt),
        Scheme::Sha512Crypt => check_sha512_crypt(crypt),
        Scheme::Bcrypt => check_bcrypt(crypt),
        Scheme::ScramSha256 => Keys::parse(crypt).map(drop),
    });
    checked.map_err(|what| format!("the hash {what}"))
}

fn check_argon2(hash: &str) -> Result<(), String> {
    let hash = PasswordHash::new(hash).map_err(|_| "is no PHC string, $argon2id$…")?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("lacks its salt or its end".to_owned());
    }
    let params = argon2::Params::try_from(&hash);
    let params = params.map_err(|_| "has parameters that argon2 does not know")?;
    let fits = params.m_cost() <= HASH_MEMORY_KIB_MAX
        && params.t_cost() <= HASH_PASSES_MAX
        && params.p_cost() <= HASH_LANES_MAX;
    if fits { Ok(()) } else { Err("takes more than m=262144, t=32, p=16 to check".to_owned()) }
}

fn check_sha512_crypt(hash: &str) -> Result<(), String> {
    let fields: Vec<&str> = hash.split('$').skip(2).collect();
    let (rounds, salt, end) = match fields[..] {
        [rounds, salt, end] => (rounds.strip_prefix("rounds="), salt, end),
        [salt, end] => (Some("5000"), salt, end),
        _ => (None, "", ""),
    };
    let is_base64 =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./".contains(&b));
    let (Some(rounds), 86, true) = (rounds, end.len(), is_base64(end)) else {
        return Err("is not as SHA512-CRYPT writes it, $6$salt$…".to_owned());
    };
    if salt.is_empty() {
        return Err("lacks its salt".to_owned());
    }
    // What cannot be read would refuse every password. 86 characters hold 4 bits too many.
    if PasswordHashRef::new(hash).is_err() || !end.ends_with(['.', '/', '0', '1']) {
        return Err("has characters that SHA512-CRYPT does not write".to_owned());
    }
    match rounds.parse() {
        Ok(1000..=SHA_ROUNDS_MAX) => Ok(()),
        Ok(_) | Err(_) => Err(format!("has not 1000 to {SHA_ROUNDS_MAX} rounds")),
    }
}

fn check_bcrypt(hash: &str) -> Result<(), String> {
    let parts: bcrypt::HashParts =
        hash.parse().map_err(|_| "is not as bcrypt writes it, $2y$10$…")?;
    match parts.get_cost() {
        4..=BCRYPT_COST_MAX => Ok(()),
        cost => Err(format!("has the cost {cost}, which is not 4 to {BCRYPT_COST_MAX}")),
    }
}

/// Whether `hash` is of this password. It takes the time that the hash says, and with SHA512-CRYPT
/// more for a longer password.
pub fn is_match(password: &str, hash: &str) -> bool {
    match split(hash) {
        Ok((Scheme::Argon2id, hash)) => PasswordHash::new(hash).is_ok_and(|hash| {
            Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
        }),
        Ok((Scheme::Sha512Crypt, hash)) => {
            ShaCrypt::SHA512.verify_password(password.as_bytes(), hash).is_ok()
        }
        // Octets after the 72nd do not count, as wherever the hash was made.
        Ok((Scheme::Bcrypt, hash)) => bcrypt::verify(password, hash).unwrap_or(false),
        Ok((Scheme::ScramSha256, keys)) => {
            Keys::parse(keys).is_ok_and(|keys| keys.are_of(password))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA512: &str = "$6$postrider1$fXZ/MPvdK9BItZDA6s0kiMeRpq0S5U02mVRSJFhKHD9V\
        n9JwNdkPu3YsR5IDwtSBk7EdEvErP/ML6oCT/dWPi0";
    const SHA512_ROUNDS: &str = "$6$rounds=1000$postrider2$EGEFgN68H3JKuEQUUUDRxEyzaG8Ccz37\
        /VR2dFtzKzX9woewFuZpZnh26L8bkxw1nnpW7gtrLtyMVs2Y8ufNi/";
    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
    const ARGON2ID: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                            dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";

    /// By crypt(3) of another implementation, of `correct horse`.
    #[test]
    fn hashes_made_elsewhere_let_in() {
        for hash in [
            SHA512.to_owned(),
            SHA512_ROUNDS.to_owned(),
            BCRYPT.to_owned(),
            BCRYPT.replace("$2y$", "$2b$"),
            format!("{{SHA512-CRYPT}}{SHA512}"),
            format!("{{sha512-crypt}}{SHA512}"),
            format!("{{BLF-CRYPT}}{BCRYPT}"),
            format!("{{CRYPT}}{SHA512}"),
            format!("{{CRYPT}}{BCRYPT}"),
        ] {
            assert_eq!(check(&hash), Ok(()), "{hash}");
            assert!(is_match("correct horse", &hash), "{hash}");
            for wrong in ["correct horsf", "correct hors", "", "correct horse\0"] {
                assert!(!is_match(wrong, &hash), "{hash} for {wrong:?}");
            }
        }
        assert_eq!(check(&format!("{{ARGON2ID}}{ARGON2ID}")), Ok(()));
        let schemes = [SHA512, BCRYPT, ARGON2ID, "secret"].map(scheme);
        assert_eq!(schemes, [Some("SHA512-CRYPT"), Some("BLF-CRYPT"), Some("ARGON2ID"), None]);
    }

    #[test]
    fn keys_of_scram_let_in_too() {
        let hash = Keys::new("correct horse", [7; 16]).to_string();
        assert_eq!((check(&hash), scheme(&hash)), (Ok(()), Some("SCRAM-SHA-256")));
        assert!(is_match("correct horse", &hash) && !is_match("correct horsf", &hash));
    }

    #[test]
    fn what_is_no_hash_or_takes_too_much() {
        let rounds = |n: &str| SHA512_ROUNDS.replace("rounds=1000", &format!("rounds={n}"));
        for (hash, want) in [
            ("secret".to_owned(), "is none of"),
            ("{PLAIN}secret".to_owned(), "is none of"),
            ("$1$salt$qJH7.N4xYta3aEG/dfqo/0".to_owned(), "is none of"),
            (format!("{{PLAIN}}{SHA512}"), "says {PLAIN} and is SHA512-CRYPT"),
            (format!("{{BLF-CRYPT}}{SHA512}"), "says {BLF-CRYPT} and is SHA512-CRYPT"),
            (format!("{{CRYPT}}{ARGON2ID}"), "says {CRYPT} and is ARGON2ID"),
            (rounds("999"), "has not 1000 to 1000000 rounds"),
            (rounds("1000001"), "has not 1000 to 1000000 rounds"),
            (rounds("99999999999"), "has not 1000 to 1000000 rounds"),
            (SHA512[..SHA512.len() - 1].to_owned(), "is not as SHA512-CRYPT"),
            (SHA512.replace("$postrider1$", "$post_rider$"), "has characters"),
            (SHA512[..SHA512.len() - 1].to_owned() + "z", "has characters"),
            ("$6$$".to_owned() + &"a".repeat(86), "lacks its salt"),
            (BCRYPT[..BCRYPT.len() - 1].to_owned(), "is not as bcrypt"),
            (BCRYPT.replace("$2y$05$", "$2y$15$"), "has the cost 15"),
            ("$argon2id$v=19$m=8,t=1,p=1".to_owned(), "lacks its salt"),
            (ARGON2ID.replace("m=8,", "m=262145,"), "takes more than"),
            ("{SCRAM-SHA-256}".to_owned(), "is not ITERATIONS"),
            ("{SCRAM-SHA-256}4095,c2FsdA==,AA==,AA==".to_owned(), "has not 4096"),
            (format!("{{SCRAM-SHA-256}}{ARGON2ID}"), "is not ITERATIONS"),
        ] {
            let error = check(&hash).expect_err(&hash);
            assert!(error.starts_with(&format!("the hash {want}")), "{hash}: {error}");
        }
        assert!(!is_match("secret", "secret") && !is_match("secret", "{PLAIN}secret"));
    }
}
