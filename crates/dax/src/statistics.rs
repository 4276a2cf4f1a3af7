//! What a device's mappings have done: [`Statistics`], of which [`Counters`] is a reading.

use std::time::Duration;

use udax_sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters while they count. All relaxed: they are for people and tests, and order nothing.
        #[derive(Debug)]
        pub(crate) struct Statistics {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// A reading of the counters.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Statistics {
            pub(crate) fn new() -> Self {
                Self { $($name: AtomicU64::new(0),)* }
            }

            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Pins made.
    pins,
    /// Pins that went past the quick way: they locked an entry.
    slow_pins,
    /// Pins that waited for a break that was there before them.
    gated_pins,
    /// Layouts broken.
    breaks,
    /// Breaks that found a busy page.
    busy_breaks,
    /// Waits for a page to become idle.
    waits,
    /// Breaks of two files begun anew because the second was busy.
    two_file_retries,
    /// The longest wait for an idle page, in nanoseconds.
    longest_wait_nanos,
    /// Entries written back.
    written_back,
    /// Entries that a truncation still found: each is a defect of the filesystem, which did not break the layout.
    entries_at_truncate,
    /// Blocks that two entries have though the filesystem did not call them shared: each is a defect.
    unexpected_sharing,
}

impl Statistics {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_wait(&self, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        Self::add(&self.waits);
        self.longest_wait_nanos.fetch_max(nanos, Ordering::Relaxed);
    }
}
