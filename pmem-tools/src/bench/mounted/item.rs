//! What is timed on a mounted filesystem.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::Advice;

use super::super::machine::scattered;
use super::place::run;
use crate::size::float;

/// Files of a round.
const FILES: u64 = 200;
/// Bytes of the file that is read and written, a power of two of blocks.
const FILE_BYTES: u64 = 32 << 20;
const BLOCK: u64 = 4096;
const CHUNK: u64 = 1 << 20;
/// Blocks read or written in a round.
const BLOCKS: u64 = 512;
/// Directories of the tree, files in each, and how large they are in turn: as in the sources of the kernel, half
/// are below 6 KiB, and a few hold most bytes.
const DIRECTORIES: u64 = 25;
const FILES_EACH: u64 = 20;
const SIZES: [usize; 10] = [300, 900, 1800, 3100, 5000, 7800, 12_000, 19_000, 33_000, 90_000];

/// Something to be timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Item {
    Create,
    Stat,
    Rename,
    Unlink,
    RandomRead,
    RandomWrite,
    SequentialRead,
    SequentialWrite,
    Unpack,
    RemoveTree,
    CreateSynced,
    CreateWritten,
}

/// What rounds need besides the place.
#[derive(Debug)]
pub(super) struct Work {
    archive: PathBuf,
    block: Vec<u8>,
}

impl Work {
    /// Makes an archive of a tree in `directory`, if there is none yet.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let archive = directory.join("tree.tar");
        if !archive.exists() {
            let tree = directory.join("tree");
            make_tree(&tree)?;
            run(Command::new("tar")
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(directory)
                .arg("tree"))?;
            fs::remove_dir_all(tree)?;
        }
        let length = usize::try_from(CHUNK)?;
        Ok(Self {
            archive,
            block: vec![0x5a; length],
        })
    }

    fn part(&self, length: u64) -> &[u8] {
        let length = usize::try_from(length).unwrap_or(0);
        self.block.get(..length).unwrap_or_default()
    }
}

fn make_tree(tree: &Path) -> Result<()> {
    let mut sizes = SIZES.iter().cycle();
    for number in 0..DIRECTORIES {
        // Two levels.
        let directory = tree.join(format!("{}/{number}", number % 5));
        fs::create_dir_all(&directory)?;
        for (file, size) in (0..FILES_EACH).zip(&mut sizes) {
            fs::write(directory.join(format!("file-{file}.c")), vec![b'x'; *size])?;
        }
    }
    Ok(())
}

impl Item {
    /// Those that are compared with a filesystem that syncs nothing.
    pub(super) const ALL: [Self; 10] = [
        Self::Create,
        Self::Stat,
        Self::Rename,
        Self::Unlink,
        Self::RandomRead,
        Self::RandomWrite,
        Self::SequentialRead,
        Self::SequentialWrite,
        Self::Unpack,
        Self::RemoveTree,
    ];

    /// For the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Create => "create + close",
            Self::Stat => "stat",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::RandomRead => "random read 4 KiB",
            Self::RandomWrite => "random write 4 KiB",
            Self::SequentialRead => "sequential read 1 MiB",
            Self::SequentialWrite => "sequential write 1 MiB",
            Self::Unpack => "tar x, each of 500 files",
            Self::RemoveTree => "rm -r, each of 500 files",
            Self::CreateSynced => "create + write 4 KiB + fsync",
            Self::CreateWritten => "create + write 4 KiB, -o sync",
        }
    }

    /// Microseconds that one takes in `directory`; what it leaves there, it or the next one overwrites.
    pub(super) fn time(self, directory: &Path, work: &Work) -> Result<f64> {
        let (took, count) = match self {
            Self::Create | Self::Stat | Self::Rename | Self::Unlink => (self.names(directory)?, FILES),
            Self::RandomRead | Self::RandomWrite => (self.blocks(directory, work)?, BLOCKS),
            Self::SequentialRead | Self::SequentialWrite => {
                (self.chunks(directory, work)?, FILE_BYTES / CHUNK)
            }
            Self::Unpack | Self::RemoveTree => (self.tree(directory, work)?, DIRECTORIES * FILES_EACH),
            Self::CreateSynced | Self::CreateWritten => (self.small_files(directory, work)?, FILES),
        };
        Ok(took.as_secs_f64() * 1e6 / float(count))
    }

    fn names(self, directory: &Path) -> Result<Duration> {
        let directory = directory.join("names");
        fs::create_dir(&directory)?;
        let path = |number: u64| directory.join(format!("file-{number}"));
        let create = || -> Result<()> {
            for number in 0..FILES {
                File::create_new(path(number))?;
            }
            Ok(())
        };
        let mut created = timed(create)?;
        if self != Self::Create {
            created = timed(|| {
                for number in 0..FILES {
                    match self {
                        Self::Stat => {
                            fs::metadata(path(number))?;
                        }
                        Self::Rename => fs::rename(path(number), directory.join(format!("to-{number}")))?,
                        _ => fs::remove_file(path(number))?,
                    }
                }
                Ok(())
            })?;
        }
        fs::remove_dir_all(&directory)?;
        Ok(created)
    }

    /// The file, whole, and not in the kernel's cache.
    fn file(directory: &Path, work: &Work) -> Result<File> {
        let path = directory.join("data");
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if is_new {
            for chunk in 0..FILE_BYTES / CHUNK {
                file.write_all_at(work.part(CHUNK), chunk * CHUNK)?;
            }
        }
        // Or only the kernel's own memory would be measured.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(file)
    }

    fn blocks(self, directory: &Path, work: &Work) -> Result<Duration> {
        let file = Self::file(directory, work)?;
        rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
        let mut block = work.part(BLOCK).to_vec();
        timed(|| {
            for number in 0..BLOCKS {
                let at = scattered(number, FILE_BYTES / BLOCK) * BLOCK;
                match self {
                    Self::RandomRead => file.read_exact_at(&mut block, at)?,
                    _ => file.write_all_at(&block, at)?,
                }
            }
            Ok(())
        })
    }

    fn chunks(self, directory: &Path, work: &Work) -> Result<Duration> {
        let file = Self::file(directory, work)?;
        let mut chunk = work.part(CHUNK).to_vec();
        timed(|| {
            for number in 0..FILE_BYTES / CHUNK {
                match self {
                    Self::SequentialRead => file.read_exact_at(&mut chunk, number * CHUNK)?,
                    _ => file.write_all_at(&chunk, number * CHUNK)?,
                }
            }
            Ok(())
        })
    }

    fn small_files(self, directory: &Path, work: &Work) -> Result<Duration> {
        let directory = directory.join("small");
        fs::create_dir(&directory)?;
        let took = timed(|| {
            for number in 0..FILES {
                let mut file = File::create_new(directory.join(format!("file-{number}")))?;
                file.write_all(work.part(BLOCK))?;
                if self == Self::CreateSynced {
                    file.sync_all()?;
                }
            }
            Ok(())
        })?;
        fs::remove_dir_all(&directory)?;
        Ok(took)
    }

    fn tree(self, directory: &Path, work: &Work) -> Result<Duration> {
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&work.archive).arg("-C").arg(directory);
        let unpacked = timed(|| run(&mut unpack))?;
        let removed = timed(|| run(Command::new("rm").arg("-r").arg(directory.join("tree"))))?;
        Ok(if self == Self::Unpack { unpacked } else { removed })
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}
