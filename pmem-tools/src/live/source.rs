//! Where snapshots come from: an open pool, and the mount that serves it if there is one.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use udax::{Access, Filesystem, Listed, Obstacle, Statistics, Term, Waiter};
use udax_fuse::{MeterReading, Meters};
use udax_media::BLOCK_BYTES;

use super::snapshot::{
    CacheFill, DeviceSpace, Identity, JournalFill, MountedAt, OperationTimes, PinHeld, Pins, PoolFacts,
    Snapshot, Space, Waiting,
};

/// Pins and waiters that a snapshot tells of, at most: the oldest explain what is stuck, and thousands would fill
/// nobody's screen.
const MAX_LISTED: usize = 64;

/// A pool to be told of. While it is there it keeps the pool open.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    filesystem: Filesystem,
    pool: PoolFacts,
    process: Option<u32>,
    mount: Option<(MountedAt, Meters)>,
}

/// The mount of a pool.
#[derive(Debug)]
pub(crate) struct MountFacts<'m> {
    pub(crate) directory: &'m Path,
    /// What `stat` gives for files there. To ask for it is a request that nobody answers yet.
    pub(crate) device: u64,
    pub(crate) is_read_only: bool,
    pub(crate) meters: Meters,
}

impl Source {
    /// The pool `path`, which is open as `filesystem`.
    pub(crate) fn new(path: &Path, filesystem: &Filesystem) -> Self {
        let superblock = filesystem.superblock();
        Self {
            filesystem: filesystem.clone(),
            pool: PoolFacts {
                path: crate::name::shown(path),
                uuid: superblock.uuid.to_string(),
                label: superblock.label,
                identity: identity(path).unwrap_or(Identity { device: 0, inode: 0 }),
            },
            process: None,
            mount: None,
        }
    }

    /// The pool.
    pub(super) fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }

    /// The same as what this process has open for long.
    pub(crate) fn of_this_process(mut self) -> Self {
        self.process = Some(std::process::id());
        self
    }

    /// The same with its mount.
    pub(crate) fn with_mount(mut self, mount: MountFacts<'_>) -> Self {
        let mounted = MountedAt {
            directory: crate::name::shown(mount.directory),
            device: mount.device,
            is_read_only: mount.is_read_only,
        };
        self.mount = Some((mounted, mount.meters));
        self
    }

    /// How it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let statistics = self.filesystem.statistics();
        let operations = match &self.mount {
            Some((_, meters)) => meters.read().into_iter().map(operation).collect(),
            None => Vec::new(),
        };
        Snapshot {
            pool: self.pool.clone(),
            process: self.process,
            mount: self.mount.as_ref().map(|(mounted, _)| mounted.clone()),
            open_nanoseconds: nanoseconds(statistics.open_for),
            space: space(&statistics),
            journal: journal(&statistics),
            cache: cache(&statistics),
            pins: pins(&statistics),
            waiters: statistics.waiters.iter().take(MAX_LISTED).map(waiting).collect(),
            operations,
            damage: statistics.damage.map(|damage| damage.to_string()),
        }
    }
}

/// What the file or device `path` is.
///
/// # Errors
/// It cannot be looked at.
pub(super) fn identity(path: &Path) -> std::io::Result<Identity> {
    let metadata = path.metadata()?;
    let kind = metadata.file_type();
    Ok(if kind.is_char_device() || kind.is_block_device() {
        Identity {
            device: metadata.rdev(),
            inode: 0,
        }
    } else {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn space(statistics: &Statistics) -> Space {
    let space = statistics.space;
    Space {
        total_bytes: space.total_blocks * BLOCK_BYTES,
        free_bytes: space.free_blocks * BLOCK_BYTES,
        available_bytes: space.available_blocks * BLOCK_BYTES,
        inodes: space.inodes,
        device: (space.device_blocks > 0).then(|| DeviceSpace {
            total_bytes: space.device_blocks * BLOCK_BYTES,
            free_bytes: space.device_free_blocks * BLOCK_BYTES,
        }),
    }
}

fn journal(statistics: &Statistics) -> JournalFill {
    let journal = statistics.journal;
    JournalFill {
        lanes: journal.lanes,
        capacity_bytes: journal.capacity_bytes,
        used_bytes: journal.used_bytes,
        fullest_lane_bytes: journal.fullest_lane_bytes,
        records: journal.records,
        committed_records: journal.committed,
        checkpoints: journal.checkpoints,
    }
}

fn cache(statistics: &Statistics) -> CacheFill {
    let cache = statistics.cache;
    // A page of the cache is as large as a block.
    let bytes = |pages: u64| pages * BLOCK_BYTES;
    CacheFill {
        budget_bytes: bytes(cache.budget),
        cached_bytes: bytes(cache.cached),
        dirty_bytes: bytes(cache.dirty),
        dirty_limit_bytes: bytes(cache.dirty_limit),
        under_write_bytes: bytes(cache.under_write),
        reserved_bytes: bytes(cache.reserved),
        hits: cache.hits,
        misses: cache.misses,
        evictions: cache.evicted,
        throttled_writes: cache.throttled,
    }
}

fn pins(statistics: &Statistics) -> Pins {
    let held = &statistics.pins;
    Pins {
        held: u64::try_from(held.len()).unwrap_or(u64::MAX),
        held_bytes: held.iter().map(|pin| pin.pages.count() * BLOCK_BYTES).sum(),
        made: statistics.dax.pins,
        waits: statistics.dax.waits,
        longest_wait_nanoseconds: statistics.dax.longest_wait_nanos,
        oldest: held.iter().take(MAX_LISTED).map(pin_held).collect(),
    }
}

fn pin_held(pin: &Listed) -> PinHeld {
    let access = match pin.access {
        Access::Read => "read",
        Access::Write => "write",
    };
    PinHeld {
        inode: pin.file,
        offset_bytes: pin.pages.first().saturating_mul(BLOCK_BYTES),
        length_bytes: pin.pages.count() * BLOCK_BYTES,
        access: access.to_owned(),
        holder: pin.label.to_string(),
        is_long_term: pin.term == Term::Long,
        age_nanoseconds: nanoseconds(pin.age),
    }
}

fn waiting(waiter: &Waiter) -> Waiting {
    let obstacle = match waiter.obstacle {
        Obstacle::Pin => "a pin",
        Obstacle::Lease => "a lease",
        Obstacle::Holder => "a pin, lease or break",
    };
    Waiting {
        operation: waiter.operation.to_owned(),
        inode: waiter.file,
        offset_bytes: waiter.page.saturating_mul(BLOCK_BYTES),
        obstacle: obstacle.to_owned(),
        age_nanoseconds: nanoseconds(waiter.age),
    }
}

fn operation(reading: MeterReading) -> OperationTimes {
    OperationTimes {
        operation: reading.operation.to_owned(),
        errors: reading.errors,
        bytes: reading.bytes,
        total_nanoseconds: reading.total_nanos,
        longest_nanoseconds: reading.longest_nanos,
        times: reading.times,
        ..OperationTimes::default()
    }
    .summarized()
}
