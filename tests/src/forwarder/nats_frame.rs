//! The plain text protocol of NATS, as far as tampering with it needs: where a frame ends, and what
//! a publish with headers says.

/// How many octets the first frame of `octets` has; `None` while it is not whole.
pub(super) fn length(octets: &[u8]) -> Option<usize> {
    let line_end = octets.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&octets[..line_end]).ok()?;
    let mut words = line.split_ascii_whitespace();
    let payload = match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
        "PUB" | "HPUB" | "MSG" | "HMSG" => words.next_back()?.parse::<usize>().ok()? + 2,
        _ => 0,
    };
    let length = line_end + 2 + payload;
    (octets.len() >= length).then_some(length)
}

/// `HPUB SUBJECT REPLY HEADER-LENGTH LENGTH`, its headers and its payload.
pub(super) struct HeadedPublish<'a> {
    pub(super) subject: &'a str,
    pub(super) reply: &'a str,
    headers: &'a str,
    payload: &'a [u8],
}

impl<'a> HeadedPublish<'a> {
    /// `None` for all other frames, and for a publish that nobody waits for.
    pub(super) fn parse(frame: &'a [u8]) -> Option<Self> {
        let line_end = frame.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&frame[..line_end]).ok()?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let ["HPUB", subject, reply, header_length, _] = words[..] else { return None };
        let octets = frame.get(line_end + 2..frame.len().checked_sub(2)?)?;
        let (headers, payload) = octets.split_at_checked(header_length.parse().ok()?)?;
        Some(Self { subject, reply, headers: std::str::from_utf8(headers).ok()?, payload })
    }

    /// The frame without one of its headers.
    pub(super) fn without(&self, name: &str) -> Vec<u8> {
        let is_kept = |line: &&str| line.split(':').next() != Some(name);
        let headers: String = self.headers.split_inclusive("\r\n").filter(is_kept).collect();
        let (header_length, length) = (headers.len(), headers.len() + self.payload.len());
        let line = format!("HPUB {} {} {header_length} {length}\r\n", self.subject, self.reply);
        [line.as_bytes(), headers.as_bytes(), self.payload, b"\r\n"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &[u8] =
        b"HPUB job.s0 in.1 35 39\r\nNATS/1.0\r\nExpected: 7\r\nId: abcd\r\n\r\nmail\r\n";

    #[test]
    fn a_frame_ends_after_its_payload() {
        assert_eq!(length(b"PING\r\nPONG\r\n"), Some(6));
        assert_eq!(length(b"SUB in.* 1"), None);
        assert_eq!(length(FRAME), Some(FRAME.len()));
        assert_eq!(length(&FRAME[..FRAME.len() - 1]), None);
    }

    #[test]
    fn a_header_is_taken_out() {
        let publish = HeadedPublish::parse(FRAME).unwrap();
        assert_eq!((publish.subject, publish.reply), ("job.s0", "in.1"));
        let without = publish.without("Expected");
        assert_eq!(
            std::str::from_utf8(&without).unwrap(),
            "HPUB job.s0 in.1 22 26\r\nNATS/1.0\r\nId: abcd\r\n\r\nmail\r\n"
        );
        assert_eq!(length(&without), Some(without.len()));
    }
}
