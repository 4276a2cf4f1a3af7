//! Which file has which block of the pool pinned for writing: a second witness beside the stamps.
//!
//! Two files that have one block pinned for writing at the same time are a defect whatever the bytes say; so is a
//! block that a file was just given while another file has it pinned. A holder is entered after the pin was made and
//! taken out before it is dropped, so that every conflict is certain.

use udax_sync::atomic::{AtomicU64, Ordering};

use crate::history::{Event, Ring};
use crate::stamp::Owner;

const COUNT_BITS: u32 = 20;
/// Blocks with a ring of their own; more share theirs.
const RINGS: usize = 1 << 14;

/// One block of the pool.
#[derive(Debug)]
struct PoolBlock {
    /// [`crate::life::Life::id`] and how many pins it has; 0: none.
    holder: AtomicU64,
    /// Whose it was when it was last given out.
    owner: AtomicU64,
}

/// All blocks of the pool.
#[derive(Debug)]
pub(crate) struct PoolBlocks {
    blocks: Box<[PoolBlock]>,
    rings: Box<[Ring<16>]>,
}

fn place(block: u64) -> usize {
    usize::try_from(block).unwrap_or(usize::MAX)
}

impl PoolBlocks {
    /// For blocks `0..count`.
    pub(crate) fn new(count: u64) -> Self {
        let block = |_| PoolBlock {
            holder: AtomicU64::new(0),
            owner: AtomicU64::new(0),
        };
        let rings = place(count).min(RINGS);
        Self {
            blocks: (0..count).map(block).collect(),
            rings: (0..rings).map(|_| Ring::new()).collect(),
        }
    }

    /// Enters file `life` as a holder of `block`; gives the file that holds it already, if it is another.
    pub(crate) fn enter(&self, block: u64, life: u64) -> Option<u64> {
        let holder = &self.blocks.get(place(block))?.holder;
        let mut now = holder.load(Ordering::Acquire);
        loop {
            if now != 0 && now >> COUNT_BITS != life {
                return Some(now >> COUNT_BITS);
            }
            let next = (now | life << COUNT_BITS) + 1;
            match holder.compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return None,
                Err(found) => now = found,
            }
        }
    }

    /// Takes back one entry.
    pub(crate) fn leave(&self, block: u64) {
        let Some(block) = self.blocks.get(place(block)) else {
            return;
        };
        let mut now = block.holder.load(Ordering::Acquire);
        loop {
            let is_last = now & ((1 << COUNT_BITS) - 1) <= 1;
            let next = if is_last { 0 } else { now - 1 };
            match block
                .holder
                .compare_exchange(now, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(found) => now = found,
            }
        }
    }

    /// Another file than `life` that has it pinned.
    pub(crate) fn stranger(&self, block: u64, life: u64) -> Option<u64> {
        let now = self.blocks.get(place(block))?.holder.load(Ordering::Acquire);
        (now != 0 && now >> COUNT_BITS != life).then_some(now >> COUNT_BITS)
    }

    /// Notes that it was given to `owner`; whether it was another's before.
    pub(crate) fn give(&self, block: u64, owner: Owner) -> bool {
        let Some(block) = self.blocks.get(place(block)) else {
            return false;
        };
        let before = block.owner.swap(owner.raw(), Ordering::Relaxed);
        before != 0 && before != owner.raw()
    }

    /// Notes an event of blocks of the pool.
    pub(crate) fn note(&self, event: Event) {
        let first = Event { count: 1, ..event };
        for block in event.first..event.first + event.count {
            if let Some(ring) = self.ring(block) {
                ring.note(Event {
                    first: block,
                    ..first
                });
            }
        }
    }

    /// The last events of one block.
    pub(crate) fn events(&self, block: u64) -> Vec<Event> {
        let events = self.ring(block).map(Ring::events).unwrap_or_default();
        events.into_iter().filter(|event| event.first == block).collect()
    }

    fn ring(&self, block: u64) -> Option<&Ring<16>> {
        self.rings.get(place(block) % self.rings.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_at_once_are_seen_and_one_after_the_other_are_not() {
        let blocks = PoolBlocks::new(10);
        assert_eq!((blocks.enter(3, 1), blocks.enter(3, 1)), (None, None));
        assert_eq!((blocks.enter(3, 2), blocks.stranger(3, 2)), (Some(1), Some(1)));
        blocks.leave(3);
        assert_eq!(blocks.enter(3, 2), Some(1));
        blocks.leave(3);
        assert_eq!((blocks.enter(3, 2), blocks.stranger(3, 2)), (None, None));
        assert_eq!(blocks.enter(99, 1), None);
    }

    #[test]
    fn a_block_is_recycled_when_it_gets_another_owner() {
        let blocks = PoolBlocks::new(10);
        let (one, other) = (Owner::new(0, 1, 0), Owner::new(0, 2, 0));
        assert_eq!(
            [one, one, other].map(|owner| blocks.give(3, owner)),
            [false, false, true]
        );
    }
}
