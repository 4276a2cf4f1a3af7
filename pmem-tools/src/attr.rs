//! `udax attr`: switches properties of files and directories.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use udax::{Checksums, Dax, Filesystem};

use crate::failure;
use crate::pool::{self, WriteArgs};
use crate::pool_path::PoolPath;

/// Switch properties of files and directories: checksums of data, the DAX flag
///
/// +checksum gives what a file holds now checksums of what it holds; from then on each read verifies it. -checksum
/// takes them away without a look at them: what has changed can then be read as it is, and +checksum after it takes
/// that for right. +dax and -dax say whether the file is reached by memory access or through the page cache, where the
/// mount leaves that to files (dax=inode). In a directory they say what is made there from now on gets.
#[derive(Args, Debug)]
pub(crate) struct Attr {
    #[command(flatten)]
    write: WriteArgs,
    /// What to switch. For +checksum the pool must have been made with --data-checksum
    #[arg(value_enum, allow_hyphen_values = true)]
    change: Change,
    /// The files and directories. A symbolic link is not followed
    #[arg(required = true, value_name = "POOL:/PATH")]
    places: Vec<PoolPath>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Change {
    #[value(name = "+checksum")]
    Checksum,
    #[value(name = "-checksum")]
    NoChecksum,
    #[value(name = "+dax")]
    Dax,
    #[value(name = "-dax")]
    NoDax,
}

impl Change {
    fn apply(self, filesystem: &Filesystem, place: &PoolPath) -> Result<()> {
        let (changed, what) = match self {
            Self::Checksum => (filesystem.set_checksums(&place.path, Checksums::On), "checksums"),
            Self::NoChecksum => (filesystem.set_checksums(&place.path, Checksums::Off), "checksums"),
            Self::Dax => (filesystem.set_dax(&place.path, Dax::On), "the DAX flag"),
            Self::NoDax => (filesystem.set_dax(&place.path, Dax::Off), "the DAX flag"),
        };
        changed.with_context(|| format!("{place}: cannot switch {what}"))
    }
}

impl Attr {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        failure::for_each(&self.places, |place| {
            pool::change(&place.pool, self.write, |filesystem| {
                self.change.apply(filesystem, place)
            })
        })
    }
}
