//! A pool as a side of a copy.

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::Result;
use udax::{
    Error, File, FileKind, Filesystem, NewInode, OpenFlags, Owner, RenameMode, SetAttributes, SetTime, Stat,
    XattrMode,
};
use udax_media::BLOCK_BYTES;

use super::tree::{Attributes, Kept, Source, Target, Xattr};

/// Entries asked for at a time.
const DIRECTORY_BATCH: usize = 1024;

/// An open pool.
#[derive(Debug)]
pub(crate) struct InPool<'f>(pub(crate) &'f Filesystem);

impl Source for InPool<'_> {
    type File = File;

    fn attributes(&self, path: &Path) -> Result<Attributes> {
        Ok(attributes_of(&self.0.stat_link(path)?))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let entries = self.0.read_dir(path, cookie, DIRECTORY_BATCH)?;
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
        Ok(self.0.read_link(path)?)
    }

    fn xattrs(&self, path: &Path) -> Result<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        for name in self.0.list_xattrs(path)? {
            let value = self.0.xattr(path, &name)?;
            xattrs.push(Xattr { name, value });
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    fn open(&self, path: &Path) -> Result<File> {
        let flags = OpenFlags::READ | OpenFlags::NO_FOLLOW;
        Ok(self.0.open_file(path, flags, unowned(0))?)
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

impl Target for InPool<'_> {
    type File = File;

    fn kind(&self, path: &Path) -> Result<Option<FileKind>> {
        match self.0.stat_link(path) {
            Ok(stat) => Ok(Some(stat.kind)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.0.create_dir(path, unowned(0o700))?;
        Ok(())
    }

    fn create_file(&self, path: &Path) -> Result<File> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        Ok(self.0.open_file(path, flags, unowned(0o600))?)
    }

    fn write_at(&self, file: &File, mut bytes: &[u8], mut offset: u64) -> Result<()> {
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

    fn set_size(&self, file: &File, size: u64) -> Result<()> {
        Ok(file.truncate(size)?)
    }

    fn create_link(&self, content: &[u8], path: &Path) -> Result<()> {
        self.0.symlink(content, path, unowned(0o777))?;
        Ok(())
    }

    fn create_node(&self, path: &Path, kind: FileKind, rdev: u64) -> Result<()> {
        self.0.make_node(path, kind, rdev, unowned(0o600))?;
        Ok(())
    }

    fn hard_link(&self, existing: &Path, path: &Path) -> Result<()> {
        Ok(self.0.link(existing, path)?)
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<()> {
        Ok(self.0.rename(from, to, RenameMode::Replace)?)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        Ok(self.0.unlink(path)?)
    }

    /// Nothing: the pool sets the owner together with mode and times, in one record.
    fn set_owner(&self, _: &Path, _: &Attributes) -> Result<()> {
        Ok(())
    }

    fn set_xattr(&self, path: &Path, xattr: &Xattr) -> Result<Kept> {
        match self
            .0
            .set_xattr(path, &xattr.name, &xattr.value, XattrMode::Either)
        {
            Ok(()) => Ok(Kept::Yes),
            Err(Error::NotSupported(_) | Error::NotPermitted(_)) => Ok(Kept::No),
            Err(error) => Err(error.into()),
        }
    }

    fn set_mode_and_times(&self, path: &Path, attributes: &Attributes) -> Result<()> {
        let permissions = (attributes.kind != FileKind::Symlink).then_some(attributes.permissions);
        let set = SetAttributes {
            permissions,
            uid: Some(attributes.owner.uid),
            gid: Some(attributes.owner.gid),
            atime: Some(SetTime::To(attributes.atime)),
            mtime: Some(SetTime::To(attributes.mtime)),
        };
        self.0.set_attributes(path, set)?;
        Ok(())
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
