//! Moving a file's data between the pool and its data device, while the file is in use.
//!
//! A step copies the blocks of one extent to new ones in the other place, and puts those into the file with one record,
//! which frees the old ones: what the file reads as does not change, and a crash leaves some blocks here, some there.
//! What is in the cache stays valid.
//!
//! Under the inode's lock, alone; let go of between steps where nothing depends on the whole.

use udax_media::extent::{Extent, ExtentFlags};
use udax_media::{BLOCK_BYTES, BlockNo, FileBlock, HUGE_BLOCKS};

use crate::error::{Error, Result};
use crate::extents::{self, ExtentMap, Mapping, clip};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::{Placement, Request, Tier};
use crate::update::Update;

/// Blocks of a step at most: 16 MiB, for which readers of the file wait.
const STEP_BLOCKS: u64 = 4096;

impl Pool {
    /// Moves what is in the other place to `tier`, one pass over the file, without keeping others from it between two
    /// steps: what they write behind the pass may be in either place. To the device nothing more is moved once somebody
    /// has given the file the DAX flag again.
    ///
    /// # Errors
    /// `NoSpace`; what hinders reading or writing. Then a part has been moved.
    pub(crate) fn move_in_passing(&self, inode: &Inode, tier: Tier) -> Result<()> {
        let mut at = FileBlock(0);
        loop {
            let mut state = inode.write()?;
            if tier == Tier::Device && self.tier_of(inode)? != tier {
                return Ok(());
            }
            match self.move_step(inode, &mut state, at, tier)? {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }

    /// Moves all that is in the other place to `tier`, with the inode's lock held throughout.
    ///
    /// # Errors
    /// As [`Pool::move_in_passing`].
    pub(crate) fn move_locked(&self, inode: &Inode, state: &mut InodeState, tier: Tier) -> Result<()> {
        let mut at = FileBlock(0);
        while let Some(next) = self.move_step(inode, state, at, tier)? {
            at = next;
        }
        Ok(())
    }

    /// Moves the first blocks from `at` on that are in the other place; gives up to where, or that there are none.
    fn move_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        at: FileBlock,
        tier: Tier,
    ) -> Result<Option<FileBlock>> {
        extents::load(self, inode, state)?;
        let Some(extent) = self.next_elsewhere(inode, state, at, tier)? else {
            return Ok(None);
        };
        if let Some(window) = state.window.take() {
            self.give_back(window);
        }
        self.retry_when_bad(|| self.move_extent(inode, state, extent, tier))
            .map(Some)
    }

    /// The first part of an extent, from `at` on, that is not in `tier`.
    fn next_elsewhere(
        &self,
        inode: &Inode,
        state: &InodeState,
        mut at: FileBlock,
        tier: Tier,
    ) -> Result<Option<Extent>> {
        while at < extents::END_OF_FILES {
            at = match extents::lookup(self, inode, &state.extents, at)? {
                Mapping::Hole { until } => until,
                Mapping::Extent(extent) if Tier::of(extent.start) == tier => extent.end(),
                Mapping::Extent(extent) => return Ok(clip(&extent, at, extents::END_OF_FILES)),
            };
        }
        Ok(None)
    }

    /// Gives the first blocks of `old` to new ones in `tier`; gives up to where.
    fn move_extent(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        old: Extent,
        tier: Tier,
    ) -> Result<FileBlock> {
        extents::load(self, inode, state)?;
        let mut update = Update::new(self);
        let whole = old.count.min(STEP_BLOCKS);
        let is_huge = old.first.raw().is_multiple_of(HUGE_BLOCKS) && whole >= HUGE_BLOCKS;
        let run = self.space_on(tier).take(Request {
            goal: BlockNo(0),
            count: if is_huge {
                whole - whole % HUGE_BLOCKS
            } else {
                whole
            },
            placement: if is_huge { Placement::Huge } else { Placement::Any },
            priority: update.priority(),
        })?;
        update.guard(run);
        let old = Extent {
            count: run.count,
            ..old
        };
        let new = Extent {
            start: run.start,
            // A copy is the file's own.
            flags: old.flags.difference(ExtentFlags::SHARED),
            ..old
        };
        if old.is_unwritten() {
            update.allocate_unwritten(run);
        } else {
            let mut writer = self.data_writer();
            writer.copy(old.start.offset(), run.start.offset(), run.count * BLOCK_BYTES)?;
            let durable = writer.finish(vec![run]).fence(&self.region)?;
            update.allocate_data(&durable);
        }
        let mut map = ExtentMap::begin(self, inode, state)?;
        map.splice(&mut update, old.first, old.end(), &[new])?;
        update.free_extent(&old)?;
        self.commit_extents(update, inode, state, map)?;
        Ok(old.end())
    }

    /// Refuses to give `target` what `source` has in a range, if that would be blocks of the data device in a file that
    /// is reached by memory access.
    ///
    /// # Errors
    /// `NotSupported`.
    pub(super) fn check_tier(
        &self,
        (source, state): (&Inode, &InodeState),
        (first, end): (FileBlock, FileBlock),
        target: &Inode,
    ) -> Result<()> {
        if self.device_space.is_none() || self.tier_of(target)? == Tier::Device {
            return Ok(());
        }
        match self.next_elsewhere(source, state, first, Tier::Pool)? {
            Some(extent) if extent.first < end => Err(Error::NotSupported(
                "a DAX file has no blocks of the data device: copy it",
            )),
            _ => Ok(()),
        }
    }
}
