//! What a server offered in its reply to EHLO.

use mail_types::Reply;

/// The extensions that matter to us (RFC 5321 §4.1.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    pub pipelining: bool,
    pub chunking: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub starttls: bool,
    pub size: SizeLimit,
    pub auth_plain: bool,
    pub auth_login: bool,
}

/// The SIZE extension (RFC 1870 §4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SizeLimit {
    #[default]
    NotOffered,
    /// Offered without a limit, or with 0.
    Unlimited,
    /// The most octets that a message may have.
    Octets(u64),
}

impl SizeLimit {
    pub fn is_offered(self) -> bool {
        self != Self::NotOffered
    }

    /// Whether the server says beforehand that it will refuse a message of `octets`.
    pub fn excludes(self, octets: u64) -> bool {
        matches!(self, Self::Octets(max) if octets > max)
    }
}

impl Capabilities {
    /// Reads the lines after the first, which is a greeting; what we do not know is passed over.
    pub fn parse(reply: &Reply) -> Self {
        let mut capabilities = Self::default();
        for line in reply.text.split('\n').skip(1) {
            capabilities.add(line);
        }
        capabilities
    }

    /// Whether a transaction may go out in one piece, content included
    /// ([`super::ClientSession::begin_whole`]).
    pub fn takes_whole(&self) -> bool {
        self.chunking && self.pipelining
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match &*keyword {
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "SIZE" => self.size = size_limit(words.next()),
            "AUTH" => words.for_each(|mechanism| self.add_mechanism(mechanism)),
            other => {
                // `AUTH=LOGIN PLAIN` is how servers spoke before RFC 2554.
                if let Some(first) = other.strip_prefix("AUTH=") {
                    self.add_mechanism(first);
                    words.for_each(|mechanism| self.add_mechanism(mechanism));
                }
            }
        }
    }

    fn add_mechanism(&mut self, mechanism: &str) {
        self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
    }
}

fn size_limit(parameter: Option<&str>) -> SizeLimit {
    match parameter.and_then(|digits| digits.parse().ok()) {
        None | Some(0) => SizeLimit::Unlimited,
        Some(octets) => SizeLimit::Octets(octets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_types::ReplyCode;

    fn parse(text: &str) -> Capabilities {
        Capabilities::parse(&Reply { code: ReplyCode::new(250), status: None, text: text.into() })
    }

    #[test]
    fn known_keywords_in_any_case() {
        let all = parse(
            "mx\npipelining\nchunking\nSIZE 10240000\n8bitmime\nSMTPUTF8\nDSN\nStartTLS\nX-Y z",
        );
        assert!(all.takes_whole() && !parse("mx\nCHUNKING").takes_whole());
        assert!(all.pipelining && all.eight_bit_mime && all.smtputf8 && all.dsn && all.starttls);
        assert_eq!(all.size, SizeLimit::Octets(10_240_000));
        assert_eq!(parse("PIPELINING"), Capabilities::default(), "the first line is a greeting");
    }

    #[test]
    fn parameters() {
        for (line, want) in [
            ("SIZE", SizeLimit::Unlimited),
            ("SIZE 0", SizeLimit::Unlimited),
            ("SIZE x", SizeLimit::Unlimited),
            ("SIZE 99999999999999999999999", SizeLimit::Unlimited),
            ("SIZE 5", SizeLimit::Octets(5)),
        ] {
            assert_eq!(parse(&format!("mx\n{line}")).size, want, "{line}");
        }
        assert!(SizeLimit::Octets(5).excludes(6) && !SizeLimit::Unlimited.excludes(6));
        for (line, plain, login) in
            [("AUTH PLAIN LOGIN", true, true), ("AUTH=login", false, true), ("AUTH", false, false)]
        {
            let found = parse(&format!("mx\n{line}"));
            assert_eq!((found.auth_plain, found.auth_login), (plain, login), "{line}");
        }
    }
}
