//! Visits the nodes of a tree, as far as they can be read.
//!
//! No node is trusted: a child is followed once and only inside the pool, so that neither a cycle nor a tree
//! that shares nodes makes the walk endless, and a node that does not verify is shown with what of it makes
//! sense.

use std::collections::HashSet;

use udax_media::node::{
    self, MAX_ENTRIES, NodeIdentity, NodeState, RawEntry, SLOT_SIZE, SLOTS_START, STATE_OFFSET, Slot,
    TreeRoot,
};
use udax_media::{BLOCK_SIZE, BlockNo, FormatError};
use zerocopy::FromBytes as _;

use super::medium::{Block, Frame, Medium, describe};

/// What a walk meets.
#[derive(Debug)]
pub(crate) enum Visit<'n> {
    /// A node.
    Node {
        /// Its block.
        block: BlockNo,
        /// Its changing part.
        state: NodeState,
    },
    /// An entry of an inner node.
    Child {
        /// The lowest key below the child.
        key: u64,
        /// The child.
        child: BlockNo,
    },
    /// A value of a leaf.
    Value {
        /// Its key.
        key: u64,
        /// Its bytes.
        bytes: &'n [u8],
    },
    /// Something damaged.
    Problem(String),
}

/// A tree to walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<'m> {
    /// The medium.
    pub(crate) medium: &'m Medium,
    /// Superblock and checkpoint.
    pub(crate) frame: &'m Frame,
    /// Whose tree it is.
    pub(crate) identity: NodeIdentity,
}

impl Walk<'_> {
    /// Calls `each` for everything below `root`, parents first.
    pub(crate) fn run(
        &self,
        root: TreeRoot,
        each: &mut dyn FnMut(Visit<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut seen = HashSet::new();
        let mut open: Vec<(BlockNo, u8)> = root
            .block()
            .map(|block| (block, root.level()))
            .into_iter()
            .collect();
        while let Some((block, level)) = open.pop() {
            if !seen.insert(block) {
                each(Visit::Problem(format!("tree node at block {block}: met twice")))?;
                continue;
            }
            let bytes = match self.medium.read_block(block) {
                Ok(bytes) => bytes,
                Err(error) => {
                    each(Visit::Problem(format!("tree node at block {block}: {error}")))?;
                    continue;
                }
            };
            let Some(state) = self.check(&bytes, block, level, each)? else {
                continue;
            };
            each(Visit::Node { block, state })?;
            if level == 0 {
                visit_slots(&bytes, block, state, each)?;
            } else {
                let children = self.visit_entries(&bytes, state, each)?;
                open.extend(children.into_iter().rev().map(|child| (child, level - 1)));
            }
        }
        Ok(())
    }

    /// Tells what is wrong with a node; gives its state when that makes sense.
    fn check(
        &self,
        bytes: &Block,
        block: BlockNo,
        level: u8,
        each: &mut dyn FnMut(Visit<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<NodeState>> {
        let total = self.frame.total_blocks();
        if let Err(error) = node::verify(self.frame.seed(), bytes, block, self.identity, level, total) {
            let is_stale = matches!(error, FormatError::Checksum { .. }) && !self.frame.is_sealed();
            if !is_stale {
                each(Visit::Problem(describe(&error, self.frame)))?;
            }
            let structure = node::verify_structure(bytes, block, self.identity, level, total);
            if let (FormatError::Checksum { .. }, Err(structure)) = (&error, structure) {
                each(Visit::Problem(structure.to_string()))?;
            }
        }
        let word = bytes
            .get(STATE_OFFSET..)
            .and_then(|rest| rest.first_chunk::<8>())
            .map_or(0, |word| u64::from_le_bytes(*word));
        let is_node = bytes.starts_with(&node::MAGIC.to_le_bytes());
        Ok(NodeState::from_word(word).filter(|_| is_node))
    }

    fn visit_entries(
        &self,
        bytes: &Block,
        state: NodeState,
        each: &mut dyn FnMut(Visit<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<BlockNo>> {
        let mut children = Vec::new();
        let count = usize::from(state.count).min(MAX_ENTRIES);
        for entry in slots_of(bytes).iter().take(count) {
            let Ok(entry) = RawEntry::read_from_bytes(entry) else {
                continue;
            };
            let child = BlockNo(entry.child.get());
            each(Visit::Child {
                key: entry.key.get(),
                child,
            })?;
            if child.raw() != 0 && child.raw() < self.frame.total_blocks() {
                children.push(child);
            }
        }
        Ok(children)
    }
}

fn slots_of(bytes: &[u8; BLOCK_SIZE]) -> &[[u8; SLOT_SIZE]] {
    bytes
        .get(SLOTS_START..)
        .unwrap_or_default()
        .as_chunks::<SLOT_SIZE>()
        .0
}

/// The values of a leaf in the order of their keys.
fn visit_slots(
    bytes: &Block,
    block: BlockNo,
    state: NodeState,
    each: &mut dyn FnMut(Visit<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut slots = Vec::new();
    for (index, slot) in slots_of(bytes).iter().take(usize::from(state.count)).enumerate() {
        match Slot::decode(slot, state.heap_top) {
            Some(slot) if slot.is_used => slots.push(slot),
            Some(_) => {}
            None => each(Visit::Problem(format!(
                "tree node at block {block}: slot {index} is damaged"
            )))?,
        }
    }
    slots.sort_unstable_by_key(|slot| slot.key);
    for slot in slots {
        let start = usize::from(slot.offset);
        let end = start + usize::from(slot.length);
        each(Visit::Value {
            key: slot.key,
            bytes: bytes.get(start..end).unwrap_or_default(),
        })?;
    }
    Ok(())
}
