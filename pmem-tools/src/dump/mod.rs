//! `udax dump`: shows a pool's structures as they are on the medium.
//!
//! Nothing is opened or replayed, and nothing is trusted: what is damaged is told, and what can still be read
//! is shown.
//!
//! * [`medium`]: raw access, and which superblock and checkpoint count.
//! * [`records`]: the output, one record after another.
//! * [`walk`]: visits a tree's nodes, damaged or not.
//! * [`superblock`], [`journal`], [`inode`], [`tree`], [`free`]: what can be shown.

mod free;
mod inode;
mod journal;
mod medium;
mod records;
mod superblock;
mod tree;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::failure;
use crate::output::Output;
use medium::Medium;
use records::Records;

/// Show a pool's structures as they are on the medium, damaged or not
///
/// Exit status: 0, or 1 when something damaged was met.
#[derive(Args, Debug)]
pub(crate) struct Dump {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// The file or device
    pool: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Both superblocks
    Superblock,
    /// The checkpoints, and the records that recovery would replay
    Journal,
    /// An inode, its extents and its extended attributes
    Inode {
        /// Its number; the root directory is 1
        number: u64,
    },
    /// The nodes of the trees of a file or directory
    Tree {
        /// The path, from the root
        path: PathBuf,
    },
    /// The free blocks of each allocation group
    Free,
}

impl Dump {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let medium = Medium::open(&self.pool)?;
        let mut records = Records::new(output, self.json)?;
        let shown = match &self.what {
            What::Superblock => superblock::show(&medium, &mut records),
            What::Journal => journal::show(&medium, &mut records),
            What::Inode { number } => inode::show(&medium, *number, &mut records),
            What::Tree { path } => tree::show(&medium, path, &mut records),
            What::Free => free::show(&medium, &mut records),
        };
        let problems = records.finish()?;
        shown.map_err(|error| error.context(crate::name::shown(&self.pool)))?;
        Ok(match problems {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(failure::FAILED),
        })
    }
}
