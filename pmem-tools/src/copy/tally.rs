//! What a copy or comparison did, and what failed.

use std::time::{Duration, Instant};

use serde::Serialize;
use udax::FileKind;
use udax_sync::atomic::{AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::plural::counted;
use crate::progress::Progress;
use crate::size::{Size, float};

/// The most failures kept for the JSON summary; all are counted and printed.
const MAX_KEPT_FAILURES: usize = 10_000;

/// Counts shared by the threads of a copy. The counters are independent statistics: relaxed order suffices.
pub(crate) struct Tally {
    started: Instant,
    progress: Progress,
    bytes: AtomicU64,
    files: AtomicU64,
    directories: AtomicU64,
    links: AtomicU64,
    others: AtomicU64,
    dropped_xattrs: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

/// A file that could not be copied, or differs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    path: String,
    what: String,
}

/// The end of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Regular files.
    pub(crate) files: u64,
    /// Directories.
    pub(crate) directories: u64,
    /// Symbolic and hard links.
    pub(crate) links: u64,
    /// Device nodes, fifos, sockets.
    pub(crate) others: u64,
    /// Bytes of data.
    pub(crate) bytes: u64,
    /// Time taken.
    pub(crate) seconds: f64,
    /// Extended attributes that the target cannot hold or this user may not set.
    pub(crate) dropped_xattrs: u64,
    /// Files that failed.
    pub(crate) failed: u64,
    failures: Vec<Failure>,
}

impl Tally {
    /// Counts from zero, and shows `progress`.
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            started: Instant::now(),
            progress,
            bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            directories: AtomicU64::new(0),
            links: AtomicU64::new(0),
            others: AtomicU64::new(0),
            dropped_xattrs: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failures: Mutex::new(Rank::Leaf, Vec::new()),
        }
    }

    /// One more of `kind` is done.
    pub(crate) fn count(&self, kind: FileKind) {
        let counter = match kind {
            FileKind::Regular => &self.files,
            FileKind::Directory => &self.directories,
            FileKind::Symlink => &self.links,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => &self.others,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// One more hard link is done.
    pub(crate) fn count_hard_link(&self) {
        self.links.fetch_add(1, Ordering::Relaxed);
    }

    /// `bytes` more of data are done.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.add(bytes);
    }

    /// An extended attribute was dropped.
    pub(crate) fn drop_xattr(&self) {
        self.dropped_xattrs.fetch_add(1, Ordering::Relaxed);
    }

    /// `path`, as messages name it, failed.
    pub(crate) fn fail(&self, path: &str, error: &anyhow::Error) {
        let failure = Failure {
            path: path.to_owned(),
            what: crate::failure::line(error),
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.progress.tell(&format!("{}: {}", failure.path, failure.what));
        let mut failures = self.failures.lock();
        if failures.len() < MAX_KEPT_FAILURES {
            failures.push(failure);
        }
    }

    /// Ends the counting.
    pub(crate) fn finish(self) -> Summary {
        self.progress.finish();
        let failures = self.failures.into_inner();
        Summary {
            files: self.files.into_inner(),
            directories: self.directories.into_inner(),
            links: self.links.into_inner(),
            others: self.others.into_inner(),
            bytes: self.bytes.into_inner(),
            seconds: self.started.elapsed().as_secs_f64(),
            dropped_xattrs: self.dropped_xattrs.into_inner(),
            failed: self.failed.into_inner(),
            failures,
        }
    }
}

impl Summary {
    /// With the failures of an earlier step.
    pub(crate) fn with_failures_of(mut self, earlier: Self) -> Self {
        self.failed += earlier.failed;
        self.failures.splice(0..0, earlier.failures);
        self
    }

    /// GB (10^9 bytes) a second.
    pub(crate) fn rate(&self) -> f64 {
        float(self.bytes) / 1e9 / self.seconds.max(Duration::from_nanos(1).as_secs_f64())
    }

    /// One sentence.
    pub(crate) fn sentence(&self) -> String {
        let mut text = format!(
            "{}, {}, {}, {}, {} in {:.2} s ({:.2} GB/s)",
            counted(self.files, "file", "files"),
            counted(self.directories, "directory", "directories"),
            counted(self.links, "link", "links"),
            counted(self.others, "other", "others"),
            Size(self.bytes),
            self.seconds,
            self.rate()
        );
        if self.dropped_xattrs > 0 {
            text.push_str(&format!(
                "; {} could not be kept",
                counted(self.dropped_xattrs, "extended attribute", "extended attributes")
            ));
        }
        if self.failed > 0 {
            text.push_str(&format!("; {} failed", self.failed));
        }
        text
    }
}
