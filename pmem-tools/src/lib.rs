//! The `udax` command: everything an administrator does with a pool.
//!
//! [`run`] is the only door. `cli` declares the subcommands; each has a file of its own with its arguments
//! and its `run`. The tools use only the public interface of `udax` and `udax-check`, except `dump`, which
//! reads the medium through `udax-media` so that it works on pools that cannot be opened.
//!
//! Conventions: results go to standard output through `output::Output`, everything else to standard error;
//! errors are one line, `udax: POOL: what: why; what to do`; exit status 0 for success, 1 for failure, 2 for
//! a wrong command line (`fsck` has the statuses of fsck(8), `mount` and `umount` those of mount(8)).
#![forbid(unsafe_code)]

mod attr;
mod bench;
mod cat;
mod cli;
mod completions;
mod copy;
mod dax_flag;
mod demo;
mod df;
mod dump;
mod failure;
mod fsck;
mod get;
mod grow;
mod info;
mod links;
mod list;
mod live;
mod man;
mod mkdir;
mod mkfs;
mod mount;
mod mv;
mod name;
mod output;
mod plural;
mod pool;
mod pool_path;
mod progress;
mod put;
mod remove;
mod scratch;
mod scrub;
mod size;
mod stat;
mod stats;
mod stress;
mod tier;
mod time;
mod top;
mod tree;
mod umount;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line `arguments` (the first is the name of the program) and gives the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(arguments.into_iter().collect())
}
