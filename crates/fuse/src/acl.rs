//! Access lists: the extended attributes `system.posix_acl_access` and `system.posix_acl_default`, and how they and the
//! permission bits follow each other (acl(5), POSIX 1003.1e draft 17).
//!
//! The kernel checks access by the lists (`FUSE_POSIX_ACL`); what it leaves to the filesystem is here: a new inode
//! takes its directory's default list and its permissions are masked by it instead of by the umask; setting a list
//! sets the permission bits; changing the bits changes the list. A list that says no more than the bits is not stored.
//!
//! Bytes in, bytes out: no I/O. On the medium a list is as in the kernel's `struct posix_acl_xattr_header`, with the
//! pool's numbers of users and groups.

use crate::identity::{IdMap, NOBODY};

/// The attribute with the list that access is checked by.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that new inodes in a directory take.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// Entries that the largest attribute has room for.
const MAX_ENTRIES: usize = (65536 - HEADER_BYTES) / ENTRY_BYTES;
const NO_ID: u32 = u32::MAX;

const USER_OBJECT: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Why bytes are no list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AclError {
    /// They do not follow the format, or the list is not complete and sorted.
    Malformed,
    /// It names somebody who has no number in the pool.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    /// Read, write, execute: 7 at most.
    permissions: u16,
    /// Of `USER` and `GROUP` only.
    id: u32,
}

/// A complete list: each class has its entry, a list with named users or groups has a mask, and entries are sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acl {
    entries: Vec<Entry>,
}

/// What a new inode gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Inherited {
    /// Its permission bits, masked.
    pub(crate) permissions: u32,
    /// Its list, unless the bits say it all.
    pub(crate) access: Option<Acl>,
}

impl Acl {
    /// The list in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, AclError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(AclError::Malformed)?;
        let (entries, []) = rest.as_chunks::<ENTRY_BYTES>() else {
            return Err(AclError::Malformed);
        };
        if u32::from_le_bytes(*header) != VERSION || entries.len() > MAX_ENTRIES {
            return Err(AclError::Malformed);
        }
        let entries = entries.iter().map(|[a, b, c, d, id @ ..]| Entry {
            tag: u16::from_le_bytes([*a, *b]),
            permissions: u16::from_le_bytes([*c, *d]),
            id: u32::from_le_bytes(*id),
        });
        let acl = Self {
            entries: entries.collect(),
        };
        if acl.is_complete() {
            Ok(acl)
        } else {
            Err(AclError::Malformed)
        }
    }

    /// The list as it is stored and sent.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// As `posix_acl_valid` of the kernel: owner, named users, group, named groups, mask, others, in this order.
    fn is_complete(&self) -> bool {
        let mut last = 0;
        for entry in &self.entries {
            let is_named = matches!(entry.tag, USER | GROUP);
            let in_order = if is_named {
                entry.tag >= last
            } else {
                entry.tag > last
            };
            let is_known = matches!(
                entry.tag,
                USER_OBJECT | USER | GROUP_OBJECT | GROUP | MASK | OTHER
            );
            if !in_order || !is_known || entry.permissions > 7 || (is_named && entry.id == NO_ID) {
                return false;
            }
            last = entry.tag;
        }
        let has = |tag| self.find(tag).is_some();
        let needs_mask = has(USER) || has(GROUP);
        has(USER_OBJECT) && has(GROUP_OBJECT) && has(OTHER) && (!needs_mask || has(MASK))
    }

    fn find(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    fn permissions_of(&self, tag: u16) -> u32 {
        self.find(tag).map_or(0, |entry| u32::from(entry.permissions))
    }

    /// What the group's permission bits stand for: the mask if there is one.
    fn group_class(&self) -> u16 {
        if self.find(MASK).is_some() {
            MASK
        } else {
            GROUP_OBJECT
        }
    }

    /// The permission bits (0777) that show this list.
    pub(crate) fn permissions(&self) -> u32 {
        (self.permissions_of(USER_OBJECT) << 6)
            | (self.permissions_of(self.group_class()) << 3)
            | self.permissions_of(OTHER)
    }

    /// Permission bits that give nobody more than the list does, also where only they are looked at.
    pub(crate) fn least_permissions(&self) -> u32 {
        let group = self.permissions_of(GROUP_OBJECT) & self.permissions_of(self.group_class());
        (self.permissions() & 0o707) | (group << 3)
    }

    /// Whether the permission bits say it all.
    pub(crate) fn is_minimal(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJECT | GROUP_OBJECT | OTHER))
    }

    /// The list after the permission bits were set to `permissions` (chmod(2), acl(5)).
    #[must_use]
    pub(crate) fn with_permissions(mut self, permissions: u32) -> Self {
        let group_class = self.group_class();
        for entry in &mut self.entries {
            if let Some(shift) = class_shift(entry.tag, group_class) {
                entry.permissions = class(permissions, shift);
            }
        }
        self
    }

    /// What an inode made with `permissions` gets in a directory that has this default list.
    pub(crate) fn inherit(mut self, permissions: u32) -> Inherited {
        let group_class = self.group_class();
        for entry in &mut self.entries {
            if let Some(shift) = class_shift(entry.tag, group_class) {
                entry.permissions &= class(permissions, shift);
            }
        }
        Inherited {
            permissions: (permissions & !0o777) | self.permissions(),
            access: Some(self).filter(|acl| !acl.is_minimal()),
        }
    }

    /// The same list with the numbers of the mount.
    #[must_use]
    pub(crate) fn with_mount_ids(mut self, users: &IdMap, groups: &IdMap) -> Self {
        for entry in &mut self.entries {
            match entry.tag {
                USER => entry.id = users.to_mount(entry.id).unwrap_or(NOBODY),
                GROUP => entry.id = groups.to_mount(entry.id).unwrap_or(NOBODY),
                _ => {}
            }
        }
        self
    }

    /// The same list with the numbers of the pool.
    pub(crate) fn with_pool_ids(mut self, users: &IdMap, groups: &IdMap) -> Result<Self, AclError> {
        for entry in &mut self.entries {
            let map = match entry.tag {
                USER => users,
                GROUP => groups,
                _ => continue,
            };
            entry.id = map.to_pool(entry.id).ok_or(AclError::Unknown)?;
        }
        Ok(self)
    }
}

/// Where the permission bits have what the entry `tag` says, if they do.
fn class_shift(tag: u16, group_class: u16) -> Option<u32> {
    match tag {
        USER_OBJECT => Some(6),
        OTHER => Some(0),
        tag if tag == group_class => Some(3),
        _ => None,
    }
}

fn class(permissions: u32, shift: u32) -> u16 {
    u16::try_from((permissions >> shift) & 7).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn named() -> Vec<u8> {
        acl(&[
            (USER_OBJECT, 7, NO_ID),
            (USER, 6, 1000),
            (GROUP_OBJECT, 5, NO_ID),
            (MASK, 6, NO_ID),
            (OTHER, 4, NO_ID),
        ])
    }

    #[test]
    fn a_list_is_read_and_written_unchanged() {
        let list = Acl::decode(&named()).expect("a list");
        assert_eq!(list.encode(), named());
        assert_eq!(list.permissions(), 0o764);
        assert_eq!(list.least_permissions(), 0o744);
        assert!(!list.is_minimal());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let mut cut = named();
        cut.pop();
        let mut old = named();
        old[0] = 1;
        for bytes in [
            Vec::new(),
            vec![2, 0, 0],
            acl(&[]),
            cut,
            old,
            acl(&[(USER_OBJECT, 7, NO_ID), (GROUP_OBJECT, 7, NO_ID)]),
            acl(&[
                (GROUP_OBJECT, 7, NO_ID),
                (USER_OBJECT, 7, NO_ID),
                (OTHER, 0, NO_ID),
            ]),
            acl(&[
                (USER_OBJECT, 8, NO_ID),
                (GROUP_OBJECT, 7, NO_ID),
                (OTHER, 0, NO_ID),
            ]),
            acl(&[
                (USER_OBJECT, 7, NO_ID),
                (USER, 7, 5),
                (GROUP_OBJECT, 7, NO_ID),
                (OTHER, 0, NO_ID),
            ]),
            acl(&[
                (USER_OBJECT, 7, NO_ID),
                (USER_OBJECT, 7, NO_ID),
                (GROUP_OBJECT, 7, NO_ID),
                (OTHER, 0, NO_ID),
            ]),
            acl(&[
                (USER_OBJECT, 7, NO_ID),
                (GROUP_OBJECT, 7, NO_ID),
                (OTHER, 0, NO_ID),
                (0x40, 0, NO_ID),
            ]),
        ] {
            assert_eq!(Acl::decode(&bytes), Err(AclError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn chmod_changes_owner_mask_and_others() {
        let list = Acl::decode(&named()).expect("a list").with_permissions(0o640);
        assert_eq!(list.permissions(), 0o640);
        assert_eq!(list.permissions_of(USER), 6);
        assert_eq!(list.permissions_of(GROUP_OBJECT), 5);
        assert_eq!(list.permissions_of(MASK), 4);
    }

    #[test]
    fn a_new_inode_is_masked_by_what_it_asks_for() {
        let inherited = Acl::decode(&named()).expect("a list").inherit(0o4640);
        assert_eq!(inherited.permissions, 0o4640);
        let access = inherited.access.expect("it has a named user");
        assert_eq!(access.permissions_of(MASK), 4);
        assert_eq!(access.permissions_of(USER), 6);
        let minimal = acl(&[
            (USER_OBJECT, 7, NO_ID),
            (GROUP_OBJECT, 5, NO_ID),
            (OTHER, 0, NO_ID),
        ]);
        let inherited = Acl::decode(&minimal).expect("a list").inherit(0o666);
        assert_eq!(
            inherited,
            Inherited {
                permissions: 0o640,
                access: None
            }
        );
    }

    fn entries() -> impl Strategy<Value = Vec<(u16, u16, u32)>> {
        let named = |tag| proptest::collection::vec((Just(tag), 0..8_u16, any::<u32>()), 0..3);
        let object = |tag| (Just(tag), 0..8_u16, Just(NO_ID));
        let parts = (
            object(USER_OBJECT),
            named(USER),
            object(GROUP_OBJECT),
            named(GROUP),
            object(MASK),
            object(OTHER),
        );
        parts.prop_map(|(owner, users, group, groups, mask, other)| {
            let before = [vec![owner], users, vec![group], groups].concat();
            [before, vec![mask, other]].concat()
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_that_is_written_as_it_was_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            // Else hardly any has the version.
            for (byte, version) in bytes.iter_mut().zip(VERSION.to_le_bytes()) {
                *byte = version;
            }
            if let Ok(list) = Acl::decode(&bytes) {
                prop_assert_eq!(list.encode(), bytes);
            }
        }

        /// Whole lists, with one byte of another value in some.
        #[test]
        fn what_is_done_to_a_list_leaves_one(
            entries in entries(),
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
            permissions in 0..0o10000_u32,
        ) {
            let mut bytes = acl(&entries);
            if let Some((at, value)) = &damage {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let Ok(list) = Acl::decode(&bytes) else {
                let is_named = |(tag, _, id): &(u16, u16, u32)| matches!(*tag, USER | GROUP) && *id == NO_ID;
                prop_assert!(damage.is_some() || entries.iter().any(is_named));
                return Ok(());
            };
            prop_assert_eq!(list.encode(), bytes);
            prop_assert_eq!(list.least_permissions() & !list.permissions(), 0);
            let changed = list.clone().with_permissions(permissions);
            prop_assert_eq!(changed.permissions(), permissions & 0o777);
            let inherited = list.inherit(permissions);
            prop_assert_eq!(inherited.permissions & !permissions, 0);
            for list in [Some(changed), inherited.access].into_iter().flatten() {
                prop_assert_eq!(Acl::decode(&list.encode()), Ok(list));
            }
        }
    }
}
