//! The index itself, and what needs no lock: loads, marks, iteration.

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;

use udax_sync::atomic::{AtomicPtr, Ordering};
use udax_sync::{CachePadded, Mutex, Order, Rank};

use crate::cursor::Cursor;
use crate::entry::{Entry, Found, Mark};
use crate::node::{Content, Node, SLOTS};
use crate::reclaim::Pin;
use crate::search::{self, Place, Wanted};
use crate::word::{Kind, Word};
use crate::writer::Writer;

/// A sparse index from `u64` to values and pointers to `T`. See the [crate's documentation](crate).
///
/// # Locks
/// Readers take none. [`XArray::write`] takes the writer lock, of rank `Index`.
//
// # Invariants
// - `root` is empty or leads to a node.
// - `T` is `Send + Sync + 'static`: `new`, which alone makes an index, asks for it.
pub struct XArray<T = Infallible> {
    root: AtomicPtr<()>,
    // Apart from the root, which every reader loads.
    writers: CachePadded<Mutex<()>>,
    _pointers: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> XArray<T> {
    /// An empty index; `order` is that of its writer lock among locks of rank `Index`.
    pub fn new(order: Order) -> Self {
        Self {
            root: AtomicPtr::new(Word::EMPTY.raw()),
            writers: CachePadded::new(Mutex::with_order(Rank::Index, order, ())),
            _pointers: PhantomData,
        }
    }
}

impl<T> XArray<T> {
    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root_word().is_empty()
    }

    /// The value at `index`, and the range that it covers; none if there is nothing, or a pointer.
    #[inline]
    pub fn load_value(&self, index: u64) -> Option<Found<u64>> {
        let pin = Pin::new();
        value_of(search::find(self.root(&pin), index)?, index)
    }

    /// The entry at `index`, and the range that it covers.
    #[inline]
    pub fn load(&self, index: u64) -> Option<Found<Entry<T>>> {
        let pin = Pin::new();
        let place = search::find(self.root(&pin), index)?;
        entry_of(&pin, place, index)
    }

    /// Lets `look` see what the entry at `index` points to; none if there is nothing, or a value. Takes no count of it,
    /// which is most of what [`XArray::load`] costs: whatever is unlinked meanwhile is freed only afterwards, so do not
    /// wait in it.
    #[inline]
    pub fn look<R>(&self, index: u64, look: impl FnOnce(&T) -> R) -> Option<R> {
        let pin = Pin::new();
        let place = search::find(self.root(&pin), index)?;
        let Kind::Pointer(object) = place.word.kind() else {
            return None;
        };
        // SAFETY: pointers of an index come from its writers, with its T; the word was in the tree under the pin, so
        // that its count is not given back before the pin ends, which is after the look.
        let object = unsafe { object.cast::<T>().as_ref() };
        Some(look(object))
    }

    /// Whether the entry at `index` has the mark. Beside a writer, an entry and its marks are two looks.
    pub fn is_marked(&self, index: u64, mark: Mark) -> bool {
        let pin = Pin::new();
        search::find(self.root(&pin), index).is_some_and(|place| place.is(Wanted::Marked(mark)))
    }

    /// Whether any entry has the mark.
    pub fn has_mark(&self, mark: Mark) -> bool {
        let pin = Pin::new();
        self.root(&pin).is_some_and(|root| root.marked(mark) != 0)
    }

    /// The entries that cover an index of `range`, ascending; the first may begin before it.
    ///
    /// Each step of the cursor sees the index as it is then: an entry that is there all the while is met, one that
    /// comes or goes meanwhile may be.
    pub fn range(&self, range: RangeInclusive<u64>) -> Cursor<'_, T> {
        Cursor::new(self, range)
    }

    /// Waits to be the only writer.
    ///
    /// # Panics
    /// In debug builds, when the thread holds a lock that is not below this one.
    #[track_caller]
    pub fn write(&self) -> Writer<'_, T> {
        // The pin comes first: making it may run destructors.
        let pin = Pin::of_writer();
        Writer::new(self, self.writers.lock(), pin)
    }

    /// Bytes of the nodes that make up the index: nodes of 64 slots, 640 bytes each. Not the objects pointed to.
    pub fn memory_bytes(&self) -> usize {
        let pin = Pin::new();
        self.root(&pin).map_or(0, nodes_below) * size_of::<Node>()
    }

    /// The first entry, of those wanted, that covers an index from `from` to `last`.
    pub(crate) fn next(&self, pin: &Pin, from: u64, last: u64, wanted: Wanted) -> Option<Found<Entry<T>>> {
        let (index, place) = search::first_in(self.root(pin), from, last, wanted)?;
        entry_of(pin, place, index)
    }

    #[inline]
    pub(crate) fn root_word(&self) -> Word {
        // Pairs with the Release in `XArray::replace_root`.
        Word::from_raw(self.root.load(Ordering::Acquire))
    }

    /// The tree, which stays as long as the pin.
    #[inline]
    pub(crate) fn root<'p>(&self, _pin: &'p Pin) -> Option<&'p Node> {
        match self.root_word().kind() {
            // SAFETY: the node was not retired before it was unlinked, which is after the pin was made: it is not
            // freed before the pin ends. Nodes in the tree are never borrowed mutably.
            Kind::Node(root) => Some(unsafe { root.as_ref() }),
            _ => None,
        }
    }

    /// Puts another tree in the place of this one; gives this one. For the writer.
    pub(crate) fn replace_root(&self, word: Word) -> Word {
        let old = self.root_word();
        // Pairs with the Acquire in `XArray::root_word`.
        self.root.store(word.raw(), Ordering::Release);
        old
    }
}

#[inline]
pub(crate) fn value_of(place: Place<'_>, index: u64) -> Option<Found<u64>> {
    match place.word.kind() {
        Kind::Value(value) => Some(place.found(index, value)),
        _ => None,
    }
}

/// The entry with a count of its own. The pin is what the place was found under; `T` is the index's.
#[inline]
pub(crate) fn entry_of<T>(_pin: &Pin, place: Place<'_>, index: u64) -> Option<Found<Entry<T>>> {
    // SAFETY: entries of an index come from its writers, with its T; the word was in the tree under the pin, so that
    // its count is not given back before the pin ends.
    let entry = unsafe { place.word.to_entry::<T>() }?;
    Some(place.found(index, entry))
}

fn nodes_below(node: &Node) -> usize {
    let children = (0..SLOTS).map(|slot| match node.content(slot) {
        Content::Node(child) => nodes_below(child),
        _ => 0,
    });
    1 + children.sum::<usize>()
}

/// Frees a tree with its entries.
///
/// # Safety
/// The word is from [`Word::from_node`] or [`Word::from_entry`] with this `T`, and so is everything below it; nobody
/// else can see any of it.
pub(crate) unsafe fn free_tree<T>(word: Word) {
    let Kind::Node(at) = word.kind() else {
        // SAFETY: as the caller says.
        drop(unsafe { word.into_entry::<T>() });
        return;
    };
    for slot in 0..SLOTS {
        // SAFETY: the node is freed only below, and is not borrowed mutably.
        let child = unsafe { at.as_ref() }.word(slot);
        // SAFETY: what a tree of the caller's holds is the caller's as well; each slot is passed once.
        unsafe { free_tree::<T>(child) };
    }
    // SAFETY: as the caller says.
    unsafe { Node::free(at) };
}

impl<T> Drop for XArray<T> {
    fn drop(&mut self) {
        // SAFETY: readers and writers borrow the index, so there are none; what they have unlinked is not in the tree.
        unsafe { free_tree::<T>(self.root_word()) };
    }
}

impl<T> fmt::Debug for XArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.range(0..=u64::MAX);
        f.debug_map()
            .entries(entries.map(|found| (found.start..=found.last(), found.entry)))
            .finish()
    }
}
