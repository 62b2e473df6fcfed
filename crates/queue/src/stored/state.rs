//! The state of a job, and how a settlement changes it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mail_types::{Envelope, Timestamp};
use serde::{Deserialize, Serialize};

use super::message::StoredMessage;
use super::recipients::RecipientSet;
use crate::model::{
    Attempt, Disposition, Job, JobId, Progress, RecipientState, RecipientStatus, Report,
    Settlement, Wait,
};
use crate::schedule::{Back, Placement, View};

/// Octets that are kept of the text of a recipient's last reply.
const REPLY_KEPT: usize = 256;
/// Octets that are kept of each text of the history.
const HISTORY_KEPT: usize = 96;
/// Octets that are kept of the reason of a quarantine.
const REASON_KEPT: usize = 256;
/// When a job that was never attempted is leased although its next hop is down, so that its
/// worker may say until when it can wait.
const FIRST_WAKE: Duration = Duration::from_secs(3600);

/// What changes about a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredState {
    pub place: Place,
    /// When it is leased at the latest, unless held or quarantined.
    pub wake_by: Timestamp,
    /// Attempts settled so far.
    pub attempts: u32,
    /// The last [`Attempt::KEPT`], oldest first.
    pub history: Vec<Attempt>,
    pub delay_reported: bool,
    /// What an operator wants that a worker has yet to see to.
    pub request: Option<Request>,
    /// Recipients of whom nothing was heard are pending, and in no group.
    pub(super) groups: Vec<Group>,
}

/// Where a job is, leases aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    Ready,
    /// Ready, even while its next hop is down.
    Urgent,
    Deferred {
        until: Timestamp,
        wait: Wait,
    },
    Held,
    Quarantined {
        reason: Box<str>,
    },
}

/// What an operator asked for while the job was leased, or what only a worker can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    Hold,
    CancelWithDsn,
    CancelSilently,
}

/// Recipients of whom the same was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Group {
    pub(super) recipients: RecipientSet,
    pub(super) status: RecipientStatus,
    pub(super) report: Report,
}

impl StoredState {
    /// The state of a job that was just committed.
    pub fn fresh(envelope: &Envelope) -> Self {
        Self {
            place: Place::Ready,
            wake_by: envelope.expires.min(envelope.arrival + FIRST_WAKE),
            attempts: 0,
            history: Vec::new(),
            delay_reported: false,
            request: None,
            groups: Vec::new(),
        }
    }

    /// The state after a settlement; `None` when the job ends with it.
    ///
    /// An operator's request is met here: what was to be deferred is held, cancelled or dropped.
    pub fn settled(&self, settlement: &Settlement) -> Option<Self> {
        let mut next = self.clone();
        next.delay_reported |= settlement.delay_reported;
        if let Some(attempt) = &settlement.attempt {
            next.attempts += 1;
            next.remember(attempt);
        }
        next.hear(&settlement.progress);
        match &settlement.disposition {
            Disposition::Done => return None,
            Disposition::Defer { until, wake_by, waiting_for } => {
                next.wake_by = *wake_by;
                next.place = Place::Deferred { until: *until, wait: *waiting_for };
            }
            Disposition::Hold => next.place = Place::Held,
            Disposition::Quarantine { reason } => {
                next.place = Place::Quarantined { reason: cut(reason, REASON_KEPT).into() };
            }
        }
        next.meet_request()
    }

    fn meet_request(mut self) -> Option<Self> {
        match (self.request, &self.place) {
            (Some(Request::CancelSilently), _) => return None,
            (Some(Request::Hold), Place::Quarantined { .. }) => self.request = None,
            (Some(Request::Hold), _) => {
                self.place = Place::Held;
                self.request = None;
            }
            // The worker that was to bounce it could not read it.
            (Some(Request::CancelWithDsn), Place::Quarantined { .. }) => self.request = None,
            (Some(Request::CancelWithDsn) | None, _) => {}
        }
        Some(self)
    }

    fn remember(&mut self, attempt: &Attempt) {
        let mut attempt = attempt.clone();
        attempt.reply.text = cut(&attempt.reply.text, HISTORY_KEPT).to_owned();
        for text in [&mut attempt.relay, &mut attempt.tls].into_iter().flatten() {
            *text = cut(text, HISTORY_KEPT).into();
        }
        self.history.push(attempt);
        let excess = self.history.len().saturating_sub(Attempt::KEPT);
        self.history.drain(..excess);
    }

    fn hear(&mut self, progress: &[Progress]) {
        let heard: HashSet<u32> =
            progress.iter().flat_map(|progress| progress.recipients.iter().copied()).collect();
        for group in &mut self.groups {
            group.recipients.retain(|place| !heard.contains(&place));
        }
        self.groups.retain(|group| !group.recipients.is_empty());
        for Progress { recipients, status, report } in progress {
            let mut report = report.clone();
            report.reply.text = cut(&report.reply.text, REPLY_KEPT).to_owned();
            let same = |group: &&mut Group| group.status == *status && group.report == report;
            match self.groups.iter_mut().find(same) {
                Some(group) => group.recipients.extend(recipients.iter().copied()),
                None => self.groups.push(Group {
                    recipients: recipients.iter().copied().collect(),
                    status: *status,
                    report,
                }),
            }
        }
    }

    /// Where the job stands in the schedule when it is not leased; `None` when it is no more.
    pub fn placement(&self) -> Option<Placement> {
        let wake_by = self.wake_by;
        match (self.request, &self.place) {
            (Some(Request::CancelSilently), _) => None,
            (Some(Request::CancelWithDsn), _) => Some(Placement::Cancelled),
            (Some(Request::Hold), _) | (None, Place::Held) => Some(Placement::Held),
            (None, Place::Ready) => Some(Placement::Ready { wake_by }),
            (None, Place::Urgent) => Some(Placement::Urgent { wake_by }),
            (None, Place::Deferred { until, wait }) => {
                Some(Placement::Deferred { until: *until, wake_by, wait: *wait })
            }
            (None, Place::Quarantined { .. }) => Some(Placement::Quarantined),
        }
    }

    /// What becomes of the job when its lease ends without a settlement.
    pub fn back(&self) -> Back {
        match self.request {
            None => Back::Due,
            Some(Request::Hold) => Back::Held,
            Some(Request::CancelWithDsn) => Back::Cancelled,
            Some(Request::CancelSilently) => Back::Gone,
        }
    }

    /// The job as it is leased or shown. `view` tells its id and what the schedule knows.
    pub fn job<T>(&self, message: &StoredMessage, view: &View<T>) -> Job {
        let new = message.jobs.get(usize::from(view.id.index));
        Job {
            id: view.id,
            envelope: Arc::clone(&message.envelope),
            next_hop: view.next_hop.clone(),
            forward: new.and_then(|job| job.forward.clone()),
            recipients: self.recipients(message, view.id),
            size: message.size(),
            attempts: self.attempts,
            history: self.history.clone(),
            delay_reported: self.delay_reported,
            phase: view.phase,
            next_attempt: view.next_attempt,
            quarantine_reason: match &self.place {
                Place::Quarantined { reason } => Some(reason.clone()),
                Place::Ready | Place::Urgent | Place::Deferred { .. } | Place::Held => None,
            },
        }
    }

    fn recipients(&self, message: &StoredMessage, id: JobId) -> Vec<RecipientState> {
        let pending = |recipient: &mail_types::Recipient| RecipientState {
            recipient: recipient.clone(),
            status: RecipientStatus::Pending,
            last: None,
        };
        let new = message.jobs.get(usize::from(id.index));
        let mut states: Vec<RecipientState> =
            new.into_iter().flat_map(|job| &job.recipients).map(pending).collect();
        for group in &self.groups {
            for place in group.recipients.iter() {
                if let Some(state) = states.get_mut(place as usize) {
                    state.status = group.status;
                    state.last = Some(group.report.clone());
                }
            }
        }
        states
    }
}

/// The beginning of a text, at most `max` octets.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
pub(super) mod tests {
    use mail_types::{
        BodyType, EnhancedStatus, Mailbox, Origin, QueueId, Recipient, Reply, ReplyCode,
        ReversePath, TenantId,
    };

    use super::*;
    use crate::model::{NewJob, NextHop, Phase};
    use crate::stored::StoredError;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

    pub(crate) fn envelope() -> Envelope {
        Envelope {
            reverse_path: ReversePath::parse("sender@example.org").unwrap(),
            envid: None,
            ret: None,
            body: BodyType::EightBitMime,
            smtputf8: false,
            arrival: NOW,
            expires: NOW + Duration::from_secs(432_000),
            tenant: TenantId::new("acme"),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        }
    }

    fn message(recipients: usize) -> StoredMessage {
        let recipient =
            |n| Recipient::new(Mailbox::parse(&format!("user{n}@example.net")).unwrap());
        let recipients: Vec<Recipient> = (0..recipients).map(recipient).collect();
        let next_hop = NextHop::smtp(recipients[0].address.host());
        StoredMessage {
            id: QueueId::new(NOW, 42),
            envelope: Arc::new(envelope()),
            jobs: vec![NewJob::new(next_hop, recipients)],
            prefix_bytes: 120,
            header_bytes: 300,
            body_bytes: 9_600,
        }
    }

    fn view(message: &StoredMessage) -> View<()> {
        View {
            id: JobId { message: message.id, index: 0 },
            tenant: TenantId::new("acme"),
            next_hop: message.jobs[0].next_hop.clone(),
            size: message.size(),
            phase: Phase::Deferred,
            next_attempt: Some(NOW),
            payload: (),
        }
    }

    fn reply(text: &str) -> Reply {
        const CODE: ReplyCode = ReplyCode::new(451);
        Reply::new(CODE, EnhancedStatus::new(4, 3, 0), text)
    }

    fn report(text: &str) -> Report {
        Report { at: NOW, remote: Some("mx1.example.net".into()), reply: reply(text) }
    }

    fn attempt(number: u32, text: &str) -> Attempt {
        Attempt {
            number,
            at: NOW,
            took_ms: 1_203,
            relay: Some("mx1.example.net[192.0.2.1]:25".into()),
            tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384".into()),
            delivered: 1,
            deferred: 1,
            bounced: 0,
            reply: reply(text),
        }
    }

    fn defer(attempt: Attempt, progress: Vec<Progress>) -> Settlement {
        Settlement {
            attempt: Some(attempt),
            progress,
            disposition: Disposition::Defer {
                until: NOW + Duration::from_secs(60),
                wake_by: NOW + Duration::from_secs(14_400),
                waiting_for: Wait::Hop,
            },
            follow_ups: Vec::new(),
            delay_reported: false,
        }
    }

    fn progress(
        recipients: impl Iterator<Item = u32>,
        status: RecipientStatus,
        text: &str,
    ) -> Progress {
        Progress { recipients: recipients.collect(), status, report: report(text) }
    }

    /// A state after ten attempts on a thousand recipients, every second delivered.
    fn worn(message: &StoredMessage) -> StoredState {
        let mut state = StoredState::fresh(&message.envelope);
        let count = u32::try_from(message.jobs[0].recipients.len()).unwrap();
        for number in 1..=10 {
            let told = vec![
                progress((0..count).step_by(2), RecipientStatus::Delivered, &"ä".repeat(400)),
                progress((1..count).step_by(2), RecipientStatus::Pending, &"x".repeat(400)),
            ];
            state = state.settled(&defer(attempt(number, &"y".repeat(400)), told)).unwrap();
        }
        state
    }

    #[test]
    fn a_state_is_small() {
        let state = worn(&message(1000));
        let written = state.encode();
        assert!(written.len() <= 2048, "{} octets", written.len());
        assert_eq!(StoredState::decode(&written).unwrap(), state);
        assert_eq!((state.attempts, state.history.len()), (10, Attempt::KEPT));
        assert_eq!(state.history[0].number, 3);
    }

    #[test]
    fn recipients_hear_the_last() {
        let message = message(3);
        let state = StoredState::fresh(&message.envelope);
        let first = vec![progress(0..3, RecipientStatus::Pending, "later")];
        let state = state.settled(&defer(attempt(1, "later"), first)).unwrap();
        let second = vec![
            progress([1, 99].into_iter(), RecipientStatus::Delivered, "ok"),
            progress([2].into_iter(), RecipientStatus::Bounced, "no"),
        ];
        let state = state.settled(&defer(attempt(2, "no"), second)).unwrap();
        let job = state.job(&message, &view(&message));
        let told: Vec<(RecipientStatus, &str)> = job
            .recipients
            .iter()
            .map(|r| (r.status, r.last.as_ref().unwrap().reply.text.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (RecipientStatus::Pending, "later"),
                (RecipientStatus::Delivered, "ok"),
                (RecipientStatus::Bounced, "no")
            ]
        );
        assert_eq!(job.pending().map(|(place, _)| place).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn requests_are_met_by_a_settlement() {
        let fresh = StoredState::fresh(&envelope());
        let deferral = defer(attempt(1, "later"), Vec::new());
        let asked = |request| StoredState { request: Some(request), ..fresh.clone() };
        let held = asked(Request::Hold).settled(&deferral).unwrap();
        assert_eq!((held.placement(), held.request), (Some(Placement::Held), None));
        let cancelled = asked(Request::CancelWithDsn).settled(&deferral).unwrap();
        assert_eq!(cancelled.placement(), Some(Placement::Cancelled));
        assert_eq!(asked(Request::CancelSilently).settled(&deferral), None);
        assert_eq!(asked(Request::CancelSilently).placement(), None);
        let disposition = Disposition::Quarantine { reason: "flipped bit".into() };
        let quarantine = Settlement { disposition, ..deferral };
        let kept = asked(Request::CancelWithDsn).settled(&quarantine).unwrap();
        assert_eq!(kept.placement(), Some(Placement::Quarantined));
    }

    #[test]
    fn version_1_is_read() {
        let message = message(4);
        let state = worn(&message);
        let stored = include_bytes!("../../tests/fixtures/message-v1.json");
        assert_eq!(StoredMessage::decode(stored).unwrap(), message);
        let stored = include_bytes!("../../tests/fixtures/state-v1.json");
        assert_eq!(StoredState::decode(stored).unwrap(), state);
    }

    #[test]
    fn a_newer_version_is_refused() {
        let newer = StoredState::decode(br#"{"v":2,"place":{"lost":{}}}"#);
        assert!(matches!(newer, Err(StoredError::Newer(2))), "{newer:?}");
        let damaged = StoredMessage::decode(br#"{"v":1,"id":"#);
        assert!(matches!(damaged, Err(StoredError::Damaged(_))), "{damaged:?}");
    }
}
