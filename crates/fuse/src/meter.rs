//! How many requests of each kind there were, and how long they took.
//!
//! [`Meters`] has a `Meter` for each kind of request: a histogram of times from the moment the request is taken up to
//! the moment its answer was given to the kernel, and what it moved. A [`Timer`] runs for one request.
//!
//! # The histogram
//! Fixed and log-linear: each power of two of nanoseconds has 16 buckets of equal width, so a time is known to a
//! sixteenth of itself, from 128 ns to over two minutes. `hdrhistogram` has the same shape, but records with a mutable
//! borrow or through a channel to a collector; here a record is one relaxed addition to a table that never grows. The
//! few threads that serve share the tables: a line that moves between two of them costs little beside the system calls
//! of a request.
//!
//! # Locks
//! None. All counts are relaxed: each stands for itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use udax_sync::atomic::{AtomicU64, Ordering};

/// Buckets of a power of two, and the logarithm of that.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 4;
/// Shorter times than 2 to this, in nanoseconds, are in the first bucket.
const FIRST_BITS: u32 = 7;
/// Times from 2 to this on are in the last one.
const LAST_BITS: u32 = 37;
/// One for what is shorter, 16 for each of 30 powers of two, one for what is longer.
const BUCKETS: usize = 1 + 30 * 16 + 1;

macro_rules! operations {
    ($($kind:ident = $name:literal,)*) => {
        /// A kind of request.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Operation {
            $($kind,)*
        }

        impl Operation {
            const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// In the protocol's words.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

operations! {
    Lookup = "lookup",
    Forget = "forget",
    GetAttr = "getattr",
    SetAttr = "setattr",
    ReadLink = "readlink",
    MakeNode = "mknod",
    MakeDirectory = "mkdir",
    Unlink = "unlink",
    RemoveDirectory = "rmdir",
    Symlink = "symlink",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Create = "create",
    Read = "read",
    Write = "write",
    Release = "release",
    Sync = "fsync",
    OpenDirectory = "opendir",
    ReadDirectory = "readdir",
    ReadDirectoryPlus = "readdirplus",
    ReleaseDirectory = "releasedir",
    SyncDirectory = "fsyncdir",
    StatFilesystem = "statfs",
    SetXattr = "setxattr",
    GetXattr = "getxattr",
    ListXattrs = "listxattr",
    RemoveXattr = "removexattr",
    Control = "ioctl",
    Allocate = "fallocate",
    Seek = "lseek",
    CopyRange = "copy_file_range",
}

/// What was counted of one kind of request.
#[derive(Debug)]
struct Meter {
    operation: Operation,
    buckets: Box<[AtomicU64]>,
    total_nanos: AtomicU64,
    longest_nanos: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
}

/// What was counted of one kind of request until now.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MeterReading {
    /// The request, in the protocol's words: `lookup`, `write`, ...
    pub operation: &'static str,
    /// How many took how long: the longest nanoseconds of a range (`u64::MAX` for the last) and their number,
    /// ascending, ranges without any left out. Ranges never change, so that two readings can be subtracted.
    pub times: Vec<(u64, u64)>,
    /// The nanoseconds of all together.
    pub total_nanos: u64,
    /// The nanoseconds of the longest.
    pub longest_nanos: u64,
    /// How many were refused; they are counted above too.
    pub errors: u64,
    /// Bytes of content that they moved.
    pub bytes: u64,
}

/// What a mount counts. Cheap to clone; readable for as long as somebody has it.
#[derive(Clone, Debug)]
pub struct Meters(Arc<[Meter]>);

impl Meters {
    pub(crate) fn new() -> Self {
        let meter = |operation: &Operation| Meter {
            operation: *operation,
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            total_nanos: AtomicU64::new(0),
            longest_nanos: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Self(Operation::ALL.iter().map(meter).collect())
    }

    /// Every kind of request that there was.
    pub fn read(&self) -> Vec<MeterReading> {
        let readings = self.0.iter().map(Meter::read);
        readings.filter(|reading| !reading.times.is_empty()).collect()
    }

    /// Takes the time of a request from now on.
    pub(crate) fn time(&self, operation: Operation) -> Timer<'_> {
        let position = Operation::ALL.iter().position(|known| *known == operation);
        Timer {
            meter: position.and_then(|position| self.0.get(position)),
            operation,
            begin: Instant::now(),
            bytes: 0,
            is_refused: false,
        }
    }
}

impl Meter {
    fn record(&self, took: Duration, bytes: u64, is_refused: bool) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.total_nanos.fetch_add(nanos, Ordering::Relaxed);
        // Rarely more: then no line moves.
        if nanos > self.longest_nanos.load(Ordering::Relaxed) {
            self.longest_nanos.fetch_max(nanos, Ordering::Relaxed);
        }
        if is_refused {
            self.errors.fetch_add(1, Ordering::Relaxed);
        } else if bytes > 0 {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn read(&self) -> MeterReading {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let times = counts.enumerate().map(|(at, count)| (upper_bound(at), count));
        MeterReading {
            operation: self.operation.name(),
            times: times.filter(|(_, count)| *count > 0).collect(),
            total_nanos: self.total_nanos.load(Ordering::Relaxed),
            longest_nanos: self.longest_nanos.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

fn bucket_of(nanos: u64) -> usize {
    let bits = nanos.checked_ilog2().unwrap_or(0);
    if bits < FIRST_BITS {
        return 0;
    }
    if bits >= LAST_BITS {
        return BUCKETS - 1;
    }
    let step = nanos >> (bits - STEP_BITS) & (STEPS - 1);
    let at = 1 + u64::from(bits - FIRST_BITS) * STEPS + step;
    usize::try_from(at).unwrap_or(BUCKETS - 1)
}

/// The longest time in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let Some(place) = u64::try_from(bucket)
        .ok()
        .and_then(|bucket| bucket.checked_sub(1))
    else {
        return (1 << FIRST_BITS) - 1;
    };
    let shift = u64::from(FIRST_BITS - STEP_BITS) + place / STEPS;
    ((STEPS + place % STEPS + 1) << shift) - 1
}

/// The time of one request, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Timer<'m> {
    meter: Option<&'m Meter>,
    operation: Operation,
    begin: Instant,
    bytes: u64,
    is_refused: bool,
}

impl Timer<'_> {
    /// What the request is.
    pub(crate) fn operation(&self) -> &'static str {
        self.operation.name()
    }

    /// It moves so many bytes, unless it is refused.
    pub(crate) fn note_bytes(&mut self, bytes: usize) {
        self.bytes = u64::try_from(bytes).unwrap_or(0);
    }

    /// It is refused.
    pub(crate) fn note_refusal(&mut self) {
        self.is_refused = true;
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(meter) = self.meter {
            meter.record(self.begin.elapsed(), self.bytes, self.is_refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_just_the_times_up_to_its_bound() {
        assert_eq!(upper_bound(0), 127);
        for bucket in 0..BUCKETS - 1 {
            let bound = upper_bound(bucket);
            assert_eq!(bucket_of(bound), bucket, "the longest of bucket {bucket}");
            assert_eq!(bucket_of(bound + 1), bucket + 1, "the shortest of the next");
        }
        assert_eq!(upper_bound(BUCKETS - 2), (1 << LAST_BITS) - 1);
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn a_bucket_is_no_wider_than_a_sixteenth_of_its_times() {
        for bucket in 2..BUCKETS - 1 {
            let (below, bound) = (upper_bound(bucket - 1), upper_bound(bucket));
            assert!((bound - below) * 16 <= below + 1, "bucket {bucket}");
        }
    }

    #[test]
    fn each_kind_of_request_has_its_own_meter() {
        let meters = Meters::new();
        assert!(meters.read().is_empty());
        for operation in Operation::ALL {
            drop(meters.time(*operation));
        }
        let names: Vec<&str> = meters.read().iter().map(|reading| reading.operation).collect();
        let expected: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn refused_requests_count_as_such_and_move_nothing() {
        let meters = Meters::new();
        let mut timer = meters.time(Operation::Write);
        timer.note_bytes(4096);
        drop(timer);
        let mut refused = meters.time(Operation::Write);
        refused.note_bytes(100);
        refused.note_refusal();
        drop(refused);
        let [write] = meters.read().try_into().expect("one kind");
        assert_eq!((write.errors, write.bytes), (1, 4096));
        assert_eq!(write.times.iter().map(|(_, count)| count).sum::<u64>(), 2);
        assert!(write.total_nanos >= write.longest_nanos && write.longest_nanos > 0);
    }
}
