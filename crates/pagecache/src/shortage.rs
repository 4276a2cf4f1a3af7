//! When there is no memory for a write: a full pass tries again a few times. After the loop of the kernel's
//! `do_writepages` (reference 2.19); a background pass ends with the error, as with any other.
//!
//! A run that finds no memory is dirty again at once, like any that fails: a backing that keeps an order sees that it
//! is not written. But nobody is told while its pass will try again. So who has waited for a write of somebody else's
//! pass knows neither that it was written nor that it was not. Each such run is therefore counted before its write
//! ends; who waits for writes in order to say that all is on the medium does so in [`Mapping::until_decided`], and when
//! the count has changed writes itself what is dirty.
//!
//! # Locks
//! Between two tries the cache holds none. Those of the caller stay: they are lent with the backing.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use udax_sync::atomic::Ordering;
use udax_sync::wait::Until;

use crate::folio::Key;
use crate::{BackingError, CacheError, Mapping};

/// So often a full pass is made while there is no memory for its writes. The kernel's goes on for ever; here others may
/// need what the caller has locked.
pub(crate) const MOST_TRIES: u32 = 4;

/// Between two of them: long enough for other writes to end, and all in all no longer than a slow sync takes.
const PAUSE: Duration = Duration::from_millis(20);

/// What becomes of a run for which there is no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shortage {
    /// It has failed like any other.
    Told,
    /// Its pass tries again.
    TriedAgain,
}

pub(crate) fn is_no_memory(error: &BackingError) -> bool {
    error.errno() == Errno::ENOMEM
}

impl Mapping {
    /// How often a run has found no memory, of which nobody was told.
    pub(crate) fn shortages(&self) -> u64 {
        // Pairs with the Release in `note_shortage`.
        self.errors.shortages.load(Ordering::Acquire)
    }

    /// A run has found no memory. Its pages are dirty again, and who waits for its write waits still.
    pub(crate) fn note_shortage(&self) {
        // Pairs with the Acquire in `shortages`.
        self.errors.shortages.fetch_add(1, Ordering::Release);
    }

    /// Has `write` write and wait for the writes of others, again if one of these has found no memory meanwhile.
    ///
    /// # Errors
    /// Those of `write`; `WriteBack` with `ENOMEM` if it was so each time.
    pub(crate) fn until_decided(
        &self,
        mut write: impl FnMut() -> Result<(), CacheError>,
    ) -> Result<(), CacheError> {
        for _ in 0..MOST_TRIES {
            let before = self.shortages();
            let result = write();
            if result.is_err() || self.shortages() == before {
                return result;
            }
        }
        Err(CacheError::WriteBack { errno: Errno::ENOMEM })
    }

    /// Gives others the time to free memory.
    pub(crate) fn pause_for_memory(&self) {
        let until = Until::deadline(Instant::now() + PAUSE);
        // Nothing tells of free memory: it ends by its deadline.
        let _ = self.cache().waits.wait_while(Key::Dirty, &until, || true);
    }
}
