//! Allocations of memory that a test can count, and of which one can fail.
//!
//! A test binary declares [`CountedAllocator`] as its global allocator and plans for its own thread. Std ends the
//! process whose allocation fails, unless the caller has asked for an error: so a test does that to another process, or
//! shows that nothing is allocated. Only with the feature `counted-allocations`, for tests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Which allocation fails, if any, and how many there were since it was planned.
    static PLAN: Cell<(Option<u64>, u64)> = const { Cell::new((None, 0)) };
}

/// Plans for this thread: of the allocations from now on the one with this number, from 1 on, fails. Gives how many
/// there were since the last plan.
pub fn plan(failing: Option<u64>) -> u64 {
    PLAN.replace((failing, 0)).1
}

/// Counts one; whether it fails.
fn fails() -> bool {
    // A thread that is ending has no plan any more.
    let counted = PLAN.try_with(|plan| {
        let (failing, before) = plan.get();
        plan.set((failing, before + 1));
        failing == Some(before + 1)
    });
    counted.unwrap_or(false)
}

/// The system's allocator, with the plans of its callers' threads.
#[derive(Debug)]
pub struct CountedAllocator;

// SAFETY: all memory is System's, which gets each call with the arguments of the caller. A null pointer is an answer
// that callers must expect. Planning allocates nothing: the cell is made at compile time and has nothing to drop.
unsafe impl GlobalAlloc for CountedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller says.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(at, layout) }
    }
}
