//! Which files have something to write, the longest dirty first: [`DirtyList`].
//!
//! A file is on the list from its first dirty page on, and off it when a write-back or a truncation has left it clean.
//! While it is there its owner stays in memory. Who writes a file does not take it off: who syncs everything meets it
//! too.
//!
//! # Invariants
//! - A mapping's `listed` is the number of its entry, or 0. Both change under the list's lock.
//! - Whoever makes a page dirty counts it and then looks at `listed`; whoever takes a file off clears `listed` and then
//!   looks at the count: one of them sees the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicU64, Ordering};

use crate::mapping::mark;
use crate::page::in_file;
use crate::{Cache, Mapping, Owner};

/// A file with dirty pages.
#[derive(Clone, Debug)]
pub(crate) struct DirtyFile {
    pub(crate) owner: Arc<dyn Owner>,
    /// When it became dirty; none if it is to be written at once.
    since: Option<Instant>,
    /// Its place in the list.
    number: u64,
}

/// Files with dirty pages, by numbers that grow.
#[derive(Debug, Default)]
pub(crate) struct DirtyList {
    files: BTreeMap<u64, DirtyFile>,
    last: u64,
    /// How many there are, for who keeps something for each.
    count: Arc<AtomicU64>,
}

impl DirtyList {
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    fn push(&mut self, owner: Arc<dyn Owner>, since: Option<Instant>) -> u64 {
        self.last += 1;
        let number = self.last;
        let file = DirtyFile { owner, since, number };
        self.files.insert(number, file);
        self.recount();
        number
    }

    fn remove(&mut self, number: u64) -> Option<DirtyFile> {
        let removed = self.files.remove(&number);
        self.recount();
        removed
    }

    fn recount(&self) {
        self.count.store(in_file(self.files.len()), Ordering::Release);
    }

    /// The file that is the longest dirty, which from now on is the last in turn.
    pub(crate) fn next_turn(&mut self) -> Option<DirtyFile> {
        let (_, file) = self.files.pop_first()?;
        let number = self.push(Arc::clone(&file.owner), file.since);
        file.owner.mapping().listed.store(number, Ordering::Release);
        Some(DirtyFile { number, ..file })
    }

    /// A file was written: if it is still listed, what is dirty is so from now on, more or less.
    pub(crate) fn renew(&mut self, file: &DirtyFile) {
        if let Some(listed) = self.files.get_mut(&file.number) {
            listed.since = Some(Instant::now());
        }
    }

    /// All of them, or those that have been dirty for so long or are to be written at once.
    pub(crate) fn dirty_for(&self, least: Duration) -> Vec<DirtyFile> {
        let now = Instant::now();
        let is_old = |file: &&DirtyFile| file.since.is_none_or(|since| now.duration_since(since) >= least);
        self.files.values().filter(is_old).cloned().collect()
    }
}

impl Mapping {
    /// Has the flusher know that there is something to write.
    pub(crate) fn list_dirty(&self) {
        // Looked at after a page was counted; pairs with the swap in `unlist_clean`.
        if self.listed.fetch_add(0, Ordering::AcqRel) != 0 {
            return;
        }
        let Some(owner) = self.owner.upgrade() else {
            return;
        };
        let mut list = self.cache().dirty_files.lock();
        if self.listed.load(Ordering::Acquire) == 0 {
            let number = list.push(Arc::clone(&owner), Some(Instant::now()));
            self.listed.store(number, Ordering::Release);
        }
        drop(list);
    }

    /// Has a flusher write what of the file is dirty, soon. The kernel's `filemap_fdatawrite_range_kick`, but that it
    /// is all of the file.
    pub fn kick(&self) {
        let is_listed = {
            let mut list = self.cache().dirty_files.lock();
            let listed = list.files.get_mut(&self.listed.load(Ordering::Acquire));
            listed.map(|file| file.since = None).is_some()
        };
        if is_listed {
            self.cache().alarm.ring();
        }
    }

    /// Takes the file off the list if nothing of it is dirty or being written.
    pub(crate) fn unlist_clean(&self) {
        if self.dirty_pages() > 0
            || self.index.has_mark(mark::WRITEBACK)
            || self.listed.load(Ordering::Acquire) == 0
        {
            return;
        }
        // Dropped after the lock: this may be the last that keeps the owner.
        let removed = {
            let mut list = self.cache().dirty_files.lock();
            let number = self.listed.swap(0, Ordering::AcqRel);
            list.remove(number)
        };
        if self.dirty_pages() > 0 || self.index.has_mark(mark::WRITEBACK) {
            self.list_dirty();
        }
        drop(removed);
    }
}

impl Cache {
    /// Forgets which files are dirty, which keeps them in memory: somebody else has written them, or nobody will.
    pub fn forget_dirty(&self) {
        let files = {
            let mut list = self.dirty_files.lock();
            let files = std::mem::take(&mut list.files);
            list.recount();
            files
        };
        for file in files.values() {
            file.owner.mapping().listed.store(0, Ordering::Release);
        }
        drop(files);
    }

    /// The count of files that have dirty pages, or had some a moment ago: for a backing that keeps something for each.
    pub fn dirty_files(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dirty_files.lock().count)
    }

    /// Files that are on the list.
    pub(crate) fn dirty_file_count(&self) -> usize {
        self.dirty_files.lock().len()
    }
}
