//! Sharing blocks between files: `clone_range` (reflink) and `dedupe_range`.
//!
//! A record shares up to [`EXTENTS_PER_STEP`] extents: it marks those of the source, counts one more owner for their
//! blocks, frees what the target had in their place and maps them there. Whoever writes to them then copies first
//! (`unshare`). Holes and unwritten parts become holes.
//!
//! Locks: both inodes alone, by number; the tree of share counts inside each update.

use udax_dax::Fate;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::{BLOCK_BYTES, FileBlock, MAX_FILE_BYTES};

use super::File;
use super::maps::{Maps, count};
use crate::dax::BothBroken;
use crate::error::{Error, Result};
use crate::extents::{self, clip};
use crate::inode::Inode;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::freeable;
use crate::namespace::locks::LockSet;
use crate::pool::Pool;
use crate::update::Update;

/// The most extents that one record shares, and the most share counts that it changes for them and for those that it
/// replaces: it changes four trees.
const EXTENTS_PER_STEP: usize = 64;
/// Bytes compared at a time.
const COMPARED_BYTES: usize = 64 << 10;

/// What is shared: bytes of the source, and where they go in the target. Whole blocks, but for the end.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    to: u64,
    length: u64,
}

impl Span {
    fn source(self) -> (FileBlock, FileBlock) {
        (FileBlock::holding(self.from), end_block(self.from + self.length))
    }

    fn target(self) -> (FileBlock, FileBlock) {
        (FileBlock::holding(self.to), end_block(self.to + self.length))
    }
}

fn end_block(end: u64) -> FileBlock {
    FileBlock(end.div_ceil(BLOCK_BYTES))
}

impl File {
    /// Lets `to` share the blocks of `len` bytes from `offset` on, at its `to_offset`; 0 means up to the end of this
    /// file (Linux `FICLONERANGE`). What `to` had there is freed; it grows as far as needed. Whoever writes to shared
    /// blocks gets a copy of those that are written.
    ///
    /// # Errors
    /// As [`File::copy_range`], but `Invalid` also for offsets that are not multiples of 4096, for a length that is not
    /// one either and does not end where both files do, and for a range beyond the end of this file.
    ///
    /// # Durability
    /// Durable on return, 64 extents at a time from the start; each of those steps is atomic.
    pub fn clone_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> Result<()> {
        self.check_copied_to(to)?;
        let pool = &*self.pool;
        let share = || {
            let mut locks = LockSet::lock([&*self.inode, &*to.inode])?;
            // 0 is up to the end of this file, wherever that is.
            let most = if len == 0 { u64::MAX } else { len };
            self.settle_for_copy(&mut locks, (to, to_offset), most)?;
            let Some(span) = self.plan_sharing((offset, to), to_offset, len)? else {
                return Ok(());
            };
            let state = locks.state(&to.inode)?;
            pool.prepare_extents(&to.inode, state)?;
            pool.prepare_growth(&to.inode, state, span.to)?;
            let _broken = pool.break_for_sharing(&self.inode, &to.inode, span)?;
            pool.share(&mut locks, (&self.inode, &to.inode), span, Touch::Yes)
        };
        pool.wait_for_both("clone", (self, to), || pool.retry_when_full(share))
    }

    /// Lets `to` share the blocks of `len` bytes from `offset` on in place of its own from `to_offset`, if those bytes
    /// are the same; tells whether they are (Linux `FIDEDUPERANGE`). Neither file changes to its readers.
    ///
    /// # Errors
    /// As [`File::clone_range`], and `Invalid` when the range is not inside both files.
    ///
    /// # Durability
    /// As [`File::clone_range`].
    pub fn dedupe_range(&self, offset: u64, to: &Self, to_offset: u64, len: u64) -> Result<bool> {
        self.check_copied_to(to)?;
        if len == 0 {
            return Ok(true);
        }
        self.pool.wait_for_both("dedupe", (self, to), || {
            self.pool
                .retry_when_full(|| self.try_dedupe((offset, to), to_offset, len))
        })
    }

    fn try_dedupe(&self, (offset, to): (u64, &Self), to_offset: u64, len: u64) -> Result<bool> {
        let mut locks = LockSet::lock([&*self.inode, &*to.inode])?;
        self.settle_for_copy(&mut locks, (to, to_offset), len)?;
        let Some(span) = self.plan_sharing((offset, to), to_offset, len)? else {
            return Ok(true);
        };
        let pool = &*self.pool;
        // Before they are compared: nobody stores to them any more.
        let _broken = pool.break_for_sharing(&self.inode, &to.inode, span)?;
        if span.to + span.length > pool.inode_size(&to.inode)? {
            return Err(Error::Invalid("the range ends behind the file"));
        }
        if !self.is_same(&mut locks, to, span)? {
            return Ok(false);
        }
        pool.share(&mut locks, (&self.inode, &to.inode), span, Touch::No)?;
        Ok(true)
    }

    /// What is to be shared; `None` if it is nothing. In the order of Linux's `generic_remap_checks`.
    fn plan_sharing(&self, (from, target): (u64, &Self), to: u64, length: u64) -> Result<Option<Span>> {
        if !from.is_multiple_of(BLOCK_BYTES) || !to.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::Invalid("blocks are shared whole"));
        }
        let size = self.pool.inode_size(&self.inode)?;
        let length = match length {
            0 => size.saturating_sub(from),
            length => length,
        };
        let end = from.checked_add(length).filter(|end| *end <= size);
        let end = end.ok_or(Error::Invalid("the range ends behind the file"))?;
        if to.checked_add(length).is_none_or(|end| end > MAX_FILE_BYTES) {
            return Err(Error::FileTooLarge);
        }
        if length == 0 {
            return Ok(None);
        }
        // A last block that is not whole is shared where it is the last one of both.
        let is_last = end == size && to + length >= self.pool.inode_size(&target.inode)?;
        if !length.is_multiple_of(BLOCK_BYTES) && !is_last {
            return Err(Error::Invalid("blocks are shared whole"));
        }
        let span = Span { from, to, length };
        let ((first, last), (to_first, to_last)) = (span.source(), span.target());
        if self.inode.ino == target.inode.ino && first < to_last && to_first < last {
            return Err(Error::Invalid("the ranges overlap"));
        }
        Ok(Some(span))
    }

    fn is_same(&self, locks: &mut LockSet<'_>, to: &Self, span: Span) -> Result<bool> {
        let mut one = vec![0; COMPARED_BYTES];
        let mut other = vec![0; COMPARED_BYTES];
        let mut done = 0;
        while done < span.length {
            let left = usize::try_from(span.length - done).unwrap_or(COMPARED_BYTES);
            let count = left.min(COMPARED_BYTES);
            let one = one.get_mut(..count).unwrap_or_default();
            let other = other.get_mut(..count).unwrap_or_default();
            for (file, buffer, at) in [(self, &mut *one, span.from), (to, &mut *other, span.to)] {
                let state = locks.state(&file.inode)?;
                extents::load(&self.pool, &file.inode, state)?;
                self.pool.read_all_locked(&file.inode, state, buffer, at + done)?;
            }
            if one != other {
                return Ok(false);
            }
            done += u64::try_from(count).unwrap_or(span.length);
        }
        Ok(true)
    }
}

/// Whether the target's times and size change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Touch {
    Yes,
    No,
}

impl Pool {
    /// The source becomes shared, which stores through pins would ignore; the target's blocks go.
    fn break_for_sharing<'i>(
        &self,
        source: &'i Inode,
        target: &'i Inode,
        span: Span,
    ) -> Result<BothBroken<'i>> {
        self.break_two(
            (source, span.source(), Fate::Kept),
            (target, span.target(), Fate::Kept),
        )
    }

    fn share(
        &self,
        locks: &mut LockSet<'_>,
        (source, target): (&Inode, &Inode),
        mut span: Span,
        touch: Touch,
    ) -> Result<()> {
        self.prepare_extents(source, locks.state(source)?)?;
        let state = locks.state(target)?;
        self.prepare_extents(target, state)?;
        self.check_tier((source, locks.state(source)?), span.source(), target)?;
        while span.length > 0 {
            let step = |limit| self.share_step(locks, (source, target), span, touch, limit);
            let done = self.in_steps(step)?;
            span = Span {
                from: span.from + done,
                to: span.to + done,
                length: span.length - done,
            };
        }
        Ok(())
    }

    /// Shares the first extents of `span`; gives how many bytes of it are done.
    fn share_step(
        &self,
        locks: &mut LockSet<'_>,
        (source, target): (&Inode, &Inode),
        span: Span,
        touch: Touch,
        limit: usize,
    ) -> Result<u64> {
        let mut update = Update::new(self).limited(limit.min(EXTENTS_PER_STEP));
        let mut maps = Maps::begin(self, locks, (source, target))?;
        let shared = share_extents(&mut update, &mut maps, span)?;
        let done = (shared.blocks * BLOCK_BYTES).min(span.length);
        let mut line = Line::read(self, target)?;
        locks.state(target)?.settle_times(&mut line);
        line.add_blocks(shared.target_delta);
        if touch == Touch::Yes {
            line.set_size(line.size().max(span.to + done));
            line.touch_modified(now());
        }
        if source.ino == target.ino {
            line.add_blocks(shared.source_delta);
        } else {
            let mut line = Line::read(self, source)?;
            line.add_blocks(shared.source_delta);
            line.store(&mut update, source);
        }
        line.store(&mut update, target);
        maps.store(&mut update)?;
        update.commit()?;
        maps.finish(locks, (source, target))?;
        locks.state(target)?.lazy = Default::default();
        Ok(done)
    }
}

/// What a step has done.
struct Shared {
    /// Blocks of the span that are done, holes counted.
    blocks: u64,
    /// What the inodes' numbers of blocks change by.
    source_delta: i64,
    target_delta: i64,
}

/// Adds to `update` the sharing of the first extents of `span`.
fn share_extents(update: &mut Update<'_>, maps: &mut Maps<'_>, span: Span) -> Result<Shared> {
    let (first, end) = span.source();
    let (to_first, to_end) = span.target();
    let found = freeable(update, maps.source(), (first, end))?;
    let reach = FileBlock(to_first.raw() + (found.end.raw() - first.raw()));
    let range = (to_first, reach.min(to_end));
    let old = freeable(update, maps.target(), range)?;
    let blocks = old.end.raw() - to_first.raw();
    let upto = FileBlock(first.raw() + blocks);
    let parts = found
        .extents
        .iter()
        .filter_map(|extent| clip(extent, first, upto))
        .filter(|extent| !extent.is_unwritten());
    let shared: Vec<Extent> = parts
        .map(|extent| Extent {
            flags: extent.flags | ExtentFlags::SHARED,
            ..extent
        })
        .collect();
    for extent in &shared {
        maps.source()
            .splice(update, extent.first, extent.end(), &[*extent])?;
    }
    let source_delta = update.take_metadata_delta();
    let moved: Vec<Extent> = extents::moved(&shared, (first, upto), to_first).collect();
    let replaced = maps.target().splice(update, to_first, old.end, &moved)?;
    let target_delta = count(&moved) - count(&replaced) + update.take_metadata_delta();
    // Added first: what was shared before must not lose its last owner on the way.
    for extent in &shared {
        update.share(extent.blocks())?;
    }
    for extent in &replaced {
        update.free_extent(extent)?;
    }
    Ok(Shared {
        blocks,
        source_delta,
        target_delta,
    })
}
