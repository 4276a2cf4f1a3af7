//! The one on-media B+tree: from `u64` keys to short values.
//!
//! It indexes extents, directory entries, inode chunks, attributes, orphans and shares. The format of its nodes is
//! [`udax_media::node`]'s; this module knows how they change. It owns no memory and no lock: a [`Tree`] is the root
//! word and the identity of the nodes, and the nodes are read through a [`NodeSource`] and changed through a
//! [`NodeStore`], the running transaction.
//!
//! * [`Tree`]: lookups (here), `insert` and `replace` ([`insert`]), `remove` ([`remove`]), both
//!   through a look at one leaf ([`probe`]), `build` ([`build`]).
//! * [`Cursor`]: entries in order, a leaf at a time; holds a key, not a position, so it survives changes.
//!
//! Invariants: a node's level is its parent's less one; no leaf is empty but a directory's root; the keys
//! below entry `i` of an inner node are at least its key (any key, for the first) and below that of the
//! entry after it; a separator stays when the entry it was made for goes. Every offset and length is checked where it
//! is used, because a pool can be changed behind our back: what does not fit is a [`FormatError`], never a
//! panic or an endless loop.
//!
//! Locks: none of its own. The lock of the tree's owner is held shared for lookups, exclusively for changes.

mod build;
mod cursor;
mod descent;
mod inner;
mod insert;
mod leaf;
mod probe;
mod remove;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;
use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::{BlockNo, FormatError};

pub(crate) use build::node_count;
pub(crate) use cursor::Cursor;
#[cfg(test)]
pub(crate) use insert::Insertion;
pub(crate) use probe::{Hit, Probe};

/// A value of so many bytes is longer than a node can hold: its maker's fault, not the pool's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooLong(pub(crate) usize);

/// Where nodes are read: the pool as it will be after the running transaction.
pub(crate) trait NodeSource {
    /// What reading can fail with.
    type Error: From<FormatError> + From<TooLong>;

    /// The word at `at`, a multiple of 8, of `block`.
    fn word(&self, block: BlockNo, at: usize) -> Result<u64, Self::Error>;

    /// The bytes from `at` of `block`.
    fn read(&self, block: BlockNo, at: usize, to: &mut [u8]) -> Result<(), Self::Error>;

    /// Makes sure that the node has been verified since the pool was opened; cheap when it has.
    fn verify(&self, block: BlockNo, identity: NodeIdentity, level: u8) -> Result<(), Self::Error>;
}

/// Where nodes are changed: the running transaction.
///
/// After an error the transaction must be dropped: the tree may be half changed in it.
pub(crate) trait NodeStore: NodeSource {
    /// Puts `bytes` at `at` of `block`, both multiples of 8.
    fn write(&mut self, block: BlockNo, at: usize, bytes: &[u8]) -> Result<(), Self::Error>;

    /// A zeroed metadata block.
    fn allocate(&mut self) -> Result<BlockNo, Self::Error>;

    /// Gives a node's block back when the transaction commits.
    fn free(&mut self, block: BlockNo);
}

/// Where a value is, so that a part of it can be overwritten in place. Valid until the tree changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ValueAt {
    /// The leaf.
    pub(crate) block: BlockNo,
    /// Byte of the block, a multiple of 8.
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) len: usize,
}

/// Bytes of a value that are kept without an allocation: the longest directory entry, in whole words.
const INLINE_VALUE_BYTES: usize = 272;

/// A copy of a value, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    /// The value.
    pub(crate) bytes: SmallVec<[u8; INLINE_VALUE_BYTES]>,
    /// Where it is.
    pub(crate) at: ValueAt,
}

/// A tree: whose nodes, and where they begin. A change updates `root`, which the caller then writes where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tree {
    /// Whose nodes.
    pub(crate) identity: NodeIdentity,
    /// The root node.
    pub(crate) root: TreeRoot,
}

impl Tree {
    /// The tree with this root word.
    pub(crate) const fn new(identity: NodeIdentity, root: TreeRoot) -> Self {
        Self { identity, root }
    }

    /// Where the value of `key` is.
    pub(crate) fn find<S: NodeSource>(&self, source: &S, key: u64) -> Result<Option<ValueAt>, S::Error> {
        let Some(leaf) = self.seek(source, key)? else {
            return Ok(None);
        };
        match leaf::find(source, leaf.node, key)? {
            Some((_, slot)) => Ok(Some(leaf::value_at(leaf.node, &slot)?)),
            None => Ok(None),
        }
    }

    /// The value of `key`.
    pub(crate) fn get<S: NodeSource>(&self, source: &S, key: u64) -> Result<Option<Value>, S::Error> {
        match self.find(source, key)? {
            Some(at) => Ok(Some(read_value(source, at)?)),
            None => Ok(None),
        }
    }

    /// The greatest key that is at most `key`, and its value.
    pub(crate) fn floor<S: NodeSource>(
        &self,
        source: &S,
        key: u64,
    ) -> Result<Option<(u64, Value)>, S::Error> {
        let Some(leaf) = self.seek(source, key)? else {
            return Ok(None);
        };
        if let Some(slot) = leaf::greatest(source, leaf.node, key)? {
            return Ok(Some((
                slot.key,
                read_value(source, leaf::value_at(leaf.node, &slot)?)?,
            )));
        }
        let Some(lower) = leaf.lower else {
            return Ok(None);
        };
        // No leaf is empty, so the one before has it.
        let before = lower
            .checked_sub(1)
            .ok_or_else(|| leaf.node.fault("key below it", lower))?;
        let Some(leaf) = self.seek(source, before)? else {
            return Ok(None);
        };
        let slot = leaf::greatest(source, leaf.node, before)?
            .ok_or_else(|| leaf.node.fault("key, none at or below", before))?;
        Ok(Some((
            slot.key,
            read_value(source, leaf::value_at(leaf.node, &slot)?)?,
        )))
    }

    /// The smallest key that is at least `key`, and its value.
    pub(crate) fn ceiling<S: NodeSource>(
        &self,
        source: &S,
        key: u64,
    ) -> Result<Option<(u64, Value)>, S::Error> {
        let Some(leaf) = self.seek(source, key)? else {
            return Ok(None);
        };
        if let Some(slot) = leaf::least(source, leaf.node, key)? {
            return Ok(Some((
                slot.key,
                read_value(source, leaf::value_at(leaf.node, &slot)?)?,
            )));
        }
        let Some(upper) = leaf.upper else {
            return Ok(None);
        };
        let Some(leaf) = self.seek(source, upper)? else {
            return Ok(None);
        };
        let slot = leaf::least(source, leaf.node, upper)?
            .ok_or_else(|| leaf.node.fault("key, none at or above", upper))?;
        Ok(Some((
            slot.key,
            read_value(source, leaf::value_at(leaf.node, &slot)?)?,
        )))
    }

    /// The smallest key in `first..=last`, and its value.
    pub(crate) fn first_in_range<S: NodeSource>(
        &self,
        source: &S,
        first: u64,
        last: u64,
    ) -> Result<Option<(u64, Value)>, S::Error> {
        Ok(self.ceiling(source, first)?.filter(|(key, _)| *key <= last))
    }

    /// Calls `visit` with every node's block and level, children before their parents.
    ///
    /// To free a tree, free each block visited and set the root to [`TreeRoot::EMPTY`].
    pub(crate) fn for_each_node<S: NodeSource>(
        &self,
        source: &S,
        mut visit: impl FnMut(BlockNo, u8) -> Result<(), S::Error>,
    ) -> Result<(), S::Error> {
        let Some(root) = self.open_root(source)? else {
            return Ok(());
        };
        descent::walk(source, self.identity, root, &mut visit)
    }
}

/// A copy of the value at `at`.
fn read_value<S: NodeSource>(source: &S, at: ValueAt) -> Result<Value, S::Error> {
    let mut bytes = if at.len <= INLINE_VALUE_BYTES {
        SmallVec::from_buf_and_len([0; INLINE_VALUE_BYTES], at.len)
    } else {
        SmallVec::from_elem(0, at.len)
    };
    source.read(at.block, at.offset, &mut bytes)?;
    Ok(Value { bytes, at })
}
