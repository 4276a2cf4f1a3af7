//! What a change of a file takes away from it: set-id bits and capabilities (`FUSE_HANDLE_KILLPRIV_V2`).
//!
//! Without that flag the kernel would do it, by asking for `security.capability` before each write.

use udax::{FileKind, Node};

use crate::refusal::Result;

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
    let had_capability = kill_capability(node)?;
    let had_set_id = set_id == SetId::Kill && node.clear_set_id()?;
    Ok(had_capability || had_set_id)
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

#[cfg(test)]
mod tests {
    use super::*;

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
