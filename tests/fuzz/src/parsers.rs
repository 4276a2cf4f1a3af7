//! Every constructor that makes a type of bytes from the medium.
//!
//! The first byte of the input chooses whether the unit is sealed, so that what is behind the checksum is reached, and
//! whether the pool has a data device; the rest is the unit, filled with zeros. What depends on where the unit is (its
//! block, its owner) is taken from it.

use udax_media::checkpoint::Checkpoint;
use udax_media::dentry::{self, Dentry};
use udax_media::device::{DeviceHeader, MAX_DEVICE_BYTES};
use udax_media::extent::{Extent, INLINE_SIZE};
use udax_media::geometry::SumBlock;
use udax_media::inode::{INODE_SIZE, InodeSlot};
use udax_media::node::{
    NodeIdentity, NodeState, SLOT_SIZE, SLOTS_START, STATE_OFFSET, Slot, TreeKind, TreeRoot,
};
use udax_media::seal::{self, Seed};
use udax_media::sum::{SUMS_PER_BLOCK, Sum};
use udax_media::xattr::Xattr;
use udax_media::{
    BLOCK_BYTES, BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, DEVICE_START, FileBlock, Geometry, InodeNo,
    LINE_SIZE, Reach, Superblock, Timestamp, pool_tree,
};
use udax_test_corruption::sample::UUID;

use crate::input::{DEVICE, Input, SEALED};

/// Blocks of the pool that the bytes are from.
const TOTAL_BLOCKS: u64 = 4096;

/// Blocks of its data device.
const DEVICE_BLOCKS: u64 = 512;

/// The blocks that there are: those of a device too, if the input says so.
fn reach(mode: u8) -> Reach {
    Reach {
        pool: TOTAL_BLOCKS,
        device: if mode & DEVICE == 0 { 0 } else { DEVICE_BLOCKS },
    }
}

/// As `reach`, of an input whose first byte is its mode.
fn reach_of(data: &[u8]) -> Reach {
    reach(data.first().copied().unwrap_or(0))
}

fn seed() -> Seed {
    Seed::new(UUID)
}

/// A unit of `LEN` bytes, sealed if the input says so.
fn unit<const LEN: usize>(data: &[u8]) -> Box<[u8; LEN]> {
    let mut input = Input::new(data);
    let is_sealed = input.byte() & SEALED != 0;
    let mut bytes = Box::new(input.array());
    if is_sealed {
        seal::seal(seed(), bytes.as_mut_slice());
    }
    bytes
}

/// As `unit`, of a block that names its pool: the seed is of the uuid in it.
fn head(data: &[u8]) -> Box<[u8; BLOCK_SIZE]> {
    let mut bytes = unit::<BLOCK_SIZE>(data);
    if data.first().is_some_and(|mode| mode & SEALED != 0)
        && let Some(uuid) = bytes.get(16..).and_then(|rest| rest.first_chunk::<16>())
    {
        seal::seal(Seed::new(uuid::Uuid::from_bytes(*uuid)), bytes.as_mut_slice());
    }
    bytes
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

/// A superblock that is believed has a layout inside of its pool, and says the same when it is written again.
pub(crate) fn superblock(data: &[u8]) {
    let bytes = head(data);
    for region_bytes in [16 << 20, u64::MAX] {
        let Ok(found) = Superblock::decode(&bytes, 0, region_bytes) else {
            continue;
        };
        let geometry = Geometry::new(&found);
        assert!(
            geometry
                .own_ranges()
                .iter()
                .all(|range| geometry.contains(*range))
        );
        assert!(geometry.group_count() > 0);
        let again = Superblock::decode(&found.encode(), 1, region_bytes);
        assert_eq!(again.as_ref(), Ok(&found));
    }
}

/// A data device's header that is believed is the same when it is written again.
pub(crate) fn device(data: &[u8]) {
    let bytes = head(data);
    for copy in 0..2 {
        if let Ok(found) = DeviceHeader::decode(&bytes, copy) {
            assert!(found.blocks * BLOCK_BYTES <= MAX_DEVICE_BYTES);
            assert_eq!(DeviceHeader::decode(&found.encode(copy), copy), Ok(found));
        }
    }
}

/// A checkpoint that is believed is the same when it is written again.
pub(crate) fn checkpoint(data: &[u8]) {
    let bytes = unit::<LINE_SIZE>(data);
    if let Ok(found) = Checkpoint::decode(seed(), &bytes, ByteOffset(4096), TOTAL_BLOCKS) {
        let again = Checkpoint::decode(seed(), &found.encode(seed()), ByteOffset(4096), TOTAL_BLOCKS);
        assert_eq!(again, Ok(found));
        assert!(found.free_blocks <= TOTAL_BLOCKS);
    }
}

/// Roots that are believed lead into the pool.
pub(crate) fn roots(data: &[u8]) {
    let bytes = unit::<BLOCK_SIZE>(data);
    if let Ok(found) = udax_media::roots::verify(seed(), &bytes, TOTAL_BLOCKS) {
        let blocks = found.iter().filter_map(|root| root.block());
        assert!(blocks.into_iter().all(|block| block.raw() < TOTAL_BLOCKS));
    }
}

/// A bitmap where it says that it is.
pub(crate) fn bitmap(data: &[u8]) {
    let bytes = unit::<BLOCK_SIZE>(data);
    let own = BlockNo(word_at(bytes.as_slice(), 8));
    let count = word_at(bytes.as_slice(), 24) & u64::from(u32::MAX);
    let covers = BlockRange::new(BlockNo(word_at(bytes.as_slice(), 16)), count);
    if let Ok(words) = udax_media::bitmap::verify(seed(), &bytes, own, covers) {
        let used: u32 = words.iter().map(|word| word.count_ones()).sum();
        assert!(usize::try_from(used).is_ok_and(|used| used <= words.len() * 64));
    }
}

/// A sum block where it says that it is: every sum of it is inside of it.
pub(crate) fn sums(data: &[u8]) {
    let bytes = unit::<BLOCK_SIZE>(data);
    let count = word_at(bytes.as_slice(), 24) & u64::from(u32::MAX);
    let at = SumBlock {
        block: BlockNo(word_at(bytes.as_slice(), 8) % TOTAL_BLOCKS),
        covers: BlockRange::new(
            BlockNo(word_at(bytes.as_slice(), 16) % TOTAL_BLOCKS),
            count.clamp(1, SUMS_PER_BLOCK),
        ),
    };
    if udax_media::sum::verify(seed(), &bytes, at).is_ok() {
        let last = at.covers.end().raw() - 1;
        let place = at.place(BlockNo(last));
        assert_eq!(place.block(), at.block);
        let word = word_at(
            bytes.as_slice(),
            usize::try_from(place.in_block()).unwrap_or(usize::MAX),
        );
        assert_eq!(Sum::from_word(word).word(), word);
    }
}

/// A node of the tree that it says it is of, and every value of a leaf.
pub(crate) fn node(data: &[u8]) {
    let bytes = unit::<BLOCK_SIZE>(data);
    let own = BlockNo(word_at(bytes.as_slice(), 8));
    let Some(state) = NodeState::from_word(word_at(bytes.as_slice(), STATE_OFFSET)) else {
        return;
    };
    let identity = NodeIdentity {
        kind: state.kind,
        owner: word_at(bytes.as_slice(), 16),
        generation: word_at(bytes.as_slice(), 24),
    };
    let reach = reach_of(data);
    let verified = udax_media::node::verify(seed(), &bytes, own, identity, state.level, TOTAL_BLOCKS);
    let Ok(state) = verified else { return };
    if state.level > 0 {
        return;
    }
    let slots = bytes
        .get(SLOTS_START..)
        .unwrap_or_default()
        .as_chunks::<SLOT_SIZE>()
        .0;
    for slot in slots.iter().take(usize::from(state.count)) {
        let slot = Slot::decode(slot, state.heap_top).expect("a slot of a verified leaf");
        // An empty value is nowhere.
        if !slot.is_used || slot.length == 0 {
            continue;
        }
        let start = usize::from(slot.offset);
        let value = bytes.get(start..start + usize::from(slot.length));
        let value = value.expect("a value of a verified leaf is in its block");
        match state.kind {
            TreeKind::Directory => dentry(value),
            TreeKind::Xattrs => xattr(value),
            TreeKind::Extents => check_extent(slot.key, value, reach),
            TreeKind::InodeTable | TreeKind::Shared | TreeKind::BadBlocks | TreeKind::Orphans => {
                check_pool_tree(slot.key, value);
            }
        }
    }
}

/// An inode with the number that it says it has is the same when it is written again.
pub(crate) fn inode(data: &[u8]) {
    let (bytes, reach) = (unit::<INODE_SIZE>(data), reach_of(data));
    let ino = InodeNo(word_at(bytes.as_slice(), 8));
    let Ok(InodeSlot::Used(inode)) = udax_media::inode::verify(seed(), &bytes, ino, reach) else {
        return;
    };
    let again = udax_media::inode::decode(&inode.encode(), ino, reach);
    for extent in inode.collect_inline_extents(reach).unwrap_or_default() {
        assert_reached(extent.blocks(), reach);
    }
    assert_eq!(again, Ok(InodeSlot::Used(inode)));
}

/// A whole chunk, sealed slot by slot as the checkpoint does it.
pub(crate) fn chunk(data: &[u8]) {
    let mut bytes = unit::<BLOCK_SIZE>(data);
    let touched = data
        .first()
        .map_or(0, |mode| u64::from(*mode).wrapping_mul(0x0101_0101_0101_0101));
    let changed = seal::seal_block(seed(), &mut bytes, touched);
    let first = word_at(bytes.as_slice(), 256 + 8).saturating_sub(1);
    for (ino, slot) in (first..).zip(bytes.as_chunks::<INODE_SIZE>().0) {
        let _ = udax_media::inode::verify(seed(), slot, InodeNo(ino), reach_of(data));
    }
    assert_eq!(seal::seal_block(seed(), &mut bytes, touched), changed);
}

/// A record of any lane.
pub(crate) fn record(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, lane) = (input.byte(), u16::from(input.byte() & 1));
    let superblock = Superblock::plan(TOTAL_BLOCKS, UUID, [0; 16], "", Timestamp::default());
    let geometry = Geometry::new(&superblock.expect("a layout of a small pool"));
    let mut bytes = input.rest().to_vec();
    let Some(length) = udax_media::record::claimed_len(&bytes) else {
        return;
    };
    let Some(bytes) = bytes.get_mut(..length) else {
        return;
    };
    if mode & SEALED != 0 {
        seal::seal(seed(), bytes);
    }
    let Ok((_, operations)) = udax_media::record::decode(seed(), bytes, ByteOffset(0), lane, &geometry)
    else {
        return;
    };
    let mut encoded = Vec::new();
    for operation in &operations {
        let before = encoded.len();
        operation.encode_into(&mut encoded);
        assert_eq!(encoded.len() - before, operation.encoded_len());
    }
    assert_eq!(
        bytes.get(udax_media::record::HEADER_SIZE..),
        Some(encoded.as_slice())
    );
}

/// A directory entry is the same when it is written again.
pub(crate) fn dentry(data: &[u8]) {
    if let Some(dentry) = Dentry::decode(data) {
        assert_eq!(dentry.encode(&mut [0; dentry::MAX_SIZE]), data);
        let keys = udax_media::name::keys(&[7; 16], dentry.name);
        assert!(keys.first >= 256 && keys.last <= u64::MAX >> 1);
    }
}

/// An extent, in a tree and in an inode.
pub(crate) fn extent(data: &[u8]) {
    let mut input = Input::new(data);
    let reach = reach(input.byte());
    let mut inline = input.clone();
    let key = input.word();
    check_extent(key, input.rest(), reach);
    check_pool_tree(key, input.rest());
    let inline: [u8; INLINE_SIZE] = inline.array();
    if let Some(extent) = Extent::decode_inline(&inline, reach) {
        assert_eq!(extent.encode_inline(), inline);
        assert_reached(extent.blocks(), reach);
    }
    let root = TreeRoot::from_word(key);
    assert_eq!(TreeRoot::from_word(root.word()), root);
}

fn check_extent(key: u64, value: &[u8], reach: Reach) {
    if let Some(extent) = Extent::decode(FileBlock(key), value, reach) {
        assert_eq!(extent.encode().as_slice(), value);
        assert!(extent.end().raw() > key);
        assert_reached(extent.blocks(), reach);
    }
}

/// Of the pool, or of a device that is there.
fn assert_reached(blocks: BlockRange, reach: Reach) {
    let end = blocks.end().raw();
    let device_end = DEVICE_START.raw() + reach.device;
    let is_on_device = blocks.start >= DEVICE_START && end <= device_end;
    assert!(end <= TOTAL_BLOCKS || is_on_device, "{blocks:?}");
}

/// What is believed in a tree of the pool is the same when it is written again.
fn check_pool_tree(key: u64, value: &[u8]) {
    if let Some(block) = pool_tree::decode_chunk(value, TOTAL_BLOCKS) {
        assert!(block.raw() > 0 && block.raw() < TOTAL_BLOCKS);
        assert_eq!(pool_tree::encode_chunk(block).as_slice(), value);
    }
    if let Some(shared) = pool_tree::Shared::decode(key, value) {
        assert!(shared.owners >= 2 && shared.blocks.end().raw() > key);
        assert_eq!(
            (shared.blocks.start.raw(), shared.encode().as_slice()),
            (key, value)
        );
    }
    if let Some(bad) = pool_tree::decode_bad(key, value, TOTAL_BLOCKS) {
        assert!(bad.end().raw() > key && bad.end().raw() <= TOTAL_BLOCKS);
        assert_eq!(pool_tree::encode_bad(bad).as_slice(), value);
    }
}

/// An attribute is the same when it is written again, and its value has no more blocks than its length asks for.
pub(crate) fn xattr(data: &[u8]) {
    if let Some(xattr) = Xattr::decode(data, TOTAL_BLOCKS) {
        assert_eq!(xattr.encode(), data);
    }
}
