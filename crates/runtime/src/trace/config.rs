//! Where spans go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry_otlp::ExporterBuildError;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// The section `telemetry`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Base address of the collector, such as `http://collector:4318`; without it no span leaves.
    pub endpoint: Option<String>,
    /// The share of messages whose spans are exported. Ids are logged and passed on for all.
    pub sample_ratio: f64,
    /// YAML, a line `name: value` for each header: secrets are not in the configuration itself.
    pub headers_file: Option<PathBuf>,
    /// PEM certificates trusted beside the public authorities.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { endpoint: None, sample_ratio: 1.0, headers_file: None, ca_file: None }
    }
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("endpoint: {0:?} is not an address such as http://collector:4318")]
    Endpoint(String),
    #[error("sampleRatio: {0} is not between 0 and 1")]
    Ratio(f64),
    #[error("headersFile: {0}")]
    HeadersFile(ConfigError),
    /// Without the value, which may be a secret.
    #[error("headersFile: the field {0:?} is not a header with a value in ASCII")]
    Header(String),
    #[error("caFile: {}: {reason}", path.display())]
    CaFile { path: PathBuf, reason: String },
    #[error("endpoint: no TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("endpoint: {0}")]
    Exporter(#[from] ExporterBuildError),
}

impl Config {
    /// Checks what the types cannot say, and that the files can be read.
    pub fn validate(&self) -> Result<(), TraceError> {
        self.endpoint()?;
        self.headers()?;
        match (0.0..=1.0).contains(&self.sample_ratio) {
            true => Ok(()),
            false => Err(TraceError::Ratio(self.sample_ratio)),
        }
    }

    /// Paths in the section, for the caller to make absolute.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.headers_file.iter_mut().chain(&mut self.ca_file)
    }

    /// Where spans are sent to: below the base address (OTLP 1.x, "OTLP/HTTP Request").
    pub(super) fn endpoint(&self) -> Result<Option<String>, TraceError> {
        let Some(base) = &self.endpoint else { return Ok(None) };
        let uri: Result<Uri, _> = base.parse();
        let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
        match uri {
            Ok(uri) if is_http(&uri) && uri.host().is_some() && uri.query().is_none() => {
                Ok(Some(format!("{}/v1/traces", base.trim_end_matches('/'))))
            }
            Ok(_) | Err(_) => Err(TraceError::Endpoint(base.clone())),
        }
    }

    pub(super) fn headers(&self) -> Result<BTreeMap<String, String>, TraceError> {
        let Some(file) = &self.headers_file else { return Ok(BTreeMap::new()) };
        let headers: BTreeMap<String, String> =
            crate::config::load(file).map_err(TraceError::HeadersFile)?;
        for (name, value) in &headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
                return Err(TraceError::Header(name.clone()));
            }
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: &str) -> Config {
        Config { endpoint: Some(endpoint.to_owned()), ..Config::default() }
    }

    #[test]
    fn endpoints() {
        for base in ["http://c:4318", "http://c:4318/"] {
            let want = Some("http://c:4318/v1/traces".to_owned());
            assert_eq!(of(base).endpoint().unwrap(), want);
        }
        for not_one in ["collector:4318", "grpc://c:4317", "/v1", "http://c/?x=1", ""] {
            let error = of(not_one).validate().unwrap_err();
            assert!(matches!(error, TraceError::Endpoint(_)), "{not_one}: {error}");
        }
    }

    #[test]
    fn ratios_are_shares() {
        for (ratio, good) in [(0.0, true), (1.0, true), (1.1, false), (f64::NAN, false)] {
            let config = Config { sample_ratio: ratio, ..Config::default() };
            assert_eq!(config.validate().is_ok(), good, "{ratio}");
        }
    }

    #[test]
    fn a_bad_header_is_named_without_its_value() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "authorization: \"s3cret\\n\"\n").unwrap();
        let config = Config { headers_file: Some(file.path().into()), ..Config::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("authorization") && !error.contains("s3cret"), "{error}");
    }
}
