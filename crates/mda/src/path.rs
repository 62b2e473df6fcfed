//! The names of files in mailboxes: of their directories, [`domains::StorageId::directory`] tells.

use queue::Job;

/// The part of a file's name that does not depend on its size: unique for the recipient of a job,
/// and the same in every attempt. In the form of the Maildir specification: time, a part that is
/// unique, and a host, which the unique part makes needless.
pub(crate) fn unique_name(job: &Job, recipient: u32) -> String {
    let seconds = job.id.message.arrival().unix_ms() / 1000;
    format!("{seconds}.{}_{}_{recipient}.postrider", job.id.message, job.id.index)
}
