//! Every log line has a golden sample in `docs/log.md`, and no sample is of a line that is gone.
//!
//! The lines are read from the sources: level, target, event, names of fields, message. What a
//! process really writes is held against the same samples by every test that stops one (`tests`).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::Violation;

/// Where the samples are.
pub(super) const PAGE: &str = "docs/log.md";
/// Levels that are written unless somebody asks for more.
const LEVELS: [&str; 3] = ["info", "warn", "error"];

/// A call that writes a line, or a sample of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// Of a call it may be one of several.
    events: Vec<String>,
    level: String,
    target: String,
    fields: BTreeSet<String>,
    /// Of a call it may have `{placeholders}`.
    message: Option<String>,
}

/// Holds the calls of all sources against the samples.
pub(super) fn check<'a>(
    sources: impl Iterator<Item = (&'a Path, &'a str)>,
    page: &str,
) -> Vec<Violation> {
    let (samples, mut violations) = samples(page);
    let mut is_used = vec![false; samples.len()];
    for (path, text) in sources {
        let Some(target) = target(path) else { continue };
        for (number, call) in calls(text, &target) {
            for wanted in call.each_event() {
                let fitting: Vec<usize> =
                    (0..samples.len()).filter(|&n| wanted.is_shown_by(&samples[n].1)).collect();
                if wanted.fields.contains("message") {
                    let rule = "a field `message` would be written over by the text: name it `id`";
                    violations.push(Violation::new(format!("{}:{number}", path.display()), rule));
                }
                if fitting.is_empty() {
                    let rule = format!("{PAGE} has no sample of it: {}", wanted.suggestion());
                    let place = format!("{}:{number}", path.display());
                    violations.push(Violation::new(place, rule));
                }
                fitting.into_iter().for_each(|n| is_used[n] = true);
            }
        }
    }
    let unused = samples.iter().zip(is_used).filter(|(_, is_used)| !is_used);
    violations.extend(unused.map(|((number, _), _)| {
        Violation::new(format!("{PAGE}:{number}"), "no call writes such a line any more")
    }));
    violations
}

impl Line {
    /// A line for each event that the call may write.
    fn each_event(&self) -> Vec<Self> {
        if self.events.is_empty() {
            return vec![self.clone()];
        }
        self.events
            .iter()
            .map(|event| Self { events: vec![event.clone()], ..self.clone() })
            .collect()
    }

    fn is_shown_by(&self, sample: &Self) -> bool {
        let message = match (&self.message, &sample.message) {
            (Some(format), Some(text)) => fits(format, text),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let same = |of: &Self| (of.events.clone(), of.level.clone(), of.target.clone());
        message && same(self) == same(sample) && self.fields == sample.fields
    }

    /// A sample to be completed.
    fn suggestion(&self) -> String {
        let pair = |name: &str, value: &str| format!("{}:{}", quoted(name), quoted(value));
        let mut pairs = vec![pair("timestamp", "2026-11-29T12:00:00.000000Z")];
        pairs.push(pair("level", &self.level.to_uppercase()));
        pairs.extend(self.message.iter().map(|message| pair("message", message)));
        pairs.extend(self.events.iter().map(|event| pair("event", event)));
        pairs.extend(self.fields.iter().map(|field| pair(field, "…")));
        pairs.push(pair("target", &self.target));
        format!("{{{}}}", pairs.join(","))
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Whether a text can be made of a format: its fixed parts are there, in order.
fn fits(format: &str, text: &str) -> bool {
    let parts: Vec<&str> =
        format.split('{').map(|p| p.split_once('}').map_or(p, |p| p.1)).collect();
    let [first, middle @ ..] = &parts[..] else { return format == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    if middle.is_empty() {
        return rest.is_empty();
    }
    for part in middle {
        let Some(at) = rest.rfind(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// The samples of the page with their lines; and what is no sample.
fn samples(page: &str) -> (Vec<(usize, Line)>, Vec<Violation>) {
    let (mut samples, mut violations) = (Vec::new(), Vec::new());
    for (index, text) in page.lines().enumerate().filter(|(_, text)| text.starts_with('{')) {
        match serde_json::from_str(text).ok().and_then(|value| sample(&value)) {
            Some(line) => samples.push((index + 1, line)),
            None => {
                let rule = "no log line: timestamp, level and target are strings, in one object";
                violations.push(Violation::new(format!("{PAGE}:{}", index + 1), rule));
            }
        }
    }
    (samples, violations)
}

fn sample(value: &Value) -> Option<Line> {
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    text("timestamp")?;
    let fixed = ["timestamp", "level", "target", "event", "message"];
    let fields = value.as_object()?.keys().filter(|name| !fixed.contains(&name.as_str()));
    Some(Line {
        events: text("event").into_iter().collect(),
        level: text("level")?.to_lowercase(),
        target: text("target")?,
        fields: fields.cloned().collect(),
        message: text("message"),
    })
}

/// The module of a source of the product, as lines name it.
fn target(path: &Path) -> Option<String> {
    let words: Vec<&str> = path.iter().filter_map(|word| word.to_str()).collect();
    let ["crates", name, "src", rest @ ..] = &words[..] else { return None };
    if *name == "xtask" {
        return None;
    }
    let modules = rest.iter().map(|word| word.trim_end_matches(".rs"));
    let modules = modules.filter(|word| !["lib", "main"].contains(word));
    let all: Vec<String> =
        [*name].into_iter().chain(modules).map(|w| w.replace('-', "_")).collect();
    Some(all.join("::"))
}

/// The calls of a source that write a line, with their line numbers.
fn calls(text: &str, target: &str) -> Vec<(usize, Line)> {
    let product = text.find("\n#[cfg(test)]\nmod ").map_or(text, |tests| &text[..tests]);
    let mut found = Vec::new();
    for level in LEVELS {
        let call = format!("{level}!(");
        for (at, _) in product.match_indices(&call) {
            let before = product[..at].chars().next_back();
            let is_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let line_start = product[..at].rfind('\n').map_or(0, |start| start + 1);
            if is_word || product[line_start..at].contains("//") {
                continue;
            }
            let arguments = arguments(&product[at + call.len()..]);
            let number = product[..at].matches('\n').count() + 1;
            found.push((number, read_call(&arguments, level, target, text)));
        }
    }
    found
}

/// The arguments up to the closing parenthesis, split at commas that are in nothing else.
fn arguments(text: &str) -> Vec<String> {
    let (mut all, mut argument) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(std::mem::take(&mut argument));
                continue;
            }
            _ => {}
        }
        argument.push(c);
    }
    all.push(argument);
    let trimmed = all.iter().map(|argument| argument.trim().to_owned());
    trimmed.filter(|argument| !argument.is_empty()).collect()
}

fn read_call(arguments: &[String], level: &str, target: &str, source: &str) -> Line {
    let mut line = Line {
        events: Vec::new(),
        level: level.to_owned(),
        target: target.to_owned(),
        fields: BTreeSet::new(),
        message: None,
    };
    for argument in arguments {
        if argument.starts_with('"') {
            line.message = Some(literal(argument));
            // What follows fills its placeholders.
            break;
        }
        let (name, value) = argument.split_once(" = ").unwrap_or((argument.as_str(), ""));
        match name.trim_start_matches(['%', '?']) {
            "event" => line.events = events(value, source),
            field => {
                line.fields.insert(field.to_owned());
            }
        }
    }
    line
}

/// The event, or all that a function of the same source may name.
fn events(value: &str, source: &str) -> Vec<String> {
    if value.starts_with('"') {
        return vec![literal(value)];
    }
    let name = value.split('(').next().unwrap_or_default();
    let body = source.split_once(&format!("fn {name}(")).map_or("", |(_, rest)| rest);
    let body = body.split("\n}\n").next().unwrap_or_default();
    let arms = body.lines().filter_map(|arm| arm.split_once("=> ")?.1.strip_suffix(','));
    arms.map(literal).collect()
}

/// A string literal without its quotes; a line that goes on is joined as the compiler does.
fn literal(text: &str) -> String {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let mut lines = inner.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let joined = lines.fold(first, |joined, line| joined + line.trim_start());
    joined.replace("\\\"", "\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
fn f() {
    tracing::info!(event = "accepted", id = %job.id, size, tls = tls.map(|t| (t, ",")));
    // tracing::info!(event = "commented")
    warn!(%error, "waits {n} s, \
                   or \"more\"", n = 3);
    error!(
        event = name(first),
        ?filter,
    );
    tracing::debug!("not told");
}
fn name(fate: Fate) -> &'static str {
    match fate {
        Fate::Deferred => "deferred",
        Fate::Bounced => "bounced",
    }
}
#[cfg(test)]
mod tests { fn g() { tracing::info!(event = "of a test"); } }
"#;

    const PAGE: &str = r#"
{"timestamp":"t","level":"INFO","event":"accepted","id":"1","size":2,"tls":"x","target":"a_b::c"}
{"timestamp":"t","level":"WARN","message":"waits 3 s, or \"more\"","error":"e","target":"a_b::c"}
{"timestamp":"t","level":"ERROR","event":"deferred","filter":"f","target":"a_b::c"}
{"timestamp":"t","level":"ERROR","event":"bounced","filter":"f","target":"a_b::c"}
"#;

    fn broken(source: &str, page: &str) -> Vec<String> {
        let path = Path::new("crates/a-b/src/c.rs");
        check([(path, source)].into_iter(), page).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_call_has_its_sample() {
        assert_eq!(broken(SOURCE, PAGE), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_its_sample_and_a_sample_without_its_line_are_found() {
        for (before, after, count) in [
            ("\"accepted\"", "\"taken\"", 2),
            ("size,", "octets,", 2),
            ("error!(", "warn!(", 4),
            ("waits {n}", "waited {n}", 2),
            ("Fate::Bounced => \"bounced\"", "Fate::Bounced => \"failed\"", 2),
        ] {
            let found = broken(&SOURCE.replace(before, after), PAGE);
            assert_eq!(found.len(), count, "{before}: {found:#?}");
        }
        let found = broken(SOURCE, &PAGE.replace("\"timestamp\":\"t\",\"level\":\"INFO\",", ""));
        assert_eq!(found.len(), 2, "{found:#?}");
        let twice = "fn f() { tracing::warn!(%message, \"text\"); }\n";
        assert!(broken(twice, "")[0].contains("written over"));
        // What is missing is said in the form that is wanted.
        let missing = broken("fn f() { tracing::info!(event = \"new\", id); }\n", "");
        let sample = missing[0].split_once("of it: ").unwrap().1;
        assert_eq!(broken("fn f() { tracing::info!(event = \"new\", id); }\n", sample).len(), 0);
    }

    #[test]
    fn formats_are_told_from_texts() {
        assert!(fits("a {x} b {y}", "a 1 b 2"));
        assert!(fits("plain", "plain"));
        assert!(fits("{x}", "anything"));
        assert!(!fits("a {x} b", "a 1 c"));
        assert!(!fits("plain", "plain and more"));
    }
}
