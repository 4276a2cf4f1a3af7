//! stress-ng's filesystem stressors on the mount.
//!
//! Left out: `bind-mount`, `binderfs`, `eventfd`, `ioprio` and `procfs`, which use no file of the mount; `chattr`,
//! `fiemap` and `verity`, which skip themselves on FUSE (docs/posix.md); `io`, which is `sync` in a loop and stops
//! everything else on the machine; `fanotify`, which watches all mounts of the machine, those of others too;
//! `io-uring`, whose `statx` fails on any filesystem where `--temp-path` is absolute (version 0.15.06).

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use udax_test_posix::bounded;

/// With what is to be said besides the name: sizes, so that several fit into a pool.
const STRESSORS: [(&str, &str); 47] = [
    ("access", ""),
    ("aio", ""),
    ("aiol", ""),
    ("chdir", ""),
    ("chmod", ""),
    ("chown", ""),
    ("copy-file", "128M"),
    ("dentry", ""),
    ("dir", ""),
    ("dirdeep", ""),
    ("dirmany", ""),
    ("dnotify", ""),
    ("dup", ""),
    ("fallocate", "64M"),
    ("fcntl", ""),
    ("file-ioctl", ""),
    ("filename", ""),
    ("flock", ""),
    ("fpunch", ""),
    ("fsize", ""),
    ("fstat", ""),
    ("getdent", ""),
    ("handle", ""),
    ("hdd", "64M"),
    ("inode-flags", ""),
    ("inotify", ""),
    ("iomix", "64M"),
    ("lease", ""),
    ("link", ""),
    ("locka", ""),
    ("lockf", ""),
    ("lockofd", ""),
    ("mknod", ""),
    ("open", ""),
    ("readahead", "64M"),
    ("rename", ""),
    ("revio", "64M"),
    ("seek", ""),
    ("sendfile", ""),
    ("splice", ""),
    ("symlink", ""),
    ("sync-file", "64M"),
    ("touch", ""),
    ("utime", ""),
    ("xattr", ""),
    ("mmap", "32M"),
    ("msync", "16M"),
];
/// Those that map files: `mmap` maps memory without being told.
const MAPPED: &str = "--mmap-file";
/// How much longer than it was told stress-ng may take.
const GRACE: Duration = Duration::from_secs(60);

/// stress-ng at work.
#[derive(Debug)]
pub(crate) struct Stress {
    child: Child,
    log: tempfile::NamedTempFile,
    /// Some stressors leave files where they work, whatever `--temp-path` says.
    _work: tempfile::TempDir,
    pub(crate) names: String,
    time: Duration,
}

impl Stress {
    /// Starts `count` stressors for `time` in `directory`.
    ///
    /// # Errors
    /// There is no stress-ng.
    pub(crate) fn start(
        directory: &Path,
        choices: &mut SmallRng,
        count: usize,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let chosen: Vec<_> = STRESSORS.choose_multiple(choices, count).collect();
        let mut command = Command::new("stress-ng");
        for (name, bytes) in &chosen {
            command.args([&format!("--{name}"), "1"]);
            if !bytes.is_empty() {
                command.args([&format!("--{name}-bytes"), *bytes]);
            }
        }
        command
            .arg("--temp-path")
            .arg(directory)
            .args([MAPPED, "--verify", "--oomable", "--timeout"])
            .arg(format!("{}s", time.as_secs()));
        let log = tempfile::NamedTempFile::new()?;
        let work = tempfile::tempdir()?;
        command.current_dir(work.path());
        let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
        Ok(Self {
            child: bounded::start(&mut command, &File::options().append(true).open(log.path())?)?,
            log,
            _work: work,
            names: names.join(" "),
            time,
        })
    }

    /// Waits until they have had their time; they must have found nothing wrong.
    ///
    /// # Errors
    /// What they found, or that they hang.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let status = bounded::wait(&mut self.child, self.time + GRACE)?
            .with_context(|| format!("hung: {}\n{}", self.names, self.told()))?;
        ensure!(status.success(), "{}: {status}\n{}", self.names, self.told());
        self.must_be_content()
    }

    /// What they have found so far, while the mount is there, must be nothing.
    ///
    /// # Errors
    /// It is something.
    pub(crate) fn must_be_content(&self) -> anyhow::Result<()> {
        let told = self.told();
        ensure!(!told.contains("fail:"), "{}:\n{told}", self.names);
        Ok(())
    }

    /// Ends them, whatever they do.
    ///
    /// # Errors
    /// They do not end: something hangs.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let is_gone = bounded::end(&mut self.child)?;
        ensure!(is_gone, "{} cannot be killed", self.names);
        Ok(())
    }

    fn told(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }
}
