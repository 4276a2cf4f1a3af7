//! The instructions of one region, chosen once: copies, stores past the cache, flushes, fences.

use crate::access::{self, CopyFn, FlushFn, StreamFn};
use crate::options::Backend;

/// What waits for flushes and stores past the cache.
#[derive(Clone, Copy, Debug)]
enum Drain {
    Native,
    #[cfg(feature = "libpmem")]
    Libpmem,
}

/// The instructions of one region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine {
    /// The fastest copy.
    pub(crate) copy: CopyFn,
    /// Stores past the cache.
    pub(crate) stream: StreamFn,
    /// Writes lines back; `None` where that is not needed.
    pub(crate) flush: Option<FlushFn>,
    drain: Drain,
}

impl Engine {
    /// The engine of `backend`, which writes lines back where `flushes` says so.
    pub(crate) fn new(backend: Backend, flushes: bool) -> Self {
        match backend {
            Backend::Native => Self {
                copy: access::select_copy(),
                stream: access::select_stream(),
                flush: flushes.then(access::select_flush),
                drain: Drain::Native,
            },
            #[cfg(feature = "libpmem")]
            Backend::Libpmem => Self {
                copy: access::select_copy(),
                stream: crate::libpmem::stream,
                flush: flushes.then_some(crate::libpmem::flush),
                drain: Drain::Libpmem,
            },
        }
    }

    /// Waits for this thread's flushes and stores past the cache.
    #[inline(always)]
    pub(crate) fn drain(&self) {
        match self.drain {
            Drain::Native => access::drain(),
            #[cfg(feature = "libpmem")]
            Drain::Libpmem => crate::libpmem::drain(),
        }
    }
}
