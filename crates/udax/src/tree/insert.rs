//! New entries and new values: what is written, when a leaf is compacted, how nodes split.

use udax_media::node::{MAX_ENTRIES, MAX_LEVEL, MAX_VALUE_BYTES, Slot, TreeRoot};
use udax_media::{BlockNo, FormatError, Place};

use super::descent::{Node, Path};
use super::inner::{self, Entry};
use super::leaf::{self, Draft, Image};
use super::{NodeStore, TooLong, Tree};

/// What became of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Insertion {
    /// The entry is in the tree.
    Inserted,
    /// The key was there already; nothing was changed.
    Exists,
}

impl Tree {
    /// As [`Tree::insert`], for a key that cannot be in the tree.
    ///
    /// # Errors
    /// A key that is there all the same: the tree and its owner disagree.
    pub(crate) fn insert_new<S: NodeStore>(
        &mut self,
        store: &mut S,
        key: u64,
        value: &[u8],
    ) -> Result<(), S::Error> {
        match self.insert(store, key, value)? {
            Insertion::Inserted => Ok(()),
            Insertion::Exists => {
                let place = Place::Block(self.root.block().unwrap_or_default());
                Err(FormatError::Field {
                    what: "tree",
                    place,
                    field: "key, there already,",
                    value: key,
                }
                .into())
            }
        }
    }

    /// Adds `key` with `value`, of at most [`MAX_VALUE_BYTES`].
    ///
    /// Usually writes one slot of 16 bytes, the value and the state word.
    pub(crate) fn insert<S: NodeStore>(
        &mut self,
        store: &mut S,
        key: u64,
        value: &[u8],
    ) -> Result<Insertion, S::Error> {
        verify_len(value)?;
        let Some(probe) = self.probe(store, (key, key), value.len())? else {
            let block = store.allocate()?;
            let mut draft = Draft::new();
            compose(&mut draft, [(key, value)], block)?;
            draft.write_fresh(store, block, self.identity)?;
            self.root = TreeRoot::new(block, 0);
            return Ok(Insertion::Inserted);
        };
        if probe.hits().next().is_some() {
            return Ok(Insertion::Exists);
        }
        if !self.insert_at(store, &probe, key, value)? {
            self.make_room(store, probe.path, probe.leaf.node, (key, value))?;
        }
        Ok(Insertion::Inserted)
    }

    /// Gives `key` another value; `false` when the key is not there.
    ///
    /// In place when the value fits into the space of the old one.
    pub(crate) fn replace<S: NodeStore>(
        &mut self,
        store: &mut S,
        key: u64,
        value: &[u8],
    ) -> Result<bool, S::Error> {
        verify_len(value)?;
        let Some(leaf) = self.seek(store, key)? else {
            return Ok(false);
        };
        let Some((index, slot)) = leaf::find(store, leaf.node, key)? else {
            return Ok(false);
        };
        let at = leaf::value_at(leaf.node, &slot)?;
        if value.len() > usize::from(slot.capacity) {
            leaf::free_slot(store, at.block, index, slot)?;
            return Ok(self.insert(store, key, value)? == Insertion::Inserted);
        }
        leaf::write_value(store, at.block, at.offset, value)?;
        if value.len() != at.len {
            let resized = Slot {
                length: u16::try_from(value.len()).unwrap_or(u16::MAX),
                ..slot
            };
            leaf::write_slot_place(store, at.block, index, &resized)?;
        }
        Ok(true)
    }

    /// Compacts or splits a leaf that has no place for the new entry.
    fn make_room<S: NodeStore>(
        &mut self,
        store: &mut S,
        path: Path,
        node: Node,
        new: (u64, &[u8]),
    ) -> Result<(), S::Error> {
        let image = Image::read(store, node)?;
        let mut entries: Vec<(u64, &[u8])> = image.entries().collect();
        let index = entries.partition_point(|(key, _)| *key < new.0);
        entries.insert(index, new);
        let total = image.used_bytes() + leaf::entry_size(new.1.len());
        if total + leaf::COMPACTION_GAIN <= leaf::ROOM || entries.len() == 1 {
            let mut draft = Draft::new();
            compose(&mut draft, entries, node.block)?;
            return draft.rewrite(store, node.block, self.identity);
        }
        let is_last = index + 1 == entries.len();
        // Ascending insertion leaves full leaves behind, and need not touch them; so does descending insertion, which
        // moves them.
        let middle = match index {
            0 => 1,
            _ if is_last => index,
            _ => balance(&entries, total),
        };
        let (left, right) = entries.split_at(middle);
        let block = store.allocate()?;
        let mut draft = Draft::new();
        compose(&mut draft, right.iter().copied(), block)?;
        draft.write_fresh(store, block, self.identity)?;
        if !is_last {
            let mut draft = Draft::new();
            compose(&mut draft, left.iter().copied(), node.block)?;
            draft.rewrite(store, node.block, self.identity)?;
        }
        // All that is above a full leaf goes beside it, also keys below the new one: descending insertion there would
        // split the leaf each time.
        let key = match left.last() {
            Some((below, _)) if is_last => below + 1,
            _ => right.first().map_or(new.0, |(key, _)| *key),
        };
        self.add_child(store, path, Entry { key, child: block })
    }

    /// Makes `entry`, the new right neighbour of what `path` led to, known to its parent.
    fn add_child<S: NodeStore>(
        &mut self,
        store: &mut S,
        mut path: Path,
        mut entry: Entry,
    ) -> Result<(), S::Error> {
        while let Some(step) = path.pop() {
            if step.node.count() < MAX_ENTRIES {
                return inner::insert(store, step.node, step.index + 1, entry);
            }
            entry = inner::split(store, step.node, self.identity, step.index + 1, entry)?;
        }
        let level = self.root.level() + 1;
        let old = self.root.block().unwrap_or(entry.child);
        if level > MAX_LEVEL {
            return Err(super::descent::fault(old, "root level", u64::from(level)).into());
        }
        let block = store.allocate()?;
        let entries = [Entry { key: 0, child: old }, entry];
        inner::write_fresh(store, block, self.identity, level, &entries)?;
        self.root = TreeRoot::new(block, level);
        Ok(())
    }
}

/// Adds `entries` to `draft`, the leaf to be at `block`.
pub(super) fn compose<'v>(
    draft: &mut Draft,
    entries: impl IntoIterator<Item = (u64, &'v [u8])>,
    block: BlockNo,
) -> Result<(), FormatError> {
    for (key, value) in entries {
        if !draft.push(key, value) {
            return Err(super::descent::fault(block, "leaf too full for key", key));
        }
    }
    Ok(())
}

/// How many of `entries`, which take `total` bytes, go left so that both sides are as equal as can be.
///
/// The larger side exceeds half of the total by at most half an entry, so both fit in a leaf.
fn balance(entries: &[(u64, &[u8])], total: usize) -> usize {
    let (mut left, mut best, mut middle) = (0, usize::MAX, 1);
    for (index, (_, value)) in (1..entries.len()).zip(entries) {
        left += leaf::entry_size(value.len());
        let larger = left.max(total.saturating_sub(left));
        if larger < best {
            (best, middle) = (larger, index);
        }
    }
    middle
}

pub(super) fn verify_len(value: &[u8]) -> Result<(), TooLong> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(TooLong(value.len()));
    }
    Ok(())
}
