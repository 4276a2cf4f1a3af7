//! `udax links`: the names under which mkfs(8), fsck(8) and mount(8) look for the filesystem's programs.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

/// The names that the program knows itself by, besides `udax`.
const NAMES: [&str; 4] = ["mkfs.udax", "fsck.udax", "mount.udax", "mount.fuse.udax"];

/// Make the links mkfs.udax, fsck.udax, mount.udax and mount.fuse.udax to this program
///
/// With them in /sbin, 'mount -t udax', 'mount -t fuse.udax' and lines of fstab work. Links to this program that are
/// there already stay.
#[derive(Args, Debug)]
pub(crate) struct Links {
    /// Where to, for example /sbin
    directory: PathBuf,
}

impl Links {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        for name in NAMES {
            let link = self.directory.join(name);
            if std::fs::read_link(&link).is_ok_and(|to| to == program) {
                continue;
            }
            symlink(&program, &link)
                .with_context(|| format!("{}: cannot make the link", crate::name::shown(&link)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
