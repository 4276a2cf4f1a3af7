//! How a contest is set up, and why one cannot be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use udax::{DaxMode, MountOptions};
use udax_disk::Unreliable;

use crate::stamp::MAX_SLOTS;

/// The most threads: words of blocks name their writer in 6 bits.
const MAX_THREADS: usize = 60;

/// What is looked at to find a defect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Witness {
    /// The bytes of blocks, and who has which block of the pool pinned.
    #[default]
    BytesAndHolders,
    /// The bytes only: a store must have gone astray before something is found.
    Bytes,
}

/// How files are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ways {
    /// As the pool was opened: all by memory access, in one that was opened without a word about it.
    #[default]
    AsOpened,
    /// Files are switched between memory access and the page cache all the time, and read and written through the
    /// cache, past it, and so that it keeps nothing. The pool was opened as [`Ways::mount`] says.
    Switched,
}

/// Of the page cache where files are switched: less than the files have, so that it is always full.
const CACHE_BYTES: u64 = 2 << 20;

impl Ways {
    /// How a pool is to be opened for such a contest, and else as `options` say.
    #[must_use]
    pub fn mount(self, options: MountOptions) -> MountOptions {
        match self {
            Self::AsOpened => options,
            Self::Switched => MountOptions {
                dax: DaxMode::Inode,
                cache_bytes: CACHE_BYTES,
                ..options
            },
        }
    }
}

/// What the engines are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum EngineKind {
    /// Threads that store.
    #[default]
    Simulated,
    /// Real DMA: `O_DIRECT` reads through io_uring, from a file in this directory, into pinned pages.
    IoUring(PathBuf),
}

/// A data device that fails now and then: what it refuses is refused, and nothing else goes wrong.
#[derive(Clone, Debug)]
pub struct Failing {
    /// The medium that the pool was opened with.
    pub device: Arc<Unreliable>,
    /// One in so many of its requests fails, as long as the contest goes on.
    pub one_in: u64,
}

/// How a contest is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the choices that each thread makes. Which thread comes first is up to the machine.
    pub seed: u64,
    /// How long it goes on.
    pub duration: Duration,
    /// What engines are.
    pub engine: EngineKind,
    /// Threads that act as DMA engines.
    pub engines: usize,
    /// Threads that change files.
    pub threads: usize,
    /// Files that are changed and stored to.
    pub files: u64,
    /// How long an operation or a pin may take before it counts as starved.
    pub patience: Duration,
    /// What is looked at.
    pub witness: Witness,
    /// How files are reached.
    pub ways: Ways,
    /// Whether the data device fails.
    pub failing: Option<Failing>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            duration: Duration::from_secs(10),
            engine: EngineKind::default(),
            engines: 4,
            threads: 4,
            files: 12,
            patience: Duration::from_secs(20),
            witness: Witness::default(),
            ways: Ways::default(),
            failing: None,
        }
    }
}

impl Options {
    /// Checks the numbers.
    ///
    /// # Errors
    /// `Options`: none, or too many, of something.
    pub fn check(&self) -> Result<(), StressError> {
        let most = u64::try_from(MAX_SLOTS).unwrap_or(u64::MAX);
        if !(3..=most).contains(&self.files) {
            return Err(StressError::Options("there are 3 to 64 files"));
        }
        if self.engines == 0 || self.threads == 0 || self.engines + self.threads > MAX_THREADS {
            return Err(StressError::Options(
                "there are 1 to 60 engines and threads together, and one of each",
            ));
        }
        if self.duration.is_zero() || self.patience.is_zero() {
            return Err(StressError::Options(
                "a contest and its patience last longer than nothing",
            ));
        }
        Ok(())
    }
}

/// Why there is no contest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StressError {
    /// The options make no sense.
    #[error("{0}")]
    Options(&'static str),
    /// The pool could not be prepared, or looked at in the end.
    #[error(transparent)]
    Filesystem(#[from] udax::Error),
    /// The directory cannot be used.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The contest's own directory there.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// This machine does not do real DMA: what is missing, and why.
    #[error("{what}: {source}; simulated engines need none")]
    NoDma {
        /// What is missing.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("no thread can be started: {0}")]
    Thread(#[source] std::io::Error),
}
