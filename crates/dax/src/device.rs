//! A device: the memory that files have their blocks in, and what all its mappings share.

use std::sync::Arc;

use udax_pmem::Region;
use udax_sync::atomic::{AtomicU64, Ordering};

use crate::frames::{FrameTable, Owner};
use crate::list::PinList;
use crate::statistics::Statistics;
use crate::wait::{Key, WaitTable};
use crate::{Counters, Listed, PAGE};

/// A region whose pages are mapped and pinned. Page numbers of the device are called frames or blocks: the offset
/// divided by 4096.
#[derive(Debug)]
pub struct Device {
    region: Arc<Region>,
    pub(crate) frames: FrameTable,
    pub(crate) waits: WaitTable,
    pub(crate) pins: PinList,
    pub(crate) statistics: Statistics,
    mappings: AtomicU64,
}

impl Device {
    /// A device without mappings; it may grow as far as the region may.
    pub fn new(region: Arc<Region>) -> Arc<Self> {
        Arc::new(Self {
            frames: FrameTable::new(region.max_len() / PAGE),
            region,
            waits: WaitTable::new(),
            pins: PinList::new(),
            statistics: Statistics::new(),
            mappings: AtomicU64::new(0),
        })
    }

    /// The memory.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Every pin that is held, the oldest first: what a stuck truncation waits for is among them.
    pub fn pins(&self) -> Vec<Listed> {
        self.pins.all()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let mut counters = self.statistics.read();
        counters.pins = self.pins.total();
        counters
    }

    /// Which entries have a block; of a 2 MiB entry its first block knows.
    pub fn owner(&self, block: u64) -> Owner {
        self.frames.get(block).map_or(Owner::None, |frame| frame.owner())
    }

    /// How many threads wait for pins of the block to go.
    pub fn block_waiters(&self, block: u64) -> usize {
        self.waits.waiting(Key::Frame(block))
    }

    /// Whether the block is in the region as it is now.
    pub(crate) fn has_blocks(&self, block: u64, count: u64) -> bool {
        let end = block.checked_add(count).and_then(|end| end.checked_mul(PAGE));
        end.is_some_and(|end| end <= self.region.len())
    }

    /// A number that no other mapping of the device has had.
    pub(crate) fn next_mapping(&self) -> u64 {
        self.mappings.fetch_add(1, Ordering::Relaxed) + 1
    }
}
