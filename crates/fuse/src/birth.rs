//! What a new inode is given besides its name: owner, permissions and access lists.
//!
//! The kernel leaves the umask to us (`FUSE_DONT_MASK`), as a directory with a default list takes its place. The
//! set-group-id bit of the directory is the library's.
//!
//! Inode and lists are several records. So that no moment shows more rights than in the end, also after a crash, the
//! inode is made with the rights that its list gives to all, and gets the others with the list.

use udax::{FileKind, NewInode, Node, Owner, SetAttributes, XattrMode};

use crate::acl::{self, Acl, Inherited};
use crate::refusal::Result;
use crate::server::{Caller, Server};

const SET_GROUP_ID: u32 = 0o2000;
const PERMISSION_MASK: u32 = 0o7777;

/// What a new inode will be given.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) new: NewInode,
    /// Its permissions in the end, and its list.
    access: Option<(u32, Acl)>,
    /// A directory hands the default list on.
    default: Option<Acl>,
}

impl Server {
    /// Plans an inode of `kind` that `caller` makes in `parent` with `mode`.
    pub(crate) fn plan_birth(
        &self,
        caller: Caller,
        parent: &Node,
        kind: FileKind,
        (mode, umask): (u32, u32),
    ) -> Result<Birth> {
        let owner = Owner {
            uid: self.user(caller.uid)?,
            gid: self.group(caller.gid)?,
        };
        let asked = mode & PERMISSION_MASK;
        let mut birth = Birth {
            new: NewInode {
                permissions: asked & !umask,
                owner,
            },
            access: None,
            default: None,
        };
        let list = match parent.xattr(acl::DEFAULT) {
            Err(udax::Error::NoAttribute) => return Ok(birth),
            other => Acl::decode(&other?)?,
        };
        let Inherited { permissions, access } = list.clone().inherit(asked);
        birth.new.permissions = permissions;
        if let Some(access) = access {
            birth.new.permissions = (permissions & !0o777) | access.least_permissions();
            birth.access = Some((permissions, access));
        }
        birth.default = Some(list).filter(|_| kind == FileKind::Directory);
        Ok(birth)
    }

    /// Gives `node`, which was just made under `name` in `parent`, its lists. When that fails it is not made at all.
    pub(crate) fn endow(&self, birth: &Birth, parent: &Node, name: &[u8], node: &Node) -> Result<()> {
        let endowed = give_lists(birth, node);
        if endowed.is_err() {
            let removed = match node.kind() {
                FileKind::Directory => parent.remove_dir(name),
                _ => parent.unlink(name),
            };
            if let Err(error) = removed {
                tracing::warn!(ino = node.ino().raw(), %error, "an inode stays without its access list");
            }
        }
        endowed
    }
}

fn give_lists(birth: &Birth, node: &Node) -> Result<()> {
    if let Some(default) = &birth.default {
        node.set_xattr(acl::DEFAULT, &default.encode(), XattrMode::Either)?;
    }
    if let Some((permissions, access)) = &birth.access {
        node.set_xattr(acl::ACCESS, &access.encode(), XattrMode::Either)?;
        // The directory may have handed this bit on.
        let inherited = node.stat()?.permissions & SET_GROUP_ID;
        node.set_attributes(SetAttributes {
            permissions: Some(permissions | inherited),
            ..SetAttributes::default()
        })?;
    }
    Ok(())
}
