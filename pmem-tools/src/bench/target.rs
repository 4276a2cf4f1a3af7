//! What operations run on: a pool through the library, or a directory through the kernel.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::Result;
use udax::{File, Filesystem, NewInode, OpenFlags, RenameMode};

/// A filesystem with the calls that are measured. Names are paths below its root.
pub(super) trait Target {
    /// An open file.
    type File;

    /// Makes a file, for reading and writing.
    fn open_new(&self, name: &str) -> Result<Self::File>;
    /// Makes and closes an empty file.
    fn create(&self, name: &str) -> Result<()>;
    /// Opens a file for reading, and closes it.
    fn open_and_close(&self, name: &str) -> Result<()>;
    /// Makes a directory.
    fn make_dir(&self, name: &str) -> Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, name: &str) -> Result<()>;
    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn unlink(&self, name: &str) -> Result<()>;
    /// Reads all of `block` from byte `at` on.
    fn read_at(&self, file: &Self::File, block: &mut [u8], at: u64) -> Result<()>;
    /// Writes all of `block` from byte `at` on.
    fn write_at(&self, file: &Self::File, block: &[u8], at: u64) -> Result<()>;
    /// Writes all of `block` at the end.
    fn append(&self, file: &mut Self::File, block: &[u8]) -> Result<()>;
    /// Cuts a file to nothing.
    fn truncate(&self, file: &Self::File) -> Result<()>;
}

/// Everything is durable on return, as far as the pool's medium goes.
impl Target for Filesystem {
    type File = File;

    fn open_new(&self, name: &str) -> Result<File> {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        Ok(self.open_file(name, flags, NewInode::with_permissions(0o644))?)
    }

    fn create(&self, name: &str) -> Result<()> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        self.open_file(name, flags, NewInode::with_permissions(0o644))?;
        Ok(())
    }

    fn open_and_close(&self, name: &str) -> Result<()> {
        self.open_file(name, OpenFlags::READ, NewInode::with_permissions(0))?;
        Ok(())
    }

    fn make_dir(&self, name: &str) -> Result<()> {
        self.create_dir(name, NewInode::with_permissions(0o755))?;
        Ok(())
    }

    fn remove_dir(&self, name: &str) -> Result<()> {
        Ok(Self::remove_dir(self, name)?)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(Self::rename(self, from, to, RenameMode::Replace)?)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        Ok(Self::unlink(self, name)?)
    }

    fn read_at(&self, file: &File, block: &mut [u8], at: u64) -> Result<()> {
        file.read_at(block, at)?;
        Ok(())
    }

    fn write_at(&self, file: &File, block: &[u8], at: u64) -> Result<()> {
        file.write_at(block, at)?;
        Ok(())
    }

    fn append(&self, file: &mut File, block: &[u8]) -> Result<()> {
        file.append(block)?;
        Ok(())
    }

    fn truncate(&self, file: &File) -> Result<()> {
        Ok(file.truncate(0)?)
    }
}

/// A directory of a filesystem that the kernel has mounted. Nothing is synced.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The directory; names are below it.
    pub(super) directory: PathBuf,
}

impl Target for Kernel {
    type File = fs::File;

    fn open_new(&self, name: &str) -> Result<fs::File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        Ok(options.open(self.directory.join(name))?)
    }

    fn create(&self, name: &str) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(self.directory.join(name))?;
        Ok(())
    }

    fn open_and_close(&self, name: &str) -> Result<()> {
        fs::File::open(self.directory.join(name))?;
        Ok(())
    }

    fn make_dir(&self, name: &str) -> Result<()> {
        Ok(fs::create_dir(self.directory.join(name))?)
    }

    fn remove_dir(&self, name: &str) -> Result<()> {
        Ok(fs::remove_dir(self.directory.join(name))?)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(fs::rename(self.directory.join(from), self.directory.join(to))?)
    }

    fn unlink(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.directory.join(name))?)
    }

    fn read_at(&self, file: &fs::File, block: &mut [u8], at: u64) -> Result<()> {
        Ok(file.read_exact_at(block, at)?)
    }

    fn write_at(&self, file: &fs::File, block: &[u8], at: u64) -> Result<()> {
        Ok(file.write_all_at(block, at)?)
    }

    fn append(&self, file: &mut fs::File, block: &[u8]) -> Result<()> {
        // Nobody else writes: the position is the end.
        Ok(file.write_all(block)?)
    }

    fn truncate(&self, file: &fs::File) -> Result<()> {
        file.set_len(0)?;
        let mut file = file;
        std::io::Seek::rewind(&mut file)?;
        Ok(())
    }
}
