//! What a password hash must be, to be worth keeping and safe to check.

use argon2::password_hash::phc::PasswordHash;

/// What checking one password may take: a hash is an instruction to spend this much.
const HASH_MEMORY_KIB_MAX: u32 = 256 * 1024;
const HASH_PASSES_MAX: u32 = 32;
const HASH_LANES_MAX: u32 = 16;

/// What is wrong with a hash, if anything.
pub(crate) fn check(hash: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("the hash {what}"));
    let Ok(hash) = PasswordHash::new(hash) else {
        return wrong("is no PHC string, $argon2id$…");
    };
    if hash.algorithm.as_str() != "argon2id" {
        return wrong("is not of argon2id");
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return wrong("lacks its salt or its end");
    }
    let Ok(params) = argon2::Params::try_from(&hash) else {
        return wrong("has parameters that argon2 does not know");
    };
    let fits = params.m_cost() <= HASH_MEMORY_KIB_MAX
        && params.t_cost() <= HASH_PASSES_MAX
        && params.p_cost() <= HASH_LANES_MAX;
    if fits { Ok(()) } else { wrong("takes more than m=262144, t=32, p=16 to check") }
}
