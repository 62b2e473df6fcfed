//! The domain table in NATS KV: published as generations, watched by every role.
//!
//! ```text
//! bucket `domains`, history 1
//!   d.DOMAIN         a domain             ┐ {since, now, before}
//!   e.DOMAIN.NAME    a mailbox or alias   ┘
//!   marker           {history, generation, counts, digest, postmaster, keys}, written last
//!   writer.LANE      who publishes at the moment
//! ```
//!
//! **A generation is what its marker says.** A key holds two versions of its row: the one that is
//! in force since generation `since`, and the one before. Until the marker of `since` is there the
//! one before counts, so a generation that was written in part changes nothing, also for a role
//! that starts just then, and unchanged rows are not written again. (Entries under the number of
//! their generation would be written all again, or need a search for the newest of a name.) A
//! reader takes a generation only when all its rows together have the marker's digest.
//!
//! **One writer.** Whoever publishes first claims the keys `writer.LANE`; every later write is made
//! under the condition that the claim of its lane still stands. A claim by another ends it, without
//! harm: of several at once the last wins.
//!
//! **Secrets are sealed**, each class to a key of its own, see `seal`: hashes of passwords are the
//! only ones in the table so far. The writer can seal and not open; a role opens what it has the
//! private keys of, when it needs it, and keeps none of it.
//!
//! **A role keeps names.** Of a mailbox its table holds the name and nothing else, some 70 octets;
//! what is needed to log in is asked of the leader. A generation changes the domains it has
//! changed; the others are shared with the table before. (A cache of the mailboxes in use would
//! need less, and a round trip for each of the others: not needed up to some millions.)
//!
//! **Only a proven absence is a `550`.** The last complete table stays in force whatever happens to
//! the bucket. What it lacks is proven absent when the marker, asked of the stream's *leader* at
//! that moment, is the table's own: then the whole table is what is in force there. Anything else,
//! no answer, no marker or a newer one, is no proof. (A leader that was cut off from the others and
//! has not noticed yet speaks for the table as it was some seconds before.)
//!
//! **Full mailboxes** are in a bucket of their own, `mailboxes`, see `full`: what the MDA knows of
//! them is no part of a generation, and is forgotten by itself when nobody says it again.
//!
//! **Does not know** YAML, SMTP, nor what the bucket's readers do with the table.

mod bucket;
mod class;
mod compare;
mod contents;
mod full;
mod key;
mod keys;
mod loader;
mod logins;
mod publish;
mod record;
mod seal;
mod stand_ins;

use std::sync::Arc;

use domains::Table;
use futures::StreamExt;

pub use bucket::BucketError;
pub use class::Class;
pub use contents::Incomplete;
pub use full::{hear_full, tell_full};
pub use key::{KeyError, Pair, make_compare_key, public_of};
pub use loader::Loader;
pub use nats::Buckets;
pub use publish::{Progress, PublishError, Published, Publisher, Shrinking, publish};
pub use record::Marker;
pub use seal::{OpenError, Opener, SealError, Sealer};

use bucket::Bucket;
use contents::{Contents, Taken};

/// Why there is no table to show.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// The table that is in force, without its logins.
///
/// # Errors
/// When the bucket cannot be read, or holds no complete generation.
pub async fn read(config: &Buckets) -> Result<(Marker, Table), ReadError> {
    let bucket = Bucket::connect(config).await?;
    let marker = bucket.marker().await.map_err(BucketError::Read)?;
    let mut marker = marker.ok_or(Incomplete::NoMarker)?;
    let mut contents = Contents::begin(marker.clone(), Arc::default())?;
    let mut watch = bucket.watch().await.map_err(BucketError::Read)?;
    loop {
        let next = tokio::time::timeout(config.timeout, watch.next()).await;
        let next = next.map_err(|late| BucketError::Read(late.into()))?;
        let entry = next.ok_or_else(|| BucketError::Read("the watch ended".into()))?;
        let entry = entry.map_err(|error| BucketError::Read(error.into()))?;
        if let Taken::Marker(newer) = contents.take(&entry)? {
            marker = newer;
        }
        if entry.seen_current {
            contents.advance(&marker)?;
            return Ok((marker, contents.table().0));
        }
    }
}
