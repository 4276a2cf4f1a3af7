//! A file's content: sparse, by blocks of 4 KiB, so that huge offsets cost nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::errno::Errno;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;

/// The largest file, in bytes.
pub(super) const MAX_SIZE: u64 = (1 << 63) - 1;

#[derive(Clone, Debug)]
struct Block {
    bytes: Arc<[u8; 4096]>,
    // A copy of a hole may be made as a hole or as zeros: then nobody can tell.
    is_certainly_data: bool,
}

/// Whether a hole may be told to be data that is zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holes {
    /// No.
    Exact,
    /// Yes: ext4 writes zeros to small unwritten extents.
    MayBeData,
}

/// A file's bytes and which of its blocks hold data. What is not there is a hole (unwritten space counts as one).
#[derive(Clone, Debug, Default)]
pub struct Content {
    size: u64,
    blocks: BTreeMap<u64, Block>,
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn length(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Blocks that certainly hold data.
    pub fn data_blocks(&self) -> u64 {
        let count = self
            .blocks
            .values()
            .filter(|block| block.is_certainly_data)
            .count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// The numbers of all blocks that may hold other bytes than zeros.
    pub fn block_numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// The bytes of a block; those behind the end are zeros. `None` for a hole.
    pub fn block(&self, number: u64) -> Option<&[u8; 4096]> {
        self.blocks.get(&number).map(|block| &*block.bytes)
    }

    /// Sets the bytes of a block that is there. Whether it is data or a hole is as certain as before.
    pub fn replace(&mut self, number: u64, bytes: &[u8]) {
        if let Some(block) = self.blocks.get_mut(&number) {
            Arc::make_mut(&mut block.bytes)[..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Makes a block as it is in `other`: data, or a hole.
    pub fn take_block(&mut self, number: u64, other: &Self) {
        match other.blocks.get(&number) {
            Some(block) => self.blocks.insert(number, block.clone()),
            None => self.blocks.remove(&number),
        };
    }

    /// What of `start..end` none of these blocks cover, as offsets and lengths.
    pub fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        for number in self.blocks.range(start / BLOCK..).map(|(number, _)| *number) {
            let (from, to) = (number * BLOCK, (number + 1) * BLOCK);
            if from >= end {
                break;
            }
            if from > at {
                gaps.push((at, from - at));
            }
            at = at.max(to);
        }
        if at < end {
            gaps.push((at, end - at));
        }
        gaps
    }

    /// The bytes of `offset..offset + len` that are inside the file.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let wanted = u64::try_from(len).unwrap_or(u64::MAX);
        let len = wanted.min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; index(len)];
        for (number, block) in self.blocks.range(offset / BLOCK..(offset + len).div_ceil(BLOCK)) {
            let start = (number * BLOCK).max(offset);
            let end = (number.saturating_mul(BLOCK).saturating_add(BLOCK)).min(offset + len);
            bytes[index(start - offset)..index(end - offset)]
                .copy_from_slice(&block.bytes[index(start % BLOCK)..=index((end - 1) % BLOCK)]);
        }
        bytes
    }

    /// Stores `bytes` at `offset` (the sum is at most [`MAX_SIZE`]) and extends the file to their end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + length(done);
            let within = index(at % BLOCK);
            let count = (4096 - within).min(bytes.len() - done);
            let block = self.blocks.entry(at / BLOCK).or_insert_with(|| Block {
                bytes: Arc::new([0; 4096]),
                is_certainly_data: true,
            });
            block.is_certainly_data = true;
            Arc::make_mut(&mut block.bytes)[within..within + count]
                .copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
        self.size = self.size.max(offset + length(bytes.len()));
    }

    /// Sets the size; what is cut off is gone and reads as zeros when the file grows again.
    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.blocks.split_off(&size.div_ceil(BLOCK));
            self.clear_within_block(size, size.next_multiple_of(BLOCK));
        }
        self.size = size;
    }

    /// Extends the file to `end` if it is shorter.
    pub fn extend(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    /// Whole blocks of the range become holes; edges become zeros.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let first = offset.div_ceil(BLOCK);
        let last = end / BLOCK;
        if first > last {
            self.clear_within_block(offset, end);
            return;
        }
        self.clear_within_block(offset, first * BLOCK);
        self.clear_within_block(last * BLOCK, end);
        // Where nothing of the file is left behind the range, its last block may be given back too.
        if end >= self.size
            && last >= first
            && let Some(block) = self.blocks.get_mut(&last)
        {
            block.is_certainly_data = false;
        }
        let inside: Vec<u64> = self
            .blocks
            .range(first..last)
            .map(|(number, _)| *number)
            .collect();
        for number in inside {
            self.blocks.remove(&number);
        }
    }

    fn clear_within_block(&mut self, from: u64, to: u64) {
        if from < to
            && let Some(block) = self.blocks.get_mut(&(from / BLOCK))
        {
            Arc::make_mut(&mut block.bytes)[index(from % BLOCK)..=index((to - 1) % BLOCK)].fill(0);
        }
    }

    /// Cuts out `len` bytes at `offset`, both multiples of [`BLOCK`].
    pub fn collapse(&mut self, offset: u64, len: u64) {
        self.punch(offset, len);
        let after = self.blocks.split_off(&(offset / BLOCK));
        self.blocks.extend(
            after
                .into_iter()
                .map(|(number, block)| (number - len / BLOCK, block)),
        );
        self.size -= len;
    }

    /// Puts a hole of `len` bytes in at `offset`, both multiples of [`BLOCK`].
    pub fn insert(&mut self, offset: u64, len: u64) {
        let after = self.blocks.split_off(&(offset / BLOCK));
        self.blocks.extend(
            after
                .into_iter()
                .map(|(number, block)| (number + len / BLOCK, block)),
        );
        self.size += len;
    }

    /// Exchanges blocks of this content with as many of another; with ranges that end at `u64::MAX`, the sizes too.
    pub fn exchange(&mut self, ours: (u64, u64), other: &mut Self, theirs: (u64, u64)) {
        let one = self.take(ours);
        let two = other.take(theirs);
        self.put(two, theirs.0, ours.0);
        other.put(one, ours.0, theirs.0);
        if ours.1 == u64::MAX {
            let (rest, their_rest) = (self.size - ours.0 * BLOCK, other.size - theirs.0 * BLOCK);
            self.size = ours.0 * BLOCK + their_rest;
            other.size = theirs.0 * BLOCK + rest;
        }
    }

    /// Exchanges two ranges of blocks that do not overlap.
    pub fn exchange_within(&mut self, one: (u64, u64), other: (u64, u64)) {
        let first = self.take(one);
        let second = self.take(other);
        self.put(second, other.0, one.0);
        self.put(first, one.0, other.0);
    }

    fn take(&mut self, (first, end): (u64, u64)) -> BTreeMap<u64, Block> {
        let mut taken = self.blocks.split_off(&first);
        self.blocks.extend(taken.split_off(&end));
        taken
    }

    fn put(&mut self, taken: BTreeMap<u64, Block>, from: u64, to: u64) {
        let moved = taken
            .into_iter()
            .map(|(number, block)| (number - from + to, block));
        self.blocks.extend(moved);
    }

    /// Stores `len` bytes at `offset` of `source` (inside it) at `to_offset` here. Where the source has holes, the
    /// copy may have data or holes.
    pub fn copy_from(&mut self, source: &Self, offset: u64, to_offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let bytes = source.read(offset, index(len));
        let before = self.blocks.clone();
        self.write(to_offset, &bytes);
        for number in to_offset / BLOCK..(to_offset + len).div_ceil(BLOCK) {
            let start = (number * BLOCK).max(to_offset) - to_offset + offset;
            let end = (number * BLOCK + BLOCK).min(to_offset + len) - to_offset + offset;
            let is_from_hole =
                (start / BLOCK..end.div_ceil(BLOCK)).all(|from| !source.is_certainly_data(from));
            let is_whole = end - start == BLOCK;
            let was_data = before.get(&number).is_some_and(|block| block.is_certainly_data);
            if is_from_hole
                && (is_whole || !was_data)
                && let Some(block) = self.blocks.get_mut(&number)
            {
                block.is_certainly_data = false;
            }
        }
    }

    fn is_certainly_data(&self, number: u64) -> bool {
        self.blocks
            .get(&number)
            .is_some_and(|block| block.is_certainly_data)
    }

    /// Whether `found` is a right answer of `SEEK_DATA`.
    pub fn is_seek_data(&self, offset: u64, found: Result<u64, Errno>, holes: Holes) -> bool {
        let certain_data_before = |end: u64| {
            let mut range = self.blocks.range(offset / BLOCK..end.max(offset / BLOCK));
            range.any(|(_, block)| block.is_certainly_data)
        };
        match found {
            Ok(at) => {
                at >= offset
                    && at < self.size
                    && (at == offset || at.is_multiple_of(BLOCK))
                    && (holes == Holes::MayBeData || self.blocks.contains_key(&(at / BLOCK)))
                    && !certain_data_before(at / BLOCK)
            }
            Err(Errno::ENXIO) => offset >= self.size || !certain_data_before(self.size.div_ceil(BLOCK)),
            Err(_) => false,
        }
    }

    /// Whether `found` is a right answer of `SEEK_HOLE`.
    pub fn is_seek_hole(&self, offset: u64, found: Result<u64, Errno>, holes: Holes) -> bool {
        let all_maybe_data_before = |end: u64| {
            let first = offset / BLOCK;
            let count = u64::try_from(self.blocks.range(first..end.max(first)).count()).unwrap_or(u64::MAX);
            holes == Holes::MayBeData || count == end.saturating_sub(first)
        };
        match found {
            Ok(at) if offset < self.size && at == self.size => {
                all_maybe_data_before(self.size.div_ceil(BLOCK))
            }
            Ok(at) => {
                at >= offset
                    && at < self.size
                    && (at == offset || at.is_multiple_of(BLOCK))
                    && !self.is_certainly_data(at / BLOCK)
                    && all_maybe_data_before(at / BLOCK)
            }
            Err(Errno::ENXIO) => offset >= self.size,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cut_off_do_not_come_back() {
        let mut content = Content::default();
        content.write(4000, &[7; 200]);
        content.truncate(4050);
        content.truncate(5000);
        let bytes = content.read(0, 10_000);
        assert_eq!(bytes.len(), 5000);
        assert!(bytes[4000..4050].iter().all(|byte| *byte == 7));
        assert!(bytes[4050..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn punch_keeps_edge_blocks_as_data() {
        let mut content = Content::default();
        content.write(0, &[1; 3 * 4096]);
        content.punch(100, 2 * 4096);
        assert!(content.is_seek_hole(0, Ok(4096), Holes::Exact));
        assert!(!content.is_seek_hole(0, Ok(3 * 4096), Holes::Exact));
        assert!(content.is_seek_data(4096, Ok(8192), Holes::Exact));
        assert_eq!(content.read(99, 2), [1, 0]);
    }

    #[test]
    fn collapse_and_insert_are_inverse_on_a_hole() {
        let mut content = Content::default();
        content.write(0, &[1; 4096]);
        content.write(4096, &[2; 5000]);
        content.insert(4096, 8192);
        assert_eq!(content.size(), 4096 + 8192 + 5000);
        assert_eq!(content.read(4095, 2), [1, 0]);
        content.collapse(4096, 8192);
        assert_eq!(content.read(4095, 2), [1, 2]);
        assert_eq!(content.size(), 9096);
    }

    #[test]
    fn the_last_byte_of_the_largest_file_can_be_stored() {
        let mut content = Content::default();
        content.write(MAX_SIZE - 3, &[1, 2, 3]);
        assert_eq!(content.size(), MAX_SIZE);
        assert_eq!(content.read(MAX_SIZE - 2, 10), [2, 3]);
        content.truncate(1);
        assert_eq!(content.data_blocks(), 0);
    }

    #[test]
    fn a_copied_hole_whose_bytes_were_looked_at_may_still_be_either() {
        let mut source = Content::default();
        source.extend(3 * 4096);
        let mut copy = Content::default();
        copy.copy_from(&source, 0, 0, 3 * 4096);
        copy.replace(1, &[0; 4096]);
        assert_eq!(copy.data_blocks(), 0);
        copy.replace(2, &[5; 100]);
        assert_eq!(copy.read(2 * 4096, 2), [5, 5]);
        assert_eq!(copy.size(), 3 * 4096);
    }

    #[test]
    fn a_copied_hole_may_be_either() {
        let mut source = Content::default();
        source.extend(8192);
        let mut copy = Content::default();
        copy.copy_from(&source, 0, 0, 8192);
        assert!(
            copy.is_seek_data(0, Ok(0), Holes::Exact)
                && copy.is_seek_data(0, Err(Errno::ENXIO), Holes::Exact)
        );
        assert!(copy.is_seek_hole(0, Ok(0), Holes::Exact) && copy.is_seek_hole(0, Ok(8192), Holes::Exact));
    }
}
