//! What keys are called.

use domains::Row;

pub(crate) const BUCKET: &str = "domains";
pub(crate) const MARKER: &str = "marker";
/// Begins the keys by which writers claim the bucket.
pub(crate) const WRITER: &str = "writer.";

/// The key of one of a writer's lanes.
pub(crate) fn of_lane(lane: usize) -> String {
    format!("{WRITER}{lane}")
}

/// The key of a row; no two rows of a table have the same.
pub(crate) fn of_row(row: &Row) -> Option<String> {
    let domain = token(row.domain()?.as_str());
    Some(match row.name() {
        None => format!("d.{domain}"),
        Some(name) => format!("e.{domain}.{}", token(&name)),
    })
}

/// A name as one token of a key: no two names alike, and no character that a key may not have.
fn token(name: &str) -> String {
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
