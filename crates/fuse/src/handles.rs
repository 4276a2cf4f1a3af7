//! Open files by the number that the kernel knows them by.
//!
//! A number is a place in one of a few lists, so that threads seldom meet; it is used again only after the kernel has
//! released it.
//!
//! Locks: one per list, rank Leaf. Files are dropped after it is released: the last close may have work to do.

use std::sync::Arc;

use udax::File;
use udax_sync::{CachePadded, Rank, RwLock, thread_number};

const LISTS: usize = 16;

#[derive(Debug, Default)]
struct List {
    places: Vec<Option<Arc<File>>>,
    free: Vec<usize>,
}

/// The open files.
#[derive(Debug)]
pub(crate) struct Handles {
    lists: Box<[CachePadded<RwLock<List>>]>,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            lists: (0..LISTS)
                .map(|_| CachePadded::new(RwLock::new(Rank::Leaf, List::default())))
                .collect(),
        }
    }

    /// Keeps `file`; gives its number.
    pub(crate) fn add(&self, file: File) -> u64 {
        let which = thread_number() % LISTS;
        let mut list = self.lists[which].write();
        let place = list.free.pop().unwrap_or(list.places.len());
        let file = Some(Arc::new(file));
        match list.places.get_mut(place) {
            Some(empty) => *empty = file,
            None => list.places.push(file),
        }
        u64::try_from(place * LISTS + which).unwrap_or(u64::MAX)
    }

    /// The file with this number, if there is one.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<File>> {
        let (which, place) = split(number)?;
        self.lists[which].read().places.get(place)?.clone()
    }

    /// Gives the file back: it is closed as soon as nobody uses it.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<File>> {
        let (which, place) = split(number)?;
        let mut list = self.lists[which].write();
        let file = list.places.get_mut(place).and_then(Option::take);
        if file.is_some() {
            list.free.push(place);
        }
        file
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        for list in &self.lists {
            let taken = std::mem::take(&mut *list.write());
            drop(taken);
        }
    }
}

fn split(number: u64) -> Option<(usize, usize)> {
    let number = usize::try_from(number).ok()?;
    Some((number % LISTS, number / LISTS))
}
