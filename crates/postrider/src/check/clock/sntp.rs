//! One question to a time server (SNTP, RFC 4330 §5): 48 octets there, 48 back.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use mail_types::Timestamp;
use resolve::{HostName, LookupError, Resolver};
use runtime::clock::now;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::check::LIMIT;
use crate::check::lookup::Lookup;

const OCTETS: usize = 48;
const PORT: u16 = 123;
/// From 1900, where NTP begins to count, to 1970.
const SECONDS_TO_1970: i64 = 2_208_988_800;

/// A time server, as a name or an address, with or without a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TimeServer {
    host: Place,
    port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Name(HostName),
    Address(IpAddr),
}

impl FromStr for TimeServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: Place::Address(address.ip()), port: address.port() });
        }
        if let Ok(address) = text.parse() {
            return Ok(Self { host: Place::Address(address), port: PORT });
        }
        let wrong = || format!("{text:?} is not a name or an address, with or without a port");
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| wrong())?),
            None => (text, PORT),
        };
        Ok(Self { host: Place::Name(HostName::parse(name).map_err(|_| wrong())?), port })
    }
}

impl fmt::Display for TimeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Place::Name(name) => write!(f, "{name}:{}", self.port),
            Place::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}

/// Why there is no time.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("{0}")]
    Lookup(#[from] LookupError),
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("no answer within {} s", LIMIT.as_secs())]
    Silence,
    #[error("{0}")]
    Answer(#[from] AnswerError),
}

/// Why an answer says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("its answer is no NTP")]
    Form,
    #[error("its answer is to another question")]
    Stranger,
    #[error("it does not know the time itself")]
    Unsynchronised,
}

/// By how many milliseconds the server's clock is ahead of ours.
pub(super) async fn ask(server: &TimeServer, lookup: &Lookup) -> Result<i64, AskError> {
    let addresses = match &server.host {
        Place::Address(address) => vec![*address],
        Place::Name(name) => lookup.addresses(name).await?,
    };
    // IPv4 first: it is there more often, and one server is enough.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    let address = *address.ok_or(LookupError::NoRecords)?;
    timeout(LIMIT, exchange(SocketAddr::new(address, server.port)))
        .await
        .map_err(|_| AskError::Silence)?
}

async fn exchange(server: SocketAddr) -> Result<i64, AskError> {
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    let sent = now();
    let cookie: u64 = rand::random();
    socket.send(&question(cookie)).await?;
    let mut answer = [0; 512];
    loop {
        let octets = socket.recv(&mut answer).await?;
        match offset_ms(&answer[..octets], cookie, sent, now()) {
            // Whoever guesses our port can send anything: the server's own answer may yet come.
            Err(AnswerError::Stranger) => {}
            result => return Ok(result?),
        }
    }
}

/// Version 4, as a client. What stands for our time is a number that only the server learns.
fn question(cookie: u64) -> [u8; OCTETS] {
    let mut question = [0; OCTETS];
    question[0] = (4 << 3) | 3;
    question[40..].copy_from_slice(&cookie.to_be_bytes());
    question
}

fn offset_ms(
    answer: &[u8],
    cookie: u64,
    sent: Timestamp,
    received: Timestamp,
) -> Result<i64, AnswerError> {
    let (Some(&[flags, stratum, ..]), Some(origin), Some(arrived), Some(left)) =
        (answer.first_chunk::<4>(), field(answer, 24), field(answer, 32), field(answer, 40))
    else {
        return Err(AnswerError::Form);
    };
    if origin != cookie {
        return Err(AnswerError::Stranger);
    }
    if flags & 7 != 4 {
        return Err(AnswerError::Form);
    }
    if flags >> 6 == 3 || !(1..=15).contains(&stratum) || left == 0 {
        return Err(AnswerError::Unsynchronised);
    }
    let there = unix_ms(arrived) - sent.unix_ms();
    let back = unix_ms(left) - received.unix_ms();
    Ok((there + back) / 2)
}

fn field(answer: &[u8], at: usize) -> Option<u64> {
    answer.get(at..)?.first_chunk().map(|octets| u64::from_be_bytes(*octets))
}

/// Seconds since 1900 and their 2^32nd parts; from 2036 on they begin anew (RFC 4330 §3).
fn unix_ms(time: u64) -> i64 {
    let (seconds, fraction) = ((time >> 32).cast_signed(), (time & 0xffff_ffff).cast_signed());
    let seconds = if seconds < 1 << 31 { seconds + (1 << 32) } else { seconds };
    (seconds - SECONDS_TO_1970) * 1000 + ((fraction * 1000) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 0x0123_4567_89ab_cdef;

    fn ntp(unix_ms: i64) -> u64 {
        let (seconds, ms) = (unix_ms.div_euclid(1000), unix_ms.rem_euclid(1000));
        ((seconds + SECONDS_TO_1970).cast_unsigned() << 32)
            | ((ms << 32) / 1000 + 1).cast_unsigned()
    }

    fn answer(flags: u8, stratum: u8, unix_ms: i64) -> Vec<u8> {
        let mut answer = vec![0; OCTETS];
        (answer[0], answer[1]) = (flags, stratum);
        answer[24..32].copy_from_slice(&COOKIE.to_be_bytes());
        answer[32..40].copy_from_slice(&ntp(unix_ms).to_be_bytes());
        answer[40..].copy_from_slice(&ntp(unix_ms + 10).to_be_bytes());
        answer
    }

    fn offset(answer: &[u8], cookie: u64, sent: i64) -> Result<i64, AnswerError> {
        let [sent, received] = [sent, sent + 110].map(Timestamp::from_unix_ms);
        offset_ms(answer, cookie, sent, received)
    }

    #[test]
    fn the_way_there_and_back_is_taken_off() {
        for now in [1_795_000_000_000, 2_085_978_495_500, 2_085_978_497_000] {
            // 50 ms there, 10 ms in the server, 50 ms back; the server is 7 s ahead.
            assert_eq!(offset(&answer(0x24, 2, now + 7_050), COOKIE, now), Ok(7_000), "{now}");
            assert_eq!(offset(&answer(0x24, 2, now - 6_950), COOKIE, now), Ok(-7_000), "{now}");
        }
    }

    #[test]
    fn what_says_nothing() {
        let now = 1_795_000_000_000;
        let of = |flags, stratum| offset(&answer(flags, stratum, now), COOKIE, now);
        assert_eq!(of(0xe4, 2), Err(AnswerError::Unsynchronised), "the alarm of its clock");
        assert_eq!(of(0x24, 0), Err(AnswerError::Unsynchronised), "kiss of death");
        assert_eq!(of(0x24, 16), Err(AnswerError::Unsynchronised));
        assert_eq!(of(0x23, 2), Err(AnswerError::Form), "a question");
        assert_eq!(offset(&answer(0x24, 2, now), 1, now), Err(AnswerError::Stranger));
        assert_eq!(offset(&answer(0x24, 2, now)[..47], COOKIE, now), Err(AnswerError::Form));
        assert_eq!(offset(&[], COOKIE, now), Err(AnswerError::Form));
    }

    #[test]
    fn servers() {
        for (text, expected) in [
            ("time.a.example", "time.a.example:123"),
            ("time.a.example:1123", "time.a.example:1123"),
            ("192.0.2.1", "192.0.2.1:123"),
            ("[2001:db8::1]:1123", "[2001:db8::1]:1123"),
            ("2001:db8::1", "[2001:db8::1]:123"),
        ] {
            assert_eq!(text.parse::<TimeServer>().unwrap().to_string(), expected);
        }
        for text in ["", "a b", "time.a.example:", "time.a.example:99999", "192.0.2.300"] {
            assert!(text.parse::<TimeServer>().is_err(), "{text}");
        }
    }
}
