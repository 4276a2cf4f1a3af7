//! The address range of a region: reserved whole, mapped as far as the region is long, never moved.
//!
//! # Invariants
//! `base` is a multiple of 2 MiB; `base..base + reserved` belongs to this object until it is dropped;
//! `base..base + len` is mapped, with the protection it was opened with, and stays so: `len` never falls.
//!
//! Locks: `growth` (a leaf) is held while the range is extended; accesses take no lock.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, MsFlags, ProtFlags, madvise, mmap, mmap_anonymous, msync, munmap,
};
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::source::{Kind, Source};
use crate::{RegionError, Result};

/// Huge pages need it.
const HUGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// The address range of a region.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    reserved: u64,
    /// Pairs: Release in `extend_to` with the Acquire in `len`: who sees a length sees its pages mapped.
    len: AtomicU64,
    source: Option<Source>,
    growth: Mutex<()>,
    access: Access,
    is_synchronous: bool,
}

/// What may be done with the mapped bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// They are read.
    Read,
    /// They are read and written.
    Write,
    /// As `Write`, but what is written stays in this process's memory.
    Private,
}

impl Access {
    fn protection(self) -> ProtFlags {
        match self {
            Self::Read => ProtFlags::PROT_READ,
            Self::Write | Self::Private => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

// SAFETY: the range is owned by the object; it is accessed by instructions that allow for other threads.
unsafe impl Send for Mapping {}
// SAFETY: as above; `len` only grows, under `growth`.
unsafe impl Sync for Mapping {}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn size(bytes: u64) -> std::result::Result<NonZeroUsize, Errno> {
    usize::try_from(bytes)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or(Errno::EINVAL)
}

impl Mapping {
    /// Maps the whole source, or `len` bytes of anonymous memory.
    ///
    /// # Errors
    /// `Io`: what mmap gives.
    pub(crate) fn new(source: Option<Source>, len: u64, reserve: u64, access: Access) -> Result<Self> {
        let granule = granule(source.as_ref());
        let io = |errno| map_error(source.as_ref(), errno);
        let alignment = granule.max(HUGE);
        let needed = len
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| io(Errno::ENOMEM))?;
        let wanted = reserve.checked_next_multiple_of(alignment).unwrap_or(needed);
        let wanted = wanted.max(needed).max(alignment);
        // Where address space is limited, doing without room to grow is better than failing.
        let (base, reserved) = match reserve_addresses(wanted, alignment) {
            Ok(base) => (base, wanted),
            Err(_) => {
                let least = needed.max(alignment);
                (reserve_addresses(least, alignment).map_err(io)?, least)
            }
        };
        let mut mapping = Self {
            base,
            reserved,
            len: AtomicU64::new(0),
            source,
            growth: Mutex::new(Rank::Leaf, ()),
            access,
            is_synchronous: false,
        };
        mapping.is_synchronous = mapping.probe_synchronous();
        mapping.extend_to(0, len)?;
        Ok(mapping)
    }

    /// Bytes that are mapped and may be accessed.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Where the region begins.
    #[inline(always)]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The offset of an address, if it is in the reserved range.
    pub(crate) fn offset_of(&self, address: usize) -> Option<u64> {
        let offset = u64::try_from(address.checked_sub(self.base.addr().get())?).ok()?;
        (offset < self.reserved).then_some(offset)
    }

    /// The reserved range, which is not given back before the object is.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.base.addr().get();
        start..start.saturating_add(to_usize(self.reserved))
    }

    pub(crate) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// The most it can grow to.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Whether the filesystem has promised that a mapped page's place on the medium is durable before it is written
    /// (MAP_SYNC): then the mapping is the medium.
    pub(crate) fn is_synchronous(&self) -> bool {
        self.is_synchronous
    }

    /// Makes it `len` bytes long, the file too. Already longer is no error.
    ///
    /// # Errors
    /// `Unreserved`; `TooSmall`: beyond the device, or the file was cut short; `Io`: no space.
    pub(crate) fn grow(&self, len: u64) -> Result<()> {
        let _growing = self.growth.lock();
        let old = self.len();
        if len <= old {
            return Ok(());
        }
        if len > self.reserved {
            return Err(RegionError::Unreserved {
                path: self.name(),
                reserved: self.reserved,
                needed: len,
            });
        }
        if let Some(source) = &self.source {
            let there = source.len()?;
            if there < old {
                return Err(source.too_small(there, old));
            }
            source.set_len(there.max(len))?;
        }
        self.extend_to(old, len)
    }

    /// The path, or what it is.
    pub(crate) fn name(&self) -> String {
        let path = self
            .source
            .as_ref()
            .map(|source| source.path().display().to_string());
        path.unwrap_or_else(|| "anonymous memory".to_owned())
    }

    /// Lets the kernel write the pages of a range back.
    ///
    /// # Errors
    /// What msync gives.
    pub(crate) fn msync(&self, start: u64, end: u64) -> std::result::Result<(), Errno> {
        let end = end.min(self.len().next_multiple_of(PAGE));
        let Some(len) = end.checked_sub(start) else {
            return Ok(());
        };
        // SAFETY: inside the mapped range.
        unsafe { msync(self.address(start).cast(), to_usize(len), MsFlags::MS_SYNC) }
    }

    /// Gives every page of the region its page table entry.
    ///
    /// # Errors
    /// What madvise gives.
    pub(crate) fn populate(&self) -> std::result::Result<(), Errno> {
        let advice = if self.access.protection().contains(ProtFlags::PROT_WRITE) {
            MmapAdvise::MADV_POPULATE_WRITE
        } else {
            MmapAdvise::MADV_POPULATE_READ
        };
        let len = to_usize(self.len().next_multiple_of(PAGE));
        loop {
            // SAFETY: inside the mapped range; no byte changes.
            match unsafe { madvise(self.base.cast(), len, advice) } {
                // What has its pages is passed over the next time.
                Err(Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    fn address(&self, at: u64) -> NonNull<u8> {
        debug_assert!(at <= self.reserved);
        // SAFETY: callers stay inside the reserved range.
        unsafe { self.base.add(to_usize(at)) }
    }

    /// Maps what lies between two lengths, over the reservation.
    fn extend_to(&self, old: u64, len: u64) -> Result<()> {
        let granule = granule(self.source.as_ref());
        let (start, end) = (old.next_multiple_of(granule), len.next_multiple_of(granule));
        if start < end {
            self.map_over(start, end).map_err(|errno| {
                self.reserve_again(start, end);
                map_error(self.source.as_ref(), errno)
            })?;
        }
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn map_over(&self, start: u64, end: u64) -> std::result::Result<(), Errno> {
        let address = Some(self.address(start).addr());
        let len = size(end - start)?;
        let is_memory = match &self.source {
            None => {
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
                // SAFETY: over our own reservation, where nothing is accessed yet.
                unsafe { mmap_anonymous(address, len, self.access.protection(), flags) }?;
                true
            }
            Some(source) => {
                let flags = match self.access {
                    // Not reserved: most of a large pool is never copied.
                    Access::Private => MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
                    _ if self.is_synchronous => MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC,
                    _ => MapFlags::MAP_SHARED,
                };
                let offset = i64::try_from(start).map_err(|_| Errno::EOVERFLOW)?;
                // The kernel does not refuse such an offset for a DAX device, and maps something else.
                if !start.is_multiple_of(granule(Some(source))) {
                    return Err(Errno::EINVAL);
                }
                let flags = flags | MapFlags::MAP_FIXED;
                // SAFETY: over our own reservation, where nothing is accessed yet.
                unsafe {
                    mmap(
                        address,
                        len,
                        self.access.protection(),
                        flags,
                        source.file(),
                        offset,
                    )
                }?;
                matches!(source.kind(), Kind::File { is_memory: true, .. })
            }
        };
        if is_memory {
            // Advice: where huge pages are not to be had, small ones do. DAX mappings get them unasked.
            // SAFETY: changes no byte.
            let _ = unsafe { madvise(self.address(start).cast(), len.get(), MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(())
    }

    /// Whether the file can be mapped with MAP_SYNC. Probed apart, since a refusal of the real mapping may leave a
    /// hole in the reservation.
    fn probe_synchronous(&self) -> bool {
        let Some(source) = &self.source else { return false };
        if !matches!(source.kind(), Kind::File { is_memory: false, .. }) {
            return false;
        }
        let flags = MapFlags::MAP_SHARED_VALIDATE | MapFlags::MAP_SYNC;
        let Ok(page) = size(PAGE) else { return false };
        // Of a private mapping the medium is asked all the same: its promise is what is told.
        let protection = match self.access {
            Access::Private => ProtFlags::PROT_READ,
            access => access.protection(),
        };
        // SAFETY: at an address that the kernel chooses; nothing is accessed.
        let Ok(probe) = (unsafe { mmap(None, page, protection, flags, source.file(), 0) }) else {
            return false;
        };
        // SAFETY: just mapped here, and nobody else knows it.
        let _ = unsafe { munmap(probe, page.get()) };
        true
    }

    /// Closes the hole that a failed mmap may have left, so that nothing foreign gets into our range.
    fn reserve_again(&self, start: u64, end: u64) {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        if let Ok(len) = size(end - start) {
            let address = Some(self.address(start).addr());
            // SAFETY: replaces nothing. If something is there, it is our old reservation.
            let _ = unsafe { mmap_anonymous(address, len, ProtFlags::PROT_NONE, flags) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and no access can be under way without a borrow of this object.
        let result = unsafe { munmap(self.base.cast(), to_usize(self.reserved)) };
        debug_assert_eq!(result, Ok(()));
    }
}

fn map_error(source: Option<&Source>, errno: Errno) -> RegionError {
    match source {
        Some(source) => source.io("map", errno),
        None => RegionError::io("anonymous memory".as_ref(), "map", errno),
    }
}

/// What offsets and lengths of mappings are multiples of.
fn granule(source: Option<&Source>) -> u64 {
    match source.map(Source::kind) {
        None => PAGE,
        Some(Kind::File { granule, .. }) => *granule,
        Some(Kind::Device(device)) => device.align,
    }
}

/// Takes `len` bytes of address space that begin at a multiple of `alignment`; both are multiples of pages.
fn reserve_addresses(len: u64, alignment: u64) -> std::result::Result<NonNull<u8>, Errno> {
    let total = size(len.checked_add(alignment).ok_or(Errno::ENOMEM)?)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: at an address that the kernel chooses.
    let start = unsafe { mmap_anonymous(None, total, ProtFlags::PROT_NONE, flags) }?.cast::<u8>();
    let skip = start.align_offset(to_usize(alignment));
    // SAFETY: at most `alignment` bytes on.
    let base = unsafe { start.add(skip) };
    let len = to_usize(len);
    if skip > 0 {
        // SAFETY: the part before the base, which is of no use.
        unsafe { munmap(start.cast(), skip) }?;
    }
    let rest = total.get() - skip - len;
    if rest > 0 {
        // SAFETY: inside what was mapped.
        let end = unsafe { base.add(len) };
        // SAFETY: the part behind the range, which is of no use.
        unsafe { munmap(end.cast(), rest) }?;
    }
    Ok(base)
}
