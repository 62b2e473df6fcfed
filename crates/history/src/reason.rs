//! Replies with one cause as one.

/// Characters of a reason.
const REASON_MAX: usize = 120;
/// A word of so many characters with a digit is somebody's number, not part of a reason.
const NUMBER_MIN: usize = 6;

/// A reply without addresses and numbers, so that those with one cause are one. Code and enhanced
/// status stay.
pub fn reason(reply: &str) -> String {
    let is_number =
        |word: &str| word.len() >= NUMBER_MIN && word.bytes().any(|b| b.is_ascii_digit());
    let words = reply.split_ascii_whitespace().enumerate().map(|(place, word)| match word {
        word if place < 2 => word,
        word if word.contains('@') => "<…>",
        word if is_number(word) => "#",
        word => word,
    });
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    match text.char_indices().nth(REASON_MAX) {
        Some((end, _)) => text[..end].to_owned() + "…",
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_with_one_cause_are_one() {
        for (reply, wants) in [
            (
                "451 4.7.1 <x@example.net>: greylisted, come back in 300 seconds",
                "451 4.7.1 <…> greylisted, come back in 300 seconds",
            ),
            ("421 4.7.650 throttled [192.0.2.17] AS(4810)", "421 4.7.650 throttled # #"),
            ("no route", "no route"),
            ("", ""),
        ] {
            assert_eq!(reason(reply), wants);
        }
        let long = reason(&"ä ".repeat(500));
        assert_eq!(long.chars().count(), REASON_MAX + 1);
    }
}
