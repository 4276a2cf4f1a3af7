//! A mapping's index: from page to [`Entry`], with the mark DIRTY.
//!
//! Only [`Writer`] changes it; [`Index::load`] and [`Index::is_marked`] take no lock. The entries are in an
//! [`udax_xarray::XArray`]; under loom in a small array whose readers are as free.

#[cfg_attr(loom, path = "index/model.rs")]
mod store;

pub(crate) use store::{Index, Looks, Writer};

use crate::{Entry, PageRange};

/// A property by which entries are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// Changed since it was last made durable.
    Dirty,
}

/// An entry and where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) entry: Entry,
}

impl Slot {
    #[inline]
    pub(crate) fn pages(self) -> PageRange {
        PageRange::of_entry(self.start, self.entry.size().pages())
    }

    pub(crate) fn locked(self) -> Self {
        Self {
            entry: self.entry.locked(),
            ..self
        }
    }
}
