//! Which lines of which blocks a set of records touches, and completing them on media.

use udax_media::record::Operation;
use udax_media::seal::{Seed, seal_block};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, Geometry, LINE_BYTES};
use udax_pmem::Region;
use udax_sync::fault::{Fault, is_injected};

use crate::JournalError;
use crate::lost::{LostBlocks, lost_block};

/// Entries gathered before those of one block are merged: bounds memory by the blocks really touched.
const MERGE_AT: usize = 1 << 16;

/// Blocks and their touched lines.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Unordered, a block perhaps several times, until merged.
    lines: Vec<(BlockNo, u64)>,
    merge_at: usize,
}

impl Touched {
    /// Adds what `operation` touches.
    pub(crate) fn add(&mut self, geometry: &Geometry, operation: &Operation<'_>) {
        match operation {
            Operation::Write { at, bytes } => {
                let len = u64::try_from(bytes.len()).unwrap_or(0);
                self.add_bytes(*at, len);
            }
            Operation::Allocate(range) | Operation::Free(range) => {
                for word in geometry.bit_words(*range) {
                    self.add_bytes(word.at, 8);
                }
            }
            Operation::Zero(range) => {
                for block in range.start.raw()..range.end().raw() {
                    self.push(BlockNo(block), u64::MAX);
                }
            }
        }
    }

    fn add_bytes(&mut self, at: ByteOffset, len: u64) {
        let end = at.raw().saturating_add(len);
        let mut next = at.raw();
        while next < end {
            let block = ByteOffset(next).block();
            let block_end = end.min((block.raw() + 1).saturating_mul(BLOCK_BYTES));
            let first = next % BLOCK_BYTES / LINE_BYTES;
            let last = (block_end - 1) % BLOCK_BYTES / LINE_BYTES;
            let mask = (u64::MAX >> (63 - (last - first))) << first;
            self.push(block, mask);
            next = block_end;
        }
    }

    fn push(&mut self, block: BlockNo, mask: u64) {
        // Changes of one record often follow one another in a block.
        if let Some((last, lines)) = self.lines.last_mut()
            && *last == block
        {
            *lines |= mask;
            return;
        }
        self.lines.push((block, mask));
        if self.lines.len() >= self.merge_at.max(MERGE_AT) {
            self.merge();
            self.merge_at = self.lines.len().saturating_mul(2);
        }
    }

    fn merge(&mut self) {
        self.lines.sort_unstable_by_key(|(block, _)| *block);
        self.lines.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 |= next.1;
            }
            same
        });
    }

    /// The blocks, ascending, each once, with their lines.
    pub(crate) fn into_blocks(mut self) -> Vec<(BlockNo, u64)> {
        self.merge();
        self.lines
    }
}

/// Seals each block and flushes its touched lines, unless that fault is injected. Durable after the next fence. Gives
/// the blocks that the medium has lost: those are left out.
pub(crate) fn complete(
    region: &Region,
    seed: Seed,
    blocks: &[(BlockNo, u64)],
    unflushed: Fault,
) -> Result<LostBlocks, JournalError> {
    let mut lost = LostBlocks::new();
    for (block, lines) in blocks {
        let completed = complete_one(region, seed, (*block, *lines), unflushed);
        match lost_block(region, &completed) {
            Some(block) => {
                lost.insert(block);
            }
            None => completed?,
        }
    }
    Ok(lost)
}

fn complete_one(
    region: &Region,
    seed: Seed,
    (block, lines): (BlockNo, u64),
    unflushed: Fault,
) -> Result<(), JournalError> {
    let mut bytes = [0; BLOCK_SIZE];
    let start = block.offset().raw();
    region.read(start, &mut bytes)?;
    let sealed = seal_block(seed, &mut bytes, lines);
    let to_seal = match is_injected(Fault::UnsealedCheckpoint) {
        true => 0,
        false => sealed,
    };
    for line in set_bits(to_seal) {
        // Only the checksum: the bytes around it may be changing.
        let field = usize::try_from(line * LINE_BYTES + 4).unwrap_or(BLOCK_SIZE);
        if let Some(checksum) = bytes.get(field..field + 4) {
            region.store(start + line * LINE_BYTES + 4, checksum)?;
        }
    }
    if !is_injected(unflushed) {
        flush_lines(region, start, lines | sealed)?;
    }
    Ok(())
}

fn set_bits(mut mask: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        mask &= mask.checked_sub(1)?;
        Some(u64::from(bit))
    })
}

/// Flushes the lines of `mask`, run by run.
fn flush_lines(region: &Region, start: u64, mut mask: u64) -> Result<(), JournalError> {
    let mut line = 0;
    while mask != 0 {
        let skip = mask.trailing_zeros();
        mask >>= skip;
        line += u64::from(skip);
        let run = mask.trailing_ones();
        region.flush(start + line * LINE_BYTES, u64::from(run) * LINE_BYTES)?;
        mask = mask.checked_shr(run).unwrap_or(0);
        line += u64::from(run);
    }
    Ok(())
}
