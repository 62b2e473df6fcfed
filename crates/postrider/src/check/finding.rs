//! What a try found out.

use std::fmt;

use serde::Serialize;

/// How bad it is: an error keeps mail from working, a warning may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Level {
    Ok,
    Warning,
    Error,
}

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum What {
    Configuration,
    Certificate,
    Name,
    Outbound,
    Clock,
    Disk,
    Dns,
    Postmaster,
    Nats,
    Table,
}

/// One line of the answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) what: What,
    pub(crate) detail: String,
    /// What to do; of an `ok` there is nothing.
    pub(crate) remedy: Option<String>,
}

impl What {
    pub(crate) fn ok(self, detail: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, what: self, detail: detail.into(), remedy: None }
    }

    pub(crate) fn warning(self, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.found(Level::Warning, detail, remedy)
    }

    pub(crate) fn error(self, detail: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.found(Level::Error, detail, remedy)
    }

    pub(crate) fn found(
        self,
        level: Level,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { level, what: self, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Certificate => "certificate",
            Self::Name => "name",
            Self::Outbound => "outbound",
            Self::Clock => "clock",
            Self::Disk => "disk",
            Self::Dns => "dns",
            Self::Postmaster => "postmaster",
            Self::Nats => "nats",
            Self::Table => "table",
        }
    }
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Finding {
    /// `warning  certificate    detail; remedy`: a line, whatever a peer has said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, what) = (self.level.as_str(), self.what.as_str());
        let detail = self.detail.replace(char::is_control, " ");
        write!(f, "{level:<7}  {what:<13}  {detail}")?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line() {
        let finding = What::Outbound.warning("mx said 554 go\r\naway", "ask why");
        let line = finding.to_string();
        assert_eq!(line, "warning  outbound       mx said 554 go  away; ask why");
        let ok = What::Dns.ok("answers");
        assert_eq!(ok.to_string(), "ok       dns            answers");
        let json = serde_json::to_value(&ok).unwrap();
        let expected = r#"{"level":"ok","what":"dns","detail":"answers","remedy":null}"#;
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(expected).unwrap());
        assert!(Level::Ok < Level::Warning && Level::Warning < Level::Error);
    }
}
