//! Small numbers for threads, to spread them over shards.

// Not a synchronisation object, so the model checkers do not see it.
use std::sync::atomic::{AtomicUsize, Ordering};

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
}

/// A number that the calling thread keeps and no other has; threads that start one after another get numbers in a row.
#[inline]
pub fn thread_number() -> usize {
    // Its threads share one of the system's.
    #[cfg(all(shuttle, not(loom)))]
    if let Some(task) = shuttle::current::try_get_current_task() {
        return task.into();
    }
    // A thread that is ending may have lost its number: any will do.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}
