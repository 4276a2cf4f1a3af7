//! Having the processor fetch what will be needed soon: [`prefetch`].

/// Bytes of the processor's lines.
const LINE: usize = 64;
/// Bytes that are asked for at once, of those to be loaded and of those to be stored: about what the processor can have
/// under way while it waits for a folio. More would stand in the way of the copy (measured with `benches/hits.rs`).
const MOST_LOADED: usize = 2048;
const MOST_STORED: usize = 1024;

/// What is to be done with bytes that are fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Intent {
    Load,
    Store,
}

/// Has the processor fetch what a copy of `len` bytes from or to an address meets first. Any address will do.
#[inline]
pub(crate) fn prefetch(address: usize, len: usize, intent: Intent) {
    let (most, fetch): (_, fn(*const u8)) = match intent {
        Intent::Load => (MOST_LOADED, raw::to_load),
        Intent::Store => (MOST_STORED, raw::to_store),
    };
    let first = address - address % LINE;
    for line in (first..address.saturating_add(len.min(most))).step_by(LINE) {
        fetch(std::ptr::without_provenance(line));
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(shuttle)))]
mod raw {
    use std::arch::asm;
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    /// Has the line fetched; any address will do.
    #[inline]
    pub(super) fn to_load(at: *const u8) {
        // SAFETY: a hint that faults on nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    /// Has the line fetched, alone; any address will do.
    #[inline]
    pub(super) fn to_store(at: *const u8) {
        // The compiler's own makes a plain fetch of it where the target has no feature for this instruction, which
        // processors without it take for none.
        // SAFETY: a hint that faults on nothing.
        unsafe { asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
    }
}

#[cfg(any(not(target_arch = "x86_64"), loom, shuttle))]
mod raw {
    /// No hint.
    pub(super) fn to_load(_: *const u8) {}

    /// No hint.
    pub(super) fn to_store(_: *const u8) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_can_be_fetched() {
        // Whoever faults ends the process.
        for address in [0, 1, 4096, usize::MAX / 2, usize::MAX - 63, usize::MAX] {
            prefetch(address, 4096, Intent::Load);
            prefetch(address, 4096, Intent::Store);
        }
    }
}
