//! The `udax` command. Called as `mkfs.udax`, `fsck.udax` or `mount.udax` it is that subcommand.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    udax_tools::run(std::env::args_os())
}
