//! libpmem's flushes, drains and copies, and what only it can do.
//!
//! libpmem does not expect SIGBUS. So each page is touched, recoverably, before libpmem is called on it. Copies out
//! of mapped memory, which are where poison is met, stay our own.

use std::ffi::{c_int, c_uint, c_void};

use crate::access::{self, Outcome};

const PMEM_F_MEM_NODRAIN: c_uint = 1 << 0;
const PMEM_F_MEM_NONTEMPORAL: c_uint = 1 << 1;

const PAGE: usize = 4096;
const LINE: usize = 64;

#[link(name = "pmem")]
unsafe extern "C" {
    fn pmem_flush(addr: *const c_void, len: usize);
    fn pmem_drain();
    fn pmem_memcpy(to: *mut c_void, from: *const c_void, len: usize, flags: c_uint) -> *mut c_void;
    fn pmem_is_pmem(addr: *const c_void, len: usize) -> c_int;
    fn pmem_has_auto_flush() -> c_int;
}

/// The first part of the range, up to where a page cannot be accessed.
fn touch(at: *const u8, len: usize) -> Outcome {
    let mut done = 0;
    while done < len {
        let place = at.wrapping_add(done);
        let word = place.wrapping_sub(place.addr() % 8).cast::<u64>();
        // SAFETY: an aligned word of the page of a byte of the range, which the caller knows to be mapped.
        if unsafe { access::load(word) }.is_err() {
            return Outcome {
                left: len - done,
                fault: place.addr(),
            };
        }
        done += PAGE - place.addr() % PAGE;
    }
    Outcome::DONE
}

/// [`access::StreamFn`] by libpmem.
///
/// # Safety
/// As [`access::StreamFn`].
pub(crate) unsafe extern "C" fn stream(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    let outcome = touch(to, len);
    let flags = PMEM_F_MEM_NODRAIN | PMEM_F_MEM_NONTEMPORAL;
    // SAFETY: the caller's, for the bytes whose pages have just been touched.
    unsafe { pmem_memcpy(to.cast(), from.cast(), len - outcome.left, flags) };
    outcome
}

/// [`access::FlushFn`] by libpmem.
///
/// # Safety
/// As [`access::FlushFn`].
pub(crate) unsafe extern "C" fn flush(at: *const u8, lines: usize) -> Outcome {
    let outcome = touch(at, lines * LINE);
    // SAFETY: the caller's, for the bytes whose pages have just been touched.
    unsafe { pmem_flush(at.cast(), lines * LINE - outcome.left) };
    Outcome {
        left: outcome.left / LINE,
        ..outcome
    }
}

/// Waits for flushes and copies.
pub(crate) fn drain() {
    // SAFETY: it takes nothing.
    unsafe { pmem_drain() }
}

/// Whether libpmem takes the range for persistent memory.
pub(crate) fn is_pmem(at: *const u8, len: usize) -> bool {
    // SAFETY: libpmem looks the addresses up; it does not access them.
    unsafe { pmem_is_pmem(at.cast(), len) == 1 }
}

/// Whether all of this machine's persistent memory has its caches in the power-fail domain; `None` if unknown.
pub(crate) fn has_auto_flush() -> Option<bool> {
    // SAFETY: it takes nothing.
    match unsafe { pmem_has_auto_flush() } {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
