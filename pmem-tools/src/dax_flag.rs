//! The DAX flag of files and directories on a mount.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use udax::Dax;

use crate::pool_path::PoolPath;

/// `FS_DAX_FL`, for which there is no name in `rustix`.
const FLAG: IFlags = IFlags::from_bits_retain(0x0200_0000);

/// The path of the host that was given: one without `:/` is none in a pool.
pub(crate) fn host_path(place: &PoolPath) -> Option<&Path> {
    let is_host = place.is_root() && !place.pool.as_os_str().as_bytes().ends_with(b":");
    is_host.then_some(&place.pool)
}

/// Opens a file or directory of a mount; a symbolic link is not followed.
pub(crate) fn open(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty());
    let file = opened.with_context(|| format!("{}: cannot open", crate::name::shown(path)))?;
    Ok(file.into())
}

/// Sets or clears the flag of what was opened at `path`.
pub(crate) fn set(file: &File, path: &Path, dax: Dax) -> Result<()> {
    let shown = crate::name::shown(path);
    let mut flags = ioctl_getflags(file)
        .with_context(|| format!("{shown}: cannot look at its flags; is it on a mounted pool?"))?;
    flags.set(FLAG, dax == Dax::On);
    ioctl_setflags(file, flags).with_context(|| format!("{shown}: cannot switch the DAX flag"))
}
