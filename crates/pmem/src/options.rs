//! How regions are opened, and what they promise.

use std::sync::Arc;

use crate::Recorder;

/// Address space that is reserved by default, so that a region can grow in place: 64 GiB.
pub const DEFAULT_RESERVE: u64 = 1 << 36;

/// What must be done so that stores survive a power failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persistence {
    /// Caches are in the power-fail domain: a fence suffices.
    Eadr,
    /// Lines must be flushed, then fenced.
    Flush,
    /// The mapping is of the page cache: only msync makes stores survive a power failure, and fences do it.
    Msync,
    /// Stores survive the death of the process, not a power failure. (Anonymous memory survives neither.)
    ProcessOnly,
}

/// Whose instructions flush, fence and copy past the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Our own.
    #[default]
    Native,
    /// Those of libpmem. It is not written to survive a SIGBUS, so each page is touched before it is called: a page
    /// that fails between the two kills the process.
    #[cfg(feature = "libpmem")]
    Libpmem,
}

/// How to open a region.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// Map without write permission, and share the lock with other readers.
    pub read_only: bool,
    /// Keep what is stored in this process's memory, and change nothing of the file, which is opened and locked as with
    /// `read_only` (that counts, where both are set). DAX devices refuse it. What is said of durability is what the
    /// medium would promise.
    pub private: bool,
    /// On a file that is not DAX: let fences msync, so that they survive a power failure. Ignored where msync cannot
    /// help: on tmpfs and on anonymous memory.
    pub msync: bool,
    /// Where stores need no flush because nothing survives a power failure anyway ([`Persistence::ProcessOnly`]):
    /// flush all the same, so that measured costs are those of persistent memory. On by default.
    pub emulate_flush: bool,
    /// Bytes of address space to reserve, the most that the region can grow to. It costs no memory.
    pub reserve: u64,
    /// Whose instructions are used.
    pub backend: Backend,
    /// Sees every store from the start.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl Default for RegionOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            private: false,
            msync: false,
            emulate_flush: true,
            reserve: DEFAULT_RESERVE,
            backend: Backend::default(),
            recorder: None,
        }
    }
}
