//! What a process writes, held against the golden samples of `docs/log.md`.

use anyhow::{Result, ensure};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/log.md");

/// Fails at the first line of ours that no sample shows: event, level, module, names of fields and
/// the type of each.
pub fn check(lines: &[Value]) -> Result<()> {
    let samples = samples();
    let is_ours = |line: &Value| {
        let target = line["target"].as_str().unwrap_or_default();
        let own = target.split("::").next();
        samples.iter().any(|sample| crate_of(sample) == own)
    };
    for line in lines.iter().filter(|line| is_ours(line) && line["level"] != "DEBUG") {
        let is_shown = samples.iter().any(|sample| shows(sample, line));
        ensure!(is_shown, "docs/log.md has no sample of {line}");
    }
    Ok(())
}

fn samples() -> Vec<Value> {
    let lines = PAGE.lines().filter(|line| line.starts_with('{'));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn crate_of(line: &Value) -> Option<&str> {
    line["target"].as_str()?.split("::").next()
}

fn shows(sample: &Value, line: &Value) -> bool {
    let same = ["event", "level", "target"].into_iter().all(|name| sample[name] == line[name]);
    let fields = line.as_object().into_iter().flatten();
    let kind = std::mem::discriminant::<Value>;
    same && fields
        .into_iter()
        .all(|(name, value)| sample.get(name).is_some_and(|shown| kind(shown) == kind(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shown(line: &str) -> bool {
        check(&[serde_json::from_str(line).unwrap()]).is_ok()
    }

    #[test]
    fn only_what_is_shown_passes() {
        let line = r#"{"timestamp":"t","level":"WARN","event":"commit_repeated","id":"x",
            "error":"e","target":"ingress::session::content"}"#;
        assert!(is_shown(line));
        assert!(is_shown(&line.replace(r#""id":"x","#, "")), "without a value it is left out");
        for (before, after) in [
            ("commit_repeated", "commit_tried"),
            ("WARN", "INFO"),
            ("session::content", "session"),
            (r#""id":"x""#, r#""id":7"#),
            (r#""id""#, r#""job""#),
        ] {
            assert!(!is_shown(&line.replace(before, after)), "{before}: {after}");
        }
        assert!(is_shown(r#"{"level":"INFO","event":"connected","target":"async_nats"}"#));
    }
}
