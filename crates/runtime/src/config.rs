//! Reading a configuration file into a typed value.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read: {reason}; name the directory that holds it", path.display())]
    Read { path: PathBuf, reason: io::Error },
    /// The reason names the field.
    #[error(
        "{}:{line}:{column}: {reason}; docs/configuration.md lists every field",
        path.display()
    )]
    Field { path: PathBuf, line: u64, column: u64, reason: String },
}

/// Reads a YAML file. A field that is not known is an error: a typo must not be a default.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|reason| ConfigError::Read { path: path.to_owned(), reason })?;
    serde_saphyr::from_str(&text).map_err(|error| ConfigError::Field {
        path: path.to_owned(),
        line: error.location().map_or(0, |at| at.line()),
        column: error.location().map_or(0, |at| at.column()),
        reason: error.without_snippet().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        port_count: u16,
    }

    fn load_text(text: &str) -> Result<Sample, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.yaml");
        fs::write(&path, text).unwrap();
        load(&path).map_err(|error: ConfigError| {
            error.to_string().replace(&path.display().to_string(), "f.yaml")
        })
    }

    #[test]
    fn errors_name_file_line_and_field() {
        assert_eq!(load_text("portCount: 3\n"), Ok(Sample { port_count: 3 }));
        for (text, start, part) in [
            ("# x\nportCuont: 3\n", "f.yaml:2:1: ", "portCuont"),
            ("portCount: many\n", "f.yaml:1:12: ", "u16"),
            ("portCount: 70000\n", "f.yaml:1:12: ", "u16"),
            ("", "f.yaml:", "end of input"),
        ] {
            let error = load_text(text).unwrap_err();
            assert!(error.starts_with(start) && error.contains(part), "{text:?}: {error}");
        }
        let missing = load::<Sample>(Path::new("/nonexistent/f.yaml")).unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent/f.yaml: cannot be read"));
    }
}
