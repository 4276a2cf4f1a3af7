//! Open files and directories.
//!
//! A [`File`] keeps its inode alive: an unlinked file stays readable and writable until its last handle is dropped.
//! Every operation takes the inode's lock, shared to read, alone to change; operations on different files meet only
//! in the allocator and the journal, where they seldom share anything.

mod allocate;
mod checksums;
mod clone;
mod copy;
mod edges;
mod exchange;
mod layout;
mod lost;
mod maps;
mod open;
mod pieces;
mod punch;
mod read;
mod rebuild;
mod relocate;
mod seek;
mod shift;
pub(crate) mod summed;
mod truncate;
mod unshare;
mod write;

use std::sync::Arc;

use udax_dax::Mode;
use udax_media::inode::FileKind;
use udax_sync::OnceLock;
use udax_sync::atomic::AtomicBool;

use crate::cached::CachedHandle;
use crate::dax::PinOwner;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::options::{DirEntry, OpenFlags, SetAttributes, Stat, XattrMode};
use crate::pool::Pool;

pub(crate) use open::{open, open_inode};
pub(crate) use pieces::{Aim, Origin, Piece, Pieces, Treatment};
pub(crate) use read::in_use;
pub(crate) use write::{Cause, fitting};

/// An open file or directory. `Send + Sync`; every operation names its offset, there is no file position.
#[derive(Debug)]
pub struct File {
    pool: Arc<Pool>,
    inode: Arc<Inode>,
    flags: OpenFlags,
    /// Whether operations wait for pins and leases.
    wait: Mode,
    /// Something was read: the access time's age has been looked at.
    has_read: AtomicBool,
    /// What this handle's pins keep; since the first pin.
    pin_owner: OnceLock<Arc<PinOwner>>,
    /// What it remembers of a cached file.
    cached: CachedHandle,
}

impl File {
    /// A handle of an inode whose open count includes it already.
    fn new(pool: &Arc<Pool>, inode: Arc<Inode>, flags: OpenFlags, wait: Mode) -> Self {
        Self {
            cached: CachedHandle::new(pool, &inode),
            pool: Arc::clone(pool),
            inode,
            flags,
            wait,
            has_read: AtomicBool::new(false),
            pin_owner: OnceLock::new(),
        }
    }

    /// As [`File::new`], for those who make files by number.
    pub(crate) fn of_counted(pool: &Arc<Pool>, inode: Arc<Inode>, flags: OpenFlags) -> Self {
        Self::new(pool, inode, flags, Mode::wait())
    }

    /// The same open file as one more handle, whose operations wait for pins and leases as `mode` says. Without this
    /// they wait however long it takes, as Linux's do; a deadline gives `Dax(Wait(TimedOut))`, a cancellation
    /// `Dax(Wait(Cancelled))`, and `NoWait` gives `Dax(WouldBlock)`. An operation that gives up has changed nothing
    /// that shows, but that pins and leases may have filled holes. An operation on two files waits for each one's pins
    /// as that one's handle says.
    ///
    /// What waits before there is a handle is told by [`OpenOptions::wait`](crate::OpenOptions::wait) and
    /// [`truncate_waiting`].
    ///
    /// Locks of other operations are waited for in any mode: nobody waits for a pin or a lease with one.
    ///
    /// [`truncate_waiting`]: crate::Filesystem::truncate_waiting
    #[must_use]
    pub fn waiting(&self, mode: Mode) -> Self {
        self.inode.count_open();
        Self::new(&self.pool, Arc::clone(&self.inode), self.flags, mode)
    }

    pub(crate) fn wait(&self) -> &Mode {
        &self.wait
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What a pin of this handle keeps: the file stays open with it. The caller has the inode's lock.
    pub(crate) fn pin_owner(&self) -> Arc<PinOwner> {
        let owner = self.pin_owner.get_or_init(|| {
            self.inode.count_open();
            Arc::new(PinOwner {
                pool: Arc::clone(&self.pool),
                inode: Arc::clone(&self.inode),
            })
        });
        Arc::clone(owner)
    }

    pub(crate) fn inode(&self) -> &Inode {
        &self.inode
    }

    pub(crate) fn inode_arc(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// Whether reads and writes go past the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.flags.contains(OpenFlags::DIRECT)
    }

    pub(crate) fn cached_handle(&self) -> &CachedHandle {
        &self.cached
    }

    pub(crate) fn belongs_to(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    pub(crate) fn check_readable(&self) -> Result<()> {
        if self.inode.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if !self.flags.contains(OpenFlags::READ) {
            return Err(Error::BadHandle("reading"));
        }
        Ok(())
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if !self.flags.contains(OpenFlags::WRITE) {
            return Err(Error::BadHandle("writing"));
        }
        self.pool.check_writable()
    }

    /// What `fstat` tells.
    ///
    /// # Errors
    /// A media error.
    pub fn stat(&self) -> Result<Stat> {
        let state = self.inode.read()?;
        self.pool.stat_inode(&self.inode, &state)
    }

    /// Makes durable what was stored through pins, and lazy times; of a file without DAX, its data and size. Those of a
    /// DAX file are durable already when a write returns (`fsync`).
    ///
    /// # Errors
    /// A media error; what hindered writing back, now or since this handle was told last: each open file is told once.
    /// What could not be written is tried again by the next sync; what a data device has taken and failed to flush is
    /// not, and may be lost.
    ///
    /// # Durability
    /// Everything done to the file before. No fence when there is nothing lazy; else one, and one for every 16 pages
    /// that were stored to through pins, or 2 MiB at once.
    pub fn sync(&self) -> Result<()> {
        // What fails here was told; the rest is tried all the same.
        let cached = self.sync_cached();
        let flushed = self.sync_disk();
        // Without the inode's lock: reads and writes go on.
        let stored = self.pool.write_back(&self.inode);
        // Every write has fenced its own stores.
        let timed = self
            .inode
            .write()
            .and_then(|mut state| self.pool.flush_times(&self.inode, &mut state));
        // What was told is told to this handle once: it comes before what will be met again.
        cached.and(flushed).and(stored).and(timed)
    }

    /// Changes attributes; gives the new ones (`fchmod`, `fchown`, `futimens`).
    ///
    /// # Errors
    /// `Invalid` for permission bits or nanoseconds out of their range; `ReadOnly`.
    ///
    /// # Durability
    /// Durable on return: one fence.
    pub fn set_attributes(&self, set: SetAttributes) -> Result<Stat> {
        self.pool.set_attributes(&self.inode, set)
    }

    /// At most `limit` entries of this directory after position `cookie` (0: from the start, with `.` and `..`). An
    /// empty answer is the end. Entries that exist throughout are given exactly once, whatever else changes.
    ///
    /// # Errors
    /// `NotDirectory`; a damaged directory.
    pub fn read_dir(&self, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        self.pool.read_dir(&self.inode, cookie, limit)
    }

    /// The value of extended attribute `name`.
    ///
    /// # Errors
    /// `NoAttribute`, `NotSupported` for an unknown namespace, `NameTooLong`; a damaged value.
    pub fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.pool.xattr(&self.inode, name)
    }

    /// Sets extended attribute `name`, atomically.
    ///
    /// # Errors
    /// As [`File::xattr`]; `Exists` or `NoAttribute` by `mode`; `AttributeTooLarge`; `NoSpace`.
    ///
    /// # Durability
    /// Durable on return.
    pub fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.pool.set_xattr(&self.inode, name, value, mode)
    }

    /// Removes extended attribute `name`.
    ///
    /// # Errors
    /// As [`File::xattr`].
    pub fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.pool.remove_xattr(&self.inode, name)
    }

    /// The full names of all extended attributes.
    ///
    /// # Errors
    /// A damaged attribute tree.
    pub fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        self.pool.collect_xattrs(&self.inode)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.pool.close_handle(&self.inode);
    }
}

impl Pool {
    /// One handle of `inode` less.
    pub(crate) fn close_handle(&self, inode: &Inode) {
        if inode.count_close() {
            self.do_close_work(inode);
        }
    }

    /// Whoever knows `inode` forgets it: what there is to do without a handle is done.
    pub(crate) fn finish_use(&self, inode: &Inode) {
        if inode.has_close_work() && !inode.is_open() {
            self.do_close_work(inode);
        }
    }

    fn do_close_work(&self, inode: &Inode) {
        if let Err(error) = self.last_close(inode) {
            tracing::error!(ino = inode.ino.raw(), %error, "closing a file failed");
        }
    }

    pub(crate) fn read_dir(&self, inode: &Inode, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        if inode.kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        let state = inode.read()?;
        let entries = self.collect_entries(inode, cookie, limit)?;
        // Once for each listing.
        if cookie == 0 {
            self.note_access(inode, state, true);
        }
        Ok(entries)
    }

    /// What the last close of an inode has to do: give back blocks taken ahead, write lazy times, free an orphan, give
    /// sums to what was pinned for writing.
    fn last_close(&self, inode: &Inode) -> Result<()> {
        let mut state = match inode.write() {
            Err(Error::Stale(_)) => return Ok(()),
            other => other?,
        };
        // Somebody may have opened it while we waited: then the work is theirs.
        if inode.is_open() {
            return Ok(());
        }
        inode.clear_close_work();
        if let Some(window) = state.window.take() {
            self.give_back(window);
        }
        if self.check_writable().is_err() {
            return Ok(());
        }
        if self.inode_nlink(inode)? == 0 {
            return self.finish_orphan(inode, &mut state);
        }
        if state.is_unsummed && self.is_summed(inode)? {
            self.retry_when_full(|| self.sum_file(inode, &mut state))?;
        }
        self.flush_times(inode, &mut state)
    }
}
