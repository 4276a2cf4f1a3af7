//! What this crate asks of a filesystem: [`Backing`], [`Owner`], [`FreeFolio`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::refusal::{self, Resource};

use crate::folio::Folio;
use crate::{CacheError, Control, Mapping, ReadRun, WriteRun, Written};

/// Why the filesystem could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct BackingError {
    errno: Errno,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl BackingError {
    /// The filesystem's own error, and its errno.
    pub fn new(errno: Errno, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            errno,
            source: source.into(),
        }
    }

    /// The errno.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The filesystem's own error.
    pub fn into_source(self) -> Box<dyn std::error::Error + Send + Sync> {
        self.source
    }
}

/// One file's bytes beneath the cache, lent for one call with the locks that the caller holds.
///
/// # Locks
/// Called with folios locked (for reads and reservations) or under way (for writes); it takes locks of higher rank than
/// `Entry` only, and must not call the mapping.
pub trait Backing {
    /// Bytes of the file as it is now, written back or not.
    fn size(&self) -> u64;

    /// Brings the run's bytes: fills its pieces and completes it, now or later. Bytes that the file does not have are
    /// zeros.
    ///
    /// # Errors
    /// The run is dropped, which leaves its pages not uptodate. Of a failed run of several pages, those that somebody
    /// waits for are asked for again one by one.
    fn read(&mut self, run: ReadRun) -> Result<(), BackingError>;

    /// Reserves what writing back these pages will need: all of them, or none. Pages that need nothing are not told to
    /// `reserving`.
    ///
    /// # Errors
    /// Most of all, no space.
    fn reserve(&mut self, pages: Range<u64>, reserving: &mut Reserving<'_>) -> Result<(), BackingError>;

    /// Takes the run's bytes to the medium and completes it: now, or at the latest in [`Backing::finish`].
    ///
    /// # Errors
    /// The run is completed with the error, or dropped, which says EIO. Its pages are dirty again. With `ENOMEM`, a
    /// full pass comes with them again.
    fn write(&mut self, run: WriteRun) -> Result<(), BackingError>;

    /// Completes all runs that `write` has kept. Called at the end of each pass.
    ///
    /// # Errors
    /// The first; each run is completed with its own.
    fn finish(&mut self) -> Result<(), BackingError> {
        Ok(())
    }
}

/// Which pages a reservation was taken for.
#[derive(Debug)]
pub struct Reserving<'f> {
    folio: &'f Folio,
}

impl<'f> Reserving<'f> {
    pub(crate) fn new(folio: &'f Folio) -> Self {
        Self { folio }
    }

    /// One block was reserved for each of these pages: it is given back to [`Reservations`] once, when the page is
    /// written or goes.
    pub fn took(&mut self, pages: Range<u64>) {
        self.folio.keep_reserved(&pages);
    }
}

/// Blocks that dirty pages will need, taken from those that are free. Plain counting: nothing here can wait.
#[derive(Debug)]
pub struct Reservations {
    /// Blocks that may be taken still, by whoever shares the count.
    free: Arc<AtomicU64>,
    // Who keeps something for each of them shares it.
    blocks: Arc<AtomicU64>,
}

impl Default for Reservations {
    /// Of more than anybody needs: for a backing whose space has no end.
    fn default() -> Self {
        Self::new(Arc::new(AtomicU64::new(u64::MAX / 2)))
    }
}

impl Reservations {
    /// Reservations of what `free` counts: the filesystem takes its blocks from the same count.
    pub fn new(free: Arc<AtomicU64>) -> Self {
        Self {
            free,
            blocks: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Takes `blocks`, if `kept` are free still then; whether it did.
    pub fn take(&self, blocks: u64, kept: u64) -> bool {
        if refusal::is_refused(Resource::Blocks) {
            return false;
        }
        // First: who keeps something for what is taken must not give it away in between.
        self.blocks.fetch_add(blocks, Ordering::AcqRel);
        let left = |free: u64| free.checked_sub(blocks).filter(|left| *left >= kept);
        let is_taken = self
            .free
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, left)
            .is_ok();
        if !is_taken {
            self.uncount(blocks);
        }
        is_taken
    }

    /// Gives `blocks` back.
    pub fn give_back(&self, blocks: u64) {
        self.uncount(blocks);
        self.free.fetch_add(blocks, Ordering::AcqRel);
    }

    /// Forgets `blocks` whose reservation somebody has used.
    pub(crate) fn uncount(&self, blocks: u64) {
        let before = self.blocks.fetch_sub(blocks, Ordering::AcqRel);
        debug_assert!(
            before >= blocks,
            "{blocks} of {before} reserved blocks are given back"
        );
    }

    /// Blocks that are taken.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// The count of blocks that are taken, for who keeps something for them.
    pub fn count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.blocks)
    }
}

/// A folio that has left its mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Freed {
    /// The number of the file that it belonged to.
    pub number: u64,
    /// Its first page.
    pub first: u64,
    /// It had `1 << order` pages.
    pub order: u8,
    /// Reservations of its dirty pages, which nobody will need any more.
    pub reserved: u64,
}

/// Told of each folio that has left its mapping: once, after its removal, with the folio locked and no lock of this
/// crate above folios held, no index nor queue. Who takes folios out may have an invalidate lock, and who makes room
/// for a folio another folio. The kernel's `free_folio`.
///
/// It is a plain function with numbers for arguments: it has no mapping to use by mistake, and nothing that it could
/// wait for.
pub type FreeFolio = fn(Freed, &Reservations);

/// Gives back the reservations of the folio: what a filesystem without a need of its own uses.
pub(crate) fn give_back_reservations(freed: Freed, reservations: &Reservations) {
    reservations.give_back(freed.reserved);
}

/// A file as the flusher threads know it.
pub trait Owner: Send + Sync {
    /// The file's mapping.
    fn mapping(&self) -> &Arc<Mapping>;

    /// Writes back, with the locks that the file needs, by [`crate::Mapping::write_back`].
    ///
    /// # Errors
    /// The first of the pass.
    fn write_back(&self, control: Control) -> Result<Written, CacheError>;
}

impl fmt::Debug for dyn Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

/// Whether bytes may change while they are written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stability {
    /// No: who stores to them waits, and the backing can borrow them.
    Stable,
    /// Yes: the page is dirty again, and the backing copies.
    Loose,
}
