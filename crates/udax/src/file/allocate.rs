//! Allocating ranges, and the entry to all that Linux's `fallocate` does.
//!
//! `punch` makes holes and zeros, `shift` collapses and inserts. [`Range`] is what they all work on; [`Piece`]s are
//! what a range is allocated and zeroed by, as many in a record as it has room for.
//!
//! All under the inode's lock, alone.

use udax_dax::Fate;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::FileKind;
use udax_media::{BLOCK_BYTES, BlockNo, FileBlock, MAX_FILE_BYTES};

use super::File;
use super::edges::Edges;
use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping};
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::{Inode, InodeState};
use crate::options::AllocateMode;
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

/// A range of a file in bytes, and the whole blocks around and inside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A part of a file that is to be allocated and unwritten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    /// Its blocks were just taken; else the file has them already.
    pub(super) is_taken: bool,
}

impl Piece {
    pub(super) fn taken(extent: Extent) -> Self {
        let is_taken = true;
        Self { extent, is_taken }
    }
}

/// What one record does to a range.
#[derive(Clone, Copy, Debug)]
struct Step<'s> {
    pieces: &'s [Piece],
    /// The edges of this range inside blocks are zeroed.
    edges: Option<Range>,
    /// The size, if it is below that.
    new_size: Option<u64>,
}

impl Range {
    pub(super) fn outer(self) -> (FileBlock, FileBlock) {
        (
            FileBlock::holding(self.start),
            FileBlock(self.end.div_ceil(BLOCK_BYTES)),
        )
    }

    pub(super) fn inner(self) -> (FileBlock, FileBlock) {
        let first = FileBlock(self.start.div_ceil(BLOCK_BYTES));
        (first, FileBlock::holding(self.end).max(first))
    }

    pub(super) fn is_whole_blocks(self) -> bool {
        self.start.is_multiple_of(BLOCK_BYTES) && self.end.is_multiple_of(BLOCK_BYTES)
    }
}

impl File {
    /// Changes how the `len` bytes from `offset` are allocated, see [`AllocateMode`].
    ///
    /// # Errors
    /// `BadHandle` without `WRITE`; `Invalid` for an empty range, another kind than a regular file, a collapse or
    /// insertion that is not of whole blocks or not inside the file; `FileTooLarge`; `NoSpace`, then nothing was
    /// changed.
    ///
    /// # Durability
    /// Durable on return. Atomic, but for ranges of more than 256 extents, which are allocated, punched or zeroed
    /// 256 at a time, from the start; then the edges inside blocks go with the first record, the size with the last.
    pub fn allocate(&self, mode: AllocateMode, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Err(Error::Invalid("the range is empty"));
        }
        self.check_writable()?;
        match self.inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid("only a regular file is allocated")),
        }
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= MAX_FILE_BYTES)
            .ok_or(Error::FileTooLarge)?;
        let range = Range { start: offset, end };
        let pool = &*self.pool;
        let inode = &*self.inode;
        pool.wait_and_retry("allocate", &self.wait, || {
            pool.retry_when_full(|| pool.allocate(inode, mode, range))
        })
    }
}

impl Pool {
    fn allocate(&self, inode: &Inode, mode: AllocateMode, range: Range) -> Result<()> {
        if let AllocateMode::Collapse | AllocateMode::Insert = mode {
            return self.shift_range(inode, mode, range);
        }
        let mut state = inode.write()?;
        self.prepare_range(inode, &mut state)?;
        let end = Some(range.end);
        if let AllocateMode::Allocate | AllocateMode::ZeroRange = mode {
            self.prepare_growth(inode, &mut state, range.end)?;
        }
        let changed = match mode {
            AllocateMode::PunchHole | AllocateMode::ZeroRange | AllocateMode::ZeroRangeKeepSize => {
                self.break_layout(inode, range.outer(), Fate::Discarded)?
            }
            _ => None,
        };
        let result = if mode == AllocateMode::PunchHole {
            self.punch(inode, &mut state, range)
        } else {
            // What is done when a record becomes too large is found done, and not taken again.
            self.in_steps(|limit| match mode {
                AllocateMode::Allocate => self.allocate_range(inode, &mut state, range, end, limit),
                AllocateMode::ZeroRange => self.zero_range(inode, &mut state, range, end, limit),
                AllocateMode::ZeroRangeKeepSize => self.zero_range(inode, &mut state, range, None, limit),
                AllocateMode::Unshare => self.allocate_unshared(inode, &mut state, range, limit),
                _ => self.allocate_range(inode, &mut state, range, None, limit),
            })
        };
        if changed.is_some() && result.is_err() {
            self.save_undiscarded(inode, &mut state, range.outer());
        }
        drop(changed);
        result
    }

    /// What every change of a range begins with: nothing cached or taken ahead, no truncation unfinished, the extents
    /// known.
    pub(crate) fn prepare_range(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        self.settle(inode, state)?;
        self.prepare_extents(inode, state)
    }

    /// As [`Pool::prepare_range`], where what may stay in the cache does.
    pub(crate) fn prepare_extents(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        if let Some(window) = state.window.take() {
            self.give_back(window);
        }
        self.finish_cut(inode, state)?;
        extents::load(self, inode, state)
    }

    /// Allocates the holes of `range` as unwritten, and copies what is shared.
    fn allocate_unshared(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        range: Range,
        limit: usize,
    ) -> Result<()> {
        let (first, end) = range.outer();
        self.unshare_range(inode, state, first, end)?;
        self.allocate_range(inode, state, range, None, limit)
    }

    /// Allocates the holes of `range` as unwritten; then sets the size if it is below `new_size`.
    fn allocate_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        range: Range,
        new_size: Option<u64>,
        limit: usize,
    ) -> Result<()> {
        extents::load(self, inode, state)?;
        let (first, end) = range.outer();
        // Everything is taken before anything is recorded: no space leaves nothing half-done.
        let taken = self.take_holes(inode, state, first, end)?;
        let pieces = taken.into_iter().map(Piece::taken).collect();
        self.record_pieces(inode, state, pieces, (None, new_size), limit)
    }

    /// Records `pieces`, `limit` at a time: the edges of `edges` with the first, the size with the last. What was taken
    /// and is not recorded is given back.
    pub(super) fn record_pieces(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        mut pieces: Vec<Piece>,
        (mut edges, new_size): (Option<Range>, Option<u64>),
        limit: usize,
    ) -> Result<()> {
        loop {
            let batch: Vec<Piece> = pieces.drain(..pieces.len().min(limit)).collect();
            let step = Step {
                pieces: &batch,
                edges: edges.take(),
                new_size: new_size.filter(|_| pieces.is_empty()),
            };
            if let Err(error) = self.record_step(inode, state, step) {
                for piece in pieces.iter().filter(|piece| piece.is_taken) {
                    self.give_back(piece.extent.blocks());
                }
                return Err(error);
            }
            if pieces.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes blocks for every hole in `first..end`.
    pub(super) fn take_holes(
        &self,
        inode: &Inode,
        state: &InodeState,
        first: FileBlock,
        end: FileBlock,
    ) -> Result<Vec<Extent>> {
        let tier = self.tier_of(inode)?;
        let mut taken: Vec<Extent> = Vec::new();
        let mut goal = BlockNo(0);
        let mut at = first;
        while at < end {
            let mapping = extents::lookup(self, inode, &state.extents, at).inspect_err(|_| {
                taken.iter().for_each(|extent| self.give_back(extent.blocks()));
            })?;
            let until = match mapping {
                Mapping::Extent(extent) => {
                    goal = extent.blocks().end();
                    extent.end()
                }
                Mapping::Hole { until } => {
                    let until = until.min(end);
                    let count = until.raw() - at.raw();
                    let placement = if at.raw().is_multiple_of(udax_media::HUGE_BLOCKS) {
                        Placement::Huge
                    } else {
                        Placement::Any
                    };
                    let request = Request {
                        goal,
                        count,
                        placement,
                        priority: Priority::Ordinary,
                    };
                    let runs = self.space_on(tier).take_all(request).inspect_err(|_| {
                        taken.iter().for_each(|extent| self.give_back(extent.blocks()));
                    })?;
                    for run in runs {
                        let (start, count) = (run.start, run.count);
                        taken.push(Extent {
                            first: at,
                            start,
                            count,
                            flags: ExtentFlags::UNWRITTEN,
                        });
                        at = FileBlock(at.raw() + count);
                        goal = run.end();
                    }
                    until
                }
            };
            at = until;
        }
        Ok(taken)
    }

    /// Makes one record of `step`.
    fn record_step(&self, inode: &Inode, state: &mut InodeState, step: Step<'_>) -> Result<()> {
        let mut update = Update::new(self);
        let taken = step.pieces.iter().filter(|piece| piece.is_taken);
        taken.for_each(|piece| update.guard(piece.extent.blocks()));
        let mut line = Line::read(self, inode)?;
        extents::load(self, inode, state)?;
        if let Some(size) = step.new_size.filter(|size| *size > line.size()) {
            line.set_size(size);
        }
        let edges = match step.edges {
            Some(range) => self.copy_edges(&mut update, (inode, state), range, Priority::Ordinary)?,
            None => Edges::default(),
        };
        let mut map = ExtentMap::begin(self, inode, state)?;
        for piece in step.pieces {
            let extent = piece.extent;
            map.splice(&mut update, extent.first, extent.end(), &[extent])?;
            if piece.is_taken {
                update.allocate_unwritten(extent.blocks());
                line.add_blocks(i64::try_from(extent.count).unwrap_or(i64::MAX));
            }
        }
        edges.publish(&mut update, &mut map)?;
        map.store(&mut update)?;
        self.finish_range(update, inode, state, line, map)
    }

    /// Commits an update of `inode`'s extents, with its times.
    pub(super) fn finish_range(
        &self,
        mut update: Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        mut line: Line,
        map: ExtentMap<'_>,
    ) -> Result<()> {
        line.add_blocks(update.take_metadata_delta());
        line.touch_modified(now());
        if let Some(time) = state.lazy.accessed() {
            line.set_atime(time);
        }
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        state.lazy = Default::default();
        Ok(())
    }
}
