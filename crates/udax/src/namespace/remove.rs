//! Removing names: unlink and rmdir.

use udax_media::Timestamp;
use udax_media::inode::FileKind;
use udax_sync::fault::{Fault, is_injected};

use crate::error::{Error, Result};
use crate::extents::Completeness;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::Farewell;
use crate::inode::{Inode, InodeState};
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::directory::EditedDirectory;
use crate::namespace::locks::LockSet;
use crate::namespace::path::{Follow, Last};
use crate::orphans::OrphanChange;
use crate::pool::Pool;
use crate::update::Update;

/// Which kinds of inode a removal takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Removal {
    /// `unlink(2)`: anything but a directory.
    File,
    /// `rmdir(2)`: an empty directory.
    Directory,
}

/// An inode that loses a name in a running update.
#[derive(Debug)]
#[must_use]
pub(crate) struct Leaving<'p> {
    farewell: Option<Farewell>,
    orphan: Option<OrphanChange<'p>>,
}

impl Pool {
    /// Removes the name `path`.
    ///
    /// # Durability
    /// Durable on return: one record, one fence; more when a file of many extents is freed.
    pub(crate) fn remove(&self, path: &[u8], removal: Removal) -> Result<()> {
        self.check_writable()?;
        for _ in 0..MAX_RETRIES {
            let resolved = self.walk(path, Follow::Never)?;
            let name = match (&resolved.last, removal) {
                (Last::Name(name), _) => name,
                (_, Removal::File) => return Err(Error::IsDirectory),
                (Last::Root, _) => return Err(Error::Busy("the root directory cannot be removed")),
                (Last::Dot, _) => return Err(Error::Invalid("`.` cannot be removed")),
                (Last::DotDot, _) => return Err(Error::NotEmpty),
            };
            let target = resolved.target.ok_or(Error::NotFound)?;
            if resolved.must_be_directory && target.kind != FileKind::Directory {
                return Err(Error::NotDirectory);
            }
            let parent = resolved.parent;
            match self.in_steps(|limit| self.remove_entry(parent, name, target, removal, limit)) {
                Err(Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// Removes `name` from `parent` if it refers to `target`.
    ///
    /// # Errors
    /// `Stale` when it does not any more: walk again.
    pub(crate) fn remove_entry(
        &self,
        parent: InodeRef,
        name: &[u8],
        target: InodeRef,
        removal: Removal,
        limit: usize,
    ) -> Result<()> {
        match (removal, target.kind) {
            (Removal::File, FileKind::Directory) => return Err(Error::IsDirectory),
            (Removal::Directory, kind) if kind != FileKind::Directory => return Err(Error::NotDirectory),
            _ => {}
        }
        let parent = self.inode(parent)?;
        let inode = self.inode(target)?;
        let mut locks = LockSet::lock([&*parent, &*inode])?;
        let look_up = self.look_up(&parent, name)?;
        if look_up.found.is_none_or(|found| found.ino != inode.ino) {
            return Err(Error::Stale(inode.ino));
        }
        if target.kind == FileKind::Directory && self.inode_size(&inode)? > 0 {
            return Err(Error::NotEmpty);
        }
        let mut update = Update::freeing(self).limited(limit);
        let now = now();
        let mut directory = EditedDirectory::begin(self, &parent)?;
        directory.remove(&mut update, look_up)?;
        directory.finish(&mut update, now)?;
        if is_injected(Fault::SplitUnlink) {
            update.commit()?;
            update = Update::freeing(self).limited(limit);
        }
        let state = locks.state(&inode)?;
        let leaving = self.drop_name(&mut update, &inode, state, now)?;
        update.commit()?;
        self.dentries.remove((&*parent).into(), name);
        self.say_farewell(leaving, &inode, state)
    }

    /// Adds to `update` the loss of one name of `inode`; a directory loses its only one.
    pub(crate) fn drop_name<'p>(
        &'p self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
        now: Timestamp,
    ) -> Result<Leaving<'p>> {
        let mut line = Line::read(self, inode)?;
        let remaining = match inode.kind {
            FileKind::Directory => 0,
            _ => line.nlink().saturating_sub(1),
        };
        // A file whose truncation is unfinished is an orphan already, which is freed as such.
        let is_short = remaining == 0 && !inode.is_open() && !self.cuts.contains(inode.ino);
        if is_short && self.free_inode(update, inode, state)? == Completeness::All {
            return Ok(Leaving {
                farewell: Some(Farewell::Freed),
                orphan: None,
            });
        }
        line.set_nlink(remaining);
        line.touch_changed(now);
        line.store(update, inode);
        if remaining > 0 {
            return Ok(Leaving {
                farewell: None,
                orphan: None,
            });
        }
        let orphan = match is_injected(Fault::LostOrphan) {
            true => None,
            false => Some(self.orphans.add(update, inode.ino)?),
        };
        let farewell = if inode.is_open() {
            Farewell::Open
        } else {
            Farewell::Long
        };
        Ok(Leaving {
            farewell: Some(farewell),
            orphan,
        })
    }

    /// After the update has committed: what the lost name means for the inode.
    pub(crate) fn say_farewell(
        &self,
        leaving: Leaving<'_>,
        inode: &Inode,
        state: &mut InodeState,
    ) -> Result<()> {
        if let Some(orphan) = leaving.orphan {
            orphan.done();
        }
        match leaving.farewell {
            None => Ok(()),
            Some(Farewell::Freed) => {
                self.bury(inode, state);
                Ok(())
            }
            Some(Farewell::Open) => {
                inode.note_close_work();
                // The handle may have been closed since it was seen, by somebody who saw no work: then it is ours.
                if !inode.is_open() {
                    self.finish_later_if_failing(inode, state);
                }
                Ok(())
            }
            Some(Farewell::Long) => {
                self.finish_later_if_failing(inode, state);
                Ok(())
            }
        }
    }

    /// Frees an orphan. The name is gone already, so a failure is not the caller's: the next mount tries again.
    fn finish_later_if_failing(&self, inode: &Inode, state: &mut InodeState) {
        if let Err(error) = self.finish_orphan(inode, state) {
            tracing::error!(ino = inode.ino.raw(), %error, "freeing an unlinked file failed; it stays an orphan");
        }
    }
}
