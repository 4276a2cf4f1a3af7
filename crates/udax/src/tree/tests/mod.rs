//! The tree against a model, against failing stores and against damage.

mod damage;
mod edges;
mod memory;
mod model;
mod shape;

use memory::{IDENTITY, Memory};
use udax_media::node::TreeRoot;

use super::{Cursor, Insertion, Tree};

fn empty() -> Tree {
    Tree::new(IDENTITY, TreeRoot::EMPTY)
}

/// A value that depends on its key, of `len` bytes.
fn value(key: u64, len: usize) -> Vec<u8> {
    key.to_le_bytes()
        .into_iter()
        .cycle()
        .zip(0_u8..=255_u8)
        .map(|(byte, salt)| byte ^ salt)
        .cycle()
        .take(len)
        .collect()
}

/// All entries, through a cursor.
fn collect(tree: &Tree, store: &Memory) -> Vec<(u64, Vec<u8>)> {
    let mut cursor = Cursor::starting_at(0);
    let mut entries = Vec::new();
    while let Some(batch) = cursor.next_batch(tree, store).unwrap() {
        assert!(batch.iter().next().is_some());
        entries.extend(batch.iter().map(|(key, value)| (key, value.to_vec())));
    }
    entries
}

fn insert(tree: &mut Tree, store: &mut Memory, key: u64, value: &[u8]) {
    assert_eq!(
        tree.insert(store, key, value).unwrap(),
        Insertion::Inserted,
        "key {key}"
    );
}
