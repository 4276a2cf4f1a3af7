//! `udax stress`: what must hold when everything happens at once.
//!
//! * `truncate-dma`: truncations against stores through pins (`udax_stress`), on a pool or a directory.

mod truncate_dma;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::output::Output;

/// Look for defects that only show when many things happen at once
#[derive(Args, Debug)]
pub(crate) struct Stress {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    TruncateDma(truncate_dma::TruncateDma),
}

impl Stress {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::TruncateDma(command) => command.run(output),
        }
    }
}
