//! A pool as a side of a copy.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use udax::{
    Error, File, FileKind, Filesystem, NewInode, OpenFlags, Owner, RenameMode, SetAttributes, SetTime, Stat,
    XattrMode,
};
use udax_media::BLOCK_BYTES;

use super::tree::{Attributes, Kept, Source, Target, Thing, Xattr, beside};
use crate::pool_path::in_pool;

/// Entries asked for at a time.
const DIRECTORY_BATCH: usize = 1024;

/// An open pool.
#[derive(Debug)]
pub(crate) struct InPool<'f> {
    filesystem: &'f Filesystem,
    /// Its file or device, for messages.
    pool: &'f Path,
}

impl<'f> InPool<'f> {
    /// The pool in the file or on the device `pool`.
    pub(crate) fn new(filesystem: &'f Filesystem, pool: &'f Path) -> Self {
        Self { filesystem, pool }
    }
}

impl Source for InPool<'_> {
    type File = File;

    fn shown(&self, path: &Path) -> String {
        in_pool(self.pool, path)
    }

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        Ok(attributes_of(&self.filesystem.stat_link(path)?))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let entries = self.filesystem.read_dir(path, cookie, DIRECTORY_BATCH)?;
            let Some(last) = entries.last() else { break };
            cookie = last.cookie;
            names.extend(
                entries
                    .into_iter()
                    .filter(|entry| entry.name != b"." && entry.name != b"..")
                    .map(|entry| OsString::from_vec(entry.name)),
            );
        }
        names.sort_unstable();
        Ok(names)
    }

    fn link_target(&self, path: &Path) -> Result<Vec<u8>> {
        Ok(self.filesystem.read_link(path)?)
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        for name in self.filesystem.list_xattrs(path)? {
            let value = self.filesystem.xattr(path, &name)?;
            xattrs.push(Xattr { name, value });
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    fn open(&self, path: &Path) -> Result<File> {
        let flags = OpenFlags::READ | OpenFlags::NO_FOLLOW;
        Ok(self.filesystem.open_file(path, flags, unowned(0))?)
    }

    fn read_at(&self, file: &File, to: &mut [u8], offset: u64) -> Result<usize> {
        Ok(file.read_at(to, offset)?)
    }

    fn data_run(&self, file: &File, offset: u64) -> Result<Option<Range<u64>>> {
        match file.seek_data(offset) {
            Ok(start) => Ok(Some(start..file.seek_hole(start)?)),
            Err(Error::NoSuchRange) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Something new, or a directory.
#[derive(Debug)]
pub(crate) enum New<'f> {
    /// A regular file without a name: a crash leaves nothing of it.
    Nameless(File),
    /// Has its own name already: there was nothing.
    Named(PathBuf),
    /// Has another name beside what it will replace.
    Beside(Beside<'f>),
}

/// A name beside another, removed at the end.
#[derive(Debug)]
pub(crate) struct Beside<'f> {
    filesystem: &'f Filesystem,
    path: PathBuf,
}

impl Beside<'_> {
    fn replace(self, path: &Path) -> Result<(), Error> {
        self.filesystem.rename(&self.path, path, RenameMode::Replace)
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        // Mostly gone by now; but of two names of one file a rename keeps both.
        let _ = self.filesystem.unlink(&self.path);
    }
}

impl New<'_> {
    fn file(&self) -> Result<&File> {
        match self {
            Self::Nameless(file) => Ok(file),
            Self::Named(_) | Self::Beside(_) => bail!("is no regular file"),
        }
    }
}

impl<'f> InPool<'f> {
    fn make(&self, path: &Path, thing: Thing<'_>) -> Result<(), Error> {
        match thing {
            Thing::Link(content) => self.filesystem.symlink(content, path, unowned(0o777)).map(drop),
            Thing::Node(kind, rdev) => self
                .filesystem
                .make_node(path, kind, rdev, unowned(0o600))
                .map(drop),
            Thing::Name(existing) => self.filesystem.link(existing, path),
            Thing::File => Err(Error::Invalid("a file is made without a name")),
        }
    }

    fn make_beside(
        &self,
        path: &Path,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Beside<'f>, Error> {
        let path = beside(path);
        make(&path)?;
        Ok(Beside {
            filesystem: self.filesystem,
            path,
        })
    }
}

impl<'f> Target for InPool<'f> {
    type New = New<'f>;

    fn shown(&self, path: &Path) -> String {
        in_pool(self.pool, path)
    }

    fn kind(&self, path: &Path) -> Result<Option<FileKind>> {
        match self.filesystem.stat_link(path) {
            Ok(stat) => Ok(Some(stat.kind)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.filesystem.create_dir(path, unowned(0o700))?;
        Ok(())
    }

    fn directory(&self, path: &Path) -> New<'f> {
        New::Named(path.to_owned())
    }

    fn create(&self, path: &Path, thing: Thing<'_>) -> Result<New<'f>> {
        if let Thing::File = thing {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let flags = OpenFlags::WRITE | OpenFlags::TEMPORARY;
            let file = self.filesystem.open_file(parent, flags, unowned(0o600))?;
            return Ok(New::Nameless(file));
        }
        match self.make(path, thing) {
            Ok(()) => Ok(New::Named(path.to_owned())),
            Err(Error::Exists) => {
                let beside = self.make_beside(path, |path| self.make(path, thing))?;
                Ok(New::Beside(beside))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, new: &New<'f>, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        let file = new.file()?;
        while !bytes.is_empty() {
            let written = file.write_at(bytes, offset)?;
            if written == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
            }
            bytes = bytes.get(written..).unwrap_or_default();
            offset += u64::try_from(written).unwrap_or(0);
        }
        Ok(())
    }

    fn set_size(&self, new: &New<'f>, size: u64) -> Result<()> {
        Ok(new.file()?.truncate(size)?)
    }

    /// Nothing: the pool sets the owner together with mode and times, in one record.
    fn set_owner(&self, _: &New<'f>, _: &Attributes) -> Result<()> {
        Ok(())
    }

    fn set_xattr(&self, new: &New<'f>, xattr: &Xattr) -> Result<Kept> {
        let (name, value, mode) = (&xattr.name, &xattr.value, XattrMode::Either);
        let set = match new {
            New::Nameless(file) => file.set_xattr(name, value, mode),
            New::Named(path) | New::Beside(Beside { path, .. }) => {
                self.filesystem.set_xattr(path, name, value, mode)
            }
        };
        match set {
            Ok(()) => Ok(Kept::Yes),
            Err(Error::NotSupported(_) | Error::NotPermitted(_)) => Ok(Kept::No),
            Err(error) => Err(error.into()),
        }
    }

    fn set_mode_and_times(&self, new: &New<'f>, attributes: &Attributes) -> Result<()> {
        let permissions = (attributes.kind != FileKind::Symlink).then_some(attributes.permissions);
        let set = SetAttributes {
            permissions,
            uid: Some(attributes.owner.uid),
            gid: Some(attributes.owner.gid),
            atime: Some(SetTime::To(attributes.atime)),
            mtime: Some(SetTime::To(attributes.mtime)),
        };
        match new {
            New::Nameless(file) => file.set_attributes(set)?,
            New::Named(path) | New::Beside(Beside { path, .. }) => {
                self.filesystem.set_attributes(path, set)?
            }
        };
        Ok(())
    }

    fn publish(&self, new: New<'f>, path: &Path) -> Result<()> {
        match new {
            New::Nameless(file) => match self.filesystem.link_file(&file, path) {
                Err(Error::Exists) => {
                    // A file cannot be linked over another: a second name, for a moment.
                    let beside = self.make_beside(path, |path| self.filesystem.link_file(&file, path))?;
                    Ok(beside.replace(path)?)
                }
                linked => Ok(linked?),
            },
            New::Beside(beside) => Ok(beside.replace(path)?),
            New::Named(_) => Ok(()),
        }
    }
}

/// What a copy makes at first: owned by root until mode, times and owner are set together. (Asking for
/// the process's own would cost two system calls a file.)
fn unowned(permissions: u32) -> NewInode {
    NewInode {
        permissions,
        owner: Owner::default(),
    }
}

fn attributes_of(stat: &Stat) -> Attributes {
    Attributes {
        kind: stat.kind,
        permissions: stat.permissions,
        owner: Owner {
            uid: stat.uid,
            gid: stat.gid,
        },
        rdev: stat.rdev,
        size: stat.size,
        allocated: stat.blocks.saturating_mul(BLOCK_BYTES),
        atime: stat.atime,
        mtime: stat.mtime,
        nlink: u64::from(stat.nlink),
        identity: (0, stat.ino.raw()),
    }
}
