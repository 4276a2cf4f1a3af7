//! Threads that write what is dirty: [`Flusher`]. After the kernel's `wb_workfn`.
//!
//! The *alarm* rings when more is dirty than the background limit; then files are written, the longest dirty first,
//! until less is. Without it, files that have been dirty for long are written every few seconds.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax_sync::atomic::{AtomicBool, AtomicU32, Ordering};
use udax_sync::thread::JoinHandle;
use udax_sync::{Condvar, Mutex, Rank, thread};

use crate::{Cache, CacheError, Control, Owner};

/// Pages of a file that are written before another one's turn comes: 32 MiB.
const TURN: u64 = 8192;

/// What flushers and those who need them tell each other.
#[derive(Debug)]
pub(crate) struct Alarm {
    state: Mutex<State>,
    flushers: AtomicU32,
    changed: Condvar,
    interval: Duration,
    expire: Duration,
}

#[derive(Debug, Default)]
struct State {
    is_rung: bool,
    /// Why the last round could write nothing more, though too much was dirty.
    failure: Option<Errno>,
}

impl Alarm {
    pub(crate) fn new(interval: Duration, expire: Duration) -> Self {
        Self {
            state: Mutex::new(Rank::Leaf, State::default()),
            flushers: AtomicU32::new(0),
            changed: Condvar::new(),
            interval,
            expire,
        }
    }

    /// Has the flusher look for work now.
    pub(crate) fn ring(&self) {
        let mut state = self.state.lock();
        if !state.is_rung {
            state.is_rung = true;
            self.changed.notify_one();
        }
    }

    pub(crate) fn has_flusher(&self) -> bool {
        self.flushers.load(Ordering::Acquire) > 0
    }

    /// Why nothing can be written, if so it was when last tried.
    pub(crate) fn failure(&self) -> Option<Errno> {
        self.state.lock().failure
    }
}

/// A thread that writes the dirty files of a cache, until it is dropped. What is dirty then is written only by who
/// syncs.
#[derive(Debug)]
pub struct Flusher {
    cache: Arc<Cache>,
    /// Set under the alarm's lock, so that who is about to wait sees it.
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts a thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(cache: &Arc<Cache>) -> io::Result<Self> {
        let theirs = Arc::clone(cache);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_stopped);
        cache.alarm.flushers.fetch_add(1, Ordering::AcqRel);
        let spawned = thread::Builder::new()
            .name("udax-flush".to_owned())
            .spawn(move || flush(&theirs, &told));
        if spawned.is_err() {
            cache.alarm.flushers.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(Self {
            cache: Arc::clone(cache),
            is_stopped,
            thread: Some(spawned?),
        })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        {
            let _state = self.cache.alarm.state.lock();
            self.is_stopped.store(true, Ordering::Release);
            // From now on others may start one, and who waits writes by himself.
            self.cache.alarm.flushers.fetch_sub(1, Ordering::AcqRel);
        }
        self.cache.alarm.changed.notify_all();
        // Whoever is dropped by the flusher itself, with what it has written last, cannot wait for it.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("a flusher has panicked");
        }
        let state = self.cache.alarm.state.lock();
        if state.is_rung {
            // It may have taken the wake of another one.
            self.cache.alarm.changed.notify_one();
        }
    }
}

fn flush(cache: &Cache, is_stopped: &AtomicBool) {
    loop {
        let mut state = cache.alarm.state.lock();
        let deadline = Instant::now() + cache.alarm.interval;
        let mut is_late = false;
        while !is_stopped.load(Ordering::Acquire) && !state.is_rung && !is_late {
            is_late = cache.alarm.changed.wait_until(&mut state, deadline);
        }
        if is_stopped.load(Ordering::Acquire) {
            return;
        }
        state.is_rung = false;
        drop(state);
        // Who waits for room waits for this only: an old file that cannot be written keeps nobody else.
        let failure = cache.write_to_background(is_stopped);
        cache.write_expired(is_stopped);
        cache.alarm.state.lock().failure = failure;
    }
}

impl Cache {
    /// Writes until no more is dirty than the background limit, or nothing more can be written: then, why. At most
    /// about what is dirty now: what stays dirty however often it is written must not keep a processor busy.
    fn write_to_background(&self, is_stopped: &AtomicBool) -> Option<Errno> {
        let is_over = || self.counts.dirty.load(Ordering::Acquire) > self.limits.background;
        let mut most = self.counts.dirty.load(Ordering::Acquire);
        while most > 0 && is_over() && !is_stopped.load(Ordering::Acquire) {
            match self.write_some(TURN) {
                Ok(0) => return None,
                Ok(pages) => most = most.saturating_sub(pages),
                Err(error) => return Some(error.errno()),
            }
        }
        None
    }

    /// Writes some pages of the file that has been dirty for the longest time, or if nothing of it can be written, of
    /// the next; how many.
    ///
    /// # Errors
    /// No file could be written, and this is why the last one was not.
    pub(crate) fn write_some(&self, pages: u64) -> Result<u64, CacheError> {
        let mut result = Ok(0);
        let files = self.dirty_file_count();
        for _ in 0..files {
            let file = self.dirty_files.lock().next_turn();
            let Some(file) = file else {
                break;
            };
            match write_file(&*file.owner, pages) {
                Ok(0) => {}
                Ok(written) => return Ok(written),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Writes what has been dirty for too long. What fails is told by the files' syncs.
    fn write_expired(&self, is_stopped: &AtomicBool) {
        let files = self.dirty_files.lock().dirty_for(self.alarm.expire);
        for file in files {
            if is_stopped.load(Ordering::Acquire) {
                break;
            }
            let mut left = file.owner.mapping().dirty_pages();
            // In turns, between which others have the file.
            while left > 0 && !is_stopped.load(Ordering::Acquire) {
                match write_file(&*file.owner, left.min(TURN)) {
                    Ok(0) | Err(_) => break,
                    Ok(pages) => left = left.saturating_sub(pages),
                }
            }
            self.dirty_files.lock().renew(&file);
        }
    }

    /// Writes everything of every file that is dirty now, for durability. What sync(2) and the end of a mount begin
    /// with.
    ///
    /// # Errors
    /// The first. All files are tried.
    pub fn write_all(&self) -> Result<(), CacheError> {
        let files = self.dirty_files.lock().dirty_for(Duration::ZERO);
        let mut result = Ok(());
        for file in files {
            let mapping = file.owner.mapping();
            let written = mapping.until_decided(|| {
                let written = file.owner.write_back(Control::full()).map(drop);
                mapping.wait_written(0..u64::MAX);
                written
            });
            mapping.unlist_clean();
            result = result.and(written);
        }
        result
    }
}

/// Writes so many pages of a file, from where that ended last; how many.
pub(crate) fn write_file(owner: &dyn Owner, pages: u64) -> Result<u64, CacheError> {
    let mapping = owner.mapping();
    let mut written = 0;
    // A pass that begins in the middle ends at the end; the second one begins at the front.
    for _ in 0..2 {
        let pass = owner.write_back(Control::background(pages - written));
        mapping.unlist_clean();
        written += pass?.pages;
        if written >= pages || mapping.dirty_pages() == 0 {
            break;
        }
    }
    Ok(written)
}
