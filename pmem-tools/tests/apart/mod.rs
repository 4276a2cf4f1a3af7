//! Runs the shell where mounts are seen by nobody else.

use std::path::Path;
use std::process::{Command, Output};

use crate::command::Place;

/// Runs a line of shell in a mount namespace of its own, in the directory of the pool; `$0` is `program`. `None` where
/// that is not allowed, or where the line ends with 77, which is told.
pub(super) fn run_apart(place: &Place, program: &Path, line: &str) -> Option<Output> {
    let apart = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    if !apart().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces here");
        return None;
    }
    let mut command = apart();
    command.args(["sh", "-c", line]).arg(program);
    let output = command.current_dir(place.path("")).output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: something cannot be mounted here: {output:?}");
        return None;
    }
    Some(output)
}
