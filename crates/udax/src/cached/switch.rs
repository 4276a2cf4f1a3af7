//! Switching a file between memory access and the page cache, while it is in use.

use udax_dax::{Fate, Mode};
use udax_media::FileBlock;
use udax_media::inode::{FileKind, InodeFlags};
use udax_sync::fault::{Fault, is_injected};

use super::Way;
use crate::error::{Error, Result};
use crate::extents::END_OF_FILES;
use crate::file::File;
use crate::inode::Inode;
use crate::options::Dax;
use crate::pool::Pool;
use crate::space::Tier;

impl File {
    /// Whether the file is reached by memory access now: else it is read and written through the page cache.
    pub fn is_dax(&self) -> bool {
        self.inode().kind == FileKind::Regular && !self.inode().is_cached()
    }

    /// Sets or clears the inode's DAX flag (`FS_XFLAG_DAX`), and in a pool that is open with [`crate::DaxMode::Inode`]
    /// switches the file at once: pins and leases are waited for, everything in the cache is written to the pool, and
    /// reads and writes under way end first. In a directory only what is made from now on inherits the flag.
    ///
    /// In a pool with a data device the file's data moves: with the flag into the pool, without it to the device.
    /// Readers and writers go on meanwhile, but for some milliseconds at a time. A crash, or an error, in the middle
    /// leaves some of it here and some there; setting the flag once more goes on with that.
    ///
    /// # Errors
    /// `BadHandle` for a file that is not open for writing; `NotSupported` for other kinds than files and directories;
    /// `ReadOnly`; by the handle's mode, `Dax` for pins in the way; what hinders the write-back. Then nothing has
    /// changed, but in a pool with a data device: there a part may have moved, and the flag, which says where new
    /// blocks go, is cleared before the first and set after the last. So it is also with `NoSpace`, where there is no
    /// room.
    ///
    /// # Durability
    /// The flag is durable on return, and so is all that was in the cache.
    pub fn set_dax(&self, dax: Dax) -> Result<()> {
        if self.inode().kind == FileKind::Regular {
            self.check_writable()?;
        }
        self.pool().set_dax(self.inode(), dax, self.wait())
    }
}

impl Pool {
    /// See [`File::set_dax`]; waits for pins as `mode` says.
    pub(crate) fn set_dax(&self, inode: &Inode, dax: Dax, mode: &Mode) -> Result<()> {
        self.check_writable()?;
        if !matches!(inode.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Error::NotSupported(
                "only files and directories have the DAX flag",
            ));
        }
        let is_moved = inode.kind == FileKind::Regular && self.device_space.is_some();
        if is_moved && dax == Dax::On {
            // What is left for the time that others wait is little.
            self.retry_when_full(|| self.move_in_passing(inode, Tier::Pool))?;
        }
        self.switch(inode, dax, mode)?;
        if is_moved && dax == Dax::Off {
            self.retry_when_full(|| self.move_in_passing(inode, Tier::Device))?;
        }
        Ok(())
    }

    fn switch(&self, inode: &Inode, dax: Dax, mode: &Mode) -> Result<()> {
        self.wait_and_retry("set dax", mode, || {
            self.retry_when_full(|| {
                let mut state = inode.write()?;
                if !is_injected(Fault::UnsettledSwitch) {
                    self.settle(inode, &mut state)?;
                }
                if dax == Dax::On && self.device_space.is_some() {
                    self.move_locked(inode, &mut state, Tier::Pool)?;
                }
                // Only now: what is written may have got a tree.
                let (_, flags) = self.inode_mode_and_flags(inode)?;
                let mut flags = InodeFlags::from_bits_retain(flags);
                flags.set(InodeFlags::DAX, dax == Dax::On);
                let way = Way::of(self, inode.kind, flags);
                let broken = match way == Way::Cached && !inode.is_cached() {
                    // Its dirty bytes are flushed first, and nobody reaches it any more.
                    true => self.break_layout(inode, (FileBlock(0), END_OF_FILES), Fate::Kept)?,
                    false => None,
                };
                self.store_flags(inode, &mut state, flags)?;
                inode.set_way(way);
                drop(broken);
                Ok(())
            })
        })
    }
}
