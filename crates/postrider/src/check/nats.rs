//! The servers of the queue, and its streams on them, as the process would find them.

use std::time::Duration;

use queue_jetstream::{Inspected, OpenError, ServerError, Silent, StreamError, inspect};
use tokio::time::timeout;

use super::Site;
use super::finding::{Finding, What};
use crate::serve::Role;

/// A server that is dead takes 5 s to be found so, before another is asked.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn findings(site: &Site) -> Vec<Finding> {
    let Some(settings) = &site.config.jetstream else { return Vec::new() };
    let urls = settings.urls.join(", ");
    let kinds: Vec<_> = site.roles.iter().filter_map(|role| role.kind()).collect();
    match timeout(LIMIT, inspect(settings.clone(), &kinds)).await {
        Ok(Ok(seen)) => judge(&urls, &site.roles, &seen),
        Ok(Err(error)) => vec![judge_refusal(error)],
        Err(_) => vec![judge_silence(&urls, &site.roles)],
    }
}

fn judge(urls: &str, roles: &[Role], seen: &Inspected) -> Vec<Finding> {
    let silent = seen.silent.iter().map(|Silent { url, why }| {
        let detail = format!("the monitoring endpoint {url} does not answer: {why}");
        What::Nats.warning(detail, "see whether that server runs: the others have the mail for now")
    });
    let mut findings: Vec<Finding> = silent.collect();
    if !seen.missing.is_empty() {
        let detail = format!("streams that are not there yet: {}", seen.missing.join(", "));
        // An ingress and an MDA wait for whoever may.
        findings.push(match roles.contains(&Role::Worker) {
            true => What::Nats.ok(format!("{detail}; they are made at the start")),
            false => What::Nats.warning(detail, "start a worker: it makes them"),
        });
    }
    if findings.is_empty() {
        let version = &seen.version;
        let detail = format!("nats-server {version} at {urls}, with all streams as they must be");
        findings.push(What::Nats.ok(detail));
    }
    findings
}

fn judge_refusal(error: OpenError) -> Finding {
    let remedy = match &error {
        OpenError::Connect { .. } => {
            "see whether the servers run, and whether jetstream.urls, nkeyFile and caFile are right"
        }
        OpenError::Config(_) => "correct the section jetstream",
        OpenError::Server(ServerError::Silent { .. }) => {
            "see whether the servers run, and whether jetstream.monitorUrls is right"
        }
        OpenError::Stream(StreamError::Ask { .. } | StreamError::Create { .. }) => {
            "see whether enough of them run, and whether this login is that of --role"
        }
        // They say themselves what to do.
        OpenError::Server(_) | OpenError::Stream(StreamError::Differs { .. }) => {
            "until then no process starts"
        }
    };
    let error = anyhow::Error::new(error);
    // What lies between says the same in other words.
    let detail = match error.chain().count() {
        1 => error.to_string(),
        _ => format!("{error}: {}", error.root_cause()),
    };
    What::Nats.error(detail, remedy)
}

fn judge_silence(urls: &str, roles: &[Role]) -> Finding {
    let detail = format!("the servers at {urls} did not tell in time what they have");
    let remedy = match roles {
        [_] => "see whether enough of them run, and whether this login is that of --role",
        _ => "see whether enough of them run; with a login of one role, name it by --role",
    };
    What::Nats.error(detail, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Level;

    const ALL_WELL: Inspected =
        Inspected { version: String::new(), silent: Vec::new(), missing: Vec::new() };

    #[test]
    fn who_makes_streams_and_who_waits_for_them() {
        let seen = Inspected { missing: vec!["reserve".into()], ..ALL_WELL };
        let levels = |roles: &[Role], seen: &Inspected| -> Vec<Level> {
            judge("nats://n0:4222", roles, seen).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(&[Role::Ingress], &ALL_WELL), [Level::Ok]);
        assert_eq!(levels(&[Role::Ingress], &seen), [Level::Warning]);
        assert_eq!(levels(&[Role::Mda], &seen), [Level::Warning]);
        assert_eq!(levels(&[Role::Worker], &seen), [Level::Ok]);
        assert_eq!(levels(&Role::ALL, &seen), [Level::Ok]);
        let seen = Inspected {
            silent: vec![Silent { url: "http://n1:8222".into(), why: "refused".into() }],
            ..ALL_WELL
        };
        assert_eq!(levels(&Role::ALL, &seen), [Level::Warning]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let lazy = OpenError::Server(ServerError::Lazy("http://n0:8222".into()));
        let said = judge_refusal(lazy).to_string();
        assert!(said.contains("sync_interval: always"), "{said}");
        let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
        let error = OpenError::Connect { urls: "nats://n0:4222".into(), source };
        let said = judge_refusal(error).to_string();
        assert!(said.contains("n0:4222: connection refused; see whether the servers"), "{said}");
    }
}
