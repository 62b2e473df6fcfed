//! Answers every A with 127.0.0.1, every MX with `mx.NAME` and every PTR with one name, over UDP:
//! a server that asks must not wait for a network that is not there.

use std::io;
use std::net::{SocketAddr, UdpSocket};

const A: u16 = 1;
const PTR: u16 = 12;
const MX: u16 = 15;

/// Serves until the process ends.
pub(super) fn start(address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            if let Some(reply) = answer(&packet[..length]) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    Ok(())
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let kind = u16::from_be_bytes([*query.get(end + 1)?, *query.get(end + 2)?]);
    let mut reply = query.get(..end + 5)?.to_vec();
    // A reply with authority, recursion available, one question and so far no answer.
    reply[2] = 0x84 | (query[2] & 1);
    reply[3] = 0x80;
    reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let data: &[u8] = match kind {
        A => &[127, 0, 0, 1],
        MX => b"\x00\x0a\x02mx\xc0\x0c",
        PTR => b"\x06client\x05bench\x04test\x00",
        _ => return Some(reply),
    };
    reply[7] = 1;
    reply.extend_from_slice(&[0xc0, 12]);
    reply.extend_from_slice(&kind.to_be_bytes());
    reply.extend_from_slice(&[0, 1, 0, 0, 0x0e, 0x10, 0, u8::try_from(data.len()).ok()?]);
    reply.extend_from_slice(data);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: u8) -> Vec<u8> {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x04sink\x04test\x00\x00");
        query.extend_from_slice(&[kind, 0, 1]);
        query
    }

    #[test]
    fn answers_what_it_knows_and_nothing_else() {
        let a = answer(&query(1)).unwrap();
        assert_eq!((a[7], &a[a.len() - 4..]), (1, &[127, 0, 0, 1][..]));
        let mx = answer(&query(15)).unwrap();
        assert!(mx.ends_with(b"\x02mx\xc0\x0c"));
        assert_eq!(answer(&query(28)).unwrap()[7], 0);
        assert_eq!(answer(b"short"), None);
        assert_eq!(answer(&query(1)[..20]), None);
    }
}
