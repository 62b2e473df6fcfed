//! docs/rfc.md promises cases: each of them exists.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_case_of_the_rfc_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/rfc.md")).unwrap();
    let mut sources = String::new();
    for folder in ["crates", "tests"] {
        for path in rust_files(&root.join(folder)) {
            for word in fs::read_to_string(path).unwrap().split_whitespace() {
                sources.extend([word, " "]);
            }
        }
    }
    let missing: Vec<&str> = cases(&page).into_iter().filter(|c| !exists(c, &sources)).collect();
    assert!(missing.is_empty(), "docs/rfc.md names cases that nobody has: {missing:?}");
}

/// The words in back quotes of the last column.
fn cases(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.ends_with(" |"));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// A test function, a row of the dialogue table, or a counter by its name in the source.
fn exists(case: &str, sources: &str) -> bool {
    let counter = case.strip_prefix("ingress_").and_then(|name| name.strip_suffix("_total"));
    let forms = [
        format!("] fn {case}("),
        format!("] async fn {case}("),
        format!("name: \"{case}\""),
        format!("tolerated(\"{case}\")"),
        format!("register( \"{}\"", counter.unwrap_or("none")),
    ];
    forms.iter().any(|form| sources.contains(form))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
