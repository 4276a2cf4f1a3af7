//! Files that a writer reaches through the page cache while it is killed: what is done to them. What must be found is
//! in [`super::promised`].
//!
//! The steps come from a seed alone; what each did follows from the reports.

use nix::errno::Errno;
use rand::Rng;
use rand::rngs::SmallRng;
use udax::{AllocateMode, Dax, File, Filesystem, OpenFlags, RenameMode, WriteFlags};

use super::pinned::{BLOCK_BYTES, NEW};
use crate::operation::Data;

/// Files of a writer's thread.
pub(super) const FILES: usize = 4;
/// Blocks of a file in which it is written.
const BLOCKS: u64 = 40;
/// The most bytes of a write.
const MAX_WRITE: usize = 40_000;

/// How bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// To the cache.
    Plain,
    /// `DSYNC`.
    Durable,
    /// `DONTCACHE`, which a DAX file refuses.
    Uncached,
    /// Both.
    UncachedDurable,
    /// Past the cache, through a handle that is opened for that.
    Direct,
    /// All or nothing: a power of two of bytes at a multiple of that.
    Atomic,
}

/// Bytes to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes {
    pub(super) at: u64,
    pub(super) data: Data,
}

/// One step of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Opens the file, made or emptied, in the place of what was open.
    Make {
        file: usize,
    },
    /// Opens the file again, if it has its name still.
    Reopen {
        file: usize,
    },
    Write {
        file: usize,
        bytes: Bytes,
        how: How,
    },
    /// Writes at the end.
    Append {
        file: usize,
        data: Data,
    },
    /// Sets the size.
    Cut {
        file: usize,
        size: u64,
    },
    Punch {
        file: usize,
        block: u64,
        count: u64,
    },
    Unlink {
        file: usize,
    },
    /// Gives the file another one's name.
    Replace {
        from: usize,
        to: usize,
    },
    /// Lets `to` share all blocks of `from`.
    Clone {
        from: usize,
        to: usize,
    },
    Sync {
        file: usize,
    },
    /// Sets the DAX flag, or takes it: moves the file between memory access and the cache, and between pool and device.
    Switch {
        file: usize,
        dax: Dax,
    },
}

/// Chooses steps: first all files are made, so that nothing depends on what an earlier writer has left.
#[derive(Debug)]
pub(super) struct Steps {
    made: usize,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { made: 0 }
    }

    pub(super) fn next(&mut self, random: &mut SmallRng) -> Step {
        if self.made < FILES {
            let file = self.made;
            self.made += 1;
            return Step::Make { file };
        }
        let file = random.random_range(0..FILES);
        let other = (file + random.random_range(1..FILES)) % FILES;
        let data = Data {
            seed: random.random(),
            len: 1 + (random.random_range(0..MAX_WRITE) >> random.random_range(0..8)),
        };
        let block = random.random_range(0..BLOCKS);
        let offset = block * BLOCK_BYTES + random.random_range(0..BLOCK_BYTES);
        let write = |how| {
            let bytes = Bytes { at: offset, data };
            Step::Write { file, bytes, how }
        };
        match random.random_range(0..100) {
            0..4 => Step::Make { file },
            4..7 => Step::Reopen { file },
            7..37 => write(How::Plain),
            37..45 => write(How::Durable),
            45..50 => write(How::Uncached),
            50..53 => write(How::UncachedDurable),
            53..57 => write(How::Direct),
            57..61 => atomic(file, (block, data.seed)),
            61..69 => Step::Append { file, data },
            69..75 => Step::Cut { file, size: offset },
            75..79 => Step::Punch {
                file,
                block,
                count: random.random_range(1..8),
            },
            79..82 => Step::Unlink { file },
            82..85 => Step::Replace {
                from: file,
                to: other,
            },
            85..88 => Step::Clone {
                from: file,
                to: other,
            },
            88..95 => Step::Sync { file },
            95..98 => Step::Switch { file, dax: Dax::On },
            _ => Step::Switch { file, dax: Dax::Off },
        }
    }
}

fn atomic(file: usize, (block, seed): (u64, u64)) -> Step {
    let blocks = 1 << (seed % 4);
    let len = usize::try_from(blocks * BLOCK_BYTES).unwrap_or(0);
    let bytes = Bytes {
        at: block / blocks * blocks * BLOCK_BYTES,
        data: Data { seed, len },
    };
    let how = How::Atomic;
    Step::Write { file, bytes, how }
}

/// The files of one thread of the writer.
#[derive(Debug)]
pub(super) struct Holder {
    filesystem: Filesystem,
    directory: String,
    slots: [Option<File>; FILES],
}

impl Holder {
    /// Its directory must be there.
    pub(super) fn new(filesystem: Filesystem, directory: String) -> Self {
        Self {
            filesystem,
            directory,
            slots: Default::default(),
        }
    }

    fn path(&self, file: usize) -> String {
        path(&self.directory, file)
    }

    fn file(&self, file: usize) -> udax::Result<&File> {
        let file = self.slots.get(file).and_then(Option::as_ref);
        file.ok_or(udax::Error::BadHandle("anything"))
    }

    /// Does one step.
    ///
    /// # Errors
    /// The number of its error.
    pub(super) fn apply(&mut self, step: Step) -> Result<(), Errno> {
        self.try_apply(step).map_err(|error| error.errno())
    }

    fn try_apply(&mut self, step: Step) -> udax::Result<()> {
        let read_write = OpenFlags::READ | OpenFlags::WRITE;
        match step {
            Step::Make { file } => {
                self.slots[file] = None;
                let flags = read_write | OpenFlags::CREATE | OpenFlags::TRUNCATE;
                self.slots[file] = Some(self.filesystem.open_file(self.path(file), flags, NEW)?);
                Ok(())
            }
            Step::Reopen { file } => {
                self.slots[file] = None;
                self.slots[file] = Some(self.filesystem.open_file(self.path(file), read_write, NEW)?);
                Ok(())
            }
            Step::Write { file, bytes, how } => self.write(file, bytes, how),
            Step::Append { file, data } => self.file(file)?.append(&data.bytes()).map(drop),
            Step::Cut { file, size } => self.file(file)?.truncate(size),
            Step::Punch { file, block, count } => {
                self.file(file)?
                    .allocate(AllocateMode::PunchHole, block * BLOCK_BYTES, count * BLOCK_BYTES)
            }
            Step::Unlink { file } => self.filesystem.unlink(self.path(file)),
            Step::Replace { from, to } => {
                let (from, to) = (self.path(from), self.path(to));
                self.filesystem.rename(from, to, RenameMode::Replace)
            }
            Step::Clone { from, to } => self.file(from)?.clone_range(0, self.file(to)?, 0, 0),
            Step::Sync { file } => self.file(file)?.sync(),
            Step::Switch { file, dax } => self.file(file)?.set_dax(dax),
        }
    }

    fn write(&self, file: usize, Bytes { at, data }: Bytes, how: How) -> udax::Result<()> {
        let direct;
        let (target, flags) = match how {
            How::Direct => {
                let flags = OpenFlags::WRITE | OpenFlags::DIRECT;
                direct = self.filesystem.open_file(self.path(file), flags, NEW)?;
                (&direct, WriteFlags::empty())
            }
            How::Plain => (self.file(file)?, WriteFlags::empty()),
            How::Durable => (self.file(file)?, WriteFlags::DSYNC),
            How::Uncached => (self.file(file)?, WriteFlags::DONTCACHE),
            How::UncachedDurable => (self.file(file)?, WriteFlags::DONTCACHE | WriteFlags::DSYNC),
            How::Atomic => (self.file(file)?, WriteFlags::ATOMIC),
        };
        let bytes = data.bytes();
        let mut done = 0;
        while done < bytes.len() {
            let at = at + u64::try_from(done).unwrap_or(0);
            done += target.write_with(&bytes[done..], at, flags)?.1;
        }
        Ok(())
    }
}

pub(super) fn path(directory: &str, file: usize) -> String {
    format!("{directory}/{file}")
}
