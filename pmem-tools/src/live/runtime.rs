//! Where sockets of the live view are: `/run/udax` for root, `$XDG_RUNTIME_DIR/udax` for other users, or the directory
//! that the environment variable `UDAX_RUNTIME_DIR` names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const ROOT: &str = "/run/udax";
/// Where runtime directories of users are (pam_systemd(8)).
const USERS: &str = "/run/user";
const NAME: &str = "udax";
const ENDING: &str = "sock";
/// Entries of a user's directory that are looked at, each by a thread: more pools than anybody has mounted.
const MAX_SOCKETS: usize = 256;

/// This user's directory, if there is a place for one.
fn own() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("UDAX_RUNTIME_DIR") {
        return Some(given.into());
    }
    if rustix::process::geteuid().is_root() {
        return Some(ROOT.into());
    }
    std::env::var_os("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join(NAME))
}

/// Makes this user's directory for sockets, which nobody else can enter. It may not be below `mounted`, on which
/// nothing is mounted yet: that could not be unmounted, and to look there would wait for who serves it.
pub(crate) fn make(mounted: Option<&Path>) -> io::Result<PathBuf> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no directory for a socket: set XDG_RUNTIME_DIR or UDAX_RUNTIME_DIR",
        )
    };
    let directory = own().ok_or_else(missing)?;
    // What is there already may be reached by a link.
    let there = directory
        .ancestors()
        .find_map(|above| above.canonicalize().ok())
        .unwrap_or_default();
    let mounted = mounted.and_then(|mounted| mounted.canonicalize().ok());
    if mounted.is_some_and(|mounted| there.starts_with(mounted)) {
        let why = format!("{}: is on the mount itself", directory.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&directory)?;
    let metadata = directory.symlink_metadata()?;
    let is_private = metadata.is_dir()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0;
    if is_private {
        Ok(directory)
    } else {
        let why = format!("{}: not a directory of this user alone", directory.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

/// The socket of the process `pid` in `directory`.
pub(super) fn socket(directory: &Path, pid: u32) -> PathBuf {
    directory.join(pid.to_string()).with_extension(ENDING)
}

/// All sockets that this user may look for: its own, and for root those of users too.
pub(super) fn collect_sockets() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = own().into_iter().collect();
    if rustix::process::geteuid().is_root()
        && let Ok(users) = std::fs::read_dir(USERS)
    {
        directories.extend(users.flatten().map(|user| user.path().join(NAME)));
    }
    directories
        .iter()
        .flat_map(|directory| sockets_in(directory))
        .collect()
}

fn sockets_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.take(MAX_SOCKETS).flatten().map(|entry| entry.path());
    paths
        .filter(|path| path.extension() == Some(OsStr::new(ENDING)))
        .collect()
}

/// Removes sockets that nobody listens to any more: their processes were killed.
pub(super) fn remove_stale(directory: &Path) {
    for socket in sockets_in(directory) {
        // A socket has its name only once somebody listens.
        let refused =
            UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            let _ = std::fs::remove_file(&socket);
        }
    }
}
