//! The public object: opening, growing and describing a region. Its loads are in `load`, its stores, flushes and
//! fences in `store`; bad pages in `poison`.
//!
//! Locks: only leaves, inside `mapping` (growth), `msync` (pages to write back), `bad` and here (failed pages); none is
//! taken by loads and stores that succeed where no page is bad. A recorder brings a lock of its own (`store`).

mod load;
mod poison;
mod store;

use std::collections::BTreeSet;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::access::{self, Outcome};
use crate::bad::{BadPages, Origin, PAGE};
use crate::domain::{self, SYSFS};
use crate::engine::Engine;
use crate::mapping::{Access, Mapping};
use crate::msync::PendingPages;
use crate::options::{Persistence, RegionOptions};
use crate::recorder::{Recorder, Watch};
use crate::source::{Kind, Mode, Source};
use crate::{RegionError, Result};

/// Failed pages that are remembered: enough to tell a bad device, little enough to keep.
const MAX_FAILURES: usize = 1024;
/// No byte of a region.
const NOWHERE: u64 = u64::MAX;

/// A mapping of persistent memory.
///
/// Threads may access it at once, in any way. A byte that one stores while another reads it is seen old or new. Aligned
/// 8-byte words are stored whole by all stores, and seen whole by [`Region::read_u64`] and [`Region::read_words`];
/// [`Region::read`] may see parts of two.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    engine: Engine,
    persistence: Persistence,
    /// Only where fences msync.
    pending: Option<PendingPages>,
    is_read_only: bool,
    is_private: bool,
    failures: Mutex<BTreeSet<u64>>,
    /// The first byte that could not be reached, or [`NOWHERE`].
    unreachable: AtomicU64,
    bad: BadPages,
    watch: Option<Watch>,
}

impl Region {
    /// Maps `path` (file or device) as it is, and locks it against other openers. A file with holes keeps them: a
    /// store into one that finds no space is `Unreachable`.
    ///
    /// # Errors
    /// `Busy`: somebody has it open for writing, or open at all while we want to write; `Io`: it cannot be opened or
    /// mapped, or is neither a regular file nor a DAX device.
    pub fn open(path: &Path, options: RegionOptions) -> Result<Self> {
        let mode = if options.read_only || options.private {
            Mode::Read
        } else {
            Mode::Write
        };
        let source = Source::open(path, mode)?;
        let len = source.len()?;
        Self::map(Some(source), len, options)
    }

    /// Creates (or, if it exists, resizes) the file `path` with `len` bytes, and maps it. A device keeps its size and
    /// must have at least `len`. A new file is readable by its owner only.
    ///
    /// # Durability
    /// Unless stores survive only the process, the file's name, length and blocks are durable on return.
    ///
    /// # Errors
    /// As [`Region::open`], `ReadOnly` with that option or `private`, `TooSmall` for a device, and `Io` without space:
    /// then the file is as before.
    pub fn create(path: &Path, len: u64, options: RegionOptions) -> Result<Self> {
        if options.read_only || options.private {
            return Err(RegionError::ReadOnly {
                path: path.display().to_string(),
            });
        }
        let source = Source::open(path, Mode::Create)?;
        let new_path = source.new_path().map(Path::to_owned);
        let result = Self::create_on(source, len, options);
        if let (Err(_), Some(new_path)) = (&result, new_path) {
            // The error that is told is the first one.
            let _ = std::fs::remove_file(new_path);
        }
        result
    }

    fn create_on(source: Source, len: u64, options: RegionOptions) -> Result<Self> {
        source.set_len(len)?;
        let len = source.len()?;
        let region = Self::map(Some(source), len, options)?;
        region.sync_length()?;
        Ok(region)
    }

    /// Anonymous memory of `len` zero bytes, for tests.
    ///
    /// # Errors
    /// `Io`: no memory.
    pub fn anonymous(len: u64, recorder: Option<Arc<dyn Recorder>>) -> Result<Self> {
        let options = RegionOptions {
            recorder,
            ..RegionOptions::default()
        };
        Self::anonymous_with(len, options)
    }

    /// As [`Region::anonymous`], with all options.
    ///
    /// # Errors
    /// `Io`: no memory.
    pub fn anonymous_with(len: u64, options: RegionOptions) -> Result<Self> {
        Self::map(None, len, options)
    }

    fn map(source: Option<Source>, len: u64, options: RegionOptions) -> Result<Self> {
        access::install().map_err(|errno| {
            let path = source.as_ref().map_or("anonymous memory".as_ref(), Source::path);
            RegionError::io(path, "install the SIGBUS handler", errno)
        })?;
        let access = match (options.read_only, options.private) {
            (true, _) => Access::Read,
            (false, true) => Access::Private,
            (false, false) => Access::Write,
        };
        let mapping = Mapping::new(source, len, options.reserve, access)?;
        let persistence = find_persistence(&mapping, options.msync);
        let flushes = match persistence {
            Persistence::Flush => true,
            Persistence::ProcessOnly => options.emulate_flush,
            Persistence::Eadr | Persistence::Msync => false,
        };
        let addresses = mapping.addresses();
        let region = Self {
            mapping,
            engine: Engine::new(options.backend, flushes),
            persistence,
            pending: (persistence == Persistence::Msync).then(PendingPages::new),
            is_read_only: options.read_only,
            is_private: options.private,
            failures: Mutex::new(Rank::Leaf, BTreeSet::new()),
            unreachable: AtomicU64::new(NOWHERE),
            bad: BadPages::new(addresses),
            watch: options.recorder.map(Watch::new),
        };
        region.learn_bad_pages();
        Ok(region)
    }

    /// Takes all page faults now, those for writing unless it is read-only, so that no later access pays for one
    /// (`madvise(2)`, `MADV_POPULATE_WRITE`). On DAX with huge pages few are to be taken; in an ordinary file there is
    /// one for each 4 KiB, and each hole gets a page. What [`Region::grow`] adds later is not covered.
    ///
    /// # Errors
    /// `Io`: no memory or space for a hole; damaged bytes; a kernel older than 5.14. The region can be used all the
    /// same.
    pub fn populate(&self) -> Result<()> {
        self.mapping
            .populate()
            .map_err(|errno| RegionError::io(self.mapping.name().as_ref(), "populate", errno))
    }

    /// Makes the region `len` bytes long, and its file too, with blocks under all of them. Already longer is no error.
    /// The base does not move: other threads go on, and may use the new bytes once they see the new length.
    ///
    /// # Durability
    /// As [`Region::create`].
    ///
    /// # Errors
    /// `Unreserved`: beyond [`RegionOptions::reserve`]; `TooSmall`: beyond the device, or the file was cut short;
    /// `ReadOnly`, also when private; `Io`: no space. Then the region has not changed.
    pub fn grow(&self, len: u64) -> Result<()> {
        if self.is_read_only || self.is_private {
            return Err(self.read_only_error());
        }
        if len <= self.len() {
            return Ok(());
        }
        self.mapping.grow(len)?;
        self.sync_length()
    }

    fn sync_length(&self) -> Result<()> {
        match self.mapping.source() {
            Some(source) if self.persistence != Persistence::ProcessOnly => source.sync(),
            _ => Ok(()),
        }
    }

    /// Bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most bytes it can grow to without being opened again; a device or a full filesystem may allow fewer.
    pub fn max_len(&self) -> u64 {
        self.mapping.reserved()
    }

    /// What stores need to survive a power failure.
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Whether stores are refused.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// The file or device; `None` for anonymous memory.
    pub fn path(&self) -> Option<&Path> {
        self.mapping.source().map(Source::path)
    }

    /// The path of a file that [`Region::create`] has made for this region.
    pub fn new_path(&self) -> Option<&Path> {
        self.mapping.source().and_then(Source::new_path)
    }

    /// What messages call it: the path, or "anonymous memory".
    pub fn name(&self) -> String {
        self.mapping.name()
    }

    /// Pages that could not be accessed, as ascending offsets of their first bytes; the first 1024 met. What of them
    /// the medium has lost is in [`Region::bad_ranges`] too.
    pub fn media_failures(&self) -> Vec<u64> {
        self.failures.lock().iter().copied().collect()
    }

    /// The first byte that an access could not reach since the region was opened ([`RegionError::Unreachable`]).
    pub fn first_unreachable(&self) -> Option<u64> {
        let at = self.unreachable.load(Ordering::Relaxed);
        (at != NOWHERE).then_some(at)
    }

    /// Where bytes are in memory, for devices and others that access them on their own. The address stays theirs as
    /// long as the region lives; whoever uses it cares for media errors, flushes and the recorder.
    ///
    /// # Errors
    /// `OutOfBounds`.
    #[inline]
    pub fn address(&self, at: u64, len: u64) -> Result<NonNull<u8>> {
        let place = self.place(at, usize::try_from(len).unwrap_or(usize::MAX))?;
        NonNull::new(place).ok_or_else(|| out_of_bounds(at, len, self.len()))
    }

    /// Where bytes are, after the one check of bounds.
    #[inline(always)]
    fn place(&self, at: u64, len: usize) -> Result<*mut u8> {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        let region_len = self.mapping.len();
        if at.checked_add(len).is_none_or(|end| end > region_len) {
            return Err(out_of_bounds(at, len, region_len));
        }
        // Inside the mapping, so it fits.
        Ok(self
            .mapping
            .base()
            .wrapping_add(usize::try_from(at).unwrap_or(usize::MAX)))
    }

    /// As [`Region::place`], of an aligned word.
    #[inline(always)]
    fn word(&self, at: u64) -> Result<*mut u64> {
        if !at.is_multiple_of(8) {
            return Err(misaligned(at, 8));
        }
        Ok(self.place(at, 8)?.cast())
    }

    #[inline(always)]
    fn check_writable(&self) -> Result<()> {
        if self.is_read_only {
            return Err(self.read_only_error());
        }
        Ok(())
    }

    #[cold]
    fn read_only_error(&self) -> RegionError {
        RegionError::ReadOnly { path: self.name() }
    }

    /// The error of an access to `len` bytes at `at` that ended early.
    #[cold]
    fn failed(&self, at: u64, len: usize, outcome: Outcome) -> RegionError {
        // Of a copy, the other side may have failed: a buffer of the caller in a file that was cut short.
        if self.mapping.offset_of(outcome.fault).is_none() {
            return RegionError::Io {
                path: self.name(),
                what: "access the caller's buffer",
                source: Errno::EFAULT.into(),
            };
        }
        let done = len.saturating_sub(outcome.left);
        self.media_error(at + u64::try_from(done).unwrap_or(0))
    }

    /// Notes the page as failed, and as bad if the medium has lost it.
    #[cold]
    fn media_error(&self, at: u64) -> RegionError {
        self.note_failure(at);
        let page = at - at % PAGE;
        if self.is_lost(page) {
            self.bad.insert(page..page + PAGE, Origin::Medium);
            return RegionError::Media { at };
        }
        // Who looks afterwards may have been told of it by another thread, which is order enough.
        let _ = self
            .unreachable
            .compare_exchange(NOWHERE, at, Ordering::Relaxed, Ordering::Relaxed);
        RegionError::Unreachable { at }
    }

    fn note_failure(&self, at: u64) {
        let mut failures = self.failures.lock();
        if failures.len() < MAX_FAILURES {
            failures.insert(at - at % PAGE);
        }
    }

    /// Whether libpmem takes the whole region for persistent memory.
    #[cfg(feature = "libpmem")]
    pub fn libpmem_is_pmem(&self) -> bool {
        let len = usize::try_from(self.len()).unwrap_or(usize::MAX);
        crate::libpmem::is_pmem(self.mapping.base(), len)
    }

    /// What libpmem says of caches of this machine: whether they survive a power failure; `None` if unknown.
    #[cfg(feature = "libpmem")]
    pub fn libpmem_has_auto_flush() -> Option<bool> {
        crate::libpmem::has_auto_flush()
    }

    /// Pushes what is durable by fences past the last buffers that software can empty, between the caches and the
    /// medium: it is there then even if the platform fails to save those when power fails. Slow; platforms of
    /// persistent memory save them (ADR). As the kernel's `nvdimm_flush`, which the kernel's own filesystems call for
    /// fsync(2) and when they are unmounted.
    ///
    /// # Durability
    /// What fences had made durable before is on the medium.
    ///
    /// # Errors
    /// `Io`: what fsync(2) gives for a file; for a device, that the region's `deep_flush` in sysfs cannot be written,
    /// which takes root.
    pub fn deep_flush(&self) -> Result<()> {
        match self.mapping.source() {
            Some(source) if self.persistence != Persistence::ProcessOnly => source.deep_flush(),
            _ => Ok(()),
        }
    }
}

#[cold]
fn out_of_bounds(at: u64, len: u64, region_len: u64) -> RegionError {
    RegionError::OutOfBounds { at, len, region_len }
}

#[cold]
fn misaligned(at: u64, align: u64) -> RegionError {
    RegionError::Misaligned { at, align }
}

fn find_persistence(mapping: &Mapping, wants_msync: bool) -> Persistence {
    let Some(source) = mapping.source() else {
        return Persistence::ProcessOnly;
    };
    let sysfs = Path::new(SYSFS);
    let (directory, can_msync) = match source.kind() {
        Kind::Device(device) if domain::is_persistent(&device.directory) => {
            (Some(device.directory.clone()), false)
        }
        Kind::Device(_) | Kind::File { is_memory: true, .. } => return Persistence::ProcessOnly,
        Kind::File { .. } if !mapping.is_synchronous() => {
            return if wants_msync {
                Persistence::Msync
            } else {
                Persistence::ProcessOnly
            };
        }
        Kind::File { .. } => (source.device_directory(sysfs), true),
    };
    if !access::CAN_FLUSH {
        return if can_msync {
            Persistence::Msync
        } else {
            Persistence::ProcessOnly
        };
    }
    if domain::is_eadr(sysfs, directory.as_deref()) {
        Persistence::Eadr
    } else {
        Persistence::Flush
    }
}
