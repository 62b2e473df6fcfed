//! Hosted domains and mailboxes: what people declare, and the table the roles ask.
//!
//! ```text
//! YAML text ── yaml::parse ──▶ [Declared] ── Table::compile ──▶ Table ◀── resolve, identity, …
//!                 │ [Problem]                    │ [Problem]
//!                 └────────── Table::from_yaml ──┘ both at once
//! ```
//!
//! [`Compiled::of_files`] does the same with files, of which one is in memory at a time, and takes
//! over what was made before of those that are as they were.
//!
//! Resources have the shape of the Kubernetes resources that will carry them; the same rules are
//! applied to both. The crate knows no files, no cluster and no clock.
//!
//! Failure behaviour: a table is compiled whole or not at all, and every problem is named at once
//! with its file, line, field and remedy. A table that was compiled answers every question. What it
//! does not have does not exist where it was compiled; elsewhere, [`Absence`] tells.

mod absence;
mod certificate;
mod compile;
mod full;
mod gateway;
mod graph;
mod identity;
mod keyring;
mod logins;
pub mod password;
mod problem;
mod resolve;
mod row;
pub mod scram;
mod separators;
pub mod spec;
mod srs;
mod storage;
mod table;
pub mod yaml;

pub use absence::{Absence, AtHome};
pub use certificate::Certificate;
pub use compile::{Compiled, Holding};
pub use full::{FullMailboxes, LittleRoom};
pub use gateway::{Answer, CallAhead, Gateway, GatewayLogin, Server, ServerError};
pub use identity::{Identity, detail};
pub use logins::{Claimant, Logins, Unknown};
pub use problem::{Problem, Source};
pub use resolve::{Destination, Resolution};
pub use row::{Login, Row, RowError};
pub use separators::{Separators, SeparatorsError};
pub use srs::{Srs, SrsKeyError};
pub use storage::{Keeping, OnFull, Quota, Storage, StorageId, StorageIdError};
pub use table::{Settings, Table};
pub use yaml::{Declared, Resource};
