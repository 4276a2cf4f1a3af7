//! How fast a scrub goes, and whether it goes on.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use udax_sync::thread;

use super::ScrubStep;

/// The longest time without asking whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);

/// Counts what is looked at, and waits where that was more than the rate allows.
pub(super) struct Pace<'w> {
    watch: &'w mut dyn FnMut(ScrubStep) -> ControlFlow<()>,
    rate: Option<NonZero<u64>>,
    began: Instant,
    done: u64,
    total: u64,
}

impl<'w> Pace<'w> {
    pub(super) fn new(
        rate: Option<NonZero<u64>>,
        total: u64,
        watch: &'w mut dyn FnMut(ScrubStep) -> ControlFlow<()>,
    ) -> Self {
        Self {
            watch,
            rate,
            began: Instant::now(),
            done: 0,
            total,
        }
    }

    /// Bytes looked at.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// `bytes` more were looked at. No lock may be held.
    pub(super) fn add(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done += bytes;
        loop {
            (self.watch)(ScrubStep {
                done: self.done,
                total: self.total.max(self.done),
            })?;
            match self.ahead() {
                Some(ahead) => thread::sleep(ahead.min(PATIENCE)),
                None => return ControlFlow::Continue(()),
            }
        }
    }

    /// For how long nothing may be read, so that the rate is kept.
    fn ahead(&self) -> Option<Duration> {
        let rate = self.rate?.get();
        let nanoseconds = u128::from(self.done) * 1_000_000_000 / u128::from(rate);
        let due = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        due.checked_sub(self.began.elapsed())
            .filter(|ahead| !ahead.is_zero())
    }
}
