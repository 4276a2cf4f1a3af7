//! Paths to inodes (POSIX.1-2017, 4.13 Pathname Resolution).

use std::sync::Arc;

use smallvec::SmallVec;
use udax_media::inode::{self, FileKind, INLINE_BYTES, offset};
use udax_media::{InodeNo, MAX_SYMLINK_BYTES, Place};

use crate::error::{Error, Result};
use crate::extents::{self, Mapping};
use crate::inode::Inode;
use crate::inode::fields::high;
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::directory::check_name;
use crate::pool::Pool;

/// The most symbolic links followed for one path (Linux `MAXSYMLINKS`).
const MAX_LINKS_FOLLOWED: usize = 40;
/// The longest path (Linux `PATH_MAX` less the terminator).
const MAX_PATH_BYTES: usize = 4095;

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Follow {
    /// It is: the path means what the link leads to.
    Yes,
    /// It is not, unless slashes follow it: the path means the link (`lstat`).
    No,
    /// It is not, whatever follows it: the path means a name in a directory (`unlink`).
    Never,
}

/// What it means that a walk finds nothing under the last component's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Absence {
    /// The directory has no such name.
    Proven,
    /// The name is not cached. For those who are about to add it: they look into the directory themselves, under its
    /// lock, and walk again for proof when they find it taken.
    Presumed,
}

impl Absence {
    /// Presumed at the first attempt.
    pub(crate) fn at_attempt(attempt: usize) -> Self {
        if attempt == 0 {
            Self::Presumed
        } else {
            Self::Proven
        }
    }
}

/// A name as short as most are.
pub(crate) type ShortName = SmallVec<[u8; 40]>;

/// The last component of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    /// The root itself.
    Root,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// A name.
    Name(ShortName),
}

/// A path resolved as far as the directory of its last component.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The directory that holds, or would hold, the last component.
    pub(crate) parent: InodeRef,
    pub(crate) last: Last,
    /// Slashes followed the last component: it must be a directory.
    pub(crate) must_be_directory: bool,
    /// What the last component is now, if it exists; see [`Absence`].
    pub(crate) target: Option<InodeRef>,
}

impl Pool {
    /// The root directory.
    pub(crate) fn root(&self) -> Result<InodeRef> {
        let at = self.inode_table.locate(self, inode::ROOT)?;
        let generation = self.word(udax_media::ByteOffset(at.raw() + offset::GENERATION))?;
        Ok(InodeRef {
            ino: inode::ROOT,
            generation,
            kind: FileKind::Directory,
        })
    }

    /// The object of an inode that a name referred to.
    ///
    /// # Errors
    /// `Stale` when the inode is gone, or its number belongs to another one now.
    pub(crate) fn inode(&self, of: InodeRef) -> Result<Arc<Inode>> {
        let inode = self.inodes.get(self, of.ino)?;
        if inode.generation == of.generation {
            Ok(inode)
        } else {
            Err(Error::Stale(of.ino))
        }
    }

    /// The inode that `path` names.
    pub(crate) fn resolve(&self, path: &[u8], follow: Follow) -> Result<Arc<Inode>> {
        for _ in 0..MAX_RETRIES {
            let resolved = self.walk(path, follow)?;
            let target = resolved.target.ok_or(Error::NotFound)?;
            if resolved.must_be_directory && target.kind != FileKind::Directory {
                return Err(Error::NotDirectory);
            }
            match self.inode(target) {
                Err(Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// Walks `path` to its last component, following symbolic links on the way, and at the end if `follow` says so.
    pub(crate) fn walk(&self, path: &[u8], follow: Follow) -> Result<Resolved> {
        self.walk_presuming(path, follow, Absence::Proven)
    }

    /// As [`Pool::walk`], with a choice of what a missing target means. Slashes behind the last component ask for
    /// proof.
    pub(crate) fn walk_presuming(&self, path: &[u8], follow: Follow, absence: Absence) -> Result<Resolved> {
        if path.is_empty() {
            return Err(Error::NotFound);
        }
        check_path_len(path.len())?;
        let mut directory = self.root()?;
        // Most paths have no link: they are walked where they are.
        let mut expanded: Option<Vec<u8>> = None;
        for _ in 0..=MAX_LINKS_FOLLOWED {
            let rest = expanded.as_deref().unwrap_or(path);
            match self.walk_until_link(directory, rest, follow, absence)? {
                Step::Done(resolved) => return Ok(resolved),
                Step::Link { parent, link, tail } => {
                    let target = self.inode(link).and_then(|inode| self.read_target(&inode));
                    let mut rest = target.map_err(|error| match error {
                        Error::Stale(_) => Error::NotFound,
                        other => other,
                    })?;
                    rest.extend(tail);
                    check_path_len(rest.len())?;
                    directory = parent;
                    expanded = Some(rest);
                }
            }
        }
        Err(Error::SymlinkLoop)
    }

    fn walk_until_link(
        &self,
        start: InodeRef,
        path: &[u8],
        follow: Follow,
        absence: Absence,
    ) -> Result<Step> {
        let mut directory = if path.first() == Some(&b'/') {
            self.root()?
        } else {
            start
        };
        let mut rest = trim_slashes(path);
        if rest.is_empty() {
            let root = Resolved {
                parent: directory,
                last: Last::Root,
                must_be_directory: true,
                target: Some(directory),
            };
            return Ok(Step::Done(root));
        }
        loop {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let next = trim_slashes(after);
            let is_last = next.is_empty();
            // Slashes follow every component but the last.
            let must_be_directory = !after.is_empty();
            let (last, target) = match name {
                b"." => (Last::Dot, Some(directory)),
                b".." => (Last::DotDot, Some(self.parent_of(directory)?)),
                _ => {
                    check_name(name)?;
                    let target = if is_last && !must_be_directory && absence == Absence::Presumed {
                        self.dentries.get(directory, name)
                    } else {
                        self.lookup(directory, name)?
                    };
                    let follows = match follow {
                        Follow::Yes => true,
                        Follow::No => must_be_directory,
                        Follow::Never => !is_last,
                    };
                    if let Some(link) = target.filter(|target| target.kind == FileKind::Symlink && follows) {
                        return Ok(Step::Link {
                            parent: directory,
                            link,
                            tail: after.to_vec(),
                        });
                    }
                    (
                        Last::Name(ShortName::from_slice(if is_last { name } else { b"" })),
                        target,
                    )
                }
            };
            if is_last {
                return Ok(Step::Done(Resolved {
                    parent: directory,
                    last,
                    must_be_directory,
                    target,
                }));
            }
            directory = target.ok_or(Error::NotFound)?;
            if directory.kind != FileKind::Directory {
                return Err(Error::NotDirectory);
            }
            rest = next;
        }
    }

    /// What `name` in `directory` refers to.
    pub(crate) fn lookup(&self, directory: InodeRef, name: &[u8]) -> Result<Option<InodeRef>> {
        if let Some(target) = self.dentries.get(directory, name) {
            return Ok(Some(target));
        }
        self.lookup_in_tree(directory, name)
    }

    fn lookup_in_tree(&self, directory: InodeRef, name: &[u8]) -> Result<Option<InodeRef>> {
        let gone = |error| match error {
            Error::Stale(_) => Error::NotFound,
            other => other,
        };
        let inode = self.inode(directory).map_err(gone)?;
        let _state = inode.read().map_err(gone)?;
        self.lookup_locked(&inode, name)
    }

    /// As [`Pool::lookup`], in a directory whose lock the caller has.
    pub(crate) fn lookup_locked(&self, inode: &Inode, name: &[u8]) -> Result<Option<InodeRef>> {
        let Some(found) = self.find_entry(inode, name)? else {
            return Ok(None);
        };
        // The name keeps the inode while the directory is locked.
        let at = self
            .inode_table
            .locate(self, found.ino)
            .map_err(|error| match error {
                Error::Stale(ino) => Error::Inconsistent {
                    place: Place::Inode(ino),
                    what: "a directory entry refers to no inode",
                },
                other => other,
            })?;
        let generation = self.word(udax_media::ByteOffset(at.raw() + offset::GENERATION))?;
        let target = InodeRef {
            ino: found.ino,
            generation,
            kind: found.kind,
        };
        self.dentries.set(inode.into(), name, target);
        Ok(Some(target))
    }

    fn parent_of(&self, directory: InodeRef) -> Result<InodeRef> {
        let inode = self.inode(directory)?;
        let parent: InodeNo = self.inode_parent(&inode)?;
        let inode = self.inodes.get(self, parent)?;
        Ok(InodeRef::from(&*inode))
    }

    /// Where a symbolic link leads, for somebody who asks for that.
    pub(crate) fn read_link(&self, inode: &Inode) -> Result<Vec<u8>> {
        let target = self.read_target(inode)?;
        if let Ok(state) = inode.read() {
            self.note_access(inode, state, true);
        }
        Ok(target)
    }

    /// Where a symbolic link leads.
    pub(crate) fn read_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.kind != FileKind::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let mut state = inode.write()?;
        let size = usize::try_from(self.inode_size(inode)?)
            .unwrap_or(usize::MAX)
            .min(MAX_SYMLINK_BYTES);
        let mut target = vec![0; size];
        if size <= INLINE_BYTES {
            let read = self.region.read(inode.field(offset::INLINE).raw(), &mut target);
            self.health.note("an inode", read)?;
        } else {
            extents::load(self, inode, &mut state)?;
            let Mapping::Extent(extent) =
                extents::lookup(self, inode, &state.extents, udax_media::FileBlock(0))?
            else {
                return Err(damaged_target(inode));
            };
            let start = extent.start.offset().raw();
            self.region
                .read(start, &mut target)
                .map_err(|error| self.lost_data(inode, (start, 0), udax_media::BLOCK_BYTES, error))?;
        }
        let stored = high(self.word(inode.field(offset::INLINE_COUNT))?);
        if inode::target_checksum(&target) != stored {
            return Err(damaged_target(inode));
        }
        Ok(target)
    }
}

enum Step {
    Done(Resolved),
    Link {
        parent: InodeRef,
        link: InodeRef,
        tail: Vec<u8>,
    },
}

fn damaged_target(inode: &Inode) -> Error {
    Error::Inconsistent {
        place: Place::Inode(inode.ino),
        what: "its link target is damaged",
    }
}

fn check_path_len(length: usize) -> Result<()> {
    if length > MAX_PATH_BYTES {
        return Err(Error::NameTooLong {
            length,
            limit: MAX_PATH_BYTES,
        });
    }
    Ok(())
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    path.get(start..).unwrap_or_default()
}
