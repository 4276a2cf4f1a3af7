//! What is written, how full nodes are, what fails halfway, what a cursor sees.

use std::collections::BTreeSet;

use udax_media::node::{MAX_VALUE_BYTES, TreeRoot};

use super::super::{Cursor, Insertion, TooLong, Tree};
use super::memory::{IDENTITY, Memory, TestError};
use super::{collect, empty, insert, value};

fn filled(keys: impl IntoIterator<Item = u64>, len: usize) -> (Tree, Memory) {
    let (mut tree, mut store) = (empty(), Memory::default());
    for key in keys {
        insert(&mut tree, &mut store, key, &value(key, len));
    }
    (tree, store)
}

#[test]
fn insertion_writes_slot_value_and_state_only() {
    let (mut tree, mut store) = filled([10, 20], 30);
    store.writes.clear();
    insert(&mut tree, &mut store, 15, &value(15, 30));
    assert_eq!(store.written(), 16 + 32 + 8);
    store.writes.clear();
    assert_eq!(tree.insert(&mut store, 15, &[]).unwrap(), Insertion::Exists);
    assert_eq!(store.written(), 0);
    assert!(tree.remove(&mut store, 10).unwrap());
    assert_eq!(
        store.written(),
        8,
        "a removal writes the word of the slot that says it is free"
    );
    store.writes.clear();
    insert(&mut tree, &mut store, 12, &value(12, 27));
    assert_eq!(
        store.written(),
        16 + 32,
        "a free slot that fits is used without a change of the state"
    );
    store.writes.clear();
    insert(&mut tree, &mut store, 13, &[]);
    assert_eq!(store.written(), 16 + 8);
    store.writes.clear();
    assert!(tree.remove(&mut store, 13).unwrap());
    assert_eq!(store.written(), 8, "the last slot goes with the state word");
    store.check(&tree);
}

#[test]
fn replacement_of_the_same_length_writes_the_value_only() {
    let (mut tree, mut store) = filled(0..50, 16);
    store.writes.clear();
    assert!(tree.replace(&mut store, 7, &value(99, 16)).unwrap());
    assert_eq!(store.written(), 16);
    store.writes.clear();
    assert!(tree.replace(&mut store, 7, &value(99, 9)).unwrap());
    assert_eq!(store.written(), 16 + 8);
    assert!(tree.replace(&mut store, 7, &value(99, 500)).unwrap());
    assert_eq!(
        tree.get(&store, 7).unwrap().unwrap().bytes[..],
        value(99, 500)[..]
    );
    assert!(!tree.replace(&mut store, 70, &[]).unwrap());
    store.check(&tree);
}

#[test]
fn best_fitting_free_slot_is_reused() {
    let (mut tree, mut store) = (empty(), Memory::default());
    for (key, len) in [(1, 64), (2, 16), (3, 32), (4, 8)] {
        insert(&mut tree, &mut store, key, &value(key, len));
    }
    let place = tree.find(&store, 3).unwrap().unwrap().offset;
    for key in 1..=3 {
        assert!(tree.remove(&mut store, key).unwrap());
    }
    insert(&mut tree, &mut store, 9, &value(9, 20));
    assert_eq!(tree.find(&store, 9).unwrap().unwrap().offset, place);
}

#[test]
fn same_size_churn_never_grows_the_tree() {
    let (mut tree, mut store) = filled(0..60, 40);
    let live = store.live();
    for key in 60..10_000 {
        assert!(tree.remove(&mut store, key - 60).unwrap());
        store.writes.clear();
        insert(&mut tree, &mut store, key, &value(key, 40));
        assert!(store.written() <= 16 + 40 + 8);
    }
    assert_eq!(store.live(), live);
    store.check(&tree);
}

/// No node less than 10 of 11 parts full, values being of 32 bytes.
#[track_caller]
fn assert_dense(keys: &[u64]) {
    let (tree, store) = filled(keys.iter().copied(), 32);
    let dense = keys.len().div_ceil(4032 / 48);
    assert!(
        store.live() * 10 <= dense * 11,
        "{} nodes, {dense} full leaves",
        store.live()
    );
    store.check(&tree);
}

#[test]
fn ascending_insertion_fills_leaves() {
    assert_dense(&(0..100_000).collect::<Vec<_>>());
}

#[test]
fn descending_insertion_fills_leaves() {
    assert_dense(&(0..100_000).rev().collect::<Vec<_>>());
}

#[test]
fn descending_insertion_above_full_leaves_fills_leaves() {
    let below: Vec<u64> = (0..84 * 10).collect();
    let above: Vec<u64> = (1_000_000..1_100_000).rev().collect();
    assert_dense(&[below, above].concat());
}

#[test]
fn ascending_insertion_below_full_leaves_fills_leaves() {
    let above: Vec<u64> = (1_000_000..1_000_000 + 84 * 10).collect();
    let below: Vec<u64> = (0..100_000).collect();
    assert_dense(&[above, below].concat());
}

#[test]
fn insertion_in_no_order_leaves_leaves_more_than_half_full() {
    let keys = (0..100_000_u64).map(|key| key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8);
    let (tree, store) = filled(keys, 32);
    let dense = 100_000_usize.div_ceil(4032 / 48);
    // Leaves are between half full and full, as most were halved a while ago; some have been split at an end.
    assert!(
        store.live() * 10 <= dense * 19,
        "{} nodes, {dense} full leaves",
        store.live()
    );
    store.check(&tree);
}

#[test]
fn descending_and_alternating_insertion_keep_order() {
    for keys in [
        (0..20_000).rev().collect::<Vec<u64>>(),
        (0..10_000).flat_map(|key| [key, 1_000_000 - key]).collect(),
        (0..20_000).map(|key| key * 7919 % 20_011).collect(),
    ] {
        let (mut tree, mut store) = filled(keys.iter().copied(), 24);
        store.check(&tree);
        let sorted: BTreeSet<u64> = keys.iter().copied().collect();
        assert!(collect(&tree, &store).into_iter().map(|(key, _)| key).eq(sorted));
        for key in keys {
            assert!(tree.remove(&mut store, key).unwrap());
        }
        assert_eq!((tree.root, store.live()), (TreeRoot::EMPTY, 0));
    }
}

#[test]
fn removal_merges_what_it_thins() {
    let (mut tree, mut store) = filled(0..50_000, 16);
    let before = store.live();
    for key in (0..50_000).filter(|key| key % 16 != 0) {
        assert!(tree.remove(&mut store, key).unwrap());
    }
    store.check(&tree);
    assert!(
        store.live() * 3 < before,
        "{before} nodes became {}",
        store.live()
    );
}

#[test]
fn longest_values_fit_two_to_a_leaf() {
    let (mut tree, mut store) = filled(0..2, MAX_VALUE_BYTES);
    assert_eq!((tree.root.level(), store.live()), (0, 1));
    for key in 2..200 {
        insert(
            &mut tree,
            &mut store,
            key * 31 % 199 + 1000,
            &value(key, MAX_VALUE_BYTES),
        );
    }
    store.check(&tree);
    let error = tree
        .insert(&mut store, 5000, &vec![0; MAX_VALUE_BYTES + 1])
        .unwrap_err();
    // The caller's fault is not told as damage.
    assert_eq!(error, TestError::TooLong(TooLong(MAX_VALUE_BYTES + 1)));
    let error = crate::Error::from(TooLong(MAX_VALUE_BYTES + 1));
    assert_eq!(error.errno(), nix::errno::Errno::E2BIG);
}

#[test]
fn failed_allocation_changes_nothing_that_is_kept() {
    // Two levels, all nodes full: the next key allocates a leaf, an inner node and a root.
    let keys = 252 * 2;
    let mut store = Memory::default();
    let tree = Tree::build(
        &mut store,
        IDENTITY,
        (0..keys).map(|key| (key, value(key, MAX_VALUE_BYTES))),
    )
    .unwrap();
    assert_eq!(tree.root.level(), 1);
    let bytes = store.bytes();
    for allowed in 0..3 {
        let (mut running, mut transaction) = (tree, store.clone());
        transaction.allocations_left = Some(allowed);
        let error = running.insert(&mut transaction, keys, &value(keys, MAX_VALUE_BYTES));
        assert_eq!(error, Err(TestError::NoSpace), "{allowed} allocations");
        assert_eq!(running, tree, "the root changes only when all has succeeded");
        assert!(store.bytes() == bytes);
    }
    let (mut running, mut transaction) = (tree, store.clone());
    transaction.allocations_left = Some(3);
    insert(
        &mut running,
        &mut transaction,
        keys,
        &value(keys, MAX_VALUE_BYTES),
    );
    assert_eq!(running.root.level(), 2);
    transaction.check(&running);
}

#[test]
fn million_entries_are_built_and_found() {
    let mut store = Memory::default();
    let tree = Tree::build(
        &mut store,
        IDENTITY,
        (0..1_000_000).map(|key| (key * 3, value(key, 16))),
    )
    .unwrap();
    store.check(&tree);
    assert_eq!(tree.root.level(), 2);
    for key in (0..1_000_000).step_by(97) {
        assert_eq!(
            tree.get(&store, key * 3).unwrap().unwrap().bytes[..],
            value(key, 16)[..]
        );
        assert_eq!(tree.get(&store, key * 3 + 1).unwrap(), None);
        assert_eq!(tree.floor(&store, key * 3 + 2).unwrap().unwrap().0, key * 3);
    }
    assert_eq!(collect(&tree, &store).len(), 1_000_000);
}

#[test]
fn the_nodes_of_a_built_tree_are_foretold() {
    for entries in [0, 1, 126, 127, 252, 253, 126 * 252, 126 * 252 + 1, 100_000] {
        let mut store = Memory::default();
        let tree = Tree::build(&mut store, IDENTITY, (0..entries).map(|key| (key, [7; 16]))).unwrap();
        let mut nodes = 0;
        tree.for_each_node(&store, |_, _| {
            nodes += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(crate::tree::node_count(entries, 16), nodes, "{entries} entries");
    }
}

#[test]
fn build_refuses_keys_out_of_order() {
    let mut store = Memory::default();
    let result = Tree::build(&mut store, IDENTITY, [(1, [0_u8; 8]), (1, [0; 8])]);
    assert!(matches!(result, Err(TestError::Format(_))));
    let nothing: [(u64, [u8; 0]); 0] = [];
    assert_eq!(
        Tree::build(&mut Memory::default(), IDENTITY, nothing).unwrap(),
        empty()
    );
}

#[test]
fn cursor_meets_what_stays_exactly_once() {
    // Multiples of 10 stay; everything around them comes and goes between the batches.
    let stays: Vec<u64> = (0..3000).map(|key| key * 10).collect();
    let (mut tree, mut store) = filled(stays.iter().copied(), 40);
    let mut cursor = Cursor::starting_at(0);
    let (mut met, mut round) = (Vec::new(), 0_u64);
    while let Some(batch) = cursor.next_batch(&tree, &store).unwrap() {
        met.extend(batch.iter().map(|(key, _)| key));
        round += 1;
        for key in 0..600 {
            let key = (key * 7 + round * 131) % 30_000;
            if key % 10 == 0 {
                continue;
            }
            if round % 3 == 0 {
                tree.remove(&mut store, key).unwrap();
            } else {
                let _ = tree.insert(&mut store, key, &value(key, 60)).unwrap();
            }
        }
    }
    assert!(met.is_sorted_by(|one, two| one < two));
    met.retain(|key| key % 10 == 0);
    assert_eq!(met, stays);
}

#[test]
fn cursor_starts_at_the_first_key_not_before_its_start() {
    let (tree, store) = filled((0..1000).map(|key| key * 10), 40);
    for start in [0, 1, 10, 4995, 9990] {
        let mut cursor = Cursor::starting_at(start);
        let batch = cursor.next_batch(&tree, &store).unwrap().unwrap();
        assert_eq!(batch.iter().next().unwrap().0, start.next_multiple_of(10));
    }
    assert!(
        Cursor::starting_at(9991)
            .next_batch(&tree, &store)
            .unwrap()
            .is_none()
    );
}
