//! One of each structure, byte for byte, as `tests/golden/<structure>.txt` has it: a change of the format shows here.
//!
//! A line is the offset of eight bytes in hexadecimal and the bytes in order; lines of zeros are left out.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

use std::fmt::Write;

use udax_media::checkpoint::Checkpoint;
use udax_media::dentry::{self, Dentry};
use udax_media::device::DeviceHeader;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::{FileKind, Inode, InodeFlags};
use udax_media::node::{self, NodeIdentity, NodeState, Slot, TreeKind, TreeRoot};
use udax_media::record::{self, HEADER_SIZE, Operation, RecordHeader};
use udax_media::seal::{self, Seed};
use udax_media::sum::Sum;
use udax_media::superblock::Superblock;
use udax_media::xattr::{Xattr, XattrValue};
use udax_media::{
    BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, FileBlock, Geometry, InodeNo, Sequence, Timestamp, bitmap,
    name, roots, sum,
};
use uuid::Uuid;

const UUID: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const HASH_KEY: [u8; 16] = *b"0123456789abcdef";
const IDENTITY: NodeIdentity = NodeIdentity {
    kind: TreeKind::Extents,
    owner: 0x1122,
    generation: 0x3344,
};

fn seed() -> Seed {
    Seed::new(UUID)
}

#[track_caller]
fn assert_golden(bytes: &[u8], golden: &str) {
    let mut text = String::new();
    for (index, part) in bytes.chunks(8).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            write!(text, "{:04x}", index * 8).unwrap();
            for byte in part {
                write!(text, " {byte:02x}").unwrap();
            }
            text.push('\n');
        }
    }
    assert!(text == golden, "the bytes are now:\n{text}");
}

fn time(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 0x0102_0304,
    }
}

fn extent() -> Extent {
    Extent {
        first: FileBlock(0x55),
        start: BlockNo(0x1234),
        count: 0x20,
        flags: ExtentFlags::UNWRITTEN | ExtentFlags::SHARED,
    }
}

#[test]
fn superblock_has_its_golden_bytes() {
    let superblock = Superblock::plan(1 << 20, UUID, HASH_KEY, "golden", time(0x0506_0708)).unwrap();
    assert_golden(
        superblock.encode().as_slice(),
        include_str!("golden/superblock.txt"),
    );
}

#[test]
fn checkpoint_has_its_golden_bytes() {
    let checkpoint = Checkpoint {
        number: 7,
        sequence: Sequence(0x0102_0304_0506_0708),
        nonce: 0x1111_2222_3333_4444,
        free_blocks: 0x5000,
        inodes: 0x60,
        is_clean: true,
        is_half_mended: false,
    };
    assert_golden(&checkpoint.encode(seed()), include_str!("golden/checkpoint.txt"));
}

#[test]
fn roots_have_their_golden_bytes() {
    assert_golden(
        roots::format(seed(), [udax_media::node::TreeRoot::EMPTY; 4]).as_slice(),
        include_str!("golden/roots.txt"),
    );
}

#[test]
fn bitmap_has_its_golden_bytes() {
    let covers = BlockRange::new(BlockNo(bitmap::GROUP_BLOCKS), bitmap::GROUP_BLOCKS - 70);
    let block = bitmap::format(seed(), BlockNo(0x2200), covers);
    assert_golden(block.as_slice(), include_str!("golden/bitmap.txt"));
}

#[test]
fn sum_block_has_its_golden_bytes() {
    let superblock = Superblock::plan(100_000, UUID, HASH_KEY, "golden", time(1))
        .unwrap()
        .with_sums();
    let at = Geometry::new(&superblock).sum_block_of(BlockNo(99_999)).unwrap();
    let mut block = sum::format(seed(), at);
    let place = usize::try_from(at.place(BlockNo(99_900)).in_block()).unwrap();
    let word = Sum::of(seed(), &[7; BLOCK_SIZE]).word();
    block[place..place + 8].copy_from_slice(&word.to_le_bytes());
    seal::seal(seed(), block.as_mut_slice());
    assert!(sum::verify(seed(), &block, at).is_ok());
    assert_golden(block.as_slice(), include_str!("golden/sum_block.txt"));
}

#[test]
fn superblock_with_sums_has_its_golden_bytes() {
    let superblock = Superblock::plan(1 << 20, UUID, HASH_KEY, "golden", time(0x0506_0708)).unwrap();
    assert_golden(
        superblock.with_sums().encode().as_slice(),
        include_str!("golden/superblock_with_sums.txt"),
    );
}

#[test]
fn superblock_with_a_device_has_its_golden_bytes() {
    let superblock = Superblock::plan(1 << 20, UUID, HASH_KEY, "golden", time(0x0506_0708)).unwrap();
    let device = Uuid::from_u128(0x0102_0304);
    let superblock = superblock.with_device(device, 1 << 18, b"/dev/sda").unwrap();
    let bytes = superblock.encode();
    assert_eq!(Superblock::decode(&bytes, 0, 1 << 32), Ok(superblock));
    assert_golden(
        bytes.as_slice(),
        include_str!("golden/superblock_with_device.txt"),
    );
}

#[test]
fn device_header_has_its_golden_bytes() {
    let header = DeviceHeader {
        pool: UUID,
        device: Uuid::from_u128(0x0102_0304),
        blocks: 1 << 18,
    };
    assert_golden(
        header.encode(1).as_slice(),
        include_str!("golden/device_header.txt"),
    );
}

#[test]
fn inode_has_its_golden_bytes() {
    let mut inode = Inode {
        ino: InodeNo(0x0a0b),
        generation: 3,
        kind: FileKind::Regular,
        permissions: 0o4755,
        flags: InodeFlags::empty(),
        uid: 1000,
        gid: 1001,
        rdev: 0x0801,
        btime: time(1),
        size: 0x1_2345,
        blocks: 0x20,
        mtime: time(2),
        ctime: time(3),
        atime: time(-4),
        nlink: 2,
        change: 9,
        xattr_root: TreeRoot::new(BlockNo(0x77), 1),
        parent: InodeNo(0x0c0d),
        root: TreeRoot::new(BlockNo(0x88), 2),
        inline_count: 1,
        target_checksum: 0x0e0f_1011,
        inline: [0; 96],
    };
    inode.inline[..24].copy_from_slice(&extent().encode_inline());
    let mut bytes = inode.encode();
    seal::seal(seed(), &mut bytes);
    assert_golden(&bytes, include_str!("golden/inode.txt"));
}

#[test]
fn leaf_has_its_golden_bytes() {
    let mut block = [0; BLOCK_SIZE];
    let state = NodeState {
        level: 0,
        kind: IDENTITY.kind,
        count: 2,
        heap_top: 4064,
    };
    block[..64].copy_from_slice(&node::encode_header(BlockNo(0x99), IDENTITY, state));
    let slot = Slot {
        key: 0x55,
        offset: 4080,
        capacity: 16,
        length: 16,
        is_used: true,
    };
    let freed = Slot {
        key: 0x66,
        offset: 4064,
        length: 0,
        is_used: false,
        ..slot
    };
    block[64..80].copy_from_slice(&slot.encode());
    block[80..96].copy_from_slice(&freed.encode());
    block[4080..].copy_from_slice(&extent().encode());
    seal::seal(seed(), &mut block);
    assert!(node::verify(seed(), &block, BlockNo(0x99), IDENTITY, 0, 1 << 20).is_ok());
    assert_golden(&block, include_str!("golden/leaf.txt"));
}

#[test]
fn inner_node_has_its_golden_bytes() {
    let mut block = [0; BLOCK_SIZE];
    let state = NodeState {
        level: 1,
        kind: IDENTITY.kind,
        count: 2,
        heap_top: node::HEAP_EMPTY,
    };
    block[..64].copy_from_slice(&node::encode_header(BlockNo(0x9a), IDENTITY, state));
    for (at, word) in [(64, 0_u64), (72, 0x99), (80, 0x1000), (88, 0x9b)] {
        block[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    seal::seal(seed(), &mut block);
    assert!(node::verify(seed(), &block, BlockNo(0x9a), IDENTITY, 1, 1 << 20).is_ok());
    assert_golden(&block, include_str!("golden/inner.txt"));
}

#[test]
fn tree_values_have_their_golden_bytes() {
    let dentry = Dentry {
        ino: InodeNo(0x0102_0304),
        kind: FileKind::Symlink,
        name: b"readme",
    };
    assert_golden(
        dentry.encode(&mut [0; dentry::MAX_SIZE]),
        include_str!("golden/dentry.txt"),
    );
    let inline = Xattr {
        name: b"user.a",
        value: XattrValue::Inline(b"value"),
    };
    assert_golden(&inline.encode(), include_str!("golden/xattr_inline.txt"));
    let external = Xattr {
        name: b"user.b",
        value: XattrValue::External {
            length: 5000,
            checksum: 0x0102_0304,
            runs: vec![BlockRange::new(BlockNo(0x30), 2)],
        },
    };
    assert_golden(&external.encode(), include_str!("golden/xattr_external.txt"));
    assert_golden(&extent().encode(), include_str!("golden/extent.txt"));
}

#[test]
fn record_has_its_golden_bytes() {
    let mut bytes = vec![0; HEADER_SIZE];
    for operation in [
        Operation::Write {
            at: ByteOffset(0x8000),
            bytes: b"01234567abcdefgh",
        },
        Operation::Allocate(BlockRange::new(BlockNo(0x1234), 5)),
        Operation::Free(BlockRange::new(BlockNo(0x2345), 6)),
        Operation::Zero(BlockRange::new(BlockNo(0x3456), 7)),
    ] {
        operation.encode_into(&mut bytes);
    }
    let header = RecordHeader {
        sequence: Sequence(0x42),
        lane: 3,
        free_blocks_delta: 1,
        inodes_delta: -1,
    };
    record::finish(seed().with(0x1111_2222_3333_4444), &mut bytes, header);
    assert_golden(&bytes, include_str!("golden/record.txt"));
}

#[test]
fn name_keys_are_the_golden_ones() {
    assert_eq!(name::keys(&HASH_KEY, b"readme").first, 0x73b1_c213_9b8f_6100);
}
