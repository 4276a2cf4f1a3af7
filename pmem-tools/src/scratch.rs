//! Files and directories that a command makes for itself: removed when it ends, also by a signal.
//!
//! Locks: rank Leaf, around the list of what is there, and around making what is listed; never both at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use udax_fuse::{Lazy, Mounted};
use udax_sync::atomic::{AtomicBool, Ordering};
use udax_sync::{Mutex, Rank, RwLock};

/// Mounts that are ended, at most.
const UNMOUNTS: usize = 64;

static STATE: OnceLock<State> = OnceLock::new();

struct State {
    /// What is to be removed.
    list: Mutex<Vec<PathBuf>>,
    /// Held shared while something listed is made, so that a signal does not come in between.
    making: RwLock<()>,
    /// Set before the signal waits for `making`: nothing is made after it. Relaxed: the lock orders it.
    is_ending: AtomicBool,
}

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
        state()?.list.lock().push(path.clone());
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
        let state = state()?;
        let scratch = Self::new(path)?;
        let making = state.making.read();
        let made = if state.is_ending.load(Ordering::Relaxed) {
            Err(std::io::ErrorKind::Interrupted.into())
        } else {
            make(&scratch.path)
        };
        drop(making);
        match made {
            Ok(made) => Ok((scratch, made)),
            Err(error) => {
                // What is there is not ours.
                scratch.keep();
                Err(error)
            }
        }
    }

    /// Makes a directory with a name of its own in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn directory_in(parent: &Path, prefix: &str) -> std::io::Result<Self> {
        // Made under the lock: a signal comes before it is made, or finds it in the list.
        let mut list = state()?.list.lock();
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

/// The state. The first call begins to listen for signals, which before that do what they always do.
fn state() -> std::io::Result<&'static State> {
    if let Some(state) = STATE.get() {
        return Ok(state);
    }
    let mut is_first = false;
    let state = STATE.get_or_init(|| {
        is_first = true;
        State {
            list: Mutex::new(Rank::Leaf, Vec::new()),
            making: RwLock::new(Rank::Leaf, ()),
            is_ending: AtomicBool::new(false),
        }
    });
    if !is_first {
        return Ok(state);
    }
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    udax_sync::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                state.is_ending.store(true, Ordering::Relaxed);
                drop(state.making.write());
                // The lock is kept: nothing new is listed.
                let list = state.list.lock();
                list.iter().for_each(|path| remove(path));
                // As if it had not been caught: whoever waits for this process sees the signal.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })?;
    Ok(state)
}

fn forget(path: &Path) {
    if let Some(state) = STATE.get() {
        state.list.lock().retain(|listed| listed != path);
    }
}

fn remove(path: &Path) {
    // What is gone or cannot be removed is left: there is nobody to be told any more.
    let _ = if path.is_dir() && !path.is_symlink() {
        // The files of others on a mount are not to be removed.
        if !unmount_below(path) {
            return;
        }
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}

/// Ends what this command, or a process of its own that goes on for a moment, has mounted in a directory of its own;
/// whether nothing is left.
fn unmount_below(directory: &Path) -> bool {
    for _ in 0..UNMOUNTS {
        let mounts = directory.canonicalize().and_then(|path| Mounted::below(&path));
        let ended = match mounts.as_deref() {
            Ok([.., last]) => udax_fuse::unmount_directory(&last.directory, Lazy::Yes).is_ok(),
            Ok([]) => return true,
            Err(_) => false,
        };
        if !ended {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let make = |path: &Path| fs::File::create_new(path);
        let (scratch, _) = Scratch::make(path.clone(), make).unwrap();
        drop(scratch);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        Scratch::make(path.clone(), make).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn of_a_link_the_link_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (precious, link) = (directory.path().join("precious"), directory.path().join("link"));
        fs::create_dir(&precious).unwrap();
        let make = |path: &Path| std::os::unix::fs::symlink(&precious, path);
        drop(Scratch::make(link.clone(), make).unwrap());
        assert!(precious.is_dir() && !link.is_symlink());
    }

    #[test]
    fn what_is_kept_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let (scratch, _) = Scratch::make(path.clone(), |path| fs::write(path, "kept")).unwrap();
        scratch.keep();
        assert!(path.exists());
    }
}
