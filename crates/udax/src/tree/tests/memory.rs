//! A pool of nodes in memory, with transactions that can be dropped, failing allocation and a log of writes.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

use udax_media::node::{self, NodeIdentity, TreeKind};
use udax_media::{BLOCK_SIZE, BlockNo, FormatError, Place};

use super::super::{NodeSource, NodeStore, TooLong, Tree};

pub(super) const IDENTITY: NodeIdentity = NodeIdentity {
    kind: TreeKind::Xattrs,
    owner: 77,
    generation: 3,
};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum TestError {
    Format(FormatError),
    TooLong(TooLong),
    NoSpace,
}

impl From<TooLong> for TestError {
    fn from(error: TooLong) -> Self {
        Self::TooLong(error)
    }
}

impl From<FormatError> for TestError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    blocks: Vec<Box<[u8; BLOCK_SIZE]>>,
    live: BTreeSet<u64>,
    verified: RefCell<HashSet<u64>>,
    /// Allocations that still succeed.
    pub(super) allocations_left: Option<usize>,
    /// Offset and length of every write.
    pub(super) writes: Vec<(usize, usize)>,
    /// Whether nodes pass unverified, as when a pool is changed behind our back.
    pub(super) is_blind: bool,
}

impl Memory {
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    pub(super) fn written(&self) -> usize {
        self.writes.iter().map(|(_, len)| len).sum()
    }

    fn total_blocks(&self) -> u64 {
        u64::try_from(self.blocks.len()).unwrap() + 1
    }

    pub(super) fn block(&self, block: BlockNo) -> Option<&[u8; BLOCK_SIZE]> {
        let index = usize::try_from(block.raw().checked_sub(1)?).ok()?;
        self.blocks.get(index).map(|bytes| &**bytes)
    }

    pub(super) fn block_mut(&mut self, block: BlockNo) -> Option<&mut [u8; BLOCK_SIZE]> {
        let index = usize::try_from(block.raw().checked_sub(1)?).ok()?;
        self.blocks.get_mut(index).map(|bytes| &mut **bytes)
    }

    pub(super) fn bytes(&self) -> Vec<Box<[u8; BLOCK_SIZE]>> {
        self.blocks.clone()
    }

    pub(super) fn forget_verified(&mut self) {
        self.verified.borrow_mut().clear();
    }

    /// Checks that the live blocks are the tree's nodes, each sound, no leaf empty, keys in their ranges.
    pub(super) fn check(&self, tree: &Tree) {
        let mut nodes = BTreeSet::new();
        tree.for_each_node(self, |block, level| {
            assert!(nodes.insert(block.raw()), "block {block} twice");
            let bytes = self.block(block).unwrap();
            let state =
                node::verify_structure(bytes, block, tree.identity, level, self.total_blocks()).unwrap();
            let is_inner_root = tree.root.block() == Some(block) && level > 0;
            assert!(
                state.count > u16::from(is_inner_root),
                "block {block} has too few entries"
            );
            Ok(())
        })
        .unwrap();
        assert_eq!(nodes, self.live, "nodes of the tree and allocated blocks");
    }
}

fn outside(block: BlockNo) -> TestError {
    TestError::Format(FormatError::Field {
        what: "test pool",
        place: Place::Block(block),
        field: "block",
        value: block.raw(),
    })
}

impl NodeSource for Memory {
    type Error = TestError;

    fn word(&self, block: BlockNo, at: usize) -> Result<u64, TestError> {
        let bytes = self.block(block).ok_or_else(|| outside(block))?;
        Ok(u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()))
    }

    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<(), TestError> {
        let bytes = self.block(block).ok_or_else(|| outside(block))?;
        to.copy_from_slice(&bytes[at..at + to.len()]);
        Ok(())
    }

    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<(), TestError> {
        let bytes = self.block(block).ok_or_else(|| outside(block))?;
        if self.is_blind || self.verified.borrow().contains(&block.raw()) {
            return Ok(());
        }
        node::verify_structure(bytes, block, identity, level, self.total_blocks())?;
        self.verified.borrow_mut().insert(block.raw());
        Ok(())
    }
}

impl NodeStore for Memory {
    fn write(&mut self, block: BlockNo, at: usize, bytes: &[u8]) -> Result<(), TestError> {
        assert!(!bytes.is_empty() && at.is_multiple_of(8) && bytes.len().is_multiple_of(8));
        assert!(
            self.is_blind || self.live.contains(&block.raw()),
            "write to free block {block}"
        );
        self.writes.push((at, bytes.len()));
        let to = self.block_mut(block).ok_or_else(|| outside(block))?;
        to[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&mut self) -> Result<BlockNo, TestError> {
        if let Some(left) = &mut self.allocations_left {
            *left = left.checked_sub(1).ok_or(TestError::NoSpace)?;
        }
        self.blocks.push(Box::new([0; BLOCK_SIZE]));
        let block = u64::try_from(self.blocks.len()).unwrap();
        self.live.insert(block);
        Ok(BlockNo(block))
    }

    fn free(&mut self, block: BlockNo) {
        let was_live = self.live.remove(&block.raw());
        assert!(was_live || self.is_blind, "block {block} freed twice");
    }
}
