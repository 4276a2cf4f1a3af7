//! Mapped persistent memory.
//!
//! A [`Region`] is a mapping of a device, a file or anonymous memory. All access is by bounds-checked offsets: no
//! reference into the region is ever given out, because another thread, process or device may write there.
//!
//! What stores need to survive a power failure is found once, at map time: [`Region::persistence`]. A [`Recorder`]
//! sees every store, flush and fence; the code that ships is the code that is watched.
//!
//! Modules: `region` is the public object; `source` opens, locks and sizes files and devices; `mapping` owns the
//! address range; `domain` finds the persistence domain; `medium` tells people about it; `engine` chooses the
//! processor's instructions out of
//! `access`, where all loads and stores of mapped memory are; `msync` remembers what a fence must msync; `bad` which
//! pages are known to be bad; `told` what the kernel says of them by a signal.
//!
//! # Media errors
//! Every load, store, read-modify-write and flush of mapped memory is an instruction listed in a table. When one
//! raises SIGBUS, a process-wide handler sends it to its fix-up, and the caller gets [`RegionError::Media`]. Nothing
//! is mapped over the failing page and no value is made up. The handler is installed with the first region and hands
//! every other SIGBUS to the handler that was there before; a handler installed later must do likewise. A thread that
//! blocks SIGBUS dies of it. A signal of the kernel's own accord, that a page of a region has lost its bytes, makes
//! that page known as bad, and nothing else.
//!
//! Pages that are known to be bad are not touched at all (`region/poison`), until a store covers one as a whole.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("udax-pmem needs 64-bit Linux");

mod access;
mod bad;
mod domain;
mod engine;
mod error;
#[cfg(feature = "libpmem")]
mod libpmem;
mod mapping;
mod medium;
mod msync;
mod options;
mod recorder;
mod region;
mod source;
mod told;

pub use error::RegionError;
pub use medium::Medium;
pub use options::{Backend, DEFAULT_RESERVE, Persistence, RegionOptions};
pub use recorder::{CountingRecorder, Counts, Event, OwnedEvent, Recorder, TraceRecorder, Traced};
pub use region::Region;

/// Bytes in a cache line: the unit of flushes and of non-temporal stores.
pub const LINE: u64 = 64;

type Result<T> = std::result::Result<T, RegionError>;
