//! Data with sums: read and verified, stored with new sums, and given or taken them where it is.
//!
//! What a write keeps of a summed block is verified before it is copied: a wrong byte never gets a right sum. A pin for
//! writing takes the sums of its pages away ([`Pool::unsum_range`]), after a last look at them; the last close of the
//! file gives them anew ([`Pool::sum_range`]), when nobody can have a pin any more.
//!
//! Under the inode's lock: shared to read, alone for the rest.

use smallvec::SmallVec;
use udax_dax::Fate;
use udax_journal::DataWriter;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::InodeFlags;
use udax_media::sum::Sum;
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, FileBlock};
use udax_pmem::RegionError;
use udax_sync::fault::{Fault, is_injected};

use super::allocate::Range;
use super::pieces::{Origin, Piece};
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping, clip};
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::Priority;
use crate::sums::{SUMS_PER_RECORD, Sums};
use crate::update::Update;

/// Sums of the blocks of a write: mostly few.
pub(super) type FewSums = SmallVec<[Sum; 8]>;

/// Whether sums are compared before they are taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LastLook {
    Yes,
    No,
}

/// A block of a file.
#[derive(Clone, Copy, Debug)]
struct Block {
    in_file: FileBlock,
    in_pool: BlockNo,
}

fn block_of(extent: &Extent, in_file: FileBlock) -> Block {
    let skipped = in_file.raw().saturating_sub(extent.first.raw());
    Block {
        in_file,
        in_pool: BlockNo(extent.start.raw() + skipped),
    }
}

impl Pool {
    /// Whether what is written to `inode` gets sums.
    pub(crate) fn is_summed(&self, inode: &Inode) -> Result<bool> {
        // Most pools have none: nothing is looked at then.
        if !self.has_sums {
            return Ok(false);
        }
        let (_, flags) = self.inode_mode_and_flags(inode)?;
        Ok(InodeFlags::from_bits_retain(flags).contains(InodeFlags::SUMMED))
    }

    /// Reads the bytes of `inode` from `offset` on, which all are in `extent`, written and summed.
    ///
    /// # Errors
    /// `WrongData` for the first block that does not have its sum; what is before it has been read. `LostData`.
    pub(crate) fn read_summed(
        &self,
        inode: &Inode,
        extent: &Extent,
        offset: u64,
        to: &mut [u8],
    ) -> Result<()> {
        let wanted = (offset, u64::try_from(to.len()).unwrap_or(u64::MAX));
        self.try_read_summed(inode, extent, offset, to)
            .map_err(|error| of_wanted(error, wanted))
    }

    fn try_read_summed(&self, inode: &Inode, extent: &Extent, offset: u64, to: &mut [u8]) -> Result<()> {
        let mut sums = Sums::of(self);
        let mut whole = [0; BLOCK_SIZE];
        let mut at = offset;
        let mut rest = to;
        while !rest.is_empty() {
            let block = block_of(extent, FileBlock::holding(at));
            let skipped = usize::try_from(at % BLOCK_BYTES).unwrap_or(0);
            let count = (BLOCK_SIZE - skipped).min(rest.len());
            let (part, after) = rest.split_at_mut(count);
            // A whole block is verified where it is wanted: copied once.
            if let Ok(part) = <&mut [u8; BLOCK_SIZE]>::try_from(&mut *part) {
                self.read_verified(inode, block, &mut sums, part)?;
            } else {
                self.read_verified(inode, block, &mut sums, &mut whole)?;
                let wanted = whole.get(skipped..skipped + count).unwrap_or_default();
                part.copy_from_slice(wanted);
            }
            rest = after;
            at += u64::try_from(count).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Reads a summed block, and compares its sum.
    fn read_verified(
        &self,
        inode: &Inode,
        block: Block,
        sums: &mut Sums<'_>,
        to: &mut [u8; BLOCK_SIZE],
    ) -> Result<()> {
        let stored = sums.read(block.in_pool)?;
        let at = block.in_pool.offset().raw();
        let offset = block.in_file.raw() * BLOCK_BYTES;
        if let Err(error) = self.region.read(at, to) {
            return Err(self.lost_data(inode, (at, offset), BLOCK_BYTES, error));
        }
        let computed = self.sum_of(to);
        if computed != stored {
            return Err(Error::WrongData {
                ino: inode.ino,
                offset,
                block: block.in_pool,
            });
        }
        Ok(())
    }

    /// Reads file block `block` of `extent`, written; verified if it is summed.
    pub(super) fn read_block(
        &self,
        inode: &Inode,
        extent: &Extent,
        block: FileBlock,
        to: &mut [u8; BLOCK_SIZE],
    ) -> Result<()> {
        let block = block_of(extent, block);
        if extent.is_summed() {
            return self.read_verified(inode, block, &mut Sums::of(self), to);
        }
        self.read_data(block.in_pool.offset().raw(), to)
    }

    /// Verifies all of `extent`, summed.
    fn verify_extent(&self, inode: &Inode, extent: &Extent) -> Result<()> {
        let mut sums = Sums::of(self);
        let mut bytes = [0; BLOCK_SIZE];
        for block in extent.first.raw()..extent.end().raw() {
            let block = block_of(extent, FileBlock(block));
            self.read_verified(inode, block, &mut sums, &mut bytes)?;
        }
        Ok(())
    }

    /// Stores the bytes of a write that fall into `piece`, whose blocks will be summed and which nothing refers to, and
    /// around them what a new block or the one in whose place it comes has there. Gives the sums.
    pub(super) fn store_summed(
        &self,
        writer: &mut DataWriter<'_>,
        inode: &Inode,
        piece: &Piece,
        (bytes, offset): (&[u8], u64),
    ) -> Result<FewSums> {
        let end = offset + u64::try_from(bytes.len()).unwrap_or(0);
        let mut sums = FewSums::new();
        let mut edge = [0; BLOCK_SIZE];
        for in_file in (piece.extent.first.raw()..piece.extent.end().raw()).map(FileBlock) {
            let start = in_file.raw() * BLOCK_BYTES;
            let (from, to) = (offset.max(start), end.min(start + BLOCK_BYTES));
            let part = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            let new = bytes.get(part(from)..part(to)).unwrap_or_default();
            let place = block_of(&piece.extent, in_file).in_pool.offset();
            if new.len() == BLOCK_SIZE {
                writer.write(place, new)?;
                sums.push(self.sum_of(new));
                continue;
            }
            match (piece.replaced(), piece.origin) {
                (Some(old), _) => self.read_block(inode, &old, in_file, &mut edge)?,
                // Only where a fault is injected: what has sums is not stored to in place.
                (None, Origin::Written) => self.read_block(inode, &piece.extent, in_file, &mut edge)?,
                (None, _) => edge.fill(0),
            }
            let in_block = usize::try_from(from - start).unwrap_or(usize::MAX);
            if let Some(to) = edge.get_mut(in_block..in_block + new.len()) {
                to.copy_from_slice(new);
            }
            writer.write(place, &edge)?;
            sums.push(self.sum_of(&edge));
        }
        Ok(sums)
    }

    /// Verifies the blocks that a write to `piece` keeps a part of, before that part is copied.
    pub(super) fn verify_kept(
        &self,
        inode: &Inode,
        piece: &Piece,
        (is_first_kept, is_last_kept): (bool, bool),
    ) -> Result<()> {
        let Some(old) = piece.replaced().filter(Extent::is_summed) else {
            return Ok(());
        };
        let last = FileBlock(old.end().raw().saturating_sub(1));
        let mut bytes = [0; BLOCK_SIZE];
        for (block, is_kept) in [(old.first, is_first_kept), (last, is_last_kept)] {
            if is_kept {
                self.read_block(inode, &old, block, &mut bytes)?;
            }
        }
        Ok(())
    }

    /// The file's last block is about to become one in the middle: if it is summed, and has anything but zeros behind
    /// the end, a block that has zeros there takes its place. Gives whether it is summed, and so needs no zeros any
    /// more.
    pub(super) fn replace_summed_tail(&self, inode: &Inode, state: &mut InodeState) -> Result<bool> {
        let size = self.inode_size(inode)?;
        if size.is_multiple_of(BLOCK_BYTES) || is_injected(Fault::TailSum) {
            return Ok(false);
        }
        extents::load(self, inode, state)?;
        let block = FileBlock::holding(size);
        let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, block)? else {
            return Ok(false);
        };
        if !extent.is_summed() {
            return Ok(false);
        }
        let mut bytes = [0; BLOCK_SIZE];
        self.read_block(inode, &extent, block, &mut bytes)?;
        let behind = usize::try_from(size % BLOCK_BYTES).unwrap_or(0);
        if bytes.iter().skip(behind).all(|byte| *byte == 0) {
            return Ok(true);
        }
        let end = FileBlock(block.raw() + 1);
        let _broken = self.break_layout(inode, (block, end), Fate::Kept)?;
        let range = Range {
            start: size,
            end: end.raw() * BLOCK_BYTES,
        };
        let mut update = Update::new(self);
        let edges = self.copy_edges(&mut update, (inode, state), range, Priority::Ordinary)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        edges.publish(&mut update, &mut map)?;
        self.commit_extents(update, inode, state, map)?;
        Ok(true)
    }

    /// Commits an update of `inode`'s extents that changes no byte of it, and so no time.
    pub(super) fn commit_extents(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        map: ExtentMap<'_>,
    ) -> Result<()> {
        map.store(&mut update)?;
        let mut line = Line::read(self, inode)?;
        line.add_blocks(update.take_metadata_delta());
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        Ok(())
    }

    /// Takes the sums of `first..end` away, some extents to a record, each extent after a last look at its blocks.
    ///
    /// # Errors
    /// `WrongData`, `LostData`: those before may have lost their sums. `NoSpace`, for nodes of the tree.
    pub(crate) fn unsum_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (mut first, end): (FileBlock, FileBlock),
        look: LastLook,
    ) -> Result<()> {
        while first < end {
            first = self.in_steps(|limit| self.unsum_step(inode, state, (first, end, limit), look))?;
        }
        Ok(())
    }

    fn unsum_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (first, end, limit): (FileBlock, FileBlock, usize),
        look: LastLook,
    ) -> Result<FileBlock> {
        extents::load(self, inode, state)?;
        let found = extents::list(self, inode, &state.extents, (first, end), limit)?;
        let reached = match found.last() {
            Some(last) if found.len() == limit => last.end().min(end),
            _ => end,
        };
        let parts = found.iter().filter_map(|extent| clip(extent, first, end));
        let summed: Vec<Extent> = parts.filter(Extent::is_summed).collect();
        if summed.is_empty() {
            return Ok(reached);
        }
        if look == LastLook::Yes {
            for extent in &summed {
                self.verify_extent(inode, extent)?;
            }
        }
        let mut update = Update::new(self);
        let mut map = ExtentMap::begin(self, inode, state)?;
        for extent in summed {
            let plain = Extent {
                flags: extent.flags.difference(ExtentFlags::SUMMED),
                ..extent
            };
            map.splice(&mut update, plain.first, plain.end(), &[plain])?;
        }
        self.commit_extents(update, inode, state, map)?;
        state.is_unsummed = true;
        inode.note_close_work();
        Ok(reached)
    }

    /// Gives all that is written in the file, and has none, sums of what it holds; some blocks to a record. Blocks that
    /// the medium has lost stay without.
    ///
    /// # Errors
    /// `Conflict` while pins are there: a part may have its sums. A media error in making bytes durable.
    pub(crate) fn sum_file(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        let mut first = FileBlock(0);
        while first < extents::END_OF_FILES {
            first = self.in_steps(|limit| self.sum_step(inode, state, first, limit))?;
        }
        state.is_unsummed = false;
        Ok(())
    }

    /// Gives sums to the first blocks without from `first` on; gives up to where all have some.
    fn sum_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        first: FileBlock,
        limit: usize,
    ) -> Result<FileBlock> {
        extents::load(self, inode, state)?;
        let all = (first, extents::END_OF_FILES);
        let found = extents::list(self, inode, &state.extents, all, limit)?;
        let mut reached = match found.last() {
            Some(last) if found.len() == limit => last.end(),
            _ => extents::END_OF_FILES,
        };
        let mut left = SUMS_PER_RECORD;
        let mut plain: Vec<Extent> = Vec::new();
        for extent in found.iter().filter_map(|extent| clip(extent, all.0, all.1)) {
            if extent.is_summed() || extent.is_unwritten() {
                continue;
            }
            let count = extent.count.min(left);
            plain.push(Extent { count, ..extent });
            left -= count;
            if left == 0 {
                reached = plain.last().map_or(reached, Extent::end);
                break;
            }
        }
        let (Some(from), Some(to)) = (plain.first(), plain.last()) else {
            return Ok(reached);
        };
        let _broken = self.break_layout(inode, (from.first, to.end()), Fate::Kept)?;
        self.sum_extents(inode, state, &plain)?;
        Ok(reached)
    }

    fn sum_extents(&self, inode: &Inode, state: &mut InodeState, plain: &[Extent]) -> Result<()> {
        // A sum must not outlive the bytes that it is of: what was stored through pins, by a process that was killed
        // too, may be in the cache only.
        for block in plain
            .iter()
            .flat_map(|extent| extent.start.raw()..extent.blocks().end().raw())
        {
            match self.region.flush(BlockNo(block).offset().raw(), BLOCK_BYTES) {
                // It gets no sum.
                Ok(()) | Err(RegionError::Media { .. } | RegionError::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.region.fence()?;
        let mut update = Update::new(self);
        let mut map = ExtentMap::begin(self, inode, state)?;
        for extent in plain {
            for (run, sums) in self.sum_readable(extent)? {
                map.splice(&mut update, run.first, run.end(), &[run])?;
                update.set_sums(run.blocks(), &sums)?;
            }
        }
        self.commit_extents(update, inode, state, map)
    }

    /// The runs of `extent` that can be read, as summed, with their sums.
    fn sum_readable(&self, extent: &Extent) -> Result<Vec<(Extent, FewSums)>> {
        let mut runs: Vec<(Extent, FewSums)> = Vec::new();
        let mut bytes = [0; BLOCK_SIZE];
        for in_file in (extent.first.raw()..extent.end().raw()).map(FileBlock) {
            let block = block_of(extent, in_file);
            match self.region.read(block.in_pool.offset().raw(), &mut bytes) {
                Ok(()) => {}
                Err(RegionError::Media { .. } | RegionError::Unreachable { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            let sum = self.sum_of(&bytes);
            match runs.last_mut() {
                Some((run, sums)) if run.end() == in_file => {
                    run.count += 1;
                    sums.push(sum);
                }
                _ => {
                    let run = Extent {
                        first: in_file,
                        start: block.in_pool,
                        count: 1,
                        flags: extent.flags | ExtentFlags::SUMMED,
                    };
                    runs.push((run, FewSums::from_elem(sum, 1)));
                }
            }
        }
        Ok(runs)
    }
}

/// Whole blocks are read: of lost bytes only those that were asked for are told.
fn of_wanted(error: Error, (wanted, count): (u64, u64)) -> Error {
    let skipped = |offset: u64| wanted.saturating_sub(offset);
    match error {
        Error::LostData { ino, offset, len, at } => {
            let (skipped, end) = (skipped(offset), (offset + len).min(wanted.saturating_add(count)));
            Error::LostData {
                ino,
                offset: offset + skipped,
                len: end.saturating_sub(offset + skipped).max(1),
                at: at + skipped,
            }
        }
        Error::UnreachableData { ino, offset, at } => Error::UnreachableData {
            ino,
            offset: offset + skipped(offset),
            at: at + skipped(offset),
        },
        other => other,
    }
}
