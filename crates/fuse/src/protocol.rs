//! The protocol library's trait: each request to the operation that does it, and what it gives to the reply.
//!
//! What is missing here the kernel does by itself or not at all: `FLUSH` (nothing is left to write at close), `ACCESS`
//! (`default_permissions`), locks (they are the kernel's own, with its waiting and its deadlocks), `BMAP`, `POLL`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::attributes::Wanted;
use crate::data::{MAX_REQUEST_BYTES, Side};
use crate::directories::Room;
use crate::meter::{Operation, Timer};
use crate::names::{Entry, Place};
use crate::refusal::{Refusal, Refuse as _, Result, answer, caught};
use crate::server::{Server, kind_of};

/// What is asked of the kernel; what it cannot do is told by [`crate::Mount`] as far as it matters.
const CAPABILITIES: [InitFlags; 12] = [
    InitFlags::FUSE_ASYNC_READ,
    // Node ids that the kernel has forgotten can be looked up.
    InitFlags::FUSE_EXPORT_SUPPORT,
    // A directory's default list takes the umask's place.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HAS_IOCTL_DIR,
    // Pages stay cached until we say otherwise: only the kernel changes files.
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];
/// Requests that the kernel sends without waiting for the answer to earlier ones: read-ahead and write-back.
const MAX_BACKGROUND: u16 = 64;

impl Server {
    fn time(&self, operation: Operation) -> Timer<'_> {
        self.meters.time(operation)
    }

    fn reply_entry(&self, reply: ReplyEntry, entry: Entry) {
        reply.entry_with_ttls(
            &self.attr_timeout,
            &self.entry_timeout,
            &entry.attributes,
            Generation(entry.generation),
        );
    }

    /// Lets go of a file or directory.
    fn reply_released(&self, operation: Operation, (ino, handle): (INodeNo, FileHandle), reply: ReplyEmpty) {
        let release = || {
            self.release(ino, handle);
            Ok(())
        };
        answer(self.time(operation), reply, release, |reply, ()| reply.ok());
    }

    /// Makes a file or directory durable.
    fn reply_synced(&self, operation: Operation, handle: FileHandle, reply: ReplyEmpty) {
        let sync = || self.sync(handle);
        answer(self.time(operation), reply, sync, |reply, ()| reply.ok());
    }

    /// There is no such name: node id 0 lets the kernel remember that.
    fn reply_absence(&self, reply: ReplyEntry) {
        let nothing = unknown(INodeNo(0), FileType::RegularFile);
        reply.entry(&self.entry_timeout, &nothing, Generation(0));
    }
}

/// Attributes of an inode of which nothing else is known.
fn unknown(ino: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn place(directory: INodeNo, name: &OsStr) -> Place<'_> {
    Place {
        directory,
        name: name.as_bytes(),
    }
}

/// Sends `value`, or how long it is when the caller asks for that.
fn reply_sized(reply: ReplyXattr, value: &[u8], room: u32) {
    match u32::try_from(value.len()) {
        Ok(length) if room == 0 => reply.size(length),
        Ok(length) if length <= room => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::warn!(?capability, "this kernel cannot do it");
            }
        }
        if let Err(nearest) = config.set_max_write(MAX_REQUEST_BYTES) {
            tracing::warn!(nearest, "writes are not of the size that was asked for");
        }
        if let Err(nearest) = config.set_max_readahead(MAX_REQUEST_BYTES) {
            // What the kernel offers is the most that it does.
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        self.close_all();
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let lookup = || self.lookup(parent, name.as_bytes());
        answer(
            self.time(Operation::Lookup),
            reply,
            lookup,
            |reply, found| match found {
                Some(entry) => self.reply_entry(reply, entry),
                None => self.reply_absence(reply),
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        let _timer = self.time(Operation::Forget);
        // No reply, and nobody to tell.
        let _ = caught("forget", || {
            self.nodes.forget(ino.0, lookups);
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer(
            self.time(Operation::GetAttr),
            reply,
            || self.stat(ino),
            |reply, attributes| {
                reply.attr(&self.attr_timeout, &attributes);
            },
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let set = || self.set_attributes(request.into(), ino, wanted);
        answer(self.time(Operation::SetAttr), reply, set, |reply, attributes| {
            reply.attr(&self.attr_timeout, &attributes);
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        answer(
            self.time(Operation::ReadLink),
            reply,
            || self.read_link(ino),
            |reply, target| {
                reply.data(&target);
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let make = || self.make_node(request.into(), place(parent, name), (mode, umask), rdev);
        answer(self.time(Operation::MakeNode), reply, make, |reply, entry| {
            self.reply_entry(reply, entry);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let make = || self.make_directory(request.into(), place(parent, name), (mode, umask));
        answer(
            self.time(Operation::MakeDirectory),
            reply,
            make,
            |reply, entry| {
                self.reply_entry(reply, entry);
            },
        );
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let unlink = || self.unlink(place(parent, name));
        answer(self.time(Operation::Unlink), reply, unlink, |reply, ()| {
            reply.ok()
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.remove_directory(place(parent, name));
        answer(
            self.time(Operation::RemoveDirectory),
            reply,
            remove,
            |reply, ()| reply.ok(),
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let make = || self.make_link(request.into(), place(parent, name), target);
        answer(self.time(Operation::Symlink), reply, make, |reply, entry| {
            self.reply_entry(reply, entry);
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || self.rename(place(parent, name), place(new_parent, new_name), flags);
        answer(self.time(Operation::Rename), reply, rename, |reply, ()| {
            reply.ok()
        });
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let link = || self.link(ino, place(parent, name));
        answer(self.time(Operation::Link), reply, link, |reply, entry| {
            self.reply_entry(reply, entry);
        });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer(
            self.time(Operation::Open),
            reply,
            || self.open(ino, flags),
            |reply, handle| {
                reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE);
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = || self.create(request.into(), place(parent, name), (mode, umask), flags);
        answer(
            self.time(Operation::Create),
            reply,
            create,
            |reply, (entry, handle)| {
                reply.created(
                    &self.entry_timeout.min(self.attr_timeout),
                    &entry.attributes,
                    Generation(entry.generation),
                    handle,
                    FopenFlags::FOPEN_KEEP_CACHE,
                );
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut timer = self.time(Operation::Read);
        self.read(handle, (offset, size), |read| match read {
            Ok(bytes) => {
                timer.note_bytes(bytes.len());
                reply.data(bytes);
            }
            Err(Refusal(errno)) => {
                timer.note_refusal();
                reply.refuse(errno);
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || self.write(ino, handle, (offset, data), write_flags);
        let mut timer = self.time(Operation::Write);
        timer.note_bytes(data.len());
        answer(timer, reply, write, |reply, count| reply.written(count));
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.reply_released(Operation::Release, (ino, handle), reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.reply_synced(Operation::Sync, handle, reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let open = || self.open_directory(ino);
        answer(
            self.time(Operation::OpenDirectory),
            reply,
            open,
            |reply, handle| {
                reply.opened(handle, FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
            },
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let timer = self.time(Operation::ReadDirectory);
        let listed = caught("readdir", || {
            self.list(handle, offset, |entry| {
                let is_full = reply.add(
                    INodeNo(entry.ino.raw()),
                    entry.cookie,
                    kind_of(entry.kind),
                    OsStr::from_bytes(&entry.name),
                );
                Ok(if is_full { Room::Full } else { Room::Left })
            })
        });
        answer(timer, reply, || listed, |reply, ()| reply.ok());
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let timeout = self.entry_timeout.min(self.attr_timeout);
        let timer = self.time(Operation::ReadDirectoryPlus);
        let listed = caught("readdirplus", || {
            self.list_with_attributes((ino, handle), offset, |entry, told| {
                // What is not known the kernel asks for when somebody wants it: these attributes are old at once.
                let (attributes, generation, timeout) = match told {
                    Some(told) => (told.attributes, told.generation, timeout),
                    None => {
                        let attributes = unknown(INodeNo(entry.ino.raw()), kind_of(entry.kind));
                        (attributes, 0, Duration::ZERO)
                    }
                };
                let is_full = reply.add(
                    attributes.ino,
                    entry.cookie,
                    OsStr::from_bytes(&entry.name),
                    &timeout,
                    &attributes,
                    Generation(generation),
                );
                if is_full { Room::Full } else { Room::Left }
            })
        });
        answer(timer, reply, || listed, |reply, ()| reply.ok());
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.reply_released(Operation::ReleaseDirectory, (ino, handle), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.reply_synced(Operation::SyncDirectory, handle, reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let usage = || -> Result<_> { Ok(self.usage()) };
        answer(
            self.time(Operation::StatFilesystem),
            reply,
            usage,
            |reply, usage| {
                let space = usage.space;
                reply.statfs(
                    // Programs that look whether something fits write files, most of which are on the device.
                    space.total_blocks + space.device_blocks,
                    space.free_blocks + space.device_free_blocks,
                    space.available_blocks + space.device_free_blocks,
                    usage.inodes,
                    usage.free_inodes,
                    space.block_size,
                    space.max_name,
                    space.block_size,
                );
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let set = || self.set_xattr(request.into(), ino, (name.as_bytes(), value), flags);
        answer(self.time(Operation::SetXattr), reply, set, |reply, ()| reply.ok());
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let read = || self.xattr(ino, name.as_bytes());
        answer(self.time(Operation::GetXattr), reply, read, |reply, value| {
            reply_sized(reply, &value, size);
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let list = || self.list_xattrs(request.into(), ino);
        answer(self.time(Operation::ListXattrs), reply, list, |reply, names| {
            reply_sized(reply, &names, size);
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.remove_xattr(ino, name.as_bytes());
        answer(self.time(Operation::RemoveXattr), reply, remove, |reply, ()| {
            reply.ok()
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        input: &[u8],
        room: u32,
        reply: ReplyIoctl,
    ) {
        let control = || self.control((ino, handle), command, input, room);
        answer(self.time(Operation::Control), reply, control, |reply, output| {
            reply.ioctl(0, &output)
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let allocate = || self.allocate(request.into(), (ino, handle), mode, (offset, length));
        answer(self.time(Operation::Allocate), reply, allocate, |reply, ()| {
            reply.ok()
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || self.seek(handle, offset, whence);
        answer(self.time(Operation::Seek), reply, seek, |reply, offset| {
            reply.offset(offset)
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        handle_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = Side {
            ino: ino_in,
            handle: handle_in,
            offset: offset_in,
        };
        let to = Side {
            ino: ino_out,
            handle: handle_out,
            offset: offset_out,
        };
        let copy = || self.copy(request.into(), from, to, len);
        answer(self.time(Operation::CopyRange), reply, copy, |reply, count| {
            reply.written(count)
        });
    }
}
