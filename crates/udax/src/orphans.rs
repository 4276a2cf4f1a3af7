//! Orphans: inodes without a name, or in the middle of a long truncation, that the next mount must finish.
//!
//! They are in a tree of the pool, keyed by inode number, so that mounting finds them without looking at inodes. The
//! tree's lock (rank Orphans) is held until the record that changes it is durable.

use udax_media::InodeNo;
use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::roots::PoolTree;
use udax_sync::{Mutex, MutexGuard, Rank};

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::tree::{Cursor, NodeSource, Tree};
use crate::update::Update;

const IDENTITY: NodeIdentity = NodeIdentity {
    kind: PoolTree::Orphans.kind(),
    owner: 0,
    generation: 0,
};

/// The orphans of an open pool.
#[derive(Debug)]
pub(crate) struct Orphans {
    root: Mutex<TreeRoot>,
}

/// A change of the orphans within an update. Holds the tree's lock: commit the update, then call
/// [`OrphanChange::done`]; dropping it otherwise forgets the change.
#[derive(Debug)]
#[must_use]
pub(crate) struct OrphanChange<'o> {
    root: MutexGuard<'o, TreeRoot>,
    new: TreeRoot,
}

impl Orphans {
    pub(crate) fn new(root: TreeRoot) -> Self {
        Self {
            root: Mutex::new(Rank::Orphans, root),
        }
    }

    /// Verifies every node, as `source` does that, with the tree's lock held.
    pub(crate) fn verify(&self, source: &impl NodeSource<Error = Error>) -> Result<()> {
        let root = self.root.lock();
        Tree::new(IDENTITY, *root).for_each_node(source, |_, _| Ok(()))
    }

    /// Adds `ino`, if it is not one already.
    pub(crate) fn add<'o>(&'o self, update: &mut Update<'_>, ino: InodeNo) -> Result<OrphanChange<'o>> {
        let root = self.root.lock();
        let mut tree = Tree::new(IDENTITY, *root);
        // It may be one already: a file truncated step by step after it was unlinked.
        let _inserted = tree.insert(update, ino.raw(), &[])?;
        Ok(Self::change(update, root, tree.root))
    }

    /// Removes `ino`, if it is one.
    pub(crate) fn remove<'o>(&'o self, update: &mut Update<'_>, ino: InodeNo) -> Result<OrphanChange<'o>> {
        let root = self.root.lock();
        let mut tree = Tree::new(IDENTITY, *root);
        tree.remove(update, ino.raw())?;
        Ok(Self::change(update, root, tree.root))
    }

    fn change<'o>(
        update: &mut Update<'_>,
        root: MutexGuard<'o, TreeRoot>,
        new: TreeRoot,
    ) -> OrphanChange<'o> {
        // The tree's blocks belong to the pool, not to the inode that the update changes.
        let _ = update.take_metadata_delta();
        if new != *root {
            update.set_pool_root(PoolTree::Orphans, new);
        }
        OrphanChange { root, new }
    }

    /// At most one leaf full of orphans with numbers from `first`.
    pub(crate) fn collect_from(&self, pool: &Pool, first: InodeNo) -> Result<Vec<InodeNo>> {
        let root = self.root.lock();
        let mut cursor = Cursor::starting_at(first.raw());
        let batch = cursor.next_batch(&Tree::new(IDENTITY, *root), pool)?;
        Ok(batch
            .iter()
            .flat_map(|batch| batch.iter().map(|(key, _)| InodeNo(key)))
            .collect())
    }
}

impl OrphanChange<'_> {
    /// The update has committed.
    pub(crate) fn done(mut self) {
        *self.root = self.new;
    }
}
