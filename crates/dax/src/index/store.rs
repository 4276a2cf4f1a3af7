//! The index over a map behind a lock.

use std::collections::BTreeMap;

use udax_sync::{Mutex, MutexGuard, Order, Rank};

use super::{Mark, Slot};
use crate::{Entry, PageRange, Size};

impl Mark {
    fn bit(self) -> u8 {
        match self {
            Self::Dirty => 1,
        }
    }
}

type Map = BTreeMap<u64, (Entry, u8)>;

#[derive(Debug)]
pub(crate) struct Index {
    map: Mutex<Map>,
}

fn find(map: &Map, page: u64) -> Option<(Slot, u8)> {
    let (start, (entry, marks)) = map.range(..=page).next_back()?;
    let slot = Slot {
        start: *start,
        entry: *entry,
    };
    (slot.pages().last() >= page).then_some((slot, *marks))
}

impl Index {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            map: Mutex::with_order(Rank::Index, order, Map::new()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.lock().is_empty()
    }

    pub(crate) fn has_mark(&self, mark: Mark) -> bool {
        self.map.lock().values().any(|(_, marks)| marks & mark.bit() != 0)
    }

    pub(crate) fn load(&self, page: u64) -> Option<Slot> {
        find(&self.map.lock(), page).map(|(slot, _)| slot)
    }

    pub(crate) fn is_marked(&self, page: u64, mark: Mark) -> bool {
        find(&self.map.lock(), page).is_some_and(|(_, marks)| marks & mark.bit() != 0)
    }

    pub(crate) fn write(&self) -> Writer<'_> {
        Writer { map: self.map.lock() }
    }
}

pub(crate) struct Writer<'i> {
    map: MutexGuard<'i, Map>,
}

impl Writer<'_> {
    /// The first entry that has a page of the range.
    pub(crate) fn next(&self, pages: PageRange) -> Option<Slot> {
        if let Some((slot, _)) = find(&self.map, pages.first()) {
            return Some(slot);
        }
        let (start, (entry, _)) = self.map.range(pages.first()..=pages.last()).next()?;
        Some(Slot {
            start: *start,
            entry: *entry,
        })
    }

    /// As [`Writer::next`], of the entries with the mark.
    pub(crate) fn next_marked(&self, pages: PageRange, mark: Mark) -> Option<Slot> {
        let mut rest = Some(pages);
        while let Some(slot) = rest.and_then(|pages| self.next(pages)) {
            if self.is_marked(slot.start, mark) {
                return Some(slot);
            }
            rest = pages.starting_at(slot.pages().last().checked_add(1));
        }
        None
    }

    /// Puts an entry where there is none.
    pub(crate) fn put(&mut self, slot: Slot) {
        assert!(self.next(slot.pages()).is_none(), "the place of {slot:?} is taken");
        self.map.insert(slot.start, (slot.entry, 0));
    }

    /// Puts `new` in the place of `old`, whose size and marks it has.
    pub(crate) fn replace(&mut self, old: Slot, new: Slot) {
        let found = self.map.get_mut(&old.start).map(|(entry, _)| entry);
        match found {
            Some(entry) if *entry == old.entry => *entry = new.entry,
            other => panic!("{other:?} in the place of {old:?}"),
        }
    }

    /// Takes the entry at `page` out, with its marks.
    pub(crate) fn erase(&mut self, page: u64) -> Option<Slot> {
        let (slot, _) = find(&self.map, page)?;
        self.map.remove(&slot.start);
        Some(slot)
    }

    /// Makes page entries, as `each` says, out of the large one; they have its marks.
    pub(crate) fn split(&mut self, slot: Slot, each: impl Fn(u64) -> Entry) {
        let Some((_, marks)) = find(&self.map, slot.start) else {
            return;
        };
        if slot.entry.size() == Size::Page {
            return;
        }
        for start in slot.pages().first()..=slot.pages().last() {
            self.map.insert(start, (each(start), marks));
        }
    }

    pub(crate) fn is_marked(&self, page: u64, mark: Mark) -> bool {
        find(&self.map, page).is_some_and(|(_, marks)| marks & mark.bit() != 0)
    }

    pub(crate) fn set_mark(&mut self, page: u64, mark: Mark) {
        self.change_marks(page, |marks| marks | mark.bit());
    }

    pub(crate) fn clear_mark(&mut self, page: u64, mark: Mark) {
        self.change_marks(page, |marks| marks & !mark.bit());
    }

    fn change_marks(&mut self, page: u64, change: impl Fn(u8) -> u8) {
        if let Some((slot, _)) = find(&self.map, page)
            && let Some((_, marks)) = self.map.get_mut(&slot.start)
        {
            *marks = change(*marks);
        }
    }
}
