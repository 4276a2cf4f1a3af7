//! A file that has no medium: the benchmarks and the tests of allocations look at the cache alone.

use std::ops::Range;
use std::sync::{Arc, Weak};

use udax_pagecache::{
    Backing, BackingError, Cache, CacheError, CacheOptions, Control, Mapping, Owner, ReadRun, Reservations,
    Reserving, Stability, WriteRun, Written,
};

/// A large file of zeros, which forgets what is written.
pub(crate) struct Zeros;

impl Backing for Zeros {
    fn size(&self) -> u64 {
        1 << 40
    }

    fn read(&mut self, run: ReadRun) -> Result<(), BackingError> {
        run.complete();
        Ok(())
    }

    fn reserve(&mut self, _: Range<u64>, _: &mut Reserving<'_>) -> Result<(), BackingError> {
        Ok(())
    }

    fn write(&mut self, run: WriteRun) -> Result<(), BackingError> {
        run.complete(Ok(()));
        Ok(())
    }
}

/// Its mapping, in a cache of its own.
pub(crate) struct File(pub(crate) Arc<Mapping>);

impl Owner for File {
    fn mapping(&self) -> &Arc<Mapping> {
        &self.0
    }

    fn write_back(&self, control: Control) -> Result<Written, CacheError> {
        self.0.write_back(&mut Zeros, control)
    }
}

/// A file of which nothing is cached.
pub(crate) fn file(options: &CacheOptions) -> Arc<File> {
    let cache = Cache::new(options, Reservations::default());
    Arc::new_cyclic(|weak: &Weak<File>| {
        let owner: Weak<dyn Owner> = Weak::<File>::clone(weak);
        File(Mapping::new(&cache, 1, owner, Stability::Loose))
    })
}
