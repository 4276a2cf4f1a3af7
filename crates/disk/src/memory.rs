//! A medium in memory, for tests: [`MemoryMedium`]. What was not flushed is kept apart, sector by sector, so that a
//! power failure can take any of it; requests can be made to fail.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use udax_sync::{Mutex, Rank};

use crate::{DiskError, Medium, Write};

/// What a device writes as a whole.
const SECTOR: usize = 512;

/// What a medium was asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// These bytes were written.
    Write(Range<u64>),
    /// What was written is durable.
    Flush,
}

/// Told of each step, after it was done.
pub trait Watcher: Send + Sync {
    /// What was done.
    fn saw(&self, step: Step);
}

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    /// Sectors written since the last flush.
    pending: BTreeMap<usize, [u8; SECTOR]>,
    /// Reads of these bytes fail.
    unreadable: Vec<Range<u64>>,
    /// So many of the next writes, and flushes, fail.
    failing_writes: u64,
    failing_flushes: u64,
    /// A flush that fails loses what it was to make durable.
    is_losing: bool,
}

/// A medium in memory.
pub struct MemoryMedium {
    len: u64,
    content: Mutex<Content>,
    watcher: Option<Arc<dyn Watcher>>,
}

impl fmt::Debug for MemoryMedium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMedium")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl MemoryMedium {
    /// `len` bytes of zeros.
    pub fn new(len: u64) -> Self {
        let content = Content {
            durable: vec![0; in_memory(len)],
            ..Content::default()
        };
        Self::with(len, content)
    }

    fn with(len: u64, content: Content) -> Self {
        Self {
            len,
            content: Mutex::new(Rank::Leaf, content),
            watcher: None,
        }
    }

    /// The same, which tells `watcher` of each step.
    #[must_use]
    pub fn watched(mut self, watcher: Arc<dyn Watcher>) -> Self {
        self.watcher = Some(watcher);
        self
    }

    /// What a power failure now leaves: of the sectors that were not flushed those that `keeps` says.
    #[must_use]
    pub fn after_power_failure(&self, mut keeps: impl FnMut(u64) -> bool) -> Self {
        let content = self.content.lock();
        let mut durable = content.durable.clone();
        for (sector, bytes) in &content.pending {
            let at = sector * SECTOR;
            if keeps(u64::try_from(*sector).unwrap_or(0))
                && let Some(to) = durable.get_mut(at..at + SECTOR)
            {
                to.copy_from_slice(bytes);
            }
        }
        let after = Content {
            durable,
            ..Content::default()
        };
        drop(content);
        Self::with(self.len, after)
    }

    /// Reads of these bytes fail from now on, until they are written.
    pub fn lose(&self, bytes: Range<u64>) {
        self.content.lock().unreadable.push(bytes);
    }

    /// The next `count` writes fail, and change nothing.
    pub fn fail_writes(&self, count: u64) {
        self.content.lock().failing_writes = count;
    }

    /// The next `count` flushes fail, and nothing becomes durable.
    pub fn fail_flushes(&self, count: u64) {
        let mut content = self.content.lock();
        content.failing_flushes = count;
        content.is_losing = false;
    }

    /// The next `count` flushes fail, and what they were to make durable is lost: what was there before is back.
    pub fn lose_flushes(&self, count: u64) {
        let mut content = self.content.lock();
        content.failing_flushes = count;
        content.is_losing = true;
    }

    fn tell(&self, step: Step) {
        if let Some(watcher) = &self.watcher {
            watcher.saw(step);
        }
    }
}

impl Medium for MemoryMedium {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        let content = self.content.lock();
        let end = at + u64::try_from(to.len()).unwrap_or(0);
        if let Some(lost) = content
            .unreadable
            .iter()
            .find(|lost| lost.start < end && at < lost.end)
        {
            return Err(DiskError::lost("read", lost.start.max(at)));
        }
        for (index, part) in to.chunks_mut(SECTOR).enumerate() {
            let sector = in_memory(at) / SECTOR + index;
            let from = match content.pending.get(&sector) {
                Some(bytes) => bytes.as_slice(),
                None => content
                    .durable
                    .get(sector * SECTOR..(sector + 1) * SECTOR)
                    .ok_or_else(|| DiskError::lost("read", at))?,
            };
            part.copy_from_slice(from.get(..part.len()).unwrap_or_default());
        }
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        for write in writes {
            let end = write.at + u64::try_from(write.bytes.len()).unwrap_or(0);
            let mut content = self.content.lock();
            if content.failing_writes > 0 {
                content.failing_writes -= 1;
                return Err(DiskError::lost("write", write.at));
            }
            content
                .unreadable
                .retain(|lost| lost.end <= write.at || lost.start >= end);
            for (index, bytes) in write.bytes.as_chunks::<SECTOR>().0.iter().enumerate() {
                content
                    .pending
                    .insert(in_memory(write.at) / SECTOR + index, *bytes);
            }
            drop(content);
            self.tell(Step::Write(write.at..end));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut content = self.content.lock();
        if content.failing_flushes > 0 {
            content.failing_flushes -= 1;
            if content.is_losing {
                content.pending.clear();
            }
            return Err(DiskError::lost("flush", 0));
        }
        for (sector, bytes) in std::mem::take(&mut content.pending) {
            if let Some(to) = content.durable.get_mut(sector * SECTOR..(sector + 1) * SECTOR) {
                to.copy_from_slice(&bytes);
            }
        }
        drop(content);
        self.tell(Step::Flush);
        Ok(())
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
