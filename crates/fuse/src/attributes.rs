//! What an inode is, and changing it: `GETATTR`, `SETATTR`, `STATFS`.

use fuser::{FileAttr, INodeNo, TimeOrNow};
use udax::{FilesystemStat, Node, SetAttributes, Stat, XattrMode};

use crate::acl::{self, Acl};
use crate::privileges::{self, SetId};
use crate::refusal::Result;
use crate::server::{Caller, Server};
use crate::times;

const PERMISSION_MASK: u32 = 0o7777;
/// Inodes that a block has room for.
const INODES_PER_BLOCK: u64 = 16;

/// What a `SETATTR` changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<TimeOrNow>,
    pub(crate) mtime: Option<TimeOrNow>,
}

/// What statfs(2) tells of numbers of inodes: there is no fixed number of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) space: FilesystemStat,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

impl Server {
    pub(crate) fn stat(&self, ino: INodeNo) -> Result<FileAttr> {
        let node = self.node(ino)?;
        let stat = match node.stat() {
            // Somebody still has it as a working directory, or by O_PATH.
            Err(error @ udax::Error::Stale(_)) => self.nodes.ghost(ino.0).ok_or(error)?,
            other => other?,
        };
        Ok(self.attributes_of(&stat))
    }

    pub(crate) fn set_attributes(&self, caller: Caller, ino: INodeNo, wanted: Wanted) -> Result<FileAttr> {
        let node = self.node(ino)?;
        if let Some(size) = wanted.size {
            privileges::kill(&node, SetId::of_user(caller.uid))?;
            node.truncate(size)?;
        }
        let set = SetAttributes {
            permissions: wanted.mode.map(|mode| mode & PERMISSION_MASK),
            uid: wanted.uid.map(|uid| self.user(uid)).transpose()?,
            gid: wanted.gid.map(|gid| self.group(gid)).transpose()?,
            atime: wanted.atime.map(times::of_request),
            mtime: wanted.mtime.map(times::of_request),
        };
        if (set.uid.is_some() || set.gid.is_some()) && node.kind() == udax::FileKind::Regular {
            privileges::kill_capability(&node)?;
        }
        let stat = if wanted.size.is_some() && set == SetAttributes::default() {
            node.stat()?
        } else {
            change(&node, set)?
        };
        Ok(self.attributes_of(&stat))
    }

    pub(crate) fn usage(&self) -> Usage {
        let space = self.filesystem.stat_filesystem();
        let free_inodes = space.available_blocks.saturating_mul(INODES_PER_BLOCK);
        Usage {
            space,
            inodes: space.inodes.saturating_add(free_inodes),
            free_inodes,
        }
    }
}

/// Sets attributes, and with the permissions what an access list says of them.
fn change(node: &Node, set: SetAttributes) -> Result<Stat> {
    if let Some(permissions) = set.permissions {
        match node.xattr(acl::ACCESS) {
            Err(udax::Error::NoAttribute) => {}
            Err(error) => return Err(error.into()),
            Ok(list) => {
                let list = Acl::decode(&list)?.with_permissions(permissions);
                node.set_xattr(acl::ACCESS, &list.encode(), XattrMode::Either)?;
            }
        }
    }
    Ok(node.set_attributes(set)?)
}
