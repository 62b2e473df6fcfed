//! Mail and settlements to test with.

use std::time::Duration;

use bytes::Bytes;
use mail_types::{
    BodyType, EnhancedStatus, Envelope, Mailbox, Origin, Recipient, Reply, ReplyCode, ReversePath,
    TenantId, Timestamp,
};

use crate::model::{
    Attempt, Disposition, FollowUp, FollowUpKind, Forward, Head, NewJob, NextHop, Progress,
    RecipientStatus, Report, Settlement, Wait,
};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// A message to be sent.
#[derive(Clone)]
pub(super) struct Mail {
    pub(super) tenant: &'static str,
    pub(super) sender: &'static str,
    pub(super) jobs: Vec<NewJob>,
    pub(super) head: Head,
    pub(super) body: Bytes,
}

impl Mail {
    /// A small message to one recipient in a domain.
    pub(super) fn to(domain: &str) -> Self {
        Self {
            tenant: "acme",
            sender: "sender@example.org",
            jobs: vec![job(domain, 1)],
            head: Head {
                prefix: Bytes::from_static(b"Received: from a by b\r\n"),
                header: Bytes::from_static(b"Subject: a test\r\n\r\n"),
            },
            body: Bytes::from_static(b"Hello.\r\n"),
        }
    }

    pub(super) fn and_to(mut self, domain: &str) -> Self {
        self.jobs.push(job(domain, 1));
        self
    }

    /// As an alias at `forwarder` leads there too.
    pub(super) fn and_forwarded_to(mut self, domain: &str, forwarder: &str) -> Self {
        let delivered_to = Mailbox::parse(&format!("alias@{forwarder}")).unwrap();
        let reverse_path = ReversePath::Mailbox(delivered_to.clone());
        let forward = Some(Forward { reverse_path, delivered_to });
        self.jobs.push(NewJob { forward, ..job(domain, 1) });
        self
    }

    pub(super) fn recipients(mut self, count: usize) -> Self {
        let domain = self.jobs[0].next_hop.key().to_owned();
        self.jobs = vec![job(&domain, count)];
        self
    }

    pub(super) fn of(mut self, tenant: &'static str) -> Self {
        self.tenant = tenant;
        self
    }

    pub(super) fn from(mut self, sender: &'static str) -> Self {
        self.sender = sender;
        self
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// To the mailbox store of the domain.
    pub(super) fn hosted(mut self) -> Self {
        for job in &mut self.jobs {
            job.next_hop = NextHop::mailbox(&job.next_hop.key().parse().unwrap());
        }
        self
    }

    pub(super) fn envelope(&self, now: Timestamp) -> Envelope {
        Envelope {
            reverse_path: ReversePath::parse(self.sender).unwrap(),
            envid: None,
            ret: None,
            body: BodyType::EightBitMime,
            smtputf8: false,
            arrival: now,
            expires: now + 5 * DAY,
            tenant: TenantId::new(self.tenant),
            identity: None,
            origin: Origin::Internal,
            trace_parent: None,
        }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        [&self.head.prefix[..], &self.head.header, &self.body].concat()
    }
}

fn job(domain: &str, count: usize) -> NewJob {
    let recipient = |n| Recipient::new(Mailbox::parse(&format!("user{n}@{domain}")).unwrap());
    NewJob::new(hop(domain), (0..count).map(recipient).collect())
}

pub(super) fn hop(domain: &str) -> NextHop {
    NextHop::smtp(&mail_types::Host::Domain(domain.parse().unwrap()))
}

pub(super) fn done() -> Settlement {
    Settlement {
        attempt: None,
        progress: Vec::new(),
        disposition: Disposition::Done,
        follow_ups: Vec::new(),
        delay_reported: false,
    }
}

pub(super) fn defer(until: Timestamp, waiting_for: Wait) -> Settlement {
    let disposition = Disposition::Defer { until, wake_by: until + DAY, waiting_for };
    Settlement { disposition, ..done() }
}

pub(super) fn defer_waking(until: Timestamp, wake_by: Timestamp) -> Settlement {
    let disposition = Disposition::Defer { until, wake_by, waiting_for: Wait::Hop };
    Settlement { disposition, ..done() }
}

impl Settlement {
    /// With the attempt that led to it, in which the first recipient heard `text`.
    pub(super) fn after_attempt(mut self, number: u32, at: Timestamp, text: &str) -> Self {
        const CODE: ReplyCode = ReplyCode::new(451);
        let reply = Reply::new(CODE, EnhancedStatus::new(4, 3, 0), text);
        let remote = Some("mx.example.net".into());
        self.progress.push(Progress {
            recipients: vec![0],
            status: RecipientStatus::Pending,
            report: Report { at, remote, reply: reply.clone() },
        });
        self.attempt = Some(Attempt {
            number,
            at,
            took_ms: 120,
            relay: Some("mx.example.net[192.0.2.1]:25".into()),
            tls: None,
            delivered: 0,
            deferred: 1,
            bounced: 0,
            reply,
        });
        self
    }

    /// With a DSN to `domain`.
    pub(super) fn with_dsn(mut self, domain: &str, now: Timestamp) -> Self {
        let mail = Mail::to(domain).from("").body("It failed.\r\n");
        self.follow_ups.push(FollowUp {
            kind: FollowUpKind::FailedDsn,
            envelope: mail.envelope(now),
            head: mail.head,
            body: mail.body,
            jobs: mail.jobs,
        });
        self
    }
}
