//! A medium that nothing is written to: [`Overlay`] keeps changed blocks in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use udax_sync::{Mutex, Rank};

use crate::{BLOCK, Buffer, DiskError, Medium, Write};

/// A medium with what was written kept in memory, over one that stays as it is.
pub(crate) struct Overlay {
    below: Arc<dyn Medium>,
    changed: Mutex<BTreeMap<u64, Buffer>>,
}

impl Overlay {
    /// Over `below`, nothing changed yet.
    pub(crate) fn new(below: Arc<dyn Medium>) -> Self {
        Self {
            below,
            changed: Mutex::new(Rank::Leaf, BTreeMap::new()),
        }
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("below", &self.below)
            .finish_non_exhaustive()
    }
}

impl Medium for Overlay {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        self.below.read(at, to)?;
        let changed = self.changed.lock();
        let end = at + u64::try_from(to.len()).unwrap_or(0);
        for (place, bytes) in changed.range(at..end) {
            let from = usize::try_from(place - at).unwrap_or(usize::MAX);
            let block = bytes.bytes();
            if let Some(to) = to.get_mut(from..).and_then(|to| to.get_mut(..block.len())) {
                to.copy_from_slice(block);
            }
        }
        Ok(())
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        let mut changed = self.changed.lock();
        for write in writes {
            for (index, bytes) in (0_u64..).zip(write.bytes.chunks(block)) {
                let mut kept = Buffer::zeroed(block);
                if let Some(to) = kept.bytes_mut().get_mut(..bytes.len()) {
                    to.copy_from_slice(bytes);
                }
                changed.insert(write.at + index * BLOCK, kept);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
