//! How full the journal is: [`JournalStatistics`].

use udax_sync::atomic::Ordering;

use crate::Journal;

/// The numbers of a journal, at about one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct JournalStatistics {
    /// Lanes.
    pub lanes: u64,
    /// Bytes of records that the lanes have room for together.
    pub capacity_bytes: u64,
    /// Of these, bytes that are not used again before the next checkpoint.
    pub used_bytes: u64,
    /// The most of them in one lane: a commit waits for a checkpoint when its lane is full.
    pub fullest_lane_bytes: u64,
    /// Records that no checkpoint has passed.
    pub records: u64,
    /// Records committed since the pool was made.
    pub committed: u64,
    /// Checkpoints since the pool was opened.
    pub checkpoints: u64,
}

impl Journal {
    /// The numbers of now.
    ///
    /// # Locks
    /// Each lane's in turn, for a moment.
    pub fn statistics(&self) -> JournalStatistics {
        let checkpointed = self.checkpointed_sequence();
        let mut statistics = JournalStatistics {
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
            ..JournalStatistics::default()
        };
        for lane in self.lanes().iter() {
            let (halves, half_bytes) = {
                let state = lane.lock();
                (state.halves(), state.half_bytes())
            };
            let is_ahead = |half: &&crate::lane::Half| half.last > checkpointed;
            let used = halves.iter().filter(is_ahead).map(|half| half.used).sum();
            statistics.lanes += 1;
            statistics.capacity_bytes += 2 * half_bytes;
            statistics.used_bytes += used;
            statistics.fullest_lane_bytes = statistics.fullest_lane_bytes.max(used);
        }
        // After the lanes: no record is counted that is not in one.
        let last = self.last_sequence().raw();
        statistics.committed = last;
        statistics.records = last.saturating_sub(checkpointed.raw());
        statistics
    }
}
