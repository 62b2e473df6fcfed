//! The program that Dovecot runs for each login: `postrider dovecot-login SOCKET PROGRAM`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::{ANSWER_OCTETS_MAX, Answer, Place, Request, TIME_MAX};
use crate::cli::DovecotLogin;
use crate::output;

/// What Dovecot's driver `checkpassword` takes for a wrong password.
const WRONG: u8 = 1;
/// The same for a user that does not exist.
const UNKNOWN: u8 = 3;
/// The same for a failure that may pass.
const UNAVAILABLE: u8 = 111;

/// Where the driver writes login and password to.
const CREDENTIALS: &str = "/dev/fd/3";
/// It writes no more.
const CREDENTIALS_OCTETS_MAX: usize = 512;

/// Asks, and becomes the program that tells Dovecot; comes back when there is nothing to tell.
pub(crate) fn run(command: &DovecotLogin) -> ExitCode {
    // Who wants a secret to compare with, as for CRAM-MD5, finds none: there are only hashes.
    if command.credentials_lookup.is_some() {
        return ExitCode::from(UNKNOWN);
    }
    match ask(command) {
        Ok(Answer::Mailbox(place)) => {
            let error = become_reply(command, &place);
            output::error(&error);
            ExitCode::from(UNAVAILABLE)
        }
        Ok(Answer::Refused) if command.is_lookup() => ExitCode::from(UNKNOWN),
        Ok(Answer::Refused) => ExitCode::from(WRONG),
        Ok(Answer::Unavailable) => ExitCode::from(UNAVAILABLE),
        Err(error) => {
            output::error(&error);
            ExitCode::from(UNAVAILABLE)
        }
    }
}

fn ask(command: &DovecotLogin) -> anyhow::Result<Answer> {
    let given = File::open(CREDENTIALS).and_then(read_credentials);
    let given = given.with_context(|| format!("cannot read {CREDENTIALS}: run it from Dovecot"))?;
    // Hosted addresses and passwords are UTF-8: another text is nobody's.
    let Some((login, password)) = parse(&given) else { return Ok(Answer::Refused) };
    let password = (!command.is_lookup()).then_some(password);
    let request = Request { login, password, client: command.client };
    ask_process(&command.socket, &request)
        .with_context(|| format!("cannot ask {}", command.socket.display()))
}

/// Reads up to the third NUL. There may be no end: other children of Dovecot hold the pipe open.
fn read_credentials(mut from: impl Read) -> io::Result<Vec<u8>> {
    let (mut text, mut chunk) = (Vec::new(), [0; CREDENTIALS_OCTETS_MAX]);
    while text.len() <= CREDENTIALS_OCTETS_MAX
        && text.iter().filter(|octet| **octet == 0).count() < 3
    {
        match from.read(&mut chunk)? {
            0 => break,
            n => text.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(text)
}

/// Login and password of `login NUL password NUL timestamp NUL`.
fn parse(text: &[u8]) -> Option<(String, String)> {
    let mut parts = std::str::from_utf8(text).ok()?.split('\0');
    let (login, password, _timestamp) = (parts.next()?, parts.next()?, parts.next()?);
    Some((login.to_owned(), password.to_owned()))
}

fn ask_process(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    stream.write_all(&serde_json::to_vec(request)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_OCTETS_MAX).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).context("the answer is none")
}

fn become_reply(command: &DovecotLogin, place: &Place) -> anyhow::Error {
    let [program, arguments @ ..] = &command.reply[..] else {
        return anyhow::anyhow!("there is no program to tell it");
    };
    let mut reply = Command::new(program);
    reply.args(arguments).envs(environment(place));
    if command.is_lookup() {
        // That it was understood: a program that only checks passwords would let anybody in.
        reply.env("AUTHORIZED", "2");
    }
    let error = reply.exec();
    anyhow::Error::new(error).context(format!("cannot run {}", program.display()))
}

/// By which `checkpassword-reply` learns of the mailbox.
fn environment(place: &Place) -> [(&'static str, OsString); 5] {
    [
        ("USER", place.address.clone().into()),
        ("HOME", place.home.clone().into()),
        ("userdb_uid", place.uid.to_string().into()),
        ("userdb_gid", place.gid.to_string().into()),
        ("EXTRA", "userdb_uid userdb_gid".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one octet at a time, and fails when asked for more.
    struct Dripping<'a>(&'a [u8]);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (first, rest) = self.0.split_first().ok_or(io::ErrorKind::WouldBlock)?;
            (buffer[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    #[test]
    fn no_more_is_read_than_is_written() {
        let read = read_credentials(Dripping(b"a@b.example\0two words\0\0")).unwrap();
        assert_eq!(parse(&read), Some(("a@b.example".into(), "two words".into())));
        assert!(read_credentials(Dripping(b"a@b.example\0secret\0")).is_err());
        let endless = read_credentials(io::repeat(b'x')).unwrap();
        assert!(endless.len() <= 2 * CREDENTIALS_OCTETS_MAX, "{}", endless.len());
        assert_eq!(parse(&endless), None);
    }

    #[test]
    fn what_is_no_login_is_nobodys() {
        for text in [&b""[..], b"a", b"a\0b", b"\xff\0b\0\0", b"a\0\xff\0\0"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(b"\0\0\0"), Some((String::new(), String::new())));
    }
}
