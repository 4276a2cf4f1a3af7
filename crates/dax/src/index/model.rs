//! The index for loom: a few pages in an array of words, with readers as free as the real index's.
//!
//! loom cannot try the schedules of a tree with reclamation under all of this crate's protocols; the tree has models of
//! its own. What the protocols rely on is the same: an entry is one word, stored with Release and loaded with Acquire;
//! writers exclude each other; a mark is another word. A large entry covers two pages, and stands in both words.

use loom::sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, MutexGuard, Order, Rank};

use super::{Mark, Slot};
use crate::{Entry, PageRange};

/// Pages of a model's file.
const PAGES: usize = 4;
const NOTHING: u64 = u64::MAX;

/// Readers of the model need nothing.
#[derive(Debug)]
pub(crate) struct Looks;

impl Looks {
    pub(crate) fn enter() -> Self {
        Self
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    words: [AtomicU64; PAGES],
    dirty: [AtomicU64; PAGES],
    writer: Mutex<()>,
}

fn place(page: u64) -> Option<usize> {
    usize::try_from(page).ok().filter(|page| *page < PAGES)
}

impl Index {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(NOTHING)),
            dirty: std::array::from_fn(|_| AtomicU64::new(0)),
            writer: Mutex::with_order(Rank::Index, order, ()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        (0..PAGES).all(|page| self.words[page].load(Ordering::Acquire) == NOTHING)
    }

    pub(crate) fn has_mark(&self, _mark: Mark) -> bool {
        (0..PAGES).any(|page| self.dirty[page].load(Ordering::Acquire) != 0)
    }

    pub(crate) fn load(&self, page: u64) -> Option<Slot> {
        let raw = self.words[place(page)?].load(Ordering::Acquire);
        let entry = (raw != NOTHING).then(|| Entry::from_raw(raw))?;
        Some(Slot {
            start: entry.size().start_of(page),
            entry,
        })
    }

    pub(crate) fn is_marked(&self, page: u64, _mark: Mark) -> bool {
        place(page).is_some_and(|page| self.dirty[page].load(Ordering::Acquire) != 0)
    }

    pub(crate) fn write(&self) -> Writer<'_> {
        Writer {
            index: self,
            _alone: self.writer.lock(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Writer<'i> {
    index: &'i Index,
    _alone: MutexGuard<'i, ()>,
}

impl Writer<'_> {
    pub(crate) fn next(&self, pages: PageRange) -> Option<Slot> {
        let last = pages.last().min(3);
        (pages.first()..=last).find_map(|page| self.index.load(page))
    }

    pub(crate) fn next_marked(&self, pages: PageRange, mark: Mark) -> Option<Slot> {
        let last = pages.last().min(3);
        let mut marked = (pages.first()..=last).filter(|page| self.index.is_marked(*page, mark));
        marked.find_map(|page| self.index.load(page))
    }

    fn set(&mut self, slot: Slot, raw: u64) {
        for page in slot.pages().first()..=slot.pages().last() {
            if let Some(place) = place(page) {
                self.index.words[place].store(raw, Ordering::Release);
            }
        }
    }

    fn mark(&mut self, page: u64, value: u64) {
        let Some(slot) = self.index.load(page) else { return };
        for page in slot.pages().first()..=slot.pages().last() {
            if let Some(place) = place(page) {
                self.index.dirty[place].store(value, Ordering::Release);
            }
        }
    }

    pub(crate) fn put(&mut self, slot: Slot) {
        assert!(
            self.next(slot.pages()).is_none(),
            "the place of {slot:?} is taken"
        );
        self.set(slot, slot.entry.raw());
    }

    pub(crate) fn replace(&mut self, old: Slot, new: Slot) {
        assert_eq!(self.index.load(old.start), Some(old), "it is not there");
        self.set(old, new.entry.raw());
    }

    pub(crate) fn erase(&mut self, page: u64) -> Option<Slot> {
        let slot = self.index.load(page)?;
        self.mark(page, 0);
        self.set(slot, NOTHING);
        Some(slot)
    }

    pub(crate) fn split(&mut self, slot: Slot, each: impl Fn(u64) -> Entry) {
        for page in slot.pages().first()..=slot.pages().last() {
            if let Some(place) = place(page) {
                self.index.words[place].store(each(page).raw(), Ordering::Release);
            }
        }
    }

    pub(crate) fn is_marked(&self, page: u64, mark: Mark) -> bool {
        self.index.is_marked(page, mark)
    }

    pub(crate) fn set_mark(&mut self, page: u64, _mark: Mark) {
        self.mark(page, 1);
    }

    pub(crate) fn clear_mark(&mut self, page: u64, _mark: Mark) {
        self.mark(page, 0);
    }
}
