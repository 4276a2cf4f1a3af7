//! Keeping writers from making pages dirty faster than they are written: after the kernel's `balance_dirty_pages`.
//!
//! A writer asks before it writes, with no lock. Below the middle of the background limit and the limit it goes on.
//! Between that and the limit it pauses, the longer the fewer pages are left; at the limit it waits until there is
//! room. So at no time more pages are dirty than the limit and one piece for each writer that was let through at once.

use std::time::{Duration, Instant};

use udax_sync::atomic::Ordering;
use udax_sync::wait::{Mode, Until, WaitError};

use crate::flusher::write_file;
use crate::folio::Key;
use crate::page::PAGE;
use crate::{Cache, CacheError, Mapping};

/// The longest pause: as the kernel's `MAX_PAUSE`. A wait at the limit looks again after it, whether it was woken or
/// not.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Pages that a writer without a flusher writes itself before it looks again.
const OWN_WORK: u64 = 1024;

impl Cache {
    /// Waits until `bytes` more of a file may become dirty.
    ///
    /// # Errors
    /// `WouldBlock`, `Wait`: by `mode`. `WriteBack` if writing fails, so that there is nothing to wait for.
    ///
    /// # Locks
    /// None may be held that write-back of any file could want.
    pub fn throttle(&self, mapping: &Mapping, bytes: u64, mode: &Mode) -> Result<(), CacheError> {
        let pages = bytes.div_ceil(PAGE).min(self.limits.file_dirty / 2);
        if let Some(pause) = self.pause(mapping, pages) {
            self.counts.throttled.fetch_add(1, Ordering::Relaxed);
            self.alarm.ring();
            self.wait_a_while(mapping, pause, mode)?;
        }
        while self.is_full(mapping, pages) {
            self.counts.throttled.fetch_add(1, Ordering::Relaxed);
            if matches!(mode, Mode::NoWait) {
                self.alarm.ring();
                return Err(too_many(mapping));
            }
            self.make_progress(mapping)?;
            if self.is_full(mapping, pages) {
                self.wait_a_while(mapping, MAX_PAUSE, mode)?;
            }
        }
        Ok(())
    }

    /// Dirty pages and those that are being written.
    fn unwritten(&self) -> u64 {
        self.counts.dirty.load(Ordering::Acquire) + self.counts.under_write.load(Ordering::Acquire)
    }

    fn is_full(&self, mapping: &Mapping, pages: u64) -> bool {
        self.unwritten() + pages > self.limits.dirty || mapping.dirty_pages() + pages > self.limits.file_dirty
    }

    /// How long a writer pauses that has room.
    fn pause(&self, mapping: &Mapping, pages: u64) -> Option<Duration> {
        let free_run = self.limits.background.midpoint(self.limits.dirty);
        let unwritten = self.unwritten() + pages;
        if unwritten <= free_run || self.is_full(mapping, pages) || !self.alarm.has_flusher() {
            return None;
        }
        let part = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
        let range = part(self.limits.dirty - free_run).max(1);
        Some(MAX_PAUSE * part(unwritten - free_run).min(range) / range)
    }

    /// Has pages written: by the flusher, or without one, here.
    fn make_progress(&self, mapping: &Mapping) -> Result<(), CacheError> {
        if self.alarm.has_flusher() {
            self.alarm.ring();
            return match self.alarm.failure() {
                Some(errno) => Err(CacheError::WriteBack { errno }),
                None => Ok(()),
            };
        }
        if mapping.dirty_pages() > 0
            && let Some(owner) = mapping.owner.upgrade()
        {
            return write_file(&*owner, OWN_WORK).map(drop);
        }
        self.write_some(OWN_WORK).map(drop)
    }

    /// Waits until something was written, at most for `pause`.
    fn wait_a_while(&self, mapping: &Mapping, pause: Duration, mode: &Mode) -> Result<(), CacheError> {
        let Mode::Until(until) = mode else {
            return Err(too_many(mapping));
        };
        let end = Instant::now() + pause;
        let slice = Until {
            deadline: Some(until.deadline.map_or(end, |deadline| deadline.min(end))),
            cancel: until.cancel.clone(),
        };
        let before = self.unwritten();
        let waited = self
            .waits
            .wait_while(Key::Dirty, &slice, || self.unwritten() >= before);
        match waited {
            Err(WaitError::TimedOut) if until.deadline.is_none_or(|deadline| end < deadline) => Ok(()),
            waited => Ok(waited?),
        }
    }
}

fn too_many(mapping: &Mapping) -> CacheError {
    CacheError::WouldBlock {
        page: mapping.dirty_pages(),
        what: "too many pages are dirty",
    }
}
