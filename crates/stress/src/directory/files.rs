//! The files of a contest on a directory: mapped, with what each block must hold.
//!
//! Lock: a slot's `current` is a leaf, held to clone an `Arc`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use udax_sync::{Mutex, Rank, thread};

use super::dma::Mapped;
use crate::expected::{Cell, Seen};
use crate::history::Ring;
use crate::stamp::{BLOCK_LEN, Owner};

/// Blocks of a file at most.
pub(crate) const ROOM: u64 = 64;

/// A file, from when it is made until nobody uses it.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) slot: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) mapped: Arc<Mapped>,
    pub(crate) cells: Box<[Cell]>,
    /// Bytes; the steward's knowledge.
    pub(crate) size: AtomicU64,
    has_steward: AtomicBool,
    pub(crate) is_removed: AtomicBool,
    /// Engines that ask the kernel for its pages at this moment.
    starting: AtomicU64,
    pub(crate) ring: Ring<128>,
}

/// An engine asks the kernel for pages of a file as long as it lives.
pub(crate) struct Starting<'f>(&'f AtomicU64);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        // Pairs with the Acquire in `MappedFile::begin_change`.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl MappedFile {
    pub(crate) fn create(path: PathBuf, slot: &Slot) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let mapped = Mapped::new(&file, usize::try_from(ROOM * BLOCK_LEN).unwrap_or(0))?;
        let epoch = slot.next_epoch();
        let cell = |block| Cell::new(Owner::new(slot.number, epoch, block));
        Ok(Self {
            slot: slot.number,
            path,
            file,
            mapped: Arc::new(mapped),
            cells: (0..ROOM).map(cell).collect(),
            size: AtomicU64::new(0),
            has_steward: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            starting: AtomicU64::new(0),
            ring: Ring::new(),
        })
    }

    pub(crate) fn cell(&self, block: u64) -> Option<&Cell> {
        self.cells.get(usize::try_from(block).ok()?)
    }

    pub(crate) fn seen(&self, first: u64, end: u64) -> Vec<Seen> {
        (first..end)
            .filter_map(|block| self.cell(block))
            .map(Cell::load)
            .collect()
    }

    /// By an engine, before it looks at cells: marks that are made from now on wait for it.
    pub(crate) fn start(&self) -> Starting<'_> {
        self.starting.fetch_add(1, Ordering::SeqCst);
        // Pairs with that in `MappedFile::begin_change`.
        fence(Ordering::SeqCst);
        Starting(&self.starting)
    }

    /// By the steward, before these blocks change hands.
    pub(crate) fn begin_change(&self, first: u64, end: u64) {
        (first..end)
            .filter_map(|block| self.cell(block))
            .for_each(Cell::begin_change);
        fence(Ordering::SeqCst);
        // An engine is there for one system call.
        while self.starting.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }

    pub(crate) fn try_steward(&self) -> bool {
        !self.is_removed.load(Ordering::Relaxed) && !self.has_steward.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_stewardship(&self) {
        self.has_steward.store(false, Ordering::Release);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// What happened last, to a block or to all.
    pub(crate) fn history(&self, block: Option<u64>) -> Vec<String> {
        let events = self.ring.events().into_iter();
        let events = events.filter(|event| block.is_none_or(|block| event.concerns(block)));
        events.map(|event| event.to_string()).collect()
    }
}

/// A place that always has a file.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: u64,
    epochs: AtomicU64,
    current: Mutex<Option<Arc<MappedFile>>>,
}

impl Slot {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            epochs: AtomicU64::new(0),
            current: Mutex::new(Rank::Leaf, None),
        }
    }

    pub(crate) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn current(&self) -> Option<Arc<MappedFile>> {
        self.current.lock().clone()
    }

    pub(crate) fn replace(&self, file: Option<Arc<MappedFile>>) -> Option<Arc<MappedFile>> {
        std::mem::replace(&mut *self.current.lock(), file)
    }
}

/// Whether files that are made there are DAX. A directory itself is never: a file must be made.
///
/// # Errors
/// What making a file gives.
pub(crate) fn is_dax(directory: &Path) -> std::io::Result<bool> {
    let probe = directory.join("probe");
    let file = File::create_new(&probe)?;
    std::fs::remove_file(&probe)?;
    let found = rustix::fs::statx(
        &file,
        "",
        rustix::fs::AtFlags::EMPTY_PATH,
        rustix::fs::StatxFlags::BASIC_STATS,
    )?;
    Ok(found.stx_attributes.contains(rustix::fs::StatxAttributes::DAX))
}
