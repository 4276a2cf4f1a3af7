//! The extents of two files while one update changes both.

use udax_media::extent::Extent;

use crate::error::Result;
use crate::extents::{ExtentMap, total};
use crate::inode::Inode;
use crate::namespace::locks::LockSet;
use crate::pool::Pool;
use crate::update::Update;

/// The extents of source and target, which may be one file.
pub(super) enum Maps<'i> {
    One(ExtentMap<'i>),
    Two(ExtentMap<'i>, ExtentMap<'i>),
}

impl<'i> Maps<'i> {
    /// Takes the extents out of both states.
    ///
    /// # Errors
    /// A damaged inode or tree.
    pub(super) fn begin(
        pool: &Pool,
        locks: &mut LockSet<'_>,
        (source, target): (&'i Inode, &'i Inode),
    ) -> Result<Self> {
        let map = ExtentMap::begin(pool, source, locks.state(source)?)?;
        if source.ino == target.ino {
            return Ok(Self::One(map));
        }
        let other = ExtentMap::begin(pool, target, locks.state(target)?)?;
        Ok(Self::Two(map, other))
    }

    pub(super) fn source(&mut self) -> &mut ExtentMap<'i> {
        let (Self::One(map) | Self::Two(map, _)) = self;
        map
    }

    pub(super) fn target(&mut self) -> &mut ExtentMap<'i> {
        let (Self::One(map) | Self::Two(_, map)) = self;
        map
    }

    /// Adds to `update` what has changed in both inodes.
    pub(super) fn store(&self, update: &mut Update<'_>) -> Result<()> {
        match self {
            Self::One(map) => map.store(update),
            Self::Two(map, other) => {
                map.store(update)?;
                other.store(update)
            }
        }
    }

    /// Puts the extents back: the update has committed, or nothing was changed.
    pub(super) fn finish(self, locks: &mut LockSet<'_>, (source, target): (&Inode, &Inode)) -> Result<()> {
        match self {
            Self::One(map) => map.finish(locks.state(source)?),
            Self::Two(map, other) => {
                map.finish(locks.state(source)?);
                other.finish(locks.state(target)?);
            }
        }
        Ok(())
    }
}

/// Blocks in all of `extents`, to be added or taken away.
pub(super) fn count(extents: &[Extent]) -> i64 {
    i64::try_from(total(extents)).unwrap_or(i64::MAX)
}
