//! Damaged nodes: errors or harmless answers, never a panic or an endless loop.

use proptest::collection::vec;
use proptest::prelude::*;
use udax_media::BlockNo;
use udax_media::node::TreeRoot;

use super::super::{Cursor, Tree};
use super::memory::{IDENTITY, Memory};
use super::value;

fn sample(entries: u64) -> (Tree, Memory) {
    let mut store = Memory::default();
    let tree = Tree::build(
        &mut store,
        IDENTITY,
        (0..entries).map(|key| (key * 5, value(key, 20))),
    )
    .unwrap();
    (tree, store)
}

/// Every operation; the answers do not matter.
fn exercise(mut tree: Tree, mut store: Memory, keys: &[u64]) {
    let mut nodes = 0_usize;
    let _ = tree.for_each_node(&store, |_, _| {
        nodes += 1;
        Ok(())
    });
    assert!(nodes < 100_000);
    let mut cursor = Cursor::starting_at(0);
    let (mut batches, mut last) = (0, None);
    while let Ok(Some(batch)) = cursor.next_batch(&tree, &store) {
        for (key, _) in batch.iter() {
            assert!(last < Some(key), "keys ascend whatever the damage");
            last = Some(key);
        }
        batches += 1;
        assert!(batches < 100_000);
    }
    for key in keys {
        let _ = tree.get(&store, *key);
        let _ = tree.floor(&store, *key);
        let _ = tree.ceiling(&store, *key);
        if let Ok(Some((found, _))) = tree.first_in_range(&store, *key, key.saturating_add(9)) {
            assert!((*key..=key.saturating_add(9)).contains(&found));
        }
        let _ = tree.replace(&mut store, *key, &value(*key, 33));
        let _ = tree.insert(&mut store, *key + 1, &value(*key, 900));
        let _ = tree.remove(&mut store, *key);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn damaged_nodes_do_no_harm(
        is_blind in any::<bool>(),
        flips in vec((1..240_u64, prop_oneof![0..80_usize, 0..4096_usize], any::<u8>()), 1..12),
        keys in vec(0..100_000_u64, 1..60),
    ) {
        let (tree, mut store) = sample(20_000);
        for (block, at, byte) in flips {
            if let Some(bytes) = store.block_mut(BlockNo(block)) {
                bytes[at] = byte;
            }
        }
        store.forget_verified();
        store.is_blind = is_blind;
        // A store that verifies still frees what a wrong child names, so its own checks are off too.
        exercise(tree, store, &keys);
    }

    #[test]
    fn any_root_word_does_no_harm(word in any::<u64>(), low in 0..300_u64, level in 0..20_u8) {
        let (_, mut store) = sample(20_000);
        store.is_blind = true;
        for root in [TreeRoot::from_word(word), TreeRoot::new(BlockNo(low), level)] {
            exercise(Tree::new(IDENTITY, root), store.clone(), &[0, 7, 50_000]);
        }
    }
}

#[test]
fn node_of_another_tree_is_refused() {
    let (tree, mut store) = sample(20_000);
    store.forget_verified();
    let mut other = IDENTITY;
    other.owner += 1;
    assert!(Tree::new(other, tree.root).get(&store, 5).is_err());
    let level = tree.root.level() + 1;
    let block = tree.root.block().unwrap();
    assert!(
        Tree::new(IDENTITY, TreeRoot::new(block, level))
            .get(&store, 5)
            .is_err()
    );
}

#[test]
fn child_that_is_its_own_ancestor_is_refused() {
    let (tree, mut store) = sample(20_000);
    let root = tree.root.block().unwrap();
    store.block_mut(root).unwrap()[72..80].copy_from_slice(&root.raw().to_le_bytes());
    store.is_blind = true;
    assert!(tree.get(&store, 0).is_err());
    assert!(tree.for_each_node(&store, |_, _| Ok(())).is_err());
}
