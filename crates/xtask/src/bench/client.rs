//! An SMTP client as plain as can be: what it costs must not decide.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// For a connection, a command and a message.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Different source addresses: a limit per client address must not decide.
const SOURCES: u64 = 200;

pub(super) struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

/// Why a session ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// A reply that was not the expected one.
    Refused(String),
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reply) => f.write_str(reply),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

impl Client {
    /// Connects from the `number`th source address, reads the greeting and says EHLO.
    pub(super) fn open(address: SocketAddr, number: u64) -> Result<Self, Failure> {
        let third = u8::try_from(1 + number % SOURCES).unwrap_or(1);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, third, 0, 1), 0)).into())?;
        socket.connect_timeout(&address.into(), WAIT_MAX)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        let mut client =
            Self { stream: BufReader::with_capacity(512, stream), line: String::new() };
        client.expect('2')?;
        client.command('2', "EHLO client.bench.test")?;
        Ok(client)
    }

    pub(super) fn command(&mut self, expected: char, line: &str) -> Result<(), Failure> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.expect(expected)
    }

    /// Writes in one piece.
    pub(super) fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.get_mut().write_all(octets)?)
    }

    /// Reads a reply, whose code must begin with `expected`.
    pub(super) fn expect(&mut self, expected: char) -> Result<(), Failure> {
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if self.line.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
        match self.line.starts_with(expected) {
            true => Ok(()),
            false => Err(Failure::Refused(self.line.trim().to_owned())),
        }
    }

    /// Says QUIT and does not wait for the reply, as Postfix's client.
    pub(super) fn quit(mut self) {
        let _ = self.write(b"QUIT\r\n");
    }
}
