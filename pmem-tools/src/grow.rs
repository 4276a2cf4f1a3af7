//! `udax grow`: makes a pool larger.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use udax_media::BLOCK_BYTES;

use crate::failure;
use crate::output::Output;
use crate::pool;
use crate::size::Size;

/// Make a pool larger; what is in it stays where it is
#[derive(Args, Debug)]
pub(crate) struct Grow {
    /// The file or device
    pool: PathBuf,
    /// The new size; a file is extended first
    size: Size,
}

impl Grow {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let total = pool::change(&self.pool, |filesystem| {
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
