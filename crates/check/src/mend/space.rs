//! Blocks that a repair may write to, and the free map.

use std::sync::Arc;

use udax_media::bitmap::{self, GROUP_WORDS};
use udax_media::geometry::Group;
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, LINE_SIZE};

use super::log::{Log, Write};
use crate::CheckError;
use crate::ownership::Ownership;
use crate::pool::Pool;
use crate::scan::space::should_be;

/// Free blocks to take.
///
/// First those that neither have an owner nor are marked in use; then those that are marked but
/// have no owner. Blocks of a damaged bitmap count as marked.
#[derive(Debug)]
pub(super) struct Space {
    ownership: Arc<Ownership>,
    marked: Vec<(Group, Box<[u64; GROUP_WORDS]>)>,
    /// Free blocks that are bad.
    unusable: Vec<BlockRange>,
    /// Where to look next: group, block in it. Past the groups twice when nothing is left.
    next: (usize, u64),
    pass: u8,
    taken: Vec<BlockNo>,
}

impl Space {
    pub(super) fn new(pool: &Pool<'_>, ownership: Arc<Ownership>) -> Self {
        // For metadata.
        let geometry = pool.geometry.of_pool();
        let groups = (0..geometry.group_count()).filter_map(|index| geometry.group(index));
        let marked = groups
            .map(|group| {
                let words = pool
                    .read(group.bitmap)
                    .ok()
                    .and_then(|bytes| bitmap::verify(pool.seed, &bytes, group.bitmap, group.covers).ok());
                (group, words.unwrap_or_else(|| Box::new([u64::MAX; GROUP_WORDS])))
            })
            .collect();
        Self {
            ownership,
            marked,
            unusable: pool.source.lost_blocks(),
            next: (0, 0),
            pass: 0,
            taken: Vec::new(),
        }
    }

    /// A block that was not taken before.
    pub(super) fn take(&mut self) -> Option<BlockNo> {
        loop {
            let (index, offset) = self.next;
            let Some((group, words)) = self.marked.get(index) else {
                if self.pass > 0 {
                    return None;
                }
                self.pass = 1;
                self.next = (0, 0);
                continue;
            };
            if offset >= group.covers.count {
                self.next = (index + 1, 0);
                continue;
            }
            self.next = (index, offset + 1);
            let block = BlockNo(group.covers.start.raw() + offset);
            let word = usize::try_from(offset / 64)
                .ok()
                .and_then(|at| words.get(at))
                .copied();
            let is_marked = (word.unwrap_or(u64::MAX) >> (offset % 64)) & 1 != 0;
            let is_owned = self.ownership.bits(block) & 1 != 0;
            // The first pass has taken what is not marked.
            if !is_owned && is_marked == (self.pass == 1) && !self.is_unusable(block) {
                self.taken.push(block);
                return Some(block);
            }
        }
    }

    fn is_unusable(&self, block: BlockNo) -> bool {
        let after = self.unusable.partition_point(|run| run.end() <= block);
        self.unusable.get(after).is_some_and(|run| run.contains(block))
    }

    /// Whether the free map has `block` in use, as far as it can be believed.
    pub(super) fn is_marked(&self, block: BlockNo) -> bool {
        let group = self.marked.iter().find(|(group, _)| group.covers.contains(block));
        group.is_some_and(|(group, words)| {
            let offset = block.raw() - group.covers.start.raw();
            let word = usize::try_from(offset / 64)
                .ok()
                .and_then(|at| words.get(at))
                .copied();
            word.is_some_and(|word| (word >> (offset % 64)) & 1 != 0)
        })
    }

    /// The blocks taken since the last call.
    pub(super) fn drain_taken(&mut self) -> Vec<BlockNo> {
        std::mem::take(&mut self.taken)
    }
}

/// Marks blocks as in use, before something names them. A crash after it leaks them until the next check.
pub(super) fn mark(log: &mut Log<'_>, pool: &Pool<'_>, blocks: &[BlockNo]) -> Result<(), CheckError> {
    /// Words in one step: far below what a record holds.
    const STEP: usize = 1024;
    let mut words: std::collections::BTreeMap<u64, u64> = std::collections::BTreeMap::new();
    for block in blocks {
        for word in pool.geometry.bit_words(BlockRange::new(*block, 1)) {
            *words.entry(word.at.raw()).or_default() |= word.mask;
        }
    }
    let mut writes = Vec::new();
    for (at, mask) in words {
        let before = log.region.read_u64(at)?;
        if before | mask != before {
            writes.push(Write::new(ByteOffset(at), (before | mask).to_le_bytes()));
        }
        if writes.len() == STEP {
            log.commit(&std::mem::take(&mut writes))?;
        }
    }
    if !writes.is_empty() {
        log.commit(&writes)?;
    }
    Ok(())
}

/// Which bits of the free map may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strictness {
    /// Only set bits, and write damaged bitmaps anew: nothing owned can be given away in the middle of a repair.
    OnlyMark,
    /// Exactly as owned.
    Exact,
}

/// Makes the free map agree with `ownership` and gives the number of free blocks of the pool.
pub(super) fn write_bitmaps(
    log: &mut Log<'_>,
    pool: &Pool<'_>,
    ownership: &Ownership,
    strictness: Strictness,
) -> Result<u64, CheckError> {
    let mut free = 0;
    for index in 0..pool.geometry.group_count() {
        let Some(group) = pool.geometry.group(index) else {
            break;
        };
        let found = pool.read(group.bitmap).ok();
        let known = found
            .as_ref()
            .and_then(|bytes| bitmap::verify(pool.seed, bytes, group.bitmap, group.covers).ok());
        let mut words = should_be(ownership, group);
        if let (Some(known), Strictness::OnlyMark) = (&known, strictness) {
            for (word, known) in words.iter_mut().zip(known.iter()) {
                *word |= known;
            }
        }
        if !group.covers.start.is_on_device() {
            free += words
                .iter()
                .map(|word| u64::from(word.count_zeros()))
                .sum::<u64>();
        }
        if known.as_ref() != Some(&words) {
            let block = encode(pool, group, &words);
            log.commit(&[Write::new(group.bitmap.offset(), block.as_slice())])?;
        }
    }
    Ok(free)
}

fn encode(pool: &Pool<'_>, group: Group, words: &[u64; GROUP_WORDS]) -> Box<[u8; BLOCK_SIZE]> {
    let mut block = bitmap::format(pool.seed, group.bitmap, group.covers);
    let (_, bits) = block.split_at_mut(LINE_SIZE);
    for (bytes, word) in bits.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    udax_media::seal::seal(pool.seed, block.as_mut_slice());
    block
}
