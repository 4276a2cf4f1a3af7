//! Opening and closing: `OPEN`, `CREATE`, `RELEASE`, `OPENDIR`, `RELEASEDIR`.
//!
//! `O_APPEND` is the kernel's: it knows the size, and a page written through a mapping of such a file has its own
//! place. So is `O_TRUNC`, which comes as a `SETATTR`.

use fuser::{FileHandle, INodeNo, OpenAccMode};
use udax::{Created, FileKind, OpenFlags};

use crate::names::{Entry, Place};
use crate::refusal::Result;
use crate::server::{Caller, Server};

/// A handle of nothing; none has this number.
const NO_FILE: FileHandle = FileHandle(u64::MAX);

impl Server {
    pub(crate) fn open(&self, ino: INodeNo, flags: fuser::OpenFlags) -> Result<FileHandle> {
        let file = self.node(ino)?.open(access(flags))?;
        Ok(FileHandle(self.handles.add(file)))
    }

    pub(crate) fn open_directory(&self, ino: INodeNo) -> Result<FileHandle> {
        match self.node(ino)?.open(OpenFlags::READ | OpenFlags::DIRECTORY) {
            Ok(file) => Ok(FileHandle(self.handles.add(file))),
            // A working directory that was removed: the kernel lists nothing of it, and does not ask us.
            Err(udax::Error::Stale(_)) if self.nodes.ghost(ino.0).is_some() => Ok(NO_FILE),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn create(
        &self,
        caller: Caller,
        place: Place<'_>,
        mode_and_umask: (u32, u32),
        flags: i32,
    ) -> Result<(Entry, FileHandle)> {
        let parent = self.node(place.directory)?;
        let birth = self.plan_birth(caller, &parent, FileKind::Regular, mode_and_umask)?;
        let is_exclusive = rustix::fs::OFlags::from_bits_retain(flags.cast_unsigned());
        let mut wanted = access(fuser::OpenFlags(flags)) | OpenFlags::CREATE;
        wanted.set(
            OpenFlags::EXCLUSIVE,
            is_exclusive.contains(rustix::fs::OFlags::EXCL),
        );
        let Created { node, file, is_new } = parent.create_file(place.name, wanted, birth.new)?;
        if is_new {
            self.endow(&birth, &parent, place.name, &node)?;
        }
        let entry = self.tell(node)?;
        Ok((entry, FileHandle(self.handles.add(file))))
    }

    pub(crate) fn release(&self, ino: INodeNo, handle: FileHandle) {
        let Some(file) = self.handles.remove(handle.0) else {
            return;
        };
        let last = file.stat().ok().filter(|stat| stat.nlink == 0);
        drop(file);
        // With its last close a removed file goes; somebody may still have it by O_PATH.
        if let Some(stat) = last {
            self.keep_ghost(ino, stat);
        }
    }
}

fn access(flags: fuser::OpenFlags) -> OpenFlags {
    match flags.acc_mode() {
        OpenAccMode::O_RDONLY => OpenFlags::READ,
        OpenAccMode::O_WRONLY => OpenFlags::WRITE,
        OpenAccMode::O_RDWR => OpenFlags::READ | OpenFlags::WRITE,
    }
}
