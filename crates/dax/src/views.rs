//! The views of a mapping: whatever reaches its pages without a pin, and has to let go when told.
//!
//! Lock: a leaf around the list; it is not held while a view is called.

use std::fmt;
use std::sync::Arc;

use udax_sync::atomic::{AtomicUsize, Ordering};
use udax_sync::{Mutex, Rank};

use crate::{Copies, PageRange, Unmap};

type List = Vec<Arc<dyn Unmap>>;

pub(crate) struct Views {
    /// As many as the list has; read without the lock, so that having no views costs a load.
    len: AtomicUsize,
    list: Mutex<List>,
}

impl Views {
    pub(crate) fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            list: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }

    pub(crate) fn add(&self, view: Arc<dyn Unmap>) {
        let mut list = self.list.lock();
        list.push(view);
        // Pairs with the Acquire in `Views::all`. A view that is added after an unmapping looked has nothing mapped:
        // it has to fault, and that waits for who unmaps.
        self.len.store(list.len(), Ordering::Release);
    }

    pub(crate) fn remove(&self, view: &Arc<dyn Unmap>) {
        let mut list = self.list.lock();
        list.retain(|other| !Arc::ptr_eq(other, view));
        self.len.store(list.len(), Ordering::Release);
    }

    /// Whether there is no view.
    pub(crate) fn is_empty(&self) -> bool {
        // Pairs with the Release in `Views::add`.
        self.len.load(Ordering::Acquire) == 0
    }

    fn all(&self) -> List {
        if self.is_empty() {
            return Vec::new();
        }
        self.list.lock().clone()
    }

    pub(crate) fn unmap(&self, pages: PageRange, copies: Copies) {
        for view in self.all() {
            view.unmap(pages, copies);
        }
    }

    pub(crate) fn write_protect(&self, pages: PageRange) {
        for view in self.all() {
            view.write_protect(pages);
        }
    }
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
