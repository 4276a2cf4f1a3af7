//! A tree from sorted entries, its nodes full.

use udax_media::node::{MAX_ENTRIES, MAX_LEVEL, NodeIdentity, TreeRoot};

use super::descent::fault;
use super::inner::{self, Entry};
use super::insert::{compose, verify_len};
use super::leaf::{self, Draft};
use super::{NodeStore, Tree};

impl Tree {
    /// A new tree of `entries`, which must ascend strictly.
    pub(crate) fn build<S: NodeStore, V: AsRef<[u8]>>(
        store: &mut S,
        identity: NodeIdentity,
        entries: impl IntoIterator<Item = (u64, V)>,
    ) -> Result<Self, S::Error> {
        let mut nodes = build_leaves(store, identity, entries)?;
        let mut level = 0;
        while nodes.len() > 1 {
            level += 1;
            if level > MAX_LEVEL {
                let child = nodes.first().map_or_else(Default::default, |node| node.child);
                return Err(fault(child, "root level", u64::from(level)).into());
            }
            let mut parents = Vec::with_capacity(nodes.len().div_ceil(MAX_ENTRIES));
            for part in nodes.chunks(MAX_ENTRIES) {
                let block = store.allocate()?;
                inner::write_fresh(store, block, identity, level, part)?;
                let key = part.first().map_or(0, |entry| entry.key);
                parents.push(Entry { key, child: block });
            }
            nodes = parents;
        }
        let root = nodes
            .first()
            .map_or(TreeRoot::EMPTY, |node| TreeRoot::new(node.child, level));
        Ok(Self { identity, root })
    }
}

/// The leaves, each with its lowest key (0 for the first).
fn build_leaves<S: NodeStore, V: AsRef<[u8]>>(
    store: &mut S,
    identity: NodeIdentity,
    entries: impl IntoIterator<Item = (u64, V)>,
) -> Result<Vec<Entry>, S::Error> {
    let mut leaves: Vec<Entry> = Vec::new();
    let mut draft = Draft::new();
    let mut previous = None;
    for (key, value) in entries {
        let value = value.as_ref();
        verify_len(value)?;
        if previous.is_some_and(|previous| previous >= key) {
            let block = leaves.last().map_or_else(Default::default, |leaf| leaf.child);
            return Err(fault(block, "key out of order", key).into());
        }
        previous = Some(key);
        if let Some(leaf) = leaves.last() {
            if draft.push(key, value) {
                continue;
            }
            std::mem::replace(&mut draft, Draft::new()).write_fresh(store, leaf.child, identity)?;
        }
        let child = store.allocate()?;
        compose(&mut draft, [(key, value)], child)?;
        leaves.push(Entry {
            key: if leaves.is_empty() { 0 } else { key },
            child,
        });
    }
    if let Some(leaf) = leaves.last() {
        draft.write_fresh(store, leaf.child, identity)?;
    }
    Ok(leaves)
}

/// How many nodes [`Tree::build`] makes of `entries` with values of `value_len` bytes each.
pub(crate) fn node_count(entries: u64, value_len: usize) -> u64 {
    let as_count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX).max(1);
    let mut nodes = entries.div_ceil(as_count(leaf::ROOM / leaf::entry_size(value_len)));
    let mut total = nodes;
    while nodes > 1 {
        nodes = nodes.div_ceil(as_count(MAX_ENTRIES));
        total += nodes;
    }
    total
}
