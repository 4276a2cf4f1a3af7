//! Mapped persistent memory.
//!
//! A [`Region`] is a mapping of a device, a file or anonymous memory. All access is by bounds-checked offsets: no
//! reference into the region is ever given out, because another thread, process or device may write there.
//!
//! The interface below is what the rest of udax relies on; `Region::open` and `RegionOptions` find the persistence
//! domain once, at map time.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What a [`Recorder`] sees.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// Bytes were stored through the cache: durable only after their lines are flushed and a fence has passed.
    Store {
        /// Offset in the region.
        at: u64,
        /// The bytes, now in place.
        bytes: &'e [u8],
    },
    /// Bytes were stored past the cache: durable only after a fence.
    NonTemporal {
        /// Offset in the region.
        at: u64,
        /// The bytes, now in place.
        bytes: &'e [u8],
    },
    /// The lines of this range were written back: durable after a fence.
    Flush {
        /// Offset in the region.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Everything flushed or stored past the cache by this thread before is durable now.
    Fence,
}

/// Sees every store, flush and fence of a region. Called by the storing thread, after the store.
pub trait Recorder: Send + Sync + fmt::Debug {
    /// `event` has happened.
    fn record(&self, event: Event<'_>);
}

/// What a region cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The range is not inside the region.
    #[error("bytes {at}+{len} are outside the mapping of {region_len} bytes")]
    OutOfBounds {
        /// Offset.
        at: u64,
        /// Length.
        len: u64,
        /// Length of the region.
        region_len: u64,
    },
    /// An offset or length that must be a multiple of `align` is not.
    #[error("offset {at} is not a multiple of {align}")]
    Misaligned {
        /// Offset.
        at: u64,
        /// The alignment needed.
        align: u64,
    },
    /// The medium did not give the bytes (SIGBUS: a poisoned page, or a file cut short under the mapping).
    #[error("media error at byte {at}")]
    Media {
        /// The first byte that could not be read or written.
        at: u64,
    },
    /// Another process or handle has the file or device open.
    #[error("{path}: in use{holder}")]
    Busy {
        /// The file or device.
        path: String,
        /// `" by process 123 (name)"` where that could be found out, else empty.
        holder: String,
    },
    /// The file or device cannot be mapped.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The file or device.
        path: String,
        /// What failed.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// What must be done so that stores survive a power failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// Caches are in the power-fail domain: a fence suffices.
    Eadr,
    /// Lines must be flushed, then fenced.
    Flush,
    /// The mapping is of the page cache: only msync makes stores survive a power failure, and fences do it.
    Msync,
    /// Stores survive the death of the process, not a power failure.
    ProcessOnly,
}

/// A mapping of persistent memory.
#[derive(Debug)]
pub struct Region {
    base: *mut u8,
    len: u64,
    recorder: Option<Arc<dyn Recorder>>,
}

// SAFETY: (stand-in)
unsafe impl Send for Region {}
// SAFETY: (stand-in)
unsafe impl Sync for Region {}

type Result<T> = std::result::Result<T, RegionError>;

/// How to open a region.
#[derive(Clone, Debug, Default)]
pub struct RegionOptions {
    /// Map without write permission.
    pub read_only: bool,
    /// On a file that is not DAX: let fences msync, so that they survive a power failure.
    pub msync: bool,
    /// Sees every store from the start.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl Region {
    /// Maps `path` (file or device) as it is, and locks it against other openers.
    pub fn open(_path: &Path, _options: RegionOptions) -> Result<Self> {
        todo!()
    }
    /// Creates (or, if it exists, resizes) the file `path` with `len` bytes, and maps it. A device keeps its size and
    /// must have at least `len`.
    pub fn create(_path: &Path, _len: u64, _options: RegionOptions) -> Result<Self> {
        todo!()
    }
    /// Anonymous memory of `len` zero bytes, for tests.
    pub fn anonymous(len: u64, recorder: Option<Arc<dyn Recorder>>) -> Result<Self> {
        let bytes = vec![0_u64; usize::try_from(len).unwrap() / 8].leak();
        Ok(Self {
            base: bytes.as_mut_ptr().cast(),
            len,
            recorder,
        })
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// What stores need to survive a power failure.
    pub fn persistence(&self) -> Persistence {
        todo!()
    }
    fn check(&self, at: u64, len: usize) -> Result<*mut u8> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(RegionError::OutOfBounds {
                at,
                len,
                region_len: self.len,
            });
        }
        Ok(unsafe { self.base.add(usize::try_from(at).unwrap_or(0)) })
    }
    /// Copies bytes out; recoverable: bytes before the failing one are in `to`.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let from = self.check(at, to.len())?;
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        Ok(())
    }
    /// An aligned little-endian word, by one relaxed atomic load.
    pub fn read_u64(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    /// Stores through the cache; whole aligned words by relaxed 8-byte atomic stores.
    pub fn store(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let to = self.check(at, bytes.len())?;
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        if let Some(recorder) = &self.recorder {
            recorder.record(Event::Store { at, bytes });
        }
        Ok(())
    }
    /// Stores an aligned word by one atomic store (power-fail atomic).
    pub fn store_u64(&self, at: u64, value: u64) -> Result<()> {
        self.store(at, &value.to_le_bytes())
    }
    /// Sets bits of an aligned word atomically; gives the word before.
    pub fn set_bits(&self, at: u64, mask: u64) -> Result<u64> {
        let before = self.read_u64(at)?;
        self.store_u64(at, before | mask)?;
        Ok(before)
    }
    /// Clears bits of an aligned word atomically; gives the word before.
    pub fn clear_bits(&self, at: u64, mask: u64) -> Result<u64> {
        let before = self.read_u64(at)?;
        self.store_u64(at, before & !mask)?;
        Ok(before)
    }
    /// Stores past the cache, with the widest stores there are; edges that do not fill a line are stored and flushed.
    /// Durable after the next [`Region::fence`] of this thread.
    pub fn store_nontemporal(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.store(at, bytes)
    }
    /// Zeroes past the cache, like [`Region::store_nontemporal`].
    pub fn zero_nontemporal(&self, at: u64, len: u64) -> Result<()> {
        self.store(at, &vec![0; usize::try_from(len).unwrap_or(0)])
    }
    /// Zeroes through the cache, like [`Region::store`].
    pub fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.store(at, &vec![0; usize::try_from(len).unwrap_or(0)])
    }
    /// Copies inside the region, past the cache at the destination.
    pub fn copy_nontemporal(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read(from, &mut bytes)?;
        self.store_nontemporal(to, &bytes)
    }
    /// Writes the lines of the range back. Durable after the next [`Region::fence`] of this thread.
    pub fn flush(&self, _at: u64, _len: u64) -> Result<()> {
        Ok(())
    }
    /// Waits until everything that this thread flushed or stored past the cache is durable.
    ///
    /// # Errors
    /// Only where fences msync, and that fails.
    pub fn fence(&self) -> Result<()> {
        if let Some(recorder) = &self.recorder {
            recorder.record(Event::Fence);
        }
        Ok(())
    }
}
