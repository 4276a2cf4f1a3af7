//! Verification and repair of a udax pool.
#![forbid(unsafe_code)]

use udax_media::Place;
use udax_pmem::Region;

/// How to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Mend what can be mended (`fsck -y`); otherwise change nothing, not even by replaying the journal.
    pub repair: bool,
    /// Worker threads; 0 for one a processor.
    pub threads: usize,
}

/// A violation of the format or of an agreement between structures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong, in words.
    pub what: String,
    /// What was done about it; `None` when nothing was.
    pub repair: Option<String>,
    /// What is lost by it; `None` when nothing is.
    pub lost: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// All problems, in the order of the pool.
    pub problems: Vec<Problem>,
    /// Whether the pool had been closed cleanly.
    pub was_clean: bool,
    /// Journal records replayed (in memory only when not repairing).
    pub replayed: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Blocks in use.
    pub used_blocks: u64,
    /// Blocks of the pool.
    pub total_blocks: u64,
}

/// Why the check could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The medium failed.
    #[error(transparent)]
    Region(#[from] udax_pmem::RegionError),
    /// The journal could not be replayed.
    #[error(transparent)]
    Journal(#[from] udax_journal::JournalError),
    /// No superblock could be believed.
    #[error("no valid superblock: {first}; copy: {second}")]
    NoSuperblock {
        /// What is wrong with the first.
        first: udax_media::FormatError,
        /// What is wrong with its copy.
        second: udax_media::FormatError,
    },
}

/// Told how far the check is.
pub trait Progress: Sync {
    /// `done` of `total` units of `phase`.
    fn step(&self, phase: &'static str, done: u64, total: u64);
}

/// No progress wanted.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &'static str, _: u64, _: u64) {}
}

/// Checks the pool in `region`, and repairs it if asked.
pub fn check(_region: &Region, _options: &CheckOptions, _progress: &dyn Progress) -> Result<Report, CheckError> {
    todo!()
}
