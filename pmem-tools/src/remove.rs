//! `udax rm`: removes files and directories of a pool.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use udax::{Error, FileKind, Filesystem};

use crate::copy::{InPool, Source as _};
use crate::failure;
use crate::pool::{self, WriteArgs};
use crate::pool_path::{PoolPath, in_pool};

/// Remove files of a pool, and with -r directories with all that is in them
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// Also directories, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// What does not exist is no error
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// What to remove. A symbolic link is removed itself
    #[arg(required = true, value_name = "POOL:/PATH")]
    places: Vec<PoolPath>,
}

/// A step of removing a tree.
enum Step {
    /// Whatever is there.
    Any(PathBuf),
    /// A directory whose content has been removed.
    Emptied(PathBuf),
}

impl Remove {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        failure::for_each(&self.places, |place| {
            if place.is_root() {
                bail!("{place}: the root directory cannot be removed: make the pool anew with 'udax mkfs'");
            }
            pool::change(&place.pool, self.write, |filesystem| {
                self.remove(filesystem, place)
            })
        })
    }

    fn remove(&self, filesystem: &Filesystem, place: &PoolPath) -> Result<()> {
        let kind = match filesystem.stat_link(&place.path) {
            Ok(stat) => stat.kind,
            Err(Error::NotFound) if self.force => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("{place}: cannot remove")),
        };
        if kind == FileKind::Directory && !self.recursive {
            bail!("{place}: is a directory: remove it and all that is in it with -r");
        }
        remove_tree(filesystem, place)
    }
}

/// Removes with a stack of its own, because directories may be deeper than a thread's stack.
fn remove_tree(filesystem: &Filesystem, place: &PoolPath) -> Result<()> {
    let mut steps = vec![Step::Any(place.path.clone())];
    while let Some(step) = steps.pop() {
        match step {
            Step::Any(path) => match filesystem.unlink(&path) {
                Ok(()) => {}
                Err(Error::IsDirectory | Error::NotPermitted(_)) => {
                    let names = InPool::new(filesystem, &place.pool)
                        .names(&path)
                        .with_context(|| format!("{}: cannot read", in_pool(&place.pool, &path)))?;
                    let children: Vec<Step> = names.iter().map(|name| Step::Any(path.join(name))).collect();
                    steps.push(Step::Emptied(path));
                    steps.extend(children);
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{}: cannot remove", in_pool(&place.pool, &path)));
                }
            },
            Step::Emptied(path) => filesystem
                .remove_dir(&path)
                .with_context(|| format!("{}: cannot remove", in_pool(&place.pool, &path)))?,
        }
    }
    Ok(())
}
