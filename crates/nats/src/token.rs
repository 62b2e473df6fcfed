//! Names as tokens of subjects and keys.

/// A name as one token: no two names alike, and no character that a subject or key may not have.
pub fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for octet in name.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => token.push(char::from(octet)),
            b'.' => token.push('_'),
            _ => token.push_str(&format!("={octet:02x}")),
        }
    }
    if token.is_empty() {
        token.push('=');
    }
    token
}

/// The name that a token was made of; `None` if of none.
pub fn name(token: &str) -> Option<String> {
    let mut name = Vec::with_capacity(token.len());
    let mut octets = token.bytes();
    while let Some(octet) = octets.next() {
        name.push(match octet {
            b'_' => b'.',
            b'=' if token.len() == 1 => return Some(String::new()),
            b'=' => hex(octets.next()?)? << 4 | hex(octets.next()?)?,
            _ => octet,
        });
    }
    String::from_utf8(name).ok()
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_apart_and_allowed() {
        let names = ["a.b", "a_b", "a=5fb", "", "=", "ä", "*", ">", "a b", "a/b"];
        for (i, a) in names.iter().enumerate() {
            let token_of_a = token(a);
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_=".contains(c);
            assert!(token_of_a.chars().all(allowed), "{token_of_a}");
            assert_eq!(name(&token_of_a).as_deref(), Some(*a));
            assert!(names.iter().skip(i + 1).all(|b| token(b) != token_of_a), "{a}");
        }
        for none in ["=f", "=fg", "=ff"] {
            assert_eq!(name(none), None);
        }
    }
}
