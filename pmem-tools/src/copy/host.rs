//! The host's filesystem as a side of a copy.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use udax::{FileKind, Owner, Timestamp};

use super::tree::{Attributes, Kept, Source, Target, Thing, Xattr, beside};
use crate::scratch::Scratch;

const SET_ID_BITS: u32 = 0o6000;

/// The host's filesystem.
#[derive(Debug)]
pub(crate) struct Host {
    /// Device and inode number of the pool's own file, which is neither copied into itself nor overwritten.
    pool: Option<(u64, u64)>,
    is_root: bool,
}

impl Host {
    fn check_not_pool(&self, path: &Path) -> Result<()> {
        let found = fs::symlink_metadata(path);
        if found.is_ok_and(|found| self.pool == Some((found.dev(), found.ino()))) {
            bail!("this is the pool itself");
        }
        Ok(())
    }

    /// The host's filesystem, in which `pool` is not touched.
    pub(crate) fn beside(pool: &Path) -> Self {
        Self {
            pool: fs::metadata(pool).ok().map(|found| (found.dev(), found.ino())),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// Whether `path` is the pool's own file.
    pub(crate) fn is_pool(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| self.pool == Some((found.dev(), found.ino())))
    }
}

impl Source for Host {
    type File = File;

    fn shown(&self, path: &Path) -> String {
        crate::name::shown(path)
    }

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        let found = fs::symlink_metadata(path)?;
        let identity = (found.dev(), found.ino());
        if self.pool == Some(identity) {
            bail!("this is the pool itself");
        }
        Ok(Attributes {
            kind: kind_of(found.file_type())?,
            permissions: found.mode() & 0o7777,
            owner: Owner {
                uid: found.uid(),
                gid: found.gid(),
            },
            rdev: found.rdev(),
            size: found.size(),
            allocated: found.blocks().saturating_mul(512),
            atime: timestamp(found.atime(), found.atime_nsec()),
            mtime: timestamp(found.mtime(), found.mtime_nsec()),
            nlink: found.nlink(),
            identity,
        })
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let entries = fs::read_dir(path)?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn link_target(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(fs::read_link(path)?.into_os_string().into_vec())
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let list = match read_growing(
            || rustix::fs::llistxattr_query(path),
            |buffer| rustix::fs::llistxattr(path, buffer),
        ) {
            Ok(list) => list,
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut xattrs = Vec::new();
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = read_growing(
                || rustix::fs::lgetxattr_query(path, name),
                |buffer| rustix::fs::lgetxattr(path, name, buffer),
            );
            match value {
                Ok(value) => xattrs.push(Xattr {
                    name: name.to_vec(),
                    value,
                }),
                // Removed meanwhile, or not this user's to read.
                Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    fn open(&self, path: &Path) -> Result<File> {
        // O_NONBLOCK: were the file replaced by a fifo meanwhile, opening must not hang.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
            .open(path)?)
    }

    fn read_at(&self, file: &File, to: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            match FileExt::read_at(file, to, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }

    fn data_run(&self, file: &File, offset: u64) -> Result<Option<Range<u64>>> {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => {
                let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
                Ok(Some(start..end))
            }
            Err(Errno::NXIO) => Ok(None),
            // A filesystem that does not know holes: everything is data.
            Err(Errno::INVAL) => {
                let size = file.metadata()?.size();
                Ok((offset < size).then_some(offset..size))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Something new under a name of its own, which is removed unless it is published, or a directory.
#[derive(Debug)]
pub(crate) struct New {
    path: PathBuf,
    scratch: Option<Scratch>,
    file: Option<File>,
}

impl New {
    fn file(&self) -> Result<&File> {
        self.file.as_ref().context("is no regular file")
    }
}

fn make(path: &Path, thing: Thing<'_>) -> io::Result<Option<File>> {
    match thing {
        Thing::File => {
            let mut options = OpenOptions::new();
            return options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map(Some);
        }
        Thing::Link(content) => std::os::unix::fs::symlink(crate::name::path(content), path)?,
        Thing::Node(kind, rdev) => {
            let file_type = match kind {
                FileKind::Fifo => FileType::Fifo,
                FileKind::Socket => FileType::Socket,
                FileKind::CharDevice => FileType::CharacterDevice,
                FileKind::BlockDevice => FileType::BlockDevice,
                FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            };
            rustix::fs::mknodat(CWD, path, file_type, Mode::RUSR | Mode::WUSR, rdev)?;
        }
        Thing::Name(existing) => fs::hard_link(existing, path)?,
    }
    Ok(None)
}

impl Target for Host {
    type New = New;

    fn shown(&self, path: &Path) -> String {
        crate::name::shown(path)
    }

    fn kind(&self, path: &Path) -> Result<Option<FileKind>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(kind_of(found.file_type())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        Ok(rustix::fs::mkdirat(CWD, path, Mode::RWXU)?)
    }

    fn directory(&self, path: &Path) -> New {
        New {
            path: path.to_owned(),
            scratch: None,
            file: None,
        }
    }

    fn create(&self, path: &Path, thing: Thing<'_>) -> Result<New> {
        let path = beside(path);
        let (scratch, file) = Scratch::make(path.clone(), |path| make(path, thing))?;
        Ok(New {
            path,
            scratch: Some(scratch),
            file,
        })
    }

    fn write_at(&self, new: &New, bytes: &[u8], offset: u64) -> Result<()> {
        Ok(new.file()?.write_all_at(bytes, offset)?)
    }

    fn set_size(&self, new: &New, size: u64) -> Result<()> {
        Ok(new.file()?.set_len(size)?)
    }

    fn set_owner(&self, new: &New, attributes: &Attributes) -> Result<()> {
        if self.is_root {
            std::os::unix::fs::lchown(&new.path, Some(attributes.owner.uid), Some(attributes.owner.gid))?;
        }
        Ok(())
    }

    fn set_xattr(&self, new: &New, xattr: &Xattr) -> Result<Kept> {
        let (name, flags) = (xattr.name.as_slice(), XattrFlags::empty());
        match rustix::fs::lsetxattr(&new.path, name, &xattr.value, flags) {
            Ok(()) => Ok(Kept::Yes),
            Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(Kept::No),
            Err(error) => Err(error.into()),
        }
    }

    fn set_mode_and_times(&self, new: &New, attributes: &Attributes) -> Result<()> {
        if attributes.kind != FileKind::Symlink {
            // Under another owner a set-id bit would give away that owner's rights.
            let may_set_id = self.is_root || attributes.owner == Owner::current();
            let lost = if may_set_id { 0 } else { SET_ID_BITS };
            let permissions = fs::Permissions::from_mode(attributes.permissions & !lost);
            fs::set_permissions(&new.path, permissions)?;
        }
        let times = Timestamps {
            last_access: timespec(attributes.atime),
            last_modification: timespec(attributes.mtime),
        };
        Ok(rustix::fs::utimensat(
            CWD,
            &new.path,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    fn publish(&self, new: New, path: &Path) -> Result<()> {
        self.check_not_pool(path)?;
        fs::rename(&new.path, path)?;
        // Of two names of one file rename(2) keeps both: what is no file of its own is removed where it was.
        if let (Some(_), Some(scratch)) = (new.file, new.scratch) {
            scratch.keep();
        }
        Ok(())
    }
}

fn kind_of(file_type: fs::FileType) -> Result<FileKind> {
    Ok(if file_type.is_file() {
        FileKind::Regular
    } else if file_type.is_dir() {
        FileKind::Directory
    } else if file_type.is_symlink() {
        FileKind::Symlink
    } else if file_type.is_fifo() {
        FileKind::Fifo
    } else if file_type.is_socket() {
        FileKind::Socket
    } else if file_type.is_char_device() {
        FileKind::CharDevice
    } else if file_type.is_block_device() {
        FileKind::BlockDevice
    } else {
        bail!("is of an unknown kind")
    })
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    }
}

/// Reads a value whose length another process may change between the question and the answer.
fn read_growing(
    mut length: impl FnMut() -> Result<usize, Errno>,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<u8>, Errno> {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let mut buffer = vec![0; length()?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            Ok(read) => {
                buffer.truncate(read);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}
