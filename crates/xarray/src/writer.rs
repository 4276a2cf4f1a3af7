//! The one writer: what changes entries and marks.
//!
//! A change becomes visible by one store: of the entry's word into its slot, or of a link to nodes that were made
//! complete before. Marks and counts above an entry follow; a lock-free search may pass an entry by while its bits are
//! on the way, but never finds what is not there.

use std::fmt;
use std::ops::RangeInclusive;

use udax_sync::MutexGuard;

use crate::array::{XArray, entry_of, value_of};
use crate::build;
use crate::entry::{Entry, Found, MAX_ORDER, MAX_VALUE, Mark, last_of};
use crate::error::{ExchangeError, SplitError, StoreError};
use crate::node::{BITS, Group, Node};
use crate::path::Path;
use crate::reclaim::Pin;
use crate::search::{self, Place, Wanted};
use crate::word::{Kind, Word};

/// A split makes at most `1 << MAX_SPLIT` pieces: those of 1 GiB in pages of 4 KiB.
const MAX_SPLIT: u8 = 18;

/// The right to change an index, until it is dropped. See [`XArray::write`].
///
/// While it lives, nothing that any index of the process has given up is freed: it is for short work.
pub struct Writer<'a, T> {
    array: &'a XArray<T>,
    // Goes before the pin.
    _lock: MutexGuard<'a, ()>,
    pin: Pin,
}

impl<'a, T> Writer<'a, T> {
    pub(crate) fn new(array: &'a XArray<T>, lock: MutexGuard<'a, ()>, pin: Pin) -> Self {
        Self {
            array,
            _lock: lock,
            pin,
        }
    }

    /// As [`XArray::load`].
    pub fn load(&self, index: u64) -> Option<Found<Entry<T>>> {
        entry_of(&self.pin, self.find(index)?, index)
    }

    /// As [`XArray::load_value`].
    pub fn load_value(&self, index: u64) -> Option<Found<u64>> {
        value_of(self.find(index)?, index)
    }

    /// The first entry that covers an index of the range.
    pub fn next(&self, range: RangeInclusive<u64>) -> Option<Found<Entry<T>>> {
        self.array
            .next(&self.pin, *range.start(), *range.end(), Wanted::Any)
    }

    /// The first entry with the mark that covers an index of the range.
    pub fn next_marked(&self, range: RangeInclusive<u64>, mark: Mark) -> Option<Found<Entry<T>>> {
        let wanted = Wanted::Marked(mark);
        self.array.next(&self.pin, *range.start(), *range.end(), wanted)
    }

    /// Puts an entry at `index`, for `1 << order` indices: into an empty place, or instead of an entry that has exactly
    /// this place. In that case the marks stay, and the old entry is given back.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed.
    pub fn store(&mut self, index: u64, order: u8, entry: Entry<T>) -> Result<Option<Entry<T>>, StoreError> {
        if order > MAX_ORDER {
            return Err(StoreError::OrderTooLarge { order });
        }
        if index & (last_of(0, order)) != 0 {
            return Err(StoreError::Misaligned { index, order });
        }
        if let Some(value) = oversized(&entry) {
            return Err(StoreError::ValueTooLarge { value });
        }
        let last = last_of(index, order);
        let Some((at, place)) = search::first_in(self.root(), index, last, Wanted::Any) else {
            self.insert(index, order, Word::from_entry(entry));
            return Ok(None);
        };
        let found = place.found(at, ());
        if (found.start, found.order) != (index, order) {
            let Found { start, order, .. } = found;
            return Err(StoreError::Conflict { start, order });
        }
        let old = entry_of(&self.pin, place, index).map(|found| found.entry);
        self.exchange(place, entry);
        Ok(old)
    }

    /// Puts `new` in the place of the entry at `index` if that is `current`; its range and marks stay.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing has changed.
    pub fn compare_exchange(
        &mut self,
        index: u64,
        current: &Entry<T>,
        new: Entry<T>,
    ) -> Result<(), ExchangeError<T>> {
        if let Some(value) = oversized(&new) {
            return Err(ExchangeError::ValueTooLarge { value });
        }
        let place = self.find(index);
        let found = place.and_then(|place| entry_of(&self.pin, place, index));
        let found = found.map(|found| found.entry);
        match place {
            Some(place) if found.as_ref() == Some(current) => {
                self.exchange(place, new);
                Ok(())
            }
            _ => Err(ExchangeError::Differs { found }),
        }
    }

    /// Removes the whole entry that covers `index`, with its marks.
    pub fn erase(&mut self, index: u64) -> Option<Found<Entry<T>>> {
        let path = self.path(index);
        let found = entry_of(&self.pin, path.entry()?, index)?;
        let mut upwards = path.upwards();
        let (mut below, slot) = upwards.next()?;
        let word = below.take(slot);
        for (node, slot) in upwards {
            if below.used() == 0 {
                let empty = node.take(slot);
                self.retire(empty);
            } else {
                let gone = Mark::ALL.into_iter().filter(|mark| below.marked(*mark) == 0);
                gone.for_each(|mark| node.clear_mark(slot, mark));
            }
            below = node;
        }
        if below.used() == 0 {
            let empty = self.array.replace_root(Word::EMPTY);
            self.retire(empty);
        }
        self.retire(word);
        self.lower();
        Some(found)
    }

    /// Replaces the entry that covers `index` by entries of a smaller order, all at once: `each` makes them, by
    /// ascending first index, which it is given. Each gets the marks of the old one.
    ///
    /// # Errors
    /// [`SplitError`]; nothing has changed.
    pub fn split(
        &mut self,
        index: u64,
        order: u8,
        mut each: impl FnMut(u64) -> Entry<T>,
    ) -> Result<(), SplitError> {
        let path = self.path(index);
        let place = path.entry().ok_or(SplitError::Absent { index })?;
        let found = place.found(index, ());
        let smaller = found.order.checked_sub(order).filter(|smaller| *smaller > 0);
        let smaller = smaller.ok_or(SplitError::NotLarger {
            order: found.order,
            pieces: order,
        })?;
        if smaller > MAX_SPLIT {
            return Err(SplitError::TooManyPieces {
                order: found.order,
                pieces: order,
            });
        }
        let pieces = (0..1_u64 << smaller).map(|number| {
            let entry = each(found.start | number << order);
            match oversized(&entry) {
                None => Ok(entry),
                Some(value) => Err(SplitError::ValueTooLarge { value }),
            }
        });
        // All of them before anything changes: `each` may panic.
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        let words = pieces.into_iter().map(Word::from_entry);
        let copy = build::split_copy(&place, order, words);
        self.link(&path, copy);
        self.retire(place.word);
        Ok(())
    }

    /// Sets a mark of the entry that covers `index`; false if there is none.
    pub fn set_mark(&mut self, index: u64, mark: Mark) -> bool {
        let path = self.path(index);
        if path.entry().is_none() {
            return false;
        }
        for (node, slot) in path.upwards() {
            if node.has_mark(slot, mark) {
                break;
            }
            node.set_mark(slot, mark);
        }
        true
    }

    /// Clears a mark of the entry that covers `index`; false if there is none.
    pub fn clear_mark(&mut self, index: u64, mark: Mark) -> bool {
        let path = self.path(index);
        if path.entry().is_none() {
            return false;
        }
        for (node, slot) in path.upwards() {
            node.clear_mark(slot, mark);
            if node.marked(mark) != 0 {
                break;
            }
        }
        true
    }

    /// Whether the entry that covers `index` has the mark.
    pub fn is_marked(&self, index: u64, mark: Mark) -> bool {
        self.find(index)
            .is_some_and(|place| place.is(Wanted::Marked(mark)))
    }

    fn root(&self) -> Option<&Node> {
        self.array.root(&self.pin)
    }

    fn find(&self, index: u64) -> Option<Place<'_>> {
        search::find(self.root(), index)
    }

    fn path(&self, index: u64) -> Path<'_> {
        Path::new(self.root(), index, 0)
    }

    /// Puts an entry, whose value is not too large, where another one is.
    fn exchange(&self, place: Place<'_>, new: Entry<T>) {
        let old = place.node.replace(place.slot, Word::from_entry(new));
        self.retire(old);
    }

    /// Puts a word that is an entry into a range without entries.
    fn insert(&self, index: u64, order: u8, word: Word) {
        let order = u32::from(order);
        let level = order / BITS * BITS;
        let len = 1 << (order % BITS);
        let last = index | ((1 << order) - 1);
        self.raise(last);
        let path = Path::new(self.root(), index, level);
        let Some((node, _)) = path.upwards().next() else {
            // Only an empty tree cannot be raised: one whose root were too low would be covered by the entry.
            debug_assert!(self.root().is_none());
            let shift = build::shift_for(last).max(level);
            self.array
                .replace_root(build::branch(shift, level, index, len, word));
            return;
        };
        let slot = node.slot_of(index);
        let (len, word) = match node.shift().checked_sub(BITS) {
            Some(below) if node.shift() > level => (1, build::branch(below, level, index, len, word)),
            _ => (len, word),
        };
        let group = Group { first: slot, len };
        if node.groups().around(slot) == group {
            node.put(slot, word);
            return;
        }
        let mut groups = node.groups();
        groups.make(group, node.used());
        let copy = node.copy_with(groups);
        copy.put(slot, word);
        self.link(&path, copy);
    }

    /// Puts a node in the place of the lowest one of the path.
    fn link(&self, path: &Path<'_>, node: Box<Node>) {
        let word = Word::from_node(node);
        let old = match path.upwards().nth(1) {
            Some((above, slot)) => above.replace(slot, word),
            None => self.array.replace_root(word),
        };
        self.retire(old);
    }

    /// Puts nodes above the root, unless there is none, until it has a slot for `index`.
    fn raise(&self, index: u64) {
        while let Some(root) = self.root().filter(|root| !root.reaches(index)) {
            let above = build::above(root);
            above.put(0, self.array.root_word());
            self.array.replace_root(Word::from_node(above));
        }
    }

    /// Takes away roots that only lead to the node in their first slot.
    fn lower(&self) {
        while let Some(root) = self.root().filter(|root| root.used() == 1) {
            let first = root.word(0);
            let Kind::Node(_) = first.kind() else {
                return;
            };
            let old = self.array.replace_root(first);
            self.retire(old);
        }
    }

    fn retire(&self, word: Word) {
        // SAFETY: the callers pass what they have just taken out of the tree, each once; the words of a tree are made
        // by its writers, with the T that `XArray::new` has checked.
        unsafe { self.pin.retire::<T>(word) };
    }
}

fn oversized<T>(entry: &Entry<T>) -> Option<u64> {
    entry.value().filter(|value| *value > MAX_VALUE)
}

impl<T> fmt::Debug for Writer<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(self.array).finish()
    }
}
