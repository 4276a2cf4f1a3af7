//! The memory of a slab: [`Slab`].

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::page::{MAX_ORDER, PAGE, in_memory};

/// Bytes of a slab: those of one of the processor's huge pages.
pub(crate) const SLAB: usize = 4096 << MAX_ORDER;

/// Memory of its own mapping, aligned to its size.
///
/// # Invariants
/// `at` is a mapping of [`SLAB`] bytes that can be read and stored to, aligned to as many; only `drop` unmaps it.
#[derive(Debug)]
pub(crate) struct Slab {
    at: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value, and can be reached by any thread.
unsafe impl Send for Slab {}

impl Slab {
    /// Zeros; none if there is no memory.
    pub(crate) fn new(is_huge: bool) -> Option<Self> {
        let mut at = map(SLAB)?;
        if !at.addr().get().is_multiple_of(SLAB) {
            // Once aligned, the next one mostly is so too, and the kernel makes one mapping of both.
            unmap(at, SLAB);
            at = map_aligned()?;
        }
        if is_huge {
            // One fault where there would be 512, and fewer misses of page tables. A kernel without gives small ones.
            // SAFETY: the range is ours, and what is in it stays.
            let _ = unsafe { madvise(at.cast(), SLAB, MmapAdvise::MADV_HUGEPAGE) };
        }
        Some(Self { at })
    }

    /// Where a page is. It stays there as long as this value.
    pub(crate) fn page(&self, page: u64) -> NonNull<u8> {
        let offset = in_memory(page * PAGE);
        assert!(offset < SLAB, "page {page} of a slab");
        // SAFETY: within the mapping, as just checked.
        unsafe { self.at.add(offset) }
    }

    pub(crate) fn address(&self) -> usize {
        self.at.addr().get()
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        unmap(self.at, SLAB);
    }
}

/// Keeps the kernel from making a huge page of a slab again, of which some pages are given back: it would have memory
/// for them, too (khugepaged).
///
/// # Safety
/// It is a slab's first page, and the slab stays.
pub(crate) unsafe fn keep_small(at: NonNull<u8>) {
    // SAFETY: mapped, as the caller says, and what is in it stays. A kernel without huge pages refuses.
    let _ = unsafe { madvise(at.cast(), SLAB, MmapAdvise::MADV_NOHUGEPAGE) };
}

/// Gives the memory of pages from `at` on back to the kernel; they are zeros then.
///
/// # Safety
/// They are of a slab that stays, and nobody else reaches them.
pub(crate) unsafe fn discard(at: NonNull<u8>, pages: &Range<u64>) {
    let len = in_memory((pages.end - pages.start) * PAGE);
    // SAFETY: mapped, and nobody's, as the caller says.
    let discarded = unsafe { madvise(at.cast(), len, MmapAdvise::MADV_DONTNEED) };
    debug_assert_eq!(discarded, Ok(()));
}

fn map(len: usize) -> Option<NonNull<u8>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::new(len)?;
    // SAFETY: a new mapping at a place of the kernel's choice.
    let at = unsafe { mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) };
    at.ok().map(NonNull::cast)
}

/// A slab cut out of twice as much.
fn map_aligned() -> Option<NonNull<u8>> {
    let whole = map(2 * SLAB)?;
    let before = whole.addr().get().next_multiple_of(SLAB) - whole.addr().get();
    // SAFETY: at most one slab into the mapping of two.
    let at = unsafe { whole.add(before) };
    // SAFETY: at most the end of the mapping.
    let behind = unsafe { at.add(SLAB) };
    unmap(whole, before);
    unmap(behind, SLAB - before);
    Some(at)
}

/// Of a mapping of ours that nobody uses.
fn unmap(at: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: ours, as the caller says.
        let unmapped = unsafe { munmap(at.cast(), len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
