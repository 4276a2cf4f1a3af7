//! Files through the public interface: content, sizes, holes, allocation modes, and what survives a remount.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;

use udax::{
    AllocateMode, Error, FileKind, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags, RenameMode,
};

const NEW: fn() -> NewInode = || NewInode::with_permissions(0o644);
const CREATE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE).union(OpenFlags::CREATE);

fn new_pool(directory: &Path, bytes: u64) -> std::path::PathBuf {
    let path = directory.join("test.pool");
    Filesystem::format(
        &path,
        &FormatOptions {
            size: Some(bytes),
            ..FormatOptions::default()
        },
    )
    .unwrap();
    path
}

fn pool_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

#[test]
fn content_survives_a_remount() {
    let dir = pool_dir();
    let path = new_pool(dir.path(), 32 << 20);
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    fs.create_dir("/d", NewInode::with_permissions(0o755)).unwrap();
    let file = fs.open_file("/d/f", CREATE, NEW()).unwrap();
    let content: Vec<u8> = (0..100_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    assert_eq!(file.write_at(&content, 5000).unwrap(), content.len());
    drop(file);
    fs.symlink(b"d/f", "/link", NEW()).unwrap();
    fs.close().unwrap();
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    assert!(fs.recovery().was_clean);
    let file = fs.open_file("/link", OpenFlags::READ, NEW()).unwrap();
    let mut back = vec![1; 105_000];
    assert_eq!(file.read_at(&mut back, 0).unwrap(), 105_000);
    assert!(back[..5000].iter().all(|byte| *byte == 0));
    assert_eq!(back[5000..], content);
    assert_eq!(file.seek_data(0).unwrap(), 4096);
    assert_eq!(file.seek_hole(5000).unwrap(), 105_000);
    assert!(matches!(file.seek_data(105_000), Err(Error::NoSuchRange)));
    assert_eq!(file.stat().unwrap().kind, FileKind::Regular);
}

#[test]
fn content_survives_without_a_close() {
    let dir = pool_dir();
    let path = new_pool(dir.path(), 32 << 20);
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    for number in 0..3000 {
        let file = fs.open_file(format!("/{number}"), CREATE, NEW()).unwrap();
        file.append(format!("content of {number}").as_bytes()).unwrap();
    }
    for number in (0..3000).step_by(3) {
        fs.unlink(format!("/{number}")).unwrap();
    }
    // The pool is copied as a killed process leaves it.
    let copy = dir.path().join("copy.pool");
    std::fs::copy(&path, &copy).unwrap();
    let fs2 = Filesystem::open(&copy, &MountOptions::default()).unwrap();
    assert!(!fs2.recovery().was_clean);
    for number in 0..3000 {
        let opened = fs2.open_file(format!("/{number}"), OpenFlags::READ, NEW());
        if number % 3 == 0 {
            assert!(matches!(opened, Err(Error::NotFound)));
        } else {
            let mut back = vec![0; 100];
            let count = opened.unwrap().read_at(&mut back, 0).unwrap();
            assert_eq!(back[..count], *format!("content of {number}").as_bytes());
        }
    }
}

#[test]
fn ranges_are_punched_zeroed_collapsed_and_inserted() {
    let dir = pool_dir();
    let path = new_pool(dir.path(), 32 << 20);
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    let file = fs.open_file("/f", CREATE, NEW()).unwrap();
    let mut model: Vec<u8> = (0..40_960_u32).map(|at| at.to_le_bytes()[1] | 1).collect();
    file.write_at(&model, 0).unwrap();
    let check = |model: &[u8]| {
        let mut back = vec![9; model.len() + 10];
        let count = file.read_at(&mut back, 0).unwrap();
        assert_eq!(count, model.len());
        assert!(back[..count] == *model);
    };
    file.allocate(AllocateMode::PunchHole, 5000, 10_000).unwrap();
    model[5000..15_000].fill(0);
    check(&model);
    file.allocate(AllocateMode::ZeroRange, 20_000, 9000).unwrap();
    model[20_000..29_000].fill(0);
    check(&model);
    file.allocate(AllocateMode::Collapse, 4096, 8192).unwrap();
    model.drain(4096..12_288);
    check(&model);
    file.allocate(AllocateMode::Insert, 8192, 4096).unwrap();
    model.splice(8192..8192, [0; 4096]);
    check(&model);
    file.allocate(AllocateMode::Allocate, 30_000, 20_000).unwrap();
    model.resize(50_000, 0);
    check(&model);
    file.write_at(b"in unwritten space", 45_000).unwrap();
    model[45_000..45_018].copy_from_slice(b"in unwritten space");
    check(&model);
    file.truncate(777).unwrap();
    file.truncate(9000).unwrap();
    model.truncate(777);
    model.resize(9000, 0);
    check(&model);
}

#[test]
fn an_unlinked_open_file_stays_until_closed() {
    let dir = pool_dir();
    let path = new_pool(dir.path(), 16 << 20);
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    let free = fs.stat_filesystem().free_blocks;
    let file = fs.open_file("/f", CREATE, NEW()).unwrap();
    file.append(&[7; 1 << 20]).unwrap();
    let other = fs.open_file("/g", CREATE, NEW()).unwrap();
    drop(other);
    fs.rename("/g", "/f", RenameMode::Replace).unwrap();
    assert_eq!(file.stat().unwrap().nlink, 0);
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, 12_345).unwrap(), 1);
    assert_eq!(byte, [7]);
    drop(file);
    fs.unlink("/f").unwrap();
    fs.sync().unwrap();
    // The root directory's node is free again, but inode chunks and their tree stay.
    let left = fs.stat_filesystem();
    assert_eq!(left.inodes, 1);
    assert!(free - left.free_blocks <= 4, "{free} {left:?}");
}

#[test]
fn the_time_of_a_lazy_overwrite_does_not_undo_that_of_a_later_link() {
    let dir = pool_dir();
    let path = new_pool(dir.path(), 32 << 20);
    let fs = Filesystem::open(&path, &MountOptions::default()).unwrap();
    let file = fs.open_file("/f", CREATE, NEW()).unwrap();
    file.write_at(&[1; 8192], 0).unwrap();
    file.write_at(&[2; 100], 0).unwrap();
    let overwritten = file.stat().unwrap().mtime;
    // The clock that stamps inodes ticks at least a hundred times a second: each name is another change.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut links = 0;
    while fs.stat("/").unwrap().ctime <= overwritten {
        assert!(std::time::Instant::now() < deadline, "the clock stands still");
        fs.link("/f", format!("/l{links}")).unwrap();
        links += 1;
    }
    let linked = fs.stat("/").unwrap().ctime;
    assert!(linked > overwritten);
    assert_eq!(file.stat().unwrap().ctime, linked);
    assert_eq!(file.stat().unwrap().mtime, overwritten);
    file.sync().unwrap();
    assert_eq!(file.stat().unwrap().ctime, linked);
    assert_eq!(file.stat().unwrap().mtime, overwritten);
}
