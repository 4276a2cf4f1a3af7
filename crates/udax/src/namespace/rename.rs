//! Renaming, exchanging, and moving between directories.

use std::sync::Arc;

use udax_media::dentry::Dentry;
use udax_media::inode::{self, FileKind, offset};
use udax_media::{InodeNo, Timestamp};
use udax_sync::fault::{Fault, is_injected};

use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::namespace::MAX_RETRIES;
use crate::namespace::cache::InodeRef;
use crate::namespace::directory::{EditedDirectory, Found, LookUp};
use crate::namespace::locks::LockSet;
use crate::namespace::path::{Absence, Follow, Last, Resolved};
use crate::options::RenameMode;
use crate::pool::Pool;
use crate::update::Update;

/// The deepest directory, as a bound on the walk to the root: a path has at most 2047 components, but directories may
/// be moved below one another.
const MAX_DEPTH: usize = 1 << 20;

/// One side of a rename: a directory, a name in it, and the inode that has the name.
#[derive(Debug)]
struct Side<'s> {
    parent: Arc<Inode>,
    name: &'s [u8],
    inode: Option<Arc<Inode>>,
}

impl Pool {
    /// Renames `from` to `to` (POSIX `rename`, Linux `renameat2`).
    ///
    /// # Durability
    /// Durable on return: one record, one fence; more when a replaced file of many extents is freed.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8], mode: RenameMode) -> Result<()> {
        self.check_writable()?;
        for attempt in 0..MAX_RETRIES {
            let source = self.walk(from, Follow::Never)?;
            // Directories have more errors, whose order depends on the target.
            let is_simple = mode != RenameMode::Exchange
                && !source.must_be_directory
                && source
                    .target
                    .is_some_and(|source| source.kind != FileKind::Directory);
            let absence = Absence::at_attempt(if is_simple { attempt } else { 1 });
            let target = self.walk_presuming(to, Follow::Never, absence)?;
            match self.rename_resolved(&source, &target, mode) {
                Err(Error::Stale(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound)
    }

    pub(crate) fn rename_resolved(&self, from: &Resolved, to: &Resolved, mode: RenameMode) -> Result<()> {
        let (Last::Name(from_name), Last::Name(to_name)) = (&from.last, &to.last) else {
            let is_taken = mode == RenameMode::NoReplace && matches!(from.last, Last::Name(_));
            return Err(if is_taken {
                Error::Exists
            } else {
                Error::Busy("the path ends in `.`, `..` or the root")
            });
        };
        let source = from.target.ok_or(Error::NotFound)?;
        check_existence(source, from, to, mode)?;
        let moves_directory = from.parent.ino != to.parent.ino
            && (source.kind == FileKind::Directory
                || to.target.is_some_and(|target| target.kind == FileKind::Directory));
        let _one_at_a_time = moves_directory.then(|| self.rename.lock());
        let from = Side {
            parent: self.inode(from.parent)?,
            name: from_name,
            inode: Some(self.inode(source)?),
        };
        let target = to.target.map(|target| self.inode(target)).transpose()?;
        let to = Side {
            parent: self.inode(to.parent)?,
            name: to_name,
            inode: target,
        };
        if moves_directory {
            self.check_ancestry(&from, &to, mode)?;
        }
        if mode != RenameMode::Exchange {
            check_kinds(source, to.inode.as_deref())?;
        }
        self.retry_when_full(|| self.in_steps(|limit| self.rename_locked(&from, &to, mode, limit)))
    }

    /// No directory may become its own ancestor. Parents change only under the rename lock.
    fn check_ancestry(&self, from: &Side<'_>, to: &Side<'_>, mode: RenameMode) -> Result<()> {
        if let Some(source) = from
            .inode
            .as_ref()
            .filter(|inode| inode.kind == FileKind::Directory)
            && self.is_ancestor(source.ino, &to.parent)?
        {
            return Err(Error::Invalid("a directory cannot be moved below itself"));
        }
        if let Some(target) = to
            .inode
            .as_ref()
            .filter(|inode| inode.kind == FileKind::Directory)
            && self.is_ancestor(target.ino, &from.parent)?
        {
            return Err(match mode {
                RenameMode::Exchange => Error::Invalid("a directory cannot be moved below itself"),
                RenameMode::Replace | RenameMode::NoReplace => Error::NotEmpty,
            });
        }
        Ok(())
    }

    /// Whether `ino` is `below` or one of the directories above it.
    fn is_ancestor(&self, ino: InodeNo, below: &Arc<Inode>) -> Result<bool> {
        let mut current = Arc::clone(below);
        for _ in 0..MAX_DEPTH {
            if current.ino == ino {
                return Ok(true);
            }
            if current.ino == inode::ROOT {
                return Ok(false);
            }
            current = self.inodes.get(self, self.inode_parent(&current)?)?;
        }
        let place = udax_media::Place::Inode(below.ino);
        Err(Error::Inconsistent {
            place,
            what: "a directory that does not lead to the root",
        })
    }

    fn rename_locked(&self, from: &Side<'_>, to: &Side<'_>, mode: RenameMode, limit: usize) -> Result<()> {
        let source = from.inode.as_deref().ok_or(Error::NotFound)?;
        let involved = [
            Some(&*from.parent),
            Some(&*to.parent),
            Some(source),
            to.inode.as_deref(),
        ];
        let mut locks = LockSet::lock(involved.into_iter().flatten())?;
        let origin = self.look_up_side(from)?;
        let found = origin.found.ok_or(Error::Stale(source.ino))?;
        let destination = self.look_up_side(to)?;
        let replaced = destination.found;
        if self.inode_nlink(&to.parent)? == 0 {
            return Err(Error::NotFound);
        }
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            (_, Some(replaced)) if replaced.ino == source.ino => return Ok(()),
            _ => {}
        }
        let target = to.inode.as_deref();
        if mode != RenameMode::Exchange
            && let Some(target) = target.filter(|inode| inode.kind == FileKind::Directory)
            && self.inode_size(target)? > 0
        {
            return Err(Error::NotEmpty);
        }
        let now = now();
        let mut update = Update::new(self).limited(limit);
        if mode == RenameMode::Exchange {
            let replaced = replaced.ok_or(Error::NotFound)?;
            self.exchange_entries(&mut update, (from, found), (to, replaced), now)?;
        } else {
            self.move_entry(&mut update, (from, origin), (to, destination), now)?;
        }
        if is_injected(Fault::SplitRename) {
            update.commit()?;
            update = Update::new(self).limited(limit);
        }
        self.touch_moved(&mut update, source, &from.parent, &to.parent, now)?;
        let mut leaving = None;
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.touch_moved(&mut update, target, &to.parent, &from.parent, now)?;
            } else {
                leaving = Some(self.drop_name(&mut update, target, locks.state(target)?, now)?);
            }
        }
        update.commit()?;
        self.recache(from, to, mode);
        match (leaving, target) {
            (Some(leaving), Some(target)) => self.say_farewell(leaving, target, locks.state(target)?),
            _ => Ok(()),
        }
    }

    /// The entry of `side`, if it is still as it was resolved; also when it is rightly absent.
    fn look_up_side(&self, side: &Side<'_>) -> Result<LookUp> {
        let look_up = self.look_up(&side.parent, side.name)?;
        let found = look_up.found.map(|found| found.ino);
        let expected = side.inode.as_ref().map(|inode| inode.ino);
        if found == expected {
            return Ok(look_up);
        }
        Err(Error::Stale(expected.or(found).unwrap_or_default()))
    }

    fn exchange_entries(
        &self,
        update: &mut Update<'_>,
        (from, found): (&Side<'_>, Found),
        (to, other): (&Side<'_>, Found),
        now: Timestamp,
    ) -> Result<()> {
        let mut first = EditedDirectory::begin(self, &from.parent)?;
        let mut second = self.begin_second(from, to)?;
        first.redirect(update, found, from.name, other.ino, other.kind)?;
        second
            .as_mut()
            .unwrap_or(&mut first)
            .redirect(update, other, to.name, found.ino, found.kind)?;
        first.finish(update, now)?;
        second.map_or(Ok(()), |second| second.finish(update, now))
    }

    fn move_entry(
        &self,
        update: &mut Update<'_>,
        (from, origin): (&Side<'_>, LookUp),
        (to, destination): (&Side<'_>, LookUp),
        now: Timestamp,
    ) -> Result<()> {
        let found = origin.found.ok_or(Error::NotFound)?;
        let entry = Dentry {
            ino: found.ino,
            kind: found.kind,
            name: to.name,
        };
        let mut first = EditedDirectory::begin(self, &from.parent)?;
        let mut second = self.begin_second(from, to)?;
        match (&mut second, destination.found) {
            // In place, so that what was seen of the other entry stays true.
            (second, Some(other)) => {
                let second = second.as_mut().unwrap_or(&mut first);
                second.redirect(update, other, to.name, found.ino, found.kind)?;
                first.remove(update, origin)?;
            }
            (Some(second), None) => {
                second.insert(update, &destination, entry)?;
                first.remove(update, origin)?;
            }
            (None, None) => first.rename(update, origin, &destination, entry)?,
        }
        first.finish(update, now)?;
        second.map_or(Ok(()), |second| second.finish(update, now))
    }

    /// The other directory, if it is another.
    fn begin_second<'i>(&self, from: &Side<'_>, to: &'i Side<'_>) -> Result<Option<EditedDirectory<'i>>> {
        if from.parent.ino == to.parent.ino {
            return Ok(None);
        }
        EditedDirectory::begin(self, &to.parent).map(Some)
    }

    /// A moved inode's status has changed; a moved directory has another parent.
    fn touch_moved(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        from: &Inode,
        to: &Inode,
        now: Timestamp,
    ) -> Result<()> {
        if inode.kind == FileKind::Directory && from.ino != to.ino {
            update.write_u64(inode.field(offset::PARENT), to.ino.raw());
        }
        let mut line = Line::read(self, inode)?;
        line.touch_changed(now);
        line.store(update, inode);
        Ok(())
    }

    fn recache(&self, from: &Side<'_>, to: &Side<'_>, mode: RenameMode) {
        let (first, second) = (InodeRef::from(&*from.parent), InodeRef::from(&*to.parent));
        match (&to.inode, mode) {
            (Some(target), RenameMode::Exchange) => {
                self.dentries.set(first, from.name, InodeRef::from(&**target));
            }
            _ => self.dentries.remove(first, from.name),
        }
        if let Some(source) = &from.inode {
            self.dentries.set(second, to.name, InodeRef::from(&**source));
        }
    }
}

/// The errors that come first in Linux's `do_renameat2`.
fn check_existence(source: InodeRef, from: &Resolved, to: &Resolved, mode: RenameMode) -> Result<()> {
    let is_directory = |of: InodeRef| of.kind == FileKind::Directory;
    match (mode, to.target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
        (RenameMode::Exchange, None) => return Err(Error::NotFound),
        (RenameMode::Exchange, Some(target)) if to.must_be_directory && !is_directory(target) => {
            return Err(Error::NotDirectory);
        }
        _ => {}
    }
    let slashes = from.must_be_directory || (to.must_be_directory && mode != RenameMode::Exchange);
    if slashes && !is_directory(source) {
        Err(Error::NotDirectory)
    } else {
        Ok(())
    }
}

/// A directory replaces a directory, anything else anything else.
fn check_kinds(source: InodeRef, target: Option<&Inode>) -> Result<()> {
    let Some(target) = target else { return Ok(()) };
    match (
        source.kind == FileKind::Directory,
        target.kind == FileKind::Directory,
    ) {
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        _ => Ok(()),
    }
}
