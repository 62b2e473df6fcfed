//! What is said of a resource: its conditions, and events when they change.
//!
//! `Accepted`: what it says is in force, or will be once the table is published. `Ready`: it is in
//! force, whole, and nothing of it leads nowhere. `Reconciling` and `Stalled` are there while they
//! are true only, as kstatus wants.

use domains::{Problem, Source};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Event, EventType};
use serde_json::Value;

use crate::certificate::Fault;
use crate::claims::Denied;
use crate::resources::{Stated, Status};
use crate::secrets::Missing;
use crate::tenant::Verdict;

/// What is known of a resource.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) outcome: Outcome,
    /// Of its certificate, if it names one.
    pub(crate) certificate: Option<CertificateState>,
    /// Of its passwords.
    pub(crate) missing: Vec<Missing>,
    /// Why the table is not published, if it is not.
    pub(crate) unpublished: Option<&'static str>,
}

/// Until when a certificate is valid, or what is wrong.
pub(crate) type CertificateState = Result<Timestamp, CertificateFault>;

/// What is wrong with a certificate.
#[derive(Clone, Debug)]
pub(crate) enum CertificateFault {
    Missing(Missing),
    Fault(Fault),
}

/// Whether it may be in force.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Judged(Verdict),
    Denied(Denied),
}

impl Outcome {
    fn is_accepted(&self) -> bool {
        matches!(self, Self::Judged(Verdict::Accepted { .. }))
    }
}

impl Finding {
    /// The status that says so.
    pub(crate) fn status(
        &self,
        before: &Status,
        generation: Option<i64>,
        spec: Option<Value>,
        now: &Time,
    ) -> Status {
        let in_force = match &self.outcome {
            Outcome::Judged(Verdict::Accepted { .. }) => spec,
            // Also when nothing is in force: what was accepted may be again.
            Outcome::Judged(Verdict::Refused { .. }) | Outcome::Denied(_) => {
                before.in_force.clone()
            }
        };
        before.state(generation, self.conditions(), in_force, now)
    }

    fn conditions(&self) -> Vec<Stated> {
        let (accepted, ready) = (self.accepted(), self.ready());
        let mut all = vec![accepted.clone()];
        all.extend(self.certificate());
        all.push(ready);
        if !accepted.holds {
            all.push(Stated { kind: "Stalled", holds: true, ..accepted });
        } else if let Some(why) = self.unpublished {
            all.push(Stated {
                kind: "Reconciling",
                holds: true,
                reason: "NotPublished",
                message: why.to_owned(),
            });
        }
        all
    }

    fn accepted(&self) -> Stated {
        let (reason, message) = match &self.outcome {
            Outcome::Judged(Verdict::Accepted { .. }) => ("Accepted", String::new()),
            Outcome::Judged(Verdict::Refused { problem, is_before_kept }) => {
                let kept = if *is_before_kept {
                    " (what was accepted before stays in force: see status.inForce)"
                } else {
                    ""
                };
                ("Invalid", format!("{}{kept}", without_place(problem)))
            }
            Outcome::Denied(Denied::NotAllowed) => (
                "NotAllowed",
                "spec.domain: this namespace may not have it; ask whoever runs Postrider to allow \
                 it (`claims` of the chart)"
                    .to_owned(),
            ),
            Outcome::Denied(Denied::Conflict { is_same_namespace: true }) => (
                "DomainConflict",
                "spec.domain: an older MailDomain of this namespace has it; delete one of them"
                    .to_owned(),
            ),
            Outcome::Denied(Denied::Conflict { is_same_namespace: false }) => (
                "DomainConflict",
                "spec.domain: an older MailDomain of another namespace has it; ask whoever runs \
                 Postrider, if it is yours"
                    .to_owned(),
            ),
        };
        Stated { kind: "Accepted", holds: self.outcome.is_accepted(), reason, message }
    }

    fn certificate(&self) -> Option<Stated> {
        let (holds, reason, message) = match self.certificate.as_ref()? {
            Ok(until) => (true, "Valid", format!("until {until}")),
            Err(CertificateFault::Missing(missing)) => {
                (false, "SecretMissing", format!("spec.tls.secretRef: {missing}"))
            }
            Err(CertificateFault::Fault(fault)) => {
                (false, fault.reason(), format!("spec.tls.secretRef: {fault}"))
            }
        };
        Some(Stated { kind: "CertificateReady", holds, reason, message })
    }

    fn ready(&self) -> Stated {
        let not = |reason, message| Stated { kind: "Ready", holds: false, reason, message };
        if !self.outcome.is_accepted() {
            let Stated { reason, message, .. } = self.accepted();
            return not(reason, message);
        }
        if let Some(why) = self.unpublished {
            return not("NotPublished", why.to_owned());
        }
        if let Outcome::Judged(Verdict::Accepted { astray }) = &self.outcome
            && let Some(problem) = astray.first()
        {
            let more = match astray.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            return not("LeadsNowhere", format!("{}{more}", without_place(problem)));
        }
        if let Some(Stated { holds: false, reason, message, .. }) = self.certificate() {
            return not(reason, message);
        }
        if !self.missing.is_empty() {
            let all: Vec<String> = self.missing.iter().map(Missing::to_string).collect();
            return not("PasswordMissing", format!("spec.passwords: {}", all.join("; ")));
        }
        Stated { kind: "Ready", holds: true, reason: "InForce", message: String::new() }
    }
}

/// The field, what is wrong and what to do.
fn without_place(problem: &Problem) -> String {
    Problem { at: Source::default(), ..problem.clone() }.to_string()
}

/// Events have at most 1 kB.
const NOTE_MAX: usize = 1000;

/// The event that tells of a new status, if it is news.
pub(crate) fn event(before: &Status, now: &Status) -> Option<Event> {
    let ready = now.condition("Ready")?;
    let is_news = before.condition("Ready").is_none_or(|known| {
        known.status != ready.status
            || known.reason != ready.reason
            || known.message != ready.message
    });
    let is_good = ready.status == "True";
    is_news.then(|| Event {
        type_: if is_good { EventType::Normal } else { EventType::Warning },
        reason: ready.reason.clone(),
        note: Some(if is_good { "in force".to_owned() } else { cut(&ready.message) }),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(NOTE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Time {
        Time(Timestamp::UNIX_EPOCH)
    }

    fn accepted() -> Finding {
        let outcome = Outcome::Judged(Verdict::Accepted { astray: Vec::new() });
        Finding { outcome, certificate: None, missing: Vec::new(), unpublished: None }
    }

    fn problem() -> Problem {
        Problem {
            at: Source { file: "Mailbox/x".into(), line: 0, column: 0 },
            field: "spec.aliases[0]".into(),
            message: "b.example is not a declared domain".into(),
            remedy: "declare a MailDomain for it".into(),
        }
    }

    fn conditions(finding: &Finding) -> Vec<String> {
        let status = finding.status(&Status::default(), Some(1), None, &now());
        let shown = status.conditions.iter();
        shown
            .map(|it| format!("{}={} {}: {}", it.type_, it.status, it.reason, it.message))
            .collect()
    }

    #[test]
    fn conditions_and_what_is_in_force() {
        assert_eq!(conditions(&accepted()), ["Accepted=True Accepted: ", "Ready=True InForce: "]);
        let refused = |is_before_kept| Finding {
            outcome: Outcome::Judged(Verdict::Refused { problem: problem(), is_before_kept }),
            ..accepted()
        };
        let shown = conditions(&refused(false));
        let message = "Invalid: spec.aliases[0]: b.example is not a declared domain; declare a \
                       MailDomain for it";
        assert_eq!(
            shown,
            ["Accepted=False", "Ready=False", "Stalled=True"].map(|it| format!("{it} {message}"))
        );
        let before = Status { in_force: Some("old".into()), ..Status::default() };
        let in_force = |finding: &Finding| {
            finding.status(&before, Some(2), Some("new".into()), &now()).in_force
        };
        assert_eq!(in_force(&accepted()), Some("new".into()));
        assert_eq!(in_force(&refused(true)), Some("old".into()));
        assert_eq!(in_force(&refused(false)), Some("old".into()));
    }

    #[test]
    fn what_keeps_it_from_being_ready() {
        let astray = Finding {
            outcome: Outcome::Judged(Verdict::Accepted { astray: vec![problem(), problem()] }),
            ..accepted()
        };
        assert!(conditions(&astray)[1].starts_with("Ready=False LeadsNowhere: spec.aliases[0]"));
        assert!(conditions(&astray)[1].ends_with("(and 1 more)"));
        let missing = vec![Missing::Secret("alice".to_owned())];
        let shown = conditions(&Finding { missing, ..accepted() });
        assert_eq!(
            shown[1],
            "Ready=False PasswordMissing: spec.passwords: there is no Secret alice in this \
             namespace"
        );
        let shown = conditions(&Finding { unpublished: Some("why"), ..accepted() });
        assert_eq!(
            shown[1..],
            ["Ready=False NotPublished: why", "Reconciling=True NotPublished: why"]
        );
        let denied = Finding { outcome: Outcome::Denied(Denied::NotAllowed), ..accepted() };
        assert!(conditions(&denied)[2].starts_with("Stalled=True NotAllowed: spec.domain"));
    }

    #[test]
    fn an_event_is_told_once() {
        let good = accepted().status(&Status::default(), Some(1), None, &now());
        let told = event(&Status::default(), &good).unwrap();
        assert_eq!((told.type_, told.reason.as_str()), (EventType::Normal, "InForce"));
        assert!(event(&good, &good).is_none());
        let outcome = Outcome::Denied(Denied::NotAllowed);
        let bad = Finding { outcome, ..accepted() }.status(&good, Some(2), None, &now());
        assert_eq!(event(&good, &bad).unwrap().type_, EventType::Warning);
    }
}
