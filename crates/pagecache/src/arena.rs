//! Where the memory of folios comes from: slabs of 2 MiB, which the processor maps as huge pages. [`Arena`].
//!
//! Small pages all over a large cache are more than the processor's buffers of addresses hold; a huge page takes one
//! place for 512. Folios of all orders share slabs: a run of free pages is found in a set of bits, and what is given
//! back becomes one run with its neighbours by itself.
//!
//! # Invariants
//! - A page is *used* by one folio, or *free*. A free one is *kept* if it may have memory; else it was never touched,
//!   or its memory was given back to the kernel.
//! - No more pages are kept than the limit, but for those of a slab that was just made, and until some are given back.
//! - A slab is in the set of the largest order that it has room for, unless it has none, or is being trimmed.
//!
//! # Locks
//! One, the last of all: a folio goes wherever its last user is. Nothing is mapped or given back under it.

use std::collections::BTreeSet;
use std::ptr::NonNull;

use rustc_hash::FxHashMap;
use udax_sync::refusal::{Resource, is_refused};
use udax_sync::{Mutex, Rank};

use crate::page::{MAX_ORDER, PAGE, in_file, in_memory};
use crate::page_map::PageMap;
use crate::slab::{SLAB, Slab, discard, keep_small};

/// At most this part of a cache's pages, as a divisor, has memory while it is free.
const KEPT_SHARE: u64 = 16;
/// The least that are kept, so that a folio that comes after another has gone costs no call.
const LEAST_KEPT: u64 = 64;
/// From one page to a slab.
const ORDERS: usize = 10;
/// Pages of a slab.
const SLAB_PAGES: u64 = 1 << MAX_ORDER;

/// The memory of a cache's folios.
#[derive(Debug)]
pub(crate) struct Arena {
    slabs: Mutex<Slabs>,
    /// The most pages that are kept.
    limit: u64,
    /// Slabs are huge pages: they have all their memory from the first touch on.
    is_huge: bool,
}

#[derive(Debug, Default)]
struct Slabs {
    /// By their addresses.
    all: FxHashMap<usize, Entry>,
    /// The addresses of those whose largest run of free pages has an order.
    with_room: [BTreeSet<usize>; ORDERS],
    kept: u64,
    used: u64,
}

#[derive(Debug)]
struct Entry {
    slab: Slab,
    free: PageMap,
    kept: PageMap,
    /// In which set of [`Slabs::with_room`] it is.
    room: Option<u8>,
    /// Somebody gives pages of it back to the kernel: none is taken meanwhile.
    is_trimmed: bool,
}

/// What is to be given back to the kernel.
#[derive(Debug, Default)]
struct Surplus {
    /// Slabs of which nothing is used: they go when this goes.
    whole: Vec<Slab>,
    /// Free pages of slabs that are used, with the address of each slab's first one. Their slabs are being trimmed.
    parts: Vec<(NonNull<u8>, PageMap)>,
}

impl Arena {
    /// An empty one for a cache of so many pages.
    pub(crate) fn new(pages: u64) -> Self {
        let limit = (pages / KEPT_SHARE).max(LEAST_KEPT);
        Self {
            slabs: Mutex::new(Rank::Memory, Slabs::default()),
            limit,
            // One that is new and one that has become free have room in it.
            is_huge: limit >= 2 * SLAB_PAGES,
        }
    }

    /// `1 << order` pages, aligned to their size, of any content; none if there is no memory.
    pub(crate) fn take(&self, order: u8) -> Option<NonNull<u8>> {
        if is_refused(Resource::Memory) {
            return None;
        }
        if let Some(at) = self.slabs.lock().take(order) {
            return Some(at);
        }
        // Without the lock: several threads may make one each.
        let slab = Slab::new(self.is_huge)?;
        let kept = if self.is_huge {
            PageMap::ALL
        } else {
            PageMap::default()
        };
        let mut slabs = self.slabs.lock();
        slabs.add(slab, kept);
        slabs.take(order)
    }

    /// Takes back what [`Arena::take`] gave for the order, which nobody reaches any more.
    pub(crate) fn give_back(&self, at: NonNull<u8>, order: u8) {
        let surplus = {
            let mut slabs = self.slabs.lock();
            slabs.give_back(at, order);
            if slabs.kept <= self.limit {
                return;
            }
            // To half of it, so that this is rare.
            slabs.surplus(self.limit / 2)
        };
        for (at, pages) in &surplus.parts {
            // SAFETY: the first page of a slab that is being trimmed: it stays.
            unsafe { keep_small(*at) };
            for range in pages.ranges() {
                // SAFETY: the range is within the slab.
                let first = unsafe { at.add(in_memory(range.start * PAGE)) };
                // SAFETY: free pages of a slab that is being trimmed: it stays, and nobody takes them.
                unsafe { discard(first, &range) };
            }
            self.slabs.lock().end_trim(at.addr().get());
        }
    }

    /// Bytes of folios, and those that have memory and are no folio's.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let slabs = self.slabs.lock();
        (slabs.used * PAGE, slabs.kept * PAGE)
    }
}

impl Slabs {
    fn add(&mut self, slab: Slab, kept: PageMap) {
        let address = slab.address();
        self.kept += kept.count();
        let entry = Entry {
            slab,
            free: PageMap::ALL,
            kept,
            room: None,
            is_trimmed: false,
        };
        self.all.insert(address, entry);
        self.settle(address);
    }

    fn take(&mut self, order: u8) -> Option<NonNull<u8>> {
        // As small a run as there is: large ones are for large folios. Of equal ones always in the same slab: others
        // may become free.
        let mut sets = self.with_room.iter().skip(usize::from(order));
        let address = sets.find_map(|set| set.first().copied())?;
        let entry = self.all.get_mut(&address)?;
        let page = entry.free.find(order)?;
        let pages = page..page + (1 << order);
        entry.free.remove(&pages);
        let kept = entry.kept.remove(&pages);
        let at = entry.slab.page(page);
        self.kept -= kept;
        self.used += 1 << order;
        self.settle(address);
        Some(at)
    }

    fn give_back(&mut self, at: NonNull<u8>, order: u8) {
        let within = at.addr().get() % SLAB;
        let address = at.addr().get() - within;
        let entry = self
            .all
            .get_mut(&address)
            .expect("memory of a folio is of its arena");
        let page = in_file(within) / PAGE;
        let pages = page..page + (1 << order);
        entry.free.insert(&pages);
        entry.kept.insert(&pages);
        self.kept += 1 << order;
        self.used -= 1 << order;
        self.settle(address);
    }

    /// Takes out what is kept beyond a limit: slabs that are free, then the rest of those that have most to give.
    fn surplus(&mut self, limit: u64) -> Surplus {
        let candidates = self.all.iter().filter(|(_, entry)| !entry.is_trimmed);
        let mut candidates: Vec<_> = candidates
            .map(|(address, entry)| (entry.free == PageMap::ALL, entry.kept.count(), *address))
            .filter(|(_, kept, _)| *kept > 0)
            .collect();
        candidates.sort_unstable();
        let mut surplus = Surplus::default();
        while self.kept > limit
            && let Some((is_free, kept, address)) = candidates.pop()
        {
            self.kept -= kept;
            if is_free {
                if let Some(entry) = self.all.remove(&address) {
                    leave_room(&mut self.with_room, address, entry.room);
                    surplus.whole.push(entry.slab);
                }
            } else if let Some(entry) = self.all.get_mut(&address) {
                entry.is_trimmed = true;
                surplus
                    .parts
                    .push((entry.slab.page(0), std::mem::take(&mut entry.kept)));
                self.settle(address);
            }
        }
        surplus
    }

    fn end_trim(&mut self, address: usize) {
        if let Some(entry) = self.all.get_mut(&address) {
            entry.is_trimmed = false;
        }
        self.settle(address);
    }

    /// Puts a slab into the set for what it has room for now.
    fn settle(&mut self, address: usize) {
        let Some(entry) = self.all.get_mut(&address) else {
            return;
        };
        let room = entry.free.largest().filter(|_| !entry.is_trimmed);
        if room != entry.room {
            leave_room(&mut self.with_room, address, entry.room);
            if let Some(order) = room {
                self.with_room[usize::from(order)].insert(address);
            }
            entry.room = room;
        }
    }
}

/// Takes a slab out of the set in which it is.
fn leave_room(with_room: &mut [BTreeSet<usize>; ORDERS], address: usize, room: Option<u8>) {
    if let Some(order) = room {
        with_room[usize::from(order)].remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That all counts and sets agree with the slabs.
    fn check(arena: &Arena) {
        let slabs = arena.slabs.lock();
        let (mut used, mut kept) = (0, 0);
        for (address, entry) in &slabs.all {
            used += SLAB_PAGES - entry.free.count();
            kept += entry.kept.count();
            for pages in entry.kept.ranges() {
                assert_eq!(
                    entry.free.clone().remove(&pages),
                    pages.end - pages.start,
                    "a used page is kept"
                );
            }
            for (set, order) in slabs.with_room.iter().zip(0_u8..) {
                let has_room = entry.free.largest() == Some(order);
                assert_eq!(set.contains(address), has_room, "order {order}");
            }
        }
        assert_eq!((slabs.used, slabs.kept), (used, kept));
        assert!(kept <= arena.limit, "{kept} pages are kept, of {}", arena.limit);
    }

    #[test]
    fn runs_of_all_orders_are_aligned_disjoint_and_keep_their_bytes() {
        for pages in [1 << 10, 1 << 15] {
            let arena = Arena::new(pages);
            let mut runs: Vec<(NonNull<u8>, u8, u8)> = Vec::new();
            let mut seed = pages;
            for round in 0..6000_u64 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let order = u8::try_from(seed >> 40 & 15).unwrap().min(9);
                let is_shrinking = round / 1000 % 2 == 1;
                let used: u64 = runs.iter().map(|run| 1 << run.1).sum();
                if (is_shrinking && !runs.is_empty()) || used + (1 << order) > pages {
                    let (at, order, mark) =
                        runs.swap_remove(usize::try_from(seed >> 20).unwrap() % runs.len());
                    let len = in_memory(PAGE << order);
                    for place in [0, len / 2, len - 1] {
                        let place = at.as_ptr().wrapping_add(place);
                        // SAFETY: within the run, which is this test's.
                        let byte = unsafe { place.read() };
                        assert_eq!(byte, mark);
                    }
                    arena.give_back(at, order);
                } else {
                    let at = arena.take(order).unwrap();
                    let len = in_memory(PAGE << order);
                    assert!(at.addr().get().is_multiple_of(len));
                    let mark = u8::try_from(round % 251).unwrap();
                    // SAFETY: the run is this test's.
                    unsafe { at.write_bytes(mark, len) };
                    runs.push((at, order, mark));
                }
                if round % 16 == 0 {
                    check(&arena);
                }
            }
            for (at, order, _) in runs.drain(..) {
                arena.give_back(at, order);
            }
            check(&arena);
            assert_eq!(arena.bytes().0, 0);
        }
    }

    #[test]
    fn what_is_kept_is_used_again_and_the_rest_goes_back_to_the_kernel() {
        // No huge pages: what is resident is exact.
        let arena = Arena::new(1 << 12);
        let runs: Vec<_> = (0..1 << 12).map(|_| arena.take(0).unwrap()).collect();
        for at in &runs {
            // SAFETY: the page is this test's.
            unsafe { at.write_bytes(1, 4096) };
        }
        assert_eq!(arena.bytes(), (16 << 20, 0));
        // All but one page of each slab.
        for at in runs.iter().filter(|at| !at.addr().get().is_multiple_of(SLAB)) {
            arena.give_back(*at, 0);
        }
        let (used, kept) = arena.bytes();
        assert_eq!(used, 8 * PAGE);
        assert!(kept <= 1 << 20, "{kept} bytes");
        assert_eq!(resident_pages(&runs), 8 + kept / PAGE);
        // A whole slab's worth has no room between, a page has.
        let whole = arena.take(9).unwrap();
        assert_eq!(arena.slabs.lock().all.len(), 9);
        arena.give_back(whole, 9);
        let at = arena.take(0).unwrap();
        arena.give_back(at, 0);
        check(&arena);
    }

    /// How many of these pages have memory (proc(5), `pagemap`).
    fn resident_pages(pages: &[NonNull<u8>]) -> u64 {
        use std::os::unix::fs::FileExt as _;
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        let is_present = |at: &&NonNull<u8>| {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, in_file(at.addr().get()) / PAGE * 8)
                .unwrap();
            u64::from_le_bytes(entry) >> 63 == 1
        };
        in_file(pages.iter().filter(is_present).count())
    }
}
