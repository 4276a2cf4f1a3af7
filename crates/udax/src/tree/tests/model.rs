//! Random operations, compared with a `BTreeMap`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use proptest::collection::vec;
use proptest::prelude::*;
use udax_media::node::MAX_VALUE_BYTES;

use super::super::{Insertion, Tree};
use super::memory::{IDENTITY, Memory};
use super::{collect, empty, value};

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, usize),
    Replace(u64, usize),
    Remove(u64),
    Ask(u64),
    RemoveRange(u64, u64),
    Rebuild,
}

fn keys() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..400_u64,
        1 => (0..100_u64).prop_map(|key| u64::MAX - key),
        1 => any::<u64>(),
    ]
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..64_usize,
        2 => 0..300_usize,
        2 => 0..=MAX_VALUE_BYTES,
        1 => Just(MAX_VALUE_BYTES),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (keys(), lengths()).prop_map(|(key, len)| Step::Insert(key, len)),
        4 => (keys(), lengths()).prop_map(|(key, len)| Step::Replace(key, len)),
        6 => keys().prop_map(Step::Remove),
        6 => keys().prop_map(Step::Ask),
        1 => (keys(), 0..100_u64).prop_map(|(first, count)| Step::RemoveRange(first, count)),
        1 => Just(Step::Rebuild),
    ]
}

struct Pair {
    tree: Tree,
    store: Memory,
    model: BTreeMap<u64, Vec<u8>>,
}

impl Pair {
    fn take(&mut self, step: &Step) {
        let Self { tree, store, model } = self;
        match *step {
            Step::Insert(key, len) => {
                let expected = match model.entry(key) {
                    Entry::Occupied(_) => Insertion::Exists,
                    Entry::Vacant(place) => {
                        place.insert(value(key, len));
                        Insertion::Inserted
                    }
                };
                assert_eq!(tree.insert(store, key, &value(key, len)).unwrap(), expected);
            }
            Step::Replace(key, len) => {
                let new = value(!key, len);
                assert_eq!(tree.replace(store, key, &new).unwrap(), model.contains_key(&key));
                model.entry(key).and_modify(|value| *value = new);
            }
            Step::Remove(key) => {
                assert_eq!(tree.remove(store, key).unwrap(), model.remove(&key).is_some());
            }
            Step::Ask(key) => self.ask(key),
            Step::RemoveRange(first, count) => {
                let last = first.saturating_add(count);
                while let Some((key, _)) = tree.first_in_range(store, first, last).unwrap() {
                    assert_eq!(model.range(first..=last).next().map(|entry| *entry.0), Some(key));
                    model.remove(&key);
                    assert!(tree.remove(store, key).unwrap());
                }
                assert_eq!(model.range(first..=last).next(), None);
            }
            Step::Rebuild => {
                let mut blocks = Vec::new();
                tree.for_each_node(store, |block, _| {
                    blocks.push(block);
                    Ok(())
                })
                .unwrap();
                *tree = Tree::build(store, IDENTITY, model.iter().map(|(key, value)| (*key, value))).unwrap();
                for block in blocks {
                    super::super::NodeStore::free(store, block);
                }
            }
        }
    }

    fn ask(&self, key: u64) {
        let Self { tree, store, model } = self;
        let plain =
            |found: Option<(u64, super::super::Value)>| found.map(|(key, value)| (key, value.bytes.to_vec()));
        let copy = |(key, value): (&u64, &Vec<u8>)| (*key, value.clone());
        let got = tree.get(store, key).unwrap();
        assert_eq!(
            got.as_ref().map(|value| value.bytes.to_vec()),
            model.get(&key).cloned()
        );
        if let Some(value) = got {
            let block = store.block(value.at.block).unwrap();
            assert_eq!(block[value.at.offset..][..value.at.len], value.bytes[..]);
        }
        assert_eq!(
            plain(tree.floor(store, key).unwrap()),
            model.range(..=key).next_back().map(copy)
        );
        assert_eq!(
            plain(tree.ceiling(store, key).unwrap()),
            model.range(key..).next().map(copy)
        );
        let last = key.saturating_add(7);
        assert_eq!(
            plain(tree.first_in_range(store, key, last).unwrap()),
            model.range(key..=last).next().map(copy)
        );
    }

    fn check(&self) {
        self.store.check(&self.tree);
        let expected: Vec<_> = self
            .model
            .iter()
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        assert_eq!(collect(&self.tree, &self.store), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn tree_is_like_a_map(steps in vec(steps(), 1..400)) {
        let mut pair = Pair { tree: empty(), store: Memory::default(), model: BTreeMap::new() };
        for (count, step) in steps.iter().enumerate() {
            pair.take(step);
            if count % 8 == 0 {
                pair.check();
            }
        }
        pair.check();
        for key in pair.model.keys().copied().collect::<Vec<_>>() {
            pair.take(&Step::Remove(key));
        }
        prop_assert_eq!(pair.store.live(), 0);
        prop_assert_eq!(pair.tree, empty());
    }
}

/// Three levels and more: small values in every order of insertion and removal.
#[test]
fn deep_trees_are_like_a_map() {
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let mut pair = Pair {
        tree: empty(),
        store: Memory::default(),
        model: BTreeMap::new(),
    };
    let mut keys: Vec<u64> = (0..60_000).map(|_| rng.random()).collect();
    for key in &keys {
        pair.take(&Step::Insert(*key, usize::try_from(key % 90).unwrap()));
    }
    pair.check();
    assert!(pair.tree.root.level() >= 2);
    for _ in 0..2000 {
        pair.ask(rng.random());
        pair.ask(keys[rng.random_range(0..keys.len())]);
    }
    keys.shuffle(&mut rng);
    for (count, key) in keys.iter().enumerate() {
        pair.take(&Step::Remove(*key));
        if count % 97 == 0 {
            // What is inserted beside removed keys goes where separators are older than the entries.
            pair.take(&Step::Insert(key.wrapping_sub(1), 40));
        }
        if count % 5000 == 0 {
            pair.check();
        }
    }
    pair.check();
    for key in pair.model.keys().copied().collect::<Vec<_>>() {
        pair.take(&Step::Remove(key));
    }
    assert_eq!(pair.store.live(), 0);
}
