//! Inodes: the objects that lock and cache them, and access to their fields in place.
//!
//! An inode's fields are read where they are, in the mapped pool; nothing is copied into memory. An [`Inode`] object
//! exists while somebody uses the inode: it holds the lock, the cached extents, what was taken ahead and the lazy
//! times.

pub(crate) mod attributes;
pub(crate) mod cache;
pub(crate) mod fields;
pub(crate) mod hold;
pub(crate) mod lifecycle;
pub(crate) mod table;

use std::sync::Arc;

use udax_dax::Mapping;
use udax_media::inode::FileKind;
use udax_media::node::{NodeIdentity, TreeKind};
use udax_media::{BlockRange, ByteOffset, InodeNo, Timestamp};
use udax_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use udax_sync::{OnceLock, Rank, ReadGuard, RwLock, WriteGuard};

use crate::cached::{CachePart, Way};
use crate::error::{Error, Result};
use crate::extents::ExtentCache;

/// An inode in use.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) ino: InodeNo,
    /// Where its 256 bytes are.
    pub(crate) at: ByteOffset,
    pub(crate) generation: u64,
    pub(crate) kind: FileKind,
    /// Open handles.
    opens: AtomicU32,
    /// Those who know its number, and want nobody else to get it.
    holds: AtomicU32,
    /// The last close has something to do: a window to give back, times to write, or an inode to free.
    close_work: AtomicBool,
    /// Pins for writing were given since its times were set: they may have been stored through.
    stored: AtomicBool,
    /// Its pages as they are pinned; since the first pin.
    pub(crate) mapping: OnceLock<Arc<Mapping>>,
    /// Whether it is read and written through the page cache. Changes with its lock held alone.
    is_cached: AtomicBool,
    /// Its pages in the cache; since the first read or write through it.
    pub(crate) cache_part: OnceLock<CachePart>,
    state: RwLock<InodeState>,
}

/// What of an inode is only in memory, under its lock.
#[derive(Debug, Default)]
pub(crate) struct InodeState {
    /// The inode was freed: nobody may use it any more.
    pub(crate) is_dead: bool,
    /// It was made without a name (`O_TMPFILE`) and may be given one.
    pub(crate) is_linkable: bool,
    pub(crate) extents: ExtentCache,
    /// Blocks taken ahead for the next append.
    pub(crate) window: Option<BlockRange>,
    /// Blocks have lost their sums to pins for writing: the last close gives them anew.
    pub(crate) is_unsummed: bool,
    /// Times that the next record, fsync or close writes.
    pub(crate) lazy: LazyTimes,
    /// Bytes of a cached file, if they are more than in the pool.
    pub(crate) pending_size: Option<u64>,
    /// Something was overwritten in place on the data device and is not known to be durable: how many flushes had
    /// failed before.
    pub(crate) overwritten: Option<u64>,
    /// It is being written back, and what is beneath the cache is neither as it was nor as it will be: the blocks that
    /// it will have then, and has not yet.
    pub(crate) lent: Option<u64>,
}

/// Times that are newer than those on media.
#[derive(Debug, Default)]
pub(crate) struct LazyTimes {
    /// The content was overwritten in place: modification and status change time.
    pub(crate) modified: Option<Timestamp>,
    /// The content was read then: who reads has the lock shared. Packed as [`pack`] does.
    accessed: AtomicU64,
    /// Changes of a cached file that its change counter on media does not count.
    pub(crate) changes: u64,
}

impl LazyTimes {
    pub(crate) fn is_empty(&self) -> bool {
        self.modified.is_none() && self.accessed().is_none()
    }

    /// When the content was read last, as far as it is not on media.
    #[inline]
    pub(crate) fn accessed(&self) -> Option<Timestamp> {
        unpack(self.accessed.load(Ordering::Relaxed))
    }

    /// The content is read now.
    pub(crate) fn note_accessed(&self, now: Timestamp) {
        self.accessed.store(pack(now), Ordering::Relaxed);
    }
}

/// Bits of a packed time that are nanoseconds.
const NANOSECOND_BITS: u32 = 30;

/// A time in one word that is not 0: from the first nanosecond after the epoch to the year 2514, else the nearest.
fn pack(time: Timestamp) -> u64 {
    let most = (1 << (u64::BITS - NANOSECOND_BITS)) - 1;
    let seconds = u64::try_from(time.seconds).unwrap_or(0).min(most);
    (seconds << NANOSECOND_BITS | u64::from(time.nanoseconds)).max(1)
}

/// What was packed; none of 0.
#[inline]
fn unpack(word: u64) -> Option<Timestamp> {
    let nanoseconds = word & ((1 << NANOSECOND_BITS) - 1);
    (word != 0).then(|| Timestamp {
        seconds: (word >> NANOSECOND_BITS).cast_signed(),
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    })
}

impl Inode {
    pub(crate) fn new((ino, at): (InodeNo, ByteOffset), generation: u64, kind: FileKind, way: Way) -> Self {
        Self {
            ino,
            at,
            generation,
            kind,
            opens: AtomicU32::new(0),
            holds: AtomicU32::new(0),
            close_work: AtomicBool::new(false),
            stored: AtomicBool::new(false),
            mapping: OnceLock::new(),
            is_cached: AtomicBool::new(way == Way::Cached),
            cache_part: OnceLock::new(),
            state: RwLock::with_order(Rank::Inode, ino.raw(), InodeState::default()),
        }
    }

    /// Shares the inode's lock.
    ///
    /// # Errors
    /// `Stale` when it was freed while we waited.
    #[inline]
    pub(crate) fn read(&self) -> Result<ReadGuard<'_, InodeState>> {
        let state = self.state.read();
        if state.is_dead {
            Err(Error::Stale(self.ino))
        } else {
            Ok(state)
        }
    }

    /// Takes the inode's lock alone.
    ///
    /// # Errors
    /// `Stale` when it was freed while we waited.
    #[inline]
    pub(crate) fn write(&self) -> Result<WriteGuard<'_, InodeState>> {
        let state = self.state.write();
        if state.is_dead {
            Err(Error::Stale(self.ino))
        } else {
            Ok(state)
        }
    }

    /// As [`Inode::write`] if nobody has the lock.
    pub(crate) fn try_write(&self) -> Option<WriteGuard<'_, InodeState>> {
        self.state.try_write().filter(|state| !state.is_dead)
    }

    /// As [`Inode::read`] if nobody has the lock alone.
    pub(crate) fn try_read(&self) -> Option<ReadGuard<'_, InodeState>> {
        self.state.try_read().filter(|state| !state.is_dead)
    }

    /// Whether a handle is open.
    pub(crate) fn is_open(&self) -> bool {
        // Opening happens under the inode's lock; for closing see `count_close`.
        self.opens.load(Ordering::SeqCst) > 0
    }

    /// One more handle; the caller has the inode's lock, or has just made the inode.
    pub(crate) fn count_open(&self) {
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// One handle less; whether it was the last one and has work to do.
    pub(crate) fn count_close(&self) -> bool {
        // Who notes work and then looks for handles, and who gives up a handle and then looks for work: one of the two
        // must see the other, which only a total order promises.
        self.opens.fetch_sub(1, Ordering::SeqCst) == 1 && self.close_work.load(Ordering::SeqCst)
    }

    /// One more who knows the number; the caller has the inode's lock, or has just made the inode.
    pub(crate) fn count_hold(&self) {
        // Relaxed, as below: only those with the lock look.
        self.holds.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether somebody knows the number; the caller has the inode's lock alone.
    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    /// One less who knows the number; whether the inode is dead and nobody knows it any more, so that its number can be
    /// used again.
    pub(crate) fn count_release(&self) -> bool {
        let state = self.state.read();
        // AcqRel: the last of several at once gives the number back after all of them.
        self.holds.fetch_sub(1, Ordering::AcqRel) == 1 && state.is_dead
    }

    /// The last close shall look after the window, the times and the links.
    pub(crate) fn note_close_work(&self) {
        if !self.close_work.load(Ordering::SeqCst) {
            self.close_work.store(true, Ordering::SeqCst);
        }
    }

    /// Stores through a pin may come. The caller has the inode's lock.
    pub(crate) fn note_stored(&self) {
        // Relaxed: who takes it away has the inode's lock alone.
        if !self.stored.load(Ordering::Relaxed) {
            self.stored.store(true, Ordering::Relaxed);
            self.note_close_work();
        }
    }

    /// Whether stores through pins may have come that no time tells of; it is up to the caller now. The caller has the
    /// inode's lock alone.
    pub(crate) fn take_stored(&self) -> bool {
        self.stored.load(Ordering::Relaxed) && self.stored.swap(false, Ordering::Relaxed)
    }

    /// Whether the last close has something to look after.
    pub(crate) fn has_close_work(&self) -> bool {
        self.close_work.load(Ordering::SeqCst)
    }

    /// The last close has looked.
    pub(crate) fn clear_close_work(&self) {
        self.close_work.store(false, Ordering::SeqCst);
    }

    /// Whether it is read and written through the page cache. The caller has its lock, or looks again with it.
    #[inline]
    pub(crate) fn is_cached(&self) -> bool {
        // Relaxed: whoever acts on it has the lock.
        self.is_cached.load(Ordering::Relaxed)
    }

    /// From now on it is reached so. The caller has its lock alone, and nobody reaches its pages.
    pub(crate) fn set_way(&self, way: Way) {
        self.is_cached.store(way == Way::Cached, Ordering::Relaxed);
    }

    /// Whose nodes this inode's trees have.
    pub(crate) fn tree_identity(&self, kind: TreeKind) -> NodeIdentity {
        NodeIdentity {
            kind,
            owner: self.ino.raw(),
            generation: self.generation,
        }
    }

    /// Where field `offset` of the inode is.
    #[inline]
    pub(crate) const fn field(&self, offset: u64) -> ByteOffset {
        ByteOffset(self.at.raw() + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_time_is_the_time_or_the_nearest_that_can_be() {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        let most = (1 << 34) - 1;
        for (at, packed) in [
            (time(0, 1), time(0, 1)),
            (time(0, 0), time(0, 1)),
            (time(-5, 7), time(0, 7)),
            (time(1_795_000_000, 999_999_999), time(1_795_000_000, 999_999_999)),
            (time(most, 5), time(most, 5)),
            (time(i64::MAX, 5), time(most, 5)),
        ] {
            assert_eq!(unpack(pack(at)), Some(packed));
        }
        assert_eq!(unpack(0), None);
    }
}
