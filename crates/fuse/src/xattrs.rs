//! Extended attributes: `GETXATTR`, `SETXATTR`, `LISTXATTR`, `REMOVEXATTR`. Who may see and set which namespace is
//! checked by the kernel, but for what a list shows.

use fuser::{Errno, INodeNo};
use udax::{FileKind, Node, SetAttributes, XattrMode};

use crate::acl::{self, Acl};
use crate::identity::NO_OWNER;
use crate::privileges;
use crate::refusal::{Refusal, Result};
use crate::server::{Caller, Server};

const CREATE: i32 = 1;
const REPLACE: i32 = 2;
const BOTH: i32 = CREATE | REPLACE;
const SET_GROUP_ID: u32 = 0o2000;

impl Server {
    pub(crate) fn xattr(&self, ino: INodeNo, name: &[u8]) -> Result<Vec<u8>> {
        let value = self.node(ino)?.xattr(name)?;
        if name != acl::ACCESS && name != acl::DEFAULT {
            return Ok(value);
        }
        let list = Acl::decode(&value)?;
        Ok(list.with_mount_ids(&self.users, &self.groups).encode())
    }

    pub(crate) fn set_xattr(
        &self,
        caller: Caller,
        ino: INodeNo,
        (name, value): (&[u8], &[u8]),
        flags: i32,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let mode = match flags {
            0 => XattrMode::Either,
            CREATE => XattrMode::Create,
            REPLACE => XattrMode::Replace,
            // The kernel lets both pass: nothing is as both want it.
            BOTH => {
                node.xattr(name)?;
                return Err(Refusal(Errno::EEXIST));
            }
            _ => return Err(Refusal(Errno::EINVAL)),
        };
        match name {
            acl::ACCESS => self.set_access_list(caller, &node, value),
            acl::DEFAULT => {
                if node.kind() != FileKind::Directory {
                    return Err(Refusal(Errno::EACCES));
                }
                let list = Acl::decode(value)?.with_pool_ids(&self.users, &self.groups)?;
                Ok(node.set_xattr(name, &list.encode(), mode)?)
            }
            _ => Ok(node.set_xattr(name, value, mode)?),
        }
    }

    /// The list, and the permission bits that follow it. One that the bits say all of is not stored.
    fn set_access_list(&self, caller: Caller, node: &Node, value: &[u8]) -> Result<()> {
        if node.kind() == FileKind::Symlink {
            return Err(Refusal(Errno::EOPNOTSUPP));
        }
        let list = Acl::decode(value)?.with_pool_ids(&self.users, &self.groups)?;
        let stat = node.stat()?;
        let mut kept = stat.permissions & 0o7000;
        // As chmod(2): who is not of the group must not lend its rights.
        if kept & SET_GROUP_ID != 0 && !self.is_of_group(caller, stat.gid) {
            kept &= !SET_GROUP_ID;
        }
        let permissions = Some(kept | list.permissions());
        let set = SetAttributes {
            permissions,
            ..SetAttributes::default()
        };
        if list.is_minimal() {
            // First the bits: the list is narrower or equal until it goes.
            node.set_attributes(set)?;
            match node.remove_xattr(acl::ACCESS) {
                Ok(()) | Err(udax::Error::NoAttribute) => Ok(()),
                Err(error) => Err(error.into()),
            }
        } else {
            node.set_xattr(acl::ACCESS, &list.encode(), XattrMode::Either)?;
            node.set_attributes(set)?;
            Ok(())
        }
    }

    fn is_of_group(&self, caller: Caller, gid: u32) -> bool {
        let gid = self.groups.to_mount(gid).unwrap_or(NO_OWNER);
        caller.uid == 0 || caller.gid == gid || privileges::is_in_group(caller.pid, gid)
    }

    /// All names, each ended by NUL. Those in `trusted.` are for root.
    pub(crate) fn list_xattrs(&self, caller: Caller, ino: INodeNo) -> Result<Vec<u8>> {
        let names = self.node(ino)?.list_xattrs()?;
        let shown = names
            .into_iter()
            .filter(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
        let mut list = Vec::new();
        for name in shown {
            list.extend(name);
            list.push(0);
        }
        Ok(list)
    }

    pub(crate) fn remove_xattr(&self, ino: INodeNo, name: &[u8]) -> Result<()> {
        match self.node(ino)?.remove_xattr(name) {
            // Who asks for no list has none (the kernel's `posix_acl` handlers).
            Err(udax::Error::NoAttribute) if name == acl::ACCESS || name == acl::DEFAULT => Ok(()),
            other => Ok(other?),
        }
    }
}
