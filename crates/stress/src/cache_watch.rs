//! How much memory the page cache takes during a contest: [`CacheWatch`].

use udax::Filesystem;
use udax_sync::atomic::{AtomicU64, Ordering};

use crate::contest::Contest;
use crate::report::{CacheCounts, Kind};

/// Pages that each thread may have beside the budget when nothing could go, as what others have is locked or pinned.
const BESIDE: u64 = 64;

/// The most that was seen, and what there was at the start.
#[derive(Debug)]
pub(crate) struct CacheWatch {
    before: CacheCounts,
    /// Threads that may have folios locked at a time.
    threads: u64,
    most_pages: AtomicU64,
    most_dirty: AtomicU64,
}

fn counts(filesystem: &Filesystem) -> CacheCounts {
    let now = filesystem.cache_statistics();
    CacheCounts {
        budget: now.budget,
        most_pages: now.cached,
        most_dirty: now.dirty,
        evicted: now.evicted,
        throttled: now.throttled,
        over_budget: now.over_budget,
    }
}

impl CacheWatch {
    pub(crate) fn new(filesystem: &Filesystem, threads: usize) -> Self {
        Self {
            before: counts(filesystem),
            threads: u64::try_from(threads).unwrap_or(u64::MAX),
            most_pages: AtomicU64::new(0),
            most_dirty: AtomicU64::new(0),
        }
    }

    /// Looks; what is wrong, if anything is.
    fn look(&self, filesystem: &Filesystem) -> Option<String> {
        let now = counts(filesystem);
        self.most_pages.fetch_max(now.most_pages, Ordering::Relaxed);
        self.most_dirty.fetch_max(now.most_dirty, Ordering::Relaxed);
        let has_none_gone = now.over_budget > self.before.over_budget;
        let beside = if has_none_gone {
            self.threads.saturating_mul(BESIDE)
        } else {
            0
        };
        let most = now.budget.saturating_add(beside);
        (now.most_pages > most).then(|| {
            format!(
                "the page cache has {} pages, of which {} are dirty: its budget is {}",
                now.most_pages, now.most_dirty, now.budget
            )
        })
    }

    /// What there was.
    pub(crate) fn counted(&self, filesystem: &Filesystem) -> CacheCounts {
        let now = counts(filesystem);
        CacheCounts {
            budget: now.budget,
            most_pages: self.most_pages.load(Ordering::Relaxed),
            most_dirty: self.most_dirty.load(Ordering::Relaxed),
            evicted: now.evicted - self.before.evicted,
            throttled: now.throttled - self.before.throttled,
            over_budget: now.over_budget - self.before.over_budget,
        }
    }
}

impl Contest {
    /// By everybody, all the time: the cache has no more than it may.
    pub(crate) fn watch_cache(&self) {
        if let Some(what) = self.cache.look(&self.filesystem) {
            self.find(Kind::Counted, what, Vec::new());
        }
    }
}
