//! The open pool as programs hold it, and its operations by path.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use udax_dax::{Counters, Listed, Mode};
use udax_journal::Recovery;
use udax_media::{BLOCK_BYTES, MAX_NAME_BYTES, Superblock};
use udax_pmem::{Persistence, Region};

use crate::bad_blocks::BadRange;
use crate::device::DeviceReport;
use crate::error::{Error, Result};
use crate::file::File;
use crate::health::Damage;
use crate::inode::Inode;
use crate::mount;
use crate::namespace::create::Creation;
use crate::namespace::path::Follow;
use crate::namespace::remove::Removal;
use crate::options::{
    Checksums, Dax, DirEntry, FilesystemStat, FormatOptions, MountOptions, NewInode, OpenFlags, OpenOptions,
    RenameMode, SetAttributes, Stat, XattrMode,
};
use crate::pool::Pool;
use crate::scrub::{ScrubOptions, ScrubReport, ScrubStep};
use crate::space::Space;

/// An open pool. Cheap to clone, `Send + Sync`.
///
/// Paths are bytes: components separated by `/`, resolved from the root directory. Symbolic links on the way are
/// followed, absolute ones from the pool's root; one at the end is followed only where that is said.
///
/// The pool is closed when the last clone, the last [`File`] and the last pin are dropped; [`Filesystem::close`] also
/// tells whether that worked. The library makes no permission checks: who can map a pool can do everything; front ends
/// check.
#[derive(Clone, Debug)]
pub struct Filesystem {
    pool: Arc<Pool>,
}

impl Filesystem {
    /// Makes a pool in the file or on the device `path`; a file is made, or set to the size asked for.
    ///
    /// # Errors
    /// `NotBlank` or `DeviceNotBlank` when it or the data device holds something and `force` is not set; `Corrupt` for
    /// a size below 16 MiB or above 1 PiB or a label over 64 bytes; what the medium says.
    ///
    /// # Durability
    /// The new pool is durable on return; a crash before leaves no valid superblock.
    pub fn format(path: &Path, options: &FormatOptions) -> Result<Superblock> {
        mount::format(path, options)
    }

    /// Makes a pool in `region`, whatever it holds.
    ///
    /// # Errors
    /// As [`Filesystem::format`], but for `NotBlank`.
    pub fn format_region(region: &Region, options: &FormatOptions) -> Result<Superblock> {
        mount::format_region(region, options)
    }

    /// Opens the pool in the file or on the device `path`: replays its journal, finishes orphans.
    ///
    /// # Errors
    /// `Region(Busy)` when another process has it open; `NotPool` when no superblock can be believed, or a newer
    /// version is needed, or bytes of the pool are missing; `Corrupt` when journal or roots are damaged;
    /// `Journal(Unclean)` read-only, when there may be something to replay.
    pub fn open(path: &Path, options: &MountOptions) -> Result<Self> {
        Ok(Self {
            pool: mount::open(path, options)?,
        })
    }

    /// Opens the pool in `region`.
    ///
    /// # Errors
    /// As [`Filesystem::open`].
    pub fn open_region(region: Region, options: &MountOptions) -> Result<Self> {
        Ok(Self {
            pool: mount::open_region(region, options)?,
        })
    }

    /// Closes the pool cleanly.
    ///
    /// # Errors
    /// `Busy` while other clones, files, pins or leases are there: they keep the pool open, and the last of them closes
    /// it. A media error; then the next open replays the journal.
    pub fn close(self) -> Result<()> {
        // It keeps the pool while it writes.
        self.pool.stop_flusher();
        match Arc::try_unwrap(self.pool) {
            Ok(pool) => pool.close(),
            Err(_) => Err(Error::Busy("files of the pool are open")),
        }
    }

    /// Looks whether the data device of the pool in `region` is where it was last, or at `named`, and is this pool's,
    /// by its two headers; with `repair`, writes damaged ones anew, durably. `None`: the pool has none. What else is on
    /// the device is not looked at. The pool must not be open.
    ///
    /// One header is enough. Where both are damaged nothing tells whose device it is: then it must be named, and what
    /// looks like somebody else's data is not touched.
    ///
    /// # Errors
    /// `NotPool`, and media errors, of both superblocks; `NotDevice`, also where it is in use; `Invalid` if one is
    /// named of a pool that has none.
    pub fn check_data_device(
        region: &Region,
        named: Option<&Path>,
        repair: bool,
    ) -> Result<Option<DeviceReport>> {
        crate::device::check(&crate::mount::read_superblock(region)?, named, repair)
    }

    /// What the pool is and where its parts are.
    pub fn superblock(&self) -> Superblock {
        self.pool.superblock.read().clone()
    }

    /// What the page cache of files without DAX holds, and how it fared.
    pub fn cache_statistics(&self) -> udax_pagecache::Statistics {
        self.pool.cache.statistics()
    }

    /// What opening replayed.
    pub fn recovery(&self) -> &Recovery {
        &self.pool.recovery
    }

    /// Why the pool takes no more changes: the first metadata that the medium was found to have lost since it was
    /// opened. Reads of what is not affected go on; changes give `ReadOnly`. `None` while it is sound.
    pub fn damage(&self) -> Option<Damage> {
        self.pool.health.damage()
    }

    /// The blocks that are known to be bad: those that nobody uses any more, and those that were met or told by the
    /// kernel since the pool was opened.
    ///
    /// # Errors
    /// A damaged list.
    pub fn bad_blocks(&self) -> Result<Vec<BadRange>> {
        self.pool.collect_bad()
    }

    /// Looks through the whole pool while it is in use: verifies all metadata, and reads all data for media errors.
    /// What is wrong is in the report; metadata that turns out to be lost makes the pool read-only, as for any other
    /// reader ([`Filesystem::damage`]). `watch` is told how far it is, and ends it with `Break`. What is made meanwhile
    /// may be missed.
    ///
    /// # Errors
    /// Only what keeps it from going on.
    ///
    /// # Durability
    /// Where metadata changes meanwhile, checkpoints are made.
    ///
    /// # Locks
    /// An inode's shared, for a few nodes at a time; those of the pool's trees, each for as long as its nodes take to
    /// verify. None while data is read.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        watch: &mut dyn FnMut(ScrubStep) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        self.pool.scrub(options, watch)
    }

    /// Stores zeros to the bad blocks that nobody uses, which mends what the medium can mend, and gives runs of them in
    /// which all are good then back to the free space; gives the number of bytes.
    ///
    /// # Errors
    /// `ReadOnly`; a damaged list.
    pub fn reuse_bad_blocks(&self) -> Result<u64> {
        Ok(self.pool.reuse_bad_blocks()? * BLOCK_BYTES)
    }

    /// Every pin that is held, the oldest first: what a truncation that does not end waits for is among them.
    pub fn pins(&self) -> Vec<Listed> {
        self.pool.device.pins()
    }

    /// What was done with pins and layouts so far.
    pub fn dax_counters(&self) -> Counters {
        self.pool.device.counters()
    }

    /// What stores need to survive a power failure here.
    pub fn persistence(&self) -> Persistence {
        self.pool.region.persistence()
    }

    /// Space and inodes (`statfs`).
    pub fn stat_filesystem(&self) -> FilesystemStat {
        let counters = self.pool.journal.counters();
        FilesystemStat {
            block_size: u32::try_from(BLOCK_BYTES).unwrap_or(0),
            total_blocks: self.pool.superblock.read().total_blocks(),
            free_blocks: counters.free_blocks,
            available_blocks: self.pool.space.available().min(counters.free_blocks),
            device_blocks: self.pool.device_space.as_ref().map_or(0, Space::block_count),
            device_free_blocks: self.pool.device_space.as_ref().map_or(0, Space::available),
            inodes: counters.inodes,
            max_name: u32::try_from(MAX_NAME_BYTES).unwrap_or(0),
        }
    }

    /// Makes durable what was stored through pins, and lazy times, and completes the journal in place (`syncfs`).
    /// Everything else is durable already.
    ///
    /// # Errors
    /// A media error.
    pub fn sync(&self) -> Result<()> {
        self.pool.sync()
    }

    /// As [`Filesystem::sync`], and past the last buffers between the caches and the medium
    /// ([`udax_pmem::Region::deep_flush`]): what was done before outlives a platform that does not save those when
    /// power fails. Slow; closing the pool does it too.
    ///
    /// # Errors
    /// A media error; on a DAX device, not being root.
    pub fn deep_sync(&self) -> Result<()> {
        self.pool.sync()?;
        Ok(self.pool.region.deep_flush()?)
    }

    /// Grows the pool to `bytes`, rounded down to whole blocks; a file is extended first.
    ///
    /// # Errors
    /// `Invalid` when it would not grow; `FileTooLarge` above 1 PiB; `NotSupported` after 63 growths; `LostMetadata` if
    /// the medium has lost a copy of the superblock for good; what the medium says, for example that the device is not
    /// larger.
    ///
    /// # Durability
    /// Durable on return; a crash before leaves the old size or the new one.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        self.pool.grow(bytes)
    }

    /// Opens `path`, following a link at its end unless the flags say otherwise; makes it if asked (`open`). `new` is
    /// what a new file gets.
    ///
    /// # Errors
    /// Those of POSIX `open`: `NotFound`, `Exists`, `IsDirectory`, `NotDirectory`, `SymlinkLoop`, `NameTooLong`,
    /// `NoSpace`, `ReadOnly`, `Invalid`.
    ///
    /// # Durability
    /// A file that is made is durable on return: one fence.
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OpenFlags, new: NewInode) -> Result<File> {
        self.open_with(path, &OpenOptions::new(flags, new))
    }

    /// As [`Filesystem::open_file`], which waits for pins and leases in the way of `TRUNCATE` however long it takes;
    /// this waits as the options say.
    ///
    /// # Errors
    /// As [`Filesystem::open_file`]; `Dax` by [`OpenOptions::wait`], when nothing has changed.
    ///
    /// # Durability
    /// As [`Filesystem::open_file`].
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        crate::file::open(&self.pool, bytes(&path), options)
    }

    /// Makes a directory (`mkdir`).
    ///
    /// # Errors
    /// `Exists`, `NotFound`, `NotDirectory`, `NoSpace`, `TooManyLinks`, ...
    ///
    /// # Durability
    /// Durable on return: one fence. So are the operations below.
    pub fn create_dir(&self, path: impl AsRef<Path>, new: NewInode) -> Result<Stat> {
        self.create(path, Creation::Directory, new)
    }

    /// Removes an empty directory (`rmdir`).
    ///
    /// # Errors
    /// `NotEmpty`, `NotDirectory`, `NotFound`, `Busy` for the root, `Invalid` for `.`.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.pool.remove(bytes(&path), Removal::Directory)
    }

    /// Removes the name of anything but a directory (`unlink`). The inode goes with its last name and last handle.
    ///
    /// # Errors
    /// `IsDirectory`, `NotFound`, `NotDirectory`.
    pub fn unlink(&self, path: impl AsRef<Path>) -> Result<()> {
        self.pool.remove(bytes(&path), Removal::File)
    }

    /// Renames `from` to `to` (`renameat2`), also over an open file and between directories.
    ///
    /// # Errors
    /// `NotFound`, `Exists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `Invalid` for a directory below itself, `Busy`
    /// for the root, `.` and `..`, `NoSpace`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, mode: RenameMode) -> Result<()> {
        self.pool.rename(bytes(&from), bytes(&to), mode)
    }

    /// Gives the inode `existing` a further name (`link`). A link at the end of `existing` is not followed.
    ///
    /// # Errors
    /// `NotPermitted` for a directory; `Exists`, `NotFound`, `TooManyLinks`, `NoSpace`.
    pub fn link(&self, existing: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
        self.pool.link(bytes(&existing), bytes(&new))
    }

    /// Gives an open file a name, also one made without (`linkat` with `AT_EMPTY_PATH`).
    ///
    /// # Errors
    /// As [`Filesystem::link`]; `NotFound` when its last name was removed, or it was made with `EXCLUSIVE`; `Invalid`
    /// for a file of another pool.
    pub fn link_file(&self, file: &File, new: impl AsRef<Path>) -> Result<()> {
        if !file.belongs_to(&self.pool) {
            return Err(Error::Invalid("the file is in another pool"));
        }
        self.pool.link_inode(file.inode(), bytes(&new))
    }

    /// Makes a symbolic link to `target`, 1 to 4095 bytes without NUL.
    ///
    /// # Errors
    /// `Exists`, `NotFound` also for an empty target, `NameTooLong`, `NoSpace`.
    pub fn symlink(&self, target: &[u8], path: impl AsRef<Path>, new: NewInode) -> Result<Stat> {
        self.create(path, Creation::Symlink(target), new)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `Invalid` when it is none; `NotFound`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.with(path, Follow::No, |pool, inode| pool.read_link(inode))
    }

    /// Makes a fifo, socket or device node (`mknod`); `rdev` as `makedev` gives it, 0 for the first two.
    ///
    /// # Errors
    /// `Invalid` for other kinds; `Exists`, `NotFound`, `NoSpace`.
    pub fn make_node(
        &self,
        path: impl AsRef<Path>,
        kind: udax_media::inode::FileKind,
        rdev: u64,
        new: NewInode,
    ) -> Result<Stat> {
        self.create(path, Creation::Node(kind, rdev), new)
    }

    /// What `path` is, following a link at its end (`stat`).
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `SymlinkLoop`, `NameTooLong`.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        self.with(path, Follow::Yes, |pool, inode| {
            pool.stat_inode(inode, &*inode.read()?)
        })
    }

    /// As [`Filesystem::stat`], of a link itself (`lstat`). The operations below do not follow one either.
    ///
    /// # Errors
    /// As [`Filesystem::stat`].
    pub fn stat_link(&self, path: impl AsRef<Path>) -> Result<Stat> {
        self.with(path, Follow::No, |pool, inode| {
            pool.stat_inode(inode, &*inode.read()?)
        })
    }

    /// Changes permissions, owner and times; gives the new ones.
    ///
    /// # Errors
    /// `Invalid` for a value out of its range; `NotFound`.
    pub fn set_attributes(&self, path: impl AsRef<Path>, set: SetAttributes) -> Result<Stat> {
        self.with(path, Follow::No, |pool, inode| pool.set_attributes(inode, set))
    }

    /// Sets the size of the file that `path` names, following a link at its end (`truncate`).
    ///
    /// # Errors
    /// As [`File::truncate`]; `IsDirectory`.
    pub fn truncate(&self, path: impl AsRef<Path>, size: u64) -> Result<()> {
        self.truncate_waiting(path, size, &Mode::wait())
    }

    /// As [`Filesystem::truncate`], which waits for pins and leases however long it takes; this waits as `mode` says.
    ///
    /// # Errors
    /// As [`Filesystem::truncate`]; `Dax` by `mode`, when nothing has changed.
    pub fn truncate_waiting(&self, path: impl AsRef<Path>, size: u64, mode: &Mode) -> Result<()> {
        self.with(path, Follow::Yes, |pool, inode| pool.truncate(inode, size, mode))
    }

    /// Switches the checksums of the data of a file on or off, or of what is made in a directory. A link at the end is
    /// not followed.
    ///
    /// # Errors
    /// As [`File::set_checksums`].
    pub fn set_checksums(&self, path: impl AsRef<Path>, checksums: Checksums) -> Result<()> {
        self.with(path, Follow::No, |pool, inode| {
            pool.set_checksums(inode, checksums, &Mode::wait())
        })
    }

    /// Sets or clears the DAX flag of a file, or of what is made in a directory. A link at the end is not followed.
    ///
    /// # Errors
    /// As [`File::set_dax`].
    pub fn set_dax(&self, path: impl AsRef<Path>, dax: Dax) -> Result<()> {
        self.with(path, Follow::No, |pool, inode| {
            pool.set_dax(inode, dax, &Mode::wait())
        })
    }

    /// At most `limit` entries of a directory after position `cookie` (0: from the start, with `.` and `..`), in the
    /// directory's own order. An empty answer is the end. Entries that exist throughout are given exactly once,
    /// whatever else changes meanwhile. A link at the end is followed.
    ///
    /// # Errors
    /// `NotDirectory`, `NotFound`.
    pub fn read_dir(&self, path: impl AsRef<Path>, cookie: u64, limit: usize) -> Result<Vec<DirEntry>> {
        self.with(path, Follow::Yes, |pool, inode| {
            pool.read_dir(inode, cookie, limit)
        })
    }

    /// The value of extended attribute `name`.
    ///
    /// # Errors
    /// As [`File::xattr`].
    pub fn xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<Vec<u8>> {
        self.with(path, Follow::No, |pool, inode| pool.xattr(inode, name))
    }

    /// Sets extended attribute `name`, atomically.
    ///
    /// # Errors
    /// As [`File::set_xattr`].
    pub fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<()> {
        self.with(path, Follow::No, |pool, inode| {
            pool.set_xattr(inode, name, value, mode)
        })
    }

    /// Removes extended attribute `name`.
    ///
    /// # Errors
    /// As [`File::remove_xattr`].
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<()> {
        self.with(path, Follow::No, |pool, inode| pool.remove_xattr(inode, name))
    }

    /// The full names of all extended attributes.
    ///
    /// # Errors
    /// As [`File::list_xattrs`].
    pub fn list_xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
        self.with(path, Follow::No, |pool, inode| pool.collect_xattrs(inode))
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn create(&self, path: impl AsRef<Path>, creation: Creation<'_>, new: NewInode) -> Result<Stat> {
        self.pool.create(bytes(&path), creation, new)
    }

    /// Runs `action` on the inode that `path` names; an inode that goes away meanwhile was not found.
    fn with<T>(
        &self,
        path: impl AsRef<Path>,
        follow: Follow,
        action: impl FnOnce(&Pool, &Inode) -> Result<T>,
    ) -> Result<T> {
        let inode = self.pool.resolve(bytes(&path), follow)?;
        action(&self.pool, &inode).map_err(|error| match error {
            Error::Stale(ino) if ino == inode.ino => Error::NotFound,
            other => other,
        })
    }
}

fn bytes(path: &impl AsRef<Path>) -> &[u8] {
    path.as_ref().as_os_str().as_bytes()
}
