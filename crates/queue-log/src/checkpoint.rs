//! The index as it was at a place of the log, so that only what came after is read.
//!
//! ```text
//! magic 8 │ rows of 84 octets, one a job │ footer: JSON │ footer length 4 │ crc 4
//! ```
//!
//! It is taken while the queue works: what changed meanwhile is in the log behind its position, and
//! reading that again over a newer row gives the same. Losing it costs time only.

use std::io;
use std::num::NonZeroU32;

use mail_types::{QueueId, TenantId, Timestamp};
use queue::schedule::{NewEntry, Placement, View};
use queue::{JobId, NextHop, Wait};
use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};
use crate::index::{Files, Index, Location, Places};
use crate::record::{u32_at, u64_at};
use crate::shared::Shared;

const PATH: &str = "checkpoint";
const MAGIC: &[u8; 8] = b"PRindex\n";
const VERSION: u32 = 1;
const ROW_BYTES: usize = 84;
const PAGE: usize = 1024;

/// Where reading goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    v: u32,
    position: Position,
    hops: Vec<NextHop>,
    tenants: Vec<TenantId>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("cannot read the checkpoint")]
    Io(#[source] io::Error),
    #[error("the checkpoint is damaged")]
    Damaged,
    #[error("the checkpoint has version {0}")]
    Version(u32),
}

/// Saves the index, whose log has to be read again from `position` on.
pub(crate) fn save(shared: &Shared, position: Position) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    let mut footer = Footer { v: VERSION, position, hops: Vec::new(), tenants: Vec::new() };
    let mut numbers = Numbers::default();
    let mut from = None;
    loop {
        let index = shared.index();
        let page = index.schedule.page(from, PAGE);
        for job in &page.jobs {
            if let Some(placement) = index.schedule.placement(job.id) {
                bytes.extend(row(job, placement, &mut numbers, &mut footer));
            }
        }
        drop(index);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let json = serde_json::to_vec(&footer)?;
    bytes.extend(&json);
    bytes.extend(u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    let write = || disk::write_whole(&*shared.disk, disk::ROOT, PATH, &bytes);
    shared.room.taking(bytes.len() as u64, write)
}

/// Fills the index from the last checkpoint, if there is one, and all of it can be understood.
pub(crate) fn load(
    disk: &dyn Disk,
    index: &mut Index,
    now: Timestamp,
) -> Result<Option<Position>, CheckpointError> {
    let bytes = match disk::read_all(disk, PATH) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CheckpointError::Io(error)),
    };
    let (rows, footer) = parse(&bytes)?;
    // First whether all can be understood: a million entries at once would be half as large as the
    // index that they become.
    if !rows.iter().all(|row| entry(row, &footer).is_some()) {
        return Err(CheckpointError::Damaged);
    }
    rows.iter().filter_map(|row| entry(row, &footer)).for_each(|it| {
        index.schedule.insert(it, now);
    });
    Ok(Some(footer.position))
}

fn parse(bytes: &[u8]) -> Result<(&[[u8; ROW_BYTES]], Footer), CheckpointError> {
    let damaged = || CheckpointError::Damaged;
    let (checked, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32c::crc32c(checked) != u32::from_le_bytes(*crc) {
        return Err(damaged());
    }
    let (rest, length) = checked.split_last_chunk::<4>().ok_or_else(damaged)?;
    let rest = rest.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let footer_at = rest.len().checked_sub(u32::from_le_bytes(*length) as usize);
    let (rows, json) = rest.split_at(footer_at.ok_or_else(damaged)?);
    let footer: Footer = serde_json::from_slice(json).map_err(|_| damaged())?;
    if footer.v != VERSION {
        return Err(CheckpointError::Version(footer.v));
    }
    match rows.as_chunks() {
        (rows, []) => Ok((rows, footer)),
        _ => Err(damaged()),
    }
}

/// Names by number, as they are met.
#[derive(Default)]
struct Numbers {
    hops: std::collections::HashMap<NextHop, u32>,
    tenants: std::collections::HashMap<TenantId, u32>,
}

fn number<T: Clone + Eq + std::hash::Hash>(
    numbers: &mut std::collections::HashMap<T, u32>,
    names: &mut Vec<T>,
    name: &T,
) -> u32 {
    if let Some(&number) = numbers.get(name) {
        return number;
    }
    // There are fewer names than jobs, and those have numbers of 32 bits.
    let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
    numbers.insert(name.clone(), number);
    names.push(name.clone());
    number
}

/// message 16 │ job 2 │ placement 1 │ files 1 │ hop 4 │ tenant 4 │ size 8 │ until 8 │ wake by 8
/// │ location of the message 16 │ of the state 16, or zeros
fn row(
    job: &View<Places>,
    placement: Placement,
    numbers: &mut Numbers,
    footer: &mut Footer,
) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    let (kind, until, wake_by) = placement_parts(placement);
    row[..16].copy_from_slice(&job.id.message.to_bytes());
    row[16..18].copy_from_slice(&job.id.index.to_le_bytes());
    row[18] = kind;
    row[19] = u8::from(job.payload.files == Files::Some);
    let hop = number(&mut numbers.hops, &mut footer.hops, &job.next_hop);
    let tenant = number(&mut numbers.tenants, &mut footer.tenants, &job.tenant);
    row[20..24].copy_from_slice(&hop.to_le_bytes());
    row[24..28].copy_from_slice(&tenant.to_le_bytes());
    row[28..36].copy_from_slice(&job.size.to_le_bytes());
    row[36..44].copy_from_slice(&until.unix_ms().to_le_bytes());
    row[44..52].copy_from_slice(&wake_by.unix_ms().to_le_bytes());
    row[52..68].copy_from_slice(&location_bytes(job.payload.message));
    if let Some(state) = job.payload.state {
        row[68..84].copy_from_slice(&location_bytes(state));
    }
    row
}

fn entry(row: &[u8; ROW_BYTES], footer: &Footer) -> Option<NewEntry<Places>> {
    let message = QueueId::from_bytes(*row.first_chunk()?);
    let files = if row[19] == 0 { Files::None } else { Files::Some };
    let time = |at| Timestamp::from_unix_ms(u64_at(row, at).cast_signed());
    let places = Places { message: location(&row[52..])?, state: location(&row[68..]), files };
    Some(NewEntry {
        id: JobId { message, index: u16::from_le_bytes([row[16], row[17]]) },
        tenant: footer.tenants.get(u32_at(row, 24) as usize)?.clone(),
        next_hop: footer.hops.get(u32_at(row, 20) as usize)?.clone(),
        size: u64_at(row, 28),
        placement: placement(row[18], time(36), time(44))?,
        payload: places,
    })
}

fn placement_parts(placement: Placement) -> (u8, Timestamp, Timestamp) {
    const NONE: Timestamp = Timestamp::from_unix_ms(0);
    match placement {
        Placement::Ready { wake_by } => (0, NONE, wake_by),
        Placement::Deferred { until, wake_by, wait: Wait::Time } => (1, until, wake_by),
        Placement::Deferred { until, wake_by, wait: Wait::Hop } => (2, until, wake_by),
        Placement::Urgent { wake_by } => (3, NONE, wake_by),
        Placement::Cancelled => (4, NONE, NONE),
        Placement::Held => (5, NONE, NONE),
        Placement::Quarantined => (6, NONE, NONE),
    }
}

fn placement(kind: u8, until: Timestamp, wake_by: Timestamp) -> Option<Placement> {
    match kind {
        0 => Some(Placement::Ready { wake_by }),
        1 => Some(Placement::Deferred { until, wake_by, wait: Wait::Time }),
        2 => Some(Placement::Deferred { until, wake_by, wait: Wait::Hop }),
        3 => Some(Placement::Urgent { wake_by }),
        4 => Some(Placement::Cancelled),
        5 => Some(Placement::Held),
        6 => Some(Placement::Quarantined),
        _ => None,
    }
}

fn location_bytes(location: Location) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&location.segment.get().to_le_bytes());
    bytes[4..8].copy_from_slice(&location.offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&location.meta_bytes.to_le_bytes());
    bytes[12..].copy_from_slice(&location.content_bytes.to_le_bytes());
    bytes
}

fn location(bytes: &[u8]) -> Option<Location> {
    Some(Location {
        segment: NonZeroU32::new(u32_at(bytes, 0))?,
        offset: u32_at(bytes, 4),
        meta_bytes: u32_at(bytes, 8),
        content_bytes: u32_at(bytes, 12),
    })
}
