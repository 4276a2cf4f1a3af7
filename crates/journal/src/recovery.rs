//! Recovery: replaying the records after the last checkpoint, on the medium or in memory.
//!
//! Lanes are only read, and the old checkpoint counts until the new one is published: a crash anywhere in
//! recovery is followed by the same recovery.

use std::collections::BTreeMap;

use udax_media::checkpoint::Checkpoint;
use udax_media::geometry::SUPERBLOCKS;
use udax_media::record::Operation;
use udax_media::seal::seal_block;
use udax_media::{BLOCK_SIZE, BlockNo, ByteOffset, FormatError, Geometry, Place, Sequence, Superblock};
use udax_pmem::Region;
use udax_sync::fault::{Fault, is_injected};

use crate::JournalError;
use crate::chain::{Chain, ChainOf, Entry};
use crate::head::{self, Counters, Deltas, read_checkpoint};
use crate::lost::{LostBlocks, apply_around, lost_block};
use crate::touched::{Touched, complete};
use crate::transaction::overlay_write;

/// The most blocks that [`overlay`] holds in memory (1 GiB): more than an honest journal touches.
const MAX_OVERLAY_BLOCKS: usize = 1 << 18;

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Whether the pool had been closed cleanly.
    pub was_clean: bool,
    /// Records replayed.
    pub records: u64,
    /// Bytes written in place.
    pub bytes: u64,
    /// Where records are damaged that were durable, because others follow them; they were left out. Only
    /// [`recover`] and [`overlay`] do that.
    pub damaged: Vec<ByteOffset>,
    /// Blocks that records change and that the medium has lost: what the records change there is lost with them.
    pub lost_blocks: u64,
    /// The superblock to use from now on, when a change of it that a crash interrupted has been completed.
    pub superblock: Option<Superblock>,
}

/// What recovery would make of a pool, in memory.
#[derive(Debug, Clone)]
pub struct Overlay {
    /// What was replayed.
    pub recovery: Recovery,
    /// The counters after the replay.
    pub counters: Counters,
    /// The blocks that the replay changes, as they will be, sealed.
    pub blocks: BTreeMap<BlockNo, Box<[u8; BLOCK_SIZE]>>,
}

/// What to do about a record that is damaged, and no crash can have left so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnDamage {
    /// Nothing may be changed before a check has told what is lost.
    Refuse,
    /// The others are replayed. What does not agree then is the check's to find.
    LeaveOut,
}

/// Replays the records after the last checkpoint onto a region without opening it for writing further; fsck's door.
/// The same code as [`Journal::open`](crate::Journal::open), but damaged records are left out. After it the pool is at
/// a new checkpoint, half mended if it was or a record was left out; a clean pool is left as it is.
///
/// # Errors
/// As [`Journal::open`](crate::Journal::open).
///
/// # Durability
/// All that was replayed is durable in place.
pub fn recover(region: &Region, superblock: &Superblock) -> Result<Recovery, JournalError> {
    let scan = Scan::read(region, superblock)?;
    if scan.checkpoint.is_clean {
        return Ok(scan.clean());
    }
    let (next, recovery) = scan.replay(region, superblock, OnDamage::LeaveOut)?;
    head::publish(region, superblock.seed(), &next)?;
    Ok(recovery)
}

/// As [`recover`], but a clean pool, too, gets a new checkpoint that is not clean, for an open journal.
pub(crate) fn open(region: &Region, superblock: &Superblock) -> Result<(Checkpoint, Recovery), JournalError> {
    let scan = Scan::read(region, superblock)?;
    head::refuse_half_mended(&scan.checkpoint)?;
    let (next, recovery) = scan.replay(region, superblock, OnDamage::Refuse)?;
    head::publish(region, superblock.seed(), &next)?;
    if recovery.records > 0 {
        tracing::info!(
            records = recovery.records,
            bytes = recovery.bytes,
            "journal replayed"
        );
    }
    Ok((next, recovery))
}

/// Calls `each` for every record that recovery would replay, in order, without changing anything: its sequence
/// number, its lane and its operations.
///
/// # Errors
/// As [`Journal::open`](crate::Journal::open).
pub fn inspect(
    region: &Region,
    superblock: &Superblock,
    each: &mut dyn FnMut(Sequence, u16, &[Operation<'_>]),
) -> Result<(), JournalError> {
    let scan = Scan::read(region, superblock)?;
    let geometry = Geometry::new(superblock);
    for entry in scan.entries(superblock, &geometry)?.refused()? {
        each(entry.header.sequence, entry.header.lane, &entry.operations);
    }
    Ok(())
}

/// Replays in memory, so that a crashed pool can be checked without changing it.
///
/// # Errors
/// As [`recover`]; also when the records change more than 2^18 blocks.
pub fn overlay(region: &Region, superblock: &Superblock) -> Result<Overlay, JournalError> {
    let scan = Scan::read(region, superblock)?;
    let geometry = Geometry::new(superblock);
    let mut blocks = BTreeMap::new();
    let mut summary = Summary::new(scan.checkpoint);
    let Entries { entries, damaged } = scan.entries(superblock, &geometry)?;
    summary.recovery.damaged = damaged;
    summary.recovery.superblock = grown(&entries, superblock, region.len());
    let counters = summary.counters(&entries, &scan.checkpoint, superblock)?;
    for entry in entries {
        summary.add(&geometry, &entry);
        for operation in &entry.operations {
            overlay_operation(region, &geometry, &mut blocks, operation)?;
            if blocks.len() > MAX_OVERLAY_BLOCKS {
                return Err(FormatError::Field {
                    what: "journal",
                    place: Place::Byte(entry.at),
                    field: "blocks changed (at most 262144)",
                    value: u64::try_from(blocks.len()).unwrap_or(u64::MAX),
                }
                .into());
            }
        }
    }
    for (block, lines) in summary.touched.into_blocks() {
        if let Some(bytes) = blocks.get_mut(&block) {
            seal_block(superblock.seed(), bytes, lines);
        }
    }
    Ok(Overlay {
        recovery: summary.recovery,
        counters,
        blocks,
    })
}

type Blocks = BTreeMap<BlockNo, Box<[u8; BLOCK_SIZE]>>;

fn overlay_operation(
    region: &Region,
    geometry: &Geometry,
    blocks: &mut Blocks,
    operation: &Operation<'_>,
) -> Result<(), JournalError> {
    match operation {
        Operation::Write { at, bytes } => {
            let len = u64::try_from(bytes.len()).unwrap_or(0);
            let last = ByteOffset(at.raw().saturating_add(len.saturating_sub(1))).block();
            for block in at.block().raw()..=last.raw() {
                let block = BlockNo(block);
                if let Some(to) = overlaid(region, blocks, block)? {
                    overlay_write(to, block.offset().raw(), at.raw(), bytes);
                }
            }
        }
        Operation::Allocate(range) | Operation::Free(range) => {
            for word in geometry.bit_words(*range) {
                let Some(to) = overlaid(region, blocks, word.at.block())? else {
                    continue;
                };
                let from = usize::try_from(word.at.in_block()).unwrap_or(BLOCK_SIZE);
                if let Some(bits) = to.get_mut(from..).and_then(|rest| rest.first_chunk_mut::<8>()) {
                    let before = u64::from_le_bytes(*bits);
                    let after = match operation {
                        Operation::Allocate(_) => before | word.mask,
                        _ => before & !word.mask,
                    };
                    *bits = after.to_le_bytes();
                }
            }
        }
        Operation::Zero(range) => {
            for block in range.start.raw()..range.end().raw() {
                blocks.insert(BlockNo(block), Box::new([0; BLOCK_SIZE]));
            }
        }
    }
    Ok(())
}

/// The block as it will be; `None` when the medium has lost it.
fn overlaid<'b>(
    region: &Region,
    blocks: &'b mut Blocks,
    block: BlockNo,
) -> Result<Option<&'b mut [u8; BLOCK_SIZE]>, JournalError> {
    match blocks.entry(block) {
        std::collections::btree_map::Entry::Occupied(entry) => Ok(Some(entry.into_mut())),
        std::collections::btree_map::Entry::Vacant(entry) => {
            let mut bytes = Box::new([0; BLOCK_SIZE]);
            let read = region.read(block.offset().raw(), bytes.as_mut_slice());
            let read = read.map_err(JournalError::from);
            if lost_block(region, &read).is_some() {
                return Ok(None);
            }
            read?;
            Ok(Some(entry.insert(bytes)))
        }
    }
}

/// What replayed records sum up to.
struct Summary {
    recovery: Recovery,
    touched: Touched,
    last: Sequence,
}

impl Summary {
    fn new(checkpoint: Checkpoint) -> Self {
        Self {
            recovery: Recovery {
                was_clean: checkpoint.is_clean,
                ..Recovery::default()
            },
            touched: Touched::default(),
            last: checkpoint.sequence,
        }
    }

    /// The counters after all `entries`.
    fn counters(
        &self,
        entries: &[Entry<'_>],
        checkpoint: &Checkpoint,
        superblock: &Superblock,
    ) -> Result<Counters, FormatError> {
        let mut deltas = Deltas::default();
        for entry in entries {
            deltas.add(&entry.header);
        }
        let grown = self.recovery.superblock.as_ref().unwrap_or(superblock);
        deltas.applied_to(checkpoint, grown.total_blocks())
    }

    fn add(&mut self, geometry: &Geometry, entry: &Entry<'_>) {
        self.last = entry.header.sequence;
        self.recovery.records += 1;
        for operation in &entry.operations {
            self.touched.add(geometry, operation);
            self.recovery.bytes = self.recovery.bytes.saturating_add(operation_bytes(operation));
        }
    }
}

/// The new superblock among the records: see [`Journal::set_superblock`](crate::Journal::set_superblock).
fn grown(entries: &[Entry<'_>], superblock: &Superblock, region_bytes: u64) -> Option<Superblock> {
    entries
        .iter()
        .rev()
        .flat_map(|entry| entry.operations.iter().rev())
        .find_map(|operation| match operation {
            Operation::Write { at, bytes } if *at == SUPERBLOCKS[1].offset() => {
                let bytes = bytes.first_chunk::<BLOCK_SIZE>()?;
                Superblock::decode(bytes, 1, region_bytes).ok()
            }
            _ => None,
        })
        .filter(|found| found.uuid == superblock.uuid && found.generation >= superblock.generation)
}

/// Makes the superblock as new as its copy: a change writes the copy first, and relies on a whole superblock meanwhile.
/// Where the medium has lost it for good, the copy is enough for all but another change.
fn mend_superblock(region: &Region, newest: &Superblock) -> Result<(), JournalError> {
    let mut bytes = [0; BLOCK_SIZE];
    let mut generation = |copy: usize| {
        let at = SUPERBLOCKS[copy].offset().raw();
        region.read(at, &mut bytes).ok()?;
        let found = Superblock::decode(&bytes, copy, region.len()).ok()?;
        Some(found.generation)
    };
    let is_current = generation(0).is_some_and(|generation| generation >= newest.generation);
    if !is_current && generation(1) == Some(newest.generation) {
        let at = SUPERBLOCKS[0].offset().raw();
        let stored = region.store_nontemporal(at, &bytes).map_err(JournalError::from);
        if lost_block(region, &stored).is_none() {
            return stored;
        }
    }
    Ok(())
}

fn operation_bytes(operation: &Operation<'_>) -> u64 {
    match operation {
        Operation::Write { bytes, .. } => u64::try_from(bytes.len()).unwrap_or(0),
        Operation::Allocate(range) | Operation::Free(range) => range.count.div_ceil(64) * 8,
        Operation::Zero(range) => range.count.saturating_mul(udax_media::BLOCK_BYTES),
    }
}

/// The records after the checkpoint, in order, and where damaged ones are between them.
struct Entries<'b> {
    entries: Vec<Entry<'b>>,
    damaged: Vec<ByteOffset>,
}

impl<'b> Entries<'b> {
    /// The records, when none is damaged.
    fn refused(self) -> Result<Vec<Entry<'b>>, FormatError> {
        match self.damaged.first() {
            None => Ok(self.entries),
            Some(at) => Err(FormatError::Field {
                what: "journal",
                place: Place::Byte(*at),
                field: "damaged records that sound ones follow",
                value: u64::try_from(self.damaged.len()).unwrap_or(u64::MAX),
            }),
        }
    }
}

/// The lanes of a pool that was not closed cleanly, in memory (at most 64 MiB).
struct Scan {
    checkpoint: Checkpoint,
    halves: Vec<HalfBytes>,
}

struct HalfBytes {
    lane: u16,
    at: ByteOffset,
    bytes: Vec<u8>,
}

impl Scan {
    /// Reads the checkpoint and, unless it is clean, all halves.
    fn read(region: &Region, superblock: &Superblock) -> Result<Self, JournalError> {
        let half_bytes = head::half_bytes(superblock)?;
        let checkpoint = read_checkpoint(region, superblock)?;
        let mut halves = Vec::new();
        if !checkpoint.is_clean {
            for lane in 0..superblock.lane_count {
                let start = superblock.lane(lane).start.offset().raw();
                for at in [start, start + half_bytes] {
                    halves.push(HalfBytes {
                        lane: u16::try_from(lane).unwrap_or(u16::MAX),
                        at: ByteOffset(at),
                        bytes: read_half(region, at, half_bytes)?,
                    });
                }
            }
        }
        Ok(Self { checkpoint, halves })
    }

    fn clean(&self) -> Recovery {
        Summary::new(self.checkpoint).recovery
    }

    /// The records after the checkpoint, in order.
    fn entries(&self, superblock: &Superblock, geometry: &Geometry) -> Result<Entries<'_>, JournalError> {
        let seed = superblock.seed().with(self.checkpoint.nonce);
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for half in &self.halves {
            let of = ChainOf {
                seed,
                lane: half.lane,
                geometry,
            };
            let mut chain = Chain::new(of, &half.bytes, half.at);
            loop {
                while let Some(entry) = chain.next()? {
                    if entry.header.sequence > self.checkpoint.sequence {
                        entries.push(entry);
                    }
                }
                match chain.skip_damage(self.checkpoint.sequence) {
                    Some(at) => damaged.push(at),
                    None => break,
                }
            }
        }
        entries.sort_unstable_by_key(|entry| entry.header.sequence);
        if is_injected(Fault::ShortReplay) {
            entries.pop();
        }
        for pair in entries.windows(2) {
            if let [first, second] = pair
                && first.header.sequence == second.header.sequence
            {
                return Err(FormatError::Field {
                    what: "journal record",
                    place: Place::Byte(second.at),
                    field: "sequence that another record has",
                    value: second.header.sequence.raw(),
                }
                .into());
            }
        }
        Ok(Entries { entries, damaged })
    }

    /// Makes everything after the checkpoint durable in place. Gives the checkpoint to publish then.
    fn replay(
        &self,
        region: &Region,
        superblock: &Superblock,
        on_damage: OnDamage,
    ) -> Result<(Checkpoint, Recovery), JournalError> {
        let geometry = Geometry::new(superblock);
        let mut found = self.entries(superblock, &geometry)?;
        let mut summary = Summary::new(self.checkpoint);
        if on_damage == OnDamage::LeaveOut {
            summary.recovery.damaged = std::mem::take(&mut found.damaged);
        }
        let mut entries = found.refused()?;
        summary.recovery.superblock = grown(&entries, superblock, region.len());
        // Refused before the first change, if at all.
        let counters = summary.counters(&entries, &self.checkpoint, superblock)?;
        for entry in &entries {
            summary.add(&geometry, entry);
        }
        if is_injected(Fault::ReversedReplay) {
            entries.reverse();
        }
        let mut lost = LostBlocks::new();
        for operation in entries.iter().flat_map(|entry| &entry.operations) {
            apply_around(region, &geometry, operation, &mut lost)?;
        }
        let mut blocks = summary.touched.into_blocks();
        blocks.retain(|(block, _)| !lost.contains(block));
        if !blocks.is_empty() {
            let met = complete(region, superblock.seed(), &blocks, Fault::UnflushedReplay)?;
            lost.extend(met);
            region.fence()?;
        }
        summary.recovery.lost_blocks = u64::try_from(lost.len()).unwrap_or(u64::MAX);
        // The fence that publishes the checkpoint serves this, too.
        mend_superblock(region, summary.recovery.superblock.as_ref().unwrap_or(superblock))?;
        let next = Checkpoint {
            number: self.checkpoint.number + 1,
            sequence: summary.last,
            nonce: head::fresh_nonce(),
            free_blocks: counters.free_blocks,
            inodes: counters.inodes,
            is_clean: false,
            // What was left out may be what others rely on.
            is_half_mended: self.checkpoint.is_half_mended || !summary.recovery.damaged.is_empty(),
        };
        Ok((next, summary.recovery))
    }
}

/// The bytes of a half. All of them, whatever it begins with: its first record may be damaged.
fn read_half(region: &Region, at: u64, half_bytes: u64) -> Result<Vec<u8>, JournalError> {
    let mut bytes = vec![0; usize::try_from(half_bytes).unwrap_or(0)];
    region.read(at, &mut bytes)?;
    Ok(bytes)
}
