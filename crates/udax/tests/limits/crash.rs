//! Copies of a pool in the middle of an operation.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use udax::{Filesystem, MountOptions};
use udax_pmem::{Event, Recorder};

use crate::pool::TestPool;

/// Copies the pool's file, as a killed process would leave it, at every `step`th event while armed.
#[derive(Debug)]
pub(crate) struct CopyingRecorder {
    path: PathBuf,
    step: u64,
    /// Events since armed; `u64::MAX` when not.
    events: AtomicU64,
    copies: AtomicU64,
}

impl CopyingRecorder {
    pub(crate) fn new(path: &Path, step: u64) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            step,
            events: AtomicU64::new(u64::MAX),
            copies: AtomicU64::new(0),
        })
    }

    fn copy_path(&self, number: u64) -> PathBuf {
        self.path.with_extension(number.to_string())
    }

    /// Copies while `operation` runs; gives the copies.
    pub(crate) fn during(&self, operation: impl FnOnce()) -> Vec<PathBuf> {
        self.events.store(0, Ordering::Relaxed);
        operation();
        self.events.store(u64::MAX, Ordering::Relaxed);
        let count = self.copies.swap(0, Ordering::Relaxed);
        (0..count).map(|number| self.copy_path(number)).collect()
    }
}

impl Recorder for CopyingRecorder {
    fn record(&self, _: Event<'_>) {
        let seen = self.events.load(Ordering::Relaxed);
        if seen == u64::MAX {
            return;
        }
        self.events.store(seen + 1, Ordering::Relaxed);
        if seen.is_multiple_of(self.step) {
            let number = self.copies.fetch_add(1, Ordering::Relaxed);
            std::fs::copy(&self.path, self.copy_path(number)).unwrap();
        }
    }
}

pub(crate) fn open_recorded(pool: &TestPool, recorder: &Arc<CopyingRecorder>) -> Filesystem {
    let options = MountOptions {
        recorder: Some(recorder.clone()),
        ..MountOptions::default()
    };
    Filesystem::open(&pool.path, &options).unwrap()
}
