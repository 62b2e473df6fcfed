//! What streams and subjects are called.
//!
//! ```text
//! intake      in.s0.TENANT.HOP.MESSAGE      reserve   re.s0.TENANT.HOP.MESSAGE
//! jobs-s0     job.s0.TENANT.HOP.MESSAGE.INDEX
//! body-0      body.0
//! ```

use std::fmt;

use mail_types::{Host, QueueId, TenantId};
use nats::token;
use queue::{HopKind, JobId, NextHop};
use serde::{Deserialize, Serialize};

/// A share of the next hops of a kind. Printed as `s0` or `m0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Partition {
    kind: HopKind,
    number: u16,
}

impl Partition {
    /// Whose owner answers also for what has none.
    pub(crate) const SPEAKER: Self = Self { kind: HopKind::Smtp, number: 0 };

    /// The partition of a next hop, of so many that its kind has. Stable between versions.
    pub(crate) fn of(hop: &NextHop, partitions: u16) -> Self {
        let number = u64::from(fnv1a(hop.key())) % u64::from(partitions.max(1));
        Self { kind: hop.kind(), number: u16::try_from(number).unwrap_or(0) }
    }

    pub(crate) fn all(kind: HopKind, partitions: u16) -> impl Iterator<Item = Self> {
        (0..partitions).map(move |number| Self { kind, number })
    }

    pub(crate) fn jobs_stream(self) -> String {
        format!("jobs-{self}")
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HopKind::Smtp => 's',
            HopKind::Mailbox => 'm',
        };
        write!(f, "{kind}{}", self.number)
    }
}

/// Where a message waits for whoever takes it first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Lane {
    /// For one next hop: its partition's owner.
    Partition(Partition),
    /// For several: anybody.
    Split,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => partition.fmt(f),
            Self::Split => f.write_str("split"),
        }
    }
}

/// By which way a message came into the queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Door {
    Outside,
    /// DSNs and forwards: room that mail from outside cannot use.
    Reserve,
}

impl Door {
    fn prefix(self) -> &'static str {
        match self {
            Self::Outside => "in",
            Self::Reserve => "re",
        }
    }

    pub(crate) fn stream(self, lane: Lane, intakes: Intakes) -> String {
        match (self, intakes) {
            (Self::Outside, Intakes::One) => INTAKE.to_owned(),
            (Self::Outside, Intakes::EachLane) => format!("{INTAKE}-{lane}"),
            (Self::Reserve, _) => RESERVE.to_owned(),
        }
    }

    pub(crate) fn filter(self, lane: Lane) -> String {
        format!("{}.{lane}.>", self.prefix())
    }

    pub(crate) fn subject(
        self,
        lane: Lane,
        tenant: &TenantId,
        hop: &NextHop,
        message: QueueId,
    ) -> String {
        let (tenant, hop) = (token(tenant.as_str()), token(hop.key()));
        format!("{}.{lane}.{tenant}.{hop}.{message}", self.prefix())
    }
}

/// Into how many streams mail from outside comes.
///
/// A server that is alone syncs a stream's messages one after another, and several streams at
/// once. Servers that replicate take what reaches a stream together in one round, and rounds are
/// what costs: there one stream takes nearly twice as much as four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intakes {
    One,
    EachLane,
}

const INTAKE: &str = "intake";
pub(crate) const RESERVE: &str = "reserve";

pub(crate) fn job_subject(
    partition: Partition,
    tenant: &TenantId,
    hop: &NextHop,
    job: JobId,
) -> String {
    let (tenant, hop) = (token(tenant.as_str()), token(hop.key()));
    format!("job.{partition}.{tenant}.{hop}.{job}")
}

/// The message of an intake's subject.
pub(crate) fn message_of(subject: &str) -> Option<QueueId> {
    subject.rsplit('.').next()?.parse().ok()
}

/// The job of a record's subject.
pub(crate) fn job_of(subject: &str) -> Option<JobId> {
    let mut tokens = subject.rsplitn(3, '.');
    let (index, message) = (tokens.next()?, tokens.next()?);
    Some(JobId { message: message.parse().ok()?, index: index.parse().ok()? })
}

/// Whose mail a subject of an intake or a record is of, and where it goes. Of what is for several
/// next hops it names one, of a kind that it does not tell.
pub(crate) fn addressed(subject: &str) -> Option<(TenantId, NextHop)> {
    let mut tokens = subject.split('.').skip(1);
    let lane = tokens.next()?;
    let (tenant, hop) = (nats::name(tokens.next()?)?, nats::name(tokens.next()?)?);
    let next_hop = match lane.starts_with('m') {
        true => NextHop::mailbox(&hop.parse().ok()?),
        false => NextHop::smtp(&Host::parse(&hop).ok()?),
    };
    Some((TenantId::new(tenant), next_hop))
}

pub(crate) fn body_stream(number: u16) -> String {
    format!("body-{number}")
}

pub(crate) fn body_subject(number: u16) -> String {
    format!("body.{number}")
}

/// The body stream of a message, of so many.
pub(crate) fn body_of(message: QueueId, streams: u16) -> u16 {
    let number = u64::from(fnv1a(&message.to_string())) % u64::from(streams.max(1));
    u16::try_from(number).unwrap_or(0)
}

/// FNV-1a with 32 bits: stable between versions, which `std`'s hasher is not.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_their_message_and_job() {
        let hop = NextHop::smtp(&Host::parse("[IPv6:2001:db8::1]").unwrap());
        let tenant = TenantId::new("a_b.c");
        let message: QueueId = "01JD5ZQ9W3T8M1V5K7N2B4C6XR".parse().unwrap();
        let partition = Partition::of(&hop, 4);
        let subject = Door::Outside.subject(Lane::Partition(partition), &tenant, &hop, message);
        assert_eq!(message_of(&subject), Some(message));
        assert_eq!(subject.split('.').count(), 5);
        assert_eq!(addressed(&subject), Some((tenant.clone(), hop.clone())));
        let job = JobId { message, index: 12 };
        let subject = job_subject(partition, &tenant, &hop, job);
        assert_eq!(job_of(&subject), Some(job));
        assert_eq!(addressed(&subject), Some((tenant.clone(), hop)));
        let hop = NextHop::mailbox(&"here.test".parse().unwrap());
        let subject = job_subject(Partition::of(&hop, 4), &tenant, &hop, job);
        assert_eq!(addressed(&subject), Some((tenant, hop)));
        assert_eq!(addressed("job.s0.x"), None);
        assert_eq!(job_of("job.s0.x"), None);
    }

    #[test]
    fn partitions_are_stable() {
        let hop = |name: &str| NextHop::smtp(&Host::parse(name).unwrap());
        assert_eq!(Partition::of(&hop("a.example"), 4).to_string(), "s0");
        let used: std::collections::BTreeSet<_> =
            (0..64).map(|n| Partition::of(&hop(&format!("d{n}.example")), 4)).collect();
        assert_eq!(used.len(), 4);
    }
}
