//! Making, opening, growing and closing pools.

use std::path::Path;
use std::sync::Arc;

use udax_journal::{Counters, Journal, JournalError};
use udax_media::bitmap;
use udax_media::device::PATH_BYTES;
use udax_media::geometry::{ROOTS, SUPERBLOCKS};
use udax_media::inode::{FileKind, InodeFlags};
use udax_media::node::TreeRoot;
use udax_media::segment::{MAX_SEGMENTS, Segment};
use udax_media::superblock::LABEL_BYTES;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, FormatError, Geometry, InodeNo, MAX_POOL_BYTES,
    MIN_POOL_BYTES, Place, Superblock, roots, seal, sum,
};
use udax_pmem::{DEFAULT_RESERVE, Region, RegionError, RegionOptions};
use udax_sync::atomic::Ordering;
use udax_sync::fault::{Fault, is_injected};

use crate::device::{self, NewDevice};
use crate::error::{Error, Result};
use crate::initial;
use crate::inode::attributes::now;
use crate::options::{DataSource, FormatOptions, MountOptions};
use crate::pool::Pool;
use crate::signature;
use crate::update::Update;

/// Makes a pool in the file or on the device `path`.
pub(crate) fn format(path: &Path, options: &FormatOptions) -> Result<Superblock> {
    let region_options = RegionOptions {
        msync: options.msync,
        recorder: options.recorder.clone(),
        ..RegionOptions::default()
    };
    if !options.force && path.exists() {
        let region = Region::open(
            path,
            RegionOptions {
                read_only: true,
                ..RegionOptions::default()
            },
        );
        // An empty file cannot be mapped and holds nothing to lose.
        if let Ok(region) = region {
            signature::check_blank(&region)?;
        }
    }
    // Before a file is made or resized.
    let device = NewDevice::of_format(Some(path), options)?;
    let size = options.size.map(|size| size / BLOCK_BYTES * BLOCK_BYTES);
    let region = match size {
        Some(size) => {
            plan(size, options, device.as_ref())?;
            Region::create(path, size, region_options)?
        }
        None => Region::open(path, region_options)?,
    };
    let made = format_with(&region, options, device);
    if let (Err(_), Some(new)) = (&made, region.new_path()) {
        // The error that is told is the first one.
        let _ = std::fs::remove_file(new);
    }
    made
}

/// Makes a pool in `region`, of the whole of it unless the options say less.
pub(crate) fn format_region(region: &Region, options: &FormatOptions) -> Result<Superblock> {
    let device = NewDevice::of_format(None, options)?;
    format_with(region, options, device)
}

fn format_with(region: &Region, options: &FormatOptions, device: Option<NewDevice>) -> Result<Superblock> {
    let bytes = options.size.unwrap_or(region.len()).min(region.len());
    let superblock = plan(bytes, options, device.as_ref())?;
    let geometry = Geometry::new(&superblock);
    replace_lost(region, &geometry)?;
    // Until the new superblocks are there, nothing may take the pool for a valid one.
    for block in SUPERBLOCKS {
        region.zero_nontemporal(block.offset().raw(), BLOCK_BYTES)?;
    }
    region.fence()?;
    write_maps(region, &superblock, &geometry, 0)?;
    let flags = match superblock.has_sums() {
        true => InodeFlags::SUMMED,
        false => InodeFlags::empty(),
    };
    let [leaf, chunk] = first_blocks(&geometry);
    let seed = superblock.seed();
    write_block(region, leaf, &initial::table_leaf(seed, leaf, chunk))?;
    write_block(
        region,
        chunk,
        &initial::first_chunk(seed, options.owner, flags, superblock.created),
    )?;
    write_block(
        region,
        ROOTS,
        &roots::format(
            seed,
            [
                TreeRoot::new(leaf, 0),
                TreeRoot::EMPTY,
                TreeRoot::EMPTY,
                TreeRoot::EMPTY,
            ],
        ),
    )?;
    let own = geometry.own_ranges().into_iter();
    let own: u64 = own
        .filter(|range| !range.start.is_on_device())
        .map(|range| range.count)
        .sum();
    let counters = Counters {
        free_blocks: geometry.total_blocks() - own - 2,
        inodes: 1,
    };
    Journal::format(region, &superblock, counters)?;
    region.fence()?;
    if let Some(device) = &device {
        device.write_headers(&superblock)?;
    }
    for block in SUPERBLOCKS.into_iter().rev() {
        write_block(region, block, &superblock.encode())?;
        region.fence()?;
    }
    Ok(superblock)
}

/// Stores zeros where the medium has lost what a new pool needs itself. That nobody knows of a loss is no proof: each
/// block is read. Lost blocks elsewhere are set aside when somebody wants them.
fn replace_lost(region: &Region, geometry: &Geometry) -> Result<()> {
    let own = geometry.own_ranges().into_iter();
    let own = own.filter(|own| !own.start.is_on_device());
    let own = own.flat_map(|own| (own.start.raw()..own.end().raw()).map(BlockNo));
    let mut bytes = [0; BLOCK_SIZE];
    for block in own.chain(first_blocks(geometry)) {
        let at = block.offset().raw();
        match region.read(at, &mut bytes) {
            Err(RegionError::Media { .. }) => region.zero_nontemporal(at, BLOCK_BYTES)?,
            read => read?,
        }
    }
    Ok(())
}

fn plan(bytes: u64, options: &FormatOptions, device: Option<&NewDevice>) -> Result<Superblock> {
    if !(MIN_POOL_BYTES..=MAX_POOL_BYTES).contains(&bytes) {
        return Err(Error::Invalid("a pool has 16 MiB to 1 PiB"));
    }
    if options.label.len() > LABEL_BYTES || options.label.contains('\0') {
        return Err(Error::Invalid("a label has at most 64 bytes, and no NUL"));
    }
    let uuid = options.uuid.unwrap_or_else(uuid::Uuid::new_v4);
    let hash_key = uuid::Uuid::new_v4().into_bytes();
    let plan = Superblock::plan(bytes / BLOCK_BYTES, uuid, hash_key, &options.label, now())?;
    match (options.data_checksums, device) {
        (true, Some(_)) => Err(Error::NotSupported(
            "checksums of data in a pool with a data device",
        )),
        (true, None) => Ok(plan.with_sums()),
        (false, Some(device)) => Ok(plan.with_device(device.uuid, device.blocks(), &device.path)?),
        (false, None) => Ok(plan),
    }
}

/// Writes the bitmaps of segments from `first_segment` on, everything free but the pool's own blocks, and their sum
/// blocks.
fn write_maps(
    region: &Region,
    superblock: &Superblock,
    geometry: &Geometry,
    first_segment: usize,
) -> Result<()> {
    let first_block = superblock
        .segments
        .get(first_segment)
        .map_or(u64::MAX, |one| one.blocks.start.raw());
    for index in 0..geometry.group_count() {
        let Some(group) = geometry
            .group(index)
            .filter(|group| group.covers.start.raw() >= first_block)
        else {
            continue;
        };
        let mut block = bitmap::format(superblock.seed(), group.bitmap, group.covers);
        let first = first_blocks(geometry).map(|block| BlockRange::new(block, 1));
        for used in geometry.own_ranges().into_iter().chain(first) {
            bitmap::mark_used(&mut block, group.covers, used);
        }
        seal::seal(superblock.seed(), block.as_mut_slice());
        write_block(region, group.bitmap, &block)?;
    }
    for at in geometry.sum_blocks() {
        if at.covers.start.raw() >= first_block {
            write_block(region, at.block, &sum::format(superblock.seed(), at))?;
        }
    }
    Ok(())
}

/// The blocks of a new pool's first tree node and first inode chunk: the first two that the pool does not need itself.
fn first_blocks(geometry: &Geometry) -> [BlockNo; 2] {
    let own = geometry.own_ranges();
    let mut free = (0..geometry.total_blocks())
        .map(BlockNo)
        .filter(|block| !own.iter().any(|range| range.contains(*block)));
    std::array::from_fn(|_| free.next().unwrap_or_default())
}

fn write_block(region: &Region, at: BlockNo, bytes: &[u8; BLOCK_SIZE]) -> Result<()> {
    Ok(region.store_nontemporal(at.offset().raw(), bytes)?)
}

/// Opens the pool in the file or on the device `path`.
pub(crate) fn open(path: &Path, options: &MountOptions) -> Result<Arc<Pool>> {
    let region_options = RegionOptions {
        read_only: options.read_only,
        private: options.private,
        msync: options.msync,
        reserve: options.reserve.max(DEFAULT_RESERVE),
        recorder: options.recorder.clone(),
        ..RegionOptions::default()
    };
    let region = Region::open(path, region_options)?;
    if options.populate {
        region.populate()?;
    }
    open_region(region, options)
}

/// Opens the pool in `region`.
pub(crate) fn open_region(region: Region, options: &MountOptions) -> Result<Arc<Pool>> {
    let region = Arc::new(region);
    let superblock = read_superblock(&region)?;
    if !superblock.is_writable() && !options.read_only {
        // No damage: a check of this version could not mend it.
        return Err(Error::NotPool(FormatError::UnknownFeature {
            set: "ro_compat",
            bits: superblock.ro_compat & !udax_media::superblock::KNOWN_RO_COMPAT,
        }));
    }
    let disk = device::open(&superblock, options)?;
    let (journal, recovery) = if options.read_only {
        Journal::open_read_only(Arc::clone(&region), &superblock)?
    } else {
        Journal::open(Arc::clone(&region), &superblock)?
    };
    // A change of it that a crash interrupted, a growth or another place of the device, may just have been completed.
    let superblock = recovery.superblock.clone().unwrap_or(superblock);
    if recovery.lost_blocks > 0 {
        let blocks = recovery.lost_blocks;
        tracing::error!(
            blocks,
            "the medium has lost blocks that the journal's records change; run fsck"
        );
    }
    if !options.read_only {
        restore_superblocks(&region, &superblock);
    }
    let pool = Arc::new(Pool::new(
        (region, disk),
        superblock,
        journal,
        recovery,
        options.clone(),
    )?);
    if !options.read_only {
        if !options.private
            && let Err(error) = pool.remember_device()
        {
            tracing::warn!(%error, "where the data device is cannot be noted in the pool");
        }
        pool.finish_orphans()?;
    }
    Ok(pool)
}

/// The valid superblock with the highest generation; both copies are read.
pub(crate) fn read_superblock(region: &Region) -> Result<Superblock> {
    let read = |copy: usize| {
        let mut bytes = [0; BLOCK_SIZE];
        region.read(SUPERBLOCKS[copy].offset().raw(), &mut bytes)?;
        Superblock::decode(&bytes, copy, region.len()).map_err(Error::NotPool)
    };
    match (read(0), read(1)) {
        (Ok(first), Ok(second)) if second.generation > first.generation => Ok(second),
        // The other copy may be readable.
        (Ok(one), _) | (_, Ok(one)) => Ok(one),
        (Err(Error::NotPool(first)), Err(Error::NotPool(second))) => Err(Error::NotPool(
            FormatError::of_superblocks(first, second, region.len()),
        )),
        (Err(Error::NotPool(cut @ FormatError::Cut { .. })), _)
        | (_, Err(Error::NotPool(cut @ FormatError::Cut { .. }))) => Err(Error::NotPool(cut)),
        _ if region.len() < MIN_POOL_BYTES => {
            Err(Error::NotPool(FormatError::TooSmall { found: region.len() }))
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// Stores the superblock anew in a copy that the medium has lost. That it cannot be is no reason to keep the pool
/// closed.
fn restore_superblocks(region: &Region, superblock: &Superblock) {
    for block in SUPERBLOCKS {
        if region.first_bad(block.offset().raw(), BLOCK_BYTES).is_none() {
            continue;
        }
        let stored = write_block(region, block, &superblock.encode()).and_then(|()| Ok(region.fence()?));
        match stored {
            Ok(()) => tracing::warn!(%block, "a copy of the superblock was lost, and is stored anew"),
            Err(error) => tracing::error!(%block, %error, "a copy of the superblock is lost"),
        }
    }
}

impl Pool {
    /// A copy of the superblock that is known to be lost.
    fn lost_superblock(&self) -> Option<BlockNo> {
        let is_lost = |block: &BlockNo| self.region.first_bad(block.offset().raw(), BLOCK_BYTES).is_some();
        SUPERBLOCKS.into_iter().find(is_lost)
    }

    /// Notes in the superblock where the data device is, if it is not where the pool has it: who opens the pool next
    /// need not say so. With a copy of the superblock lost it is not worth the risk.
    fn remember_device(&self) -> Result<()> {
        let Some(DataSource::Path(path)) = &self.options.data else {
            return Ok(());
        };
        let path = device::lasting_path(path);
        let mut superblock = self.superblock.write();
        let mut moved = superblock.clone();
        let Some(device) = moved.device.as_mut().filter(|device| device.path != path) else {
            return Ok(());
        };
        if path.len() > PATH_BYTES || self.lost_superblock().is_some() {
            tracing::warn!("where the data device is cannot be noted in the pool");
            return Ok(());
        }
        device.path = path;
        moved.generation += 1;
        self.journal.set_superblock(&moved, 0)?;
        *superblock = moved;
        Ok(())
    }

    /// Finishes what the last mount could not: frees unlinked inodes, completes long truncations.
    fn finish_orphans(&self) -> Result<()> {
        let mut first = InodeNo(0);
        loop {
            let batch = self.orphans.collect_from(self, first)?;
            let Some(last) = batch.last() else { return Ok(()) };
            first = InodeNo(last.raw().saturating_add(1));
            for ino in batch {
                match self.finish_interrupted(ino) {
                    Ok(()) => {}
                    Err(Error::Stale(_)) => self.drop_orphan(ino)?,
                    Err(
                        error @ (Error::Corrupt(_)
                        | Error::Inconsistent { .. }
                        | Error::Region(_)
                        | Error::LostMetadata { .. }
                        | Error::LostData { .. }
                        | Error::UnreachableData { .. }
                        | Error::NoSpace { .. }
                        | Error::Journal(JournalError::TooLarge { .. })),
                    ) => self.leave_orphan(ino, &error),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// An orphan that cannot be finished does not keep the pool closed: one without a name is out of reach, and one
    /// with a name does not become longer before it is finished. Its blocks are lost until the check mends it.
    fn leave_orphan(&self, ino: InodeNo, error: &Error) {
        tracing::error!(ino = ino.raw(), %error, "an orphan is left as it is; run fsck");
        self.cuts.insert(ino);
    }

    /// There is no such inode, so there is nothing to finish. The number would be another file's one day.
    fn drop_orphan(&self, ino: InodeNo) -> Result<()> {
        tracing::error!(
            ino = ino.raw(),
            "an inode that is not in use was listed as an orphan; run fsck"
        );
        let mut update = Update::freeing(self);
        let change = self.orphans.remove(&mut update, ino)?;
        update.commit()?;
        change.done();
        Ok(())
    }

    fn finish_interrupted(&self, ino: InodeNo) -> Result<()> {
        let inode = self.inodes.get(self, ino)?;
        let mut state = inode.write()?;
        if inode.kind != FileKind::Regular && self.inode_nlink(&inode)? > 0 {
            return Err(Error::Inconsistent {
                place: Place::Inode(ino),
                what: "it has a name and is no file, but is listed as an orphan",
            });
        }
        if self.inode_nlink(&inode)? == 0 {
            tracing::debug!(ino = ino.raw(), "freeing an inode that was unlinked while open");
            return self.finish_orphan(&inode, &mut state);
        }
        tracing::debug!(ino = ino.raw(), "completing a truncation");
        let size = self.inode_size(&inode)?;
        self.truncate_locked(&inode, &mut state, size)?;
        self.forget_orphan(&inode)
    }

    /// Grows the pool to `bytes`.
    pub(crate) fn grow(&self, bytes: u64) -> Result<()> {
        self.check_writable()?;
        let mut superblock = self.superblock.write();
        let old_blocks = superblock.total_blocks();
        let new_blocks = bytes / BLOCK_BYTES;
        if new_blocks <= old_blocks {
            return Err(Error::Invalid("a pool only grows"));
        }
        if new_blocks * BLOCK_BYTES > MAX_POOL_BYTES {
            return Err(Error::FileTooLarge);
        }
        if superblock.segments.len() >= MAX_SEGMENTS {
            return Err(Error::NotSupported("a pool grows at most 63 times"));
        }
        if let Some(block) = self.lost_superblock() {
            // While one is being written, the other must be whole.
            return Err(Error::LostMetadata {
                what: "a copy of the superblock, without which a pool cannot grow",
                place: Place::Block(block),
            });
        }
        let mut grown = superblock.clone();
        let blocks = BlockRange::new(BlockNo(old_blocks), new_blocks - old_blocks);
        let segment = Segment {
            blocks,
            bitmap_start: BlockNo(old_blocks),
            sum_start: None,
        };
        let segment = match grown.has_sums() {
            true => segment.with_sums(),
            false => segment,
        };
        let own = segment.bitmaps().count + segment.sums().count;
        if own >= blocks.count {
            return Err(Error::Invalid("a pool grows by more than a block"));
        }
        self.region.grow(new_blocks * BLOCK_BYTES)?;
        let added = blocks.count - own;
        grown.segments.push(segment);
        grown.generation += 1;
        let geometry = Geometry::new(&grown);
        write_maps(
            &self.region,
            &grown,
            &geometry.of_pool(),
            grown.segments.len() - 1,
        )?;
        if !is_injected(Fault::UnfencedGrowth) {
            self.region.fence()?;
        }
        self.journal.set_superblock(&grown, added)?;
        // First: who takes a new block is believed when it turns up in a tree. The allocator's locks order both.
        self.total_blocks.store(new_blocks, Ordering::Relaxed);
        self.space.grow(geometry.of_pool(), added);
        *superblock = grown;
        Ok(())
    }
}
