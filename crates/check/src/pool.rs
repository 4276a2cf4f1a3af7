//! What every part of a check needs to know of the pool: its blocks, its layout, its seed.

use udax_media::inode::{self, INODE_SIZE, InodeSlot};
use udax_media::node::{NodeIdentity, TreeKind};
use udax_media::seal::Seed;
use udax_media::{BLOCK_SIZE, BlockNo, FormatError, Geometry, InodeNo, Reach, Superblock};

use crate::source::{Block, BlockSource};
use crate::unreadable::Unreadable;

/// The pool as it is read.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'p> {
    /// Its blocks.
    pub(crate) source: &'p dyn BlockSource,
    /// Its believed superblock.
    pub(crate) superblock: &'p Superblock,
    /// Its layout.
    pub(crate) geometry: &'p Geometry,
    /// Its checksums' seed.
    pub(crate) seed: Seed,
    /// Its size, without its data device.
    pub(crate) total_blocks: u64,
    /// Worker threads.
    pub(crate) threads: usize,
    /// Whether data is compared with its sums.
    pub(crate) compares_data: bool,
    /// Blocks that cannot be read, as far as all were tried.
    pub(crate) unreadable: &'p Unreadable,
}

impl Pool<'_> {
    /// Which blocks there are, in the pool and on its data device.
    pub(crate) fn reach(&self) -> Reach {
        self.geometry.reach()
    }

    /// A copy of `block`, or why it cannot be had.
    pub(crate) fn read(&self, block: BlockNo) -> Result<Box<Block>, String> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        match self.source.read_block(block, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The verified slot of `ino` in the bytes of its chunk.
    pub(crate) fn slot(&self, chunk: &Block, ino: InodeNo) -> Result<InodeSlot, FormatError> {
        let slots = chunk.as_chunks::<INODE_SIZE>().0;
        let (_, index) = inode::chunk_and_slot(ino);
        match usize::try_from(index).ok().and_then(|index| slots.get(index)) {
            Some(bytes) => inode::verify(self.seed, bytes, ino, self.reach()),
            None => Ok(InodeSlot::Free { generation: 0 }),
        }
    }
}

/// The identity of a tree that belongs to the pool.
pub(crate) const fn pool_identity(kind: TreeKind) -> NodeIdentity {
    NodeIdentity {
        kind,
        owner: 0,
        generation: 0,
    }
}
