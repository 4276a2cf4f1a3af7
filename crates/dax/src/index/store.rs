//! The index over an [`XArray`] of values.

use udax_sync::Order;
use udax_xarray as xarray;
use udax_xarray::{Found, XArray};

use super::{Mark, Slot};
use crate::{Entry, PageRange};

impl Mark {
    fn in_array(self) -> xarray::Mark {
        match self {
            Self::Dirty => xarray::Mark::One,
        }
    }
}

fn slot_of(found: Found<u64>) -> Slot {
    Slot {
        start: found.start,
        entry: Entry::from_raw(found.entry),
    }
}

/// What a writer finds; there are only values.
fn value_of(found: Found<xarray::Entry<std::convert::Infallible>>) -> Option<Slot> {
    let entry = found.entry.value()?;
    Some(Slot {
        start: found.start,
        entry: Entry::from_raw(entry),
    })
}

fn word(entry: Entry) -> xarray::Entry<std::convert::Infallible> {
    xarray::Entry::Value(entry.raw())
}

/// Makes several looks cheaper than each alone.
pub(crate) type Looks = xarray::ReadSection;

#[derive(Debug)]
pub(crate) struct Index {
    array: XArray,
}

impl Index {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            array: XArray::new(order),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.array.is_empty()
    }

    pub(crate) fn has_mark(&self, mark: Mark) -> bool {
        self.array.has_mark(mark.in_array())
    }

    /// The entry at `page`: the old one or the new one beside a writer.
    #[inline]
    pub(crate) fn load(&self, page: u64) -> Option<Slot> {
        self.array.load_value(page).map(slot_of)
    }

    #[inline]
    pub(crate) fn is_marked(&self, page: u64, mark: Mark) -> bool {
        self.array.is_marked(page, mark.in_array())
    }

    pub(crate) fn write(&self) -> Writer<'_> {
        Writer {
            writer: self.array.write(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Writer<'i> {
    writer: xarray::Writer<'i, std::convert::Infallible>,
}

impl Writer<'_> {
    /// The first entry that has a page of the range.
    pub(crate) fn next(&self, pages: PageRange) -> Option<Slot> {
        let found = self.writer.next(pages.first()..=pages.last())?;
        value_of(found)
    }

    /// As [`Writer::next`], of the entries with the mark.
    pub(crate) fn next_marked(&self, pages: PageRange, mark: Mark) -> Option<Slot> {
        let range = pages.first()..=pages.last();
        value_of(self.writer.next_marked(range, mark.in_array())?)
    }

    /// Puts an entry where there is none.
    ///
    /// # Panics
    /// There is one.
    pub(crate) fn put(&mut self, slot: Slot) {
        let order = slot.entry.size().order();
        let result = self.writer.store(slot.start, order, word(slot.entry));
        assert!(matches!(result, Ok(None)), "{slot:?} is put where {result:?} is");
    }

    /// Puts `new` in the place of `old`, whose size and marks it has.
    ///
    /// # Panics
    /// `old` is not there: a lock bit was given back that nobody had.
    pub(crate) fn replace(&mut self, old: Slot, new: Slot) {
        let result = self
            .writer
            .compare_exchange(old.start, &word(old.entry), word(new.entry));
        if let Err(error) = result {
            panic!("{old:?} is not there: {error}");
        }
    }

    /// Takes the entry at `page` out, with its marks.
    pub(crate) fn erase(&mut self, page: u64) -> Option<Slot> {
        value_of(self.writer.erase(page)?)
    }

    /// Makes page entries, as `each` says, out of the large one; they have its marks.
    ///
    /// # Panics
    /// There is no large one.
    pub(crate) fn split(&mut self, slot: Slot, each: impl Fn(u64) -> Entry) {
        let result = self.writer.split(slot.start, 0, |page| word(each(page)));
        if let Err(error) = result {
            panic!("{slot:?} cannot be split: {error}");
        }
    }

    pub(crate) fn is_marked(&self, page: u64, mark: Mark) -> bool {
        self.writer.is_marked(page, mark.in_array())
    }

    pub(crate) fn set_mark(&mut self, page: u64, mark: Mark) {
        self.writer.set_mark(page, mark.in_array());
    }

    pub(crate) fn clear_mark(&mut self, page: u64, mark: Mark) {
        self.writer.clear_mark(page, mark.in_array());
    }
}
