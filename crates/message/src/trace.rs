//! The fields that we write in front of a message. Each ends in CRLF.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use mail_types::{AddressLiteral, Host, Mailbox, QueueId, ReversePath, Timestamp};

/// What a Received field says (RFC 5321 §4.4).
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// The argument of HELO or EHLO as given.
    pub helo: &'a str,
    pub client: SocketAddr,
    /// Our name.
    pub by: &'a Host,
    /// `ESMTPS`, … (RFC 3848).
    pub protocol: &'a str,
    pub id: QueueId,
    /// TLS version and cipher suite.
    pub tls: Option<&'a str>,
    /// Who the client is by a certificate that was verified.
    pub client_certificate: Option<&'a str>,
    /// The recipient, when there is only one: several would tell each of the others
    /// (RFC 5321 §7.2).
    pub recipient: Option<&'a Mailbox>,
    pub at: Timestamp,
}

impl Received<'_> {
    pub fn field(&self) -> String {
        let literal = AddressLiteral::Ip(canonical(self.client.ip()));
        let mut field = match Host::parse(self.helo) {
            Ok(helo) => format!("Received: from {helo} ({literal})"),
            // Said something that is no name: the address stands for it.
            Err(_) => format!("Received: from {literal} ({literal})"),
        };
        let _ = write!(field, "\r\n\tby {} with {}", self.by, self.protocol);
        if let Some(tls) = self.tls {
            let _ = write!(field, "\r\n\t({tls})");
        }
        if let Some(name) = self.client_certificate {
            let name = comment_text(name);
            let _ = write!(field, "\r\n\t(client certificate of {name} verified)");
        }
        let _ = write!(field, "\r\n\tid {}", self.id);
        if let Some(recipient) = self.recipient {
            let _ = write!(field, "\r\n\tfor <{recipient}>");
        }
        let _ = write!(field, ";\r\n\t{}\r\n", self.at.to_rfc5322());
        field
    }
}

/// A text of somebody else's in a comment (RFC 5322 §3.2.2): at most 128 octets, and a `?` for each
/// that could end it, begin another, or is not printable ASCII.
fn comment_text(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !"()\\\"".contains(c);
    text.chars().take(128).map(|c| if is_plain(c) || c == ' ' { c } else { '?' }).collect()
}

/// An IPv4 client of an IPv6 socket is an IPv4 client.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Return-Path, which only final delivery adds (RFC 5321 §4.4).
pub fn return_path(path: &ReversePath) -> String {
    format!("Return-Path: {path}\r\n")
}

/// Delivered-To, by which a forwarding loop is seen (RFC 9228).
pub fn delivered_to(mailbox: &Mailbox) -> String {
    format!("Delivered-To: {mailbox}\r\n")
}

/// Date, for a submission that lacks one (RFC 6409 §8.1).
pub fn date(at: Timestamp) -> String {
    format!("Date: {}\r\n", at.to_rfc5322())
}

/// Message-ID, for a submission that lacks one (RFC 6409 §8.2).
pub fn message_id(id: QueueId, host: &Host) -> String {
    format!("Message-ID: <{id}@{host}>\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(helo: &str, client: &str) -> String {
        received_with(helo, client, None)
    }

    fn received_with(helo: &str, client: &str, client_certificate: Option<&str>) -> String {
        let by = Host::parse("mx.example.org").unwrap();
        let at = Timestamp::from_unix_ms(1_795_388_895_042);
        let recipient = Mailbox::parse("alice@example.org").unwrap();
        Received {
            helo,
            client: client.parse().unwrap(),
            by: &by,
            protocol: "ESMTPS",
            id: QueueId::new(at, 7),
            tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384"),
            client_certificate,
            recipient: Some(&recipient),
            at,
        }
        .field()
    }

    #[test]
    fn as_rfc_5321_has_it() {
        let id = QueueId::new(Timestamp::from_unix_ms(1_795_388_895_042), 7);
        assert_eq!(
            received("client.example", "192.0.2.1:1234"),
            format!(
                "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.org with ESMTPS\r\n\
                 \t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\tid {id}\r\n\tfor <alice@example.org>;\r\n\
                 \tSun, 22 Nov 2026 23:08:15 +0000\r\n"
            )
        );
    }

    #[test]
    fn a_certificate_is_named_and_writes_nothing_of_its_own() {
        let long = "x".repeat(1000);
        for (name, shown) in [
            ("alice@example.org", "alice@example.org"),
            ("Alice (x) \\\"", "Alice ?x? ??"),
            ("a\r\nX-Evil: 1", "a??X-Evil: 1"),
            ("\u{fc}\u{0}\t", "???"),
            ("", ""),
            (&*long, &long[..128]),
        ] {
            let field = received_with("client.example", "192.0.2.1:1234", Some(name));
            let line = format!("\r\n\t(client certificate of {shown} verified)\r\n\tid ");
            assert!(field.contains(&line), "{field}");
            assert_eq!(field.lines().count(), 7, "{field}");
        }
    }

    #[test]
    fn a_client_cannot_write_a_field_of_its_own() {
        for helo in ["x) by evil.example (", "a\r\nX-Evil: 1", "", "a b", "\u{7f}"] {
            let field = received(helo, "[::ffff:192.0.2.1]:25");
            assert!(field.starts_with("Received: from [192.0.2.1] ([192.0.2.1])\r\n"), "{field}");
            assert!(field.split("\r\n").skip(1).all(|l| l.is_empty() || l.starts_with('\t')));
        }
        assert!(
            received("[IPv6:2001:db8::1]", "[2001:db8::1]:25")
                .starts_with("Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n")
        );
    }
}
