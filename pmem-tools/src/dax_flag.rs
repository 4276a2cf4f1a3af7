//! The DAX flag of files and directories on a mount.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use udax::Dax;
use udax_fuse::Mounted;

use crate::pool_path::PoolPath;

/// `FS_DAX_FL`, for which there is no name in `rustix`.
const FLAG: IFlags = IFlags::from_bits_retain(0x0200_0000);

/// The path of the host that was given: one without `:/`, or that leads to something on a mounted pool, is none in a
/// pool.
pub(crate) fn host_path(place: &PoolPath) -> Option<PathBuf> {
    if is_on_mount(&place.argument) {
        return Some(place.argument.clone());
    }
    let is_host = place.is_root() && !place.pool.as_os_str().as_bytes().ends_with(b":");
    is_host.then(|| place.pool.clone())
}

/// Whether the path is on a mounted pool.
pub(crate) fn is_on_mount(path: &Path) -> bool {
    let device = path.symlink_metadata().map(|metadata| metadata.dev());
    let mounted = device.and_then(Mounted::of_device);
    mounted.is_ok_and(|mounted| mounted.is_some_and(|mounted| mounted.is_pool()))
}

/// Opens a file or directory of a mount; a symbolic link is not followed. What has such flags on other filesystems is
/// not touched.
pub(crate) fn open(path: &Path) -> Result<File> {
    let shown = crate::name::shown(path);
    let cannot = || format!("{shown}: cannot open");
    // Not opened before it is known to be neither a FIFO nor a device, which would wait, or do something.
    let place = openat(
        CWD,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let place = File::from(place.with_context(cannot)?);
    let found = place.metadata().with_context(cannot)?;
    let mounted = Mounted::of_device(found.dev())?;
    if !mounted.is_some_and(|mounted| mounted.is_pool()) {
        bail!("{shown}: is not on a mounted pool; in one that is not mounted, a file is POOL:/PATH");
    }
    if !found.is_file() && !found.is_dir() {
        bail!("{shown}: only files and directories have the DAX flag");
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).with_context(cannot)
}

/// Sets or clears the flag of what was opened at `path`.
pub(crate) fn set(file: &File, path: &Path, dax: Dax) -> Result<()> {
    let shown = crate::name::shown(path);
    let mut flags = ioctl_getflags(file).with_context(|| format!("{shown}: cannot look at its flags"))?;
    flags.set(FLAG, dax == Dax::On);
    ioctl_setflags(file, flags)
        .with_context(|| format!("{shown}: cannot switch the DAX flag, or move all of its data"))
}
