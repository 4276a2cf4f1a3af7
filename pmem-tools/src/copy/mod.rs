//! Copying trees between the host's filesystem and pools, and comparing them.
//!
//! * [`tree`]: what the engine needs of the side that is read ([`Source`]) and of the side that is written
//!   ([`Target`]).
//! * [`host`], [`pool`]: the two kinds of sides; each can be either.
//! * [`plan`]: what there is to copy, found before the first byte is written.
//! * [`engine`]: carries a plan out, in several threads.
//! * [`compare`]: checks that a plan's result equals its source, byte by byte.
//! * [`tally`]: what was done and what failed.
//!
//! Kept are: modes, owners, times to the nanosecond, symbolic and hard links, device nodes, fifos, sockets,
//! extended attributes (ACLs are such) and holes. A failure concerns its file alone; everything else is
//! copied.

mod compare;
mod engine;
mod host;
#[cfg(test)]
mod host_tests;
mod plan;
mod pool;
mod tally;
mod tree;

pub(crate) use compare::compare;
pub(crate) use engine::{copy, read_all};
pub(crate) use host::Host;
pub(crate) use plan::{Plan, Root};
pub(crate) use pool::InPool;
pub(crate) use tally::{Summary, Tally};
pub(crate) use tree::Source;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The name that a copy of `source` gets inside an existing directory; `None` for `/`, `.` and `..`, whose
/// content is copied into the directory itself.
pub(crate) fn landing_name(source: &Path) -> Option<OsString> {
    let bytes = source.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
    let bytes = &bytes[..end];
    let name = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name {
        b"" | b"." | b".." => None,
        name => Some(OsString::from_vec(name.to_vec())),
    }
}

/// Threads for a copy or comparison when the user does not say: one a processor.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_ends_in_a_dot_lands_as_its_content() {
        for (source, name) in [
            ("a/b", Some("b")),
            ("a/b//", Some("b")),
            ("a/b/.", None),
            (".", None),
            ("..", None),
            ("/", None),
            ("/x", Some("x")),
        ] {
            assert_eq!(
                landing_name(Path::new(source)),
                name.map(OsString::from),
                "{source}"
            );
        }
    }
}
