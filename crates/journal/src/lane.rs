//! Lanes: where in the journal the next record goes.
//!
//! A lane has two halves. The active one is filled from its start; when a record does not fit any more, the other one
//! becomes active, if a checkpoint has passed its last record.

use std::sync::Arc;

use udax_media::{BlockRange, Geometry, Sequence, Superblock};
use udax_sync::atomic::{AtomicI64, Ordering};
use udax_sync::fault::{Fault, is_injected};
use udax_sync::{CachePadded, Mutex, MutexGuard, Rank};

use crate::head::Counters;

/// A lane, alone in its cache lines.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Its number, as in its records.
    pub(crate) number: u16,
    state: Mutex<LaneState>,
    /// Changes of the counters by this lane's records since the open. Written under the lock.
    free_blocks: AtomicI64,
    inodes: AtomicI64,
}

/// What a lane's lock protects.
#[derive(Debug)]
pub(crate) struct LaneState {
    halves: [Half; 2],
    active: usize,
    half_bytes: u64,
    /// The layout that this lane's records are applied to.
    pub(crate) geometry: Arc<Geometry>,
    /// Blocks that this lane's records have given up since the last checkpoint looked.
    given_up: Vec<GivenUp>,
}

/// Lost blocks that nobody owns since the record of this number.
pub(crate) type GivenUp = (Sequence, BlockRange);

/// A half of a lane, from the side of its writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    /// The lane that it is of.
    pub(crate) lane: u16,
    /// Its offset in the pool.
    pub(crate) start: u64,
    /// Bytes of records in it.
    pub(crate) used: u64,
    /// Its last record.
    pub(crate) last: Sequence,
    /// How often it has become active: tells one filling from the next.
    pub(crate) turn: u64,
}

/// Room for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// At this offset of the pool.
    At(u64),
    /// At this offset, the start of the half that is active from now on: the other wants a checkpoint.
    Switched(u64),
    /// Not before a checkpoint has passed this record.
    After(Sequence),
}

impl LaneState {
    /// Finds room for `bytes` (whole lines, at most half a half).
    #[inline]
    pub(crate) fn reserve(&mut self, bytes: u64, checkpointed: Sequence) -> Room {
        let half_bytes = self.half_bytes;
        let active = self.active_half();
        if active.used + bytes <= half_bytes {
            return Room::At(active.start + active.used);
        }
        self.switch(checkpointed)
    }

    fn switch(&mut self, checkpointed: Sequence) -> Room {
        let other = self.active ^ 1;
        let half = &mut self.halves[other];
        if half.last > checkpointed && !is_injected(Fault::EarlyLane) {
            return Room::After(half.last);
        }
        half.used = 0;
        half.turn += 1;
        self.active = other;
        Room::Switched(half.start)
    }

    /// The record of `bytes` that [`LaneState::reserve`] gave room to is complete.
    #[inline]
    pub(crate) fn append(&mut self, bytes: u64, sequence: Sequence) {
        let active = self.active_half();
        active.used += bytes;
        active.last = sequence;
    }

    /// The record has given up `blocks`.
    #[inline]
    pub(crate) fn give_up(&mut self, sequence: Sequence, blocks: &[BlockRange]) {
        self.given_up
            .extend(blocks.iter().map(|blocks| (sequence, *blocks)));
    }

    /// Moves what was given up to `to`.
    pub(crate) fn take_given_up(&mut self, to: &mut Vec<GivenUp>) {
        to.append(&mut self.given_up);
    }

    /// Bytes of a half.
    pub(crate) fn half_bytes(&self) -> u64 {
        self.half_bytes
    }

    /// Both halves, as they are.
    pub(crate) fn halves(&self) -> [Half; 2] {
        self.halves
    }

    #[inline]
    fn active_half(&mut self) -> &mut Half {
        // One bit: no bounds to fail.
        &mut self.halves[self.active & 1]
    }
}

impl Lane {
    fn new(number: u16, start: u64, half_bytes: u64, geometry: Arc<Geometry>) -> Self {
        let half = |start| Half {
            lane: number,
            start,
            used: 0,
            last: Sequence(0),
            turn: 0,
        };
        let state = LaneState {
            halves: [half(start), half(start + half_bytes)],
            active: 0,
            half_bytes,
            geometry,
            given_up: Vec::new(),
        };
        Self {
            number,
            state: Mutex::with_order(Rank::Lane, u64::from(number), state),
            free_blocks: AtomicI64::new(0),
            inodes: AtomicI64::new(0),
        }
    }

    /// Waits for the lane.
    pub(crate) fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock()
    }

    /// Takes the lane if nobody has it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, LaneState>> {
        self.state.try_lock()
    }

    /// Counts a record's changes. The guard proves that nobody else does.
    #[inline]
    pub(crate) fn count(&self, _guard: &LaneState, free_blocks: i64, inodes: i64) {
        // Relaxed: a count, nothing is published through it.
        let add = |to: &AtomicI64, delta: i64| {
            if delta != 0 {
                to.store(to.load(Ordering::Relaxed).wrapping_add(delta), Ordering::Relaxed);
            }
        };
        add(&self.free_blocks, free_blocks);
        add(&self.inodes, inodes);
    }
}

/// The lanes of a journal.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Box<[CachePadded<Lane>]>,
    /// The counters at the open.
    base: Counters,
}

impl Lanes {
    /// Empty lanes as the superblock lays them out.
    pub(crate) fn new(
        superblock: &Superblock,
        half_bytes: u64,
        geometry: &Arc<Geometry>,
        base: Counters,
    ) -> Self {
        let lanes = (0..superblock.lane_count)
            .map(|number| {
                let start = superblock.lane(number).start.offset().raw();
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                CachePadded::new(Lane::new(number, start, half_bytes, Arc::clone(geometry)))
            })
            .collect();
        Self { lanes, base }
    }

    /// All lanes, the one of this thread first.
    #[inline]
    pub(crate) fn own_first(&self) -> impl Iterator<Item = &Lane> {
        let own = udax_sync::thread_number() % self.lanes.len().max(1);
        let (before, after) = self.lanes.split_at(own);
        after.iter().chain(before).map(|lane| &**lane)
    }

    /// All lanes, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().map(|lane| &**lane)
    }

    /// The counters with all that is committed.
    pub(crate) fn counters(&self) -> Counters {
        let sum = |base: u64, of: fn(&Lane) -> &AtomicI64| {
            let delta = self.iter().fold(0_i64, |sum, lane| {
                sum.wrapping_add(of(lane).load(Ordering::Relaxed))
            });
            // Lanes are read one after another: what two of them do may be seen half, so it may pass zero.
            base.saturating_add_signed(delta)
        };
        Counters {
            free_blocks: sum(self.base.free_blocks, |lane| &lane.free_blocks),
            inodes: sum(self.base.inodes, |lane| &lane.inodes),
        }
    }
}
