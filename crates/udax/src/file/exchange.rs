//! Exchanging ranges of two files, or two ranges of one.
//!
//! Extents change their owners and no byte is copied. Always one record: few extents are spliced into the trees that
//! are there; for more ([`IN_RECORD`]), or where that record would be too large, [`super::rebuild`] makes new trees.
//!
//! Locks: both inodes alone, by number.

use udax_dax::Fate;
use udax_journal::JournalError;
use udax_media::extent::Extent;
use udax_media::{BLOCK_BYTES, FileBlock, MAX_FILE_BYTES};

use super::File;
use super::maps::{Maps, count};
use super::rebuild::Change;
use crate::error::{Error, Result};
use crate::extents::{Completeness, END_OF_FILES, clip, joined, moved, total};
use crate::inode::Inode;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::namespace::locks::LockSet;
use crate::pool::Pool;
use crate::update::Update;

/// The most extents of each range that are exchanged by splicing: four trees' worth of entries go and come.
const IN_RECORD: usize = EXTENTS_PER_RECORD / 2;

/// A range of blocks: its first, and the one behind it.
type Blocks = (FileBlock, FileBlock);

/// What is exchanged.
#[derive(Clone, Copy, Debug)]
struct Swap {
    one: Blocks,
    other: Blocks,
    /// The new sizes.
    sizes: (u64, u64),
}

impl File {
    /// Exchanges the `len` bytes from `offset` of this file with those from `other_offset` of `other`, which may be the
    /// same file: data, holes, allocation (Linux `XFS_IOC_EXCHANGE_RANGE`). With a `len` of 0, everything up to the
    /// ends of both, which exchanges the sizes too.
    ///
    /// # Errors
    /// `BadHandle` unless both are open for reading and writing; `Invalid` for other kinds than regular files, for
    /// offsets that are not multiples of 4096, for a length that is not one either and does not end where both files
    /// do, for a range that is not in its file, and for overlapping ranges; `OtherPool`; `FileTooLarge`; `NoSpace`.
    /// Then nothing was changed.
    ///
    /// # Durability
    /// Durable on return, atomic.
    pub fn exchange_range(&self, offset: u64, other: &Self, other_offset: u64, len: u64) -> Result<()> {
        self.check_copied_to(other)?;
        other.check_copied_to(self)?;
        let pool = &*self.pool;
        let inodes = (&*self.inode, &*other.inode);
        let range = (offset, other_offset, len);
        pool.wait_for_both("exchange", (self, other), || {
            pool.retry_when_full(|| pool.exchange(inodes, range))
        })
    }
}

impl Pool {
    fn exchange(&self, inodes: (&Inode, &Inode), range: (u64, u64, u64)) -> Result<()> {
        let mut locks = LockSet::lock([inodes.0, inodes.1])?;
        let Some(swap) = self.plan_exchange(&mut locks, inodes, range)? else {
            return Ok(());
        };
        let broken = self.break_two(
            (inodes.0, swap.one, Fate::Kept),
            (inodes.1, swap.other, Fate::Kept),
        )?;
        match self.exchange_in_record(&mut locks, inodes, swap) {
            Ok(Completeness::All) => return Ok(()),
            Ok(Completeness::More) | Err(Error::Journal(JournalError::TooLarge { .. })) => {}
            Err(error) => return Err(error),
        }
        drop(broken);
        drop(locks);
        self.with_orphan(|orphan| {
            let mut locks = LockSet::lock([inodes.0, inodes.1, orphan])?;
            // Again, because the files were not locked meanwhile.
            let Some(swap) = self.plan_exchange(&mut locks, inodes, range)? else {
                return Ok(());
            };
            let _broken = self.break_two(
                (inodes.0, swap.one, Fate::Kept),
                (inodes.1, swap.other, Fate::Kept),
            )?;
            let changes = self.exchanged(&mut locks, inodes, swap)?;
            self.rebuild(&mut locks, orphan, changes, Vec::new())
        })
    }

    /// What is to be exchanged; `None` if it is nothing.
    fn plan_exchange(
        &self,
        locks: &mut LockSet<'_>,
        (one, other): (&Inode, &Inode),
        (offset, other_offset, len): (u64, u64, u64),
    ) -> Result<Option<Swap>> {
        for inode in [one, other] {
            self.prepare_range(inode, locks.state(inode)?)?;
        }
        if !offset.is_multiple_of(BLOCK_BYTES) || !other_offset.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::Invalid("blocks are exchanged whole"));
        }
        let sizes = (self.inode_size(one)?, self.inode_size(other)?);
        if offset > sizes.0 || other_offset > sizes.1 {
            return Err(Error::Invalid("the range begins behind the file"));
        }
        if one.ino == other.ino && len == 0 {
            return Err(Error::Invalid("the ranges overlap"));
        }
        let swap = if len == 0 {
            self.plan_to_ends(locks, (one, other), (offset, other_offset), sizes)?
        } else {
            let end = |offset: u64, size: u64| {
                let end = offset.checked_add(len).filter(|end| *end <= size);
                end.ok_or(Error::Invalid("the range ends behind the file"))
            };
            let ends = (end(offset, sizes.0)?, end(other_offset, sizes.1)?);
            if !len.is_multiple_of(BLOCK_BYTES) && ends != sizes {
                return Err(Error::Invalid("blocks are exchanged whole"));
            }
            let blocks = |start, end: u64| (FileBlock::holding(start), FileBlock(end.div_ceil(BLOCK_BYTES)));
            Swap {
                one: blocks(offset, ends.0),
                other: blocks(other_offset, ends.1),
                sizes,
            }
        };
        let is_overlap = swap.one.0 < swap.other.1 && swap.other.0 < swap.one.1;
        if one.ino == other.ino && is_overlap {
            return Err(Error::Invalid("the ranges overlap"));
        }
        self.check_tier((one, locks.state(one)?), swap.one, other)?;
        self.check_tier((other, locks.state(other)?), swap.other, one)?;
        Ok(Some(swap).filter(|swap| swap.one.0 < swap.one.1 || swap.other.0 < swap.other.1))
    }

    fn plan_to_ends(
        &self,
        locks: &mut LockSet<'_>,
        (one, other): (&Inode, &Inode),
        (offset, other_offset): (u64, u64),
        sizes: (u64, u64),
    ) -> Result<Swap> {
        let new_size = |start: u64, rest: u64| {
            let size = start.checked_add(rest).filter(|size| *size <= MAX_FILE_BYTES);
            size.ok_or(Error::FileTooLarge)
        };
        let ranges = (FileBlock::holding(offset), FileBlock::holding(other_offset));
        // What is allocated behind the ends moves too.
        for (inode, from, to) in [(one, ranges.0, ranges.1), (other, ranges.1, ranges.0)] {
            let last = self.last_mapped(inode, locks.state(inode)?)?;
            if last > from && last.raw() - from.raw() > END_OF_FILES.raw() - to.raw() {
                return Err(Error::FileTooLarge);
            }
        }
        Ok(Swap {
            one: (ranges.0, END_OF_FILES),
            other: (ranges.1, END_OF_FILES),
            sizes: (
                new_size(offset, sizes.1 - other_offset)?,
                new_size(other_offset, sizes.0 - offset)?,
            ),
        })
    }

    /// Exchanges the extents in one record, if they are few; else nothing is changed.
    fn exchange_in_record(
        &self,
        locks: &mut LockSet<'_>,
        (one, other): (&Inode, &Inode),
        swap: Swap,
    ) -> Result<Completeness> {
        let mut update = Update::new(self);
        let mut maps = Maps::begin(self, locks, (one, other))?;
        let (from, is_all) = maps
            .source()
            .collect(&update, swap.one.0, swap.one.1, IN_RECORD)?;
        let (to, is_all_too) = maps
            .target()
            .collect(&update, swap.other.0, swap.other.1, IN_RECORD)?;
        if [is_all, is_all_too].contains(&Completeness::More) {
            maps.finish(locks, (one, other))?;
            return Ok(Completeness::More);
        }
        let from: Vec<Extent> = moved(&from, swap.one, swap.other.0).collect();
        let to: Vec<Extent> = moved(&to, swap.other, swap.one.0).collect();
        maps.source().splice(&mut update, swap.one.0, swap.one.1, &to)?;
        let delta = update.take_metadata_delta() + count(&to) - count(&from);
        maps.target()
            .splice(&mut update, swap.other.0, swap.other.1, &from)?;
        let other_delta = update.take_metadata_delta() + count(&from) - count(&to);
        let changed: &[(&Inode, i64, u64)] = if one.ino == other.ino {
            &[(one, delta + other_delta, swap.sizes.0)]
        } else {
            &[(one, delta, swap.sizes.0), (other, other_delta, swap.sizes.1)]
        };
        for (inode, delta, size) in changed {
            let mut line = Line::read(self, inode)?;
            line.add_blocks(*delta);
            line.set_size(*size);
            locks.state(inode)?.settle_times(&mut line);
            line.touch_modified(now());
            line.store(&mut update, inode);
        }
        maps.store(&mut update)?;
        update.commit()?;
        maps.finish(locks, (one, other))?;
        for (inode, ..) in changed {
            locks.state(inode)?.lazy = Default::default();
        }
        Ok(Completeness::All)
    }

    /// Both files with their extents exchanged.
    fn exchanged<'i>(
        &self,
        locks: &mut LockSet<'_>,
        (one, other): (&'i Inode, &'i Inode),
        swap: Swap,
    ) -> Result<Vec<Change<'i>>> {
        let from = self.all_extents(one, locks.state(one)?)?;
        if one.ino == other.ino {
            let rest = outside(&from, swap.one);
            let kept: Vec<Extent> = rest
                .flat_map(|part| outside(&[part], swap.other).collect::<Vec<_>>())
                .collect();
            let forth = moved(&from, swap.one, swap.other.0);
            let back = moved(&from, swap.other, swap.one.0);
            let extents = in_order(kept.into_iter().chain(forth).chain(back));
            let new_size = swap.sizes.0;
            return Ok(vec![Change {
                inode: one,
                old_blocks: total(&from),
                extents,
                new_size,
            }]);
        }
        let to = self.all_extents(other, locks.state(other)?)?;
        let of_one = outside(&from, swap.one).chain(moved(&to, swap.other, swap.one.0));
        let of_other = outside(&to, swap.other).chain(moved(&from, swap.one, swap.other.0));
        Ok(vec![
            Change {
                inode: one,
                old_blocks: total(&from),
                extents: in_order(of_one),
                new_size: swap.sizes.0,
            },
            Change {
                inode: other,
                old_blocks: total(&to),
                extents: in_order(of_other),
                new_size: swap.sizes.1,
            },
        ])
    }
}

/// The parts of `extents` that are not in a range.
fn outside(extents: &[Extent], (first, end): Blocks) -> impl Iterator<Item = Extent> {
    extents.iter().flat_map(move |extent| {
        let below = clip(extent, FileBlock(0), first);
        below.into_iter().chain(clip(extent, end, END_OF_FILES))
    })
}

/// `extents` in order, neighbours joined.
fn in_order(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    let mut sorted: Vec<Extent> = extents.collect();
    sorted.sort_unstable_by_key(|extent| extent.first);
    joined(sorted.into_iter()).into_vec()
}
