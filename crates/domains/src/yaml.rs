//! Resources from YAML text.

use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Error;

use crate::problem::{Problem, Source};
use crate::spec::{API_VERSION, MailDomainSpec, MailboxSpec, Metadata};

mod places;

pub use places::Places;

pub(crate) const MAIL_DOMAIN: &str = "MailDomain";
pub(crate) const MAILBOX: &str = "Mailbox";

/// A resource of one of our kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resource {
    MailDomain { metadata: Metadata, spec: MailDomainSpec },
    Mailbox { metadata: Metadata, spec: MailboxSpec },
}

/// A resource with its place.
#[derive(Clone, Debug)]
pub struct Declared {
    pub(crate) resource: Resource,
    file: String,
    first_line: u64,
    /// Empty when it does not come from YAML text.
    text: String,
    /// Of its fields, once a problem asks for them: most resources have none.
    places: OnceLock<Places>,
}

impl Declared {
    /// A resource that does not come from YAML text; problems name `file` for it.
    pub fn new(file: impl Into<String>, resource: Resource) -> Self {
        let (file, text, places) = (file.into(), String::new(), OnceLock::new());
        Self { resource, file, first_line: 0, text, places }
    }

    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// The name of its file for messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Where `field` of this resource stands, or what encloses it.
    pub(crate) fn place(&self, field: &str) -> Source {
        let read = || Places::read(&self.text, self.first_line).unwrap_or_default();
        let (line, column) = self.places.get_or_init(read).of(field);
        Source { file: self.file.clone(), line, column }
    }

    /// A problem with `field` of this resource.
    pub(crate) fn problem(&self, field: &str, message: String, remedy: &str) -> Problem {
        Problem {
            at: self.place(field),
            field: field.to_owned(),
            message,
            remedy: remedy.to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    api_version: String,
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body<S> {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: S,
}

/// Reads all documents of `text`; `file` is its name in messages.
pub fn parse(file: &str, text: &str) -> Result<Vec<Declared>, Vec<Problem>> {
    let (found, problems) = read(file, text);
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// What can be read of `text`, and what is wrong with the rest.
fn read(file: &str, text: &str) -> (Vec<Declared>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for document in documents(file, text) {
        match document.read() {
            Ok(declared) => found.push(declared),
            Err(problem) => problems.push(problem),
        }
    }
    (found, problems)
}

/// The documents that hold more than comments, with their first line.
///
/// YAML lets nothing but a marker begin a line with `---` (YAML 1.2 §9.1.2), so each document can
/// be read alone, and a mistake in one does not hide those in others.
pub(crate) fn documents<'a>(file: &'a str, text: &'a str) -> Vec<Document<'a>> {
    let (mut found, mut start, mut first_line, mut at) = (Vec::new(), 0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1u64..) {
        let marker = line.strip_prefix("---");
        if marker.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            found.push(Document { file, first_line, text: &text[start..at] });
            (start, first_line) = (at, number);
        }
        at += line.len();
    }
    found.push(Document { file, first_line, text: &text[start..] });
    let says_something = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && line != "..." && !line.starts_with('#')
    };
    found.retain(|document| document.text.lines().any(says_something));
    found
}

/// One document of a file.
pub(crate) struct Document<'a> {
    file: &'a str,
    first_line: u64,
    text: &'a str,
}

impl Document<'_> {
    /// Whether it could declare a domain, as a look at its text can tell: there is no other way to
    /// write the word but by escapes.
    pub(crate) fn may_be_domain(&self) -> bool {
        self.text.contains(MAIL_DOMAIN) || self.text.contains('\\')
    }

    pub(crate) fn read(&self) -> Result<Declared, Problem> {
        let resource = match self.read_as_good_mailbox() {
            Some(resource) => resource,
            None => self.read_by_kind()?,
        };
        Ok(Declared {
            resource,
            file: self.file.to_owned(),
            first_line: self.first_line,
            text: self.text.to_owned(),
            places: OnceLock::new(),
        })
    }

    /// What nearly every document is, read once; nothing is told of what it is not.
    fn read_as_good_mailbox(&self) -> Option<Resource> {
        let text = (!self.may_be_domain()).then_some(self.text)?;
        let body: Body<MailboxSpec> = serde_saphyr::from_str(text).ok()?;
        let is_mailbox = body.api_version == API_VERSION && body.kind == MAILBOX;
        is_mailbox.then_some(Resource::Mailbox { metadata: body.metadata, spec: body.spec })
    }

    fn read_by_kind(&self) -> Result<Resource, Problem> {
        let kind: Kind = self.read_as()?;
        if kind.api_version != API_VERSION {
            let remedy = "write postrider.dev/v1alpha1";
            return Err(self.unknown("apiVersion", &kind.api_version, remedy));
        }
        match kind.kind.as_str() {
            MAIL_DOMAIN => {
                let Body { metadata, spec, .. } = self.read_as()?;
                Ok(Resource::MailDomain { metadata, spec })
            }
            MAILBOX => {
                let Body { metadata, spec, .. } = self.read_as()?;
                Ok(Resource::Mailbox { metadata, spec })
            }
            other => Err(self.unknown("kind", other, "write MailDomain or Mailbox")),
        }
    }

    fn read_as<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_saphyr::from_str(self.text).map_err(|error| {
            // What is no YAML at all is said first.
            match Places::read(self.text, self.first_line) {
                Ok(places) => self.mistake(&error, &places),
                Err(error) => self.mistake(&error, &Places::default()),
            }
        })
    }

    fn unknown(&self, field: &str, value: &str, remedy: &str) -> Problem {
        let places = Places::read(self.text, self.first_line).unwrap_or_default();
        let (line, column) = places.of(field);
        Problem {
            at: Source { file: self.file.to_owned(), line, column },
            field: field.to_owned(),
            message: format!("{value:?} is not known"),
            remedy: remedy.to_owned(),
        }
    }

    /// Says what the YAML reader says, in our form.
    fn mistake(&self, error: &Error, places: &Places) -> Problem {
        let error = error.without_snippet();
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        let text = error.to_string();
        let place = format!(" at line {line}, column {column}");
        let text = text.strip_suffix(&place).unwrap_or(&text);
        // What the reader advises its callers is no advice to those who write YAML.
        let advice = [", set DuplicateKeyPolicy in Options if acceptable", "; use Option<String>"];
        let text = advice.iter().find_map(|advice| text.strip_suffix(advice)).unwrap_or(text);
        let message = text.to_owned();
        let at = (self.first_line + line.saturating_sub(1), column);
        let (field, at) = if matches!(error, Error::SerdeMissingField { .. }) {
            let field = places.map_at(at);
            (field.clone(), if field.is_empty() { at } else { places.of(&field) })
        } else if matches!(error, Error::SerdeUnknownField { .. }) {
            (places.key_at(at), at)
        } else {
            (places.value_at(at), at)
        };
        let at = Source { file: self.file.to_owned(), line: at.0, column: at.1 };
        let remedy = "compare with the examples of examples/quickstart/domains".to_owned();
        Problem { at, field, message, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                          metadata: {name: d}\nspec:\n  domain: example.org\n";

    #[test]
    fn several_documents_with_their_lines() {
        let aliases = "  inbound:\n    aliases:\n    - match: a\n      to: [b@example.org]\n";
        let text = format!("# a comment\n---\n{DOMAIN}--- # another\n{DOMAIN}{aliases}---\n...\n");
        let found = parse("f.yaml", &text).unwrap();
        assert_eq!(found.len(), 2);
        for (field, line) in [
            ("spec.inbound.aliases[0].to[0]", 17),
            ("spec.inbound.aliases[0].match", 16),
            ("spec.inbound.aliases[0].none", 16),
            ("spec.inbound.catchAll", 14),
            ("metadata.namespace", 11),
            ("status", 9),
        ] {
            assert_eq!(found[1].problem(field, String::new(), "").at.line, line, "{field}");
        }
    }

    #[test]
    fn mistakes_of_form_name_their_place() {
        let with = |line: &str| format!("{DOMAIN}{line}\n");
        for (text, want) in [
            ("kind: MailDomain\n".to_owned(), "f:1: missing field `apiVersion`"),
            (DOMAIN.replace("v1alpha1", "v2"), "f:1: apiVersion: \"postrider.dev/v2\" is not"),
            (DOMAIN.replace("MailDomain", "MailServer"), "f:2: kind: \"MailServer\" is not"),
            (DOMAIN.replace("domain:", "dommain:"), "f:5: spec.dommain: unknown field"),
            (DOMAIN.replace("domain:", "inbound: {} #"), "f:4: spec: missing field `domain`"),
            (
                with("  inbound: {maxMessageSizeBytes: 3 MB}"),
                "f:6: spec.inbound.maxMessageSizeBytes: invalid u64",
            ),
            (
                with("  inbound:\n    aliases:\n    - match: x\n"),
                "f:8: spec.inbound.aliases[0]: missing field `to`",
            ),
            (
                with("  inbound:\n    aliases: x\n"),
                "f:7: spec.inbound.aliases: expected sequence start",
            ),
            (with("  domain: twice.example"), "f:6: duplicate mapping key: domain"),
            (with("\tx: y"), "f:5: while scanning a plain scalar, found a tab"),
            ("a: [\n".to_owned(), "f:1: unclosed bracket"),
            ("just text\n".to_owned(), "f:1: expected mapping start"),
        ] {
            let problems = parse("f", &text).unwrap_err();
            assert_eq!(problems.len(), 1);
            let shown = problems[0].to_string();
            assert!(shown.starts_with(want), "{shown}\nis not {want}");
        }
    }
}
