//! Reading from the mapping: recoverable copies, words, comparison.

use std::mem::MaybeUninit;

use super::Region;
use crate::Result;
use crate::access::{self, Outcome};

/// What is copied at a time where bytes pass through a buffer: stays in the first-level cache.
pub(super) const CHUNK: usize = 4096;

/// Room for bytes on their way.
pub(super) type Buffer = [MaybeUninit<u8>; CHUNK];

impl Region {
    /// Copies bytes out; recoverable: bytes before the failing one are in `to`.
    ///
    /// # Errors
    /// `OutOfBounds`, `Media`.
    #[inline]
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let from = self.place(at, to.len())?;
        let good = self.good_len(at, to.len());
        // SAFETY: `from` is mapped for the whole length, `to` is borrowed for it; `good` is no more.
        let outcome = unsafe { (self.engine.copy)(to.as_mut_ptr(), from, good) };
        self.finish_read(at, good, outcome)?;
        self.check_all_good(at, good, to.len())
    }

    #[inline(always)]
    fn finish_read(&self, at: u64, len: usize, outcome: Outcome) -> Result<()> {
        if outcome.left != 0 {
            return Err(self.failed(at, len, outcome));
        }
        Ok(())
    }

    /// As [`Region::read`], into a part of a buffer; gives it back filled.
    pub(super) fn read_into<'b>(&self, at: u64, to: &'b mut [MaybeUninit<u8>]) -> Result<&'b [u8]> {
        let from = self.place(at, to.len())?;
        let good = self.good_len(at, to.len());
        self.check_all_good(at, good, to.len())?;
        // SAFETY: `from` is mapped for that length, `to` is borrowed for it.
        let outcome = unsafe { (self.engine.copy)(to.as_mut_ptr().cast(), from, to.len()) };
        self.finish_read(at, to.len(), outcome)?;
        // SAFETY: the copy has filled all of it.
        Ok(unsafe { to.assume_init_ref() })
    }

    /// An aligned little-endian word, by one relaxed atomic load.
    ///
    /// # Errors
    /// `OutOfBounds`, `Misaligned`, `Media`.
    #[inline]
    pub fn read_u64(&self, at: u64) -> Result<u64> {
        let word = self.word(at)?;
        self.check_good_word(at)?;
        // SAFETY: checked to be aligned and mapped.
        match unsafe { access::load(word) } {
            Ok(value) => Ok(value),
            Err(access::Fault) => Err(self.media_error(at)),
        }
    }

    /// Aligned little-endian words, each by one relaxed atomic load. Words before the failing one are in `to`.
    ///
    /// # Errors
    /// `OutOfBounds`, `Misaligned`, `Media`.
    #[inline]
    pub fn read_words(&self, at: u64, to: &mut [u64]) -> Result<()> {
        if !at.is_multiple_of(8) {
            return Err(super::misaligned(at, 8));
        }
        let len = size_of_val(to);
        let from = self.place(at, len)?;
        let good = self.good_len(at, len);
        // SAFETY: `from` is mapped for the whole length, `to` is borrowed for it, `good` is no more; both are aligned,
        // and so is what is bad, so whole words are loaded.
        let outcome = unsafe { access::store_words(to.as_mut_ptr().cast(), from, good) };
        self.finish_read(at, good, outcome)?;
        self.check_all_good(at, good, len)
    }

    /// Whether the bytes at `at` are these.
    ///
    /// # Errors
    /// `OutOfBounds`; `Media`, where the bytes before the failing one are equal.
    pub fn compare(&self, at: u64, bytes: &[u8]) -> Result<bool> {
        self.place(at, bytes.len())?;
        let mut buffer: Buffer = [MaybeUninit::uninit(); CHUNK];
        let mut at = at;
        for expected in bytes.chunks(CHUNK) {
            let found = self.read_into(at, &mut buffer[..expected.len()])?;
            if found != expected {
                return Ok(false);
            }
            at += u64::try_from(expected.len()).unwrap_or(0);
        }
        Ok(true)
    }
}
