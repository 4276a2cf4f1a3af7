//! A pool in memory to test with, and the independent check of what it holds.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use udax::{DirEntry, File, FileKind, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};
use udax_check::{CheckOptions, Report, Silent};
use udax_pmem::{Region, RegionOptions};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const READ_WRITE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
pub(crate) const CREATE: OpenFlags = READ_WRITE.union(OpenFlags::CREATE);

/// A formatted pool in a directory of its own, removed with it.
pub(crate) struct TestPool {
    directory: TempDir,
    pub(crate) path: PathBuf,
}

impl TestPool {
    pub(crate) fn new(bytes: u64) -> Self {
        Self::make(bytes, false)
    }

    /// One with checksums of data, for all files.
    pub(crate) fn with_checksums(bytes: u64) -> Self {
        Self::make(bytes, true)
    }

    fn make(bytes: u64, data_checksums: bool) -> Self {
        Self::formatted(&FormatOptions {
            size: Some(bytes),
            data_checksums,
            ..FormatOptions::default()
        })
    }

    pub(crate) fn formatted(options: &FormatOptions) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("test.pool");
        Filesystem::format(&path, options).unwrap();
        Self { directory, path }
    }

    /// Another pool with the same bytes.
    pub(crate) fn copy_of(other: &Self) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = directory.path().join("test.pool");
        std::fs::copy(&other.path, &path).unwrap();
        Self { directory, path }
    }

    pub(crate) fn open(&self) -> Filesystem {
        Filesystem::open(&self.path, &MountOptions::default()).unwrap()
    }

    /// Another file beside the pool.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The pool as a process that is killed now would leave it.
    pub(crate) fn crash_copy(&self, name: &str) -> PathBuf {
        let copy = self.beside(name);
        std::fs::copy(&self.path, &copy).unwrap();
        copy
    }

    /// Checks the pool as it is now, open or not, without changing it.
    #[track_caller]
    pub(crate) fn check(&self) -> Report {
        let copy = self.crash_copy("checked.pool");
        check(&copy)
    }
}

/// Checks a pool that is not open, without changing it: there must be no problem.
#[track_caller]
pub(crate) fn check(path: &Path) -> Report {
    let report = report(path);
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    report
}

/// What the check says of a pool that is not open.
#[track_caller]
pub(crate) fn report(path: &Path) -> Report {
    let options = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    let region = Region::open(path, options).unwrap();
    udax_check::check(&region, &CheckOptions::default(), &Silent).unwrap()
}

/// What a new file or directory gets.
pub(crate) fn new_inode() -> NewInode {
    NewInode::with_permissions(0o755)
}

/// Makes or opens a file for reading and writing.
#[track_caller]
pub(crate) fn open(fs: &Filesystem, path: &str) -> File {
    fs.open_file(path, CREATE, new_inode()).unwrap()
}

/// Every byte of a file.
pub(crate) fn content(file: &File) -> Vec<u8> {
    let size = file.stat().unwrap().size;
    let mut bytes = vec![1; usize::try_from(size).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// All entries of a directory but `.` and `..`.
pub(crate) fn entries(fs: &Filesystem, path: &str) -> udax::Result<Vec<DirEntry>> {
    let mut all = Vec::new();
    let mut cookie = 0;
    loop {
        let batch = fs.read_dir(path, cookie, 1000)?;
        let Some(last) = batch.last() else { return Ok(all) };
        cookie = last.cookie;
        all.extend(
            batch
                .into_iter()
                .filter(|entry| entry.name != b"." && entry.name != b".."),
        );
    }
}

/// Removes everything below the directory `path` (`""` for the root).
pub(crate) fn remove_all(fs: &Filesystem, path: &str) {
    let listed = if path.is_empty() { "/" } else { path };
    for entry in entries(fs, listed).unwrap() {
        let name = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
        if entry.kind == FileKind::Directory {
            remove_all(fs, &name);
            fs.remove_dir(&name).unwrap();
        } else {
            fs.unlink(&name).unwrap();
        }
    }
}
