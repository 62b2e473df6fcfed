//! Where each field of a document stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned};

/// A line and a column of the file, counted from 1.
type Place = (u64, u64);

/// The places of all fields of a document, by path, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct Places(Vec<Field>);

#[derive(Clone, Debug)]
struct Field {
    path: String,
    /// Where its name stands; for an item of a list, its value.
    key: Place,
    value: Place,
    is_map: bool,
}

impl Places {
    /// Those of a text that is one document; none, if it is no YAML.
    pub fn of_document(text: &str) -> Self {
        Self::read(text, 1).unwrap_or_default()
    }

    /// Reads a document that begins on line `first_line` of its file.
    pub(super) fn read(text: &str, first_line: u64) -> Result<Self, Error> {
        let root: Spanned<Node> = serde_saphyr::from_str(text)?;
        let mut places = Self::default();
        places.add(String::new(), root.referenced, &root, first_line);
        Ok(places)
    }

    fn add(&mut self, path: String, key: Location, node: &Spanned<Node>, first_line: u64) {
        let place = |at: Location| (first_line + at.line().saturating_sub(1), at.column());
        let is_map = matches!(node.value, Node::Map(_));
        let (key, value) = (place(key), place(node.referenced));
        self.0.push(Field { path: path.clone(), key, value, is_map });
        match &node.value {
            Node::Map(fields) => {
                for (name, field) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    let path = format!("{path}{dot}{}", name.value);
                    self.add(path, name.referenced, field, first_line);
                }
            }
            Node::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.add(format!("{path}[{n}]"), item.referenced, item, first_line);
                }
            }
            Node::Scalar => {}
        }
    }

    /// Where a field stands, or else the nearest that encloses it.
    pub fn of(&self, path: &str) -> (u64, u64) {
        let mut path = path;
        loop {
            if let Some(field) = self.0.iter().find(|field| field.path == path) {
                return field.key;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None if path.is_empty() => return (0, 0),
                None => path = "",
            }
        }
    }

    /// The path of the field whose name or value stands here; empty when none does.
    pub fn field_at(&self, line: u64, column: u64) -> String {
        let place = (line, column);
        let paths = [self.key_at(place), self.value_at(place), self.map_at(place)];
        paths.into_iter().find(|path| !path.is_empty()).unwrap_or_default()
    }

    /// The path of the field whose name stands here.
    pub(super) fn key_at(&self, place: Place) -> String {
        self.path(|field| field.key == place && field.value != place)
    }

    /// The path of the field whose value stands here.
    pub(super) fn value_at(&self, place: Place) -> String {
        self.path(|field| field.value == place)
    }

    /// The path of the map that begins here.
    pub(super) fn map_at(&self, place: Place) -> String {
        self.path(|field| field.is_map && field.value == place)
    }

    fn path(&self, wanted: impl Fn(&Field) -> bool) -> String {
        let found = self.0.iter().find(|field| wanted(field));
        found.map(|field| field.path.clone()).unwrap_or_default()
    }
}

/// A YAML value of any shape, of which only the places matter.
enum Node {
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
    List(Vec<Spanned<Self>>),
    Scalar,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
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

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Scalar)
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

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar)
    }
}
