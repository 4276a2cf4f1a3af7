//! Loads and stores of processors for which there is no assembly here: little-endian, not recoverable.

use udax_sync::atomic::{AtomicU64, Ordering, fence};

use nix::errno::Errno;

use super::{CopyFn, Fault, FlushFn, Outcome, StreamFn};

#[cfg(target_endian = "big")]
compile_error!("udax-pmem needs a little-endian processor");

/// Whether lines can be written back by instructions: regions of files then fence by msync.
pub(crate) const CAN_FLUSH: bool = false;

/// There is no handler: a SIGBUS kills the process.
pub(crate) fn install() -> Result<(), Errno> {
    Ok(())
}

/// Loads an aligned word, atomically (relaxed).
///
/// # Safety
/// `from` is aligned and mapped.
pub(crate) unsafe fn load(from: *const u64) -> Result<u64, Fault> {
    // SAFETY: the caller's; all accesses of mapped words are atomic.
    let word = unsafe { AtomicU64::from_ptr(from.cast_mut()) };
    Ok(word.load(Ordering::Relaxed))
}

/// Stores an aligned word, atomically (relaxed).
///
/// # Safety
/// `to` is aligned and mapped for writing.
pub(crate) unsafe fn store(to: *mut u64, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller's; all accesses of mapped words are atomic.
    let word = unsafe { AtomicU64::from_ptr(to) };
    word.store(value, Ordering::Relaxed);
    Ok(())
}

/// Puts `new` where `current` is, atomically; gives the word that was there.
///
/// # Safety
/// `at` is aligned and mapped for writing.
pub(crate) unsafe fn compare_exchange(at: *mut u64, current: u64, new: u64) -> Result<u64, Fault> {
    // SAFETY: the caller's; all accesses of mapped words are atomic.
    let word = unsafe { AtomicU64::from_ptr(at) };
    Ok(word
        .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
        .unwrap_or_else(|before| before))
}

/// Orders this thread's stores.
pub(crate) fn drain() {
    fence(Ordering::SeqCst);
}

/// [`CopyFn`] by aligned 8-byte accesses of `to`, its ragged ends by bytes. Where both sides are aligned, so are those
/// of `from`.
///
/// # Safety
/// As [`CopyFn`].
pub(crate) unsafe extern "C" fn store_words(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    let mut done = 0;
    while done < len {
        let (to, from) = (to.wrapping_add(done), from.wrapping_add(done));
        if len - done >= 8 && to.addr().is_multiple_of(8) {
            let word = if from.addr().is_multiple_of(8) {
                // SAFETY: 8 bytes are left and the place is aligned.
                unsafe { from.cast::<u64>().read_volatile() }
            } else {
                // SAFETY: 8 bytes are left.
                unsafe { from.cast::<u64>().read_unaligned() }
            };
            // SAFETY: 8 bytes are left and the place is aligned.
            unsafe { to.cast::<u64>().write_volatile(word) };
            done += 8;
        } else {
            // SAFETY: at least one byte is left.
            let byte = unsafe { from.read_volatile() };
            // SAFETY: at least one byte is left.
            unsafe { to.write_volatile(byte) };
            done += 1;
        }
    }
    Outcome::DONE
}

/// Does nothing: fences msync.
///
/// # Safety
/// None.
unsafe extern "C" fn flush_nothing(_at: *const u8, _lines: usize) -> Outcome {
    Outcome::DONE
}

/// The copy.
pub(crate) fn select_copy() -> CopyFn {
    store_words
}

/// The copy: there are no stores past the cache.
pub(crate) fn select_stream() -> StreamFn {
    store_words
}

/// The flush.
pub(crate) fn select_flush() -> FlushFn {
    flush_nothing
}
