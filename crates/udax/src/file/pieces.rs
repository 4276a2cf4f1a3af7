//! The runs of blocks that a write goes to: what is there, and what is taken for it.
//!
//! Under the inode's lock, alone.

use smallvec::SmallVec;
use udax_journal::DataWriter;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, ByteOffset, FileBlock, HUGE_BLOCKS};
use udax_sync::fault::{Fault, is_injected};

use crate::error::{Error, Result};
use crate::extents::{self, Mapping};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

/// The most blocks taken ahead for the next append.
const MAX_WINDOW: u64 = HUGE_BLOCKS;
/// At most this part of the available blocks, as a divisor, is taken ahead by one file.
const WINDOW_SHARE: u64 = 64;

/// The runs of blocks of a write: most have one.
pub(super) type Pieces = SmallVec<[Piece; 2]>;

/// A run of blocks that a write goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) extent: Extent,
    pub(super) origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Just taken: its bits and its extent are to be recorded.
    Fresh,
    /// Allocated but unwritten: its extent is to be recorded as written.
    Unwritten,
    /// Written before.
    Written,
    /// Just taken in place of the blocks from this one on, which have other owners: its bits and its extent are to be
    /// recorded, and the old blocks to be given up.
    Copied(BlockNo),
}

impl Piece {
    /// The shared blocks whose place it takes.
    pub(super) fn replaced(&self) -> Option<Extent> {
        let Origin::Copied(start) = self.origin else {
            return None;
        };
        Some(Extent {
            start,
            flags: ExtentFlags::SHARED,
            ..self.extent
        })
    }

    /// Whether its blocks were just taken.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.origin, Origin::Fresh | Origin::Copied(_))
    }
}

impl Pool {
    /// The pieces of `first..end`, taking blocks for its holes. At most `limit`, from the start.
    pub(super) fn plan(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
        limit: usize,
    ) -> Result<Pieces> {
        let mut pieces = Pieces::new();
        let mut goal = self.goal_before(inode, state, first)?;
        let mut at = first;
        while at < end && pieces.len() < limit {
            let piece = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Extent(extent) if extent.is_shared() => {
                    let part = extents::clip(&extent, at, end).ok_or(Error::Invalid("empty extent"))?;
                    self.take_for_shared(update, part, goal)?
                }
                Mapping::Extent(extent) => {
                    let mut part = extents::clip(&extent, at, end).ok_or(Error::Invalid("empty extent"))?;
                    let origin = if part.is_unwritten() {
                        Origin::Unwritten
                    } else {
                        Origin::Written
                    };
                    part.flags = ExtentFlags::empty();
                    Piece { extent: part, origin }
                }
                Mapping::Hole { until } => {
                    let wanted = until.min(end).raw() - at.raw();
                    let is_append = until == extents::END_OF_FILES && end.raw() - at.raw() == wanted;
                    let run = self.take_for_file(state, at, wanted, goal, is_append)?;
                    update.guard(run);
                    let extent = Extent {
                        first: at,
                        start: run.start,
                        count: run.count,
                        flags: ExtentFlags::empty(),
                    };
                    Piece {
                        extent,
                        origin: Origin::Fresh,
                    }
                }
            };
            goal = piece.extent.blocks().end();
            at = piece.extent.end();
            pieces.push(piece);
        }
        if is_append_candidate(&pieces, end) && at == end {
            self.take_ahead(inode, state, goal, at)?;
        }
        Ok(pieces)
    }

    /// Where the blocks before `first` end, as the best place for those of `first`.
    fn goal_before(&self, inode: &Inode, state: &InodeState, first: FileBlock) -> Result<BlockNo> {
        if let Some(before) = first.raw().checked_sub(1)
            && let Mapping::Extent(extent) = extents::lookup(self, inode, &state.extents, FileBlock(before))?
        {
            return Ok(BlockNo(extent.start.raw() + (first.raw() - extent.first.raw())));
        }
        Ok(state.window.map_or(BlockNo(0), |window| window.start))
    }

    /// Takes up to `wanted` blocks for file block `at`: from the window if it continues there, in whole 2 MiB chunks
    /// where the file has whole ones.
    fn take_for_file(
        &self,
        state: &mut InodeState,
        at: FileBlock,
        wanted: u64,
        goal: BlockNo,
        is_append: bool,
    ) -> Result<BlockRange> {
        if let Some(window) = state.window.take() {
            if is_append && window.start == goal {
                let used = BlockRange::new(window.start, wanted.min(window.count));
                let rest = BlockRange::new(used.end(), window.count - used.count);
                state.window = (rest.count > 0).then_some(rest);
                return Ok(used);
            }
            self.space.give_back(window);
        }
        self.take_run(at, wanted, goal)
    }

    /// As [`Pool::take_for_file`], without a window.
    pub(super) fn take_run(&self, at: FileBlock, wanted: u64, goal: BlockNo) -> Result<BlockRange> {
        let in_chunk = at.raw() % HUGE_BLOCKS;
        let (count, placement) = if in_chunk == 0 && wanted >= HUGE_BLOCKS {
            (wanted - wanted % HUGE_BLOCKS, Placement::Huge)
        } else if wanted > HUGE_BLOCKS - in_chunk {
            (HUGE_BLOCKS - in_chunk, Placement::Any)
        } else {
            (wanted, Placement::Any)
        };
        self.space.take(Request {
            goal,
            count,
            placement,
            priority: Priority::Ordinary,
        })
    }

    /// Takes blocks ahead for the next append: half of the file's size, in memory only.
    fn take_ahead(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        after: BlockNo,
        file_end: FileBlock,
    ) -> Result<()> {
        let wanted = (file_end.raw() / 2)
            .min(MAX_WINDOW - file_end.raw() % HUGE_BLOCKS)
            .min(self.space.available() / WINDOW_SHARE);
        if state.window.is_some() || wanted < 2 {
            return Ok(());
        }
        state.window = self
            .space
            .take_at(BlockRange::new(after, wanted), Priority::Ordinary)?;
        if state.window.is_some() {
            inode.note_close_work();
        }
        Ok(())
    }

    /// Stores the bytes of a write that fall into `piece`. Around them a block that was not written before is zeroed,
    /// and a block that takes another's place gets what that has.
    pub(super) fn store_piece(
        &self,
        writer: &mut DataWriter<'_>,
        piece: &Piece,
        bytes: &[u8],
        (offset, end): (u64, u64),
    ) -> Result<()> {
        let first = piece.extent.first.raw() * BLOCK_BYTES;
        let last = piece.extent.end().raw() * BLOCK_BYTES;
        let base = piece.extent.start.offset().raw();
        let (from, to) = (offset.max(first), end.min(last));
        let start = usize::try_from(from - offset).unwrap_or(usize::MAX);
        let stop = usize::try_from(to - offset).unwrap_or(usize::MAX);
        let is_new = matches!(piece.origin, Origin::Fresh | Origin::Unwritten);
        if is_new && self.region.first_bad(base, last - first).is_some() {
            // What is lost there is nobody's: stored as a whole it is good again.
            writer.zero(ByteOffset(base), last - first)?;
        }
        writer.write(
            ByteOffset(base + from - first),
            bytes.get(start..stop).unwrap_or_default(),
        )?;
        for (at, length) in [(0, from - first), (to - first, last - to)] {
            match piece.origin {
                Origin::Written => {}
                Origin::Fresh | Origin::Unwritten if is_injected(Fault::StaleEdges) => {}
                Origin::Fresh | Origin::Unwritten => writer.zero(ByteOffset(base + at), length)?,
                Origin::Copied(old) => {
                    let old = ByteOffset(old.offset().raw() + at);
                    writer.copy(old, ByteOffset(base + at), length)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether the blocks behind the last piece are worth taking ahead: the file was extended by fresh blocks.
fn is_append_candidate(pieces: &[Piece], end: FileBlock) -> bool {
    pieces
        .last()
        .is_some_and(|piece| piece.origin == Origin::Fresh && piece.extent.end() == end)
}
