//! Files and directories that a command makes for itself: removed when it ends, also by a signal.
//!
//! Lock: rank Leaf, around the list of what is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use udax_sync::{Mutex, Rank};

/// What is to be removed.
static LIST: OnceLock<Mutex<Vec<PathBuf>>> = OnceLock::new();

/// A file or directory that is removed at the end.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Takes care of `path`, which is about to be made.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub(crate) fn new(path: PathBuf) -> std::io::Result<Self> {
        list()?.lock().push(path.clone());
        Ok(Self { path })
    }

    /// Makes `path` with `make`.
    ///
    /// # Errors
    /// When signals cannot be caught; what `make` gives.
    pub(crate) fn make<T>(
        path: PathBuf,
        make: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> std::io::Result<(Self, T)> {
        // Made under the lock: a signal comes before it is made, or finds it in the list.
        let mut list = list()?.lock();
        let made = make(&path)?;
        list.push(path.clone());
        Ok((Self { path }, made))
    }

    /// Makes a directory with a name of its own in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn directory_in(parent: &Path, prefix: &str) -> std::io::Result<Self> {
        // Made under the lock: a signal comes before it is made, or finds it in the list.
        let mut list = list()?.lock();
        let path = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?.keep();
        list.push(path.clone());
        Ok(Self { path })
    }

    /// It has become something else's, or has another name now: nothing is removed.
    pub(crate) fn keep(mut self) {
        forget(&std::mem::take(&mut self.path));
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            remove(&self.path);
            forget(&self.path);
        }
    }
}

/// The list. The first call begins to listen for signals, which before that do what they always do.
fn list() -> std::io::Result<&'static Mutex<Vec<PathBuf>>> {
    if let Some(list) = LIST.get() {
        return Ok(list);
    }
    let list = LIST.get_or_init(|| Mutex::new(Rank::Leaf, Vec::new()));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    udax_sync::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // The lock is kept: nothing new is made.
                let list = list.lock();
                list.iter().for_each(|path| remove(path));
                // As if it had not been caught: whoever waits for this process sees the signal.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })?;
    Ok(list)
}

fn forget(path: &Path) {
    if let Some(list) = LIST.get() {
        list.lock().retain(|listed| listed != path);
    }
}

fn remove(path: &Path) {
    // What is gone or cannot be removed is left: there is nobody to be told any more.
    let _ = if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}
