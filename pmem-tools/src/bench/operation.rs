//! The filesystem's operations, in batches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use udax::{File, Filesystem, NewInode, OpenFlags, RenameMode};
use udax_pmem::Persistence;

use super::BATCH;
use super::machine::{Primitive, scattered};

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

/// The pool in which the operations run.
pub(super) struct Setup {
    filesystem: Filesystem,
    data: File,
    log: File,
    appended: u64,
}

impl Setup {
    /// Makes what the operations need.
    pub(super) fn new(filesystem: Filesystem) -> Result<Self> {
        let new = NewInode::with_permissions(0o755);
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
        filesystem.create_dir("/names", new)?;
        let data = filesystem.open_file("/data", flags, new)?;
        let chunk = vec![1; 2 << 20];
        for at in (0..FILE_BLOCKS * BLOCK).step_by(chunk.len()) {
            data.write_at(&chunk, at)?;
        }
        let log = filesystem.open_file("/log", flags, new)?;
        Ok(Self {
            filesystem,
            data,
            log,
            appended: 0,
        })
    }

    /// What the pool's medium promises.
    pub(super) fn persistence(&self) -> Persistence {
        self.filesystem.persistence()
    }

    /// Closes the pool.
    pub(super) fn close(self) -> Result<()> {
        drop((self.data, self.log));
        self.filesystem.close()?;
        Ok(())
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
            self.data.read_at(black_box(&mut block), at)?;
        }
        Ok(started.elapsed())
    }

    fn overwrite(&self, batch: u64) -> Result<Duration> {
        let block = [2; 4096];
        let started = Instant::now();
        for index in 0..BATCH {
            let at = scattered(batch * BATCH + index, FILE_BLOCKS) * BLOCK;
            self.data.write_at(black_box(&block), at)?;
        }
        Ok(started.elapsed())
    }

    fn append(&mut self) -> Result<Duration> {
        if self.appended >= MAX_APPENDED {
            self.log.truncate(0)?;
            self.appended = 0;
        }
        let block = [3; 4096];
        let started = Instant::now();
        for _ in 0..BATCH {
            self.log.append(black_box(&block))?;
        }
        self.appended += BATCH * BLOCK;
        Ok(started.elapsed())
    }

    fn create(&self) -> Result<Duration> {
        let names = names("a");
        let time = self.each(&names, create)?;
        self.each(&names, |filesystem, name| filesystem.unlink(name))?;
        Ok(time)
    }

    fn mkdir(&self) -> Result<Duration> {
        let names = names("a");
        let new = NewInode::with_permissions(0o755);
        let time = self.each(&names, |filesystem, name| {
            filesystem.create_dir(name, new).map(drop)
        })?;
        self.each(&names, |filesystem, name| filesystem.remove_dir(name))?;
        Ok(time)
    }

    fn rename(&self) -> Result<Duration> {
        let (old, new) = (names("a"), names("b"));
        self.each(&old, create)?;
        let started = Instant::now();
        for (old, new) in old.iter().zip(&new) {
            self.filesystem.rename(old, new, RenameMode::Replace)?;
        }
        let time = started.elapsed();
        self.each(&new, |filesystem, name| filesystem.unlink(name))?;
        Ok(time)
    }

    fn unlink(&self) -> Result<Duration> {
        let names = names("a");
        self.each(&names, create)?;
        self.each(&names, |filesystem, name| filesystem.unlink(name))
    }

    fn create_unlink(&self) -> Result<Duration> {
        self.each(&names("a"), |filesystem, name| {
            create(filesystem, name)?;
            filesystem.unlink(name)
        })
    }

    fn open(&self) -> Result<Duration> {
        let names = names("a");
        self.each(&names, create)?;
        let new = NewInode::with_permissions(0);
        let time = self.each(&names, |filesystem, name| {
            filesystem.open_file(name, OpenFlags::READ, new).map(drop)
        })?;
        self.each(&names, |filesystem, name| filesystem.unlink(name))?;
        Ok(time)
    }

    fn each(
        &self,
        names: &[String],
        work: impl Fn(&Filesystem, &str) -> udax::Result<()>,
    ) -> Result<Duration> {
        let started = Instant::now();
        for name in names {
            work(&self.filesystem, name)?;
        }
        Ok(started.elapsed())
    }
}

fn names(prefix: &str) -> Vec<String> {
    (0..BATCH)
        .map(|index| format!("/names/{prefix}{index}"))
        .collect()
}

fn create(filesystem: &Filesystem, name: &str) -> udax::Result<()> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    filesystem
        .open_file(name, flags, NewInode::with_permissions(0o644))
        .map(drop)
}
