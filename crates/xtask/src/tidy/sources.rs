//! How a source file looks: its name, its length, its lines, and the calls it must not make.

use std::path::Path;

use super::Violation;

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];

/// A call that product code must not make.
struct Banned {
    call: &'static str,
    why: &'static str,
    /// The files that may, by the end of their path.
    allowed: &'static [&'static str],
}

const BANNED: [Banned; 3] = [
    Banned {
        call: "tokio::spawn(",
        why: "a task must not outlive its parent: use a TaskTracker or a JoinSet",
        allowed: &[],
    },
    Banned { call: "unbounded_channel", why: "every queue has a bound", allowed: &[] },
    Banned {
        call: "SystemTime::now",
        why: "time is passed in: the process reads it in runtime::clock",
        allowed: &["crates/runtime/src/clock.rs"],
    },
];

/// Crates to which time is an argument, always.
const CLOCKLESS: [&str; 6] = ["mail-types", "smtp", "message", "retry", "senders", "domains"];

pub(super) fn check(path: &Path, text: &str) -> Vec<Violation> {
    let mut violations = check_name(path);
    let lines = text.lines().count();
    if lines > LINES_MAX {
        let rule = format!("has {lines} lines, at most {LINES_MAX}: one noun per file");
        violations.push(Violation::new(path.display().to_string(), rule));
    }
    let tests_begin = text.find("#[cfg(test)]").unwrap_or(text.len());
    let mut offset = 0;
    for (index, line) in text.lines().enumerate() {
        let mut broken = check_columns(line);
        if !path.ends_with(file!()) {
            // This file holds the counter-examples.
            broken.extend(check_references(line));
        }
        if is_product(path) && offset < tests_begin {
            broken.extend(check_calls(path, line));
        }
        let place = format!("{}:{}", path.display(), index + 1);
        violations.extend(broken.into_iter().map(|rule| Violation::new(&place, rule)));
        offset += line.len() + 1;
    }
    violations
}

fn check_name(path: &Path) -> Vec<Violation> {
    let place = path.display().to_string();
    let mut violations = Vec::new();
    if path.ends_with("mod.rs") {
        violations.push(Violation::new(&place, "no mod.rs: `name.rs` beside `name/`"));
    }
    let words = path.iter().map(|word| word.to_string_lossy());
    for word in words.map(|word| word.trim_end_matches(".rs").to_owned()) {
        if EMPTY_NAMES.contains(&word.as_str()) {
            let rule = format!("`{word}` says nothing: name the noun");
            violations.push(Violation::new(&place, rule));
        }
    }
    violations
}

fn check_columns(line: &str) -> Vec<String> {
    let columns = line.chars().count();
    let too_long = columns > COLUMNS_MAX;
    too_long.then(|| format!("{columns} columns, at most {COLUMNS_MAX}")).into_iter().collect()
}

fn check_references(line: &str) -> Option<String> {
    let found = odd_rfc(line)?;
    Some(format!("write `{found}` as `RFC 5321 §4.5.2`, so that grep finds it"))
}

fn check_calls(path: &Path, line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut broken = Vec::new();
    for banned in &BANNED {
        let allowed = banned.allowed.iter().any(|end| path.ends_with(end));
        if code.contains(banned.call) && !allowed {
            broken.push(format!("`{}`: {}", banned.call.trim_end_matches('('), banned.why));
        }
    }
    if code.contains("Instant::now") && crate_of(path).is_some_and(|c| CLOCKLESS.contains(&c)) {
        broken.push("`Instant::now`: this crate has no clock, time is an argument".to_owned());
    }
    broken
}

/// Code that is shipped: below `src` of a crate other than the tooling.
fn is_product(path: &Path) -> bool {
    let in_src = path.iter().nth(2).is_some_and(|dir| dir == "src");
    in_src && crate_of(path).is_some_and(|name| name != "xtask")
}

fn crate_of(path: &Path) -> Option<&str> {
    let mut words = path.iter();
    words.next().filter(|first| *first == "crates")?;
    words.next()?.to_str()
}

/// A reference to an RFC that is not written `RFC n` or `RFC n §x`.
fn odd_rfc(line: &str) -> Option<&str> {
    let mut rest = line;
    while let Some(at) = rest.find("RFC") {
        let word_begins = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let reference = &rest[at..];
        rest = &rest[at + 3..];
        if word_begins && is_odd(reference) {
            return Some(reference.get(..24).unwrap_or(reference).trim_end());
        }
    }
    None
}

fn is_odd(reference: &str) -> bool {
    let after = &reference[3..];
    let spaced = after.strip_prefix(' ');
    let number = spaced.unwrap_or(after).trim_start_matches(['-', ' ']);
    let digits = number.bytes().take_while(u8::is_ascii_digit).count();
    let is_address_type = spaced.is_none() && number.starts_with("822");
    if digits < 3 || is_address_type {
        return false;
    }
    if spaced.is_none_or(|spaced| spaced.len() != number.len()) {
        return true;
    }
    let tail = &number[digits..];
    if let Some(section) = tail.strip_prefix(" §") {
        return !section.starts_with(|c: char| c.is_ascii_alphanumeric());
    }
    let words = tail.trim_start_matches([',', ' ', ':']).to_ascii_lowercase();
    words.starts_with('§') || words.starts_with("section") || words.starts_with("sec.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn references_to_rfcs_have_one_form() {
        let good =
            "RFC 5321 §4.5.2|RFC 3464 §2.3.1, RFC 3461|see RFC 5321.|RFC 6532 §A.1|RFC822;a@b";
        for line in good.split('|') {
            assert_eq!(odd_rfc(line), None, "{line}");
        }
        let bad = "RFC5321 §4.5|RFC-5321|RFC 5321 section 4.5|RFC 5321, §4|RFC 5321 §|RFC  5321|\
                   RFC 5321 § 4.5|RFC 5321§4|see RFC 2920 and RFC2033";
        for line in bad.split('|') {
            assert!(odd_rfc(line).is_some(), "{line}");
        }
    }

    #[test]
    fn calls_are_banned_in_product_code_only() {
        let spawn = "fn f() { tokio::spawn(x); }\n";
        assert_eq!(broken("crates/ingress/src/lib.rs", spawn).len(), 1);
        assert_eq!(broken("crates/ingress/tests/x.rs", spawn), Vec::<String>::new());
        assert_eq!(broken("tests/src/load.rs", spawn), Vec::<String>::new());
        assert_eq!(broken("crates/xtask/src/main.rs", spawn), Vec::<String>::new());
        let in_tests = format!("fn g() {{}}\n#[cfg(test)]\nmod tests {{ {spawn} }}\n");
        assert_eq!(broken("crates/ingress/src/lib.rs", &in_tests), Vec::<String>::new());
        assert_eq!(broken("crates/ingress/src/lib.rs", "// not tokio::spawn(x)\n").len(), 0);
    }

    #[test]
    fn clocks_are_read_in_one_place() {
        let now = "let now = std::time::SystemTime::now();\n";
        assert_eq!(broken("crates/runtime/src/clock.rs", now), Vec::<String>::new());
        assert_eq!(broken("crates/queue/src/lib.rs", now).len(), 1);
        let instant = "let t = Instant::now();\n";
        assert_eq!(broken("crates/smtp/src/lib.rs", instant).len(), 1);
        assert_eq!(broken("crates/delivery/src/lib.rs", instant), Vec::<String>::new());
    }

    #[test]
    fn names_and_lengths() {
        assert_eq!(broken("crates/smtp/src/server/mod.rs", "").len(), 1);
        assert_eq!(broken("crates/smtp/src/util.rs", "").len(), 1);
        assert_eq!(broken("crates/common/src/lib.rs", "").len(), 1);
        assert_eq!(broken("crates/smtp/src/lib.rs", &"x\n".repeat(801)).len(), 1);
        assert_eq!(broken("crates/smtp/src/lib.rs", &"x\n".repeat(800)), Vec::<String>::new());
        let line = "é".repeat(100);
        assert_eq!(broken("crates/smtp/src/lib.rs", &line), Vec::<String>::new());
        assert_eq!(broken("crates/smtp/src/lib.rs", &format!("{line}é")).len(), 1);
    }
}
