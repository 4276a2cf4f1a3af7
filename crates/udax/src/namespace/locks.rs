//! Several inodes locked at once, in ascending order of their numbers.

use smallvec::SmallVec;
use udax_media::InodeNo;
use udax_sync::WriteGuard;

use crate::error::{Error, Result};
use crate::inode::{Inode, InodeState};

/// The locks of several inodes, held alone.
#[derive(Debug)]
pub(crate) struct LockSet<'i> {
    guards: SmallVec<[(InodeNo, WriteGuard<'i, InodeState>); 4]>,
}

impl<'i> LockSet<'i> {
    /// Locks `inodes`, each once however often it is named.
    ///
    /// # Errors
    /// `Stale` when one of them was freed while we waited.
    pub(crate) fn lock(inodes: impl IntoIterator<Item = &'i Inode>) -> Result<Self> {
        let mut sorted: SmallVec<[&Inode; 4]> = inodes.into_iter().collect();
        sorted.sort_unstable_by_key(|inode| inode.ino);
        sorted.dedup_by_key(|inode| inode.ino);
        let mut guards = SmallVec::new();
        for inode in sorted {
            guards.push((inode.ino, inode.write()?));
        }
        Ok(Self { guards })
    }

    /// The state of `inode`, which is one of those locked.
    ///
    /// # Errors
    /// `Stale` when it is not: a caller's mistake that must not become a panic.
    pub(crate) fn state(&mut self, inode: &Inode) -> Result<&mut InodeState> {
        self.guards
            .iter_mut()
            .find(|(ino, _)| *ino == inode.ino)
            .map(|(_, guard)| &mut **guard)
            .ok_or(Error::Stale(inode.ino))
    }
}
