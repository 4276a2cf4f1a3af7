//! Collapsing and inserting ranges: every extent behind the range moves.
//!
//! A file of few extents gets its new tree in the one record that frees what is cut out. For more ([`IN_RECORD`]) a
//! record would not do: [`super::rebuild`] builds the new tree beside the old one.
//!
//! All under the inode's lock, alone.

use udax_dax::Fate;
use udax_journal::JournalError;
use udax_media::extent::Extent;
use udax_media::{BLOCK_BYTES, FileBlock, MAX_FILE_BYTES};
use udax_sync::fault::{Fault, is_injected};

use super::allocate::Range;
use super::rebuild::Change;
use crate::error::{Error, Result};
use crate::extents::{self, Completeness, END_OF_FILES, ExtentMap, clip};
use crate::inode::fields::Line;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::inode::{Inode, InodeState};
use crate::namespace::locks::LockSet;
use crate::options::AllocateMode;
use crate::pool::Pool;
use crate::update::Update;

/// The most extents of a file that are moved in one record: 9 new nodes, as many blocks freed as there are extents, and
/// an old tree of leaves that are a quarter full take half of the largest record.
const IN_RECORD: usize = 1024;

/// How a file's extents move.
#[derive(Clone, Copy, Debug)]
struct Shift {
    /// What is below stays.
    first: FileBlock,
    /// What is from here on moves; between the two is cut out.
    rest: FileBlock,
    /// Where `rest` moves to.
    to: FileBlock,
    new_size: u64,
}

/// A file's extents after a shift, and what of the old ones is in none of them.
#[derive(Debug)]
struct Shifted {
    extents: Vec<Extent>,
    cut: Vec<Extent>,
}

impl Shift {
    /// What becomes of `old`, all extents of the file.
    fn apply(self, old: &[Extent]) -> Shifted {
        let kept = old
            .iter()
            .filter_map(|extent| clip(extent, FileBlock(0), self.first));
        let cut = old
            .iter()
            .filter_map(|extent| clip(extent, self.first, self.rest));
        let moved = extents::moved(old, (self.rest, END_OF_FILES), self.to);
        Shifted {
            extents: extents::joined(kept.chain(moved)).into_vec(),
            cut: cut.collect(),
        }
    }
}

impl Pool {
    /// Cuts `range` out of the file, or puts a hole of its length in at its start.
    pub(super) fn shift_range(&self, inode: &Inode, mode: AllocateMode, range: Range) -> Result<()> {
        let mut state = inode.write()?;
        self.prepare_range(inode, &mut state)?;
        let shift = self.plan_shift(inode, &mut state, mode, range)?;
        let broken = self.break_layout(inode, (shift.first, END_OF_FILES), Fate::Kept)?;
        match self.shift_in_record(inode, &mut state, shift) {
            Ok(Completeness::All) => return Ok(()),
            Ok(Completeness::More) | Err(Error::Journal(JournalError::TooLarge { .. })) => {}
            Err(error) => return Err(error),
        }
        drop(broken);
        drop(state);
        self.with_orphan(|orphan| {
            let mut locks = LockSet::lock([inode, orphan])?;
            let state = locks.state(inode)?;
            // Again, because the file was not locked meanwhile.
            self.prepare_range(inode, state)?;
            let shift = self.plan_shift(inode, state, mode, range)?;
            let _broken = self.break_layout(inode, (shift.first, END_OF_FILES), Fate::Kept)?;
            let old = self.all_extents(inode, state)?;
            let shifted = shift.apply(&old);
            let change = Change {
                inode,
                old_blocks: extents::total(&old),
                extents: shifted.extents,
                new_size: shift.new_size,
            };
            self.rebuild(&mut locks, orphan, vec![change], shifted.cut)
        })
    }

    /// How the extents move, if the range and the file allow it.
    fn plan_shift(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        mode: AllocateMode,
        range: Range,
    ) -> Result<Shift> {
        let size = self.inode_size(inode)?;
        let first = FileBlock::holding(range.start);
        let length = range.end - range.start;
        if mode == AllocateMode::Collapse {
            if !range.is_whole_blocks() {
                return Err(Error::Invalid("a collapsed range is of whole blocks"));
            }
            if range.end >= size {
                return Err(Error::Invalid("a collapsed range ends before the file does"));
            }
            return Ok(Shift {
                first,
                rest: FileBlock::holding(range.end),
                to: first,
                new_size: size - length,
            });
        }
        if !range.is_whole_blocks() {
            return Err(Error::Invalid("an inserted range is of whole blocks"));
        }
        if range.start >= size {
            return Err(Error::Invalid("an inserted range begins before the file ends"));
        }
        if size.checked_add(length).is_none_or(|size| size > MAX_FILE_BYTES) {
            return Err(Error::FileTooLarge);
        }
        let to = FileBlock::holding(range.end);
        let last = self.last_mapped(inode, state)?;
        if last.raw() + length / BLOCK_BYTES > END_OF_FILES.raw() {
            return Err(Error::FileTooLarge);
        }
        Ok(Shift {
            first,
            rest: first,
            to,
            new_size: size + length,
        })
    }

    /// The end of the last extent.
    pub(super) fn last_mapped(&self, inode: &Inode, state: &mut InodeState) -> Result<FileBlock> {
        let update = Update::new(self);
        let map = ExtentMap::begin(self, inode, state)?;
        let last = map.last(&update)?.map_or(FileBlock(0), |extent| extent.end());
        map.finish(state);
        Ok(last)
    }

    /// Moves the extents in one record, if they are few; else nothing is changed.
    fn shift_in_record(&self, inode: &Inode, state: &mut InodeState, shift: Shift) -> Result<Completeness> {
        let mut update = Update::new(self);
        let mut line = Line::read(self, inode)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        let (old, completeness) = map.collect(&update, FileBlock(0), END_OF_FILES, IN_RECORD)?;
        if completeness == Completeness::More {
            map.finish(state);
            return Ok(Completeness::More);
        }
        let shifted = shift.apply(&old);
        let mut counts = 0;
        for extent in shifted.cut.iter().filter(|extent| extent.is_shared()) {
            counts += update.owners(extent, IN_RECORD + 1)?.len();
        }
        if counts > EXTENTS_PER_RECORD {
            map.finish(state);
            return Ok(Completeness::More);
        }
        for extent in &shifted.cut {
            update.free_extent(extent)?;
            line.add_blocks(-i64::try_from(extent.count).unwrap_or(i64::MAX));
        }
        map.rebuild(&mut update, shifted.extents)?;
        map.store(&mut update)?;
        if is_injected(Fault::SplitShift) {
            self.finish_range(update, inode, state, line, map)?;
            self.store_size(inode, state, shift.new_size)?;
            return Ok(Completeness::All);
        }
        line.set_size(shift.new_size);
        self.finish_range(update, inode, state, line, map)?;
        Ok(Completeness::All)
    }
}
