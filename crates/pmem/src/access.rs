//! All loads and stores of mapped memory, made so that a SIGBUS is an answer and not the end.
//!
//! On x86-64 they are assembly whose instructions are listed in a table (`x86_64`, `fixup`). Elsewhere (`portable`)
//! they are plain volatile or atomic accesses: correct, but a SIGBUS kills the process, and lines cannot be flushed,
//! so that regions of files fence by msync.

#[cfg(target_arch = "x86_64")]
mod fixup;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use fixup::install;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    CAN_FLUSH, compare_exchange, drain, load, select_copy, select_flush, select_stream, store, store_words,
};

#[cfg(not(target_arch = "x86_64"))]
mod portable;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use portable::{
    CAN_FLUSH, compare_exchange, drain, install, load, select_copy, select_flush, select_stream, store,
    store_words,
};

/// How far a copy or a flush came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Outcome {
    /// Bytes (of a flush: lines) not done, counted from the end.
    pub(crate) left: usize,
    /// The address that could not be accessed, where `left` is not zero.
    pub(crate) fault: usize,
}

impl Outcome {
    /// All done.
    pub(crate) const DONE: Self = Self { left: 0, fault: 0 };
}

/// Copies as a [`CopyFn`], so that each aligned word of `to` changes at once: words that are covered in part as well,
/// whose other bytes stay what anybody makes them meanwhile.
///
/// # Safety
/// As [`CopyFn`]; the words that `to` begins and ends in are mapped wholly.
#[inline(always)]
pub(crate) unsafe fn store_at_once(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    if (to.addr() | len).is_multiple_of(WORD) {
        // SAFETY: the caller's.
        return unsafe { store_words(to, from, len) };
    }
    // SAFETY: the caller's.
    unsafe { store_ragged(to, from, len) }
}

const WORD: usize = size_of::<u64>();

/// As [`store_at_once`].
///
/// # Safety
/// The same.
unsafe fn store_ragged(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    let head = (to.addr().next_multiple_of(WORD) - to.addr()).min(len);
    let body = (len - head) / WORD * WORD;
    let mut done = 0;
    for (part, is_whole) in [(head, false), (body, true), (len - head - body, false)] {
        let (to, from) = (to.wrapping_add(done), from.wrapping_add(done));
        let outcome = match is_whole {
            // SAFETY: a part of what the caller has.
            true => unsafe { store_words(to, from, part) },
            // SAFETY: a part of what the caller has, within one word.
            false => unsafe { store_part(to, from, part) },
        };
        if outcome.left != 0 {
            return Outcome {
                left: len - done - part + outcome.left,
                ..outcome
            };
        }
        done += part;
    }
    Outcome::DONE
}

/// As [`store_at_once`], within one word.
///
/// # Safety
/// The same.
unsafe fn store_part(to: *mut u8, from: *const u8, len: usize) -> Outcome {
    let skipped = to.addr() % WORD;
    let (mut bytes, mut mask) = ([0; WORD], [0; WORD]);
    // The caller's bytes may not be there.
    // SAFETY: the caller's; the array has that many bytes from there on, as they are within a word.
    let mut outcome = unsafe { store_words(bytes.as_mut_ptr().wrapping_add(skipped), from, len) };
    let good = len - outcome.left;
    if good == 0 {
        return outcome;
    }
    mask[skipped..skipped + good].fill(u8::MAX);
    let (bytes, mask) = (u64::from_ne_bytes(bytes), u64::from_ne_bytes(mask));
    let word = to.wrapping_sub(skipped).cast::<u64>();
    // SAFETY: aligned, and mapped as the caller says.
    let mut found = unsafe { load(word) };
    while let Ok(before) = found {
        // SAFETY: aligned, and mapped as the caller says.
        found = unsafe { compare_exchange(word, before, before & !mask | bytes & mask) };
        if found == Ok(before) {
            return outcome;
        }
    }
    outcome.left = len;
    outcome.fault = to.addr();
    outcome
}

/// A word could not be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault;

/// Copies `len` bytes from the second to the first address.
///
/// # Safety
/// Both ranges are mapped for it (a page whose access raises SIGBUS counts as mapped) and do not overlap; no Rust
/// reference to one of their bytes is broken by it.
pub(crate) type CopyFn = unsafe extern "C" fn(*mut u8, *const u8, usize) -> Outcome;

/// As [`CopyFn`], past the cache: the destination and the length are multiples of 64.
pub(crate) type StreamFn = CopyFn;

/// Writes back so many lines from the address on, which is a multiple of 64.
///
/// # Safety
/// The range is mapped.
pub(crate) type FlushFn = unsafe extern "C" fn(*const u8, usize) -> Outcome;
