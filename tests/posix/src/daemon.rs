//! A pool that the `udax` command has mounted: a daemon that can be killed, and a pool that is mounted again.
//!
//! Whatever happens, the end of a [`Daemon`] leaves no mount and no process behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};
use udax_sync::thread;

use crate::{bounded, can_mount};

/// For mounting and unmounting, also after a crash.
const LIMIT: Duration = Duration::from_secs(60);
/// For a check of all metadata and data.
const CHECK_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(2);

/// A pool, and the process that serves it, if one does.
#[derive(Debug)]
pub struct Daemon {
    directory: tempfile::TempDir,
    options: String,
    process: Option<Child>,
}

impl Daemon {
    /// Makes a pool of `size`, with more arguments of mkfs, and mounts it with `options`; `None` where that cannot be
    /// done, which is told.
    ///
    /// # Errors
    /// What should work does not.
    pub fn new(size: &str, format: &[&str], options: &str) -> anyhow::Result<Option<Self>> {
        if !can_mount() {
            return Ok(None);
        }
        let directory = crate::new_directory()?;
        let mut daemon = Self {
            directory,
            options: options.to_owned(),
            process: None,
        };
        std::fs::create_dir(daemon.path())?;
        let mut make = daemon.command()?;
        make.args(["mkfs", "--size", size]).args(format);
        bounded::succeed(make.arg(daemon.pool()), LIMIT)?;
        daemon.mount()?;
        Ok(Some(daemon))
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// A directory beside the mount.
    pub fn beside(&self) -> &Path {
        self.directory.path()
    }

    fn pool(&self) -> PathBuf {
        self.directory.path().join("pool")
    }

    /// The command, which is built into a folder above the tests.
    fn command(&self) -> anyhow::Result<Command> {
        let test = std::env::current_exe()?;
        let program = test
            .ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("udax-under-test"))
            .find(|program| program.is_file())
            .context("udax-under-test is not built; 'cargo build -p udax-test-posix' does")?;
        Ok(Command::new(program))
    }

    /// Mounts the pool, which is not mounted.
    ///
    /// # Errors
    /// The daemon ends, or does not mount in time.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "it is mounted");
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.log())?;
        let mut command = self.command()?;
        command
            .args(["mount", "--foreground", "-o"])
            .arg(format!("rw,{}", self.options))
            .args([self.pool(), self.path()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = self.process.insert(command.spawn()?);
        let deadline = Instant::now() + LIMIT;
        while !is_mounted(&self.directory.path().join("mnt"))? {
            if let Some(status) = process.try_wait()? {
                self.process = None;
                bail!("the daemon has ended: {status}\n{}", self.told());
            }
            ensure!(Instant::now() < deadline, "not mounted after {LIMIT:?}");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Kills the daemon, and takes what is left of its mount away, in use or not.
    ///
    /// # Errors
    /// It does not die.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it is not mounted")?;
        process.kill()?;
        let status = bounded::wait(&mut process, LIMIT)?;
        ensure!(status.is_some(), "the daemon does not die");
        self.detach();
        Ok(())
    }

    /// Unmounts in the ordinary way and waits for the daemon's end.
    ///
    /// # Errors
    /// It is in use, or the daemon fails.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it is not mounted")?;
        let result = self.unmount_from(&mut process);
        if result.is_err() {
            // Nothing may stay.
            self.process = Some(process);
        }
        result
    }

    fn unmount_from(&self, process: &mut Child) -> anyhow::Result<()> {
        let mut command = self.command()?;
        bounded::succeed(command.arg("umount").arg(self.path()), 2 * LIMIT)?;
        let status = bounded::wait(process, LIMIT)?.context("the daemon does not end")?;
        ensure!(status.success(), "the daemon: {status}\n{}", self.told());
        Ok(())
    }

    /// Checks the pool, which is not mounted: metadata and data.
    ///
    /// # Errors
    /// What the check has found.
    pub fn check(&self) -> anyhow::Result<String> {
        ensure!(self.process.is_none(), "it is mounted");
        let mut command = self.command()?;
        command.args(["fsck", "-n", "--data"]).arg(self.pool());
        bounded::succeed(&mut command, CHECK_LIMIT)
    }

    /// Unmounts and checks; the daemon must have had nothing to complain about.
    ///
    /// # Errors
    /// Those of [`Daemon::unmount`] and [`Daemon::check`], and a line in the log.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.check()?;
        let told = self.told();
        ensure!(
            !told.contains("ERROR") && !told.contains("panic"),
            "the daemon says:\n{told}"
        );
        Ok(())
    }

    /// Bytes of memory that the daemon has of its own: neither its pool nor its program.
    ///
    /// # Errors
    /// It is not there.
    pub fn memory(&self) -> anyhow::Result<u64> {
        let process = self.process.as_ref().context("it is not mounted")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("no RssAnon")?.trim().parse()?;
        Ok(kib * 1024)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What the daemons of this pool have said.
    pub fn told(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn detach(&self) {
        let mut left = 4;
        while left > 0 && unmount(self.path(), UnmountFlags::FORCE | UnmountFlags::DETACH).is_ok() {
            left -= 1;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("{error:#}");
        }
        self.detach();
    }
}

/// Whether a pool is mounted on `directory`, without asking its daemon.
fn is_mounted(directory: &Path) -> anyhow::Result<bool> {
    let list = std::fs::read_to_string("/proc/self/mountinfo")?;
    let directory = directory.to_str().context("not text")?;
    Ok(list.lines().any(|line| line.split(' ').nth(4) == Some(directory)))
}
