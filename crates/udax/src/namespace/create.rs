//! Making directories, links, device nodes and files.

use std::sync::Arc;

use udax_journal::DataWriter;
use udax_media::dentry::Dentry;
use udax_media::inode::{FileKind, INLINE_BYTES, InodeFlags};
use udax_media::{BlockNo, BlockRange, ByteOffset, InodeNo, MAX_SYMLINK_BYTES};

use crate::error::{Error, Result};
use crate::inode::attributes::now;
use crate::inode::fields::high;
use crate::inode::lifecycle::{Birth, BirthContent, NumberGuard};
use crate::inode::{Inode, InodeState};
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::directory::EditedDirectory;
use crate::namespace::path::{Absence, Follow, Last, Resolved};
use crate::options::{NewInode, Stat};
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::update::Update;

const SET_GROUP_ID: u32 = 0o2000;

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Creation<'c> {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'c [u8]),
    /// A fifo, socket or device node.
    Node(FileKind, u64),
}

impl Creation<'_> {
    fn kind(self) -> FileKind {
        match self {
            Self::File => FileKind::Regular,
            Self::Directory => FileKind::Directory,
            Self::Symlink(_) => FileKind::Symlink,
            Self::Node(kind, _) => kind,
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Symlink([]) => Err(Error::NotFound),
            Self::Symlink(target) if target.len() > MAX_SYMLINK_BYTES => Err(Error::NameTooLong {
                length: target.len(),
                limit: MAX_SYMLINK_BYTES,
            }),
            Self::Symlink(target) if target.contains(&0) => {
                Err(Error::Invalid("a link target must not contain NUL"))
            }
            Self::Node(FileKind::Fifo | FileKind::Socket, 0)
            | Self::Node(FileKind::CharDevice | FileKind::BlockDevice, _) => Ok(()),
            Self::Node(..) => Err(Error::Invalid("kind or device number of a node")),
            _ => Ok(()),
        }
    }
}

impl Pool {
    /// Makes what `path` names; it must not exist.
    ///
    /// # Durability
    /// Durable on return: one record, one fence (a long link target: two fences).
    pub(crate) fn create(&self, path: &[u8], creation: Creation<'_>, new: NewInode) -> Result<Stat> {
        self.check_writable()?;
        creation.check()?;
        for attempt in 0..MAX_RETRIES {
            let resolved = self.walk_presuming(path, Follow::Never, Absence::at_attempt(attempt))?;
            let stat = |inode: &Arc<Inode>| self.stat_inode(inode, &InodeState::default());
            match self.create_resolved(&resolved, creation, new, stat) {
                Err(Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// Makes the last component of `resolved`, whose target may be presumed absent. `look` sees it before the directory
    /// is unlocked: its name may be gone again when this returns.
    ///
    /// # Errors
    /// `Exists`, also when somebody else has just made it; `Stale` when the directory is gone: walk again.
    pub(crate) fn create_resolved<T>(
        &self,
        resolved: &Resolved,
        creation: Creation<'_>,
        new: NewInode,
        look: impl Fn(&Arc<Inode>) -> Result<T>,
    ) -> Result<T> {
        let Last::Name(name) = &resolved.last else {
            return Err(Error::Exists);
        };
        if resolved.target.is_some() {
            return Err(Error::Exists);
        }
        if resolved.must_be_directory && creation.kind() != FileKind::Directory {
            return Err(Error::NotFound);
        }
        let parent = self.inode(resolved.parent)?;
        self.retry_when_full(|| {
            let _parent_state = parent.write()?;
            look(&self.create_in(&parent, name, creation, new)?)
        })
    }

    /// Makes `name` in `parent`, whose lock the caller has alone.
    fn create_in(
        &self,
        parent: &Inode,
        name: &[u8],
        creation: Creation<'_>,
        new: NewInode,
    ) -> Result<Arc<Inode>> {
        let look_up = self.look_up(parent, name)?;
        // Before anything else can fail.
        if look_up.found.is_some() {
            return Err(Error::Exists);
        }
        let number = NumberGuard::take(self)?;
        let mut update = Update::new(self);
        let mut directory = EditedDirectory::begin(self, parent)?;
        let (ino, kind) = (number.ino, creation.kind());
        directory.insert(&mut update, &look_up, Dentry { ino, kind, name })?;
        let now = now();
        let content = self.birth_content(&mut update, creation)?;
        let birth = Birth {
            kind: creation.kind(),
            new: self.inherit(parent, creation.kind(), new)?,
            flags: self.inherited_flags(parent, creation.kind())?,
            nlink: if creation.kind() == FileKind::Directory {
                2
            } else {
                1
            },
            parent: parent.ino,
            now,
            content,
        };
        let inode = number.make(&mut update, birth)?;
        directory.finish(&mut update, now)?;
        update.commit()?;
        // First of all, or a failure below would give the number back.
        let inode = number.publish(inode);
        self.dentries.set(parent.into(), name, InodeRef::from(&*inode));
        Ok(inode)
    }

    /// Makes a regular file without a name: an orphan until it is linked or closed. Its handle must be counted by the
    /// caller, who is the only one to know it.
    pub(crate) fn create_unnamed(&self, directory: &Inode, new: NewInode) -> Result<Arc<Inode>> {
        self.check_writable()?;
        let kind = FileKind::Regular;
        self.retry_when_full(|| {
            let flags = self.inherited_flags(directory, kind)?;
            self.create_orphan(self.inherit(directory, kind, new)?, flags)
        })
    }

    /// Makes a regular file without a name and without a directory that it takes after.
    pub(crate) fn create_orphan(&self, new: NewInode, flags: InodeFlags) -> Result<Arc<Inode>> {
        let number = NumberGuard::take(self)?;
        let mut update = Update::new(self);
        let birth = Birth {
            kind: FileKind::Regular,
            new,
            flags,
            nlink: 0,
            parent: InodeNo(0),
            now: now(),
            content: BirthContent::Empty,
        };
        let inode = number.make(&mut update, birth)?;
        let change = self.orphans.add(&mut update, inode.ino)?;
        update.commit()?;
        change.done();
        Ok(number.publish(inode))
    }

    /// A new inode's group and set-group-id bit follow a directory that has that bit (System V semantics).
    fn inherit(&self, parent: &Inode, kind: FileKind, mut new: NewInode) -> Result<NewInode> {
        if new.permissions & !udax_media::inode::PERMISSION_MASK != 0 {
            return Err(Error::Invalid("permission bits beyond 07777"));
        }
        // symlink(7): a link's permissions are not used and always 0777.
        if kind == FileKind::Symlink {
            new.permissions = 0o777;
        }
        let (mode, _) = self.inode_mode_and_flags(parent)?;
        if mode & SET_GROUP_ID != 0 {
            new.owner.gid = high(self.word(parent.field(udax_media::inode::offset::OWNER))?);
            if kind == FileKind::Directory {
                new.permissions |= SET_GROUP_ID;
            }
        }
        Ok(new)
    }

    /// Whether its data gets checksums, and is reached by memory access, a file or directory takes from its directory.
    fn inherited_flags(&self, parent: &Inode, kind: FileKind) -> Result<InodeFlags> {
        let (_, flags) = self.inode_mode_and_flags(parent)?;
        Ok(match kind {
            FileKind::Regular | FileKind::Directory => {
                InodeFlags::from_bits_retain(flags).intersection(InodeFlags::SUMMED | InodeFlags::DAX)
            }
            _ => InodeFlags::empty(),
        })
    }

    fn birth_content<'c>(&self, update: &mut Update<'_>, creation: Creation<'c>) -> Result<BirthContent<'c>> {
        match creation {
            Creation::File | Creation::Directory => Ok(BirthContent::Empty),
            Creation::Node(_, rdev) => Ok(BirthContent::Device(rdev)),
            Creation::Symlink(target) if target.len() <= INLINE_BYTES => {
                Ok(BirthContent::ShortTarget(target))
            }
            Creation::Symlink(target) => {
                let block = self.store_target(update, target)?;
                Ok(BirthContent::LongTarget { target, block })
            }
        }
    }

    /// Writes a long link target to a block of its own, durably, and allocates it in `update`.
    fn store_target(&self, update: &mut Update<'_>, target: &[u8]) -> Result<BlockNo> {
        let request = Request {
            goal: BlockNo(0),
            count: 1,
            placement: Placement::Any,
            priority: Priority::Ordinary,
        };
        let run = self.space.take(request)?;
        update.guard(run);
        let at = run.start.offset();
        let length = u64::try_from(target.len()).unwrap_or(0);
        let mut writer = DataWriter::new(&self.region);
        writer.write(at, target)?;
        writer.zero(ByteOffset(at.raw() + length), udax_media::BLOCK_BYTES - length)?;
        let durable = writer
            .finish(vec![BlockRange::new(run.start, 1)])
            .fence(&self.region)?;
        update.allocate_data(&durable);
        Ok(run.start)
    }
}
