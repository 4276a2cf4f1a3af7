//! What keeps a break from waiting for ever: [`Gate`] holds new pins of a range back while a break of it is pending.
//!
//! A pin waits only for breaks that were pending when it came, and not longer than [`PATIENCE`]: its thread may itself
//! hold the pin that the break waits for. So neither breaks nor pins starve.
//!
//! Lock: a leaf around the list of pending ranges.

use std::sync::Arc;
use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicUsize, Ordering};
use udax_sync::{Mutex, Rank};

use crate::statistics::Statistics;
use crate::wait::{Key, Wake};
use crate::{DaxError, Mapping, Mode, PageRange, Until, WaitError};

/// How long a pin waits for breaks: long enough for those whose pins end by themselves (a transfer takes milliseconds),
/// short enough for a thread that waits for itself.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Gate {
    /// As many as are pending. Relaxed: who comes at the same time may pass, the break looks again.
    len: AtomicUsize,
    pending: Mutex<Ranges>,
}

#[derive(Debug, Default)]
struct Ranges {
    last: u64,
    list: Vec<(u64, PageRange)>,
}

impl Ranges {
    /// Whether one of the breaks up to `newest`, but not `own`, is of the range.
    fn blocks(&self, pages: PageRange, newest: u64, own: Option<u64>) -> bool {
        let mut list = self.list.iter().filter(|(number, _)| Some(*number) != own);
        list.any(|(number, pending)| *number <= newest && pending.overlaps(pages))
    }
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            pending: Mutex::new(Rank::Leaf, Ranges::default()),
        }
    }

    fn add(&self, pages: &[PageRange]) -> u64 {
        let mut pending = self.pending.lock();
        pending.last += 1;
        let number = pending.last;
        pending.list.extend(pages.iter().map(|pages| (number, *pages)));
        self.len.store(pending.list.len(), Ordering::Relaxed);
        number
    }

    fn remove(&self, number: u64) {
        let mut pending = self.pending.lock();
        pending.list.retain(|(other, _)| *other != number);
        self.len.store(pending.list.len(), Ordering::Relaxed);
    }
}

/// A break that waits: pins of its ranges are held back as long as this lives.
#[derive(Debug)]
pub(crate) struct Pending {
    mapping: Arc<Mapping>,
    number: u64,
}

impl Pending {
    pub(crate) fn new(mapping: &Arc<Mapping>, pages: &[PageRange]) -> Self {
        Self {
            number: mapping.gate.add(pages),
            mapping: Arc::clone(mapping),
        }
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// As [`Mapping::pass_gate`], but for what this holds back itself.
    pub(crate) fn pass_gate(&self, pages: PageRange, mode: &Mode) -> Result<(), DaxError> {
        self.mapping.wait_at_gate(pages, mode, Some(self.number))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.mapping.gate.remove(self.number);
        let waits = &self.mapping.device().waits;
        waits.wake(Key::Gate(self.mapping.id()), Wake::All);
    }
}

impl Mapping {
    /// Lets breaks of the range that are pending now go first, but waits for them at most a tenth of a second: the
    /// caller may hold the pin that they wait for.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: by `mode`.
    ///
    /// # Locks
    /// None may be held that a holder of a pin could want.
    #[inline]
    pub fn pass_gate(&self, pages: PageRange, mode: &Mode) -> Result<(), DaxError> {
        if self.gate.len.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.wait_at_gate(pages, mode, None)
    }

    #[cold]
    fn wait_at_gate(&self, pages: PageRange, mode: &Mode, own: Option<u64>) -> Result<(), DaxError> {
        let newest = {
            let pending = self.gate.pending.lock();
            if !pending.blocks(pages, u64::MAX, own) {
                return Ok(());
            }
            pending.last
        };
        let Mode::Until(until) = mode else {
            return Err(DaxError::WouldBlock {
                page: pages.first(),
                what: "its layout is about to be broken",
            });
        };
        Statistics::add(&self.device().statistics.gated_pins);
        let patience = Instant::now() + PATIENCE;
        let bounded = Until {
            deadline: Some(until.deadline.map_or(patience, |deadline| deadline.min(patience))),
            cancel: until.cancel.clone(),
        };
        let is_blocked = || self.gate.pending.lock().blocks(pages, newest, own);
        let result = self
            .device()
            .waits
            .wait_while(Key::Gate(self.id()), &bounded, is_blocked);
        match result {
            // The caller's own deadline is later.
            Err(WaitError::TimedOut) if bounded.deadline == Some(patience) => Ok(()),
            result => Ok(result?),
        }
    }
}
