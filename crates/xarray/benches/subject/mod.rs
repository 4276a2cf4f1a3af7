//! What the benchmarks compare: the index, an ordered map behind a lock, and a concurrent hash map.

use std::collections::BTreeMap;

use rustc_hash::FxBuildHasher;
use udax_sync::{Rank, RwLock};
use udax_xarray::{Entry, XArray};

/// A map of numbers that threads share.
pub(crate) trait Subject: Sync {
    /// As it stands in tables.
    const NAME: &'static str;

    fn new() -> Self;
    fn load(&self, key: u64) -> Option<u64>;
    fn store(&self, key: u64, value: u64);
    fn erase(&self, key: u64);
}

impl Subject for XArray {
    const NAME: &'static str = "index";

    fn new() -> Self {
        Self::new(0)
    }

    #[inline]
    fn load(&self, key: u64) -> Option<u64> {
        Some(self.load_value(key)?.entry)
    }

    fn store(&self, key: u64, value: u64) {
        let stored = self.write().store(key, 0, Entry::Value(value));
        stored.expect("all entries have one order");
    }

    fn erase(&self, key: u64) {
        self.write().erase(key);
    }
}

/// `BTreeMap` behind a `RwLock`.
pub(crate) struct Locked(pub(crate) RwLock<BTreeMap<u64, u64>>);

impl Subject for Locked {
    const NAME: &'static str = "BTreeMap, RwLock";

    fn new() -> Self {
        Self(RwLock::new(Rank::Index, BTreeMap::new()))
    }

    #[inline]
    fn load(&self, key: u64) -> Option<u64> {
        self.0.read().get(&key).copied()
    }

    fn store(&self, key: u64, value: u64) {
        self.0.write().insert(key, value);
    }

    fn erase(&self, key: u64) {
        self.0.write().remove(&key);
    }
}

/// papaya's hash map.
pub(crate) struct Hashed(papaya::HashMap<u64, u64, FxBuildHasher>);

impl Subject for Hashed {
    const NAME: &'static str = "papaya";

    fn new() -> Self {
        Self(papaya::HashMap::with_hasher(FxBuildHasher))
    }

    #[inline]
    fn load(&self, key: u64) -> Option<u64> {
        self.0.pin().get(&key).copied()
    }

    fn store(&self, key: u64, value: u64) {
        self.0.pin().insert(key, value);
    }

    fn erase(&self, key: u64) {
        self.0.pin().remove(&key);
    }
}

/// A subject with `keys` dense keys.
pub(crate) fn filled<S: Subject>(keys: u64) -> S {
    let subject = S::new();
    (0..keys).for_each(|key| subject.store(key, key));
    subject
}

/// Numbers below `bound`, a power of two, in an order that prefetching does not follow.
#[inline]
pub(crate) fn scattered(number: u64, bound: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24 & (bound - 1)
}
