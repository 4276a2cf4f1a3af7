//! Choices out of bytes: where they end, zeros.

use rand::RngCore;

/// In a parser's first byte: the unit is sealed before it is looked at.
pub(crate) const SEALED: u8 = 1;
/// The pool has a data device.
pub(crate) const DEVICE: u8 = 2;

/// Bytes that are read from the front.
#[derive(Clone, Debug)]
pub(crate) struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    /// All of `bytes`.
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'b [u8] {
        self.rest
    }

    /// The next bytes.
    pub(crate) fn array<const LEN: usize>(&mut self) -> [u8; LEN] {
        let mut array = [0; LEN];
        let taken = self.take(LEN);
        array
            .get_mut(..taken.len())
            .unwrap_or_default()
            .copy_from_slice(taken);
        array
    }

    /// At most `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'b [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes as a number.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next eight bytes as a number.
    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// Random numbers that are the bytes; after them, numbers that depend on nothing.
#[derive(Clone, Debug)]
pub(crate) struct Numbers<'b> {
    input: Input<'b>,
    state: u64,
}

impl<'b> Numbers<'b> {
    /// Those of `bytes`.
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self {
            input: Input::new(bytes),
            state: 0,
        }
    }

    fn next(&mut self) -> u64 {
        if !self.input.is_empty() {
            // A range is taken from the high bits (rand's widening multiplication): one byte there is a choice.
            return u64::from(self.input.short()) << 48 | u64::from(self.input.short()) << 16;
        }
        // SplitMix64: choices by rejection come to an end.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

impl RngCore for Numbers<'_> {
    fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next_u64() >> 32).unwrap_or(0)
    }

    fn next_u64(&mut self) -> u64 {
        self.next()
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        for chunk in to.chunks_mut(8) {
            let bytes = self.next().to_be_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
        }
    }
}
