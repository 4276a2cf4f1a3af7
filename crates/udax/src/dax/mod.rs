//! Files as memory: what ties inodes to their mappings (`udax_dax`).
//!
//! An inode gets its [`Mapping`] with its first pin. From then on whoever changes which blocks a range has, or stores
//! into blocks in place, asks here first, with the inode's lock held alone: [`Pool::break_layout`] for the former,
//! [`Pool::begin_write`] for the latter. Neither waits. What is in the way comes back as [`Error::Conflict`], which
//! unwinds the operation before it has changed anything; [`Pool::wait_and_retry`] then waits without any lock and
//! begins anew. So reads, writes and pins elsewhere in the file go on meanwhile.
//!
//! Pins are made with the inode's lock shared: while it is held alone no pin, no entry and no lease comes.
//!
//! A pin keeps a handle of its file open: what is unlinked is freed when the last pin is gone.

pub(crate) mod extents;
mod pin;
mod waiters;

use std::sync::Arc;

use smallvec::SmallVec;
use udax_dax::{
    Attempt, Broken, BrokenPair, Busy, DaxError, Fate, Mapping, Mode, PageRange, Target, WriteTicket,
    try_break_two,
};
use udax_media::FileBlock;

use crate::error::{Error, Result};
use crate::extents::END_OF_FILES;
use crate::file::File;
use crate::inode::Inode;
use crate::pool::Pool;

pub(crate) use pin::PinOwner;
pub(crate) use waiters::WaiterList;
pub use waiters::{Obstacle, Waiter};

/// What an operation has to wait for.
#[derive(Debug)]
pub struct Conflict(Kind);

#[derive(Debug)]
enum Kind {
    /// A pinned page in a range whose layout is to be broken.
    Pin(Busy),
    /// A read lease of pages that are to be written.
    Lease(Arc<Mapping>, PageRange),
}

impl Conflict {
    /// Whether it is about `inode`.
    fn is_of(&self, inode: &Inode) -> bool {
        self.place().0 == inode.ino.raw()
    }

    /// The number of the inode and the page that it is about.
    fn place(&self) -> (u64, u64) {
        match &self.0 {
            Kind::Pin(busy) => (busy.number(), busy.page()),
            Kind::Lease(mapping, pages) => (mapping.number(), pages.first()),
        }
    }

    fn obstacle(&self) -> Obstacle {
        match &self.0 {
            Kind::Pin(_) => Obstacle::Pin,
            Kind::Lease(..) => Obstacle::Lease,
        }
    }

    fn wait(&self, mode: &Mode) -> Result<()> {
        match (&self.0, mode) {
            (Kind::Lease(mapping, pages), _) => mapping.wait_to_write(*pages, mode)?,
            (Kind::Pin(busy), Mode::Until(until)) => busy.wait(until).map_err(DaxError::from)?,
            (Kind::Pin(busy), Mode::NoWait) => {
                return Err(Error::Dax(DaxError::WouldBlock {
                    page: busy.page(),
                    what: "it is pinned",
                }));
            }
        }
        Ok(())
    }
}

/// The pages of blocks `first..end`; `None` if there are none.
pub(crate) fn pages(first: FileBlock, end: FileBlock) -> Option<PageRange> {
    if end >= END_OF_FILES {
        return Some(PageRange::from_page(first.raw()));
    }
    PageRange::new(first.raw(), end.raw().saturating_sub(first.raw()))
}

impl Inode {
    /// Its mapping, if it has been pinned since it came into use.
    #[inline]
    pub(crate) fn mapping(&self) -> Option<&Arc<Mapping>> {
        self.mapping.get()
    }
}

/// Blocks of a file: the first, and the one behind the last.
type Blocks = (FileBlock, FileBlock);

/// Proof for two ranges, as far as somebody ever reached them. To be kept until the change is durable.
#[derive(Debug)]
#[expect(dead_code, reason = "a guard: what it holds is released when it is dropped")]
pub(crate) enum BothBroken<'i> {
    Alone([Option<Broken<'i>>; 2]),
    Pair(BrokenPair<'i>),
}

/// What is to be broken there; `None` if nothing of the file was ever reached.
fn target<'i>((inode, (first, end), fate): (&'i Inode, Blocks, Fate)) -> Option<Target<'i>> {
    let mapping = inode.mapping().filter(|mapping| mapping.pages() > 0)?;
    let pages = pages(first, end)?;
    Some(Target { mapping, pages, fate })
}

impl Pool {
    /// Proof that nobody reaches blocks `first..end` through a pin; `None` if nobody ever did. Keep it until the change
    /// is durable. The caller has the inode's lock alone, and has changed nothing yet.
    ///
    /// # Errors
    /// `Conflict`: a page is pinned; a media error in making dirty bytes durable.
    pub(crate) fn break_layout<'i>(
        &self,
        inode: &'i Inode,
        blocks: Blocks,
        fate: Fate,
    ) -> Result<Option<Broken<'i>>> {
        self.break_ranges(inode, &[blocks], fate)
    }

    /// As [`Pool::break_layout`], for several ranges at once.
    ///
    /// # Errors
    /// As [`Pool::break_layout`]; then none is broken.
    pub(crate) fn break_ranges<'i>(
        &self,
        inode: &'i Inode,
        ranges: &[Blocks],
        fate: Fate,
    ) -> Result<Option<Broken<'i>>> {
        // With the inode locked alone no entry can come.
        let Some(mapping) = inode.mapping().filter(|mapping| mapping.pages() > 0) else {
            return Ok(None);
        };
        let ranges = ranges.iter().filter_map(|(first, end)| pages(*first, *end));
        let ranges: SmallVec<[(PageRange, Fate); 2]> = ranges.map(|pages| (pages, fate)).collect();
        if ranges.is_empty() {
            return Ok(None);
        }
        match mapping.try_break_all(&ranges)? {
            Attempt::Broken(broken) => Ok(Some(broken)),
            Attempt::Busy(busy) => Err(Error::Conflict(Conflict(Kind::Pin(busy)))),
        }
    }

    /// As [`Pool::break_layout`], for two ranges at once, of two files or of one. The caller has both inodes' locks
    /// alone.
    ///
    /// # Errors
    /// As [`Pool::break_layout`]; then neither is broken.
    pub(crate) fn break_two<'i>(
        &self,
        one: (&'i Inode, Blocks, Fate),
        other: (&'i Inode, Blocks, Fate),
    ) -> Result<BothBroken<'i>> {
        let (Some(first), Some(second)) = (target(one), target(other)) else {
            let alone = |(inode, blocks, fate)| self.break_layout(inode, blocks, fate);
            let broken = [alone(one)?, alone(other)?];
            return Ok(BothBroken::Alone(broken));
        };
        match try_break_two(first, second)? {
            Attempt::Broken(pair) => Ok(BothBroken::Pair(pair)),
            Attempt::Busy(busy) => Err(Error::Conflict(Conflict(Kind::Pin(busy)))),
        }
    }

    /// Keeps read leases of the `len` bytes from `at` away; `None` if the file was never leased. Keep it until what is
    /// stored is fenced. The caller has the inode's lock alone.
    ///
    /// # Errors
    /// `Conflict`: there is one.
    #[inline]
    pub(crate) fn begin_write<'i>(
        &self,
        inode: &'i Inode,
        at: u64,
        len: u64,
    ) -> Result<Option<WriteTicket<'i>>> {
        let Some(mapping) = inode.mapping() else {
            return Ok(None);
        };
        let Some(pages) = PageRange::of_bytes(at, len) else {
            return Ok(None);
        };
        match mapping.begin_write(pages, &Mode::NoWait) {
            Ok(ticket) => Ok(Some(ticket)),
            Err(DaxError::WouldBlock { .. }) => {
                Err(Error::Conflict(Conflict(Kind::Lease(Arc::clone(mapping), pages))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes durable what was stored through pins of `inode`.
    pub(crate) fn write_back(&self, inode: &Inode) -> Result<()> {
        let Some(mapping) = inode.mapping().filter(|mapping| mapping.has_dirty()) else {
            return Ok(());
        };
        mapping.write_back_range(PageRange::ALL)?;
        // What is dirty still is pinned for writing, and may be stored to all the time.
        if mapping.has_dirty() {
            let _state = inode.write()?;
            inode.note_stored();
        }
        Ok(())
    }

    /// At the end of a truncation: nothing of blocks `first..end` is reached any more, or it is told and counted, and
    /// in debug builds a panic.
    pub(crate) fn verify_unreached(&self, inode: &Inode, (first, end): (FileBlock, FileBlock)) {
        if let (Some(mapping), Some(pages)) = (inode.mapping(), pages(first, end))
            && let Err(error) = mapping.truncate(pages)
        {
            tracing::error!(ino = inode.ino.raw(), %error, "freed blocks are still reached");
        }
    }

    /// Tells views that holes of blocks `first..end` were filled. The caller has the inode's lock alone.
    pub(crate) fn note_filled(&self, inode: &Inode, (first, end): (FileBlock, FileBlock)) {
        if let (Some(mapping), Some(pages)) = (inode.mapping(), pages(first, end))
            && mapping.pages() > 0
        {
            mapping.invalidate_clean(pages);
        }
    }

    /// Does `attempt` of `operation` until nothing is in its way, waiting between as `mode` says, without locks.
    pub(crate) fn wait_and_retry<T>(
        &self,
        operation: &'static str,
        mode: &Mode,
        attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        self.wait_by(operation, |_| mode, attempt)
    }

    /// As [`Pool::wait_and_retry`] for an operation from one open file to another: each one's pins are waited for as
    /// its handle says; if both are the same file, as the second one does.
    pub(crate) fn wait_for_both<T>(
        &self,
        operation: &'static str,
        (from, to): (&File, &File),
        attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mode_for = |conflict: &Conflict| {
            if conflict.is_of(to.inode()) {
                to.wait()
            } else {
                from.wait()
            }
        };
        self.wait_by(operation, mode_for, attempt)
    }

    fn wait_by<'m, T>(
        &self,
        operation: &'static str,
        mode_for: impl Fn(&Conflict) -> &'m Mode,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        // The last conflict keeps new pins of its range back until the next attempt is over.
        let mut last: Option<Conflict> = None;
        loop {
            match attempt() {
                Err(Error::Conflict(conflict)) => {
                    drop(last.take());
                    let listed = self
                        .waiters
                        .enter(operation, conflict.place(), conflict.obstacle());
                    conflict.wait(mode_for(&conflict))?;
                    drop(listed);
                    last = Some(conflict);
                }
                other => return other,
            }
        }
    }
}
