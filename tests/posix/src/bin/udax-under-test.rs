//! The `udax` command, built with this package, so that its tests and the soak have it beside them: cargo builds the
//! program of another package only for that package's own tests.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    udax_tools::run(std::env::args_os())
}
