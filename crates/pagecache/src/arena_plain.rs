//! In the arena's place under a model checker: memory of the allocator. A folio's memory may go when no schedule runs
//! any more, where the checker's locks cannot be taken.

use std::alloc::{self, Layout};
use std::ptr::NonNull;

use crate::page::{PAGE, in_memory};

/// As the other one, but that nothing is kept.
#[derive(Debug)]
pub(crate) struct Arena;

impl Arena {
    pub(crate) fn new(_: u64) -> Self {
        Self
    }

    pub(crate) fn take(&self, order: u8) -> Option<NonNull<u8>> {
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { alloc::alloc_zeroed(layout(order)?) })
    }

    pub(crate) fn give_back(&self, at: NonNull<u8>, order: u8) {
        if let Some(layout) = layout(order) {
            // SAFETY: allocated with this layout, and nobody reaches it any more, as the caller says.
            unsafe { alloc::dealloc(at.as_ptr(), layout) };
        }
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (0, 0)
    }
}

fn layout(order: u8) -> Option<Layout> {
    let len = in_memory(PAGE << order);
    Layout::from_size_align(len, len).ok()
}
