//! Share counts: how many extents own a block, where they are more than one.
//!
//! A tree of the pool has an entry for each run of blocks with the same number of owners, at least two: the first block
//! to the run's length and that number (two words). Entries do not overlap; neighbours with equal numbers are joined
//! where a change touches them. A block without an entry has the one owner that knows it.
//!
//! An extent that has ever been shared says so ([`ExtentFlags::SHARED`](udax_media::extent::ExtentFlags)); only then is
//! the tree asked. The flag may outlive the sharing, never the other way round: it is set by the record that counts
//! the second owner.
//!
//! Locks: the tree's (rank Shares), taken by an update when it first needs the tree, held until its record is durable.

use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::pool_tree::Shared;
use udax_media::roots::PoolTree;
use udax_media::{BlockNo, BlockRange, Place};
use udax_sync::{Mutex, MutexGuard, Rank};

use crate::error::{Error, Result};
use crate::tree::{NodeSource, NodeStore, Tree};

const IDENTITY: NodeIdentity = NodeIdentity {
    kind: PoolTree::Shared.kind(),
    owner: 0,
    generation: 0,
};

/// The share counts of an open pool.
#[derive(Debug)]
pub(crate) struct Shares {
    root: Mutex<TreeRoot>,
}

/// The share counts as an update changes them. Dropped without [`SharesChange::done`], nothing has changed.
#[derive(Debug)]
pub(crate) struct SharesChange<'s> {
    root: MutexGuard<'s, TreeRoot>,
    tree: Tree,
}

impl Shares {
    pub(crate) fn new(root: TreeRoot) -> Self {
        Self {
            root: Mutex::new(Rank::Shares, root),
        }
    }

    /// Verifies every node, as `source` does that, with the tree's lock held.
    pub(crate) fn verify(&self, source: &impl NodeSource<Error = Error>) -> Result<()> {
        let root = self.root.lock();
        Tree::new(IDENTITY, *root).for_each_node(source, |_, _| Ok(()))
    }

    /// Locks the tree.
    pub(crate) fn change(&self) -> SharesChange<'_> {
        let root = self.root.lock();
        let tree = Tree::new(IDENTITY, *root);
        SharesChange { root, tree }
    }
}

impl SharesChange<'_> {
    /// The root, if it is another one now.
    pub(crate) fn new_root(&self) -> Option<TreeRoot> {
        (self.tree.root != *self.root).then_some(self.tree.root)
    }

    /// The update has committed.
    pub(crate) fn done(mut self) {
        *self.root = self.tree.root;
    }

    /// The first segments of `blocks`, at most `limit`, ascending and without gaps.
    pub(crate) fn segments<S: NodeSource<Error = Error>>(
        &self,
        source: &S,
        blocks: BlockRange,
        limit: usize,
    ) -> Result<Vec<Shared>> {
        let mut segments = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end() && segments.len() < limit {
            let segment = self.segment(source, at, blocks.end())?;
            at = segment.blocks.end();
            segments.push(segment);
        }
        Ok(segments)
    }

    /// The segment that begins at `at`, up to `end`.
    fn segment<S: NodeSource<Error = Error>>(&self, source: &S, at: BlockNo, end: BlockNo) -> Result<Shared> {
        if let Some(entry) = self.entry_at_or_before(source, at)?
            && entry.blocks.end() > at
        {
            let end = entry.blocks.end().min(end);
            return Ok(Shared {
                blocks: BlockRange::new(at, end.raw() - at.raw()),
                owners: entry.owners,
            });
        }
        let end = match self.tree.ceiling(source, at.raw())? {
            Some((key, _)) => BlockNo(key).min(end),
            None => end,
        };
        Ok(Shared {
            blocks: BlockRange::new(at, end.raw() - at.raw()),
            owners: 1,
        })
    }

    fn entry_at_or_before<S: NodeSource<Error = Error>>(
        &self,
        source: &S,
        at: BlockNo,
    ) -> Result<Option<Shared>> {
        let Some((key, value)) = self.tree.floor(source, at.raw())? else {
            return Ok(None);
        };
        decode(key, &value.bytes).map(Some)
    }

    /// `blocks` get one more owner.
    pub(crate) fn add<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        blocks: BlockRange,
    ) -> Result<()> {
        self.count(store, blocks, |owners| owners.saturating_add(1))?;
        Ok(())
    }

    /// `blocks` lose one owner; gives those that have none any more.
    pub(crate) fn release<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        blocks: BlockRange,
    ) -> Result<Vec<BlockRange>> {
        let before = self.count(store, blocks, |owners| owners - 1)?;
        let last = before.into_iter().filter(|segment| segment.owners == 1);
        Ok(last.map(|segment| segment.blocks).collect())
    }

    /// Changes the number of owners of each segment of `blocks`; gives the segments as they were.
    fn count<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        blocks: BlockRange,
        change: impl Fn(u64) -> u64,
    ) -> Result<Vec<Shared>> {
        let before = self.segments(store, blocks, usize::MAX)?;
        let old = self.entries_touching(store, blocks)?;
        // What lies outside of `blocks` stays, also of entries that reach beyond them.
        let mut new: Vec<Shared> = Vec::new();
        let left = old
            .iter()
            .filter_map(|entry| cut(entry, BlockNo(0), blocks.start));
        let right = old
            .iter()
            .filter_map(|entry| cut(entry, blocks.end(), BlockNo(u64::MAX)));
        let changed = before.iter().map(|segment| Shared {
            owners: change(segment.owners),
            ..*segment
        });
        for segment in left.chain(changed).chain(right) {
            match new.last_mut() {
                _ if segment.owners < 2 => {}
                Some(last) if last.owners == segment.owners && last.blocks.end() == segment.blocks.start => {
                    last.blocks.count += segment.blocks.count;
                }
                _ => new.push(segment),
            }
        }
        self.replace(store, &old, &new)?;
        Ok(before)
    }

    /// The entries that overlap `blocks` or end or begin beside them, ascending.
    fn entries_touching<S: NodeSource<Error = Error>>(
        &self,
        source: &S,
        blocks: BlockRange,
    ) -> Result<Vec<Shared>> {
        let before = self.entry_at_or_before(source, blocks.start)?;
        let mut entries: Vec<Shared> = before
            .filter(|entry| entry.blocks.end() >= blocks.start)
            .into_iter()
            .collect();
        let mut from = blocks.start.raw() + 1;
        while let Some((key, value)) = self.tree.ceiling(source, from)?
            && key <= blocks.end().raw()
        {
            let entry = decode(key, &value.bytes)?;
            if entries
                .last()
                .is_some_and(|last| last.blocks.end() > entry.blocks.start)
            {
                return Err(impossible(key));
            }
            from = key + 1;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Replaces entries `old` by `new`, both ascending.
    fn replace<S: NodeStore<Error = Error>>(
        &mut self,
        store: &mut S,
        old: &[Shared],
        new: &[Shared],
    ) -> Result<()> {
        let find = |list: &[Shared], start: BlockNo| {
            let index = list
                .binary_search_by_key(&start, |entry| entry.blocks.start)
                .ok()?;
            list.get(index).copied()
        };
        for entry in old {
            if find(new, entry.blocks.start).is_none() {
                self.tree.remove(store, entry.blocks.start.raw())?;
            }
        }
        for entry in new {
            let (key, value) = (entry.blocks.start.raw(), entry.encode());
            match find(old, entry.blocks.start) {
                Some(same) if same == *entry => {}
                Some(_) => {
                    self.tree.replace(store, key, &value)?;
                }
                None => self.tree.insert_new(store, key, &value)?,
            }
        }
        Ok(())
    }
}

/// The part of `entry` in `first..end`.
fn cut(entry: &Shared, first: BlockNo, end: BlockNo) -> Option<Shared> {
    let (from, to) = (entry.blocks.start.max(first), entry.blocks.end().min(end));
    let count = to.raw().checked_sub(from.raw()).filter(|count| *count > 0)?;
    Some(Shared {
        blocks: BlockRange::new(from, count),
        ..*entry
    })
}

fn decode(key: u64, value: &[u8]) -> Result<Shared> {
    Shared::decode(key, value).ok_or_else(|| impossible(key))
}

fn impossible(key: u64) -> Error {
    Error::Inconsistent {
        place: Place::Block(BlockNo(key)),
        what: "its share count is impossible",
    }
}
