//! Inodes: the objects that lock and cache them, and access to their fields in place.
//!
//! An inode's fields are read where they are, in the mapped pool; nothing is copied into memory. An [`Inode`] object
//! exists while somebody uses the inode: it holds the lock, the cached extents, what was taken ahead and the lazy
//! times.

pub(crate) mod attributes;
pub(crate) mod cache;
pub(crate) mod fields;
pub(crate) mod lifecycle;
pub(crate) mod table;

use std::sync::Arc;

use udax_dax::Mapping;
use udax_media::inode::FileKind;
use udax_media::node::{NodeIdentity, TreeKind};
use udax_media::{BlockRange, ByteOffset, InodeNo, Timestamp};
use udax_sync::atomic::{AtomicBool, AtomicU32, Ordering};
use udax_sync::{OnceLock, Rank, ReadGuard, RwLock, WriteGuard};

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
    /// The last close has something to do: a window to give back, times to write, or an inode to free.
    close_work: AtomicBool,
    /// Pins for writing were given since its times were set: they may have been stored through.
    stored: AtomicBool,
    /// Its pages as they are pinned; since the first pin.
    pub(crate) mapping: OnceLock<Arc<Mapping>>,
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
    /// Times that the next record, fsync or close writes.
    pub(crate) lazy: LazyTimes,
}

/// Times that are newer than those on media.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LazyTimes {
    /// The content was overwritten in place: modification and status change time.
    pub(crate) modified: Option<Timestamp>,
    /// The content was read.
    pub(crate) accessed: Option<Timestamp>,
}

impl LazyTimes {
    pub(crate) fn is_empty(&self) -> bool {
        self.modified.is_none() && self.accessed.is_none()
    }
}

impl Inode {
    pub(crate) fn new(ino: InodeNo, at: ByteOffset, generation: u64, kind: FileKind) -> Self {
        Self {
            ino,
            at,
            generation,
            kind,
            opens: AtomicU32::new(0),
            close_work: AtomicBool::new(false),
            stored: AtomicBool::new(false),
            mapping: OnceLock::new(),
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

    /// The last close has looked.
    pub(crate) fn clear_close_work(&self) {
        self.close_work.store(false, Ordering::SeqCst);
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
