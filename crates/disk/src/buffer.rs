//! Memory at multiples of the block size, as `O_DIRECT` wants it: [`Buffer`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::BLOCK;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);
const _: () = assert!(size_of::<Page>() == 4096);

/// Some blocks of memory.
#[derive(Debug)]
pub struct Buffer(Vec<Page>);

impl Buffer {
    /// Zeros, for `bytes` bytes or more.
    pub fn zeroed(bytes: usize) -> Self {
        Self(vec![Page([0; 4096]); bytes.div_ceil(size_of::<Page>())])
    }

    /// The memory.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    /// The memory, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }
}

/// Whether requests of `bytes` at `at` need no other memory.
pub(crate) fn is_aligned(at: u64, bytes: &[u8]) -> bool {
    let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
    at.is_multiple_of(BLOCK)
        && bytes.len().is_multiple_of(block)
        && bytes.as_ptr().addr().is_multiple_of(block)
}
