//! What a fence must msync, where that is what makes stores durable.
//!
//! Locks: one per shard, leaves. A thread always uses the same shard, and its fence holds the shard's lock during
//! msync: a thread that shares the shard must not find its pages taken but not yet written back.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;

use nix::errno::Errno;
use udax_sync::atomic::{AtomicU32, Ordering};
use udax_sync::{CachePadded, Mutex, Rank};

/// Enough that threads seldom meet.
const SHARDS: usize = 16;
/// Ranges kept apart in a shard; a further one is merged into the nearest, so that a fence does few system calls.
const MAX_RANGES: usize = 32;
/// msync works in pages.
const PAGE: u64 = 4096;

thread_local! {
    static SHARD: usize = {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(std::thread::current().id());
        usize::try_from(hash % 16).unwrap_or(0)
    };
}
const _: () = assert!(SHARDS == 16);

/// What the threads of one shard have flushed since their last fence.
type Shard = CachePadded<Mutex<Vec<Range<u64>>>>;

/// Ranges of pages that threads have flushed since their last fence.
#[derive(Debug)]
pub(crate) struct PendingPages {
    shards: Box<[Shard]>,
    /// The errno of the first msync that failed, else 0. After it, what the medium has is unknown: the kernel marks
    /// pages clean even so, and a later success would be a lie. So every fence after it fails too.
    failed: AtomicU32,
}

impl PendingPages {
    pub(crate) fn new() -> Self {
        let shard = |_| CachePadded::new(Mutex::new(Rank::Leaf, Vec::with_capacity(MAX_RANGES)));
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            failed: AtomicU32::new(0),
        }
    }

    fn shard(&self) -> &Mutex<Vec<Range<u64>>> {
        &self.shards[SHARD.with(|shard| *shard)]
    }

    /// The next fence of this thread must write these bytes back.
    pub(crate) fn note(&self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        let pages = at - at % PAGE..(at + len).next_multiple_of(PAGE);
        insert(&mut self.shard().lock(), pages);
    }

    /// Gives each range that this thread has noted to `write_back`.
    ///
    /// # Errors
    /// What `write_back` gave, now or at an earlier call by any thread.
    pub(crate) fn sync(
        &self,
        mut write_back: impl FnMut(Range<u64>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut ranges = self.shard().lock();
        for range in ranges.drain(..) {
            // A signal came first, where the filesystem lets it: nothing is lost yet.
            let result = loop {
                match write_back(range.clone()) {
                    Err(Errno::EINTR) => {}
                    result => break result,
                }
            };
            if let Err(errno) = result {
                // Pairs with the Acquire below: whoever fences after this failure fails.
                self.failed
                    .store(errno_number(errno).cast_unsigned(), Ordering::Release);
            }
        }
        drop(ranges);
        match self.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno.cast_signed())),
        }
    }
}

#[expect(
    clippy::as_conversions,
    reason = "the number of an enum's variant has no other way out"
)]
fn errno_number(errno: Errno) -> i32 {
    errno as i32
}

/// Adds a range to the list, merged where it touches another.
fn insert(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let distance = |old: &Range<u64>| {
        let gap_after = new.start.saturating_sub(old.end);
        let gap_before = old.start.saturating_sub(new.end);
        gap_after.max(gap_before)
    };
    // The newest first: stores go up.
    let nearest = ranges
        .iter()
        .enumerate()
        .rev()
        .min_by_key(|(_, old)| distance(old))
        .map(|(index, old)| (index, distance(old)));
    match nearest {
        Some((index, gap)) if gap == 0 || ranges.len() >= MAX_RANGES => {
            let old = &mut ranges[index];
            *old = old.start.min(new.start)..old.end.max(new.end);
        }
        _ => ranges.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(pages: &PendingPages) -> Vec<Range<u64>> {
        let mut seen = Vec::new();
        pages
            .sync(|range| {
                seen.push(range);
                Ok(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn ranges_are_rounded_to_pages_and_merged_where_they_touch() {
        let pages = PendingPages::new();
        pages.note(100, 8);
        pages.note(4000, 200);
        pages.note(8192, 1);
        pages.note(40960, 4096);
        pages.note(0, 0);
        assert_eq!(synced(&pages), [0..12288, 40960..45056]);
        assert_eq!(synced(&pages), []);
    }

    #[test]
    fn ranges_beyond_the_maximum_are_merged_into_the_nearest() {
        let pages = PendingPages::new();
        let max = u64::try_from(MAX_RANGES).unwrap();
        for number in 0..max {
            pages.note(number * 10 * PAGE, 8);
        }
        pages.note(3 * 10 * PAGE + 2 * PAGE, 8);
        let seen = synced(&pages);
        assert_eq!(seen.len(), MAX_RANGES);
        assert_eq!(seen[3], 30 * PAGE..33 * PAGE);
    }

    #[test]
    fn a_failed_write_back_fails_every_later_fence() {
        let pages = PendingPages::new();
        pages.note(0, 8);
        assert_eq!(pages.sync(|_| Err(Errno::EIO)), Err(Errno::EIO));
        assert_eq!(pages.sync(|_| Ok(())), Err(Errno::EIO));
    }

    #[test]
    fn a_write_back_that_a_signal_ends_is_done_again() {
        let pages = PendingPages::new();
        pages.note(0, 8);
        let mut results = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(())].into_iter();
        assert_eq!(pages.sync(|_| results.next().unwrap()), Ok(()));
        assert_eq!(results.next(), None);
        assert_eq!(
            pages.sync(|_| Err(Errno::EIO)),
            Ok(()),
            "nothing was left to write back"
        );
    }

    #[test]
    fn a_fence_leaves_nothing_of_its_own_thread_behind_another_shard() {
        let pages = PendingPages::new();
        std::thread::scope(|scope| {
            for number in 0..20_u64 {
                let pages = &pages;
                scope.spawn(move || {
                    pages.note(number * 10 * PAGE, 8);
                    let mut seen = Vec::new();
                    pages
                        .sync(|range| {
                            seen.push(range);
                            Ok(())
                        })
                        .unwrap();
                });
            }
        });
        for shard in &pages.shards {
            assert!(shard.lock().is_empty());
        }
    }
}
