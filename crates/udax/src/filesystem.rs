//! The open pool: connects the parts and is what programs hold.

use std::path::Path;

use udax_pmem::Region;

use crate::error::Result;
use crate::file::File;
use crate::options::{
    DirEntry, FilesystemStat, FormatOptions, MountOptions, NewInode, OpenFlags, RenameMode, SetAttributes,
    Stat, XattrMode,
};

/// An open pool. Cheap to clone; the last clone's drop closes the pool (use [`Filesystem::close`] to hear of errors).
#[derive(Clone, Debug)]
pub struct Filesystem {}

#[expect(clippy::todo, reason = "interface only, on a branch")]
#[expect(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "interface only, on a branch"
)]
impl Filesystem {
    /// Makes a pool in the file or on the device `path`.
    pub fn format(path: &Path, options: &FormatOptions) -> Result<udax_media::Superblock> {
        todo!("{path:?} {options:?}")
    }
    /// Makes a pool in `region`.
    pub fn format_region(region: &Region, options: &FormatOptions) -> Result<udax_media::Superblock> {
        todo!("{region:?} {options:?}")
    }
    /// Opens the pool; replays its journal.
    pub fn open(path: &Path, options: &MountOptions) -> Result<Self> {
        todo!("{path:?} {options:?}")
    }
    /// Opens the pool in `region`.
    pub fn open_region(region: Region, options: &MountOptions) -> Result<Self> {
        todo!("{region:?} {options:?}")
    }
    /// Closes the pool cleanly; fails with `Busy` while other clones or files are open.
    pub fn close(self) -> Result<()> {
        todo!()
    }
    pub fn superblock(&self) -> udax_media::Superblock {
        todo!()
    }
    /// What opening replayed.
    pub fn recovery(&self) -> &udax_journal::Recovery {
        todo!()
    }
    pub fn persistence(&self) -> udax_pmem::Persistence {
        todo!()
    }
    pub fn stat_filesystem(&self) -> FilesystemStat {
        todo!()
    }
    /// Makes everything that lazily waits (times) durable, and checkpoints.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// Grows the pool to `bytes`; the file is extended first when it is one.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        todo!("{bytes}")
    }

    // Paths are bytes, `/`-separated, relative to the root; symbolic links are followed, absolute ones from the root.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OpenFlags, new: NewInode) -> Result<File> {
        todo!("{:?} {flags:?} {new:?}", path.as_ref())
    }
    pub fn create_dir(&self, path: impl AsRef<Path>, new: NewInode) -> Result<Stat> {
        todo!("{:?} {new:?}", path.as_ref())
    }
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        todo!("{:?}", path.as_ref())
    }
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        todo!("{:?}", path.as_ref())
    }
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, mode: RenameMode) -> Result<()> {
        todo!("{:?} {:?} {mode:?}", from.as_ref(), to.as_ref())
    }
    /// `existing` is not followed when it is a symbolic link.
    pub fn link(&self, existing: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        todo!("{:?} {:?}", existing.as_ref(), new.as_ref())
    }
    /// Gives a name to an open file (also one made with `TEMPORARY`).
    pub fn link_file(&self, file: &File, new: impl AsRef<Path>) -> Result<()> {
        todo!("{file:?} {:?}", new.as_ref())
    }
    pub fn symlink(&self, target: &[u8], path: impl AsRef<Path>, new: NewInode) -> Result<Stat> {
        todo!("{target:?} {:?} {new:?}", path.as_ref())
    }
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        todo!("{:?}", path.as_ref())
    }
    /// A fifo, socket or device node (`rdev` as `makedev`; 0 for the first two).
    pub fn make_node(
        &self,
        path: impl AsRef<Path>,
        kind: udax_media::inode::FileKind,
        rdev: u64,
        new: NewInode,
    ) -> Result<Stat> {
        todo!("{:?} {kind:?} {rdev} {new:?}", path.as_ref())
    }
    /// Follows a symbolic link at the end.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        todo!("{:?}", path.as_ref())
    }
    /// Does not follow a symbolic link at the end (`lstat`). So do the operations below.
    pub fn stat_link(&self, path: impl AsRef<Path>) -> Result<Stat> {
        todo!("{:?}", path.as_ref())
    }
    pub fn set_attributes(&self, path: impl AsRef<Path>, set: SetAttributes) -> Result<Stat> {
        todo!("{:?} {set:?}", path.as_ref())
    }
    pub fn truncate(&self, path: impl AsRef<Path>, size: u64) -> Result<()> {
        todo!("{:?} {size}", path.as_ref())
    }
    /// At most `limit` entries after `cookie` (0: from the start, with `.` and `..`), in the directory's own order.
    /// An empty answer is the end. Entries that exist throughout are given exactly once.
    pub fn read_dir(&self, path: impl AsRef<Path>, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        todo!("{:?} {cookie} {limit}", path.as_ref())
    }
    pub fn xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<Vec<u8>> {
        todo!("{:?} {name:?}", path.as_ref())
    }
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        todo!("{:?} {name:?} {value:?} {mode:?}", path.as_ref())
    }
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<()> {
        todo!("{:?} {name:?}", path.as_ref())
    }
    /// Full names, sorted by their keys.
    pub fn list_xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
        todo!("{:?}", path.as_ref())
    }
}
