//! The first metadata blocks of a new pool, as bytes: the inode table's first node and the chunk with the root.

use udax_media::inode::{self, FileKind, INLINE_BYTES, INODE_SIZE, Inode, InodeFlags};
use udax_media::node::{self, NodeState, SLOTS_START, Slot, TreeKind, TreeRoot};
use udax_media::pool_tree::encode_chunk;
use udax_media::seal::{self, Seed};
use udax_media::{BLOCK_SIZE, BlockNo, InodeNo, Timestamp};

use crate::inode::table;
use crate::options::Owner;

/// Permissions of a new pool's root directory.
const ROOT_PERMISSIONS: u32 = 0o755;

/// The inode table's first leaf, at `own`: chunk 0 is at `chunk`. Sealed.
pub(crate) fn table_leaf(seed: Seed, own: BlockNo, chunk: BlockNo) -> Box<[u8; BLOCK_SIZE]> {
    const VALUE_AT: u16 = 4088;
    let mut block = Box::new([0; BLOCK_SIZE]);
    let state = NodeState {
        level: 0,
        kind: TreeKind::InodeTable,
        count: 1,
        heap_top: VALUE_AT,
    };
    let slot = Slot {
        key: 0,
        offset: VALUE_AT,
        capacity: 8,
        length: 8,
        is_used: true,
    };
    let header = node::encode_header(own, table::IDENTITY, state);
    for (at, bytes) in [
        (0, header.as_slice()),
        (SLOTS_START, slot.encode().as_slice()),
        (usize::from(VALUE_AT), encode_chunk(chunk).as_slice()),
    ] {
        for (to, from) in block.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    seal::seal(seed, block.as_mut_slice());
    block
}

/// Inode chunk 0, with nothing but the root directory, which has `flags`. Sealed.
pub(crate) fn first_chunk(
    seed: Seed,
    owner: Owner,
    flags: InodeFlags,
    now: Timestamp,
) -> Box<[u8; BLOCK_SIZE]> {
    let root = Inode {
        ino: inode::ROOT,
        generation: 1,
        kind: FileKind::Directory,
        permissions: ROOT_PERMISSIONS,
        flags,
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        btime: now,
        size: 0,
        blocks: 0,
        mtime: now,
        ctime: now,
        atime: now,
        nlink: 2,
        change: 1,
        xattr_root: TreeRoot::EMPTY,
        parent: InodeNo(inode::ROOT.raw()),
        root: TreeRoot::EMPTY,
        inline_count: 0,
        target_checksum: 0,
        inline: [0; INLINE_BYTES],
    };
    let mut bytes = root.encode();
    seal::seal(seed, &mut bytes);
    let mut block = Box::new([0; BLOCK_SIZE]);
    for (to, from) in block.iter_mut().skip(INODE_SIZE).zip(bytes) {
        *to = from;
    }
    block
}
