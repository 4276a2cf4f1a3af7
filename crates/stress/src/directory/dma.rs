//! Direct reads into mappings of files: [`Mapped`] and [`MappedRing`].
//!
//! # Invariants
//! - A mapping stays as long as a read into it is not completed: the flight owns it.
//! - Nobody but the kernel stores to a mapping or reads from it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};

use crate::dma_ring::{Patience, open_source};
use crate::stamp::BLOCK;

/// Reads under way at most.
pub(super) const MAX_READS: usize = 16;
/// Blocks of one read at most.
pub(super) const MAX_BLOCKS: usize = 32;

/// A shared mapping of a file, also of what is behind its end.
#[derive(Debug)]
pub(crate) struct Mapped {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address that only the kernel uses; unmapping from another thread is allowed.
unsafe impl Send for Mapped {}
// SAFETY: as above; nothing changes through a shared reference.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps `len` bytes of `file`, which is open for reading and writing.
    pub(super) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Self { address, len })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no read into it is under way: each owns it.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}

/// A ring whose reads go to mappings.
pub(super) struct MappedRing {
    ring: IoUring,
    source: File,
    reads: [Option<Arc<Mapped>>; MAX_READS],
    staging: Vec<u8>,
    start: usize,
}

/// What blocks of a mapping a read is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) first: usize,
    pub(super) blocks: usize,
}

impl MappedRing {
    pub(super) fn new(directory: &Path, number: u64) -> Result<Self, (&'static str, io::Error)> {
        let source = open_source(directory, number).map_err(|error| ("no file with O_DIRECT", error))?;
        let ring = IoUring::new(32).map_err(|error| ("no io_uring", error))?;
        let staging = vec![0; (MAX_BLOCKS + 1) * BLOCK];
        Ok(Self {
            ring,
            source,
            reads: Default::default(),
            start: staging.as_ptr().align_offset(BLOCK),
            staging,
        })
    }

    /// A place for a read that is not under way.
    pub(super) fn free_place(&self) -> Option<usize> {
        self.reads.iter().position(Option::is_none)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.reads.iter().all(Option::is_none)
    }

    /// Writes what the read at `place` will find.
    pub(super) fn prepare(&mut self, place: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let bytes = self.staging.get_mut(self.start..self.start + MAX_BLOCKS * BLOCK);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        fill(bytes);
        self.source.write_all_at(bytes, source_offset(place))
    }

    /// Begins the read that was prepared at `place`. On return the kernel has pinned its pages, or the read has failed,
    /// which its completion tells.
    pub(super) fn read(&mut self, place: usize, mapped: &Arc<Mapped>, target: Target) -> io::Result<()> {
        let (at, len) = (target.first * BLOCK, target.blocks * BLOCK);
        let is_inside = at.checked_add(len).is_some_and(|end| end <= mapped.len);
        let is_free = self.reads.get(place).is_some_and(Option::is_none);
        if !is_inside || !is_free || target.blocks > MAX_BLOCKS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let address = mapped.address.as_ptr().wrapping_add(at);
        let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = opcode::Read::new(types::Fd(self.source.as_raw_fd()), address, len)
            .offset(source_offset(place))
            .rw_flags(libc::RWF_NOWAIT)
            .build()
            .user_data(u64::try_from(place).unwrap_or(0));
        self.reads[place] = Some(Arc::clone(mapped));
        // SAFETY: the bytes at `address` are inside the mapping, which `reads` keeps until the completion was seen, and
        // no reference to them exists: only the kernel uses the mapping. The file is open as long as the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.reads[place] = None;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.ring.submit()?;
        Ok(())
    }

    /// The results of reads that have completed, in bytes.
    pub(super) fn completed(&mut self, patience: Patience) -> Vec<io::Result<usize>> {
        let _ = match patience {
            Patience::None => self.ring.submit(),
            Patience::One => self.ring.submit_and_wait(1),
        };
        let entries: Vec<_> = self.ring.completion().collect();
        let result = |entry: &io_uring::cqueue::Entry| {
            let bytes = usize::try_from(entry.result());
            bytes.map_err(|_| io::Error::from_raw_os_error(-entry.result()))
        };
        for entry in &entries {
            let place = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            if let Some(read) = self.reads.get_mut(place) {
                *read = None;
            }
        }
        entries.iter().map(result).collect()
    }
}

impl Drop for MappedRing {
    fn drop(&mut self) {
        for _ in 0..10_000 {
            if self.is_idle() {
                return;
            }
            self.completed(Patience::One);
        }
        // The ring is broken: mappings stay for good, as the kernel may still store to them.
        self.reads
            .iter_mut()
            .for_each(|read| std::mem::forget(read.take()));
    }
}

fn source_offset(place: usize) -> u64 {
    u64::try_from(place * MAX_BLOCKS * BLOCK).unwrap_or(0)
}
