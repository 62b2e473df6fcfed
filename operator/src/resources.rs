//! The resources as Kubernetes has them: `postrider.dev/v1alpha1`.
//!
//! Fields are those of the files of domains (`domains::spec`), with the same names and meaning; but
//! for passwords, which are in Secrets here, for `relay.auth`, which there is not yet, and for
//! `deletionPolicy`, which files have not. What the compiler of those files refuses of a resource
//! alone the schema refuses with the same remedy, as far as CEL can tell at a bounded cost: what an
//! address, a host or a domain is exactly says the compiler.

pub(crate) mod declared;
mod mail_domain;
mod mailbox;
mod rules;
mod sizes;
mod status;

pub(crate) use mail_domain::{MailDomain, MailDomainSpec};
pub(crate) use mailbox::{Mailbox, MailboxSpec, SecretRef};
pub(crate) use status::{Stated, Status};
