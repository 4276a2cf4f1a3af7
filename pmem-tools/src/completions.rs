//! `udax completions`: prints what makes a shell complete the command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use crate::cli::command;
use crate::output::Output;

/// Print the completion script for a shell
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        // Into memory first: the generator panics when a write fails.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command(), "udax", &mut script);
        output.write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
