//! Freed metadata blocks that must not be used again yet.
//!
//! Replay writes the old content of a freed metadata block when a record before the one that freed it is still after
//! the checkpoint: it would destroy what the block was given to since. So such a block waits until a checkpoint has
//! passed the record that freed it; by then no record that touches it is replayed any more.

use std::collections::VecDeque;

use udax_media::{BlockRange, Sequence};

use crate::{Checkpointed, Committed};

/// Freed metadata blocks, kept from use until a checkpoint has passed the record that freed them.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Ascending by sequence.
    waiting: VecDeque<(Sequence, BlockRange)>,
    blocks: u64,
}

impl Quarantine {
    /// Keeps `blocks`, freed by `committed`. Calls may come in another order than the commits.
    pub fn put(&mut self, committed: Committed, blocks: BlockRange) {
        if blocks.count == 0 {
            return;
        }
        let sequence = committed.sequence();
        let at = self.waiting.partition_point(|(other, _)| *other <= sequence);
        self.waiting.insert(at, (sequence, blocks));
        self.blocks = self.blocks.saturating_add(blocks.count);
    }

    /// Takes out what `checkpointed` has passed.
    pub fn take(&mut self, checkpointed: Checkpointed) -> Vec<BlockRange> {
        let count = self
            .waiting
            .partition_point(|(sequence, _)| *sequence <= checkpointed.sequence());
        let freed: Vec<BlockRange> = self.waiting.drain(..count).map(|(_, blocks)| blocks).collect();
        let freed_blocks = freed.iter().map(|blocks| blocks.count).sum();
        self.blocks = self.blocks.saturating_sub(freed_blocks);
        freed
    }

    /// Blocks kept.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use udax_media::BlockNo;

    use super::*;

    fn range(start: u64, count: u64) -> BlockRange {
        BlockRange::new(BlockNo(start), count)
    }

    #[test]
    fn gives_back_only_what_the_checkpoint_has_passed_in_order() {
        let mut quarantine = Quarantine::default();
        quarantine.put(Committed(Sequence(5)), range(50, 2));
        quarantine.put(Committed(Sequence(3)), range(30, 1));
        quarantine.put(Committed(Sequence(9)), range(90, 4));
        quarantine.put(Committed(Sequence(5)), range(55, 1));
        quarantine.put(Committed(Sequence(1)), range(10, 0));
        assert_eq!(quarantine.blocks(), 8);
        assert_eq!(quarantine.take(Checkpointed(Sequence(2))), []);
        assert_eq!(
            quarantine.take(Checkpointed(Sequence(5))),
            [range(30, 1), range(50, 2), range(55, 1)]
        );
        assert_eq!(quarantine.blocks(), 4);
        assert_eq!(quarantine.take(Checkpointed(Sequence(8))), []);
        assert_eq!(quarantine.take(Checkpointed(Sequence(9))), [range(90, 4)]);
        assert_eq!(quarantine.blocks(), 0);
    }
}
