//! Sum blocks that are made anew.

use std::collections::BTreeSet;

use udax_media::seal;
use udax_media::sum::{self, Sum};
use udax_media::{BlockNo, LINE_SIZE};

use super::log::Write;
use super::{Failure, Mender};

impl Mender<'_, '_> {
    /// Makes the sum blocks `damaged` anew, with the sums of what the blocks hold now; of what cannot be read none.
    pub(super) fn write_sums(&mut self, damaged: &BTreeSet<u64>) -> Result<(), Failure> {
        let all = self.pool.geometry.sum_blocks();
        for at in all.filter(|at| damaged.contains(&at.block.raw())) {
            let mut bytes = sum::format(self.pool.seed, at);
            let (_, words) = bytes.split_at_mut(LINE_SIZE);
            let blocks = (at.covers.start.raw()..at.covers.end().raw()).map(BlockNo);
            for (word, block) in words.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
                if let Ok(data) = self.read(block) {
                    *word = Sum::of(self.pool.seed, data.as_slice()).word().to_le_bytes();
                }
            }
            seal::seal(self.pool.seed, bytes.as_mut_slice());
            self.log
                .commit(&[Write::new(at.block.offset(), bytes.as_slice())])?;
        }
        Ok(())
    }
}
