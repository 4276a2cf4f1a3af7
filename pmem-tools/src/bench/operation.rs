//! The filesystem's operations, in batches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::BATCH;
use super::machine::{Primitive, scattered};
use super::target::Target;

const BLOCK: u64 = 4096;
/// Blocks of the file that is read and overwritten: as many as the primitives' mapping has.
const FILE_BLOCKS: u64 = 32_768;
/// The file that is appended to is cut when it is so long.
const MAX_APPENDED: u64 = 64 << 20;

/// An operation that is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// Reads 4 KiB of a file.
    Read,
    /// Overwrites 4 KiB of a file, durable.
    Overwrite,
    /// Appends 4 KiB to a file, durable.
    Append,
    /// Makes and closes an empty file, durable.
    Create,
    /// Makes a directory, durable.
    Mkdir,
    /// Renames a file, durable.
    Rename,
    /// Removes an empty file, durable.
    Unlink,
    /// Makes, closes and removes a file, durable.
    CreateUnlink,
    /// Opens and closes a file that is in the cache.
    Open,
}

impl Operation {
    /// All of them, in the order of the table.
    pub(super) const ALL: [Self; 9] = [
        Self::Read,
        Self::Overwrite,
        Self::Append,
        Self::Create,
        Self::Mkdir,
        Self::Rename,
        Self::Unlink,
        Self::CreateUnlink,
        Self::Open,
    ];

    /// For the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read 4 KiB",
            Self::Overwrite => "overwrite 4 KiB",
            Self::Append => "append 4 KiB",
            Self::Create => "create",
            Self::Mkdir => "mkdir",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::CreateUnlink => "create + close + unlink",
            Self::Open => "open + close, cached",
        }
    }

    /// What it is compared with.
    pub(super) fn primitive(self) -> Primitive {
        match self {
            Self::Read => Primitive::Copy,
            Self::Overwrite | Self::Append => Primitive::Persist,
            _ => Primitive::Line,
        }
    }

    /// The ratio that it may have. (Open + close has a budget in nanoseconds instead: 150.)
    pub(super) fn budget(self) -> Option<f64> {
        match self {
            Self::Read | Self::Overwrite => Some(1.15),
            Self::Append => Some(2.0),
            Self::Create | Self::Mkdir | Self::Rename | Self::Unlink | Self::CreateUnlink => Some(4.0),
            Self::Open => None,
        }
    }
}

/// Where the operations run, and the files that they use.
pub(super) struct Setup<T: Target> {
    target: T,
    data: T::File,
    log: T::File,
    appended: u64,
}

impl<T: Target> Setup<T> {
    /// Makes what the operations need.
    pub(super) fn new(target: T) -> Result<Self> {
        target.make_dir("names")?;
        let data = target.open_new("data")?;
        let chunk = vec![1; 2 << 20];
        for at in (0..FILE_BLOCKS * BLOCK).step_by(chunk.len()) {
            target.write_at(&data, &chunk, at)?;
        }
        let log = target.open_new("log")?;
        Ok(Self {
            target,
            data,
            log,
            appended: 0,
        })
    }

    /// Closes its files.
    pub(super) fn into_target(self) -> T {
        self.target
    }

    /// The time of a batch. What it leaves behind is removed outside of that time.
    pub(super) fn batch(&mut self, operation: Operation, batch: u64) -> Result<Duration> {
        match operation {
            Operation::Read => self.read(batch),
            Operation::Overwrite => self.overwrite(batch),
            Operation::Append => self.append(),
            Operation::Create => self.create(),
            Operation::Mkdir => self.mkdir(),
            Operation::Rename => self.rename(),
            Operation::Unlink => self.unlink(),
            Operation::CreateUnlink => self.create_unlink(),
            Operation::Open => self.open(),
        }
    }

    fn read(&self, batch: u64) -> Result<Duration> {
        let mut block = [0; 4096];
        let started = Instant::now();
        for index in 0..BATCH {
            let at = scattered(batch * BATCH + index, FILE_BLOCKS) * BLOCK;
            self.target.read_at(&self.data, black_box(&mut block), at)?;
        }
        Ok(started.elapsed())
    }

    fn overwrite(&self, batch: u64) -> Result<Duration> {
        let block = [2; 4096];
        let started = Instant::now();
        for index in 0..BATCH {
            let at = scattered(batch * BATCH + index, FILE_BLOCKS) * BLOCK;
            self.target.write_at(&self.data, black_box(&block), at)?;
        }
        Ok(started.elapsed())
    }

    fn append(&mut self) -> Result<Duration> {
        if self.appended >= MAX_APPENDED {
            self.target.truncate(&self.log)?;
            self.appended = 0;
        }
        let block = [3; 4096];
        let started = Instant::now();
        for _ in 0..BATCH {
            self.target.append(&mut self.log, black_box(&block))?;
        }
        self.appended += BATCH * BLOCK;
        Ok(started.elapsed())
    }

    fn create(&self) -> Result<Duration> {
        let names = names("a");
        let time = self.each(&names, T::create)?;
        self.each(&names, T::unlink)?;
        Ok(time)
    }

    fn mkdir(&self) -> Result<Duration> {
        let names = names("a");
        let time = self.each(&names, T::make_dir)?;
        self.each(&names, T::remove_dir)?;
        Ok(time)
    }

    fn rename(&self) -> Result<Duration> {
        let (old, new) = (names("a"), names("b"));
        self.each(&old, T::create)?;
        let started = Instant::now();
        for (old, new) in old.iter().zip(&new) {
            self.target.rename(old, new)?;
        }
        let time = started.elapsed();
        self.each(&new, T::unlink)?;
        Ok(time)
    }

    fn unlink(&self) -> Result<Duration> {
        let names = names("a");
        self.each(&names, T::create)?;
        self.each(&names, T::unlink)
    }

    fn create_unlink(&self) -> Result<Duration> {
        self.each(&names("a"), |target, name| {
            target.create(name)?;
            target.unlink(name)
        })
    }

    fn open(&self) -> Result<Duration> {
        let names = names("a");
        self.each(&names, T::create)?;
        let time = self.each(&names, T::open_and_close)?;
        self.each(&names, T::unlink)?;
        Ok(time)
    }

    fn each(&self, names: &[String], work: impl Fn(&T, &str) -> Result<()>) -> Result<Duration> {
        let started = Instant::now();
        for name in names {
            work(&self.target, name)?;
        }
        Ok(started.elapsed())
    }
}

fn names(prefix: &str) -> Vec<String> {
    (0..BATCH).map(|index| format!("names/{prefix}{index}")).collect()
}
