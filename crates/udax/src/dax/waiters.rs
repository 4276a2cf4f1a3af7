//! The list of operations that wait for pins and leases: with [`crate::Filesystem::pins`] it explains what does not
//! go on.
//!
//! [`WaiterList`] is written only by who is about to wait, which costs far more. Locks: the list is a leaf.

use std::time::{Duration, Instant};

use udax_sync::{Mutex, Rank};

/// An operation that waits without locks for what somebody else holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Waiter {
    /// What it is: `truncate`, `write`, ...
    pub operation: &'static str,
    /// The number of the inode whose pages it waits for.
    pub file: u64,
    /// The first page that was found in its way.
    pub page: u64,
    /// What is there.
    pub obstacle: Obstacle,
    /// How long it has waited for this.
    pub age: Duration,
}

/// What an operation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// A pin of the page.
    Pin,
    /// A read lease of the page.
    Lease,
    /// A pin, a lease or a break of the layout, of which the one who waits does not know which.
    Holder,
}

/// What the list keeps of a waiter.
#[derive(Clone, Copy, Debug)]
struct Note {
    operation: &'static str,
    file: u64,
    page: u64,
    obstacle: Obstacle,
    since: Instant,
}

/// Who waits, of a pool.
#[derive(Debug)]
pub(crate) struct WaiterList {
    slots: Mutex<Vec<Option<Note>>>,
}

/// One who waits; no longer when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'l> {
    list: &'l WaiterList,
    slot: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.list.slots.lock().get_mut(self.slot) {
            *slot = None;
        }
    }
}

impl WaiterList {
    pub(crate) fn new() -> Self {
        Self {
            slots: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }

    /// Lists `operation` until the guard is dropped.
    #[cold]
    pub(crate) fn enter(
        &self,
        operation: &'static str,
        (file, page): (u64, u64),
        obstacle: Obstacle,
    ) -> Waiting<'_> {
        let note = Note {
            operation,
            file,
            page,
            obstacle,
            since: Instant::now(),
        };
        let mut slots = self.slots.lock();
        let slot = match slots.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                slots.push(None);
                slots.len() - 1
            }
        };
        if let Some(place) = slots.get_mut(slot) {
            *place = Some(note);
        }
        Waiting { list: self, slot }
    }

    /// All, who has waited longest first.
    pub(crate) fn collect(&self) -> Vec<Waiter> {
        let mut notes: Vec<Note> = self.slots.lock().iter().flatten().copied().collect();
        notes.sort_by_key(|note| note.since);
        let now = Instant::now();
        let waiter = |note: &Note| Waiter {
            operation: note.operation,
            file: note.file,
            page: note.page,
            obstacle: note.obstacle,
            age: now.saturating_duration_since(note.since),
        };
        notes.iter().map(waiter).collect()
    }
}
