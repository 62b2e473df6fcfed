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
            assert!(names.iter().skip(i + 1).all(|b| token(b) != token_of_a), "{a}");
        }
    }
}
