//! Watchers of a region: what they see, one that counts and one that keeps everything.
//!
//! A [`Watch`] makes a store and its record one: a trace replayed is the region, whoever stored at once.
//!
//! Locks: the watch's, of rank `Recorder`, under which a recorder runs and may take leaves; the trace's, a leaf.

use std::fmt;
use std::sync::Arc;
use std::thread::ThreadId;

use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::LINE;

/// What a [`Recorder`] sees.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// Bytes were stored through the cache: durable only after their lines are flushed and a fence has passed.
    Store {
        /// Offset in the region.
        at: u64,
        /// The bytes, now in place.
        bytes: &'e [u8],
    },
    /// Whole lines were stored past the cache: durable only after a fence.
    NonTemporal {
        /// Offset in the region.
        at: u64,
        /// The bytes, now in place.
        bytes: &'e [u8],
    },
    /// The lines of this range were written back: durable after a fence.
    Flush {
        /// Offset in the region, as asked for: not rounded to lines.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Everything flushed or stored past the cache by this thread before is durable now.
    Fence,
}

/// Sees every store, flush and fence of a region. Called by the storing thread, after the store, for one event of a
/// region at a time, in the order in which they happened.
///
/// Flushes are seen in every persistence domain, also where they need no instruction: a trace does not depend on the
/// machine. A recorder may read the region it watches, and must not store to it: that would wait for itself.
pub trait Recorder: Send + Sync + fmt::Debug {
    /// `event` has happened.
    fn record(&self, event: Event<'_>);
}

/// A recorder, and the lock that keeps events in their order.
#[derive(Debug)]
pub(crate) struct Watch {
    recorder: Arc<dyn Recorder>,
    order: Mutex<()>,
}

impl Watch {
    pub(crate) fn new(recorder: Arc<dyn Recorder>) -> Self {
        Self {
            recorder,
            order: Mutex::new(Rank::Recorder, ()),
        }
    }

    /// Does `act`, and records what `event` says of it before anything else happens to the region.
    #[cold]
    pub(crate) fn see<'e, T>(
        &self,
        act: impl FnOnce() -> T,
        event: impl FnOnce(&T) -> Option<Event<'e>>,
    ) -> T {
        let _order = self.order.lock();
        let done = act();
        if let Some(event) = event(&done) {
            self.recorder.record(event);
        }
        done
    }
}

/// Lines that `len` bytes at `at` touch.
fn lines(at: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    (at + len - 1) / LINE - at / LINE + 1
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// What a [`CountingRecorder`] has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Stores through the cache.
    pub stores: u64,
    /// Bytes of those.
    pub stored_bytes: u64,
    /// Stores past the cache.
    pub nontemporal_stores: u64,
    /// Bytes of those.
    pub nontemporal_bytes: u64,
    /// Lines of those.
    pub nontemporal_lines: u64,
    /// Flushes of a range.
    pub flushes: u64,
    /// Lines of those.
    pub flushed_lines: u64,
    /// Fences.
    pub fences: u64,
}

/// Counts events.
#[derive(Debug)]
pub struct CountingRecorder {
    stores: AtomicU64,
    stored_bytes: AtomicU64,
    nontemporal_stores: AtomicU64,
    nontemporal_bytes: AtomicU64,
    nontemporal_lines: AtomicU64,
    flushes: AtomicU64,
    flushed_lines: AtomicU64,
    fences: AtomicU64,
}

impl Default for CountingRecorder {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            stores: zero(),
            stored_bytes: zero(),
            nontemporal_stores: zero(),
            nontemporal_bytes: zero(),
            nontemporal_lines: zero(),
            flushes: zero(),
            flushed_lines: zero(),
            fences: zero(),
        }
    }
}

impl CountingRecorder {
    /// All counts are zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts. Each is exact; while other threads store they are not of one moment.
    pub fn snapshot(&self) -> Counts {
        // Relaxed: nothing else is published by a count.
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            stores: of(&self.stores),
            stored_bytes: of(&self.stored_bytes),
            nontemporal_stores: of(&self.nontemporal_stores),
            nontemporal_bytes: of(&self.nontemporal_bytes),
            nontemporal_lines: of(&self.nontemporal_lines),
            flushes: of(&self.flushes),
            flushed_lines: of(&self.flushed_lines),
            fences: of(&self.fences),
        }
    }

    /// Gives the counts and makes them zero.
    pub fn reset(&self) -> Counts {
        let of = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Counts {
            stores: of(&self.stores),
            stored_bytes: of(&self.stored_bytes),
            nontemporal_stores: of(&self.nontemporal_stores),
            nontemporal_bytes: of(&self.nontemporal_bytes),
            nontemporal_lines: of(&self.nontemporal_lines),
            flushes: of(&self.flushes),
            flushed_lines: of(&self.flushed_lines),
            fences: of(&self.fences),
        }
    }
}

impl Recorder for CountingRecorder {
    fn record(&self, event: Event<'_>) {
        let add = |count: &AtomicU64, by: u64| {
            count.fetch_add(by, Ordering::Relaxed);
        };
        match event {
            Event::Store { bytes, .. } => {
                add(&self.stores, 1);
                add(&self.stored_bytes, len_of(bytes));
            }
            Event::NonTemporal { at, bytes } => {
                add(&self.nontemporal_stores, 1);
                add(&self.nontemporal_bytes, len_of(bytes));
                add(&self.nontemporal_lines, lines(at, len_of(bytes)));
            }
            Event::Flush { at, len } => {
                add(&self.flushes, 1);
                add(&self.flushed_lines, lines(at, len));
            }
            Event::Fence => add(&self.fences, 1),
        }
    }
}

/// An [`Event`] that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnedEvent {
    /// As [`Event::Store`].
    Store {
        /// Offset in the region.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// As [`Event::NonTemporal`].
    NonTemporal {
        /// Offset in the region.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// As [`Event::Flush`].
    Flush {
        /// Offset in the region.
        at: u64,
        /// Length in bytes.
        len: u64,
    },
    /// As [`Event::Fence`].
    Fence,
}

impl From<Event<'_>> for OwnedEvent {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Store { at, bytes } => Self::Store {
                at,
                bytes: bytes.to_vec(),
            },
            Event::NonTemporal { at, bytes } => Self::NonTemporal {
                at,
                bytes: bytes.to_vec(),
            },
            Event::Flush { at, len } => Self::Flush { at, len },
            Event::Fence => Self::Fence,
        }
    }
}

/// An event and the thread that caused it: a fence is for the stores of its own thread only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traced {
    /// Who stored, flushed or fenced.
    pub thread: ThreadId,
    /// What happened.
    pub event: OwnedEvent,
}

/// Keeps all events with their bytes, for crash tests. Memory grows with what is stored: [`TraceRecorder::take`].
#[derive(Debug)]
pub struct TraceRecorder {
    events: Mutex<Vec<Traced>>,
}

impl Default for TraceRecorder {
    fn default() -> Self {
        Self {
            events: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }
}

impl TraceRecorder {
    /// An empty trace.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events since the last call, in the order in which they happened.
    pub fn take(&self) -> Vec<Traced> {
        std::mem::take(&mut *self.events.lock())
    }

    /// A copy of the events since there were `from` of them.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn since(&self, from: usize) -> Vec<Traced> {
        self.events.lock()[from..].to_vec()
    }

    /// How many events are kept.
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether no event is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Recorder for TraceRecorder {
    fn record(&self, event: Event<'_>) {
        let traced = Traced {
            thread: std::thread::current().id(),
            event: event.into(),
        };
        self.events.lock().push(traced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_counts_each_touched_line_once() {
        assert_eq!(lines(0, 0), 0);
        assert_eq!(lines(63, 1), 1);
        assert_eq!(lines(63, 2), 2);
        assert_eq!(lines(64, 64), 1);
        assert_eq!(lines(1, 4096), 65);
    }
}
