//! stat(2), chmod(2), chown(2), utimensat(2), truncate(2), xattr(7) and listings, by path.

use nix::errno::Errno;
use udax::{FileKind, SetAttributes, XattrMode};

use super::path::Follow;
use super::{Body, Expected, Fault, Id, Model, Prediction, Stamp};
use crate::operation::{Data, NodeOperation};

const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 65536;
const BAD_NAME: [Errno; 3] = [Errno::ERANGE, Errno::ENAMETOOLONG, Errno::EINVAL];
const SET_ID_BITS: u32 = 0o6000;

/// What is asked of an attribute: the errors differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Read,
    Write,
    Remove,
}

impl Model {
    pub(super) fn node_operation(&mut self, path: &[u8], what: &NodeOperation) -> Prediction {
        let follow = match what {
            NodeOperation::Stat | NodeOperation::Truncate { .. } | NodeOperation::ReadDirectory { .. } => {
                Follow::Yes
            }
            _ => Follow::No,
        };
        let id = self.lookup(path, follow).map_err(|mut fault| {
            // Which of two errors comes first is open: the path's or the attribute's.
            fault.0.extend(attribute_fault(what));
            fault
        })?;
        match what {
            NodeOperation::Stat | NodeOperation::StatLink => Ok(Expected::Inode(id)),
            NodeOperation::ReadLink => match &self.inode(id).body {
                Body::Symlink(target) => {
                    let target = target.clone();
                    self.inode_mut(id).atime = Stamp::Unknown;
                    Ok(Expected::Bytes(target))
                }
                _ => Err(Errno::EINVAL.into()),
            },
            NodeOperation::SetAttributes(set) => self.set_attributes(id, *set),
            NodeOperation::Truncate { size } => match self.inode(id).body.kind() {
                FileKind::Regular => self.truncate(id, *size),
                FileKind::Directory => Err(Errno::EISDIR.into()),
                _ => Err(Errno::EINVAL.into()),
            },
            NodeOperation::ReadDirectory { .. } => self.list(id),
            NodeOperation::Xattr { name } => self.xattr(id, &name.0),
            NodeOperation::SetXattr { name, value, mode } => self.set_xattr(id, &name.0, *value, *mode),
            NodeOperation::RemoveXattr { name } => self.remove_xattr(id, &name.0),
            NodeOperation::ListXattrs => Ok(Expected::Names(self.inode(id).xattrs.keys().cloned().collect())),
        }
    }

    pub(super) fn list(&mut self, id: Id) -> Prediction {
        if !self.inode(id).is_directory() {
            return Err(Errno::ENOTDIR.into());
        }
        self.inode_mut(id).atime = Stamp::Unknown;
        Ok(Expected::Directory(id))
    }

    pub(super) fn set_attributes(&mut self, id: Id, set: SetAttributes) -> Prediction {
        if set.permissions.is_some() && self.is_kind(id, FileKind::Symlink) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let now = self.now;
        let inode = self.inode_mut(id);
        if let Some(permissions) = set.permissions {
            inode.permissions = permissions & 0o7777;
            inode.are_set_id_bits_uncertain = false;
        }
        if set.uid.is_some() || set.gid.is_some() {
            // chown(2): set-id bits are cleared, for a privileged caller too, depending on the system.
            inode.are_set_id_bits_uncertain |= inode.permissions & SET_ID_BITS != 0;
        }
        inode.owner.uid = set.uid.unwrap_or(inode.owner.uid);
        inode.owner.gid = set.gid.unwrap_or(inode.owner.gid);
        inode.set_times(set.atime, set.mtime, now);
        if set == SetAttributes::default() {
            inode.perhaps_change(now);
        } else {
            inode.change(now);
        }
        Ok(Expected::Inode(id))
    }

    pub(super) fn xattr(&mut self, id: Id, name: &[u8]) -> Prediction {
        self.admit_xattr(id, name, Access::Read)?;
        let value = self.inode(id).xattrs.get(name).ok_or(Errno::ENODATA)?;
        Ok(Expected::Bytes(value.clone()))
    }

    fn set_xattr(&mut self, id: Id, name: &[u8], value: Data, mode: XattrMode) -> Prediction {
        if let Err(mut fault) = self.admit_xattr(id, name, Access::Write) {
            fault
                .0
                .extend((value.len > MAX_XATTR_VALUE).then_some(Errno::E2BIG));
            return Err(fault);
        }
        if value.len > MAX_XATTR_VALUE {
            return Err([Errno::E2BIG, Errno::EEXIST, Errno::ENODATA].into());
        }
        let now = self.now;
        let inode = self.inode_mut(id);
        match (mode, inode.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST.into()),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        inode.xattrs.insert(name.to_vec(), value.bytes());
        inode.change(now);
        Ok(Expected::Done)
    }

    fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Prediction {
        self.admit_xattr(id, name, Access::Remove)?;
        let now = self.now;
        let inode = self.inode_mut(id);
        inode.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        inode.change(now);
        Ok(Expected::Done)
    }

    /// xattr(7): which names there are, and that `user.` is for files and directories only.
    fn admit_xattr(&self, id: Id, name: &[u8], access: Access) -> Result<(), Fault> {
        if name.is_empty() || name.len() > MAX_XATTR_NAME {
            return Err(BAD_NAME.into());
        }
        let prefixes: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
        let Some(prefix) = prefixes.into_iter().find(|prefix| name.starts_with(prefix)) else {
            return Err(Errno::EOPNOTSUPP.into());
        };
        let takes_user = matches!(
            self.inode(id).body.kind(),
            FileKind::Regular | FileKind::Directory
        );
        if prefix == b"user." && !takes_user {
            return Err(match access {
                Access::Read => Errno::ENODATA.into(),
                Access::Write => Errno::EPERM.into(),
                // It may not be there, and it is not.
                Access::Remove => [Errno::EPERM, Errno::ENODATA].into(),
            });
        }
        if name.len() == prefix.len() {
            return Err(Errno::EINVAL.into());
        }
        Ok(())
    }
}

/// The errors that the arguments have by themselves, whatever the path names.
fn attribute_fault(what: &NodeOperation) -> Vec<Errno> {
    let mut errnos = Vec::new();
    if let NodeOperation::Xattr { name }
    | NodeOperation::SetXattr { name, .. }
    | NodeOperation::RemoveXattr { name } = what
        && (name.0.is_empty() || name.0.len() > MAX_XATTR_NAME)
    {
        errnos.extend(BAD_NAME);
    }
    if let NodeOperation::SetXattr { value, .. } = what
        && value.len > MAX_XATTR_VALUE
    {
        errnos.push(Errno::E2BIG);
    }
    errnos
}
