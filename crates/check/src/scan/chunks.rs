//! Inode chunks that lie in the pool, whether the inode table knows them or not.
//!
//! An inode has its number in it, so that a chunk tells which one it is. They are looked for when the table is damaged,
//! and when names lead to inodes of a chunk that it does not have: an older version of the table is as sound as the
//! last.

use std::collections::btree_map::BTreeMap;
use std::collections::{BTreeSet, HashSet};

use udax_media::geometry::ROOTS;
use udax_media::inode::{self, INODE_SIZE, InodeSlot, MAX_CHUNK};
use udax_media::{BlockNo, InodeNo, Place, bitmap};

use super::Scanner;
use super::pool_trees::inodes_of_chunk;
use crate::finding::{Finding, Findings};
use crate::pool::Pool;
use crate::source::Block;

/// Chunk number to block.
pub(crate) type Chunks = BTreeMap<u64, BlockNo>;

/// Offset of an inode's number in its slot.
const INO_OFFSET: usize = 8;

/// Searches the whole pool for inode chunks that `known` does not have.
///
/// Of two blocks that could be one chunk, the one that is marked in use counts, then the one with more inodes.
pub(crate) fn find(pool: &Pool<'_>, known: &Chunks) -> Chunks {
    best_of(pool, known)
        .into_iter()
        .map(|(chunk, (_, block))| (chunk, block))
        .collect()
}

/// A candidate: whether it is marked in use, how many inodes it has, where it is.
type Candidate = ((bool, usize), BlockNo);

fn best_of(pool: &Pool<'_>, known: &Chunks) -> BTreeMap<u64, Candidate> {
    let taken: HashSet<BlockNo> = known.values().copied().collect();
    let mut best: BTreeMap<u64, Candidate> = BTreeMap::new();
    for_each_block(pool, |block, bytes| {
        if taken.contains(&block) {
            return;
        }
        if let Some((chunk, inodes)) = as_chunk(pool, bytes) {
            let score = (is_marked(pool, block), inodes);
            let entry = best.entry(chunk).or_insert((score, block));
            if entry.0 < score {
                *entry = (score, block);
            }
        }
    });
    best
}

/// Whether the free map has `block` in use; a damaged one says so of all blocks.
fn is_marked(pool: &Pool<'_>, block: BlockNo) -> bool {
    let group = pool
        .geometry
        .group_of(block)
        .and_then(|index| pool.geometry.group(index));
    let Some(group) = group else { return false };
    let bytes = pool.read(group.bitmap).ok();
    let words = bytes.and_then(|bytes| bitmap::verify(pool.seed, &bytes, group.bitmap, group.covers).ok());
    let Some(words) = words else { return true };
    let offset = block.raw() - group.covers.start.raw();
    let word = usize::try_from(offset / 64).ok().and_then(|at| words.get(at));
    word.is_some_and(|word| (word >> (offset % 64)) & 1 != 0)
}

/// Shows every readable block that is not the pool's own.
pub(crate) fn for_each_block(pool: &Pool<'_>, mut each: impl FnMut(BlockNo, &Block)) {
    let mut own = pool.geometry.own_ranges().into_iter().peekable();
    for block in (0..pool.total_blocks).map(BlockNo) {
        while own.peek().is_some_and(|range| range.end() <= block) {
            own.next();
        }
        if own.peek().is_some_and(|range| range.contains(block)) {
            continue;
        }
        if let Ok(bytes) = pool.read(block) {
            each(block, &bytes);
        }
    }
}

/// The chunk's number and its verified inodes, when the block can be a chunk: at least one sound inode in the slot of
/// its number, and all of one chunk.
fn as_chunk(pool: &Pool<'_>, bytes: &Block) -> Option<(u64, usize)> {
    let mut chunk = None;
    let mut inodes = 0;
    for (index, slot) in (0_u64..).zip(bytes.as_chunks::<INODE_SIZE>().0) {
        if !slot.starts_with(&inode::MAGIC.to_le_bytes()) {
            continue;
        }
        let number = slot.get(INO_OFFSET..).and_then(|rest| rest.first_chunk::<8>());
        let ino = InodeNo(u64::from_le_bytes(*number?));
        let (of, slot_index) = inode::chunk_and_slot(ino);
        let is_sound = slot_index == index
            && of <= MAX_CHUNK
            && inode::verify(pool.seed, slot, ino, pool.reach()).is_ok();
        if is_sound {
            if *chunk.get_or_insert(of) != of {
                return None;
            }
            inodes += 1;
        }
    }
    Some((chunk?, inodes))
}

/// Whether the block is not that of `chunk`, but something else: no slot claims to be one of its inodes, used or free,
/// and some are not as new ones are.
pub(super) fn is_foreign(chunk: u64, bytes: &Block) -> bool {
    let first = chunk.saturating_mul(inode::CHUNK_INODES);
    let is_own = |(ino, slot): (u64, &[u8; INODE_SIZE])| {
        let number = slot.get(INO_OFFSET..).and_then(|rest| rest.first_chunk::<8>());
        slot.starts_with(&inode::MAGIC.to_le_bytes()) && number == Some(&ino.to_le_bytes())
    };
    let mut slots = (first..).zip(bytes.as_chunks::<INODE_SIZE>().0);
    bytes.iter().any(|byte| *byte != 0) && !slots.any(is_own)
}

impl Scanner<'_> {
    /// What is to say of the chunks that names lead to and the table does not have. Where some lie in the pool, marked
    /// in use and owned by nobody, those only: they are to be put back before anything else is judged.
    pub(super) fn find_missing_chunks(&self, missing: &BTreeSet<u64>) -> Findings {
        let mut findings = Findings::default();
        if missing.is_empty() {
            return findings;
        }
        for (chunk, block) in self.find_unowned(missing) {
            let what = format!("inode chunk {chunk} is not in the inode table, but names lead to its inodes");
            restore(&mut findings, chunk, block, what);
        }
        if findings.plan.restore_chunks.is_empty() {
            missing.iter().for_each(|chunk| findings.add(lost_chunk(*chunk)));
        }
        findings
    }

    /// Of the chunks that names lead to, those that are all zeros, as if they had never had an inode: names that lead
    /// there need not be all that did. Chunk 0 always has one.
    pub(super) fn find_empty_chunks(&self, dangling: &BTreeSet<u64>) -> Findings {
        let mut findings = Findings::default();
        let is_empty = |block: BlockNo| {
            let bytes = self.pool.read(block);
            bytes.is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        };
        let chunks = self.table.chunks.iter().copied();
        let empty: Chunks = chunks
            .filter(|(chunk, block)| (*chunk == 0 || dangling.contains(chunk)) && is_empty(*block))
            .collect();
        if empty.is_empty() {
            return findings;
        }
        for (chunk, block) in self.find_unowned(&empty.keys().copied().collect()) {
            let what = format!("inode chunk {chunk} is here, and not where the inode table says");
            restore(&mut findings, chunk, block, what);
        }
        if !findings.plan.restore_chunks.is_empty() {
            return findings;
        }
        for (chunk, block) in empty {
            let what = format!("inode chunk {chunk} is all zeros, but it had inodes");
            findings.add(names_removed(chunk, block, what));
        }
        findings
    }

    /// Those of the chunks that lie in a block which is marked in use, and which nobody owns.
    fn find_unowned(&self, wanted: &BTreeSet<u64>) -> Chunks {
        let all = self.table.chunks.iter().copied();
        let known: Chunks = all.filter(|(chunk, _)| !wanted.contains(chunk)).collect();
        let found = best_of(&self.pool, &known).into_iter();
        let is_it = |chunk: u64, block: BlockNo| {
            let is_owned = self.ownership.bits(block) & 1 != 0;
            wanted.contains(&chunk) && !is_owned && self.has_inode(chunk, block)
        };
        let unowned = found.filter(|(chunk, ((is_marked, _), block))| *is_marked && is_it(*chunk, *block));
        unowned.map(|(chunk, (_, block))| (chunk, block)).collect()
    }

    fn has_inode(&self, chunk: u64, block: BlockNo) -> bool {
        let Ok(bytes) = self.pool.read(block) else {
            return false;
        };
        let first = chunk * inode::CHUNK_INODES;
        let mut numbers = (first..first + inode::CHUNK_INODES).map(InodeNo);
        numbers.any(|ino| matches!(self.pool.slot(&bytes, ino), Ok(InodeSlot::Used(_))))
    }
}

/// What is to say of a chunk that is nowhere: names that lead to its inodes need not be all that led there.
fn lost_chunk(chunk: u64) -> Finding {
    let what = format!(
        "inode chunk {chunk} is neither in the inode table nor in the pool, but names lead to its inodes"
    );
    names_removed(chunk, ROOTS, what)
}

fn names_removed(chunk: u64, block: BlockNo, what: String) -> Finding {
    let mut finding = Finding::of_pool(Place::Block(block), what, "their names removed");
    finding.lost = Some(format!("{}, if they were in use", inodes_of_chunk(chunk)));
    finding
}

/// Has the chunk, which lies in `block`, put back.
fn restore(findings: &mut Findings, chunk: u64, block: BlockNo, what: String) {
    let outcome = "chunk put back into the inode table";
    findings.add(Finding::of_pool(Place::Block(block), what, outcome));
    findings.plan.restore_chunks.insert(chunk, block);
}
