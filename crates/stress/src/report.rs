//! What a contest comes to.

use std::fmt;

use serde::Serialize;

use crate::tally::{DmaCounts, OperationCount};

/// What kind of defect was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A block holds what somebody stored who had lost it, or what its last owner left.
    Stray,
    /// A block holds what nobody stored.
    Garbage,
    /// A block does not hold what was stored.
    Lost,
    /// A block of the pool is in the hands of two files.
    TwoHolders,
    /// The bytes of a snapshot that nobody writes to have changed.
    SnapshotChanged,
    /// An operation or a pin waited longer than the contest's patience.
    Starved,
    /// The pool's own structures are damaged.
    Corrupt,
    /// An operation failed that must not.
    Failed,
    /// The filesystem's own counters tell of a defect.
    Counted,
    /// A thread panicked.
    Panicked,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stray => "stray write",
            Self::Garbage => "garbage",
            Self::Lost => "lost bytes",
            Self::TwoHolders => "block of two files",
            Self::SnapshotChanged => "changed snapshot",
            Self::Starved => "starvation",
            Self::Corrupt => "damaged pool",
            Self::Failed => "failed operation",
            Self::Counted => "defect counted",
            Self::Panicked => "panic",
        })
    }
}

/// A defect that was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// Seconds after the start.
    pub seconds: f64,
    /// What is wrong, in words.
    pub what: String,
    /// The last operations on the block, of its file and of the pool's block, the oldest first; or the pins that are
    /// held.
    pub history: Vec<String>,
}

/// What the filesystem counted of pins and breaks during the contest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DaxCounts {
    /// Pins made.
    pub pins: u64,
    /// Pins that waited for a break that was there before them.
    pub gated_pins: u64,
    /// Layouts broken.
    pub breaks: u64,
    /// Attempts that found a pinned page, and began anew after it was idle.
    pub retries: u64,
    /// Waits for a page to become idle.
    pub waits: u64,
    /// The longest of them, in microseconds.
    pub longest_wait_micros: u64,
}

/// What the page cache counted during the contest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CacheCounts {
    /// Pages that it may take.
    pub budget: u64,
    /// The most that it had when somebody looked.
    pub most_pages: u64,
    /// The most of them that were dirty.
    pub most_dirty: u64,
    /// Folios that went for lack of memory.
    pub evicted: u64,
    /// How often a writer had to wait.
    pub throttled: u64,
    /// How often there was nothing that could go, and more than the budget was taken.
    pub over_budget: u64,
}

/// How often a failing data device failed during the contest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DeviceCounts {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes.
    pub failed_writes: u64,
    /// Flushes.
    pub failed_flushes: u64,
    /// Operations that were refused for that.
    pub refused: u64,
}

/// What a contest comes to.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Of the choices of all threads.
    pub seed: u64,
    /// How long it went on, in seconds.
    pub seconds: f64,
    /// What engines and judges did.
    pub dma: DmaCounts,
    /// What the filesystem did.
    pub dax: DaxCounts,
    /// What the page cache did.
    pub cache: CacheCounts,
    /// What the data device did not do.
    pub device: DeviceCounts,
    /// What was done to files.
    pub operations: Vec<OperationCount>,
    /// What is left out here, and what that means.
    pub notes: Vec<String>,
    /// What is wrong; nothing, if all is well.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Defects of this kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.kind == kind)
            .count()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.3} s: {}", self.kind, self.seconds, self.what)?;
        self.history.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
