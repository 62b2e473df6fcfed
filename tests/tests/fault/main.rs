//! Full disks and failing syncs lose nothing.

mod disk_full;
mod mailbox_full;
