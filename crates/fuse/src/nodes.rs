//! The inodes that the kernel knows.
//!
//! A node id of the protocol is the inode number. Each reply that names an inode to the kernel counts one lookup; a
//! `FORGET` takes lookups back, and at none the kernel does not know the inode any more. Until then the table keeps a
//! [`Node`], so that the number means this inode and no later one.
//!
//! An inode may be gone while the kernel still knows it: the working directory of a process that somebody removed. Its
//! last attributes are kept then, as a *ghost*.
//!
//! Locks: one per shard, rank Leaf. Nodes are dropped after it is released, as dropping one takes its inode's lock.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use udax::{Node, Stat};
use udax_sync::{CachePadded, Rank, RwLock};

const SHARDS: usize = 64;

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
    ghost: Option<Box<Stat>>,
}

type Shard = RwLock<FxHashMap<u64, Known>>;

/// The inodes that the kernel knows, by number.
#[derive(Debug)]
pub(crate) struct Nodes {
    shards: Box<[CachePadded<Shard>]>,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| CachePadded::new(RwLock::new(Rank::Leaf, FxHashMap::default())))
                .collect(),
        }
    }

    /// The inode with this number, if the kernel knows it.
    pub(crate) fn find(&self, ino: u64) -> Option<Arc<Node>> {
        let shard = self.shard(ino).read();
        shard.get(&ino).map(|known| Arc::clone(&known.node))
    }

    /// Counts one lookup of `node`: before the reply that tells the kernel.
    pub(crate) fn count(&self, node: Node) -> Arc<Node> {
        let ino = node.ino().raw();
        let mut surplus = None;
        let mut shard = self.shard(ino).write();
        let known = match shard.entry(ino) {
            std::collections::hash_map::Entry::Occupied(occupied) => {
                let known = occupied.into_mut();
                // Its number was held, so it is the same inode.
                surplus = Some(node);
                known
            }
            std::collections::hash_map::Entry::Vacant(vacant) => vacant.insert(Known {
                node: Arc::new(node),
                lookups: 0,
                ghost: None,
            }),
        };
        known.lookups = known.lookups.saturating_add(1);
        let node = Arc::clone(&known.node);
        drop(shard);
        drop(surplus);
        node
    }

    /// The kernel takes `lookups` back.
    pub(crate) fn forget(&self, ino: u64, lookups: u64) {
        let mut shard = self.shard(ino).write();
        let Some(known) = shard.get_mut(&ino) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(lookups);
        let forgotten = if known.lookups == 0 {
            shard.remove(&ino)
        } else {
            None
        };
        drop(shard);
        drop(forgotten);
    }

    /// The inode with this number is gone; it looked like `last`.
    pub(crate) fn set_ghost(&self, ino: u64, last: Stat) {
        if let Some(known) = self.shard(ino).write().get_mut(&ino) {
            known.ghost = Some(Box::new(last));
        }
    }

    /// What the inode with this number looked like when it went.
    pub(crate) fn ghost(&self, ino: u64) -> Option<Stat> {
        self.shard(ino).read().get(&ino)?.ghost.as_deref().copied()
    }

    /// The kernel knows nothing any more.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let known = std::mem::take(&mut *shard.write());
            drop(known);
        }
    }

    fn shard(&self, ino: u64) -> &Shard {
        // Inodes that are made together have numbers beside each other.
        let index = usize::try_from(ino ^ (ino >> 6)).unwrap_or(0);
        &self.shards[index % SHARDS]
    }
}
