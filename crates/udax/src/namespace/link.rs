//! Further names for an inode.

use udax_media::dentry::Dentry;
use udax_media::inode::FileKind;

use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::directory::EditedDirectory;
use crate::namespace::locks::LockSet;
use crate::namespace::path::{Absence, Follow, Last};
use crate::pool::Pool;
use crate::update::Update;

/// The most names of an inode: a bound far above use, so that the counter cannot overflow.
const MAX_LINKS: u32 = 1 << 31;

impl Pool {
    /// Gives the inode `existing`, which is no directory, the further name `path`.
    pub(crate) fn link(&self, existing: &[u8], path: &[u8]) -> Result<()> {
        self.check_writable()?;
        for _ in 0..MAX_RETRIES {
            let inode = self.resolve(existing, Follow::No)?;
            match self.link_inode(&inode, path) {
                Err(Error::Stale(ino)) if ino == inode.ino => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    /// As [`Pool::link`], for an inode that the caller has.
    ///
    /// # Errors
    /// `Stale` with its number when the inode is gone.
    pub(crate) fn link_inode(&self, inode: &Inode, path: &[u8]) -> Result<()> {
        self.check_writable()?;
        // A directory is refused only when the name is free.
        let is_directory = inode.kind == FileKind::Directory;
        for attempt in usize::from(is_directory)..MAX_RETRIES {
            let resolved = self.walk_presuming(path, Follow::Never, Absence::at_attempt(attempt))?;
            let Last::Name(name) = &resolved.last else {
                return Err(Error::Exists);
            };
            if resolved.target.is_some() {
                return Err(Error::Exists);
            }
            if resolved.must_be_directory {
                return Err(Error::NotFound);
            }
            if is_directory {
                return Err(Error::NotPermitted("a directory has one name"));
            }
            let parent = match self.inode(resolved.parent) {
                Err(Error::Stale(_)) => continue,
                other => other?,
            };
            match self.retry_when_full(|| self.link_in(&parent, name, inode)) {
                Err(Error::Stale(ino)) if ino != inode.ino => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    pub(crate) fn link_in(&self, parent: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        let mut locks = LockSet::lock([parent, inode])?;
        let look_up = self.look_up(parent, name)?;
        if look_up.found.is_some() {
            return Err(Error::Exists);
        }
        let state = locks.state(inode)?;
        let mut update = Update::new(self);
        let mut line = Line::read(self, inode)?;
        if line.nlink() == 0 && !state.is_linkable {
            return Err(Error::NotFound);
        }
        if line.nlink() == 0 {
            // It is no orphan afterwards.
            self.finish_cut(inode, state)?;
            line = Line::read(self, inode)?;
        }
        if line.nlink() >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let now = now();
        let mut directory = EditedDirectory::begin(self, parent)?;
        let (ino, kind) = (inode.ino, inode.kind);
        directory.insert(&mut update, &look_up, Dentry { ino, kind, name })?;
        directory.finish(&mut update, now)?;
        let orphan = match line.nlink() {
            0 => Some(self.orphans.remove(&mut update, inode.ino)?),
            _ => None,
        };
        line.set_nlink(line.nlink() + 1);
        line.touch_changed(now);
        line.store(&mut update, inode);
        update.commit()?;
        if let Some(orphan) = orphan {
            orphan.done();
        }
        state.is_linkable = false;
        self.dentries.set(parent.into(), name, InodeRef::from(inode));
        Ok(())
    }
}
