//! Resources from YAML text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::problem::{Problem, Source};
use crate::spec::{API_VERSION, MailDomainSpec, MailboxSpec, Metadata};

/// A resource of one of our kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resource {
    MailDomain { metadata: Metadata, spec: MailDomainSpec },
    Mailbox { metadata: Metadata, spec: MailboxSpec },
}

/// A resource with its place in a file.
#[derive(Clone, Debug)]
pub struct Declared {
    pub resource: Resource,
    file: String,
    /// The line of the document.
    line: u64,
    /// The line of each field, by path.
    lines: BTreeMap<String, u64>,
}

impl Declared {
    /// A problem with `field` of this resource.
    pub(crate) fn problem(&self, field: &str, message: String, remedy: &str) -> Problem {
        let line = self.lines.get(field).copied().unwrap_or(self.line);
        Problem {
            source_place: Source { file: self.file.clone(), line },
            field: field.to_owned(),
            message,
            remedy: remedy.to_owned(),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    api_version: String,
    kind: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: S,
}

/// Reads all documents of `text`; `file` is its name in messages.
pub fn parse(file: &str, text: &str) -> Result<Vec<Declared>, Vec<Problem>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (first_line, document) in documents(text) {
        match parse_document(file, first_line, document) {
            Ok(declared) => found.push(declared),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// The documents between `---` lines that hold more than comments, with their first line.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let (mut found, mut start, mut first_line, mut at) = (Vec::new(), 0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1u64..) {
        let end = at + line.len();
        if line.trim_end() == "---" {
            found.push((first_line, &text[start..at]));
            (start, first_line) = (end, number + 1);
        }
        at = end;
    }
    found.push((first_line, &text[start..]));
    let says_something = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    };
    found.retain(|(_, document)| document.lines().any(says_something));
    found
}

fn parse_document(file: &str, first_line: u64, text: &str) -> Result<Declared, Problem> {
    let problem = |line: u64, field: &str, message: String, remedy: &str| Problem {
        source_place: Source { file: file.to_owned(), line },
        field: field.to_owned(),
        message,
        remedy: remedy.to_owned(),
    };
    let yaml_problem = |error: serde_saphyr::Error| {
        let line = error.location().map_or(first_line, |at| first_line + at.line() - 1);
        let message = error.without_snippet().to_string();
        problem(line, "", message, "compare with examples/quickstart/domains")
    };
    let kind: Kind = serde_saphyr::from_str(text).map_err(yaml_problem)?;
    if kind.api_version != API_VERSION {
        let message = format!("{:?} is not a version we know", kind.api_version);
        return Err(problem(first_line, "apiVersion", message, "write postrider.dev/v1alpha1"));
    }
    let resource = match kind.kind.as_str() {
        "MailDomain" => {
            let Document { metadata, spec, .. } =
                serde_saphyr::from_str(text).map_err(yaml_problem)?;
            Resource::MailDomain { metadata, spec }
        }
        "Mailbox" => {
            let Document { metadata, spec, .. } =
                serde_saphyr::from_str(text).map_err(yaml_problem)?;
            Resource::Mailbox { metadata, spec }
        }
        other => {
            let message = format!("{other:?} is not a kind we know");
            return Err(problem(first_line, "kind", message, "write MailDomain or Mailbox"));
        }
    };
    let tree: Spanned<Node> = serde_saphyr::from_str(text).map_err(yaml_problem)?;
    let mut lines = BTreeMap::new();
    collect_lines(&tree, "", first_line, &mut lines);
    Ok(Declared { resource, file: file.to_owned(), line: first_line, lines })
}

/// A YAML value of any shape, of which only the places matter.
enum Node {
    Map(Vec<(String, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

impl<'de> Deserialize<'de> for Node {
    // By hand: what serde derives for such an enum reads the value into a buffer without places.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
}

fn collect_lines(node: &Spanned<Node>, path: &str, first: u64, lines: &mut BTreeMap<String, u64>) {
    lines.insert(path.to_owned(), first + node.referenced.line().saturating_sub(1));
    match &node.value {
        Node::Map(fields) => {
            for (name, field) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                collect_lines(field, &format!("{path}{dot}{name}"), first, lines);
            }
        }
        Node::List(items) => {
            for (n, item) in items.iter().enumerate() {
                collect_lines(item, &format!("{path}[{n}]"), first, lines);
            }
        }
        Node::Scalar => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
                          metadata: {name: d}\nspec:\n  domain: example.org\n";

    #[test]
    fn several_documents_with_their_lines() {
        let text = format!(
            "# a comment\n---\n{DOMAIN}---\n{DOMAIN}  inbound:\n    aliases:\n    - match: a\n      to: [b@example.org]\n"
        );
        let found = parse("f.yaml", &text).unwrap();
        assert_eq!(found.len(), 2);
        let problem = found[1].problem("spec.inbound.aliases[0].to[0]", "bad".into(), "mend it");
        assert_eq!(problem.to_string(), "f.yaml:17: spec.inbound.aliases[0].to[0]: bad; mend it");
    }

    #[test]
    fn mistakes_name_their_line() {
        let unknown = DOMAIN.replace("domain:", "dommain:");
        for (text, line, part) in [
            ("kind: MailDomain\n", 1, "apiVersion"),
            (&DOMAIN.replace("v1alpha1", "v2"), 1, "is not a version"),
            (&DOMAIN.replace("MailDomain", "MailServer"), 1, "is not a kind"),
            (unknown.as_str(), 5, "dommain"),
            ("a: [\n", 1, ""),
        ] {
            let problems = parse("f.yaml", text).unwrap_err();
            assert_eq!(problems.len(), 1);
            let shown = problems[0].to_string();
            assert!(shown.contains(part), "{shown}");
            assert_eq!(problems[0].source_place.line, line, "{shown}");
        }
    }
}
