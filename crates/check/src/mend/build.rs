//! Building a tree from entries in ascending order, into fresh blocks.

use udax_media::node::{self, MAX_ENTRIES, NodeIdentity, NodeState, SLOT_SIZE, SLOTS_START, Slot, TreeRoot};
use udax_media::{BLOCK_SIZE, BlockNo, LINE_SIZE, seal};

use super::Failure;
use super::log::Log;
use super::space::Space;
use crate::source::Block;

/// Bytes of a leaf that are filled: the rest keeps the next insertions from splitting it at once.
const LEAF_FILL: usize = BLOCK_SIZE * 7 / 8;
/// Entries that are put into an inner node, likewise.
const INNER_FILL: usize = MAX_ENTRIES * 7 / 8;

/// A tree being built. Its blocks are stored, but neither marked nor named by anything.
pub(super) struct Builder<'b> {
    log: &'b Log<'b>,
    space: &'b mut Space,
    identity: NodeIdentity,
    leaf: Box<Block>,
    first_key: u64,
    count: usize,
    heap_top: usize,
    leaves: Vec<(u64, BlockNo)>,
}

impl<'b> Builder<'b> {
    pub(super) fn new(log: &'b Log<'b>, space: &'b mut Space, identity: NodeIdentity) -> Self {
        Self {
            log,
            space,
            identity,
            leaf: Box::new([0; BLOCK_SIZE]),
            first_key: 0,
            count: 0,
            heap_top: BLOCK_SIZE,
            leaves: Vec::new(),
        }
    }

    /// Adds an entry, whose key is above all before it.
    pub(super) fn push(&mut self, key: u64, value: &[u8]) -> Result<(), Failure> {
        let capacity = value.len().next_multiple_of(8);
        let free = self.heap_top - SLOTS_START - self.count * SLOT_SIZE;
        let used = BLOCK_SIZE - free;
        let is_full = self.count > 0 && used + SLOT_SIZE + capacity > LEAF_FILL;
        if is_full {
            self.finish_leaf()?;
        }
        if self.count == 0 {
            self.first_key = key;
        }
        self.heap_top -= capacity;
        let offset = if capacity == 0 { 0 } else { self.heap_top };
        let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let slot = Slot {
            key,
            offset: narrow(offset),
            capacity: narrow(capacity),
            length: narrow(value.len()),
            is_used: true,
        };
        let at = SLOTS_START + self.count * SLOT_SIZE;
        copy_to(&mut self.leaf, at, &slot.encode());
        copy_to(&mut self.leaf, self.heap_top, value);
        self.count += 1;
        Ok(())
    }

    fn finish_leaf(&mut self) -> Result<(), Failure> {
        let mut leaf = std::mem::replace(&mut self.leaf, Box::new([0; BLOCK_SIZE]));
        let (count, heap_top) = (self.count, self.heap_top);
        let block = self.store(&mut leaf, 0, (count, heap_top))?;
        self.leaves.push((self.first_key, block));
        self.count = 0;
        self.heap_top = BLOCK_SIZE;
        Ok(())
    }

    fn store(
        &mut self,
        bytes: &mut Block,
        level: u8,
        (count, heap_top): (usize, usize),
    ) -> Result<BlockNo, Failure> {
        let block = self.space.take().ok_or(Failure::NoSpace)?;
        let state = NodeState {
            level,
            kind: self.identity.kind,
            count: u16::try_from(count).unwrap_or(u16::MAX),
            heap_top: u16::try_from(heap_top).unwrap_or(u16::MAX),
        };
        let header: [u8; LINE_SIZE] = node::encode_header(block, self.identity, state);
        copy_to(bytes, 0, &header);
        seal::seal(self.log.superblock.seed(), bytes.as_mut_slice());
        self.log.store_new(block, bytes)?;
        Ok(block)
    }

    /// Completes the tree.
    pub(super) fn finish(mut self) -> Result<TreeRoot, Failure> {
        if self.count > 0 {
            self.finish_leaf()?;
        }
        let mut nodes = std::mem::take(&mut self.leaves);
        let mut level = 0;
        while nodes.len() > 1 {
            level += 1;
            let mut above = Vec::with_capacity(nodes.len().div_ceil(INNER_FILL));
            for children in nodes.chunks(INNER_FILL) {
                let mut bytes = Box::new([0; BLOCK_SIZE]);
                for (index, (key, child)) in children.iter().enumerate() {
                    let at = SLOTS_START + index * SLOT_SIZE;
                    copy_to(&mut bytes, at, &key.to_le_bytes());
                    copy_to(&mut bytes, at + 8, &child.raw().to_le_bytes());
                }
                let block = self.store(&mut bytes, level, (children.len(), BLOCK_SIZE))?;
                above.push((children.first().map_or(0, |(key, _)| *key), block));
            }
            nodes = above;
        }
        Ok(nodes
            .first()
            .map_or(TreeRoot::EMPTY, |(_, block)| TreeRoot::new(*block, level)))
    }
}

fn copy_to(block: &mut Block, at: usize, bytes: &[u8]) {
    if let Some(to) = block.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}
