//! Opening and closing pools for the commands.

use std::path::Path;

use udax::{Filesystem, MountOptions};
use udax_journal::JournalError;

use crate::failure;

/// Opens `pool` to change it. A pool that was not closed cleanly is recovered, and that is told.
pub(crate) fn open_for_writing(pool: &Path) -> anyhow::Result<Filesystem> {
    let options = MountOptions {
        no_atime: true,
        ..MountOptions::default()
    };
    let filesystem =
        Filesystem::open(pool, &options).map_err(|error| failure::of_pool(pool, "cannot open", error))?;
    let recovery = filesystem.recovery();
    if !recovery.was_clean {
        failure::tell(&format!(
            "{}: was not closed cleanly: {} journal records replayed",
            crate::name::shown(pool),
            recovery.records
        ));
    }
    Ok(filesystem)
}

/// Opens `pool` to read it: without changing a byte when it was closed cleanly, else with recovery.
pub(crate) fn open_for_reading(pool: &Path) -> anyhow::Result<Filesystem> {
    let options = MountOptions {
        read_only: true,
        no_atime: true,
        ..MountOptions::default()
    };
    match Filesystem::open(pool, &options) {
        Err(udax::Error::Journal(JournalError::Unclean)) => open_for_writing(pool),
        opened => opened.map_err(|error| failure::of_pool(pool, "cannot open", error)),
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
    change: impl FnOnce(&Filesystem) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let filesystem = open_for_writing(pool)?;
    let result = change(&filesystem);
    let closed = close(pool, filesystem);
    let value = result?;
    closed?;
    Ok(value)
}
