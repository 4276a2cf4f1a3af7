//! What is encoded comes back, at the limits of every field too, and what is beyond them is refused.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

use proptest::prelude::*;
use udax_media::checkpoint::Checkpoint;
use udax_media::dentry::{self, Dentry};
use udax_media::extent::{Extent, ExtentFlags, MAX_EXTENT_BLOCKS};
use udax_media::geometry::{CHECKPOINTS, SUPERBLOCKS, SumBlock};
use udax_media::inode::{self, FileKind, INLINE_BYTES, INODE_SIZE, Inode, InodeFlags, InodeSlot};
use udax_media::node::{self, NodeIdentity, NodeState, Slot, TreeKind, TreeRoot};
use udax_media::pool_tree::{self, Shared};
use udax_media::record::{self, HEADER_SIZE, Operation, RecordHeader};
use udax_media::seal::{self, Seed};
use udax_media::superblock::Superblock;
use udax_media::xattr::{self, Xattr, XattrValue};
use udax_media::{
    BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, DEVICE_START, FileBlock, Geometry, InodeNo, MAX_FILE_BYTES,
    MAX_NAME_BYTES, MAX_SYMLINK_BYTES, Sequence, Timestamp, bitmap, geometry, name, roots, sum,
};
use uuid::Uuid;

const BLOCKS: u64 = 1 << 20;

fn seed() -> Seed {
    Seed::new(Uuid::from_u128(0x1234))
}

fn pool(blocks: u64) -> Superblock {
    let created = Timestamp {
        seconds: -1,
        nanoseconds: 999_999_999,
    };
    Superblock::plan(blocks, Uuid::from_u128(0x1234), [7; 16], "a label", created).unwrap()
}

fn file() -> Inode {
    let time = Timestamp {
        seconds: i64::MIN,
        nanoseconds: 999_999_999,
    };
    Inode {
        ino: InodeNo(u64::MAX >> 2),
        generation: u64::MAX,
        kind: FileKind::Regular,
        permissions: 0o7777,
        flags: InodeFlags::EXTENT_TREE,
        uid: u32::MAX,
        gid: u32::MAX,
        rdev: u64::MAX,
        btime: time,
        size: MAX_FILE_BYTES,
        blocks: BLOCKS,
        mtime: time,
        ctime: time,
        atime: time,
        nlink: u32::MAX,
        change: u64::MAX,
        xattr_root: TreeRoot::new(BlockNo(BLOCKS - 1), node::MAX_LEVEL),
        parent: InodeNo(0),
        root: TreeRoot::new(BlockNo(BLOCKS - 1), node::MAX_LEVEL),
        inline_count: 0,
        target_checksum: u32::MAX,
        inline: [0xff; INLINE_BYTES],
    }
}

fn decoded(inode: &Inode) -> Option<Inode> {
    match inode::decode(&inode.encode(), inode.ino, BLOCKS) {
        Ok(InodeSlot::Used(inode)) => Some(*inode),
        _ => None,
    }
}

#[test]
fn superblock_comes_back_from_both_copies() {
    for blocks in [4096, 4097, 1 << 16, 1 << 22, 1 << 38] {
        let superblock = pool(blocks);
        assert_eq!(superblock.total_blocks(), blocks);
        for copy in 0..2 {
            assert_eq!(
                Superblock::decode(&superblock.encode(), copy, blocks * 4096).unwrap(),
                superblock
            );
        }
        assert!(Superblock::decode(&superblock.encode(), 0, blocks * 4096 - 1).is_err());
    }
    let plan =
        |blocks, label: &str| Superblock::plan(blocks, Uuid::nil(), [0; 16], label, Timestamp::default());
    assert!(plan(4095, "").is_err());
    assert!(plan((1 << 38) + 1, "").is_err());
    assert!(plan(4096, &"x".repeat(64)).is_ok());
    assert!(plan(4096, &"x".repeat(65)).is_err());
    assert!(plan(4096, "a\0b").is_err());
}

#[test]
fn every_flipped_byte_of_a_superblock_is_detected() {
    let bytes = pool(4096).encode();
    for at in 0..BLOCK_SIZE {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(Superblock::decode(&damaged, 0, 4096 * 4096).is_err(), "byte {at}");
    }
}

#[test]
fn groups_of_a_pool_cover_each_block_once() {
    for blocks in [4096, 32_256, 32_257, 100_000] {
        let superblock = pool(blocks);
        let geometry = Geometry::new(&superblock);
        let mut next = 0;
        for index in 0..geometry.group_count() {
            let group = geometry.group(index).unwrap();
            assert_eq!(group.covers.start.raw(), next);
            for block in [group.covers.start, BlockNo(group.covers.end().raw() - 1)] {
                assert_eq!(geometry.group_of(block), Some(index));
            }
            next = group.covers.end().raw();
        }
        assert_eq!(next, blocks);
        assert_eq!(geometry.group(geometry.group_count()), None);
        assert_eq!(geometry.group_of(BlockNo(blocks)), None);
        let whole = BlockRange::new(BlockNo(0), blocks + 100);
        let bits: u64 = geometry
            .bit_words(whole)
            .map(|word| u64::from(word.mask.count_ones()))
            .sum();
        assert_eq!(bits, blocks);
        let own = geometry.own_ranges();
        assert_eq!(geometry.sum_blocks().next(), None);
        assert_eq!(geometry.sum_block_of(BlockNo(0)), None);
        assert!(
            own.array_windows().all(|[one, two]| one.end() <= two.start),
            "own ranges overlap"
        );
        assert!(own.iter().all(|range| geometry.contains(*range)));
    }
}

#[test]
fn sum_blocks_of_a_pool_cover_each_block_once() {
    for blocks in [4096, 32_256, 32_257, 100_000] {
        let superblock = pool(blocks).with_sums();
        let decoded = Superblock::decode(&superblock.encode(), 1, blocks * 4096).unwrap();
        assert_eq!(decoded, superblock);
        let geometry = Geometry::new(&superblock);
        let mut next = 0;
        for at in geometry.sum_blocks() {
            assert_eq!(at.covers.start.raw(), next);
            assert!(geometry.is_own(BlockRange::new(at.block, 1)));
            next = at.covers.end().raw();
            for block in [at.covers.start, BlockNo(next - 1)] {
                assert_eq!(geometry.sum_block_of(block), Some(at));
                assert_eq!(at.place(block).block(), at.block);
                assert!(at.place(block).in_block() >= 64);
            }
            let bytes = sum::format(seed(), at);
            sum::verify(seed(), &bytes, at).unwrap();
            let elsewhere = SumBlock {
                block: BlockNo(at.block.raw() + 1),
                ..at
            };
            assert!(sum::verify(seed(), &bytes, elsewhere).is_err());
            let mut damaged = bytes.clone();
            damaged[4095] ^= 1;
            assert!(sum::verify(seed(), &damaged, at).is_err());
        }
        assert_eq!(next, blocks);
        assert_eq!(geometry.sum_block_of(BlockNo(blocks)), None);
    }
    // Where they must be.
    let mut superblock = pool(4096).with_sums();
    for start in [0, 1, 8, 4095] {
        superblock.segments[0].sum_start = Some(BlockNo(start));
        assert!(
            Superblock::decode(&superblock.encode(), 0, 4096 * 4096).is_err(),
            "{start}"
        );
    }
}

#[test]
fn checkpoint_comes_back_and_bad_ones_are_refused() {
    let checkpoint = Checkpoint {
        number: u64::MAX,
        sequence: Sequence(u64::MAX),
        nonce: u64::MAX,
        free_blocks: BLOCKS,
        inodes: u64::MAX,
        is_clean: true,
        is_half_mended: false,
    };
    let at = checkpoint.offset_in(geometry::CHECKPOINTS[1]);
    assert_eq!(at, ByteOffset(510 * 4096 + 64));
    let bytes = checkpoint.encode(seed());
    assert_eq!(
        Checkpoint::decode(seed(), &bytes, at, BLOCKS).unwrap(),
        checkpoint
    );
    let half_mended = Checkpoint {
        is_clean: false,
        is_half_mended: true,
        ..checkpoint
    };
    let decoded = Checkpoint::decode(seed(), &half_mended.encode(seed()), at, BLOCKS);
    assert_eq!(decoded.unwrap(), half_mended);
    assert!(Checkpoint::decode(seed(), &bytes, at, BLOCKS - 1).is_err());
    assert!(Checkpoint::decode(seed().with(1), &bytes, at, BLOCKS).is_err());
    for index in 0..bytes.len() {
        let mut damaged = bytes;
        damaged[index] ^= 1;
        assert!(
            Checkpoint::decode(seed(), &damaged, at, BLOCKS).is_err(),
            "byte {index}"
        );
    }
}

#[test]
fn roots_and_bitmaps_come_back() {
    assert_eq!(
        roots::verify(
            seed(),
            &roots::format(seed(), [udax_media::node::TreeRoot::EMPTY; 4]),
            BLOCKS
        )
        .unwrap(),
        [TreeRoot::EMPTY; 4]
    );
    let covers = BlockRange::new(BlockNo(bitmap::GROUP_BLOCKS), 1000);
    let block = bitmap::format(seed(), BlockNo(9), covers);
    let words = bitmap::verify(seed(), &block, BlockNo(9), covers).unwrap();
    let free: u64 = words.iter().map(|word| u64::from(word.count_zeros())).sum();
    assert_eq!(free, 1000, "bits after the last block are set");
    assert_eq!(words[15], !0 << 40);
    assert!(bitmap::verify(seed(), &block, BlockNo(8), covers).is_err());
    assert!(bitmap::verify(seed(), &block, BlockNo(9), BlockRange::new(covers.start, 999)).is_err());
}

#[test]
fn inode_comes_back_at_its_limits() {
    let inode = file();
    assert_eq!(decoded(&inode), Some(inode.clone()));
    let mut bytes = inode.encode();
    assert!(
        inode::verify(seed(), &bytes, inode.ino, BLOCKS).is_err(),
        "not sealed yet"
    );
    seal::seal(seed(), &mut bytes);
    assert_eq!(
        inode::verify(seed(), &bytes, inode.ino, BLOCKS).unwrap(),
        InodeSlot::Used(Box::new(inode.clone()))
    );
    assert!(
        inode::decode(&bytes, InodeNo(1), BLOCKS).is_err(),
        "another inode's slot"
    );
    assert_eq!(
        inode::verify(seed(), &[0; INODE_SIZE], InodeNo(5), BLOCKS).unwrap(),
        InodeSlot::Free { generation: 0 }
    );
    bytes[24..28].fill(0);
    assert_eq!(
        inode::decode(&bytes, inode.ino, BLOCKS).unwrap(),
        InodeSlot::Free { generation: u64::MAX }
    );
}

#[test]
fn inode_beyond_its_limits_is_refused() {
    let changes: [fn(&mut Inode); 9] = [
        |inode| inode.size += 1,
        |inode| inode.blocks += 1,
        |inode| inode.atime.nanoseconds += 1,
        |inode| inode.root = TreeRoot::new(BlockNo(BLOCKS), 0),
        |inode| inode.xattr_root = TreeRoot::new(BlockNo(1), node::MAX_LEVEL + 1),
        |inode| inode.inline_count = 1,
        |inode| inode.flags = InodeFlags::empty(),
        |inode| inode.kind = FileKind::Directory,
        |inode| inode.kind = FileKind::Symlink,
    ];
    for (index, change) in changes.iter().enumerate() {
        let mut inode = file();
        change(&mut inode);
        assert_eq!(decoded(&inode), None, "change {index}");
    }
}

#[test]
fn link_target_length_and_inline_extents_are_checked() {
    let mut link = file();
    link.kind = FileKind::Symlink;
    link.flags = InodeFlags::empty();
    link.root = TreeRoot::EMPTY;
    for (size, is_sound) in [
        (0, false),
        (1, true),
        (MAX_SYMLINK_BYTES, true),
        (MAX_SYMLINK_BYTES + 1, false),
    ] {
        link.size = u64::try_from(size).unwrap();
        assert_eq!(decoded(&link).is_some(), is_sound, "{size} bytes");
    }
    let mut file = link;
    file.kind = FileKind::Regular;
    let extent = |first, count| Extent {
        first: FileBlock(first),
        start: BlockNo(8),
        count,
        flags: ExtentFlags::SHARED,
    };
    let extents = [extent(0, 3), extent(3, 1), extent(10, 10), extent(20, 1)];
    for (to, extent) in file.inline.as_chunks_mut::<24>().0.iter_mut().zip(extents) {
        *to = extent.encode_inline();
    }
    file.inline_count = 4;
    assert_eq!(
        decoded(&file).unwrap().collect_inline_extents(BLOCKS).unwrap(),
        extents
    );
    file.inline[..24].copy_from_slice(&extent(0, 4).encode_inline());
    assert_eq!(decoded(&file), None, "extents overlap");
    file.inline_count = 5;
    assert_eq!(decoded(&file), None);
}

#[test]
fn extent_comes_back_at_its_limits() {
    let extent = Extent {
        first: FileBlock((1 << 51) - MAX_EXTENT_BLOCKS),
        start: BlockNo((1 << 38) - MAX_EXTENT_BLOCKS),
        count: MAX_EXTENT_BLOCKS,
        flags: ExtentFlags::SUMMED | ExtentFlags::SHARED,
    };
    let decode = |extent: &Extent| Extent::decode(extent.first, &extent.encode(), 1 << 38);
    assert_eq!(decode(&extent), Some(extent));
    for change in [
        Extent {
            flags: ExtentFlags::SUMMED | ExtentFlags::UNWRITTEN,
            ..extent
        },
        Extent { count: 0, ..extent },
        Extent {
            count: MAX_EXTENT_BLOCKS + 1,
            ..extent
        },
        Extent {
            start: BlockNo(0),
            ..extent
        },
        Extent {
            start: BlockNo(extent.start.raw() + 1),
            ..extent
        },
        Extent {
            first: FileBlock(extent.first.raw() + 1),
            ..extent
        },
    ] {
        assert_eq!(decode(&change), None, "{change:?}");
    }
    let mut unknown = extent.encode();
    unknown[7] |= 0x80;
    assert_eq!(Extent::decode(extent.first, &unknown, 1 << 38), None);
    assert_eq!(Extent::decode(extent.first, &unknown[..15], 1 << 38), None);
}

#[test]
fn names_are_checked_and_their_keys_are_positions() {
    for (bytes, is_valid) in [
        (&b"a"[..], true),
        (&[b'x'; MAX_NAME_BYTES], true),
        (&[b'x'; MAX_NAME_BYTES + 1], false),
        (b"", false),
        (b".", false),
        (b"..", false),
        (b"...", true),
        (b"a/b", false),
        (b"a\0", false),
        (&[0xff, 0xfe], true),
    ] {
        assert_eq!(name::is_valid(bytes), is_valid, "{bytes:?}");
    }
    for number in 0..1000_u32 {
        let keys = name::keys(&[3; 16], &number.to_le_bytes());
        assert!(keys.first >= name::FIRST_KEY && i64::try_from(keys.last).is_ok());
        assert_eq!(keys.last - keys.first, 255);
    }
}

#[test]
fn dentries_and_xattrs_come_back() {
    for len in [1, 2, MAX_NAME_BYTES] {
        let name = vec![b'n'; len];
        let dentry = Dentry {
            ino: InodeNo(u64::MAX),
            kind: FileKind::Socket,
            name: &name,
        };
        let mut buffer = [0; dentry::MAX_SIZE];
        let bytes = dentry.encode(&mut buffer);
        assert_eq!(bytes.len(), dentry::HEADER_SIZE + len);
        assert_eq!(Dentry::decode(bytes), Some(dentry));
        assert_eq!(Dentry::decode(&bytes[..bytes.len() - 1]), None);
    }
    let room = node::MAX_VALUE_BYTES - xattr::HEADER_SIZE - 6;
    assert!(xattr::fits_inline(6, room) && !xattr::fits_inline(6, room + 1));
    let external = |length, blocks| XattrValue::External {
        length,
        checksum: 5,
        runs: vec![
            BlockRange::new(BlockNo(9), 1),
            BlockRange::new(BlockNo(11), blocks),
        ],
    };
    for (value, is_sound) in [
        (XattrValue::Inline(&[]), true),
        (XattrValue::Inline(&[1; 1900]), true),
        (external(65536, 15), true),
        (external(65536, 14), false),
        (external(65537, 15), false),
        (external(65536, BLOCKS), false),
    ] {
        let xattr = Xattr {
            name: b"user.a",
            value,
        };
        let bytes = xattr.encode();
        assert_eq!(Xattr::decode(&bytes, BLOCKS), is_sound.then_some(xattr));
        assert_eq!(Xattr::decode(&bytes[..bytes.len() - 1], BLOCKS), None);
    }
}

#[test]
fn node_words_come_back_at_their_limits() {
    for state in [
        NodeState {
            level: 0,
            kind: TreeKind::Extents,
            count: 0,
            heap_top: 4096,
        },
        NodeState {
            level: 15,
            kind: TreeKind::Shared,
            count: 252,
            heap_top: 4096,
        },
        NodeState {
            level: 0,
            kind: TreeKind::Xattrs,
            count: 2,
            heap_top: 96,
        },
    ] {
        assert_eq!(NodeState::from_word(state.word()), Some(state));
    }
    for state in [
        NodeState {
            level: 16,
            kind: TreeKind::Extents,
            count: 0,
            heap_top: 4096,
        },
        NodeState {
            level: 0,
            kind: TreeKind::Extents,
            count: 253,
            heap_top: 4096,
        },
        NodeState {
            level: 0,
            kind: TreeKind::Extents,
            count: 2,
            heap_top: 88,
        },
        NodeState {
            level: 0,
            kind: TreeKind::Extents,
            count: 2,
            heap_top: 4100,
        },
    ] {
        assert_eq!(NodeState::from_word(state.word()), None, "{state:?}");
    }
    assert_eq!(
        (0..=255)
            .filter_map(TreeKind::from_raw)
            .map(TreeKind::raw)
            .collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(TreeRoot::new(BlockNo((1 << 48) - 1), 255).level(), 255);
    assert_eq!(
        TreeRoot::new(BlockNo((1 << 48) - 1), 255).block(),
        Some(BlockNo((1 << 48) - 1))
    );
    assert_eq!(TreeRoot::EMPTY.block(), None);
}

#[test]
fn slot_comes_back_at_its_limits() {
    let slot = Slot {
        key: u64::MAX,
        offset: 2112,
        capacity: 1984,
        length: 1984,
        is_used: true,
    };
    assert_eq!(Slot::decode(&slot.encode(), 2112), Some(slot));
    for bad in [
        Slot { offset: 2104, ..slot },
        Slot { offset: 2120, ..slot },
        Slot { length: 1985, ..slot },
        Slot {
            capacity: 1980,
            length: 0,
            ..slot
        },
    ] {
        assert_eq!(Slot::decode(&bad.encode(), 2112), None, "{bad:?}");
    }
}

#[test]
fn node_faults_are_found() {
    let identity = NodeIdentity {
        kind: TreeKind::Directory,
        owner: 5,
        generation: 6,
    };
    let own = BlockNo(40);
    let mut block = [0_u8; BLOCK_SIZE];
    let state = NodeState {
        level: 1,
        kind: identity.kind,
        count: 2,
        heap_top: node::HEAP_EMPTY,
    };
    block[..64].copy_from_slice(&node::encode_header(own, identity, state));
    for (at, word) in [(64, 0_u64), (72, 100), (80, 7), (88, 101)] {
        block[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let verify = |block: &[u8; BLOCK_SIZE]| node::verify_structure(block, own, identity, 1, BLOCKS);
    assert_eq!(verify(&block).unwrap(), state);
    for (at, word) in [
        (8, 41_u64),
        (16, 6),
        (24, 7),
        (72, 0),
        (72, BLOCKS),
        (80, 0),
        (64, 7),
    ] {
        let mut damaged = block;
        damaged[at..at + 8].copy_from_slice(&word.to_le_bytes());
        assert!(verify(&damaged).is_err(), "word {word} at {at}");
    }
    assert!(node::verify_structure(&block, own, identity, 0, BLOCKS).is_err());
    assert!(node::verify(seed(), &block, own, identity, 1, BLOCKS).is_err());
    seal::seal(seed(), &mut block);
    assert!(node::verify(seed(), &block, own, identity, 1, BLOCKS).is_ok());
}

#[test]
fn inodes_of_a_chunk_are_sealed_one_by_one() {
    let mut chunk = [0; BLOCK_SIZE];
    for slot in [1_u64, 3] {
        let at = usize::try_from(slot * 256).unwrap();
        let mut inode = file();
        inode.ino = InodeNo(slot);
        chunk[at..at + 256].copy_from_slice(&inode.encode());
    }
    // Lines of slot 2 (never used) and slot 3 were touched; slot 1 was not.
    assert_eq!(
        seal::seal_block(seed(), &mut chunk, 0b1100_0010_0000_0000 | 0b1111 << 8),
        1 << 12
    );
    let slot = |slot: usize| <&[u8; 256]>::try_from(&chunk[slot * 256..][..256]).unwrap();
    assert!(inode::verify(seed(), slot(3), InodeNo(3), BLOCKS).is_ok());
    assert!(inode::verify(seed(), slot(1), InodeNo(1), BLOCKS).is_err());
    assert_eq!(slot(2), &[0; 256]);
}

#[test]
fn values_of_the_pools_trees_come_back_and_impossible_ones_are_refused() {
    for block in [1, BLOCKS - 1] {
        let value = pool_tree::encode_chunk(BlockNo(block));
        assert_eq!(pool_tree::decode_chunk(&value, BLOCKS), Some(BlockNo(block)));
    }
    for block in [0, BLOCKS, u64::MAX] {
        assert_eq!(pool_tree::decode_chunk(&block.to_le_bytes(), BLOCKS), None);
    }
    assert_eq!(pool_tree::decode_chunk(&[1; 7], BLOCKS), None);

    let last = (1 << 48) - 1;
    for (start, count, owners) in [(0, 1, 2), (last, last, u64::MAX)] {
        let blocks = BlockRange::new(BlockNo(start), count);
        let shared = Shared { blocks, owners };
        assert_eq!(Shared::decode(start, &shared.encode()), Some(shared));
    }
    for (start, count, owners) in [(0, 0, 2), (0, 1, 1), (1 << 48, 1, 2), (0, 1 << 48, 2)] {
        let blocks = BlockRange::new(BlockNo(start), count);
        assert_eq!(Shared::decode(start, &Shared { blocks, owners }.encode()), None);
    }
    assert_eq!(Shared::decode(0, &[1; 15]), None);

    let run = BlockRange::new(BlockNo(BLOCKS - 9), 9);
    let value = pool_tree::encode_bad(run);
    assert_eq!(pool_tree::decode_bad(BLOCKS - 9, &value, BLOCKS), Some(run));
    for (start, count) in [(5, 0), (BLOCKS - 9, 10), (u64::MAX, 2), (DEVICE_START.raw(), 1)] {
        let value = pool_tree::encode_bad(BlockRange::new(BlockNo(start), count));
        assert_eq!(pool_tree::decode_bad(start, &value, BLOCKS), None);
    }
}

/// Whether a sealed record of this one operation is believed.
fn is_believed(operation: Operation<'_>, geometry: &Geometry) -> bool {
    let mut bytes = vec![0; HEADER_SIZE];
    operation.encode_into(&mut bytes);
    let header = RecordHeader {
        sequence: Sequence(1),
        lane: 3,
        free_blocks_delta: 0,
        inodes_delta: 0,
    };
    record::finish(seed(), &mut bytes, header);
    record::decode(seed(), &bytes, ByteOffset(64), 3, geometry).is_ok()
}

#[test]
fn no_record_changes_the_superblock_the_checkpoints_or_the_journal_or_gives_out_blocks_of_the_pool_itself() {
    let superblock = pool(4096);
    let geometry = Geometry::new(&superblock);
    let unlogged = |block: BlockNo| {
        let fixed = [SUPERBLOCKS[0], CHECKPOINTS[0], CHECKPOINTS[1]];
        fixed.contains(&block) || superblock.journal_blocks().contains(block)
    };
    let page = vec![7; BLOCK_SIZE];
    for block in (0..4096).map(BlockNo) {
        let range = BlockRange::new(block, 1);
        let whole = Operation::Write {
            at: block.offset(),
            bytes: &page,
        };
        assert_eq!(is_believed(whole, &geometry), !unlogged(block), "{block}");
        for operation in [
            Operation::Allocate(range),
            Operation::Free(range),
            Operation::Zero(range),
        ] {
            assert_eq!(
                is_believed(operation, &geometry),
                !geometry.is_own(range),
                "{operation:?}"
            );
        }
    }
    // The word before a checkpoint and its first one; the last one of it and the word behind it.
    let words = |at| Operation::Write {
        at: ByteOffset(at),
        bytes: &[0; 16],
    };
    let last = CHECKPOINTS[1].offset().raw();
    let reached = [last - 16, last - 8, last + 4088, last + 4096].map(words);
    let believed = reached.map(|operation| is_believed(operation, &geometry));
    assert_eq!(believed, [true, false, false, true]);
}

proptest! {
    #[test]
    fn records_come_back(
        sequence in any::<u64>(),
        deltas in any::<(i64, i64)>(),
        ops in proptest::collection::vec((0..4_u8, 0..4000_u64, 1..90_u64), 0..40),
    ) {
        let geometry = Geometry::new(&pool(4096));
        let words: Vec<u8> = (0..=255).cycle().take(90 * 8).collect();
        let operations: Vec<Operation<'_>> = ops
            .iter()
            .map(|(kind, block, count)| (kind, block, count, BlockRange::new(BlockNo(*block), *count)))
            .filter(|(.., range)| !geometry.is_own(*range))
            .map(|(kind, block, count, range)| {
                match kind {
                    0 => Operation::Write {
                        at: ByteOffset(block * 4096 + 8),
                        bytes: &words[..usize::try_from(*count).unwrap() * 8],
                    },
                    1 => Operation::Allocate(range),
                    2 => Operation::Free(range),
                    _ => Operation::Zero(range),
                }
            })
            .collect();
        let mut bytes = vec![0; HEADER_SIZE];
        for operation in &operations {
            let before = bytes.len();
            operation.encode_into(&mut bytes);
            prop_assert_eq!(bytes.len() - before, operation.encoded_len());
        }
        let header = RecordHeader {
            sequence: Sequence(sequence),
            lane: 3,
            free_blocks_delta: deltas.0,
            inodes_delta: deltas.1,
        };
        record::finish(seed(), &mut bytes, header);
        let mut padded = bytes.clone();
        padded.resize(record::padded_len(bytes.len()), 0);
        prop_assert_eq!(record::claimed_len(&padded), Some(bytes.len()));
        let found = record::decode(seed(), &bytes, ByteOffset(64), 3, &geometry);
        prop_assert_eq!(found.unwrap(), (header, operations));
        prop_assert!(record::decode(seed(), &bytes, ByteOffset(64), 4, &geometry).is_err());
        prop_assert!(record::decode(seed().with(1), &bytes, ByteOffset(64), 3, &geometry).is_err());
    }
}
