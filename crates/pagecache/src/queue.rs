//! Which folio goes when memory is short: S3-FIFO.
//!
//! Folios come into a *small* queue of a tenth of the memory; those used again before they reach its end go on to the
//! *main* queue, the others go, and are remembered as *ghosts*: one that comes back soon goes to the main queue at
//! once. So a scan passes through the small queue and leaves the rest alone. In the main queue a use gives another
//! round. A hit changes a counter of the folio and takes no lock.
//!
//! Source: Yang, Zhang, Qiu, Yue, Rashmi, *FIFO queues are all you need for cache eviction*, SOSP 2023.
//!
//! # Invariants
//! - A folio with `QUEUED` is in one queue, the main one if it has `MAIN`, and counted there. Entries of others are
//!   skipped when met, and thrown out when they are more than half of a queue.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashSet;
use udax_sync::atomic::Ordering;

use crate::folio::{Folio, flag};
use crate::page::in_file;

/// So often is a use counted: as in the paper.
pub(crate) const MOST_USES: u8 = 3;

/// Part of the memory that the small queue has: one tenth, as in the paper.
const SMALL_PART: u64 = 10;

/// A queue longer than this, with more dead entries than live ones, is cleaned: what that costs is paid by those that
/// died.
const CLEAN_FROM: usize = 64;

/// So many ghosts are remembered however small the main queue is: while it fills, it is what fills it.
const LEAST_GHOSTS: usize = 128;

/// One of the two queues.
#[derive(Debug, Default)]
struct Fifo {
    folios: VecDeque<Weak<Folio>>,
    /// Pages of its folios that are queued, and how many these are.
    pages: u64,
    live: usize,
}

impl Fifo {
    fn push(&mut self, folio: &Arc<Folio>) {
        self.folios.push_back(Arc::downgrade(folio));
        self.pages += folio.len();
        self.live += 1;
        if self.folios.len() > CLEAN_FROM && self.folios.len() / 2 > self.live {
            let is_queued = |folio: Arc<Folio>| folio.has(flag::QUEUED);
            self.folios.retain(|folio| folio.upgrade().is_some_and(is_queued));
        }
    }

    fn pop(&mut self) -> Option<Arc<Folio>> {
        loop {
            let folio = self.folios.pop_front()?.upgrade();
            if let Some(folio) = folio.filter(|folio| folio.clear(flag::QUEUED)) {
                self.uncount(&folio);
                return Some(folio);
            }
        }
    }

    fn uncount(&mut self, folio: &Folio) {
        self.pages -= folio.len();
        self.live -= 1;
    }
}

/// Names of what has lately gone from the small queue.
#[derive(Debug, Default)]
struct Ghosts {
    order: VecDeque<u64>,
    known: FxHashSet<u64>,
}

impl Ghosts {
    fn remember(&mut self, name: u64, most: usize) {
        if self.known.insert(name) {
            self.order.push_back(name);
        }
        while self.order.len() > most {
            let oldest = self.order.pop_front();
            oldest.map(|oldest| self.known.remove(&oldest));
        }
    }

    /// Whether it was known. Its place in the order stays until it is the oldest.
    fn recall(&mut self, name: u64) -> bool {
        self.known.remove(&name)
    }
}

/// All folios in the order in which they go.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    small: Fifo,
    main: Fifo,
    ghosts: Ghosts,
}

impl Queue {
    /// A folio has come into a mapping.
    pub(crate) fn admit(&mut self, folio: &Arc<Folio>) {
        if self.ghosts.recall(name(folio)) {
            self.push_main(folio);
        } else {
            folio.raise(flag::QUEUED);
            self.small.push(folio);
        }
    }

    /// A folio has left its mapping.
    pub(crate) fn dismiss(&mut self, folio: &Folio) {
        if folio.clear(flag::QUEUED) {
            let queue = if folio.has(flag::MAIN) {
                &mut self.main
            } else {
                &mut self.small
            };
            queue.uncount(folio);
        }
    }

    /// The folio that should go next; it is in no queue any more. Whoever cannot remove it says so by `keep`.
    pub(crate) fn next_victim(&mut self) -> Option<Arc<Folio>> {
        // Each folio is passed over at most once for each use that is counted, and once on its way to the main queue.
        let most = (self.small.live + self.main.live) * (usize::from(MOST_USES) + 2);
        for _ in 0..=most {
            let from_small =
                self.main.live == 0 || self.small.pages * SMALL_PART >= self.small.pages + self.main.pages;
            let folio = if from_small {
                self.small.pop()
            } else {
                self.main.pop()
            };
            let folio = folio.or_else(|| self.small.pop())?;
            let uses = folio.uses.load(Ordering::Relaxed);
            if uses == 0 {
                if !folio.has(flag::MAIN) {
                    self.ghosts
                        .remember(name(&folio), self.main.live.max(LEAST_GHOSTS));
                }
                return Some(folio);
            }
            let left = if folio.has(flag::MAIN) { uses - 1 } else { 0 };
            folio.uses.store(left, Ordering::Relaxed);
            self.push_main(&folio);
        }
        None
    }

    /// The next folio, used or not; it is in no queue any more.
    pub(crate) fn next_of_any(&mut self) -> Option<Arc<Folio>> {
        self.small.pop().or_else(|| self.main.pop())
    }

    /// A victim that cannot go now.
    pub(crate) fn keep(&mut self, folio: &Arc<Folio>) {
        // Removed meanwhile, it was dismissed while it was in no queue: it does not come back.
        if !folio.has(flag::REMOVED) {
            self.push_main(folio);
        }
    }

    fn push_main(&mut self, folio: &Arc<Folio>) {
        folio.raise(flag::QUEUED | flag::MAIN);
        self.main.push(folio);
    }

    /// How many folios there are.
    pub(crate) fn len(&self) -> usize {
        self.small.live + self.main.live
    }
}

/// A number that two folios rarely share; the same one for a folio of the same place later.
fn name(folio: &Folio) -> u64 {
    let mapping = in_file(folio.mapping.as_ptr().addr());
    mapping.rotate_left(32) ^ folio.first.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
