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

#[cfg(any(feature = "libpmem", not(target_arch = "x86_64")))]
impl Outcome {
    /// All done.
    pub(crate) const DONE: Self = Self { left: 0, fault: 0 };
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
