//! Walking a tree without believing it.
//!
//! Every node is verified (checksum, structure, identity, level) and its keys must lie in the range that its parent
//! gives it. A node that fails is reported with its key range, and the walk goes on beside it. A node is visited
//! once, so damage cannot make the walk long: levels fall from parent to child and no block is entered twice.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use udax_media::node::{self, NodeIdentity, SLOT_SIZE, SLOTS_START, Slot, TreeRoot};
use udax_media::{BlockNo, InodeNo, Place};

use crate::pool::Pool;
use crate::source::Block;

/// Sees what a walk meets. Entries come in ascending order of their keys.
pub(crate) trait Visit {
    /// A sound node.
    fn node(&mut self, block: BlockNo);
    /// An entry of a sound leaf.
    fn entry(&mut self, key: u64, value: &[u8]);
    /// Keys that cannot be known, because `place` is not what it should be.
    fn lost(&mut self, place: Place, keys: RangeInclusive<u64>, why: String);
}

/// Walks the tree at `root`, which should have this identity.
pub(crate) fn walk(pool: &Pool<'_>, root: TreeRoot, identity: NodeIdentity, visit: &mut dyn Visit) {
    let Some(block) = root.block() else {
        if root != TreeRoot::EMPTY {
            let place = match identity.owner {
                0 => Place::Block(udax_media::geometry::ROOTS),
                owner => Place::Inode(InodeNo(owner)),
            };
            visit.lost(
                place,
                0..=u64::MAX,
                format!("tree root word {:#x} names no block", root.word()),
            );
        }
        return;
    };
    let mut walker = Walker {
        pool,
        identity,
        visit,
        seen: HashSet::new(),
    };
    walker.descend(block, root.level(), 0..=u64::MAX);
}

struct Walker<'w> {
    pool: &'w Pool<'w>,
    identity: NodeIdentity,
    visit: &'w mut dyn Visit,
    seen: HashSet<u64>,
}

impl Walker<'_> {
    fn descend(&mut self, block: BlockNo, level: u8, keys: RangeInclusive<u64>) {
        if let Err(why) = self.try_descend(block, level, keys.clone()) {
            self.visit.lost(Place::Block(block), keys, why);
        }
    }

    fn try_descend(&mut self, block: BlockNo, level: u8, keys: RangeInclusive<u64>) -> Result<(), String> {
        let pool = self.pool;
        if block.raw() >= pool.total_blocks {
            return Err("tree node outside the pool".to_owned());
        }
        if self.seen.contains(&block.raw()) {
            return Err("tree node that the same tree already has elsewhere".to_owned());
        }
        let bytes = pool.read(block)?;
        let state = node::verify(pool.seed, &bytes, block, self.identity, level, pool.total_blocks)
            .map_err(|error| error.to_string())?;
        if level == 0 {
            self.seen.insert(block.raw());
            self.visit.node(block);
            self.leaf(block, &bytes, state, &keys);
            return Ok(());
        }
        let children = entries(&bytes, state.count);
        if let Some((key, _)) = children.iter().skip(1).find(|(key, _)| !keys.contains(key)) {
            return Err(format!(
                "tree node with key {key} outside its range {}..={}",
                keys.start(),
                keys.end()
            ));
        }
        drop(bytes);
        self.seen.insert(block.raw());
        self.visit.node(block);
        let ends = children
            .iter()
            .skip(1)
            .map(|(key, _)| key.saturating_sub(1))
            .chain([*keys.end()]);
        for (index, ((key, child), end)) in children.iter().zip(ends).enumerate() {
            // The first key of an inner node counts as minus infinity.
            let start = if index == 0 { *keys.start() } else { *key };
            self.descend(*child, level - 1, start..=end);
        }
        Ok(())
    }

    fn leaf(&mut self, block: BlockNo, bytes: &Block, state: node::NodeState, keys: &RangeInclusive<u64>) {
        let slots = bytes
            .get(SLOTS_START..)
            .unwrap_or_default()
            .as_chunks::<SLOT_SIZE>()
            .0;
        let mut used: Vec<Slot> = slots
            .iter()
            .take(usize::from(state.count))
            .filter_map(|slot| Slot::decode(slot, state.heap_top))
            .filter(|slot| slot.is_used)
            .collect();
        used.sort_unstable_by_key(|slot| slot.key);
        for slot in used {
            if !keys.contains(&slot.key) {
                let why = format!(
                    "key {} outside its leaf's range {}..={}",
                    slot.key,
                    keys.start(),
                    keys.end()
                );
                self.visit.lost(Place::Block(block), slot.key..=slot.key, why);
                continue;
            }
            let start = usize::from(slot.offset);
            let value = bytes
                .get(start..start + usize::from(slot.length))
                .unwrap_or_default();
            self.visit.entry(slot.key, value);
        }
    }
}

/// The (key, child) pairs of a verified inner node.
fn entries(bytes: &Block, count: u16) -> Vec<(u64, BlockNo)> {
    let words = bytes.get(SLOTS_START..).unwrap_or_default().as_chunks::<8>().0;
    let pairs = words.as_chunks::<2>().0.iter().take(usize::from(count));
    pairs
        .map(|[key, child]| (u64::from_le_bytes(*key), BlockNo(u64::from_le_bytes(*child))))
        .collect()
}
