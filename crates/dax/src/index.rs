//! A mapping's index: from page to [`Entry`], with the marks DIRTY and TOWRITE.
//!
//! Only [`Writer`] changes it; [`Index::load`] and [`Index::is_marked`] take no writer's lock.

use std::collections::BTreeMap;

use udax_sync::{Mutex, MutexGuard, Order, Rank};

use crate::{Entry, PageRange, Size};

/// A property by which entries are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    Dirty,
    ToWrite,
}

impl Mark {
    fn bit(self) -> u8 {
        match self {
            Self::Dirty => 1,
            Self::ToWrite => 2,
        }
    }
}

/// An entry and where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) entry: Entry,
}

impl Slot {
    pub(crate) fn pages(self) -> PageRange {
        PageRange::of_entry(self.start, self.entry.size().pages())
    }
}

/// The range holds entries of another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Conflict;

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
    pub(crate) fn load(&self, page: u64) -> Option<Slot> {
        find(&self.map, page).map(|(slot, _)| slot)
    }

    /// The first entry that has a page of the range.
    pub(crate) fn next(&self, pages: PageRange) -> Option<Slot> {
        if let Some(slot) = self.load(pages.first()) {
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

    /// Puts the entry at `start`, in the place of one of its size, whose marks stay, or of none.
    pub(crate) fn put(&mut self, start: u64, entry: Entry) -> Result<(), Conflict> {
        let range = PageRange::of_entry(start, entry.size().pages());
        match self.next(range) {
            Some(slot) if slot.pages() == range => {}
            Some(_) => return Err(Conflict),
            None => {
                self.map.insert(start, (entry, 0));
                return Ok(());
            }
        }
        if let Some((old, _)) = self.map.get_mut(&start) {
            *old = entry;
        }
        Ok(())
    }

    /// Takes the entry at `page` out, with its marks.
    pub(crate) fn erase(&mut self, page: u64) -> Option<Slot> {
        let slot = self.load(page)?;
        self.map.remove(&slot.start);
        Some(slot)
    }

    /// Makes page entries, as `each` says, out of a large one; they have its marks.
    pub(crate) fn split(&mut self, page: u64, each: impl Fn(u64) -> Entry) {
        let Some((slot, marks)) = find(&self.map, page) else {
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
        if let Some(slot) = self.load(page)
            && let Some((_, marks)) = self.map.get_mut(&slot.start)
        {
            *marks |= mark.bit();
        }
    }

    pub(crate) fn clear_mark(&mut self, page: u64, mark: Mark) {
        if let Some(slot) = self.load(page)
            && let Some((_, marks)) = self.map.get_mut(&slot.start)
        {
            *marks &= !mark.bit();
        }
    }
}
