//! Switching the checksums of a file's data on and off, and of what is made in a directory.

use udax_dax::Mode;
use udax_media::FileBlock;
use udax_media::inode::{FileKind, InodeFlags};

use super::File;
use super::summed::LastLook;
use crate::error::{Error, Result};
use crate::extents::END_OF_FILES;
use crate::inode::{Inode, InodeState};
use crate::options::Checksums;
use crate::pool::Pool;

impl File {
    /// Whether the file's data gets checksums, which every read verifies.
    ///
    /// `On` gives what the file holds now checksums of what it holds, whatever that is; it waits for pins. `Off` takes
    /// all away without a look at them, so that what has changed can be read as it is. In a directory only what is made
    /// from now on inherits it.
    ///
    /// With checksums each write goes to new blocks, never in place, and so is atomic: up to 16 MiB at once. It waits
    /// for pins of blocks that have checksums. Where the file is pinned for writing it has none ([`File::pin`]), and
    /// where it got blocks from a file without (clone, exchange) neither, until that is written; the last close of a
    /// file gives those that pins have taken.
    ///
    /// # Errors
    /// `NotSupported` in a pool that was made without room for checksums, and for other kinds than files and
    /// directories; `BadHandle` for a file that is not open for writing; `ReadOnly`; `NoSpace`. Then a part of the file
    /// may be done; doing it again goes on.
    ///
    /// # Durability
    /// Durable on return. Data first, some extents to a record.
    pub fn set_checksums(&self, checksums: Checksums) -> Result<()> {
        if self.inode.kind == FileKind::Regular {
            self.check_writable()?;
        }
        self.pool.set_checksums(&self.inode, checksums, &self.wait)
    }
}

impl Pool {
    /// See [`File::set_checksums`]; waits for pins as `mode` says.
    pub(crate) fn set_checksums(&self, inode: &Inode, checksums: Checksums, mode: &Mode) -> Result<()> {
        self.check_writable()?;
        if !matches!(inode.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Error::NotSupported("only files and directories have checksums"));
        }
        if checksums == Checksums::On && !self.has_sums {
            return Err(Error::NotSupported(
                "the pool was made without room for checksums of data",
            ));
        }
        self.wait_and_retry("set checksums", mode, || {
            self.retry_when_full(|| {
                let mut state = inode.write()?;
                self.settle(inode, &mut state)?;
                self.set_flag(inode, &mut state, checksums)?;
                match (inode.kind, checksums) {
                    (FileKind::Regular, Checksums::On) => self.sum_file(inode, &mut state),
                    (FileKind::Regular, Checksums::Off) => {
                        let all = (FileBlock(0), END_OF_FILES);
                        self.unsum_range(inode, &mut state, all, LastLook::No)
                    }
                    _ => Ok(()),
                }
            })
        })
    }

    fn set_flag(&self, inode: &Inode, state: &mut InodeState, checksums: Checksums) -> Result<()> {
        let (_, flags) = self.inode_mode_and_flags(inode)?;
        let mut flags = InodeFlags::from_bits_retain(flags);
        flags.set(InodeFlags::SUMMED, checksums == Checksums::On);
        self.store_flags(inode, state, flags)
    }
}
