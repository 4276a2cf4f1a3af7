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
use crate::space::{Placement, Priority, Request, Tier};
use crate::update::Update;

/// The most blocks taken ahead for the next append.
const MAX_WINDOW: u64 = HUGE_BLOCKS;
/// At most this part of the available blocks, as a divisor, is taken ahead by one file.
const WINDOW_SHARE: u64 = 64;

/// The runs of blocks of a write: most have one.
pub(crate) type Pieces = SmallVec<[Piece; 2]>;

/// A run of blocks that a write goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) extent: Extent,
    pub(crate) origin: Origin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Just taken: its bits and its extent are to be recorded.
    Fresh,
    /// Allocated but unwritten: its extent is to be recorded as written.
    Unwritten,
    /// Written before.
    Written,
    /// Just taken in place of these blocks, which have other owners or sums: its bits and its extent are to be
    /// recorded, and the old blocks to be given up.
    Copied(Replaced),
}

/// The blocks in whose place others come: the first, and what is special about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Replaced {
    pub(crate) start: BlockNo,
    pub(crate) flags: ExtentFlags,
}

/// What becomes of written blocks that a write goes to, and whether new ones get sums. Blocks with other owners or
/// with sums are never stored to in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Treatment {
    /// The file's data gets no sums: the file's own blocks are stored to in place.
    Plain,
    /// New blocks get sums, and take the place of all others.
    Summed,
    /// New blocks get sums; the file's own that have none are pinned, and stored to in place.
    SummedButPinned,
    /// The file's data gets no sums, and new blocks take the place of all others: the write is atomic.
    Replaced,
}

impl Treatment {
    /// What new blocks are.
    fn new_flags(self) -> ExtentFlags {
        match self {
            Self::Plain | Self::Replaced => ExtentFlags::empty(),
            Self::Summed | Self::SummedButPinned => ExtentFlags::SUMMED,
        }
    }
}

/// Blocks that are wanted for a run of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The first block in the file.
    pub(super) at: FileBlock,
    pub(super) count: u64,
    /// The best place.
    pub(super) goal: BlockNo,
    pub(super) priority: Priority,
    /// Where they are to be.
    pub(super) tier: Tier,
}

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// These blocks of the file.
    pub(crate) range: (FileBlock, FileBlock),
    /// The most pieces.
    pub(crate) limit: usize,
    pub(crate) treatment: Treatment,
}

impl Piece {
    /// The blocks whose place it takes.
    pub(crate) fn replaced(&self) -> Option<Extent> {
        let Origin::Copied(Replaced { start, flags }) = self.origin else {
            return None;
        };
        Some(Extent {
            start,
            flags,
            ..self.extent
        })
    }

    /// Whether its blocks were just taken.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.origin, Origin::Fresh | Origin::Copied(_))
    }
}

impl Pool {
    /// The pieces of a range, taking blocks for its holes and for what is not stored to in place. At most so many, from
    /// the start.
    pub(crate) fn plan(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        aim: Aim,
    ) -> Result<Pieces> {
        let (first, end) = aim.range;
        let mut pieces = Pieces::new();
        let tier = self.tier_of(inode)?;
        let mut goal = self.goal_before(inode, state, first)?;
        let mut at = first;
        while at < end && pieces.len() < aim.limit {
            let piece = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Extent(extent) => {
                    let part = extents::clip(&extent, at, end).ok_or(Error::Invalid("empty extent"))?;
                    self.plan_for(update, part, (goal, tier), aim.treatment)?
                }
                Mapping::Hole { until } => {
                    let wanted = until.min(end).raw() - at.raw();
                    let is_append = until == extents::END_OF_FILES && end.raw() - at.raw() == wanted;
                    let wanted = Wanted {
                        at,
                        count: wanted,
                        goal,
                        priority: update.priority(),
                        tier,
                    };
                    let run = self.take_for_file(state, wanted, is_append)?;
                    update.guard(run);
                    let extent = Extent {
                        first: at,
                        start: run.start,
                        count: run.count,
                        flags: aim.treatment.new_flags(),
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

    /// The first piece of `part`, which the file has.
    fn plan_for(
        &self,
        update: &mut Update<'_>,
        part: Extent,
        (goal, tier): (BlockNo, Tier),
        treatment: Treatment,
    ) -> Result<Piece> {
        let flags = treatment.new_flags();
        let piece = if part.is_shared() {
            self.take_for_shared(update, part, (goal, tier))?
        } else if part.is_unwritten() {
            let origin = Origin::Unwritten;
            let extent = Extent { flags, ..part };
            return Ok(Piece { extent, origin });
        } else {
            let origin = Origin::Written;
            Piece { extent: part, origin }
        };
        let is_replaced =
            piece.extent.is_summed() || matches!(treatment, Treatment::Summed | Treatment::Replaced);
        if piece.origin == Origin::Written && is_replaced && !is_injected(Fault::InPlaceSum) {
            return self.take_instead(update, piece.extent, (goal, tier), flags);
        }
        let flags = match piece.origin {
            Origin::Written => piece.extent.flags,
            _ => flags,
        };
        let extent = Extent {
            flags,
            ..piece.extent
        };
        Ok(Piece { extent, ..piece })
    }

    /// New blocks, which will have `flags`, to take the place of the first of `old`, which are written.
    pub(super) fn take_instead(
        &self,
        update: &mut Update<'_>,
        old: Extent,
        (goal, tier): (BlockNo, Tier),
        flags: ExtentFlags,
    ) -> Result<Piece> {
        let run = self.take_run(Wanted {
            at: old.first,
            count: old.count,
            goal,
            priority: update.priority(),
            tier,
        })?;
        update.guard(run);
        Ok(Piece {
            extent: Extent {
                start: run.start,
                count: run.count,
                flags,
                ..old
            },
            origin: Origin::Copied(Replaced {
                start: old.start,
                flags: old.flags,
            }),
        })
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
    fn take_for_file(&self, state: &mut InodeState, wanted: Wanted, is_append: bool) -> Result<BlockRange> {
        if let Some(window) = state.window.take() {
            if is_append && window.start == wanted.goal && Tier::of(window.start) == wanted.tier {
                let used = BlockRange::new(window.start, wanted.count.min(window.count));
                let rest = BlockRange::new(used.end(), window.count - used.count);
                state.window = (rest.count > 0).then_some(rest);
                return Ok(used);
            }
            self.give_back(window);
        }
        self.take_run(wanted)
    }

    /// As [`Pool::take_for_file`], without a window.
    pub(super) fn take_run(&self, wanted: Wanted) -> Result<BlockRange> {
        let in_chunk = wanted.at.raw() % HUGE_BLOCKS;
        let (count, placement) = if in_chunk == 0 && wanted.count >= HUGE_BLOCKS {
            (wanted.count - wanted.count % HUGE_BLOCKS, Placement::Huge)
        } else if wanted.count > HUGE_BLOCKS - in_chunk {
            (HUGE_BLOCKS - in_chunk, Placement::Any)
        } else {
            (wanted.count, Placement::Any)
        };
        self.space_on(wanted.tier).take(Request {
            goal: wanted.goal,
            count,
            placement,
            priority: wanted.priority,
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
            .min(self.space_of(after).available() / WINDOW_SHARE);
        if state.window.is_some() || wanted < 2 {
            return Ok(());
        }
        state.window = self
            .space_of(after)
            .take_at(BlockRange::new(after, wanted), Priority::Ordinary)?;
        if state.window.is_some() {
            inode.note_close_work();
        }
        Ok(())
    }

    /// Stores the bytes of a write that fall into `piece`, which gets no sums. Around them a block that was not written
    /// before is zeroed, and a block that takes another's place gets what that has.
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
                    let old = ByteOffset(old.start.offset().raw() + at);
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
