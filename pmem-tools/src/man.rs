//! `udax man`: writes the manual pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use crate::cli::command;
use crate::fsck::Fsck;
use crate::mkfs::Mkfs;
use crate::mount::Mount;

/// Write the manual pages of all commands into a directory
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Where to; made when it does not exist. Pages end in .1, those of mkfs.udax, fsck.udax and mount.udax in .8
    directory: PathBuf,
}

impl Man {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let shown = crate::name::shown(&self.directory);
        fs::create_dir_all(&self.directory).with_context(|| format!("{shown}: cannot make the directory"))?;
        clap_mangen::generate_to(command(), &self.directory)
            .with_context(|| format!("{shown}: cannot write the manual pages"))?;
        for program in [Mkfs::command(), Fsck::command(), Mount::command()] {
            write_system_page(program, &self.directory)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write_system_page(program: clap::Command, directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(format!("{}.8", program.get_name()));
    let mut page = Vec::new();
    clap_mangen::Man::new(program).section("8").render(&mut page)?;
    fs::write(&path, page).with_context(|| format!("{}: cannot write", crate::name::shown(&path)))
}
