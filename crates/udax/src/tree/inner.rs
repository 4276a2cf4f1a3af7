//! Inner nodes: sorted (key, child) entries, changed by shifting the tail.

use udax_media::BlockNo;
use udax_media::node::{
    self, MAX_ENTRIES, NodeIdentity, NodeState, SLOT_SIZE, SLOTS_START, STATE_OFFSET, slot_offset,
};

use super::descent::Node;
use super::{NodeSource, NodeStore};

/// An inner node with fewer entries is merged with a neighbour when it can be.
pub(super) const MERGE_BELOW: usize = MAX_ENTRIES / 4;
/// The most entries of a merged node, so that it does not split again soon.
pub(super) const MERGED_MAX: usize = MAX_ENTRIES / 4 * 3;
/// Where a child's number is in an entry.
const CHILD_OFFSET: usize = 8;

/// The lowest key below a child, and the child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) child: BlockNo,
}

/// The key of entry `index`.
#[inline]
pub(super) fn key<S: NodeSource>(source: &S, node: Node, index: usize) -> Result<u64, S::Error> {
    source.word(node.block, slot_offset(index))
}

/// The child of entry `index`.
#[inline]
pub(super) fn child<S: NodeSource>(source: &S, node: Node, index: usize) -> Result<BlockNo, S::Error> {
    match source.word(node.block, slot_offset(index) + CHILD_OFFSET)? {
        0 => Err(node.fault("child", 0).into()),
        child => Ok(BlockNo(child)),
    }
}

/// The entry below which `key` belongs: the last whose key is at most `key`, the first counting as minus infinity.
#[inline]
pub(super) fn child_index<S: NodeSource>(source: &S, node: Node, key: u64) -> Result<usize, S::Error> {
    let (mut low, mut high) = (0, node.count());
    while high - low > 1 {
        let middle = low.midpoint(high);
        if self::key(source, node, middle)? <= key {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The entries from `first` on.
pub(super) fn collect_entries<S: NodeSource>(
    source: &S,
    node: Node,
    first: usize,
) -> Result<Vec<Entry>, S::Error> {
    let mut bytes = vec![0; node.count().saturating_sub(first) * SLOT_SIZE];
    source.read(node.block, slot_offset(first), &mut bytes)?;
    let (words, _) = bytes.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    Ok(pairs
        .iter()
        .map(|[key, child]| Entry {
            key: u64::from_le_bytes(*key),
            child: BlockNo(u64::from_le_bytes(*child)),
        })
        .collect())
}

/// Writes `entries` from entry `first` on.
fn write_entries<S: NodeStore>(
    store: &mut S,
    block: BlockNo,
    first: usize,
    entries: &[Entry],
) -> Result<(), S::Error> {
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| [entry.key.to_le_bytes(), entry.child.raw().to_le_bytes()])
        .flatten()
        .collect();
    if bytes.is_empty() {
        return Ok(());
    }
    store.write(block, slot_offset(first), &bytes)
}

/// Sets the number of entries.
fn write_count<S: NodeStore>(store: &mut S, node: Node, count: usize) -> Result<Node, S::Error> {
    let state = NodeState {
        count: u16::try_from(count).map_err(|_| node.fault("entry count", u64::MAX))?,
        ..node.state
    };
    store.write(node.block, STATE_OFFSET, &state.word().to_le_bytes())?;
    Ok(Node { state, ..node })
}

/// Makes room before entry `index`, which is not the first, for `entry`. The node is not full.
pub(super) fn insert<S: NodeStore>(
    store: &mut S,
    node: Node,
    index: usize,
    entry: Entry,
) -> Result<(), S::Error> {
    let mut tail = collect_entries(store, node, index)?;
    tail.insert(0, entry);
    if index == 1 && key(store, node, 0)? >= entry.key {
        // The first key counts as minus infinity but must stay in order with the others.
        store.write(node.block, SLOTS_START, &0_u64.to_le_bytes())?;
    }
    write_entries(store, node.block, index, &tail)?;
    write_count(store, node, node.count() + 1)?;
    Ok(())
}

/// Takes entry `index` out.
pub(super) fn remove<S: NodeStore>(store: &mut S, node: Node, index: usize) -> Result<Node, S::Error> {
    let tail = collect_entries(store, node, index + 1)?;
    write_entries(store, node.block, index, &tail)?;
    write_count(store, node, node.count().saturating_sub(1))
}

/// A new node at `block` with `entries`, at most [`MAX_ENTRIES`] of them.
pub(super) fn write_fresh<S: NodeStore>(
    store: &mut S,
    block: BlockNo,
    identity: NodeIdentity,
    level: u8,
    entries: &[Entry],
) -> Result<(), S::Error> {
    let state = NodeState {
        level,
        kind: identity.kind,
        count: u16::try_from(entries.len()).unwrap_or(u16::MAX),
        heap_top: node::HEAP_EMPTY,
    };
    store.write(block, 0, &node::encode_header(block, identity, state))?;
    write_entries(store, block, 0, entries)
}

/// Splits the full `node` while `entry` is put before entry `index`. Gives what the parent must learn.
pub(super) fn split<S: NodeStore>(
    store: &mut S,
    node: Node,
    identity: NodeIdentity,
    index: usize,
    entry: Entry,
) -> Result<Entry, S::Error> {
    let mut entries = collect_entries(store, node, 0)?;
    let is_last = index == entries.len();
    entries.insert(index.min(entries.len()), entry);
    if let Some(first) = entries.first_mut()
        && index == 1
        && first.key >= entry.key
    {
        first.key = 0;
    }
    // Ascending insertion leaves full nodes behind, as does descending insertion, which splits the first child.
    let middle = match index {
        1 => 1,
        _ if is_last => entries.len() - 1,
        _ => entries.len() / 2,
    };
    let (left, right) = entries.split_at(middle);
    let block = store.allocate()?;
    write_fresh(store, block, identity, node.state.level, right)?;
    if !is_last {
        // At 1 the first key may have been changed.
        if index < middle || index == 1 {
            write_entries(store, node.block, 0, left)?;
        }
        write_count(store, node, left.len())?;
    }
    let key = right.first().map_or(0, |first| first.key);
    Ok(Entry { key, child: block })
}

/// Appends the entries of `right` to `left`; `separator` is the key of `right` in their parent.
pub(super) fn append<S: NodeStore>(
    store: &mut S,
    left: Node,
    right: Node,
    separator: u64,
) -> Result<(), S::Error> {
    let mut entries = collect_entries(store, right, 0)?;
    if let Some(first) = entries.first_mut() {
        first.key = separator;
    }
    write_entries(store, left.block, left.count(), &entries)?;
    write_count(store, left, left.count() + entries.len())?;
    Ok(())
}
