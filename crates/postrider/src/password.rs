//! `postrider mailbox hash-password`.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, ensure};
use argon2::{Argon2, PasswordHasher};
use domains::scram::Keys;

use crate::cli::HashScheme;
use crate::output;

/// Shorter ones are guessed.
const CHARACTERS_MIN: usize = 8;

/// Reads a password from the first line of stdin and prints its hash.
pub(crate) fn hash_from_stdin(scheme: HashScheme) -> anyhow::Result<()> {
    if io::stdin().is_terminal() {
        output::hint("Type the password and press Enter; it is shown as you type.");
    }
    let mut password = String::new();
    io::stdin().lock().read_line(&mut password).context("cannot read the password")?;
    let password = password.trim_end_matches(['\r', '\n']);
    ensure!(
        password.chars().count() >= CHARACTERS_MIN,
        "the password is shorter than {CHARACTERS_MIN} characters; choose a longer one"
    );
    output::line(&match scheme {
        HashScheme::Argon2id => Argon2::default()
            .hash_password(password.as_bytes())
            .map_err(|error| anyhow::anyhow!("cannot hash: {error}"))?
            .to_string(),
        HashScheme::ScramSha256 => Keys::new(password, rand::random()).to_string(),
    });
    Ok(())
}
