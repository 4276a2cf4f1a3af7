//! What a change of a file takes away from it: set-id bits and capabilities (`FUSE_HANDLE_KILLPRIV_V2`).
//!
//! Without that flag the kernel would do it, by asking for `security.capability` before each write.

use udax::{FileKind, Node, SetAttributes};

use crate::refusal::Result;

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const CAPABILITY: &[u8] = b"security.capability";

/// Whether the caller of a change keeps the set-id bits of what it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetId {
    /// It has `CAP_FSETID`.
    Keep,
    /// They go.
    Kill,
}

impl SetId {
    /// Where a request does not say it: root has the capability, others have not.
    pub(crate) fn of_user(uid: u32) -> Self {
        if uid == 0 { Self::Keep } else { Self::Kill }
    }
}

/// Takes from `node`, whose content changes, what must go then; whether it had any of it.
pub(crate) fn kill(node: &Node, set_id: SetId) -> Result<bool> {
    if node.kind() != FileKind::Regular {
        return Ok(false);
    }
    let mut has_changed = kill_capability(node)?;
    if set_id == SetId::Kill {
        let permissions = node.stat()?.permissions;
        let kept = without_set_id(permissions);
        if kept != permissions {
            node.set_attributes(SetAttributes {
                permissions: Some(kept),
                ..SetAttributes::default()
            })?;
            has_changed = true;
        }
    }
    Ok(has_changed)
}

/// Takes file capabilities from `node`; whether it had any.
pub(crate) fn kill_capability(node: &Node) -> Result<bool> {
    // Looking costs no lock alone and no record, and hardly a file has one.
    match node.xattr(CAPABILITY) {
        Err(udax::Error::NoAttribute) => Ok(false),
        Err(error) => Err(error.into()),
        Ok(_) => match node.remove_xattr(CAPABILITY) {
            Ok(()) => Ok(true),
            // Another request was faster.
            Err(udax::Error::NoAttribute) => Ok(false),
            Err(error) => Err(error.into()),
        },
    }
}

/// Whether process `pid` is in group `gid` beyond its first one. A process that cannot be looked at is not.
pub(crate) fn is_in_group(pid: u32, gid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .is_some_and(|groups| groups.split_whitespace().any(|group| group.parse() == Ok(gid)))
}

/// The permissions without set-user-id, and without set-group-id where that means the right of a group.
const fn without_set_id(permissions: u32) -> u32 {
    let mut kept = permissions & !SET_USER_ID;
    if permissions & GROUP_EXECUTE != 0 {
        kept &= !SET_GROUP_ID;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_bit_of_mandatory_locking_stays() {
        assert_eq!(without_set_id(0o6755), 0o0755);
        assert_eq!(without_set_id(0o6745), 0o2745);
        assert_eq!(without_set_id(0o1777), 0o1777);
    }

    #[test]
    fn a_process_is_in_its_own_groups_and_not_in_others() {
        let status = std::fs::read_to_string("/proc/self/status").expect("this process");
        let groups = status
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .expect("groups");
        for group in groups.split_whitespace() {
            assert!(is_in_group(std::process::id(), group.parse().expect("a number")));
        }
        assert!(!is_in_group(std::process::id(), 4_000_000_001));
        assert!(!is_in_group(u32::MAX, 0));
    }
}
