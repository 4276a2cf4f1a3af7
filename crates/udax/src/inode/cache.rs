//! The inodes in use: one object for each, so that all users share its lock.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use udax_media::inode::{FileKind, InodeFlags, offset};
use udax_media::{InodeNo, Place};
use udax_sync::{CachePadded, Mutex, Rank};

use crate::cached::Way;
use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::inode::fields::{high, low};
use crate::pool::Pool;

const SHARDS: usize = 64;
/// Objects in a shard before those without users are dropped: enough for what a program works on.
const SHARD_LIMIT: usize = 256;

/// The inodes in use. Locks: one per shard, rank Cache, nothing is done under it but looking.
#[derive(Debug)]
pub(crate) struct InodeCache {
    shards: Box<[CachePadded<Mutex<Shard>>]>,
}

#[derive(Debug, Default)]
struct Shard {
    inodes: FxHashMap<InodeNo, Arc<Inode>>,
    /// Grows with what cannot be dropped, so that a sweep is paid for by as many insertions.
    limit: usize,
}

impl InodeCache {
    pub(crate) fn new() -> Self {
        let shard = || {
            CachePadded::new(Mutex::new(
                Rank::Cache,
                Shard {
                    limit: SHARD_LIMIT,
                    ..Shard::default()
                },
            ))
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// The object of inode `ino`, made if need be.
    ///
    /// # Errors
    /// `Stale` when the inode does not exist; a damaged inode.
    pub(crate) fn get(&self, pool: &Pool, ino: InodeNo) -> Result<Arc<Inode>> {
        if let Some(inode) = self.shard(ino).lock().inodes.get(&ino) {
            return Ok(Arc::clone(inode));
        }
        let at = pool.inode_table.locate(pool, ino)?;
        // Read under the shard's lock: while there is no object, nobody can free the inode or use it anew.
        let mut shard = self.shard(ino).lock();
        if let Some(inode) = shard.inodes.get(&ino) {
            return Ok(Arc::clone(inode));
        }
        let mut words = [0; 4];
        pool.health
            .note("an inode", pool.region.read_words(at.raw(), &mut words))?;
        let mode = low(words[3]);
        // Looked at after the words: a chunk that was freed in between may hold anything.
        if mode == 0 || !pool.inode_table.is_at(ino, at) {
            return Err(Error::Stale(ino));
        }
        const { assert!(offset::MODE == 24) };
        let kind = FileKind::of_mode(mode).ok_or(Error::Inconsistent {
            place: Place::Inode(ino),
            what: "its mode is impossible",
        })?;
        let flags = InodeFlags::from_bits_retain(high(words[3]));
        let way = Way::of(pool, kind, flags);
        // Before anybody can free it: a look for free numbers leaves it to who does.
        pool.inode_table.note_known(ino);
        let inode = Arc::new(Inode::new((ino, at), words[2], kind, way));
        let swept = shard.insert(Arc::clone(&inode));
        drop(shard);
        drop(swept);
        Ok(inode)
    }

    /// Adds the object of an inode that an update has just made.
    pub(crate) fn insert(&self, inode: Arc<Inode>) {
        let swept = self.shard(inode.ino).lock().insert(inode);
        drop(swept);
    }

    /// Forgets a freed inode. The caller has its lock and has marked it dead.
    pub(crate) fn remove(&self, ino: InodeNo) {
        self.shard(ino).lock().inodes.remove(&ino);
    }

    /// Gives back the blocks that idle inodes have taken ahead.
    pub(crate) fn release_windows(&self, pool: &Pool) {
        for shard in &self.shards {
            let inodes: Vec<Arc<Inode>> = shard.lock().inodes.values().cloned().collect();
            for inode in inodes {
                if let Some(mut state) = inode.try_write()
                    && let Some(window) = state.window.take()
                {
                    pool.give_back(window);
                }
            }
        }
    }

    /// All inodes in use.
    pub(crate) fn collect(&self) -> Vec<Arc<Inode>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().inodes.values().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, ino: InodeNo) -> &Mutex<Shard> {
        let index = (ino.raw() ^ (ino.raw() >> 6)) % 64;
        &self.shards[usize::try_from(index).unwrap_or(0)]
    }
}

impl Shard {
    /// Gives the idle inodes that it has swept out: they are dropped without the shard's lock, as one that was pinned
    /// writes its pages back then.
    #[must_use]
    fn insert(&mut self, inode: Arc<Inode>) -> Vec<Arc<Inode>> {
        let mut swept = Vec::new();
        if self.inodes.len() >= self.limit {
            let idle = self.inodes.extract_if(|_, inode| Arc::strong_count(inode) == 1);
            swept.extend(idle.map(|(_, inode)| inode));
            self.limit = SHARD_LIMIT.max(self.inodes.len() * 2);
        }
        self.inodes.insert(inode.ino, inode);
        swept
    }
}
