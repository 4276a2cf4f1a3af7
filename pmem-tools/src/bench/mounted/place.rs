//! A directory with a filesystem mounted on it, for as long as the value lives.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use udax_fuse::{Lazy, Mounted, unmount_directory};
use udax_sync::thread;

/// Bytes of the filesystems.
const BYTES: u64 = 512 << 20;
/// How long a mount may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const PAUSE: Duration = Duration::from_millis(5);

/// Who sees to it that what is done is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Syncs {
    /// Whoever does it, by fsync(2).
    Caller,
    /// The filesystem, by the mount option `sync`.
    Mount,
}

impl Syncs {
    fn option(self) -> &'static str {
        match self {
            Self::Caller => "rw",
            Self::Mount => "sync",
        }
    }

    fn name(self, name: &str) -> String {
        match self {
            Self::Caller => name.to_owned(),
            Self::Mount => format!("{name}-sync"),
        }
    }
}

/// A mounted filesystem.
#[derive(Debug)]
pub(super) struct Place {
    name: &'static str,
    directory: PathBuf,
    /// The process that serves it, if it is a child.
    server: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A mount in use goes with its last user: those are ours, and end.
        if unmount_directory(&self.directory, Lazy::No).is_err() {
            let _ = unmount_directory(&self.directory, Lazy::Yes);
        }
        if let Some(server) = &mut self.server {
            let _ = server.wait();
        }
    }
}

impl Place {
    /// A new pool in `parent`, mounted by this program.
    pub(super) fn udax(parent: &Path, syncs: Syncs) -> Result<Self> {
        let pool = parent.join(syncs.name("pool"));
        super::super::format_sized(&pool, BYTES)?.close()?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let directory = parent.join(syncs.name("udax"));
        let mut command = Command::new(program);
        // As the pool of a persistent memory: without first touches of its pages.
        command.args([
            "mount",
            "--foreground",
            "-o",
            "populate",
            "-o",
            syncs.option(),
            "--",
        ]);
        command.args([pool.as_path(), directory.as_path()]);
        Self::serve("udax", directory, &mut command)
    }

    /// A directory of `parent` on another one, by bindfs.
    pub(super) fn bindfs(parent: &Path) -> Result<Self> {
        let source = parent.join("bindfs-source");
        std::fs::create_dir(&source)?;
        let directory = parent.join("bindfs");
        let mut command = Command::new("bindfs");
        command.args([OsStr::new("-f"), source.as_os_str(), directory.as_os_str()]);
        Self::serve("bindfs over tmpfs", directory, &mut command)
            .context("bindfs (of the package bindfs) does not run")
    }

    /// A new ext4 on a loop device over a file in `parent`.
    pub(super) fn ext4(parent: &Path, syncs: Syncs) -> Result<Self> {
        let image = parent.join(syncs.name("ext4-image"));
        std::fs::File::create_new(&image)?.set_len(BYTES)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let directory = parent.join(syncs.name("ext4"));
        std::fs::create_dir(&directory)?;
        run(Command::new("mount")
            .args(["-o", "loop", "-o", syncs.option()])
            .args([&image, &directory]))?;
        Ok(Self {
            name: match syncs {
                Syncs::Caller => "ext4, loop",
                Syncs::Mount => "ext4 -o sync, loop",
            },
            directory,
            server: None,
        })
    }

    /// Runs `command`, which mounts something on `directory`, and waits until it has.
    fn serve(name: &'static str, directory: PathBuf, command: &mut Command) -> Result<Self> {
        std::fs::create_dir(&directory)?;
        let directory = directory.canonicalize()?;
        let server = command.stdout(Stdio::null()).spawn();
        let mut place = Self {
            name,
            directory,
            server: Some(server.with_context(|| format!("{name}: cannot start"))?),
        };
        let begin = Instant::now();
        while Mounted::find(&place.directory)?.is_none() {
            if let Some(server) = &mut place.server
                && let Some(status) = server.try_wait()?
            {
                bail!("{name}: ended before it mounted: {status}");
            }
            if begin.elapsed() > PATIENCE {
                if let Some(server) = &mut place.server {
                    server.kill()?;
                }
                bail!("{name}: not mounted after {} s", PATIENCE.as_secs());
            }
            thread::sleep(PAUSE);
        }
        Ok(place)
    }

    /// What it is.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Runs a program to its end.
///
/// # Errors
/// There is none, or it fails.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ran = command.stdin(Stdio::null()).output();
    let ran = ran.with_context(|| format!("{program}: cannot run"))?;
    if !ran.status.success() {
        let told = String::from_utf8_lossy(&ran.stderr).trim().replace('\n', " ");
        bail!("{program}: {}: {told}", ran.status);
    }
    Ok(())
}
