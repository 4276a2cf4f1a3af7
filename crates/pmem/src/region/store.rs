//! Stores, flushes and fences.
//!
//! Stores past the cache are of whole lines. What does not fill a line is stored through the cache and its line
//! flushed, and recorders see it so. Empty stores and flushes do nothing and are not recorded.
//!
//! Lock: where a recorder is attached, what happens and its record are one, under the lock of rank `Recorder`
//! ([`Watch`](crate::recorder::Watch)). Without one, that costs a branch that is always predicted.

use std::mem::MaybeUninit;

use super::Region;
use super::load::{Buffer, CHUNK};
use crate::access;
use crate::msync::PendingPages;
use crate::recorder::Event;
use crate::{LINE, Result};

static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// Where a chunk must end, so that none but the first and the last has ragged lines.
const CHUNK_BYTES: u64 = 4096;
const LINE_BYTES: usize = 64;
const _: () = assert!(CHUNK == 4096 && LINE == 64);

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

impl Region {
    /// Stores through the cache; aligned words by relaxed 8-byte atomic stores. One of which it covers a part is
    /// changed at once too: a power failure leaves it as before or as after.
    ///
    /// # Durability
    /// After [`Region::flush`] of the range and [`Region::fence`] by this thread.
    ///
    /// # Errors
    /// `OutOfBounds`, `ReadOnly`; `Media`: bytes before the failing one are stored.
    #[inline]
    pub fn store(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        let to = self.place(at, bytes.len())?;
        if self.bad.is_any() {
            return self.store_among_bad(at, bytes, |at, bytes| {
                self.store_good(at, self.place(at, bytes.len())?, bytes)
            });
        }
        self.store_good(at, to, bytes)
    }

    /// As [`Region::store`], to pages that are not known to be bad, or have just been cleared.
    #[inline(always)]
    fn store_good(&self, at: u64, to: *mut u8, bytes: &[u8]) -> Result<()> {
        // SAFETY: `to` is mapped for that length, as callers have checked, in whole pages, and `bytes` is borrowed.
        let store = || unsafe { access::store_at_once(to, bytes.as_ptr(), bytes.len()) };
        let outcome = match &self.watch {
            None => store(),
            Some(watch) => watch.see(store, |outcome| stored(at, &bytes[..bytes.len() - outcome.left])),
        };
        if outcome.left != 0 {
            return Err(self.failed(at, bytes.len(), outcome));
        }
        Ok(())
    }

    /// Stores an aligned word by one atomic store (power-fail atomic).
    ///
    /// # Durability
    /// As [`Region::store`].
    ///
    /// # Errors
    /// `OutOfBounds`, `Misaligned`, `ReadOnly`, `Media`.
    #[inline]
    pub fn store_u64(&self, at: u64, value: u64) -> Result<()> {
        self.check_writable()?;
        let word = self.word(at)?;
        self.check_good_word(at)?;
        // SAFETY: checked to be aligned and mapped.
        let store = || unsafe { access::store(word, value) };
        let result = match &self.watch {
            None => store(),
            Some(watch) => {
                let bytes = value.to_le_bytes();
                watch.see(store, |result| {
                    result.is_ok().then_some(Event::Store { at, bytes: &bytes })
                })
            }
        };
        result.map_err(|access::Fault| self.media_error(at))
    }

    /// Sets bits of an aligned word atomically; gives the word before.
    ///
    /// # Durability
    /// As [`Region::store`].
    ///
    /// # Errors
    /// `OutOfBounds`, `Misaligned`, `ReadOnly`, `Media`.
    #[inline]
    pub fn set_bits(&self, at: u64, mask: u64) -> Result<u64> {
        self.update(at, |word| word | mask)
    }

    /// Clears bits of an aligned word atomically; gives the word before.
    ///
    /// # Durability
    /// As [`Region::store`].
    ///
    /// # Errors
    /// `OutOfBounds`, `Misaligned`, `ReadOnly`, `Media`.
    #[inline]
    pub fn clear_bits(&self, at: u64, mask: u64) -> Result<u64> {
        self.update(at, |word| word & !mask)
    }

    #[inline]
    fn update(&self, at: u64, change: impl Fn(u64) -> u64) -> Result<u64> {
        self.check_writable()?;
        let word = self.word(at)?;
        self.check_good_word(at)?;
        // SAFETY: checked to be aligned and mapped.
        let mut before = unsafe { access::load(word) }.map_err(|access::Fault| self.media_error(at))?;
        loop {
            let after = change(before);
            // SAFETY: checked to be aligned and mapped.
            let exchange = || unsafe { access::compare_exchange(word, before, after) };
            let found = match &self.watch {
                None => exchange(),
                Some(watch) => {
                    let bytes = after.to_le_bytes();
                    watch.see(exchange, |found| {
                        let is_stored = matches!(found, Ok(found) if *found == before);
                        is_stored.then_some(Event::Store { at, bytes: &bytes })
                    })
                }
            };
            let found = found.map_err(|access::Fault| self.media_error(at))?;
            if found == before {
                return Ok(before);
            }
            before = found;
        }
    }

    /// Stores past the cache, with the widest stores there are; edges that do not fill a line are stored and flushed.
    ///
    /// # Durability
    /// After the next [`Region::fence`] of this thread.
    ///
    /// # Errors
    /// `OutOfBounds`, `ReadOnly`; `Media`: bytes before the failing one are stored.
    #[inline]
    pub fn store_nontemporal(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        let to = self.place(at, bytes.len())?;
        if self.bad.is_any() {
            return self.store_among_bad(at, bytes, |at, bytes| {
                self.stream_good(at, self.place(at, bytes.len())?, bytes)
            });
        }
        self.stream_good(at, to, bytes)
    }

    /// As [`Region::store_nontemporal`], to pages that are not known to be bad, or have just been cleared.
    #[inline(always)]
    fn stream_good(&self, at: u64, to: *mut u8, bytes: &[u8]) -> Result<()> {
        if at.is_multiple_of(LINE) && bytes.len().is_multiple_of(LINE_BYTES) {
            return self.stream(at, to, bytes);
        }
        self.stream_ragged(at, bytes)
    }

    /// Whole lines, checked to be in bounds.
    #[inline]
    fn stream(&self, at: u64, to: *mut u8, bytes: &[u8]) -> Result<()> {
        // SAFETY: `to` is mapped for that length, `bytes` is borrowed for it; both callers pass whole lines, and the
        // mapping's base is aligned.
        let store = || unsafe { (self.engine.stream)(to, bytes.as_ptr(), bytes.len()) };
        let outcome = match &self.watch {
            None => store(),
            Some(watch) => watch.see(store, |outcome| {
                let bytes = &bytes[..bytes.len() - outcome.left];
                (!bytes.is_empty()).then_some(Event::NonTemporal { at, bytes })
            }),
        };
        if let Some(pending) = &self.pending {
            pending.note(at, to_u64(bytes.len() - outcome.left));
        }
        if outcome.left != 0 {
            return Err(self.failed(at, bytes.len(), outcome));
        }
        Ok(())
    }

    fn stream_ragged(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let to_line = to_usize(at.next_multiple_of(LINE) - at).min(bytes.len());
        let (head, rest) = bytes.split_at(to_line);
        let (body, tail) = rest.split_at(rest.len() - rest.len() % LINE_BYTES);
        let body_at = at + to_u64(head.len());
        let tail_at = body_at + to_u64(body.len());
        self.store_edge(at, head)?;
        if !body.is_empty() {
            let to = self.place(body_at, body.len())?;
            self.stream(body_at, to, body)?;
        }
        self.store_edge(tail_at, tail)
    }

    fn store_edge(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.store_good(at, self.place(at, bytes.len())?, bytes)?;
        self.flush(at, to_u64(bytes.len()))
    }

    /// Zeroes past the cache, like [`Region::store_nontemporal`].
    ///
    /// # Durability
    /// After the next [`Region::fence`] of this thread.
    ///
    /// # Errors
    /// As [`Region::store_nontemporal`].
    pub fn zero_nontemporal(&self, at: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.place(at, to_usize(len))?;
        ascending(at, len, |at, len| self.store_nontemporal(at, &ZEROS[..len]))
    }

    /// Zeroes through the cache, like [`Region::store`].
    ///
    /// # Durability
    /// As [`Region::store`].
    ///
    /// # Errors
    /// As [`Region::store`].
    pub fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.place(at, to_usize(len))?;
        ascending(at, len, |at, len| self.store(at, &ZEROS[..len]))
    }

    /// Copies inside the region, past the cache at the destination. The ranges may overlap.
    ///
    /// # Durability
    /// After the next [`Region::fence`] of this thread.
    ///
    /// # Errors
    /// `OutOfBounds`, `ReadOnly`; `Media` of either range: what is before (of ranges that overlap upwards: behind) the
    /// failing chunk of 4 KiB is copied.
    pub fn copy_nontemporal(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        self.place(from, to_usize(len))?;
        self.place(to, to_usize(len))?;
        let mut buffer: Buffer = [MaybeUninit::uninit(); CHUNK];
        let copy = |at: u64, len: usize| {
            let bytes = self.read_into(from + (at - to), &mut buffer[..len])?;
            self.store_nontemporal(at, bytes)
        };
        // As memmove: upwards into itself, the end goes first.
        if to > from && to - from < len {
            descending(to, len, copy)
        } else {
            ascending(to, len, copy)
        }
    }

    /// Writes the lines of the range back.
    ///
    /// # Durability
    /// After the next [`Region::fence`] of this thread.
    ///
    /// # Errors
    /// `OutOfBounds`; `Media`: lines before the failing one are written back.
    #[inline]
    pub fn flush(&self, at: u64, len: u64) -> Result<()> {
        let bytes = to_usize(len);
        self.place(at, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let flush = || self.flush_lines(at, len);
        let result = match &self.watch {
            None => flush(),
            Some(watch) => watch.see(flush, |result| result.is_ok().then_some(Event::Flush { at, len })),
        };
        result.map_err(|Unflushed(byte)| self.media_error(byte))?;
        if let Some(pending) = &self.pending {
            pending.note(at, len);
        }
        Ok(())
    }

    /// Flushes lines of a range in bounds that is not empty, where that needs an instruction.
    #[inline(always)]
    fn flush_lines(&self, at: u64, len: u64) -> std::result::Result<(), Unflushed> {
        let Some(flush) = self.engine.flush else {
            return Ok(());
        };
        let first = at - at % LINE;
        let lines = to_usize((at + len - first).div_ceil(LINE));
        let start = self.mapping.base().wrapping_add(to_usize(first));
        // SAFETY: the lines touch the range, which is mapped; the mapping consists of whole pages.
        let outcome = unsafe { flush(start, lines) };
        if outcome.left != 0 {
            let done = to_u64(lines - outcome.left) * LINE;
            return Err(Unflushed((first + done).max(at)));
        }
        Ok(())
    }

    /// Waits until everything that this thread flushed or stored past the cache is durable.
    ///
    /// # Durability
    /// Of what survives: [`Region::persistence`].
    ///
    /// # Errors
    /// `Io`, only where fences msync, and that fails: what is durable of the stores before is not known, and every
    /// later fence of the region fails too.
    #[inline]
    pub fn fence(&self) -> Result<()> {
        let fence = || {
            self.engine.drain();
            match &self.pending {
                None => Ok(()),
                Some(pending) => self.msync(pending),
            }
        };
        match &self.watch {
            None => fence(),
            Some(watch) => watch.see(fence, |result| result.is_ok().then_some(Event::Fence)),
        }
    }

    #[cold]
    fn msync(&self, pending: &PendingPages) -> Result<()> {
        let result = pending.sync(|range| self.mapping.msync(range.start, range.end));
        result.map_err(|errno| crate::RegionError::Io {
            path: self.name(),
            what: "msync",
            source: errno.into(),
        })
    }
}

/// The first byte that a flush could not write back.
#[derive(Debug)]
struct Unflushed(u64);

fn stored(at: u64, bytes: &[u8]) -> Option<Event<'_>> {
    (!bytes.is_empty()).then_some(Event::Store { at, bytes })
}

/// Calls `each` for the parts of a range between multiples of the chunk size, the first one first.
fn ascending(at: u64, len: u64, mut each: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
    let end = at + len;
    let mut at = at;
    while at < end {
        let part = (CHUNK_BYTES - at % CHUNK_BYTES).min(end - at);
        each(at, to_usize(part))?;
        at += part;
    }
    Ok(())
}

/// As [`ascending`], the last one first.
fn descending(at: u64, len: u64, mut each: impl FnMut(u64, usize) -> Result<()>) -> Result<()> {
    let mut end = at + len;
    while end > at {
        let part = ((end - 1) % CHUNK_BYTES + 1).min(end - at);
        end -= part;
        each(end, to_usize(part))?;
    }
    Ok(())
}
