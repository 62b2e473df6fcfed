//! The suite of the contract, on files and on a disk that loses what is not synced.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use async_trait::async_trait;
use mail_types::QueueId;
use queue::Queue;
use queue::conformance::{Fault, Harness, Settings, Step, Support, VirtualClock};

use crate::content::body_path;
use crate::disk::{self, Leaves, Operation, SimDisk, Syncs};
use crate::record::HEADER_BYTES;
use crate::{Config, LogQueue, Metrics, segment};

fn config(settings: &Settings) -> Config {
    Config {
        segment_bytes: 8 << 20,
        max_bytes: Some(settings.limit_bytes),
        min_free_bytes: 0,
        lease_seconds: settings.lease_time.as_secs(),
        tenant_messages: Some(settings.quota.messages),
        tenant_bytes: Some(settings.quota.bytes),
        ..Config::default()
    }
    .fitting(settings)
}

impl Config {
    /// With segments of which a small store has several.
    fn fitting(mut self, settings: &Settings) -> Self {
        if settings.limit_bytes <= 16 << 20 {
            self.segment_bytes = 1 << 20;
            self.inline_body_bytes = 128 << 10;
        }
        self
    }
}

/// A place in a file at which the content of a message can be damaged.
fn place(queue: &LogQueue, message: QueueId) -> Option<(String, u64)> {
    let mut index = queue.shared().index();
    index.cache.clear();
    let view = index.schedule.of_message(message).into_iter().next()?;
    drop(index);
    let at = view.payload.message;
    if at.content_bytes < 100 {
        return Some((body_path(message), 0));
    }
    let content = u64::from(at.offset) + HEADER_BYTES as u64 + u64::from(at.meta_bytes);
    Some((segment::path(at.segment.get()), content + 99))
}

struct OnFiles {
    dir: tempfile::TempDir,
    settings: Settings,
    clock: VirtualClock,
    queue: Option<Arc<LogQueue>>,
}

impl OnFiles {
    fn open_queue(&mut self) {
        let reader = self.clock.reader();
        let metrics = Metrics::default();
        let queue = LogQueue::open(self.dir.path(), config(&self.settings), metrics, reader);
        self.queue = Some(Arc::new(queue.unwrap()));
    }
}

#[async_trait]
impl Harness for OnFiles {
    async fn open(_seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut harness = Self { dir, settings, clock, queue: None };
        harness.open_queue();
        harness
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(self.queue.as_ref().unwrap()) as Arc<dyn Queue>
    }

    async fn crash(&mut self) {
        let queue = self.queue.take().unwrap();
        queue.halt();
        drop(queue);
        self.open_queue();
    }

    fn fail_next(&mut self, _step: Step, _fault: Fault) -> Support {
        Support::Unsupported
    }

    async fn damage(&mut self, message: QueueId) -> Support {
        let Some((path, at)) = place(self.queue.as_ref().unwrap(), message) else {
            return Support::Unsupported;
        };
        let path = self.dir.path().join(path);
        let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut octet = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut octet).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[octet[0] ^ 0x20]).unwrap();
        self.crash().await;
        Support::Done
    }
}

struct OnSimDisk {
    disk: SimDisk,
    settings: Settings,
    clock: VirtualClock,
    queue: Arc<LogQueue>,
}

impl OnSimDisk {
    fn open_queue(disk: &SimDisk, settings: &Settings, clock: &VirtualClock) -> Arc<LogQueue> {
        let disk = Arc::new(disk.clone());
        // Small, because each crash copies the disk.
        let (segment_bytes, inline_body_bytes) = (1 << 20, 128 << 10);
        let config = Config { segment_bytes, inline_body_bytes, ..config(settings) };
        let reader = Box::new(clock.reader());
        Arc::new(LogQueue::on(disk, config, Metrics::default(), reader).unwrap())
    }

    fn fail(&self, on: Operation, leaves: Leaves) {
        let kind = io::ErrorKind::Other;
        self.disk.fail(disk::Fault { after: 0, on: Some(on), kind, leaves });
    }
}

#[async_trait]
impl Harness for OnSimDisk {
    async fn open(seed: u64, settings: Settings, clock: VirtualClock) -> Self {
        let disk = SimDisk::new(seed, Syncs::Honest);
        let queue = Self::open_queue(&disk, &settings, &clock);
        Self { disk, settings, clock, queue }
    }

    fn queue(&self) -> Arc<dyn Queue> {
        Arc::clone(&self.queue) as Arc<dyn Queue>
    }

    async fn crash(&mut self) {
        self.disk = self.disk.cut();
        self.queue.halt();
        self.queue = Self::open_queue(&self.disk, &self.settings, &self.clock);
    }

    fn fail_next(&mut self, step: Step, fault: Fault) -> Support {
        if !matches!(step, Step::Commit | Step::Settle) {
            return Support::Unsupported;
        }
        match fault {
            Fault::Unavailable => self.fail(Operation::Sync, Leaves::Some),
            Fault::UnknownKept | Fault::UnknownLost => {
                let kept = fault == Fault::UnknownKept;
                self.fail(Operation::Sync, if kept { Leaves::All } else { Leaves::Nothing });
                // The header of the next segment, after the batch itself.
                let (on, kind) = (Some(Operation::Write), io::ErrorKind::Other);
                self.disk.fail(disk::Fault { after: 1, on, kind, leaves: Leaves::Some });
            }
        }
        Support::Done
    }

    async fn damage(&mut self, message: QueueId) -> Support {
        let Some((path, at)) = place(&self.queue, message) else { return Support::Unsupported };
        self.disk.flip(&path, at);
        Support::Done
    }
}

mod files {
    use super::OnFiles;
    queue::conformance_suite!(OnFiles);
}

mod sim_disk {
    use super::OnSimDisk;
    queue::conformance_suite!(OnSimDisk);
}
