//! What a contest counts: operations with their longest times, and what engines and judges did.

use std::time::Duration;

use serde::Serialize;
use udax_sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($name:ident $said:literal,)*) => {
        /// What threads do to files.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Operation {
            $($name,)*
        }

        impl Operation {
            const ALL: [(Self, &'static str); [$($said),*].len()] = [$((Self::$name, $said)),*];
        }
    };
}

operations! {
    Pin "pin",
    Write "write",
    Append "append",
    Truncate "truncate",
    Punch "punch",
    Zero "zero",
    Collapse "collapse",
    Insert "insert",
    Clone "clone",
    Exchange "exchange",
    Snapshot "snapshot",
    Dedupe "dedupe",
    Copy "copy",
    Replace "replace",
    Unlink "unlink",
    Sync "sync",
    SyncAll "sync all",
    Switch "switch DAX",
    Read "read",
}

impl Operation {
    pub(crate) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(operation, _)| *operation == self);
        found.map_or("", |(_, name)| name)
    }

    /// For an actor's word; never 0.
    pub(crate) fn number(self) -> u64 {
        let place = Self::ALL.iter().position(|(operation, _)| *operation == self);
        u64::try_from(place.unwrap_or(0)).unwrap_or(0) + 1
    }

    pub(crate) fn of_number(number: u64) -> Option<Self> {
        let place = usize::try_from(number.checked_sub(1)?).ok()?;
        Self::ALL.get(place).map(|(operation, _)| *operation)
    }
}

#[derive(Debug, Default)]
struct Timed {
    count: AtomicU64,
    refused: AtomicU64,
    total_micros: AtomicU64,
    longest_micros: AtomicU64,
}

/// One kind of operation, as it is reported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OperationCount {
    /// Its name.
    pub operation: &'static str,
    /// How many were done.
    pub count: u64,
    /// How many were refused: by a full pool, a data device that failed, or because a wait was ended by its deadline.
    pub refused: u64,
    /// Microseconds of an average one.
    pub mean_micros: u64,
    /// Microseconds of the longest.
    pub longest_micros: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters while they count; relaxed, they order nothing.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            operations: [Timed; Operation::ALL.len()],
            /// Operations that a failing data device refused.
            pub(crate) refused_by_device: AtomicU64,
            $(pub(crate) $name: AtomicU64,)*
        }

        /// What engines and judges did.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
        pub struct DmaCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Tally {
            pub(crate) fn dma(&self) -> DmaCounts {
                DmaCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Transfers that engines made: each is a pin.
    transfers,
    /// Stores to pinned blocks.
    stores,
    /// Bytes that they stored.
    bytes,
    /// Bursts that the machine stored by direct reads.
    dma_reads,
    /// Bursts of them into buffers that were registered with the ring.
    registered_reads,
    /// Transfers into files that had no name any more.
    unlinked_transfers,
    /// Blocks whose content was judged.
    judged_blocks,
    /// Blocks that were not, because they were changing hands.
    unjudged_blocks,
    /// Pins that the filesystem refused because it found that their pages had moved: each is a defect, which it noticed
    /// before a store went astray.
    moved_pins,
    /// Reads of blocks of files that are not DAX that found an earlier owner's words of the same file, or zeros where
    /// something was written: the kernel promises nothing else.
    overtaken_blocks,
    /// Blocks of the pool that got another owner.
    recycled_blocks,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    fn timed(&self, operation: Operation) -> Option<&Timed> {
        let place = usize::try_from(operation.number() - 1).ok()?;
        self.operations.get(place)
    }

    pub(crate) fn note(&self, operation: Operation, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(timed) = self.timed(operation) {
            timed.count.fetch_add(1, Ordering::Relaxed);
            timed.total_micros.fetch_add(micros, Ordering::Relaxed);
            timed.longest_micros.fetch_max(micros, Ordering::Relaxed);
        }
    }

    pub(crate) fn refuse(&self, operation: Operation) {
        if let Some(timed) = self.timed(operation) {
            timed.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Operations that were done at all.
    pub(crate) fn operations(&self) -> Vec<OperationCount> {
        let counts = Operation::ALL.iter().zip(&self.operations);
        let counts = counts.map(|((_, name), timed)| {
            let count = timed.count.load(Ordering::Relaxed);
            OperationCount {
                operation: name,
                count,
                refused: timed.refused.load(Ordering::Relaxed),
                mean_micros: timed.total_micros.load(Ordering::Relaxed) / count.max(1),
                longest_micros: timed.longest_micros.load(Ordering::Relaxed),
            }
        });
        counts.filter(|count| count.count > 0).collect()
    }
}
