//! `udax umount`: ends a mount, and waits until its pool is closed.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use udax_fuse::{Lazy, MountError, Mounted};
use udax_sync::thread;

use crate::live::find::{self, Found};

/// How long closing a pool may take: a checkpoint of a full journal, on the slowest medium.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same without anything to finish.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// Unmount a pool, and wait until it is closed, unless it is mounted elsewhere too (mount --bind)
///
/// What is not synced is written before; if it cannot be, the pool stays mounted.
///
/// Exit status: 0 unmounted, 1 wrong command line, 32 still mounted.
#[derive(Args, Debug)]
pub(crate) struct Unmount {
    /// At once; those who use it keep it until they are done. Does not wait
    #[arg(short, long)]
    lazy: bool,
    /// Where it is mounted
    directory: PathBuf,
}

impl Unmount {
    /// Runs the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let shown = crate::name::shown(&self.directory);
        // A mount whose daemon is gone cannot be looked at: then the path is taken as it is.
        let directory = self
            .directory
            .canonicalize()
            .or_else(|_| std::path::absolute(&self.directory))
            .with_context(|| format!("{shown}: not a path"))?;
        let Some(mount) = Mounted::find(&directory).context("cannot list the mounts")? else {
            if let Some(mounted) = crate::pool::mounted(&directory) {
                let there = crate::name::shown(&mounted.directory);
                bail!("{shown}: this pool is mounted on {there}; give that");
            }
            bail!(
                "{shown}: nothing is mounted there; 'findmnt -t fuse.udax' lists the pools that are mounted"
            );
        };
        if !mount.is_pool() {
            bail!("{shown}: what is mounted there is no pool; use umount(8)");
        }
        let lazy = if self.lazy { Lazy::Yes } else { Lazy::No };
        if lazy == Lazy::No
            && !mount.is_read_only
            && let Err(why) = sync(&directory)
        {
            bail!(
                "{shown}: not unmounted, as not all can be written: {why}; mend that, or give --lazy, which loses what \
                 cannot be written"
            );
        }
        udax_fuse::unmount_directory(&directory, lazy).map_err(|error| {
            let is_busy =
                matches!(&error, MountError::Unmount { why, .. } if why.kind() == ErrorKind::ResourceBusy);
            let advice = match lazy {
                Lazy::No if is_busy => format!(
                    "in use: end the programs that use it ('fuser -vm {shown}' lists them), or give --lazy"
                ),
                _ if !rustix::process::geteuid().is_root() => {
                    "cannot unmount: it takes root, or the user who has mounted it".to_owned()
                }
                _ => "cannot unmount".to_owned(),
            };
            anyhow::Error::from(error).context(format!("{shown}: {advice}"))
        })?;
        // A bind mount of it keeps the pool open.
        if lazy == Lazy::No && mount.everywhere().map_or(true, |left| left.is_empty()) {
            wait_until_closed(&mount)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Has everything of a mount written; why it cannot be. Of who does not answer nothing is known.
fn sync(directory: &Path) -> Result<(), String> {
    let Ok(opened) = File::open(directory) else {
        return Ok(());
    };
    // What programs have stored to mappings, the kernel has.
    let _ = rustix::fs::syncfs(&opened);
    match find::find(directory) {
        Ok(Found::Live(connection)) => connection.sync().unwrap_or(Ok(())),
        Ok(Found::Nobody) | Err(_) => Ok(()),
    }
}

/// Waits for the lock that whoever has the pool open holds.
fn wait_until_closed(mount: &Mounted) -> anyhow::Result<()> {
    // What cannot be opened cannot be waited for; it is unmounted all the same.
    let Ok(file) = File::open(&mount.source) else {
        return Ok(());
    };
    // A read-only mount shares its lock with other readers: they may stay, and it has nothing to finish.
    let timeout = if mount.is_read_only {
        READER_TIMEOUT
    } else {
        CLOSE_TIMEOUT
    };
    let deadline = Instant::now() + timeout;
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > deadline {
            if mount.is_read_only {
                return Ok(());
            }
            bail!(
                "{}: is unmounted, but still open after {} seconds: somebody uses what was mounted",
                crate::name::shown(&mount.source),
                timeout.as_secs()
            );
        }
        thread::sleep(CLOSE_POLL);
    }
    Ok(())
}
