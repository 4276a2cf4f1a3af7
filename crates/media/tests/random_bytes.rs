//! No bytes, however damaged, make a decoder panic. Checksums are made right, so that what is behind them is reached.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

use proptest::collection::vec;
use proptest::prelude::*;
use udax_media::checkpoint::{self, Checkpoint};
use udax_media::dentry::Dentry;
use udax_media::extent::Extent;
use udax_media::node::{self, NodeIdentity, TreeKind, TreeRoot};
use udax_media::seal::{self, Seed};
use udax_media::superblock::{self, Superblock};
use udax_media::xattr::Xattr;
use udax_media::{
    BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, FileBlock, Geometry, InodeNo, Timestamp, bitmap, inode,
    record, roots,
};
use uuid::Uuid;

const UUID: Uuid = Uuid::from_u128(99);

fn superblock() -> Superblock {
    Superblock::plan(40_000, UUID, [1; 16], "x", Timestamp::default()).unwrap()
}

/// Bytes that are mostly zero, as real blocks are, with the magic number in front and a right checksum.
fn unit<const LEN: usize>(magic: u32, changes: &[(usize, u8)]) -> Box<[u8; LEN]> {
    let mut bytes = Box::new([0; LEN]);
    bytes[..4].copy_from_slice(&magic.to_le_bytes());
    patch(bytes.as_mut_slice(), changes);
    bytes
}

fn patch(bytes: &mut [u8], changes: &[(usize, u8)]) {
    for (at, byte) in changes {
        let at = at % bytes.len();
        bytes[at] = *byte;
    }
    seal::seal(Seed::new(UUID), bytes);
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let small = prop_oneof![Just(0), Just(1), Just(2), Just(255), any::<u8>()];
    vec((prop_oneof![8..160_usize, 8..BLOCK_SIZE], small), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn blocks(changes in changes(), level in 0..3_u8) {
        let seed = Seed::new(UUID);
        let identity = NodeIdentity { kind: TreeKind::Extents, owner: 0, generation: 0 };
        for own in [BlockNo(0), BlockNo(2)] {
            let _ = node::verify(seed, &unit(node::MAGIC, &changes), own, identity, level, 40_000);
            let covers = BlockRange::new(BlockNo(0), 0);
            let _ = bitmap::verify(seed, &unit(bitmap::MAGIC, &changes), own, covers);
        }
        let _ = roots::verify(seed, &unit(roots::MAGIC, &changes), 40_000);
        let slot = unit::<64>(checkpoint::MAGIC, &changes);
        let _ = Checkpoint::decode(seed, &slot, ByteOffset(4096), 40_000);
        let mut sealed = unit::<BLOCK_SIZE>(node::MAGIC, &changes);
        seal::seal_block(seed, &mut sealed, u64::MAX);
    }

    #[test]
    fn leaves_and_inner_nodes(changes in changes(), level in 0..2_u8, count in 0..260_u16, heap in 0..600_u16) {
        let seed = Seed::new(UUID);
        let identity = NodeIdentity { kind: TreeKind::Extents, owner: 0, generation: 0 };
        let mut bytes = unit::<BLOCK_SIZE>(node::MAGIC, &changes);
        let [c0, c1] = count.to_le_bytes();
        let [h0, h1] = (heap * 8).to_le_bytes();
        bytes[32..40].copy_from_slice(&[level, 1, c0, c1, h0, h1, 0, 0]);
        bytes[8..32].fill(0);
        patch(bytes.as_mut_slice(), &[]);
        if let Ok(state) = node::verify(seed, &bytes, BlockNo(0), identity, level, 40_000) {
            prop_assert_eq!((state.count, state.heap_top), (count, heap * 8));
        }
    }

    #[test]
    fn superblocks(changes in changes(), copy in 0..3_usize) {
        let mut bytes = superblock().encode();
        patch(bytes.as_mut_slice(), &changes);
        if let Ok(found) = Superblock::decode(&bytes, copy, u64::MAX) {
            let geometry = Geometry::new(&found);
            prop_assert!(geometry.own_ranges().iter().all(|range| geometry.contains(*range)));
        }
        let _ = Superblock::decode(&unit(superblock::MAGIC, &changes), copy, u64::MAX);
    }

    #[test]
    fn inodes(changes in changes(), mode in any::<u16>()) {
        let mut bytes = unit::<256>(inode::MAGIC, &changes);
        bytes[8..16].fill(0);
        bytes[24..26].copy_from_slice(&mode.to_le_bytes());
        if let Ok(inode::InodeSlot::Used(inode)) = inode::decode(&bytes, InodeNo(0), 40_000) {
            let again = inode::decode(&inode.encode(), InodeNo(0), 40_000);
            prop_assert_eq!(again.unwrap(), inode::InodeSlot::Used(inode));
        }
    }

    #[test]
    fn values(bytes in vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..300), first in any::<u64>()) {
        let _ = Dentry::decode(&bytes);
        let _ = Extent::decode(FileBlock(first), &bytes, 40_000);
        if let Some(xattr) = Xattr::decode(&bytes, 40_000) {
            prop_assert_eq!(xattr.encode(), bytes);
        }
        let root = TreeRoot::from_word(first);
        prop_assert_eq!(root.block().is_none(), first << 16 == 0);
    }

    #[test]
    fn records(tail in vec(prop_oneof![Just(0_u8), Just(0x10), Just(0x20), any::<u8>()], 0..400), at in any::<u64>()) {
        let seed = Seed::new(UUID);
        let geometry = Geometry::new(&superblock());
        let mut bytes = vec![0; record::HEADER_SIZE];
        bytes[..4].copy_from_slice(&record::MAGIC.to_le_bytes());
        bytes.extend(tail);
        let _ = record::claimed_len(&bytes);
        patch(&mut bytes, &[]);
        if let Ok((_, operations)) = record::decode(seed, &bytes, ByteOffset(at), 0, &geometry) {
            for operation in operations {
                prop_assert!(operation.encoded_len() >= 16);
            }
        }
    }
}
