//! Suites of others, run on a mounted pool: pjdfstest (what POSIX says of names, owners, permissions and times) and fsx
//! (random reads, writes, truncations and mappings of one file).
//!
//! `ci/posix` builds both programs into `target/posix` and runs the tests of this package. A test that does not find
//! its program, /dev/fuse or root says so and passes: nothing else here depends on them. Every pool is checked after
//! its test.
//!
//! Besides these suites real programs work on a mount: fio with its verification, git, sqlite3, tar, rsync and cargo.
//! There the pool is mounted by the `udax` command, as users mount it, and [`Daemon`] kills it where that matters;
//! `soak` does so for as long as one likes. `UDAX_LONG=1` makes the tests larger (`ci/posix --long`).
#![forbid(unsafe_code)]

pub mod bounded;
mod daemon;

pub use daemon::Daemon;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use udax::{Filesystem, FormatOptions, MountOptions};
use udax_check::{CheckOptions, Silent};
use udax_fuse::{Mount, Options, Serving, Stopper};
use udax_pmem::{Region, RegionOptions};
use udax_sync::thread::{self, JoinHandle};

/// After this a suite is taken for hung, and its mount is taken away.
const TIME_LIMIT: Duration = Duration::from_secs(500);

/// A program of a suite: in `$UDAX_POSIX_TOOLS`, where `ci/posix` puts it, or in the path. `None` is told.
pub fn program(name: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/posix/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::var_os("UDAX_POSIX_TOOLS")
        .map(PathBuf::from)
        .into_iter()
        .chain([built])
        .chain(std::env::split_paths(&path));
    let found = program_in(name, directories);
    if found.is_none() {
        eprintln!("skipped: no {name}; ci/posix builds it");
    }
    found
}

/// A program that the system must have, in the path. `None` is told.
pub fn installed(name: &str) -> Option<PathBuf> {
    let found = program_in(
        name,
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
    );
    if found.is_none() {
        eprintln!("skipped: no {name}; ci/posix installs it");
    }
    found
}

fn program_in(name: &str, mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories
        .find(|directory| directory.join(name).is_file())
        .map(|directory| directory.join(name))
}

/// Whether the tests are to take their time.
pub fn is_long() -> bool {
    std::env::var_os("UDAX_LONG").is_some_and(|value| !value.is_empty())
}

/// Whether pools can be mounted here; tells when not.
fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !can {
        eprintln!("skipped: needs root and /dev/fuse");
    }
    can
}

/// A directory in memory, where there is such a place, that all users may enter.
fn new_directory() -> std::io::Result<tempfile::TempDir> {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), mode)?;
    Ok(directory)
}

/// A mounted pool.
#[derive(Debug)]
pub struct Mounted {
    directory: tempfile::TempDir,
    stopper: Stopper,
    server: Option<JoinHandle<Result<(), udax_fuse::MountError>>>,
    filesystem: Option<Filesystem>,
    watched: mpsc::Sender<()>,
}

impl Mounted {
    /// Mounts a new pool of `bytes`; `None` where that cannot be done, which is told.
    ///
    /// # Errors
    /// What should work does not.
    pub fn new(bytes: u64, options: &str) -> anyhow::Result<Option<Self>> {
        if !can_mount() {
            return Ok(None);
        }
        let directory = new_directory()?;
        let pool = directory.path().join("pool");
        let format = FormatOptions {
            size: Some(bytes),
            ..FormatOptions::default()
        };
        Filesystem::format(&pool, &format)?;
        let path = directory.path().join("mnt");
        std::fs::create_dir(&path)?;
        let options = Options::parse([options])?;
        let mount_options = MountOptions {
            dax: options.dax,
            cache_bytes: options.cache_bytes,
            ..MountOptions::default()
        };
        let filesystem = Filesystem::open(&pool, &mount_options)?;
        let mount = Mount::new(filesystem.clone(), &path, "pool", &options)?;
        let stopper = mount.stopper();
        let (watched, watch) = mpsc::channel();
        let watchdog = stopper.clone();
        thread::spawn(move || {
            if watch.recv_timeout(TIME_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the suite is hung: its mount is taken away");
                let _ = watchdog.stop();
            }
        });
        Ok(Some(Self {
            directory,
            stopper,
            server: Some(thread::spawn(move || mount.start().and_then(Serving::wait))),
            filesystem: Some(filesystem),
            watched,
        }))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// A directory beside the mount, for what a suite writes of its own.
    pub fn beside(&self) -> &Path {
        self.directory.path()
    }

    /// Unmounts, and checks the pool.
    ///
    /// # Errors
    /// The first problem of the pool.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.stop()?;
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = Region::open(&self.directory.path().join("pool"), options)?;
        let report = udax_check::check(&region, &CheckOptions::default(), &Silent)?;
        ensure!(report.was_clean, "the pool was not closed cleanly");
        if let Some(problem) = report.problems.first() {
            bail!("{}: {}", problem.place, problem.what);
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(server) = self.server.take() else {
            return Ok(());
        };
        let _ = self.watched.send(());
        self.stopper.stop()?;
        match server.join() {
            Ok(served) => served?,
            Err(_) => bail!("what serves the mount has panicked"),
        }
        let filesystem = self.filesystem.take().context("the pool is closed already")?;
        Ok(filesystem.close()?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a suite to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))
}
