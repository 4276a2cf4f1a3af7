//! An open pool: owns the parts and connects them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use udax_dax::Device;
use udax_disk::Disk;
use udax_journal::{Journal, JournalError, Recovery};
use udax_media::geometry::ROOTS;
use udax_media::node::{self, NodeIdentity};
use udax_media::seal::Seed;
use udax_media::{BLOCK_SIZE, BlockNo, ByteOffset, Reach, Superblock};
use udax_pagecache::ErrSeq;
use udax_pmem::{Region, RegionError};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::{Mutex, Rank, RwLock};

use crate::bad_blocks::BadBlocks;
use crate::cuts::Cuts;
use crate::dax::WaiterList;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::inode::cache::InodeCache;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::inode::table::InodeTable;
use crate::namespace::cache::DentryCache;
use crate::options::MountOptions;
use crate::orphans::Orphans;
use crate::shares::Shares;
use crate::space::{Dirty, Space};
use crate::sums::SumBlocks;
use crate::verified::VerifiedBlocks;

/// Bad blocks that an operation may meet one after another: more are no accident, and the medium is to be replaced.
const MAX_BAD_TAKEN: usize = 64;

/// An open pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) region: Arc<Region>,
    pub(crate) seed: Seed,
    pub(crate) hash_key: [u8; 16],
    /// Changes when the pool grows.
    pub(crate) superblock: RwLock<Superblock>,
    pub(crate) total_blocks: AtomicU64,
    /// Of the data device; never changes.
    device_blocks: u64,
    pub(crate) journal: Journal,
    pub(crate) recovery: Recovery,
    pub(crate) space: Space,
    /// Free blocks of the data device, and the device.
    pub(crate) device_space: Option<Space>,
    pub(crate) disk: Option<Arc<Disk>>,
    /// Errors of its flushes, and how many of them are in it: see [`Pool::disk_errors`].
    pub(crate) disk_errors: ErrSeq,
    pub(crate) disk_failures: Mutex<u64>,
    pub(crate) inode_table: InodeTable,
    pub(crate) inodes: InodeCache,
    pub(crate) dentries: DentryCache,
    /// What pins of all files share.
    pub(crate) device: Arc<Device>,
    /// The pages of files without DAX.
    pub(crate) cache: Arc<udax_pagecache::Cache>,
    /// Writes them; since the first was dirty.
    pub(crate) flusher: Mutex<Option<udax_pagecache::Flusher>>,
    /// Operations that wait for pins and leases.
    pub(crate) waiters: WaiterList,
    pub(crate) orphans: Orphans,
    pub(crate) shares: Shares,
    pub(crate) bad_blocks: BadBlocks,
    pub(crate) sum_blocks: SumBlocks,
    /// Whether it has any: never changes.
    pub(crate) has_sums: bool,
    pub(crate) health: Arc<Health>,
    pub(crate) cuts: Cuts,
    pub(crate) verified: VerifiedBlocks,
    pub(crate) options: MountOptions,
    /// When it was opened.
    pub(crate) opened: Instant,
    /// Moves of directories are one at a time, so that none becomes its own ancestor.
    pub(crate) rename: Mutex<()>,
    is_closed: AtomicBool,
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the pool failed; the next open replays its journal");
        }
    }
}

impl Pool {
    /// Connects the parts of a pool whose journal has been opened.
    pub(crate) fn new(
        (region, disk): (Arc<Region>, Option<Arc<Disk>>),
        superblock: Superblock,
        journal: Journal,
        recovery: Recovery,
        options: MountOptions,
    ) -> Result<Self> {
        let seed = superblock.seed();
        let geometry = udax_media::Geometry::new(&superblock);
        let total_blocks = geometry.total_blocks();
        let mut roots = [0; BLOCK_SIZE];
        let health = Arc::new(Health::default());
        health.note(
            "the roots of the pool's trees",
            region.read(ROOTS.offset().raw(), &mut roots),
        )?;
        let [table_root, orphans_root, shared_root, bad_root] =
            udax_media::roots::verify(seed, &roots, total_blocks)?;
        let space = Space::new(
            (Arc::clone(&region), Arc::clone(&health)),
            seed,
            geometry.of_pool(),
            journal.counters().free_blocks,
        );
        let device_space = disk.as_ref().map(|_| {
            let parts = (Arc::clone(&region), Arc::clone(&health));
            let space = Space::new(parts, seed, geometry.of_device(), 0);
            space.set_free(space.count_free());
            space
        });
        // Files that are cached take their blocks from the device, where there is one.
        let cached_space = device_space.as_ref().unwrap_or(&space);
        let pool = Self {
            cache: crate::cached::new_cache(&options, cached_space.free_count()),
            device_space,
            disk,
            disk_errors: ErrSeq::new(),
            disk_failures: Mutex::new(Rank::Leaf, 0),
            device_blocks: geometry.reach().device,
            flusher: Mutex::new(Rank::Leaf, None),
            device: Device::new(Arc::clone(&region)),
            region,
            seed,
            hash_key: superblock.hash_key,
            has_sums: superblock.has_sums(),
            superblock: RwLock::new(Rank::Superblock, superblock),
            total_blocks: AtomicU64::new(total_blocks),
            journal,
            recovery,
            space,
            inode_table: InodeTable::new(table_root),
            inodes: InodeCache::new(),
            dentries: DentryCache::new(),
            waiters: WaiterList::new(),
            opened: Instant::now(),
            orphans: Orphans::new(orphans_root),
            shares: Shares::new(shared_root),
            bad_blocks: BadBlocks::new(bad_root),
            sum_blocks: SumBlocks::new(),
            health,
            cuts: Cuts::new(),
            verified: VerifiedBlocks::new(),
            options,
            rename: Mutex::new(Rank::Rename, ()),
            is_closed: AtomicBool::new(false),
        };
        pool.space.keep_nodes_for(Dirty {
            pages: pool.cache.reservations().count(),
            files: pool.cache.dirty_files(),
        });
        pool.inode_table.start(&pool)?;
        Ok(pool)
    }

    /// Makes durable what was stored through pins, and lazy times, and completes the journal in place.
    pub(crate) fn sync(&self) -> Result<()> {
        self.check_writable()?;
        // All is tried: one file's error is no other's.
        let mut result = self.write_all_cached();
        for inode in self.inodes.collect() {
            let flushed = self.write_back(&inode);
            let timed = inode
                .write()
                .and_then(|mut state| self.flush_times(&inode, &mut state));
            for step in [flushed, timed] {
                if !matches!(step, Err(Error::Stale(_))) {
                    result = result.and(step);
                }
            }
        }
        result
            .and(self.flush_disk())
            .and(self.list_bad_blocks())
            .and(self.checkpoint())
    }

    /// Completes the journal in place, and frees what waits for that.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let checkpointed = self.note_journal(self.journal.checkpoint())?;
        self.space.release_quarantine(checkpointed);
        Ok(())
    }

    /// The result of a change of the journal, which may have met lost metadata.
    pub(crate) fn note_journal<T>(&self, result: std::result::Result<T, JournalError>) -> Result<T> {
        match result {
            Err(JournalError::Region(error)) => {
                self.health.note("the journal or what it completes", Err(error))
            }
            other => Ok(other?),
        }
    }

    /// Closes the pool; nobody uses it any more.
    pub(crate) fn close(&self) -> Result<()> {
        if self.options.read_only || self.is_closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.stop_flusher();
        let written = match self.health.is_damaged() {
            true => Ok(()),
            false => self.write_all_cached(),
        };
        self.cache.forget_dirty();
        let written = written.and(self.flush_disk());
        if !self.health.is_damaged()
            && let Err(error) = self.list_bad_blocks()
        {
            tracing::error!(%error, "bad blocks are not listed; they will be met again");
        }
        self.note_journal(self.journal.close())?;
        written.and(self.deep_flush_if_allowed())
    }

    /// As the kernel's filesystems when they are unmounted; of a device only root may, where sysfs can be written.
    fn deep_flush_if_allowed(&self) -> Result<()> {
        const REFUSED: [ErrorKind; 2] = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
        match self.region.deep_flush() {
            Err(RegionError::Io { source, .. }) if REFUSED.contains(&source.kind()) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Blocks in the pool.
    pub(crate) fn total_blocks(&self) -> u64 {
        self.total_blocks.load(Ordering::Relaxed)
    }

    /// Which blocks there are, in the pool and on its data device.
    pub(crate) fn reach(&self) -> Reach {
        Reach {
            pool: self.total_blocks(),
            device: self.device_blocks,
        }
    }

    /// A word of the pool.
    #[inline]
    pub(crate) fn word(&self, at: ByteOffset) -> Result<u64> {
        self.health.note("an inode", self.region.read_u64(at.raw()))
    }

    /// Fails unless the pool may be changed.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.options.read_only || self.health.is_damaged() {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Verifies a tree's node when it is first met.
    #[inline]
    pub(crate) fn verify_node(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        if self.verified.contains(block) {
            return Ok(());
        }
        self.verify_node_now(block, identity, level)
    }

    #[cold]
    fn verify_node_now(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<()> {
        let mut bytes = [0; BLOCK_SIZE];
        self.health.note(
            "a node of a tree",
            self.region.read(block.offset().raw(), &mut bytes),
        )?;
        node::verify(self.seed, &bytes, block, identity, level, self.total_blocks())?;
        self.verified.insert(block);
        Ok(())
    }

    /// Runs `operation`; when it finds no space, frees what can be freed and runs it once more.
    ///
    /// The operation must have changed nothing when it fails so.
    pub(crate) fn retry_when_full<T>(&self, mut operation: impl FnMut() -> Result<T>) -> Result<T> {
        match self.retry_when_bad(&mut operation) {
            Err(Error::NoSpace { .. }) => {
                self.reclaim_space()?;
                self.retry_when_bad(operation)
            }
            other => other,
        }
    }

    /// Runs `operation` again while it fails at a block that was free, was taken for it, and turned out to be bad: the
    /// allocator sets it aside then, and gives another.
    ///
    /// The operation must have changed nothing when it fails so.
    pub(crate) fn retry_when_bad<T>(&self, mut operation: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..MAX_BAD_TAKEN {
            match operation() {
                Err(Error::Region(RegionError::Media { at }))
                    if self.region.first_bad(at, 1).is_some()
                        && self.space.is_free(ByteOffset(at).block()) =>
                {
                    tracing::warn!(at, "a free block is bad: another one is taken");
                }
                other => return other,
            }
        }
        operation()
    }

    /// Does `step` with as many extents to a record as usual; while the record is too large, with half as many. How
    /// large one becomes depends on how many full nodes its changes split, which only doing it tells.
    ///
    /// A step that fails has changed nothing.
    pub(crate) fn in_steps<T>(&self, mut step: impl FnMut(usize) -> Result<T>) -> Result<T> {
        let mut limit = EXTENTS_PER_RECORD;
        loop {
            match self.retry_when_bad(|| step(limit)) {
                Err(Error::Journal(JournalError::TooLarge { .. })) if limit > 1 => limit /= 2,
                other => return other,
            }
        }
    }

    /// Frees what nobody needs: quarantined blocks, blocks taken ahead for appends, inode chunks without an inode.
    #[cold]
    pub(crate) fn reclaim_space(&self) -> Result<()> {
        self.inodes.release_windows(self);
        self.inode_table.free_empty_chunks(self)?;
        self.checkpoint()
    }
}
