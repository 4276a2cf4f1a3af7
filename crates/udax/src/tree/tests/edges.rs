//! Separators that outlive what they were made for, and nodes that are reached twice.

use std::collections::BTreeMap;

use udax_media::BlockNo;
use udax_media::node::{MAX_ENTRIES, TreeRoot, slot_offset};

use super::super::{Cursor, Tree};
use super::memory::{IDENTITY, Memory};
use super::{collect, insert, value};

const LEN: usize = 240;
/// Entries of a full leaf with values of `LEN` bytes.
const PER_LEAF: u64 = 15;
const STEP: u64 = 1000;

/// A tree of `leaves` full leaves, its keys multiples of `STEP`, the first leaf's from `STEP` on.
fn built(leaves: u64) -> (Tree, Memory) {
    let mut store = Memory::default();
    let entries = (1..=leaves * PER_LEAF).map(|key| (key * STEP, value(key * STEP, LEN)));
    let tree = Tree::build(&mut store, IDENTITY, entries).unwrap();
    let inner = leaves.div_ceil(252);
    assert_eq!(
        store.live(),
        usize::try_from(leaves + inner + u64::from(inner > 1)).unwrap()
    );
    (tree, store)
}

/// Removes the entries of leaf `leaf` of a built tree.
fn drop_leaf(tree: &mut Tree, store: &mut Memory, leaf: u64) {
    for key in 1..=PER_LEAF {
        assert!(tree.remove(store, (leaf * PER_LEAF + key) * STEP).unwrap());
    }
}

fn word(store: &Memory, block: BlockNo, at: usize) -> u64 {
    u64::from_le_bytes(*store.block(block).unwrap()[at..].first_chunk().unwrap())
}

fn set_word(store: &mut Memory, block: BlockNo, at: usize, word: u64) {
    store.block_mut(block).unwrap()[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

fn child(store: &Memory, block: BlockNo, index: usize) -> BlockNo {
    BlockNo(word(store, block, slot_offset(index) + 8))
}

fn count(store: &Memory, block: BlockNo) -> usize {
    let [_, _, low, high, ..] = word(store, block, 32).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high]))
}

fn assert_all_found(tree: &Tree, store: &Memory, entries: &BTreeMap<u64, Vec<u8>>) {
    store.check(tree);
    for (key, value) in entries {
        let found = tree.get(store, *key).unwrap();
        assert_eq!(
            found.map(|found| found.bytes.to_vec()).as_ref(),
            Some(value),
            "key {key}"
        );
    }
    assert!(collect(tree, store).into_iter().eq(entries.clone()));
}

#[test]
fn keys_below_a_stale_first_separator_split_in_order() {
    let (mut tree, mut store) = built(10);
    drop_leaf(&mut tree, &mut store, 0);
    let root = tree.root.block().unwrap();
    assert!(
        word(&store, root, slot_offset(0)) > 0,
        "the second leaf's separator is first now"
    );
    for key in 1..200 {
        insert(&mut tree, &mut store, key, &value(key, LEN));
        store.check(&tree);
    }
    assert_all_found(&tree, &store, &collect(&tree, &store).into_iter().collect());
}

#[test]
fn full_inner_node_with_a_stale_first_separator_splits_in_order() {
    let (mut tree, mut store) = built(252);
    drop_leaf(&mut tree, &mut store, 0);
    let root = tree.root.block().unwrap();
    let mut extra = 200 * PER_LEAF * STEP + 1;
    while count(&store, root) < MAX_ENTRIES {
        insert(&mut tree, &mut store, extra, &value(extra, LEN));
        extra += 1;
    }
    let first = word(&store, root, slot_offset(0));
    // With one entry of its own left, the leaf takes so many low keys that it splits among them.
    for key in PER_LEAF + 2..=2 * PER_LEAF {
        assert!(tree.remove(&mut store, key * STEP).unwrap());
    }
    assert_eq!(count(&store, root), MAX_ENTRIES);
    let mut key = 500;
    while tree.root.level() == 1 {
        insert(&mut tree, &mut store, key, &value(key, LEN));
        key -= 1;
    }
    // The lowest leaf has been split, and the node beside it: what is below the stale separator is in order.
    let parent = tree.root.block().unwrap();
    assert!(word(&store, parent, slot_offset(1)) < first);
    assert_eq!(word(&store, root, slot_offset(0)), 0);
    assert_all_found(&tree, &store, &collect(&tree, &store).into_iter().collect());
}

#[test]
fn merged_inner_nodes_keep_their_parents_separator() {
    let (mut tree, mut store) = built(300);
    assert_eq!(tree.root.level(), 2);
    // The right inner node's first leaf goes; a key that belonged there goes to the next leaf, below its separator.
    drop_leaf(&mut tree, &mut store, 252);
    let between = 252 * PER_LEAF * STEP + STEP + 1;
    insert(&mut tree, &mut store, between, &value(between, LEN));
    let mut entries: BTreeMap<u64, Vec<u8>> = collect(&tree, &store).into_iter().collect();
    for leaf in (100..250).rev() {
        drop_leaf(&mut tree, &mut store, leaf);
        let keys = leaf * PER_LEAF * STEP + 1..=(leaf + 1) * PER_LEAF * STEP;
        entries.retain(|key, _| !keys.contains(key));
    }
    for leaf in (260..300).rev() {
        drop_leaf(&mut tree, &mut store, leaf);
        let keys = leaf * PER_LEAF * STEP + 1..=(leaf + 1) * PER_LEAF * STEP;
        entries.retain(|key, _| !keys.contains(key));
    }
    assert_eq!(
        tree.root.level(),
        1,
        "the two inner nodes are one, and the root is gone"
    );
    assert_all_found(&tree, &store, &entries);
}

#[test]
fn subtree_with_two_parents_is_refused() {
    let (tree, mut store) = built(600);
    let root = tree.root.block().unwrap();
    let first = child(&store, root, 0);
    set_word(&mut store, root, slot_offset(1) + 8, first.raw());
    assert!(tree.for_each_node(&store, |_, _| Ok(())).is_err());
    assert!(tree.get(&store, 300 * PER_LEAF * STEP).is_err());
    let mut cursor = Cursor::starting_at(252 * PER_LEAF * STEP + 1);
    assert!(cursor.next_batch(&tree, &store).is_err());
}

#[test]
fn leaf_that_is_listed_twice_is_visited_once_and_refused() {
    let (tree, mut store) = built(5);
    let root = tree.root.block().unwrap();
    for (from, to) in [(0, 1), (0, 4), (4, 2)] {
        let (listed, kept) = (child(&store, root, from), child(&store, root, to));
        set_word(&mut store, root, slot_offset(to) + 8, listed.raw());
        let mut visits = 0;
        let outcome = tree.for_each_node(&store, |block, _| {
            visits += u32::from(block == listed);
            Ok(())
        });
        assert!(outcome.is_err(), "leaf {from} as leaf {to}");
        assert_eq!(visits, 1);
        set_word(&mut store, root, slot_offset(to) + 8, kept.raw());
    }
    store.check(&tree);
}

#[test]
fn leaf_that_is_its_own_neighbour_is_not_merged() {
    let (mut tree, mut store) = built(2);
    let root = tree.root.block().unwrap();
    let first = child(&store, root, 0);
    set_word(&mut store, root, slot_offset(1) + 8, first.raw());
    let outcomes: Vec<_> = (1..PER_LEAF)
        .map(|key| tree.remove(&mut store, key * STEP))
        .collect();
    assert!(outcomes.iter().any(Result::is_err));
    assert_eq!(tree.root, TreeRoot::new(root, 1));
}
