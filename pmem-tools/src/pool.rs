//! Opening and closing pools for the commands.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use udax::{Filesystem, MountOptions};
use udax_fuse::Mounted;
use udax_journal::JournalError;
use udax_pmem::{Region, RegionError, RegionOptions};
use udax_sync::thread;

use crate::failure;
use crate::plural::records;

/// How long a pool may be open that is not mounted any more, before it is told as in use.
const CLOSING: Duration = Duration::from_millis(500);
const CLOSING_POLL: Duration = Duration::from_millis(5);

/// How a pool is written, as arguments of the commands that change one.
#[derive(Args, Clone, Copy, Default, Debug)]
pub(crate) struct WriteArgs {
    /// Let what is written survive a power failure also where the pool is a file on an ordinary disk, by msync.
    /// Slow. Without it, it survives the end of every process there. On persistent memory it is not needed, and
    /// on tmpfs of no use
    #[arg(long)]
    pub(crate) msync: bool,
}

impl WriteArgs {
    fn mount_options(self) -> MountOptions {
        MountOptions {
            msync: self.msync,
            no_atime: true,
            ..MountOptions::default()
        }
    }
}

/// Opens `pool` to change it. A pool that was not closed cleanly is recovered, and that is told.
pub(crate) fn open_for_writing(pool: &Path, options: &MountOptions) -> anyhow::Result<Filesystem> {
    warn_of_damaged_copies(pool);
    let filesystem = open(pool, options)?;
    tell_recovery(pool, &filesystem, "replayed");
    Ok(filesystem)
}

/// Opens `pool` to read it, without changing a byte: what must be replayed is replayed in memory.
pub(crate) fn open_for_reading(pool: &Path) -> anyhow::Result<Filesystem> {
    warn_of_damaged_copies(pool);
    let options = MountOptions {
        read_only: true,
        no_atime: true,
        ..MountOptions::default()
    };
    match try_open(pool, &options) {
        Err(udax::Error::Journal(JournalError::Unclean)) => {}
        opened => return opened.map_err(|error| failure::of_pool(pool, failure::OPEN, error)),
    }
    let options = MountOptions {
        read_only: false,
        private: true,
        ..options
    };
    let opened = open(pool, &options);
    let filesystem = opened.map_err(|error| match error.downcast_ref() {
        Some(udax::Error::Region(RegionError::Io { what: "map", .. })) => {
            let shown = crate::name::shown(pool);
            error.context(format!(
                "{shown}: was not closed cleanly, and a device cannot be recovered in memory only: \
                 recover it with 'udax fsck -y {shown}'"
            ))
        }
        _ => error,
    })?;
    tell_recovery(pool, &filesystem, "replayed in memory; the pool was not changed");
    Ok(filesystem)
}

fn open(pool: &Path, options: &MountOptions) -> anyhow::Result<Filesystem> {
    try_open(pool, options).map_err(|error| failure::of_pool(pool, failure::OPEN, error))
}

/// Opens `pool`, for a caller that tells errors itself.
pub(crate) fn try_open(pool: &Path, options: &MountOptions) -> udax::Result<Filesystem> {
    let is_busy = |error: &udax::Error| matches!(error, udax::Error::Region(RegionError::Busy { .. }));
    once_closed(pool, is_busy, || Filesystem::open(pool, options))
}

/// Opens a pool as it is, to look at it or to mend it.
pub(crate) fn open_region(pool: &Path, options: &RegionOptions) -> anyhow::Result<Region> {
    let is_busy = |error: &RegionError| matches!(error, RegionError::Busy { .. });
    let opened = once_closed(pool, is_busy, || Region::open(pool, options.clone()));
    opened.map_err(|error| failure::of_pool(pool, failure::OPEN, error))
}

/// What `open` gives, once the process of a mount that has just ended is through with the pool: umount(8) does not wait
/// for it.
fn once_closed<T, E>(
    pool: &Path,
    is_busy: impl Fn(&E) -> bool,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let end = Instant::now() + CLOSING;
    loop {
        match open() {
            Err(error) if is_busy(&error) && Instant::now() < end && mounted(pool).is_none() => {
                thread::sleep(CLOSING_POLL);
            }
            opened => return opened,
        }
    }
}

/// Where `pool` is mounted, as far as that can be found out.
pub(crate) fn mounted(pool: &Path) -> Option<Mounted> {
    let mounted = pool.canonicalize().and_then(|pool| Mounted::of_pool(&pool));
    mounted.ok().flatten()
}

fn tell_recovery(pool: &Path, filesystem: &Filesystem, done: &str) {
    let recovery = filesystem.recovery();
    if !recovery.was_clean {
        failure::tell(&format!(
            "{}: was not closed cleanly: {} {done}",
            crate::name::shown(pool),
            records(recovery.records)
        ));
    }
}

/// What is wrong with copies of what `pool` keeps twice. Why it cannot be opened is for opening it to tell.
pub(crate) fn find_damaged_copies(pool: &Path) -> Vec<String> {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let Ok(region) = Region::open(pool, options) else {
        return Vec::new();
    };
    let problems = udax_check::check_copies(&region).unwrap_or_default();
    problems
        .iter()
        .map(|problem| format!("{}: {}", problem.place, problem.what))
        .collect()
}

fn warn_of_damaged_copies(pool: &Path) {
    for damaged in find_damaged_copies(pool) {
        failure::tell(&format!(
            "{}: warning: one of two copies is lost, {damaged}; restore it with 'udax fsck -y'",
            crate::name::shown(pool)
        ));
    }
}

/// Closes the pool and hears of errors.
pub(crate) fn close(pool: &Path, filesystem: Filesystem) -> anyhow::Result<()> {
    filesystem
        .close()
        .map_err(|error| failure::of_pool(pool, "cannot close", error))
}

/// Opens `pool`, changes it with `change`, and closes it. The error of the change counts before that of the
/// close.
pub(crate) fn change<T>(
    pool: &Path,
    write: WriteArgs,
    change: impl FnOnce(&Filesystem) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    change_with(pool, &write.mount_options(), change)
}

/// As [`change`], with room for the pool to grow to `bytes`.
pub(crate) fn change_size<T>(
    pool: &Path,
    write: WriteArgs,
    bytes: u64,
    change: impl FnOnce(&Filesystem) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let options = MountOptions {
        reserve: bytes,
        ..write.mount_options()
    };
    change_with(pool, &options, change)
}

fn change_with<T>(
    pool: &Path,
    options: &MountOptions,
    change: impl FnOnce(&Filesystem) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let filesystem = open_for_writing(pool, options)?;
    let result = change(&filesystem);
    let closed = close(pool, filesystem);
    let value = result?;
    closed?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msync_is_passed_on() {
        assert!(WriteArgs { msync: true }.mount_options().msync);
        assert!(!WriteArgs::default().mount_options().msync);
    }
}
