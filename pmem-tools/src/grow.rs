//! `udax grow`: makes a pool larger.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use udax_media::BLOCK_BYTES;

use crate::failure;
use crate::output::Output;
use crate::pool::{self, WriteArgs};
use crate::size::Size;

/// Make a pool larger; what is in it stays where it is
///
/// A file is extended; a device must have become larger before. A pool grows at most 63 times, to at most 1 PiB.
/// A program that has a pool open can let it grow to 64 GiB, or to its size if that was more, unless it asked for
/// more room (MountOptions::reserve); this command has no such limit.
#[derive(Args, Debug)]
pub(crate) struct Grow {
    #[command(flatten)]
    write: WriteArgs,
    /// The file or device
    pool: PathBuf,
    /// The new size; a file is extended first
    size: Size,
}

impl Grow {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let total = pool::change_size(&self.pool, self.write, self.size.0, |filesystem| {
            filesystem
                .grow(self.size.0)
                .map_err(|error| failure::of_pool(&self.pool, "cannot grow", error))?;
            Ok(filesystem.stat_filesystem().total_blocks)
        })?;
        let shown = crate::name::shown(&self.pool);
        writeln!(output, "{shown}: now {}", Size(total * BLOCK_BYTES))?;
        Ok(ExitCode::SUCCESS)
    }
}
