//! Which mailboxes a recipient stands for now, and what is said of the others.

use domains::{Destination, Resolution, Storage, Table, detail};
use mail_types::{EnhancedStatus, ForwardPath, Mailbox, Reply, ReplyCode, Timestamp};
use outcome::{Delivery, Outcome};
use queue::{Report, Wait};

use crate::maildir::DiskError;

/// Why a recipient's mail is in no mailbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    /// The table has the domain, and not the recipient.
    #[error("no such user here")]
    Absent,
    #[error("the recipient is not known yet")]
    Uncertain,
    #[error("the domain table is not loaded")]
    NoTable,
    #[error("the domain is not received here at the moment")]
    NotHosted,
    #[error("the address was made an alias that leads elsewhere")]
    LeadsElsewhere,
    #[error("the mailbox store has no room")]
    NoRoom(#[source] DiskError),
    /// The mailbox holds more than its quota.
    #[error("the mailbox is full")]
    Full,
    #[error("the mailbox store does not work at the moment")]
    Disk(#[source] DiskError),
    #[error("the message cannot be read at the moment")]
    Content,
    #[error("the address was made an alias of several mailboxes")]
    LeadsToSeveral,
    #[error("the mailbox server cannot be reached at the moment")]
    Unreachable,
}

/// Where a copy goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// The mailbox's own address.
    pub(crate) mailbox: Mailbox,
    pub(crate) storage: Storage,
    /// What a sub-address asks for: a folder, if there is one of that name.
    pub(crate) detail: Option<String>,
    /// The address that led to it, sub-address and all.
    pub(crate) used: Mailbox,
}

impl Place {
    /// `None` if the address is no mailbox's.
    fn of(table: &Table, used: Mailbox) -> Option<Self> {
        let mailbox = table.mailbox(&used)?;
        let storage = table.storage(&mailbox)?;
        let detail = detail(&used, &mailbox).map(str::to_owned);
        Some(Self { mailbox, storage, detail, used })
    }
}

/// The mailboxes for a recipient; at least one.
pub(crate) fn places(table: Option<&Table>, address: &Mailbox) -> Result<Vec<Place>, Undelivered> {
    let table = table.ok_or(Undelivered::NoTable)?;
    if !address.domain().is_some_and(|domain| table.is_hosted(domain)) {
        return Err(Undelivered::NotHosted);
    }
    if let Some(own) = Place::of(table, address.clone()) {
        return Ok(vec![own]);
    }
    // It was a mailbox when the mail was accepted.
    match table.resolve(&ForwardPath::Mailbox(address.clone())) {
        Resolution::UnknownRecipient => Err(Undelivered::Absent),
        Resolution::Remote(_) => Err(Undelivered::NotHosted),
        Resolution::CallAhead { .. } => Err(Undelivered::LeadsElsewhere),
        Resolution::Local(destinations) => {
            let place = |destination| match destination {
                Destination::Mailbox { address } => Place::of(table, address),
                Destination::Gateway { .. } | Destination::Remote { .. } => None,
            };
            let found: Option<Vec<Place>> = destinations.into_iter().map(place).collect();
            found.ok_or(Undelivered::LeadsElsewhere)
        }
    }
}

impl Undelivered {
    pub(crate) fn from_disk(error: DiskError) -> Self {
        if error.is_full() { Self::NoRoom(error) } else { Self::Disk(error) }
    }

    /// What it means for the recipient. Only a proven absence bounces.
    pub(crate) fn outcome(&self, at: Timestamp) -> Outcome {
        let status = |class, subject, detail| EnhancedStatus::new(class, subject, detail);
        let (code, status) = match self {
            Self::Absent => (550, status(5, 1, 1)),
            Self::NoRoom(_) => (452, status(4, 3, 1)),
            Self::Full => (452, status(4, 2, 2)),
            Self::NotHosted | Self::LeadsElsewhere | Self::LeadsToSeveral => (451, status(4, 3, 5)),
            Self::Unreachable => (451, status(4, 4, 1)),
            Self::Uncertain | Self::NoTable | Self::Disk(_) | Self::Content => {
                (451, status(4, 3, 0))
            }
        };
        let reply = Reply::new(ReplyCode::new(code), status, self.to_string());
        let report = Report { at, remote: None, reply };
        match self {
            Self::Absent => Outcome::Bounced { report },
            Self::NoRoom(_) | Self::Unreachable => {
                Outcome::Deferred { report, waiting_for: Wait::Hop }
            }
            Self::Uncertain
            | Self::NoTable
            | Self::NotHosted
            | Self::LeadsElsewhere
            | Self::LeadsToSeveral
            | Self::Disk(_)
            | Self::Full
            | Self::Content => Outcome::Deferred { report, waiting_for: Wait::Time },
        }
    }
}

/// What is said of a recipient whose copy is durable.
pub(crate) fn delivered(at: Timestamp) -> Outcome {
    let reply = Reply::new(ReplyCode::new(250), EnhancedStatus::new(2, 0, 0), "stored");
    Outcome::Delivered { report: Report { at, remote: None, reply }, delivery: Delivery::Final }
}
