//! A pool that is mounted for one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use udax::{DataSource, Filesystem, FormatOptions, MountOptions};
use udax_fuse::{Invalidator, Meters, Mount, Options, Stopper};
use udax_sync::thread::{self, JoinHandle};

/// After this a test is taken for hung: its mount is taken away, which ends all that waits for it.
const TIME_LIMIT: Duration = Duration::from_secs(100);

/// How long an answered request may take to be counted.
const COUNT_LIMIT: Duration = Duration::from_secs(20);

/// A mount, its pool and the thread that serves it.
pub(super) struct Place {
    directory: tempfile::TempDir,
    stopper: Stopper,
    invalidator: Invalidator,
    meters: Meters,
    server: Option<JoinHandle<()>>,
    filesystem: Option<Filesystem>,
    watched: std::sync::mpsc::Sender<()>,
}

/// Whether mounts can be made here; tells when not.
pub(super) fn can_mount() -> bool {
    let has_device = Path::new("/dev/fuse").exists();
    let is_root = rustix::process::geteuid().is_root();
    if !has_device || !is_root {
        eprintln!("skipped: needs /dev/fuse ({has_device}) and root ({is_root})");
    }
    has_device && is_root
}

impl Place {
    /// Mounts a new pool of 64 MiB.
    pub(super) fn new() -> Option<Self> {
        Self::with_options("", 64 << 20)
    }

    /// As `new`, with mount options and a size.
    pub(super) fn with_options(options: &str, bytes: u64) -> Option<Self> {
        Self::with_device(options, bytes, None)
    }

    /// As `with_options`, with a data device.
    pub(super) fn with_device(options: &str, bytes: u64, data: Option<DataSource>) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let format = FormatOptions {
            size: Some(bytes),
            data: data.clone(),
            ..FormatOptions::default()
        };
        Filesystem::format(&directory.path().join("pool"), &format).unwrap();
        // Users other than root have to get through.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        Some(Self::serve(directory, options, data))
    }

    fn serve(directory: tempfile::TempDir, options: &str, data: Option<DataSource>) -> Self {
        let options = Options::parse([options]).unwrap();
        let pool = directory.path().join("pool");
        let mount_options = MountOptions {
            read_only: options.read_only,
            no_atime: options.no_atime,
            no_directory_atime: options.no_directory_atime,
            dax: options.dax,
            cache_bytes: options.cache_bytes,
            data,
            ..MountOptions::default()
        };
        let filesystem = Filesystem::open(&pool, &mount_options).unwrap();
        let mount = Mount::new(
            filesystem.clone(),
            &directory.path().join("mnt"),
            "pool",
            &options,
        )
        .unwrap();
        let (stopper, meters, invalidator) = (mount.stopper(), mount.meters(), mount.invalidator());
        let server = thread::spawn(move || mount.start().unwrap().wait().unwrap());
        let (watched, watch) = std::sync::mpsc::channel();
        let watchdog = stopper.clone();
        thread::spawn(move || {
            if watch.recv_timeout(TIME_LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the test is hung: its mount is taken away");
                let _ = watchdog.stop();
            }
        });
        Self {
            directory,
            stopper,
            invalidator,
            meters,
            server: Some(server),
            filesystem: Some(filesystem),
            watched,
        }
    }

    /// A path on the mount.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join("mnt").join(name)
    }

    /// Waits until there have been so many requests of a kind, in the protocol's words, and no more: one is counted
    /// after it is answered.
    pub(super) fn wait_for_requests(&self, operation: &str, wanted: u64) {
        let begin = Instant::now();
        let mut counted = 0;
        while begin.elapsed() < COUNT_LIMIT {
            let readings = self.meters.read();
            let readings = readings.iter().filter(|reading| reading.operation == operation);
            counted = readings
                .map(|reading| reading.times.iter().map(|(_, count)| count).sum::<u64>())
                .sum();
            if counted >= wanted {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(counted, wanted, "requests: {operation}");
    }

    /// The pool behind the mount.
    pub(super) fn filesystem(&self) -> &Filesystem {
        self.filesystem.as_ref().unwrap()
    }

    /// Has the kernel forget what it has cached of a file and was written.
    pub(super) fn drop_kernel_cache(&self, name: &str) {
        let file = std::fs::File::open(self.path(name)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    /// What tells the kernel of changes beside the mount.
    pub(super) fn invalidator(&self) -> &Invalidator {
        &self.invalidator
    }

    /// Unmounts, checks the pool, and mounts it again.
    pub(super) fn remount(mut self, options: &str) -> Self {
        self.stop();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        Self::serve(directory, options, None)
    }

    /// Runs a shell's command on the mount as user and group 1000; gives whether it succeeded.
    pub(super) fn as_user(&self, script: &str) -> bool {
        self.as_ids((1000, 1000), script)
    }

    /// As `as_user`, with another user and group.
    pub(super) fn as_ids(&self, ids: (u32, u32), script: &str) -> bool {
        run(&self.path(""), ids, script)
    }

    /// As `as_user`, in the directory that has `mnt` in it.
    pub(super) fn outside_as_user(&self, script: &str) -> bool {
        run(self.directory.path(), (1000, 1000), script)
    }

    /// Unmounts and closes the pool, which must be sound.
    fn stop(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let _ = self.watched.send(());
        let stopped = self.stopper.stop();
        let served = server.join();
        if thread::panicking() {
            return;
        }
        stopped.unwrap();
        served.unwrap();
        self.filesystem.take().unwrap().close().unwrap();
    }
}

fn run(directory: &Path, (uid, gid): (u32, u32), script: &str) -> bool {
    use std::os::unix::process::CommandExt as _;
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    eprintln!("{script}: {output:?}");
    output.status.success()
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop();
    }
}
