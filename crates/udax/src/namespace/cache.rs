//! The dentry cache: names to inodes, so that a hot path is looked up with one hash per component.
//!
//! An entry is added under the directory's lock (shared or alone) after it has been seen in the directory's tree, and
//! removed under the lock held alone: while a directory is locked, its cached entries are those of its tree. Lookups
//! take no directory lock. What they find may be gone a moment later; the generation lets the caller notice that.
//!
//! Locks: one per shard, rank Cache.

use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxHasher;
use smallvec::SmallVec;
use udax_media::InodeNo;
use udax_media::inode::FileKind;
use udax_sync::{CachePadded, Rank, RwLock};

use crate::inode::Inode;

const SHARDS: usize = 64;
/// Entries in a shard: a quarter of a million in all, some 20 MB with usual names. A full shard forgets half.
const SHARD_LIMIT: usize = 4096;

/// An inode as a name or another inode refers to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InodeRef {
    pub(crate) ino: InodeNo,
    pub(crate) generation: u64,
    pub(crate) kind: FileKind,
}

impl From<&Inode> for InodeRef {
    fn from(inode: &Inode) -> Self {
        Self {
            ino: inode.ino,
            generation: inode.generation,
            kind: inode.kind,
        }
    }
}

#[derive(Debug)]
struct Entry {
    directory: (InodeNo, u64),
    target: InodeRef,
    /// Short names cost no allocation.
    name: SmallVec<[u8; 24]>,
}

/// Names that have been looked up.
#[derive(Debug)]
pub(crate) struct DentryCache {
    shards: Box<[CachePadded<RwLock<HashTable<Entry>>>]>,
}

impl DentryCache {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| CachePadded::new(RwLock::new(Rank::Cache, HashTable::new())))
                .collect(),
        }
    }

    /// What `name` in `directory` refers to, if it is known.
    #[inline]
    pub(crate) fn get(&self, directory: InodeRef, name: &[u8]) -> Option<InodeRef> {
        let key = (directory.ino, directory.generation);
        let hash = hash(key, name);
        let shard = self.shard(hash).read();
        shard
            .find(hash, |entry| entry.directory == key && *entry.name == *name)
            .map(|entry| entry.target)
    }

    /// `name` in `directory` refers to `target` now. The caller has the directory's lock.
    pub(crate) fn set(&self, directory: InodeRef, name: &[u8], target: InodeRef) {
        let key = (directory.ino, directory.generation);
        let hash = hash(key, name);
        let mut shard = self.shard(hash).write();
        if let Some(entry) = shard.find_mut(hash, |entry| entry.directory == key && *entry.name == *name) {
            entry.target = target;
            return;
        }
        if shard.len() >= SHARD_LIMIT {
            let mut keep = false;
            shard.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let entry = Entry {
            directory: key,
            target,
            name: SmallVec::from_slice(name),
        };
        shard.insert_unique(hash, entry, |entry| self::hash(entry.directory, &entry.name));
    }

    /// `name` in `directory` refers to nothing now. The caller has the directory's lock alone.
    pub(crate) fn remove(&self, directory: InodeRef, name: &[u8]) {
        let key = (directory.ino, directory.generation);
        let hash = hash(key, name);
        let mut shard = self.shard(hash).write();
        if let Ok(entry) = shard.find_entry(hash, |entry| entry.directory == key && *entry.name == *name) {
            entry.remove();
        }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // The table uses the highest and the lowest bits itself.
        &self.shards[usize::try_from((hash >> 40) % 64).unwrap_or(0)]
    }
}

fn hash(directory: (InodeNo, u64), name: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    directory.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}
