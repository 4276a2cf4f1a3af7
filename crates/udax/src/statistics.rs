//! What an open pool is doing, for people and for monitoring: [`Statistics`].
//!
//! All of it is counted anyhow, or read from what is there when it is asked for; no operation counts for this alone.
//! Times of operations are not here: to take them would cost a fair part of an operation. Who serves others takes its
//! own, as the mount does.

use std::time::{Duration, Instant};

use udax_dax::{Counters, Listed};
use udax_journal::JournalStatistics;
use udax_pagecache::Statistics as CacheStatistics;

use crate::dax::Waiter;
use crate::filesystem::Filesystem;
use crate::health::Damage;
use crate::options::FilesystemStat;

/// The numbers of an open pool. Each stands for itself: they are read one after another while operations go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Statistics {
    /// How long the pool has been open.
    pub open_for: Duration,
    /// Space and inodes.
    pub space: FilesystemStat,
    /// How full the journal is, and how it fared.
    pub journal: JournalStatistics,
    /// The page cache of files without DAX.
    pub cache: CacheStatistics,
    /// What was done with pins and layouts.
    pub dax: Counters,
    /// Every pin that is held, the oldest first.
    pub pins: Vec<Listed>,
    /// Every operation that waits for a pin or a lease, who has waited longest first.
    pub waiters: Vec<Waiter>,
    /// Why the pool takes no more changes, if it does not.
    pub damage: Option<Damage>,
}

impl Filesystem {
    /// What the pool is doing: what `udax top` shows.
    ///
    /// # Locks
    /// Each lane of the journal's in turn, for a moment; each shard's of the list of pins.
    pub fn statistics(&self) -> Statistics {
        let pool = self.pool();
        Statistics {
            open_for: Instant::now().saturating_duration_since(pool.opened),
            space: self.stat_filesystem(),
            journal: pool.journal.statistics(),
            cache: self.cache_statistics(),
            dax: self.dax_counters(),
            pins: self.pins(),
            waiters: pool.waiters.collect(),
            damage: self.damage(),
        }
    }
}
