//! What this crate asks of a filesystem and of address spaces: [`Extents`] and [`Unmap`].

use crate::{Access, DaxError, PageRange, Size};

/// What the filesystem has at a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Data, in blocks of the device.
    Mapped {
        /// Block (of 4096 bytes) of the page asked for; the device's offset divided by 4096.
        block: u64,
        /// Whether other files, or other pages, have the block too.
        shared: bool,
    },
    /// Nothing, or blocks that were never written: reads as zeros.
    Hole,
}

/// A run of a file's pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// What is there.
    pub content: Content,
    /// So many pages from the one asked for are alike; their blocks follow each other. At least 1.
    pub pages: u64,
}

/// Where a file's pages are.
///
/// # Locks
/// Called with the mapping's invalidate lock shared and the entry of the page locked: it may take locks of higher rank
/// than `Entry`. What it says stays true until the layout is broken: whoever changes the extents of a range, other than
/// filling holes, holds a [`crate::Broken`] of it.
pub trait Extents {
    /// What is at `page`, and if that is cheap, how much of `size` is alike.
    ///
    /// # Errors
    /// `BeyondEnd`; `NeedsAllocation` and `NeedsCopy` if it knows better than `access` does; `Extent` for its own.
    fn extent(&self, page: u64, size: Size, access: Access) -> Result<Extent, DaxError>;
}

/// Which translations an unmapping takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copies {
    /// Only those of the file's own pages: private copies stay.
    Keep,
    /// Private copies too.
    Unmap,
}

/// An address space, or whatever else reaches a mapping's pages without a pin: a view.
///
/// # Locks
/// Called with the mapping's invalidate lock held or an entry locked. It must not call the mapping, nor wait for
/// somebody who does.
pub trait Unmap: Send + Sync {
    /// Takes the translations of the range away; when it returns, nobody reaches the pages through it any more, and
    /// who still had a pin by it is counted.
    fn unmap(&self, pages: PageRange, copies: Copies);

    /// Makes the translations of the range read-only; the next store faults.
    fn write_protect(&self, pages: PageRange);
}
