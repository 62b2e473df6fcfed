//! The resources as Kubernetes has them: `postrider.dev/v1alpha1`.
//!
//! Fields are those of the files of domains (`domains::spec`), with the same names and meaning,
//! so that a file can be applied as it is; but for passwords, which are in Secrets here. Each rule
//! that the compiler of those files has for a resource alone is a rule of the schema, with the same
//! remedy: what the API server takes is refused later only for what other resources say.

mod mail_domain;
mod mailbox;
mod rules;
mod sizes;
mod status;

pub(crate) use mail_domain::MailDomain;
pub(crate) use mailbox::Mailbox;
