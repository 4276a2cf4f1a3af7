//! Looking once at the leaf where a few keys are or would be, and changing it by what was seen.
//!
//! A [`Probe`] is what one pass over a leaf's slots has found. It stays true until its tree changes; a change made
//! through it reads the leaf no further.

use smallvec::SmallVec;
use udax_media::node::{Slot, TreeKind};

use super::descent::{Leaf, Path};
use super::leaf::{self, Survey};
use super::{NodeSource, NodeStore, Tree, ValueAt, insert};

/// A leaf, the way to it, and what it holds of a range of keys.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(super) path: Path,
    pub(super) leaf: Leaf,
    pub(super) survey: Survey,
    /// The used slots with keys in the range, by index.
    hits: SmallVec<[(usize, Slot); 1]>,
}

/// An entry that a [`Probe`] has found: its key, and its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hit {
    pub(crate) key: u64,
    index: usize,
    slot: Slot,
}

impl Probe {
    /// The entries found, in no order.
    pub(crate) fn hits(&self) -> impl Iterator<Item = Hit> {
        self.hits.iter().map(|(index, slot)| Hit {
            key: slot.key,
            index: *index,
            slot: *slot,
        })
    }

    /// Where the value of `hit` is.
    pub(crate) fn value_at(&self, hit: &Hit) -> Result<ValueAt, udax_media::FormatError> {
        leaf::value_at(self.leaf.node, &hit.slot)
    }
}

impl Tree {
    /// Looks at the leaf where the keys `first..=last` belong, and for a place there for a value of `len` bytes. `None`
    /// when the tree is empty, or the keys belong to more than one leaf.
    pub(crate) fn probe<S: NodeSource>(
        &self,
        source: &S,
        keys: (u64, u64),
        len: usize,
    ) -> Result<Option<Probe>, S::Error> {
        let (first, last) = keys;
        let Some((path, leaf)) = self.descend(source, first)? else {
            return Ok(None);
        };
        if leaf.upper.is_some_and(|upper| last >= upper) {
            return Ok(None);
        }
        let mut hits = SmallVec::new();
        let survey = leaf::survey(source, leaf.node, len, keys, |index, slot| {
            hits.push((index, slot))
        })?;
        Ok(Some(Probe {
            path,
            leaf,
            survey,
            hits,
        }))
    }

    /// Adds `key`, which is not in the tree and was in the range probed, with a value that is not longer than probed
    /// for; `false`, and nothing is written, when the leaf must be split or compacted first.
    pub(crate) fn insert_at<S: NodeStore>(
        &mut self,
        store: &mut S,
        probe: &Probe,
        key: u64,
        value: &[u8],
    ) -> Result<bool, S::Error> {
        insert::verify_len(value)?;
        let Some(place) = leaf::place(probe.leaf.node, &probe.survey, value.len()) else {
            return Ok(false);
        };
        leaf::put(store, probe.leaf.node, place, key, value)?;
        Ok(true)
    }

    /// Removes what a probe has found.
    pub(crate) fn remove_at<S: NodeStore>(
        &mut self,
        store: &mut S,
        probe: Probe,
        hit: &Hit,
    ) -> Result<(), S::Error> {
        let Probe {
            mut path,
            leaf,
            survey,
            ..
        } = probe;
        let is_last = survey.used == 1;
        // A directory keeps its last leaf: files come and go in one that is otherwise empty.
        if is_last && path.is_empty() && self.identity.kind == TreeKind::Directory {
            return leaf::clear(store, leaf.node);
        }
        if is_last {
            store.free(leaf.node.block);
            return self.drop_child(store, path);
        }
        leaf::free_slot(store, leaf.node.block, hit.index, hit.slot)?;
        let left = survey.used_bytes - leaf::entry_size(usize::from(hit.slot.length));
        if left < leaf::MERGE_BELOW
            && let Some(parent) = path.last_mut()
            && let Some(gone) = self.merge_leaf(store, *parent)?
        {
            parent.index = gone;
            self.drop_child(store, path)?;
        }
        Ok(())
    }

    /// [`Tree::insert_at`] and, if that could, [`Tree::remove_at`] of another entry.
    pub(crate) fn move_at<S: NodeStore>(
        &mut self,
        store: &mut S,
        (to, key, value): (&Probe, u64, &[u8]),
        (from, hit): (&Probe, &Hit),
    ) -> Result<bool, S::Error> {
        if !self.insert_at(store, to, key, value)? {
            return Ok(false);
        }
        if to.leaf.node.block == from.leaf.node.block {
            // The leaf has the new entry, so it is not empty; what was seen of it is true but for that.
            leaf::free_slot(store, from.leaf.node.block, hit.index, hit.slot)?;
        } else {
            self.remove_at(store, from.clone(), hit)?;
        }
        Ok(true)
    }
}
