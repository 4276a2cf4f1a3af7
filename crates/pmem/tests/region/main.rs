//! Behaviour of regions through the public API, with every backend there is.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod bounds;
mod copies;
mod devices;
mod files;
mod locks;
mod media;
mod poison;
mod recorder;
mod signals;
#[path = "../smaps/mod.rs"]
mod smaps;
mod threads;
mod told;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use udax_pmem::{Backend, RegionOptions};

/// The backends of this build.
fn backends() -> Vec<Backend> {
    vec![
        Backend::Native,
        #[cfg(feature = "libpmem")]
        Backend::Libpmem,
    ]
}

fn with_backend(backend: Backend) -> RegionOptions {
    RegionOptions {
        backend,
        ..RegionOptions::default()
    }
}

/// A directory in memory; on other disks tests of files would measure the disk.
fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// A directory of the filesystem that holds the build: not a memory filesystem on any machine that builds us.
fn disk_directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Does `work` in four threads, numbered from 0. Each is joined: the thread sanitizer sees that, but not a scope's end.
fn in_four_threads(work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let threads = [0, 1, 2, 3].map(|number| scope.spawn(move || work(number)));
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// This program again, to run one test that is ignored otherwise, in a process of its own. `path` is what it works on.
fn child(test: &str, path: PathBuf) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env("UDAX_PMEM_CHILD", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// In a child: the path to work on.
fn child_path() -> PathBuf {
    std::env::var_os("UDAX_PMEM_CHILD")
        .expect("run by its parent test")
        .into()
}
