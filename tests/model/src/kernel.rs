//! Carries operations out in a directory of the kernel's file system, to judge the model itself.
//!
//! Needs the rights of root (devices, owners, `trusted.` attributes), and a file system that can do what is asked:
//! ext4 or xfs.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{
    self as sys, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags,
};
use udax::{
    AllocateMode, FileKind, NewInode, OpenFlags, RenameMode, SetAttributes, SetTime, Timestamp, WriteFlags,
    XattrMode,
};

use crate::operation::{
    Data, Entry, FileOperation, NameOperation, NodeOperation, Operation, Outcome, Reply, SLOTS, Text, View,
    can_be_atomic,
};
use crate::pool::Target;

type Result<T> = rustix::io::Result<T>;

/// A directory, with files open below it.
#[derive(Debug)]
pub struct Kernel {
    base: PathBuf,
    slots: Vec<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: OwnedFd,
    listing: Option<sys::Dir>,
}

impl Kernel {
    /// All below the directory `base`.
    pub fn new(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            slots: (0..=SLOTS).map(|_| None).collect(),
        }
    }

    fn full(&self, path: &Text) -> PathBuf {
        if path.0.is_empty() {
            return PathBuf::new();
        }
        let mut full = self.base.clone().into_os_string();
        full.push("/");
        full.push(path.path());
        full.into()
    }

    fn file(&self, slot: usize) -> Result<&OwnedFd> {
        let open = self
            .slots
            .get(slot)
            .and_then(Option::as_ref)
            .ok_or(rustix::io::Errno::BADF)?;
        Ok(&open.file)
    }

    fn open(&mut self, slot: usize, path: &Text, flags: OpenFlags, new: NewInode) -> Result<Reply> {
        self.slots[slot] = None;
        let mut how = OFlags::NONBLOCK;
        how |= match (flags.contains(OpenFlags::READ), flags.contains(OpenFlags::WRITE)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        for (flag, kernel) in [
            (OpenFlags::CREATE, OFlags::CREATE),
            (OpenFlags::EXCLUSIVE, OFlags::EXCL),
            (OpenFlags::TRUNCATE, OFlags::TRUNC),
            (OpenFlags::APPEND, OFlags::APPEND),
            (OpenFlags::DIRECTORY, OFlags::DIRECTORY),
            (OpenFlags::NO_FOLLOW, OFlags::NOFOLLOW),
            (OpenFlags::TEMPORARY, OFlags::TMPFILE),
        ] {
            if flags.contains(flag) {
                how |= kernel;
            }
        }
        let existed = sys::stat(self.full(path)).is_ok() && !flags.contains(OpenFlags::TEMPORARY);
        let file = sys::open(self.full(path), how, Mode::from_raw_mode(new.permissions))?;
        let stat = sys::fstat(&file)?;
        if !matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Directory
        ) {
            return Err(rustix::io::Errno::NXIO);
        }
        if !existed {
            let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            let path = sys::readlink(link, Vec::new())?.into_bytes();
            let gid = inherited_group(Text(path).path(), new)?;
            sys::fchown(&file, uid(Some(new.owner.uid)), group(Some(gid)))?;
            sys::fchmod(&file, Mode::from_raw_mode(new.permissions))?;
        }
        self.slots[slot] = Some(Open { file, listing: None });
        Ok(Reply::Done)
    }

    fn file_operation(&mut self, slot: usize, what: &FileOperation) -> Result<Reply> {
        if let FileOperation::StreamDirectory { limit } = what {
            return self.stream(slot, *limit);
        }
        let file = self.file(slot)?;
        Ok(match what {
            FileOperation::Read { offset, len } => Reply::Bytes(read(file, *offset, *len)?),
            FileOperation::ReadVectored { offset, lens } => {
                Reply::Bytes(read(file, *offset, lens.iter().sum())?)
            }
            FileOperation::Write { offset, data }
            | FileOperation::StorePinned { offset, data }
            | FileOperation::OverwritePinned { offset, data }
            | FileOperation::SyncPinned { offset, data } => write(file, *offset, &data.bytes())?,
            FileOperation::WriteWith { offset, data, flags } => write_with(file, *offset, *data, *flags)?,
            FileOperation::WriteVectored { offset, parts } => {
                let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).collect();
                write(file, *offset, &bytes)?
            }
            FileOperation::Append { data } => {
                let end = u64::try_from(sys::fstat(file)?.st_size).unwrap_or(0);
                write(file, end, &data.bytes())?;
                Reply::Count(end)
            }
            FileOperation::Truncate { size } => done(sys::ftruncate(file, *size)?),
            FileOperation::Allocate { mode, offset, len } => {
                done(sys::fallocate(file, allocate_flags(*mode), *offset, *len)?)
            }
            FileOperation::SeekData { offset } => seek(file, SeekFrom::Data(*offset))?,
            FileOperation::SeekHole { offset } => seek(file, SeekFrom::Hole(*offset))?,
            FileOperation::Stat => view(&statx(file, "", AtFlags::EMPTY_PATH)?),
            FileOperation::SetAttributes(set) => {
                let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)));
                set_attributes(&path, AtFlags::empty(), *set)?;
                view(&statx(file, "", AtFlags::EMPTY_PATH)?)
            }
            FileOperation::ReadDirectory { .. } => list(sys::Dir::read_from(file)?)?,
            FileOperation::StreamDirectory { .. } => Reply::Done,
            FileOperation::Xattr { name } => {
                let mut value = vec![0; 70_000];
                let len = sys::fgetxattr(file, name.path(), &mut value)?;
                value.truncate(len);
                Reply::Bytes(value)
            }
            FileOperation::Sync => Reply::Done,
            FileOperation::SetDax { .. } | FileOperation::RenewChecksums => set_flag(file)?,
            FileOperation::Link { path } => done(sys::linkat(
                file,
                "",
                sys::CWD,
                self.full(path),
                AtFlags::EMPTY_PATH,
            )?),
        })
    }

    fn stream(&mut self, slot: usize, limit: usize) -> Result<Reply> {
        let Some(open) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Err(rustix::io::Errno::BADF);
        };
        if open.listing.is_none() {
            open.listing = Some(sys::Dir::read_from(&open.file)?);
        }
        let mut entries = Vec::new();
        if let Some(listing) = &mut open.listing {
            for found in listing.by_ref().take(limit) {
                entries.push(entry(&found?));
            }
        }
        if entries.is_empty() {
            open.listing = None;
        }
        Ok(Reply::Entries(entries))
    }

    fn name_operation(&self, what: &NameOperation) -> Result<Reply> {
        Ok(match what {
            NameOperation::CreateDir { path, new } => {
                sys::mkdir(self.full(path), Mode::from_raw_mode(new.permissions & 0o1777))?;
                self.own(path, *new, 0o1777)?
            }
            NameOperation::RemoveDir { path } => done(sys::rmdir(self.full(path))?),
            NameOperation::Unlink { path } => done(sys::unlink(self.full(path))?),
            NameOperation::Rename { from, to, mode } => {
                let flags = match mode {
                    RenameMode::Replace => RenameFlags::empty(),
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                };
                done(sys::renameat_with(
                    sys::CWD,
                    self.full(from),
                    sys::CWD,
                    self.full(to),
                    flags,
                )?)
            }
            NameOperation::Link { existing, new } => done(sys::linkat(
                sys::CWD,
                self.full(existing),
                sys::CWD,
                self.full(new),
                AtFlags::empty(),
            )?),
            NameOperation::Symlink { target, path, new } => {
                sys::symlink(target.path(), self.full(path))?;
                self.own(path, *new, 0)?
            }
            NameOperation::MakeNode {
                path,
                kind,
                rdev,
                new,
            } => {
                let kind = FileType::from_raw_mode(u32::from(kind.raw()) << 12);
                sys::mknodat(
                    sys::CWD,
                    self.full(path),
                    kind,
                    Mode::from_raw_mode(new.permissions),
                    *rdev,
                )?;
                self.own(path, *new, 0o7777)?
            }
        })
    }

    /// Gives a new inode the owner that the library would have given it, and the permissions in `mask`.
    fn own(&self, path: &Text, new: NewInode, mask: u32) -> Result<Reply> {
        let mut path = path.clone();
        while path.0.ends_with(b"/") {
            path.0.pop();
        }
        let path = self.full(&path);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let made = statx(sys::CWD, &path, flags)?;
        let gid = inherited_group(&path, new)?;
        sys::chownat(sys::CWD, &path, uid(Some(new.owner.uid)), group(Some(gid)), flags)?;
        if mask != 0 {
            let kept = u32::from(made.stx_mode) & 0o2000;
            sys::chmod(&path, Mode::from_raw_mode((new.permissions & mask) | kept))?;
        }
        Ok(view(&statx(sys::CWD, &path, flags)?))
    }

    fn node_operation(&self, path: &Text, what: &NodeOperation) -> Result<Reply> {
        let full = self.full(path);
        Ok(match what {
            NodeOperation::Stat => view(&statx(sys::CWD, &full, AtFlags::empty())?),
            NodeOperation::StatLink => view(&statx(sys::CWD, &full, AtFlags::SYMLINK_NOFOLLOW)?),
            NodeOperation::ReadLink => Reply::Bytes(sys::readlink(&full, Vec::new())?.into_bytes()),
            NodeOperation::SetAttributes(set) => {
                set_attributes(&full, AtFlags::SYMLINK_NOFOLLOW, *set)?;
                view(&statx(sys::CWD, &full, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            NodeOperation::Truncate { size } => {
                let kind = statx(sys::CWD, &full, AtFlags::empty())?.stx_mode;
                if !matches!(
                    FileType::from_raw_mode(kind.into()),
                    FileType::RegularFile | FileType::Directory
                ) {
                    return Err(rustix::io::Errno::INVAL);
                }
                let file = sys::open(&full, OFlags::WRONLY, Mode::empty())?;
                done(sys::ftruncate(&file, *size)?)
            }
            NodeOperation::ReadDirectory { .. } => {
                let how = OFlags::RDONLY | OFlags::DIRECTORY;
                list(sys::Dir::read_from(sys::open(&full, how, Mode::empty())?)?)?
            }
            NodeOperation::Xattr { name } => {
                let mut value = vec![0; 70_000];
                let len = sys::lgetxattr(&full, name.path(), &mut value)?;
                value.truncate(len);
                Reply::Bytes(value)
            }
            NodeOperation::SetXattr { name, value, mode } => {
                let flags = match mode {
                    XattrMode::Either => XattrFlags::empty(),
                    XattrMode::Create => XattrFlags::CREATE,
                    XattrMode::Replace => XattrFlags::REPLACE,
                };
                done(sys::lsetxattr(&full, name.path(), &value.bytes(), flags)?)
            }
            NodeOperation::RemoveXattr { name } => done(sys::lremovexattr(&full, name.path())?),
            NodeOperation::ListXattrs => {
                let mut names = vec![0; 70_000];
                let len = sys::llistxattr(&full, &mut names)?;
                let names = names[..len]
                    .split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty());
                Reply::Names(names.map(Text::from).collect())
            }
        })
    }

    fn try_apply(&mut self, operation: &Operation) -> Result<Reply> {
        match operation {
            Operation::Open {
                slot,
                path,
                flags,
                new,
            } => self.open(*slot, path, *flags, *new),
            Operation::Close { slot } => {
                self.slots[*slot] = None;
                Ok(Reply::Done)
            }
            Operation::File { slot, what } => self.file_operation(*slot, what),
            Operation::CopyRange {
                from,
                offset,
                to,
                to_offset,
                len,
            } => {
                let (mut offset, mut to_offset) = (*offset, *to_offset);
                let len = usize::try_from(*len).unwrap_or(usize::MAX);
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                let count = sys::copy_file_range(from, Some(&mut offset), to, Some(&mut to_offset), len)?;
                Ok(Reply::Count(u64::try_from(count).unwrap_or(u64::MAX)))
            }
            // What the kernel's filesystem may not have is not generated for it.
            Operation::Remap { .. } => Err(rustix::io::Errno::OPNOTSUPP),
            Operation::Name(what) => self.name_operation(what),
            Operation::Node { path, what } => self.node_operation(path, what),
            Operation::Sync => Ok(Reply::Done),
            Operation::Remount | Operation::Crash => {
                for slot in &mut self.slots {
                    *slot = None;
                }
                Ok(Reply::Done)
            }
        }
    }
}

impl Target for Kernel {
    fn apply(&mut self, operation: &Operation) -> Outcome {
        self.try_apply(operation)
            .map_err(|errno| Errno::from_raw(errno.raw_os_error()))
    }
}

/// Few file systems have the flag, and nothing that is compared depends on it but what files it cannot be set of.
fn set_flag(file: &OwnedFd) -> Result<Reply> {
    let is_writable = sys::fcntl_getfl(file)? & OFlags::RWMODE != OFlags::RDONLY;
    let is_directory = FileType::from_raw_mode(sys::fstat(file)?.st_mode) == FileType::Directory;
    match is_writable || is_directory {
        true => Ok(Reply::Done),
        false => Err(rustix::io::Errno::BADF),
    }
}

fn done((): ()) -> Reply {
    Reply::Done
}

fn read(file: &OwnedFd, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let count = rustix::io::pread(file, &mut bytes, offset)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn write(file: &OwnedFd, offset: u64, bytes: &[u8]) -> Result<Reply> {
    Ok(Reply::Count(
        u64::try_from(rustix::io::pwrite(file, bytes, offset)?).unwrap_or(u64::MAX),
    ))
}

/// Nothing of a kernel's file system is ever cut off here, so durability is not looked at, nor whether the write is
/// atomic: few file systems can do it, and those only past the page cache.
fn write_with(file: &OwnedFd, offset: u64, data: Data, flags: WriteFlags) -> Result<Reply> {
    let is_append = flags.contains(WriteFlags::APPEND) || sys::fcntl_getfl(file)?.contains(OFlags::APPEND);
    let start = match is_append {
        true => u64::try_from(sys::fstat(file)?.st_size).unwrap_or(0),
        false => offset,
    };
    let is_file = FileType::from_raw_mode(sys::fstat(file)?.st_mode) == FileType::RegularFile;
    let is_writable = sys::fcntl_getfl(file)? & OFlags::RWMODE != OFlags::RDONLY;
    let is_atomic = flags.contains(WriteFlags::ATOMIC) && is_file && is_writable;
    if is_atomic && !can_be_atomic(start, data.len) {
        return Err(rustix::io::Errno::INVAL);
    }
    write(file, start, &data.bytes())
}

/// Data and holes of regular files: in directories they mean something else to each file system.
fn seek(file: &OwnedFd, to: SeekFrom) -> Result<Reply> {
    if FileType::from_raw_mode(sys::fstat(file)?.st_mode) != FileType::RegularFile {
        return Err(rustix::io::Errno::INVAL);
    }
    Ok(Reply::Count(sys::seek(file, to)?))
}

fn allocate_flags(mode: AllocateMode) -> FallocateFlags {
    match mode {
        AllocateMode::Allocate => FallocateFlags::empty(),
        // Nothing is shared there.
        AllocateMode::KeepSize | AllocateMode::Unshare => FallocateFlags::KEEP_SIZE,
        AllocateMode::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        AllocateMode::ZeroRange => FallocateFlags::ZERO_RANGE,
        AllocateMode::ZeroRangeKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        AllocateMode::Collapse => FallocateFlags::COLLAPSE_RANGE,
        AllocateMode::Insert => FallocateFlags::INSERT_RANGE,
    }
}

/// The group of a new inode at `path`: its directory's where that has the set-group-id bit.
fn inherited_group(path: &Path, new: NewInode) -> Result<u32> {
    let parent = sys::stat(path.parent().unwrap_or(path))?;
    let inherits = parent.st_mode & 0o2000 != 0;
    Ok(if inherits { parent.st_gid } else { new.owner.gid })
}

fn uid(uid: Option<u32>) -> Option<sys::Uid> {
    uid.map(sys::Uid::from_raw)
}

fn group(gid: Option<u32>) -> Option<sys::Gid> {
    gid.map(sys::Gid::from_raw)
}

fn set_attributes(path: &Path, flags: AtFlags, set: SetAttributes) -> Result<()> {
    if let Some(permissions) = set.permissions {
        if FileType::from_raw_mode(statx(sys::CWD, path, flags)?.stx_mode.into()) == FileType::Symlink {
            return Err(rustix::io::Errno::OPNOTSUPP);
        }
        // After the owner, whose change may clear bits.
        set_owner(path, flags, set)?;
        sys::chmod(path, Mode::from_raw_mode(permissions))?;
    } else {
        set_owner(path, flags, set)?;
    }
    let time = |time: Option<SetTime>| match time {
        None => sys::Timespec {
            tv_sec: 0,
            tv_nsec: sys::UTIME_OMIT,
        },
        Some(SetTime::Now) => sys::Timespec {
            tv_sec: 0,
            tv_nsec: sys::UTIME_NOW,
        },
        Some(SetTime::To(time)) => sys::Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        },
    };
    let times = sys::Timestamps {
        last_access: time(set.atime),
        last_modification: time(set.mtime),
    };
    sys::utimensat(sys::CWD, path, &times, flags)
}

fn set_owner(path: &Path, flags: AtFlags, set: SetAttributes) -> Result<()> {
    if set.uid.is_none() && set.gid.is_none() {
        return Ok(());
    }
    sys::chownat(sys::CWD, path, uid(set.uid), group(set.gid), flags)
}

fn statx(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> Result<sys::Statx> {
    sys::statx(at, path, flags, sys::StatxFlags::BASIC_STATS)
}

fn view(stat: &sys::Statx) -> Reply {
    let time = |time: sys::StatxTimestamp| Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    };
    Reply::Stat(Box::new(View {
        ino: stat.stx_ino,
        generation: 0,
        kind: kind(FileType::from_raw_mode(stat.stx_mode.into())),
        permissions: u32::from(stat.stx_mode) & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: sys::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks / 8,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        btime: None,
        change: None,
    }))
}

fn kind(kind: FileType) -> FileKind {
    match kind {
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::Directory => FileKind::Directory,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Symlink => FileKind::Symlink,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::Regular,
    }
}

fn entry(entry: &sys::DirEntry) -> Entry {
    Entry {
        name: Text::from(entry.file_name().to_bytes()),
        ino: entry.ino(),
        kind: kind(entry.file_type()),
    }
}

fn list(listing: sys::Dir) -> Result<Reply> {
    let entries: Result<Vec<Entry>> = listing.map(|found| found.map(|found| entry(&found))).collect();
    Ok(Reply::Entries(entries?))
}
