//! Takes what the server relays, and counts it by the id that each message carries.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What has arrived since the last [`Sink::reset`].
#[derive(Debug, Clone, Default)]
pub(super) struct Arrived {
    run: String,
    /// When each message came first.
    pub(super) at: HashMap<u64, Instant>,
    pub(super) duplicates: u64,
    /// Of another run, or without an id.
    pub(super) strangers: u64,
    pub(super) octets: u64,
    pub(super) last: Option<Instant>,
}

impl Arrived {
    fn record(&mut self, id: &str, octets: u64) {
        let now = Instant::now();
        let of_run = id.strip_prefix(&self.run).and_then(|rest| rest.strip_prefix('-'));
        let Some(sequence) = of_run.and_then(|sequence| sequence.parse().ok()) else {
            self.strangers += 1;
            return;
        };
        if self.at.contains_key(&sequence) {
            self.duplicates += 1;
            return;
        }
        self.at.insert(sequence, now);
        self.octets += octets;
        self.last = Some(now);
    }
}

/// Listens until the process ends.
pub(super) struct Sink {
    address: SocketAddr,
    arrived: Arc<Mutex<Arrived>>,
}

impl Sink {
    pub(super) fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let sink = Self { address: listener.local_addr()?, arrived: Arc::default() };
        let arrived = Arc::clone(&sink.arrived);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let arrived = Arc::clone(&arrived);
                std::thread::spawn(move || Session::new(stream, arrived).and_then(Session::run));
            }
        });
        Ok(sink)
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets everything, and counts the messages of `run` from now on.
    pub(super) fn reset(&self, run: &str) {
        *lock(&self.arrived) = Arrived { run: run.to_owned(), ..Arrived::default() };
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.arrived).at.len()
    }

    pub(super) fn arrived(&self) -> Arrived {
        lock(&self.arrived).clone()
    }

    /// Until `wanted` have arrived, or none came for `idle`, or `most` is over.
    pub(super) fn wait_for(&self, wanted: usize, idle: Duration, most: Duration) {
        let started = Instant::now();
        let (mut have, mut since) = (self.count(), started);
        while have < wanted && since.elapsed() < idle && started.elapsed() < most {
            std::thread::sleep(Duration::from_millis(20));
            let count = self.count();
            if count != have {
                (have, since) = (count, Instant::now());
            }
        }
    }
}

fn lock(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Session {
    stream: BufReader<TcpStream>,
    replies: Vec<u8>,
    line: Vec<u8>,
    arrived: Arc<Mutex<Arrived>>,
}

impl Session {
    fn new(stream: TcpStream, arrived: Arc<Mutex<Arrived>>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(300)))?;
        let stream = BufReader::with_capacity(64 << 10, stream);
        Ok(Self { stream, replies: Vec::new(), line: Vec::new(), arrived })
    }

    fn run(mut self) -> io::Result<()> {
        self.say("220 sink.test ESMTP\r\n")?;
        while self.read_line()? {
            let verb = self.line.get(..4).unwrap_or_default().to_ascii_uppercase();
            match verb.as_slice() {
                b"EHLO" => self.say(
                    "250-sink.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n\
                     250-SIZE 104857600\r\n250 8BITMIME\r\n",
                )?,
                b"HELO" | b"NOOP" | b"VRFY" | b"MAIL" | b"RSET" | b"RCPT" => {
                    self.say("250 ok\r\n")?;
                }
                b"DATA" => self.take_message()?,
                b"BDAT" => self.take_whole_message()?,
                b"QUIT" => return self.say("221 bye\r\n"),
                _ => self.say("502 no\r\n")?,
            }
        }
        Ok(())
    }

    fn take_message(&mut self) -> io::Result<()> {
        self.say("354 go ahead\r\n")?;
        let (mut id, mut octets, mut in_header) = (String::new(), 0, true);
        loop {
            if !self.read_line()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.line.as_slice() {
                b".\r\n" => break,
                b"\r\n" => in_header = false,
                line if in_header => id = id_of(line).unwrap_or(id),
                _ => {}
            }
            octets += self.line.len() as u64;
        }
        lock(&self.arrived).record(&id, octets);
        self.say("250 2.0.0 ok\r\n")
    }

    /// In one BDAT, as our delivery and Exim send short ones.
    fn take_whole_message(&mut self) -> io::Result<()> {
        let line = String::from_utf8_lossy(&self.line);
        let octets = line.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok());
        let octets: u64 = octets.ok_or(io::ErrorKind::InvalidData)?;
        let mut content = Vec::with_capacity(16 << 10);
        (&mut self.stream).take(octets).read_to_end(&mut content)?;
        let header = content.split_inclusive(|octet| *octet == b'\n');
        let mut header = header.take_while(|line| *line != b"\r\n");
        let id = header.find_map(id_of).unwrap_or_default();
        lock(&self.arrived).record(&id, octets);
        self.say("250 2.0.0 ok\r\n")
    }

    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        Ok(self.stream.read_until(b'\n', &mut self.line)? > 0)
    }

    /// Answers pipelined commands in one write.
    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.replies.extend_from_slice(reply.as_bytes());
        if self.stream.buffer().is_empty() {
            self.stream.get_mut().write_all(&self.replies)?;
            self.replies.clear();
        }
        Ok(())
    }
}

fn id_of(line: &[u8]) -> Option<String> {
    let (name, value) = line.split_at_checked(12)?;
    let is_id = name.eq_ignore_ascii_case(b"X-Bench-Id: ");
    is_id.then(|| String::from_utf8_lossy(value).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_id_and_run() {
        let mut arrived = Arrived { run: "m".to_owned(), ..Arrived::default() };
        for id in ["m-1", "m-2", "m-1", "warm-1", "", "m-x"] {
            arrived.record(id, 10);
        }
        assert_eq!((arrived.at.len(), arrived.duplicates, arrived.strangers), (2, 1, 3));
        assert_eq!(arrived.octets, 20);
    }

    #[test]
    fn finds_the_id_in_a_header_line() {
        assert_eq!(id_of(b"x-bench-id: m-17\r\n").as_deref(), Some("m-17"));
        assert_eq!(id_of(b"Subject: m-17\r\n"), None);
        assert_eq!(id_of(b"X\r\n"), None);
    }
}
