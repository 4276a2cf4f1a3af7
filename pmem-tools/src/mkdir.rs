//! `udax mkdir`: makes directories in a pool.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use udax::{Error, FileKind, Filesystem, NewInode};

use crate::failure;
use crate::pool::{self, WriteArgs};
use crate::pool_path::{PoolPath, in_pool};

/// Make directories in a pool
#[derive(Args, Debug)]
pub(crate) struct Mkdir {
    /// Also the directories above; what exists is no error
    #[arg(short, long)]
    parents: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// The directories
    #[arg(required = true, value_name = "POOL:/PATH")]
    places: Vec<PoolPath>,
}

impl Mkdir {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let new = NewInode::with_permissions(0o777 & !umask());
        failure::for_each(&self.places, |place| {
            pool::change(&place.pool, self.write, |filesystem| {
                if self.parents {
                    create_all(filesystem, place, new)
                } else {
                    create(filesystem, &place.pool, &place.path, new)
                }
            })
        })
    }
}

fn create(filesystem: &Filesystem, pool: &Path, path: &Path, new: NewInode) -> Result<()> {
    filesystem
        .create_dir(path, new)
        .with_context(|| format!("{}: cannot make the directory", in_pool(pool, path)))?;
    Ok(())
}

fn create_all(filesystem: &Filesystem, place: &PoolPath, new: NewInode) -> Result<()> {
    let mut path = PathBuf::from("/");
    for part in place.path.components().skip(1) {
        path.push(part);
        match filesystem.create_dir(&path, new) {
            Ok(_) => {}
            Err(Error::Exists)
                if filesystem
                    .stat(&path)
                    .is_ok_and(|stat| stat.kind == FileKind::Directory) => {}
            Err(Error::Exists) => {
                let shown = in_pool(&place.pool, &path);
                bail!("{shown}: is not a directory, and is not replaced");
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{}: cannot make the directory", in_pool(&place.pool, &path)));
            }
        }
    }
    Ok(())
}

/// The process's umask. It can only be read by setting it, which is safe here: the process has one thread
/// still.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.bits()
}
