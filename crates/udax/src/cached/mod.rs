//! Files without DAX: what ties inodes to their part of the page cache (`udax_pagecache`).
//!
//! Whether a file is cached is a property of its inode object: it follows from the mount's [`DaxMode`] and the inode's
//! flag, and changes only with the inode's lock held alone and nobody reaching the file's pages (`switch`). A cached
//! file is read and written through its [`Mapping`] (`io`), which reaches the pool through [`Beneath`], lent for one
//! call with the inode's lock: shared to read, alone to write and to write back.
//!
//! What such a file has only in memory is its dirty pages, the end that they have given it
//! ([`InodeState::pending_size`]), and its times. Every operation that is not a read or a write first *settles* the
//! file (`settle`): all that is written to the pool, and the cache is empty. So those operations know nothing of the
//! cache.
//!
//! # Invariants
//! - The size in the pool covers only bytes that were written there or were never dirty: write-back goes on from the
//!   old end upwards, and publishes the end up to the first page that is still dirty.
//! - A cached file has no entries in a DAX mapping, a DAX file no folios.
//! - A file with dirty pages stays in memory: the cache's list of dirty files has it.
//!
//! # Locks
//! The inode's, then those of `udax_pagecache`. A writer is throttled before it takes any.

mod beneath;
mod io;
mod settle;
mod switch;
mod together;

use std::sync::{Arc, Weak};

use udax_media::inode::{FileKind, InodeFlags};
use udax_pagecache::{CacheError, CacheOptions, Control, Flusher, Mapping, Owner, Stability, Written};
use udax_sync::atomic::AtomicU64;

use crate::error::Error;
use crate::inode::attributes::now;
use crate::inode::{Inode, InodeState};
use crate::options::{DaxMode, MountOptions};
use crate::pool::Pool;

pub(crate) use beneath::Beneath;
pub(crate) use io::CachedHandle;

/// An inode's part of the page cache.
#[derive(Debug)]
pub(crate) struct CachePart {
    pub(crate) mapping: Arc<Mapping>,
    pool: Weak<Pool>,
}

/// How a file's bytes are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// In the pool, by memory access.
    Direct,
    /// Through the page cache.
    Cached,
}

impl Way {
    /// That of an inode with these flags.
    pub(crate) fn of(pool: &Pool, kind: FileKind, flags: InodeFlags) -> Self {
        let is_cached = match pool.options.dax {
            // What is on a data device is not reached by memory access.
            DaxMode::Always => pool.disk.is_some() && !flags.contains(InodeFlags::DAX),
            DaxMode::Never => true,
            DaxMode::Inode => !flags.contains(InodeFlags::DAX),
        };
        if is_cached && kind == FileKind::Regular {
            Self::Cached
        } else {
            Self::Direct
        }
    }
}

/// The page cache of a pool that is opened so, over its count of free blocks.
pub(crate) fn new_cache(options: &MountOptions, free: Arc<AtomicU64>) -> Arc<udax_pagecache::Cache> {
    let default = CacheOptions::default();
    let sizes = CacheOptions {
        bytes: match options.cache_bytes {
            0 => default.bytes,
            bytes => bytes,
        },
        dirty_bytes: options.dirty_bytes,
        file_dirty_bytes: options.file_dirty_bytes,
        ..default
    };
    udax_pagecache::Cache::new(&sizes, udax_pagecache::Reservations::new(free))
}

impl Inode {
    /// Its part of the cache, if it was ever read or written through it.
    pub(crate) fn cached(&self) -> Option<&CachePart> {
        self.cache_part.get()
    }

    /// Its part of the cache, made if need be.
    pub(crate) fn cached_or_make(self: &Arc<Self>, pool: &Arc<Pool>) -> &CachePart {
        self.cache_part.get_or_init(|| {
            let this: Weak<Self> = Arc::downgrade(self);
            // A write goes to the pool with the inode's lock held alone, as does all that stores to the cache.
            let mapping = Mapping::new(&pool.cache, self.ino.raw(), this, Stability::Stable);
            CachePart {
                mapping,
                pool: Arc::downgrade(pool),
            }
        })
    }

    /// Blocks that are reserved for its dirty pages.
    pub(crate) fn unmapped_blocks(&self) -> u64 {
        self.cached().map_or(0, |part| part.mapping.reserved_pages())
    }
}

impl Owner for Inode {
    fn mapping(&self) -> &Arc<Mapping> {
        let part = self.cached().expect("only an inode with a mapping owns one");
        &part.mapping
    }

    /// For flushers, and for writers that wait for room.
    fn write_back(&self, control: Control) -> Result<Written, CacheError> {
        // A pool that is being closed writes by itself.
        let Some(pool) = self.cached().and_then(|part| part.pool.upgrade()) else {
            return Ok(Written::default());
        };
        let mut hold = match self.write_lendable() {
            // It was freed: what was dirty is nobody's.
            Err(Error::Stale(_)) => return Ok(Written::default()),
            other => other.map_err(into_cache_error)?,
        };
        pool.write_dirty(self, &mut hold, control)
            .map_err(into_cache_error)
    }
}

impl InodeState {
    /// The content of a cached file has changed now, which nothing on media tells.
    fn note_modified(&mut self, inode: &Inode) {
        self.lazy.modified = Some(now());
        self.lazy.changes += 1;
        inode.note_close_work();
    }

    /// Bytes of the file, of which `written` are in the pool.
    pub(crate) fn size(&self, written: u64) -> u64 {
        self.pending_size.unwrap_or(written).max(written)
    }
}

impl Pool {
    /// Has dirty pages written in the background from now on. Without threads they are written by who waits.
    pub(crate) fn start_flusher(&self) {
        if self.options.no_flusher || self.cache.has_flusher() {
            return;
        }
        match Flusher::start(&self.cache) {
            Ok(started) => {
                // Somebody may have been faster: then this one ends again, without the lock.
                let second = self.flusher.lock().replace(started);
                drop(second);
            }
            Err(error) => tracing::warn!(%error, "no thread for write-back: writers write"),
        }
    }

    /// Waits for the flusher to end; the next write starts another.
    pub(crate) fn stop_flusher(&self) {
        let flusher = self.flusher.lock().take();
        drop(flusher);
    }
}

/// An error of the filesystem on its way through the cache.
pub(crate) fn into_backing_error(error: Error) -> udax_pagecache::BackingError {
    udax_pagecache::BackingError::new(error.errno(), error)
}

fn into_cache_error(error: Error) -> CacheError {
    match error {
        Error::Cache(error) => error,
        error => into_backing_error(error).into(),
    }
}

impl From<CacheError> for Error {
    /// What came from the filesystem is itself again.
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Backing(error) => {
                let errno = error.errno();
                match error.into_source().downcast::<Self>() {
                    Ok(error) => *error,
                    Err(source) => Self::Cache(udax_pagecache::BackingError::new(errno, source).into()),
                }
            }
            error => Self::Cache(error),
        }
    }
}
