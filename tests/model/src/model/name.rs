//! Operations that make, remove or move names: mkdir(2), rmdir(2), unlink(2), rename(2), link(2), symlink(2),
//! mknod(2).

use nix::errno::Errno;
use udax::{FileKind, NewInode, RenameMode};

use super::path::{Follow, Last, Place};
use super::{Body, Expected, Fault, Id, Inode, Model, Prediction};
use crate::operation::NameOperation;

const SET_GROUP_ID: u32 = 0o2000;
const MAX_TARGET: usize = 4095;

impl Model {
    pub(super) fn name_operation(&mut self, what: &NameOperation) -> Prediction {
        match what {
            NameOperation::CreateDir { path, new } => self.create_dir(&path.0, *new),
            NameOperation::RemoveDir { path } => self.remove_dir(&path.0),
            NameOperation::Unlink { path } => self.unlink(&path.0),
            NameOperation::Rename { from, to, mode } => self.rename(&from.0, &to.0, *mode),
            NameOperation::Link { existing, new } => match self.lookup(&existing.0, Follow::No) {
                Ok(id) => self.link(id, &new.0),
                Err(fault) => {
                    let other = self.free_name(&new.0, Slashes::Refused).err();
                    Err([fault].into_iter().chain(other).collect())
                }
            },
            NameOperation::Symlink { target, path, new } => self.symlink(&target.0, &path.0, *new),
            NameOperation::MakeNode {
                path,
                kind,
                rdev,
                new,
            } => {
                let (directory, name) = self.free_name(&path.0, Slashes::Refused)?;
                let body = Body::Node {
                    kind: *kind,
                    rdev: *rdev,
                };
                Ok(Expected::Inode(self.create(directory, &name, body, *new)))
            }
        }
    }

    fn create_dir(&mut self, path: &[u8], new: NewInode) -> Prediction {
        let (directory, name) = self.free_name(path, Slashes::Allowed)?;
        Ok(Expected::Inode(self.create(
            directory,
            &name,
            Body::directory(directory),
            new,
        )))
    }

    fn symlink(&mut self, target: &[u8], path: &[u8], new: NewInode) -> Prediction {
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if target.len() > MAX_TARGET {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let (directory, name) = self.free_name(path, Slashes::Refused)?;
        let new = NewInode {
            permissions: 0o777,
            ..new
        };
        Ok(Expected::Inode(self.create(
            directory,
            &name,
            Body::Symlink(target.to_vec()),
            new,
        )))
    }

    /// The directory and the name of a path that must not exist yet.
    fn free_name(&mut self, path: &[u8], slashes: Slashes) -> Result<(Id, Vec<u8>), Fault> {
        let place = self.place(path)?;
        let Last::Name(name) = &place.last else {
            return Err(Errno::EEXIST.into());
        };
        if self.at(&place)?.is_some() {
            return Err(Errno::EEXIST.into());
        }
        if place.has_slash && slashes == Slashes::Refused {
            return Err(Errno::ENOENT.into());
        }
        Ok((place.directory, name.clone()))
    }

    /// Makes an inode without a name, with what it takes from `directory`.
    pub(super) fn make(&mut self, directory: Id, body: Body, new: NewInode) -> Inode {
        let parent = self.inode(directory);
        let mut permissions = new.permissions & 0o7777;
        let mut owner = new.owner;
        let is_file = !matches!(body, Body::Directory { .. });
        if parent.permissions & SET_GROUP_ID != 0 {
            owner.gid = parent.owner.gid;
            if !is_file {
                permissions |= SET_GROUP_ID;
            }
        }
        let mut inode = Inode::new(body, permissions, owner, self.now);
        inode.are_set_id_bits_uncertain =
            parent.are_set_id_bits_uncertain || (is_file && permissions & SET_GROUP_ID != 0);
        inode
    }

    /// Makes an inode under a free name.
    pub(super) fn create(&mut self, directory: Id, name: &[u8], body: Body, new: NewInode) -> Id {
        let mut inode = self.make(directory, body, new);
        if inode.is_directory() {
            inode.nlink = 2;
        }
        let id = self.insert_inode(inode);
        self.put(directory, name, id);
        id
    }

    fn put(&mut self, directory: Id, name: &[u8], id: Id) {
        let (is_directory, now) = (self.inode(id).is_directory(), self.now);
        if let Body::Directory { parent, .. } = &mut self.inode_mut(id).body {
            *parent = directory;
        }
        let holder = self.inode_mut(directory);
        if let Body::Directory { entries, .. } = &mut holder.body {
            entries.insert(name.to_vec(), id);
        }
        holder.nlink += u32::from(is_directory);
        holder.modify(now);
        self.notify_streams(directory, name);
    }

    fn take(&mut self, directory: Id, name: &[u8]) {
        let now = self.now;
        let Body::Directory { entries, .. } = &mut self.inode_mut(directory).body else {
            return;
        };
        let Some(id) = entries.remove(name) else {
            return;
        };
        let is_directory = self.inode(id).is_directory();
        let holder = self.inode_mut(directory);
        holder.nlink -= u32::from(is_directory);
        holder.modify(now);
        self.notify_streams(directory, name);
    }

    fn remove_dir(&mut self, path: &[u8]) -> Prediction {
        let place = self.place(path)?;
        let name = match &place.last {
            Last::Name(name) => name,
            Last::Dot => return Err(Errno::EINVAL.into()),
            Last::DotDot => return Err(Errno::ENOTEMPTY.into()),
            Last::Root => return Err(Errno::EBUSY.into()),
        };
        let id = self.at(&place)?.ok_or(Errno::ENOENT)?;
        if !self.inode(id).is_directory() {
            return Err(if place.has_slash {
                self.slash_fault(id)
            } else {
                Errno::ENOTDIR.into()
            });
        }
        if !self.is_empty(id) {
            return Err([Errno::ENOTEMPTY, Errno::EEXIST].into());
        }
        self.take(place.directory, name);
        self.drop_last_name(id);
        Ok(Expected::Done)
    }

    fn unlink(&mut self, path: &[u8]) -> Prediction {
        let place = self.place(path)?;
        let Last::Name(name) = &place.last else {
            return Err([Errno::EISDIR, Errno::EPERM, Errno::EBUSY].into());
        };
        let id = self.at(&place)?.ok_or(Errno::ENOENT)?;
        if self.inode(id).is_directory() {
            return Err([Errno::EISDIR, Errno::EPERM].into());
        }
        if place.has_slash {
            return Err(self.slash_fault(id));
        }
        self.take(place.directory, name);
        self.drop_name(id);
        Ok(Expected::Done)
    }

    /// A slash after what is no directory. POSIX would follow a link there, Linux does not: an error either way.
    fn slash_fault(&self, id: Id) -> Fault {
        if self.is_kind(id, FileKind::Symlink) {
            Fault(Vec::new())
        } else {
            Errno::ENOTDIR.into()
        }
    }

    pub(super) fn link(&mut self, id: Id, new: &[u8]) -> Prediction {
        let place = self.free_name(new, Slashes::Refused);
        let now = self.now;
        let inode = self.inode_mut(id);
        if inode.is_directory() {
            return Err(place.err().into_iter().chain([Errno::EPERM.into()]).collect());
        }
        if inode.nlink == 0 && !inode.is_linkable {
            return Err(place.err().into_iter().chain([Errno::ENOENT.into()]).collect());
        }
        let (directory, name) = place?;
        let inode = self.inode_mut(id);
        inode.is_linkable = false;
        inode.nlink += 1;
        inode.change(now);
        self.put(directory, &name, id);
        Ok(Expected::Done)
    }

    fn drop_name(&mut self, id: Id) {
        let now = self.now;
        let inode = self.inode_mut(id);
        inode.nlink -= 1;
        inode.change(now);
        self.forget_if_unused(id);
    }

    fn drop_last_name(&mut self, directory: Id) {
        let now = self.now;
        let inode = self.inode_mut(directory);
        inode.nlink = 0;
        inode.change(now);
        self.forget_if_unused(directory);
    }

    fn is_empty(&self, id: Id) -> bool {
        matches!(&self.inode(id).body, Body::Directory { entries, .. } if entries.is_empty())
    }

    fn rename(&mut self, from: &[u8], to: &[u8], mode: RenameMode) -> Prediction {
        let has_no_name =
            |place: Result<Place, Fault>| place.is_ok_and(|at| !matches!(at.last, Last::Name(_)));
        let is_busy = has_no_name(self.place(from)) || has_no_name(self.place(to));
        let found = (self.source_of_rename(from), self.place_and_inode(to));
        let ((from, source), (to, target)) = match found {
            (Ok(from), Ok(to)) => (from, to),
            (from, to) => {
                let busy = is_busy.then(|| [Errno::EBUSY, Errno::EINVAL, Errno::EEXIST].into());
                return Err(from.err().into_iter().chain(to.err()).chain(busy).collect());
            }
        };
        let Last::Name(from_name) = &from.last else {
            return Err([Errno::EBUSY, Errno::EINVAL, Errno::EEXIST].into());
        };
        let Last::Name(to_name) = &to.last else {
            return Err(match mode {
                RenameMode::NoReplace => [Errno::EEXIST, Errno::EBUSY].into(),
                _ => [Errno::EBUSY, Errno::EINVAL].into(),
            });
        };
        self.admit_rename((&from, source), (&to, target), mode)?;
        if target == Some(source) {
            return Ok(Expected::Done);
        }
        if let (RenameMode::Exchange, Some(target)) = (mode, target) {
            self.take(from.directory, from_name);
            self.take(to.directory, to_name);
            self.put(from.directory, from_name, target);
            self.put(to.directory, to_name, source);
            let now = self.now;
            self.inode_mut(target).perhaps_change(now);
        } else {
            self.replace_target(source, target)?;
            self.take(from.directory, from_name);
            if let Some(target) = target {
                self.take(to.directory, to_name);
                if self.inode(target).is_directory() {
                    self.drop_last_name(target);
                } else {
                    self.drop_name(target);
                }
            }
            self.put(to.directory, to_name, source);
        }
        let now = self.now;
        self.inode_mut(source).perhaps_change(now);
        Ok(Expected::Done)
    }

    fn place_and_inode(&mut self, path: &[u8]) -> Result<(Place, Option<Id>), Fault> {
        let place = self.place(path)?;
        let id = self.at(&place)?;
        Ok((place, id))
    }

    fn source_of_rename(&mut self, path: &[u8]) -> Result<(Place, Id), Fault> {
        let (place, id) = self.place_and_inode(path)?;
        Ok((place, id.ok_or(Errno::ENOENT)?))
    }

    /// What is refused before the two are compared.
    fn admit_rename(
        &self,
        from: (&Place, Id),
        to: (&Place, Option<Id>),
        mode: RenameMode,
    ) -> Result<(), Fault> {
        let ((from, source), (to, target)) = (from, to);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST.into()),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT.into()),
            (RenameMode::Exchange, Some(target)) if !self.inode(target).is_directory() && to.has_slash => {
                return Err(Errno::ENOTDIR.into());
            }
            _ => {}
        }
        let needs_directory = from.has_slash || (to.has_slash && mode != RenameMode::Exchange);
        if !self.inode(source).is_directory() && needs_directory {
            return Err(self.slash_fault(source));
        }
        // What the target is may be wrong besides.
        let replacing = (mode == RenameMode::Replace).then(|| self.replace_target(source, target));
        let besides = replacing.and_then(Result::err).into_iter();
        if self.is_ancestor(source, to.directory) {
            return Err(besides.chain([Errno::EINVAL.into()]).collect());
        }
        if target.is_some_and(|target| self.is_ancestor(target, from.directory)) {
            let fault = match mode {
                RenameMode::Exchange => Errno::EINVAL.into(),
                _ => [Errno::ENOTEMPTY, Errno::EEXIST].into(),
            };
            return Err(besides.chain([fault]).collect());
        }
        Ok(())
    }

    fn replace_target(&self, source: Id, target: Option<Id>) -> Result<(), Fault> {
        let Some(target) = target else {
            return Ok(());
        };
        match (
            self.inode(source).is_directory(),
            self.inode(target).is_directory(),
        ) {
            (true, false) => Err(Errno::ENOTDIR.into()),
            (false, true) => Err(Errno::EISDIR.into()),
            (true, true) if !self.is_empty(target) => Err([Errno::ENOTEMPTY, Errno::EEXIST].into()),
            _ => Ok(()),
        }
    }

    /// Whether `id` is `directory` or holds it.
    fn is_ancestor(&self, id: Id, directory: Id) -> bool {
        let mut at = directory;
        while at != id {
            let parent = self.parent(at);
            if parent == at {
                return false;
            }
            at = parent;
        }
        self.is_kind(id, FileKind::Directory)
    }
}

/// Whether slashes may follow a name that is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slashes {
    Allowed,
    Refused,
}
