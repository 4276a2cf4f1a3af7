//! A medium of whose requests some fail, for tests: [`Unreliable`].

use std::sync::Arc;

use udax_sync::atomic::{AtomicU64, Ordering};

use crate::{DiskError, Medium, Write};

/// A medium over another one, which answers some requests with `EIO`, chosen at random.
///
/// Of a write that fails some parts may be done, as its users must expect; of what was flushed nothing is lost.
#[derive(Debug)]
pub struct Unreliable {
    below: Arc<dyn Medium>,
    /// One in so many fails; none, if this is 0.
    one_in: AtomicU64,
    /// Requests, from a number that the choices follow from.
    requests: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
}

/// How many requests have failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FailedRequests {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl Unreliable {
    /// Over `below`. No request fails yet; which ones will, `seed` decides.
    pub fn new(below: Arc<dyn Medium>, seed: u64) -> Self {
        Self {
            below,
            one_in: AtomicU64::new(0),
            requests: AtomicU64::new(seed << 32),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        }
    }

    /// From now on one in `requests` fails; none, if this is 0.
    pub fn fail_one_in(&self, requests: u64) {
        self.one_in.store(requests, Ordering::Relaxed);
    }

    /// What has failed so far.
    pub fn failed(&self) -> FailedRequests {
        FailedRequests {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }

    /// A number for this request if it is to fail.
    fn choose(&self) -> Option<u64> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let one_in = self.one_in.load(Ordering::Relaxed);
        let random = mixed(number);
        (one_in > 0 && random.is_multiple_of(one_in)).then_some(random / one_in.max(1))
    }
}

impl Medium for Unreliable {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), DiskError> {
        if self.choose().is_some() {
            self.reads.fetch_add(1, Ordering::Relaxed);
            return Err(DiskError::lost("read", at));
        }
        self.below.read(at, to)
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let Some(random) = self.choose() else {
            return self.below.write(writes);
        };
        self.writes.fetch_add(1, Ordering::Relaxed);
        let parts = u64::try_from(writes.len()).unwrap_or(u64::MAX);
        let done = usize::try_from(random % parts.saturating_add(1)).unwrap_or(0);
        let (done, rest) = writes.split_at(done);
        self.below.write(done)?;
        // Also when all of it was done: a request can fail on its way back.
        let at = rest.first().or(done.last()).map_or(0, |write| write.at);
        Err(DiskError::lost("write", at))
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.choose().is_some() {
            self.flushes.fetch_add(1, Ordering::Relaxed);
            return Err(DiskError::lost("flush", 0));
        }
        self.below.flush()
    }
}

/// Numbers that follow each other become ones that look random. Source: Steele, Lea, Flood, *Fast splittable
/// pseudorandom number generators*, OOPSLA 2014 (the mixing function of `SplitMix64`).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BLOCK, MemoryMedium};

    #[test]
    fn about_one_in_so_many_fails_and_is_counted() {
        let medium = Unreliable::new(Arc::new(MemoryMedium::new(2 * BLOCK)), 7);
        let mut bytes = [0; 4096];
        let mut fails = |medium: &Unreliable| {
            let count = (0..1000).filter(|_| {
                let one = [Write {
                    at: BLOCK,
                    bytes: &[1; 4096],
                }];
                medium.read(0, &mut bytes).is_err() | medium.write(&one).is_err() | medium.flush().is_err()
            });
            count.count()
        };
        assert_eq!(fails(&medium), 0);
        medium.fail_one_in(10);
        let failed = fails(&medium);
        assert!((150..450).contains(&failed), "{failed} of 1000");
        let counts = medium.failed();
        for count in [counts.reads, counts.writes, counts.flushes] {
            assert!((50..200).contains(&count), "{counts:?}");
        }
        medium.fail_one_in(0);
        assert_eq!(fails(&medium), 0);
        assert_eq!(medium.failed(), counts);
    }

    #[test]
    fn of_a_write_that_fails_some_parts_are_done() {
        let below = Arc::new(MemoryMedium::new(2 * BLOCK));
        let medium = Unreliable::new(below, 1);
        medium.fail_one_in(1);
        let mut seen = std::collections::BTreeSet::new();
        for value in 1..=64 {
            let (one, two) = ([value; 4096], [value; 4096]);
            let writes = [
                Write { at: 0, bytes: &one },
                Write {
                    at: BLOCK,
                    bytes: &two,
                },
            ];
            assert!(medium.write(&writes).is_err());
            let mut bytes = [0; 8192];
            medium.below.read(0, &mut bytes).unwrap();
            assert!(bytes[0] == value || bytes[4096] != value, "in their order");
            seen.insert((bytes[0] == value, bytes[4096] == value));
        }
        assert_eq!(seen.len(), 3, "none, one, both: {seen:?}");
    }
}
