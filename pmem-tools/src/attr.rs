//! `udax attr`: switches properties of files and directories.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use udax::{Checksums, Dax, Filesystem};

use crate::pool::{self, WriteArgs};
use crate::pool_path::PoolPath;
use crate::{dax_flag, failure};

/// Switch properties of files and directories: checksums of data, the DAX flag
///
/// +checksum gives what a file holds now checksums of what it holds; from then on each read verifies it. -checksum
/// takes them away without a look at them: what has changed can then be read as it is, and +checksum after it takes
/// that for right. +dax and -dax say whether the file is reached by memory access or through the page cache, where the
/// mount leaves that to files (dax=inode). In a directory they say what is made there from now on gets. Of what is on
/// a mount the DAX flag is switched while it is in use.
#[derive(Args, Debug)]
pub(crate) struct Attr {
    #[command(flatten)]
    write: WriteArgs,
    /// What to switch. For +checksum the pool must have been made with --data-checksum
    #[arg(value_enum, allow_hyphen_values = true)]
    change: Change,
    /// The files and directories. A symbolic link is not followed
    #[arg(required = true, value_name = "POOL:/PATH|PATH")]
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

    /// The same for what is on a mount.
    fn apply_on_mount(self, path: &Path) -> Result<()> {
        let dax = match self {
            Self::Dax => Dax::On,
            Self::NoDax => Dax::Off,
            Self::Checksum | Self::NoChecksum => {
                let shown = crate::name::shown(path);
                bail!("{shown}: checksums are switched in a pool that is not mounted, as POOL:/PATH");
            }
        };
        dax_flag::set(&dax_flag::open(path)?, path, dax)
    }
}

impl Attr {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        failure::for_each(&self.places, |place| {
            // A pool's file is named without a path in it, too.
            if let Some(path) = dax_flag::host_path(place).filter(|path| dax_flag::is_on_mount(path)) {
                return self.change.apply_on_mount(&path);
            }
            pool::change(&place.pool, self.write, |filesystem| {
                self.change.apply(filesystem, place)
            })
        })
    }
}
