//! `udax mv`: renames files and directories of a pool.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use udax::{Error, FileKind, Filesystem, RenameMode};

use crate::pool::{self, WriteArgs};
use crate::pool_path::{PoolPath, in_pool};

/// Rename a file or directory of a pool, or move it into a directory
///
/// The change is atomic: after a crash there is either the old name or the new one.
#[derive(Args, Debug)]
pub(crate) struct Move {
    /// Fail when the new name is taken
    #[arg(short, long)]
    no_clobber: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// The old name
    #[arg(value_name = "POOL:/FROM")]
    from: PoolPath,
    /// The new name, or an existing directory
    #[arg(value_name = "POOL:/TO")]
    to: PoolPath,
}

impl Move {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        ensure!(
            self.from.pool == self.to.pool,
            "{}: is in another pool than {}: copy with 'udax get' and 'udax put'",
            self.to,
            self.from
        );
        let mode = if self.no_clobber {
            RenameMode::NoReplace
        } else {
            RenameMode::Replace
        };
        pool::change(&self.from.pool, self.write, |filesystem| {
            let is_dir = filesystem
                .stat(&self.to.path)
                .is_ok_and(|stat| stat.kind == FileKind::Directory);
            let to = match self.from.path.file_name() {
                Some(name) if is_dir => self.to.path.join(name),
                _ => self.to.path.clone(),
            };
            let renamed = filesystem.rename(&self.from.path, &to, mode);
            renamed.map_err(|error| self.explain(filesystem, &to, error))
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// Names the one of the two names that is wrong.
    fn explain(&self, filesystem: &Filesystem, to: &Path, error: Error) -> anyhow::Error {
        let shown = in_pool(&self.to.pool, to);
        if filesystem.stat_link(&self.from.path).is_err() {
            return anyhow!(error).context(format!("{}: cannot rename to {shown}", self.from));
        }
        let error = match to.parent().map(|parent| filesystem.stat(parent)) {
            Some(Err(Error::NotFound)) => anyhow!(error).context("its directory does not exist"),
            _ => error.into(),
        };
        error.context(format!("{shown}: cannot be the new name of {}", self.from))
    }
}
