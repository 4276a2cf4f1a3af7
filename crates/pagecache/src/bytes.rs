//! The memory of a folio: [`Bytes`].
//!
//! Several threads, and devices, may read and store there at once, so nothing ever borrows the bytes but
//! [`Bytes::stable`] and [`Bytes::exclusive`]: copies go through raw pointers, by instructions or atomics that no
//! compiler reasons about.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::arena::Arena;
use crate::page::{MAX_ORDER, PAGE, in_memory};

/// Memory of a power of two of pages, aligned to its own size.
///
/// # Invariants
/// `tagged` is what the arena has given for the order, plus the order: [`Bytes::len`] bytes, aligned to as many, which
/// are initialised; only `drop` gives it back.
pub(crate) struct Bytes {
    /// Together, so that what a hit needs of a folio is on one line. A page is larger than any order.
    tagged: NonNull<u8>,
    arena: Arc<Arena>,
}

const _: () = assert!(1 << MAX_ORDER < PAGE, "the order fits below the address");

// SAFETY: the memory belongs to this value alone; all access is by copies that may run beside each other.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// Zeros for `1 << order` pages; none if there is no memory.
    pub(crate) fn zeroed(arena: &Arc<Arena>, order: u8) -> Option<Self> {
        let at = arena.take(order)?;
        let bytes = Self {
            tagged: at.map_addr(|addr| addr | usize::from(order)),
            arena: Arc::clone(arena),
        };
        bytes.zero(0..bytes.len());
        Some(bytes)
    }

    /// It has `1 << order` pages.
    #[inline]
    pub(crate) fn order(&self) -> u8 {
        let [order, ..] = self.tag().to_le_bytes();
        order
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        in_memory(PAGE) << self.tag()
    }

    #[inline]
    fn tag(&self) -> usize {
        self.tagged.addr().get() & (in_memory(PAGE) - 1)
    }

    /// The first byte.
    #[inline]
    fn at(&self) -> NonNull<u8> {
        let tag = self.tag();
        // SAFETY: the tag was added to what the arena gave.
        unsafe { self.tagged.sub(tag) }
    }

    /// Where `len` bytes from `at` on are: for devices. They stay there as long as this value.
    pub(crate) fn address_of(&self, at: usize, len: usize) -> NonNull<u8> {
        let _ = self.part(at, len);
        // SAFETY: at most the end of the allocation, as just checked.
        unsafe { self.at().add(at) }
    }

    fn part(&self, at: usize, len: usize) -> *mut u8 {
        assert!(
            at <= self.len() && len <= self.len() - at,
            "{len} bytes from {at} are beyond a folio of {}",
            self.len()
        );
        // SAFETY: at most the end of the allocation, as just checked.
        unsafe { self.at().as_ptr().add(at) }
    }

    /// Copies bytes from `at` on into `to`.
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        let from = self.part(at, to.len());
        // SAFETY: `from` has `to.len()` bytes, as `part` checks; `to` is borrowed alone, so they do not overlap.
        unsafe { raw::copy(to.as_mut_ptr(), from, to.len()) };
    }

    /// Copies `from` to `at`.
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        let to = self.part(at, from.len());
        // SAFETY: `to` has `from.len()` bytes, as `part` checks; nothing borrows them, so they do not overlap.
        unsafe { raw::copy(to, from.as_ptr(), from.len()) };
    }

    /// Copies `len` bytes of another one, from `from` of it on, to `at`.
    pub(crate) fn copy_from(&self, at: usize, other: &Self, from: usize, len: usize) {
        let to = self.part(at, len);
        let from = other.part(from, len);
        // SAFETY: both have `len` bytes, as `part` checks, and are allocations of their own: `other` is another value.
        unsafe { raw::copy(to, from, len) };
    }

    /// Zeros for a range.
    pub(crate) fn zero(&self, range: Range<usize>) {
        let to = self.part(range.start, range.len());
        // SAFETY: `to` has `range.len()` bytes, as `part` checks.
        unsafe { raw::zero(to, range.len()) };
    }

    /// The bytes themselves.
    ///
    /// # Safety
    /// Nobody stores to them while they are borrowed.
    pub(crate) unsafe fn stable(&self, range: Range<usize>) -> &[u8] {
        let from = self.part(range.start, range.len());
        // SAFETY: initialised bytes of the allocation, as `part` checks; not stored to, as the caller promises.
        unsafe { std::slice::from_raw_parts(from, range.len()) }
    }

    /// The bytes themselves, to be changed.
    ///
    /// # Safety
    /// Nobody else reads them or stores to them while they are borrowed.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises what a mutable borrow would prove"
    )]
    pub(crate) unsafe fn exclusive(&self, range: Range<usize>) -> &mut [u8] {
        let to = self.part(range.start, range.len());
        // SAFETY: initialised bytes of the allocation, as `part` checks; the caller's alone, as it promises.
        unsafe { std::slice::from_raw_parts_mut(to, range.len()) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.arena.give_back(self.at(), self.order());
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bytes")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(shuttle)))]
mod raw {
    //! String instructions: as fast as vectors from some hundred bytes on, and without a word about aliasing to the
    //! compiler.

    use std::arch::asm;

    /// Copies bytes that others may store to or read.
    ///
    /// # Safety
    /// `from` can be read and `to` stored to for `len` bytes; they do not overlap.
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller's. The direction flag is clear at every call, as the System V ABI says.
        unsafe {
            asm!(
                "rep movsb",
                inout("rdi") to => _,
                inout("rsi") from => _,
                inout("rcx") len => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Zeros bytes that others may store to or read.
    ///
    /// # Safety
    /// `to` can be stored to for `len` bytes.
    pub(super) unsafe fn zero(to: *mut u8, len: usize) {
        // SAFETY: the caller's; the direction flag is clear.
        unsafe {
            asm!(
                "rep stosb",
                inout("rdi") to => _,
                inout("rcx") len => _,
                in("al") 0_u8,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(any(not(target_arch = "x86_64"), loom, shuttle))]
mod raw {
    //! Byte by byte, volatile: for processors without string instructions, and for model checkers.

    /// As the other one.
    ///
    /// # Safety
    /// `from` can be read and `to` stored to for `len` bytes; they do not overlap.
    pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        for at in 0..len {
            // SAFETY: within the `len` bytes of the caller.
            let byte = unsafe { from.wrapping_add(at).read_volatile() };
            // SAFETY: within the `len` bytes of the caller.
            unsafe { to.wrapping_add(at).write_volatile(byte) };
        }
    }

    /// As the other one.
    ///
    /// # Safety
    /// `to` can be stored to for `len` bytes.
    pub(super) unsafe fn zero(to: *mut u8, len: usize) {
        for at in 0..len {
            // SAFETY: within the `len` bytes of the caller.
            unsafe { to.wrapping_add(at).write_volatile(0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_aligned_and_come_back_as_stored() {
        let arena = Arc::new(Arena::new(16));
        let bytes = Bytes::zeroed(&arena, 2).unwrap();
        assert_eq!(bytes.len(), 4 * 4096);
        assert!(bytes.address_of(0, 1).addr().get().is_multiple_of(bytes.len()));
        bytes.copy_in(4095, &[1, 2, 3]);
        bytes.zero(4096..4097);
        let mut out = [9; 5];
        bytes.copy_out(4094, &mut out);
        assert_eq!(out, [0, 1, 0, 3, 0]);
    }

    #[test]
    #[should_panic(expected = "beyond a folio")]
    fn what_is_beyond_the_end_is_refused() {
        let arena = Arc::new(Arena::new(16));
        Bytes::zeroed(&arena, 0).unwrap().zero(4090..4097);
    }
}
