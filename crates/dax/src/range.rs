//! Ranges of a file's pages: [`PageRange`], with an end that may be the last page there can be.

use std::fmt;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A file's pages from `first` to `last`, both included, so that "to the end" needs no number beyond all pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageRange {
    first: u64,
    last: u64,
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "page {first}"),
            (first, u64::MAX) => write!(f, "pages from {first}"),
            (first, last) => write!(f, "pages {first} to {last}"),
        }
    }
}

impl PageRange {
    /// Every page.
    pub const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// `count` pages from `first`; none when that is no page, or beyond the last there can be.
    pub fn new(first: u64, count: u64) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some(Self { first, last })
    }

    /// From `first` to the end.
    pub fn from_page(first: u64) -> Self {
        Self {
            first,
            last: u64::MAX,
        }
    }

    /// The pages that `len` bytes at `at` touch; none when that is no byte, or beyond the last there can be.
    pub fn of_bytes(at: u64, len: u64) -> Option<Self> {
        let last = at.checked_add(len.checked_sub(1)?)?;
        Some(Self {
            first: at / PAGE,
            last: last / PAGE,
        })
    }

    /// From `first` to `last`, which is not before it.
    pub(crate) fn between(first: u64, last: u64) -> Self {
        debug_assert!(first <= last, "pages {first} to {last}");
        Self { first, last }
    }

    /// The pages of an entry.
    pub(crate) fn of_entry(start: u64, pages: u64) -> Self {
        Self {
            first: start,
            last: start | (pages - 1),
        }
    }

    /// The first page.
    pub fn first(self) -> u64 {
        self.first
    }

    /// The last page.
    pub fn last(self) -> u64 {
        self.last
    }

    /// How many pages; as many as can be told for [`PageRange::ALL`].
    pub fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether they have a page in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether every page of the other is in it.
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// The pages that are in both.
    pub fn intersection(self, other: Self) -> Option<Self> {
        self.overlaps(other).then(|| Self {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        })
    }

    /// What is left from `first` on; none when that is beyond it.
    pub(crate) fn starting_at(self, first: Option<u64>) -> Option<Self> {
        let first = first.filter(|first| *first <= self.last)?;
        Some(Self {
            first: first.max(self.first),
            last: self.last,
        })
    }
}
