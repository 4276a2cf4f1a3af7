//! Iteration without a lock.

use std::fmt;
use std::ops::RangeInclusive;

use crate::array::XArray;
use crate::entry::{Entry, Found, Mark};
use crate::reclaim::Pin;
use crate::search::Wanted;

/// An iterator over entries that holds nothing between its steps: it can be kept for as long as one likes, be moved,
/// and be made again from [`Cursor::position`].
pub struct Cursor<'a, T> {
    array: &'a XArray<T>,
    /// The next index to look at, and the last; none at the end.
    rest: Option<(u64, u64)>,
    wanted: Wanted,
}

impl<'a, T> Cursor<'a, T> {
    pub(crate) fn new(array: &'a XArray<T>, range: RangeInclusive<u64>) -> Self {
        Self {
            array,
            rest: Some(range.into_inner()).filter(|(from, last)| from <= last),
            wanted: Wanted::Any,
        }
    }

    /// From here on only entries with the mark.
    #[must_use]
    pub fn marked(mut self, mark: Mark) -> Self {
        self.wanted = Wanted::Marked(mark);
        self
    }

    /// The index from which the next step looks; none when the range is done with.
    pub fn position(&self) -> Option<u64> {
        self.rest.map(|(from, _)| from)
    }
}

impl<T> Iterator for Cursor<'_, T> {
    type Item = Found<Entry<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from, last) = self.rest.take()?;
        let pin = Pin::new();
        let found = self.array.next(&pin, from, last, self.wanted)?;
        // Past the whole entry, wherever in it the search began.
        self.rest = found
            .last()
            .checked_add(1)
            .filter(|next| *next <= last)
            .map(|next| (next, last));
        Some(found)
    }
}

impl<T> fmt::Debug for Cursor<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("rest", &self.rest)
            .field("wanted", &self.wanted)
            .finish_non_exhaustive()
    }
}
