//! The superblock: what the pool is and where its parts are. Two copies; the one with the higher generation counts.
//!
//! It changes only when the pool is formatted, grown or relabelled: copy 1 first, then copy 0, so that one of them
//! is whole at any time.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::device::{DataDevice, MAX_DEVICE_BYTES, MIN_DEVICE_BYTES, PATH_BYTES};
use crate::error::{FormatError, Place};
use crate::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use crate::kinds::{BlockNo, BlockRange, Timestamp};
use crate::seal::{self, Prefix, Seed};
use crate::segment::{MAX_SEGMENTS, RawSegment, Segment};
use crate::{BLOCK_BYTES, BLOCK_SIZE, HUGE_BLOCKS, MAX_POOL_BYTES, MIN_POOL_BYTES};

/// `uDAX`
pub const MAGIC: u32 = u32::from_le_bytes(*b"uDAX");
/// The format's major version: another one cannot be read.
pub const VERSION: u16 = 1;
/// Bytes of a label.
pub const LABEL_BYTES: usize = 64;
/// The most journal lanes.
pub const MAX_LANES: u32 = 64;
/// Features that an implementation may ignore.
pub const KNOWN_COMPAT: u64 = 0;
/// Features that an implementation must know to write.
pub const KNOWN_RO_COMPAT: u64 = 0;
/// Features that an implementation must know to read.
pub const KNOWN_INCOMPAT: u64 = INCOMPAT_SUMS | INCOMPAT_DEVICE;
/// Each segment has sum blocks; extents and inodes may say that there are sums.
pub const INCOMPAT_SUMS: u64 = 1 << 0;
/// There is a data device, of whose blocks extents may be.
pub const INCOMPAT_DEVICE: u64 = 1 << 1;

/// The superblock as it is on media (4096 bytes).
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawSuperblock {
    /// Magic number and checksum, seeded with the uuid below.
    pub prefix: Prefix,
    /// [`VERSION`].
    pub version: U16,
    /// Binary logarithm of the block size: 12.
    pub block_shift: U16,
    /// Number of segments in use.
    pub segment_count: U32,
    /// The pool's identity.
    pub uuid: [u8; 16],
    /// Grows by one with each change of the superblock.
    pub generation: U64,
    /// Features that may be ignored.
    pub compat: U64,
    /// Features that must be known to write.
    pub ro_compat: U64,
    /// Features that must be known to read.
    pub incompat: U64,
    /// Blocks in the pool: the end of the last segment.
    pub total_blocks: U64,
    /// First block of the journal.
    pub journal_start: U64,
    /// Number of journal lanes.
    pub lane_count: U32,
    /// Blocks of each lane, an even number.
    pub lane_blocks: U32,
    /// Block of the tree roots.
    pub roots: U64,
    /// Key of the name hash.
    pub hash_key: [u8; 16],
    /// When the pool was made: seconds since the epoch.
    pub created_seconds: zerocopy::byteorder::little_endian::I64,
    /// When the pool was made: nanoseconds.
    pub created_nanoseconds: U32,
    /// Zero.
    pub reserved0: U32,
    /// A name for people: UTF-8, filled with zeros.
    pub label: [u8; LABEL_BYTES],
    /// The data device's identity; zero without one, as all of the device's fields.
    pub device_uuid: [u8; 16],
    /// Its blocks, headers included.
    pub device_blocks: U64,
    /// The first of its allocation bitmaps.
    pub device_bitmaps: U64,
    /// Where it was when the pool was made, filled with zeros: a hint.
    pub device_path: [u8; PATH_BYTES],
    /// Zero.
    pub reserved1: [u8; 1568],
    /// Segments, the first `segment_count` in use, the rest zero.
    pub segments: [RawSegment; MAX_SEGMENTS],
}
const _: () = assert!(size_of::<RawSuperblock>() == BLOCK_SIZE);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, label) == 128);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, segments) == 2048);

/// A verified superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The pool's identity.
    pub uuid: uuid::Uuid,
    /// Grows by one with each change.
    pub generation: u64,
    /// Features that may be ignored.
    pub compat: u64,
    /// Features that must be known to write.
    pub ro_compat: u64,
    /// Features that must be known to read.
    pub incompat: u64,
    /// First block of the journal.
    pub journal_start: BlockNo,
    /// Number of journal lanes, 1 to [`MAX_LANES`].
    pub lane_count: u32,
    /// Blocks of each lane, even, at least 2.
    pub lane_blocks: u32,
    /// Key of the name hash.
    pub hash_key: [u8; 16],
    /// When the pool was made.
    pub created: Timestamp,
    /// A name for people, at most 64 bytes.
    pub label: String,
    /// The pool's space, ascending, from block 0, without gaps.
    pub segments: Vec<Segment>,
    /// Its data device, if it has one.
    pub device: Option<DataDevice>,
}

impl Superblock {
    /// The layout of a new pool of `total_blocks` blocks.
    ///
    /// # Errors
    /// [`FormatError::Field`] when the size is below 16 MiB or above 1 PiB, or the label is longer than 64 bytes or
    /// holds a NUL.
    pub fn plan(
        total_blocks: u64,
        uuid: uuid::Uuid,
        hash_key: [u8; 16],
        label: &str,
        created: Timestamp,
    ) -> Result<Self, FormatError> {
        let place = Place::Block(SUPERBLOCKS[0]);
        let bad = |field, value| FormatError::Field {
            what: "new pool",
            place,
            field,
            value,
        };
        let bytes = total_blocks.saturating_mul(BLOCK_BYTES);
        if !(MIN_POOL_BYTES..=MAX_POOL_BYTES).contains(&bytes) {
            return Err(bad("size in bytes (16 MiB to 1 PiB)", bytes));
        }
        if label.len() > LABEL_BYTES || label.contains('\0') {
            return Err(bad(
                "label length (at most 64 bytes, no NUL)",
                u64::try_from(label.len()).unwrap_or(0),
            ));
        }
        let (lane_count, lane_blocks) = lanes_for(bytes);
        let lane_total = u64::from(lane_count) * u64::from(lane_blocks);
        // A small pool keeps everything inside its first 2 MiB; a larger one leaves that to the fixed blocks.
        let journal_start = if lane_total <= 256 { 8 } else { HUGE_BLOCKS };
        let segment = Segment {
            blocks: BlockRange::new(BlockNo(0), total_blocks),
            bitmap_start: BlockNo(journal_start + lane_total),
            sum_start: None,
        };
        Ok(Self {
            uuid,
            generation: 1,
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            journal_start: BlockNo(journal_start),
            lane_count,
            lane_blocks,
            hash_key,
            created,
            label: label.to_owned(),
            segments: vec![segment],
            device: None,
        })
    }

    /// The same pool, not made yet, with sums of file data.
    #[must_use]
    pub fn with_sums(mut self) -> Self {
        self.incompat |= INCOMPAT_SUMS;
        for segment in &mut self.segments {
            *segment = segment.with_sums();
        }
        self
    }

    /// The same pool, not made yet, with a data device of `blocks`, whose bitmaps follow those of the pool.
    ///
    /// # Errors
    /// [`FormatError::Field`] for a device that is too small or too large, or a pool that has no room for its bitmaps.
    pub fn with_device(mut self, uuid: uuid::Uuid, blocks: u64, path: &[u8]) -> Result<Self, FormatError> {
        let bad = |field, value| FormatError::Field {
            what: "new data device",
            place: Place::Block(SUPERBLOCKS[0]),
            field,
            value,
        };
        let bytes = blocks.saturating_mul(BLOCK_BYTES);
        if !(MIN_DEVICE_BYTES..=MAX_DEVICE_BYTES).contains(&bytes) {
            return Err(bad("size in bytes (1 MiB to 1 PiB)", bytes));
        }
        let Some(segment) = self.segments.first() else {
            return Err(bad("pool without segments", 0));
        };
        let start = segment.sums().end().max(segment.bitmaps().end());
        let device = DataDevice {
            uuid,
            blocks,
            bitmap_start: if start.raw() <= SUPERBLOCKS[1].raw() {
                // The fixed blocks at the end of the first 2 MiB are in nobody's run.
                start.max(BlockNo(HUGE_BLOCKS))
            } else {
                start
            },
            path: path.get(..PATH_BYTES).unwrap_or(path).to_vec(),
        };
        let bitmaps = device_bitmaps(&device);
        if bitmaps.end().raw().saturating_add(HUGE_BLOCKS) > segment.blocks.end().raw() {
            return Err(bad("size, more than the pool has room for bitmaps of", bytes));
        }
        self.incompat |= INCOMPAT_DEVICE;
        self.device = Some(device);
        Ok(self)
    }

    /// Whether the pool has sums of file data.
    pub fn has_sums(&self) -> bool {
        self.incompat & INCOMPAT_SUMS != 0
    }

    /// The checksum seed of this pool.
    pub fn seed(&self) -> Seed {
        Seed::new(self.uuid)
    }

    /// Blocks in the pool.
    pub fn total_blocks(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.blocks.end().raw())
    }

    /// All blocks of the journal, lane after lane.
    pub fn journal_blocks(&self) -> BlockRange {
        BlockRange::new(
            self.journal_start,
            u64::from(self.lane_count) * u64::from(self.lane_blocks),
        )
    }

    /// The blocks of lane `lane`.
    pub fn lane(&self, lane: u32) -> BlockRange {
        let size = u64::from(self.lane_blocks);
        BlockRange::new(BlockNo(self.journal_start.raw() + u64::from(lane) * size), size)
    }

    /// Whether every feature that must be known to write is known.
    pub fn is_writable(&self) -> bool {
        self.ro_compat & !KNOWN_RO_COMPAT == 0
    }

    /// The superblock as bytes, sealed.
    pub fn encode(&self) -> Box<[u8; BLOCK_SIZE]> {
        let mut raw = RawSuperblock::new_zeroed();
        raw.prefix.magic = U32::new(MAGIC);
        raw.version = U16::new(VERSION);
        raw.block_shift = U16::new(12);
        raw.segment_count = U32::new(u32::try_from(self.segments.len()).unwrap_or(u32::MAX));
        raw.uuid = *self.uuid.as_bytes();
        raw.generation = U64::new(self.generation);
        raw.compat = U64::new(self.compat);
        raw.ro_compat = U64::new(self.ro_compat);
        raw.incompat = U64::new(self.incompat);
        raw.total_blocks = U64::new(self.total_blocks());
        raw.journal_start = U64::new(self.journal_start.raw());
        raw.lane_count = U32::new(self.lane_count);
        raw.lane_blocks = U32::new(self.lane_blocks);
        raw.roots = U64::new(ROOTS.raw());
        raw.hash_key = self.hash_key;
        raw.created_seconds.set(self.created.seconds);
        raw.created_nanoseconds = U32::new(self.created.nanoseconds);
        for (to, from) in raw.label.iter_mut().zip(self.label.bytes()) {
            *to = from;
        }
        for (to, from) in raw.segments.iter_mut().zip(&self.segments) {
            to.first_block = U64::new(from.blocks.start.raw());
            to.block_count = U64::new(from.blocks.count);
            to.bitmap_start = U64::new(from.bitmap_start.raw());
            to.sum_start = U64::new(from.sum_start.map_or(0, BlockNo::raw));
        }
        if let Some(device) = &self.device {
            raw.device_uuid = *device.uuid.as_bytes();
            raw.device_blocks = U64::new(device.blocks);
            raw.device_bitmaps = U64::new(device.bitmap_start.raw());
            for (to, from) in raw.device_path.iter_mut().zip(&device.path) {
                *to = *from;
            }
        }
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        bytes.copy_from_slice(raw.as_bytes());
        seal::seal(self.seed(), bytes.as_mut_slice());
        bytes
    }

    /// Verifies the superblock read from copy `copy` (0 or 1) of a region of `region_bytes`.
    ///
    /// # Errors
    /// A wrong magic number or checksum, a newer format, an unknown incompat feature, or the first field out of its
    /// range.
    pub fn decode(bytes: &[u8; BLOCK_SIZE], copy: usize, region_bytes: u64) -> Result<Self, FormatError> {
        const WHAT: &str = "superblock";
        let place = Place::Block(SUPERBLOCKS[copy.min(1)]);
        let bad = |field, value| FormatError::Field {
            what: WHAT,
            place,
            field,
            value,
        };
        let raw = RawSuperblock::ref_from_bytes(bytes).map_err(|_| bad("length", 0))?;
        let uuid = uuid::Uuid::from_bytes(raw.uuid);
        seal::verify(Seed::new(uuid), bytes, MAGIC, WHAT, place)?;
        match raw.version.get() {
            VERSION => {}
            found if found > VERSION => return Err(FormatError::Newer { found }),
            older => return Err(bad("version", u64::from(older))),
        }
        let unknown = raw.incompat.get() & !KNOWN_INCOMPAT;
        if unknown != 0 {
            return Err(FormatError::UnknownFeature {
                set: "incompat",
                bits: unknown,
            });
        }
        if raw.block_shift.get() != 12 {
            return Err(bad("block size shift", u64::from(raw.block_shift.get())));
        }
        if raw.roots.get() != ROOTS.raw() {
            return Err(bad("roots block", raw.roots.get()));
        }
        if raw.created_nanoseconds.get() >= 1_000_000_000 {
            return Err(bad(
                "creation nanoseconds",
                u64::from(raw.created_nanoseconds.get()),
            ));
        }
        let label_end = raw
            .label
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(LABEL_BYTES);
        let label = std::str::from_utf8(raw.label.get(..label_end).unwrap_or_default()).map_err(|error| {
            bad(
                "label, not UTF-8 at",
                u64::try_from(error.valid_up_to()).unwrap_or(0),
            )
        })?;
        let superblock = Self {
            uuid,
            generation: raw.generation.get(),
            compat: raw.compat.get(),
            ro_compat: raw.ro_compat.get(),
            incompat: raw.incompat.get(),
            journal_start: BlockNo(raw.journal_start.get()),
            lane_count: raw.lane_count.get(),
            lane_blocks: raw.lane_blocks.get(),
            hash_key: raw.hash_key,
            created: Timestamp {
                seconds: raw.created_seconds.get(),
                nanoseconds: raw.created_nanoseconds.get(),
            },
            label: label.to_owned(),
            segments: decode_segments(raw, place)?,
            device: decode_device(raw, place)?,
        };
        superblock.verify_layout(raw.total_blocks.get(), region_bytes, place)?;
        Ok(superblock)
    }

    fn verify_layout(&self, total_blocks: u64, region_bytes: u64, place: Place) -> Result<(), FormatError> {
        let bad = |field, value| FormatError::Field {
            what: "superblock",
            place,
            field,
            value,
        };
        if self.total_blocks() != total_blocks {
            return Err(bad("total blocks", total_blocks));
        }
        let bytes = total_blocks.saturating_mul(BLOCK_BYTES);
        if !(MIN_POOL_BYTES..=MAX_POOL_BYTES).contains(&bytes) {
            return Err(bad("pool size in bytes", bytes));
        }
        if bytes > region_bytes {
            return Err(FormatError::Cut {
                pool: bytes,
                found: region_bytes,
            });
        }
        if self.lane_count == 0 || self.lane_count > MAX_LANES {
            return Err(bad("lane count", u64::from(self.lane_count)));
        }
        if self.lane_blocks < 2 || !self.lane_blocks.is_multiple_of(2) {
            return Err(bad("lane blocks", u64::from(self.lane_blocks)));
        }
        let mut own: Vec<BlockRange> = SUPERBLOCKS
            .into_iter()
            .chain(CHECKPOINTS)
            .chain([ROOTS])
            .map(|block| BlockRange::new(block, 1))
            .collect();
        own.push(self.journal_blocks());
        own.extend(self.segments.iter().map(|segment| segment.bitmaps()));
        own.extend(self.segments.iter().map(|segment| segment.sums()));
        own.extend(self.device.as_ref().map(device_bitmaps));
        own.retain(|range| range.count > 0);
        own.sort_unstable();
        for pair in own.windows(2) {
            if let [first, second] = pair
                && first.end() > second.start
            {
                return Err(bad(
                    "journal, bitmaps or sums overlap at block",
                    second.start.raw(),
                ));
            }
        }
        match own.last() {
            Some(last) if last.end().raw() <= total_blocks => Ok(()),
            last => Err(bad(
                "journal, bitmaps or sums end at block",
                last.map_or(0, |range| range.end().raw()),
            )),
        }
    }
}

/// The blocks of the bitmaps of a data device.
fn device_bitmaps(device: &DataDevice) -> BlockRange {
    let segment = Segment {
        blocks: device.range(),
        bitmap_start: device.bitmap_start,
        sum_start: None,
    };
    segment.bitmaps()
}

fn decode_device(raw: &RawSuperblock, place: Place) -> Result<Option<DataDevice>, FormatError> {
    let has_device = raw.incompat.get() & INCOMPAT_DEVICE != 0;
    let blocks = raw.device_blocks.get();
    let bad = |field, value| FormatError::Field {
        what: "superblock",
        place,
        field,
        value,
    };
    if !has_device {
        return match blocks {
            0 => Ok(None),
            blocks => Err(bad("device blocks without a device", blocks)),
        };
    }
    if raw.incompat.get() & INCOMPAT_SUMS != 0 {
        return Err(bad("incompat features, sums and a device", raw.incompat.get()));
    }
    if !(MIN_DEVICE_BYTES / BLOCK_BYTES..=MAX_DEVICE_BYTES / BLOCK_BYTES).contains(&blocks) {
        return Err(bad("device blocks", blocks));
    }
    if raw.device_bitmaps.get() > MAX_POOL_BYTES / BLOCK_BYTES {
        return Err(bad("device bitmaps", raw.device_bitmaps.get()));
    }
    let path_end = raw.device_path.iter().position(|byte| *byte == 0);
    Ok(Some(DataDevice {
        uuid: uuid::Uuid::from_bytes(raw.device_uuid),
        blocks,
        bitmap_start: BlockNo(raw.device_bitmaps.get()),
        path: raw
            .device_path
            .get(..path_end.unwrap_or(PATH_BYTES))
            .unwrap_or_default()
            .to_vec(),
    }))
}

/// How many lanes, and of how many blocks, a pool of `bytes` gets: enough lanes that threads rarely meet, enough
/// space that checkpoints are rare, at most a sixteenth of the pool.
fn lanes_for(bytes: u64) -> (u32, u32) {
    match bytes >> 20 {
        0..64 => (2, 128),
        64..256 => (4, 256),
        256..1024 => (8, 256),
        1024..16384 => (16, 256),
        _ => (32, 512),
    }
}

fn decode_segments(raw: &RawSuperblock, place: Place) -> Result<Vec<Segment>, FormatError> {
    let bad = |field, value| FormatError::Field {
        what: "superblock",
        place,
        field,
        value,
    };
    let count = usize::try_from(raw.segment_count.get()).unwrap_or(usize::MAX);
    if count == 0 || count > MAX_SEGMENTS {
        return Err(bad("segment count", u64::from(raw.segment_count.get())));
    }
    let has_sums = raw.incompat.get() & INCOMPAT_SUMS != 0;
    let mut next = 0;
    let mut segments = Vec::with_capacity(count);
    for from in raw.segments.iter().take(count) {
        let segment = Segment {
            blocks: BlockRange::new(BlockNo(from.first_block.get()), from.block_count.get()),
            bitmap_start: BlockNo(from.bitmap_start.get()),
            sum_start: has_sums.then_some(BlockNo(from.sum_start.get())),
        };
        if segment.blocks.start.raw() != next {
            return Err(bad("segment's first block", segment.blocks.start.raw()));
        }
        if segment.blocks.count == 0 || segment.blocks.count > MAX_POOL_BYTES / BLOCK_BYTES {
            return Err(bad("segment's block count", segment.blocks.count));
        }
        next = segment.blocks.end().raw();
        let bitmaps = segment.bitmaps();
        if bitmaps.start < segment.blocks.start || bitmaps.end() > segment.blocks.end() {
            return Err(bad("segment's bitmap start", bitmaps.start.raw()));
        }
        let sums = segment.sums();
        if sums.start < segment.blocks.start || sums.end() > segment.blocks.end() {
            return Err(bad("segment's sum start", sums.start.raw()));
        }
        segments.push(segment);
    }
    Ok(segments)
}
