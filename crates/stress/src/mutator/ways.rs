//! Files that are DAX files and cached ones in turn: switches, and the [`Door`]s through which they are read and
//! written.
//!
//! None of it changes whose a block is, so that nobody needs to be a file's steward for it.

use rand::Rng;
use udax::{Dax, Error, File, ReadFlags, WriteFlags};

use super::Mutator;
use crate::life::{Life, OpenLife};
use crate::options::Ways;
use crate::tally::Operation;

/// How a file is read or written. While it is a DAX file all are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// As any program does.
    Plain,
    /// Through the cache, which then keeps nothing of it.
    Dropping,
    /// Past the cache, which must not have another opinion then.
    Direct,
    /// Durable on return.
    Durable,
}

impl Door {
    fn file(self, life: &OpenLife) -> &File {
        match self {
            Self::Direct => life.direct.as_ref().unwrap_or(&life.file),
            _ => &life.file,
        }
    }

    /// Reads.
    pub(crate) fn read(self, life: &OpenLife, to: &mut [u8], offset: u64) -> udax::Result<usize> {
        let file = self.file(life);
        match self {
            Self::Dropping => match file.read_with(to, offset, ReadFlags::DONTCACHE) {
                Err(Error::NotSupported(_)) => file.read_at(to, offset),
                result => result,
            },
            _ => file.read_at(to, offset),
        }
    }

    /// Writes.
    pub(crate) fn write(self, life: &OpenLife, bytes: &[u8], offset: u64) -> udax::Result<usize> {
        let file = self.file(life);
        let flags = match self {
            Self::Plain | Self::Direct => WriteFlags::empty(),
            Self::Dropping => WriteFlags::DONTCACHE,
            Self::Durable => WriteFlags::DSYNC,
        };
        match file.write_with(bytes, offset, flags) {
            Err(Error::NotSupported(_)) if self == Self::Dropping => file.write_at(bytes, offset),
            result => result.map(|(_, count)| count),
        }
    }
}

impl Mutator {
    fn is_switched(&self) -> bool {
        self.contest.options.ways == Ways::Switched
    }

    /// How to read or write this time.
    pub(super) fn some_door(&mut self, life: &OpenLife) -> Door {
        if life.direct.is_none() {
            return Door::Plain;
        }
        match self.random.random_range(0..8) {
            0 => Door::Dropping,
            1 => Door::Direct,
            2 => Door::Durable,
            _ => Door::Plain,
        }
    }

    /// Sometimes, makes a cached file of a DAX file, or the other way round, whoever is its steward.
    pub(super) fn switch_sometimes(&mut self, life: &OpenLife) {
        if !self.is_switched() || !self.random.random_ratio(1, 6) {
            return;
        }
        let dax = if self.random.random() { Dax::On } else { Dax::Off };
        let impatient = self.impatient(&life.file);
        let file = impatient.as_ref().unwrap_or(&life.file);
        let result = self
            .contest
            .timed(&self.actor, Operation::Switch, || file.set_dax(dax));
        self.contest.settle(Operation::Switch, life, result);
    }

    /// Sometimes, makes one file durable, or all of them.
    pub(super) fn sync_sometimes(&mut self, life: &OpenLife) {
        if !self.is_switched() {
            return;
        }
        match self.random.random_range(0..64) {
            0 => self.sync_all(life),
            1..4 => self.sync(life, &life.file),
            _ => {}
        }
    }

    /// Makes one file durable.
    pub(super) fn sync(&self, life: &Life, file: &File) {
        let result = self.contest.timed(&self.actor, Operation::Sync, || file.sync());
        self.contest.settle(Operation::Sync, life, result);
    }

    fn sync_all(&self, life: &Life) {
        let filesystem = &self.contest.filesystem;
        let result = self
            .contest
            .timed(&self.actor, Operation::SyncAll, || filesystem.sync());
        self.contest.settle(Operation::SyncAll, life, result);
    }
}
