//! What keys are called.

use domains::Row;
use nats::token;

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
