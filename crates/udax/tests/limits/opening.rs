//! How a pool is opened: privately, with room to grow, and with bytes missing.

use std::os::unix::fs::FileExt as _;

use udax::{Error, Filesystem, FormatOptions, MountOptions, NewInode, OpenFlags};
use udax_pmem::{Region, RegionOptions};

use crate::pool::{MIB, TestPool};
use crate::smaps::dirty_kib;

#[test]
fn a_private_pool_shows_what_recovery_would_make_and_changes_nothing() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("a", NewInode::with_permissions(0o755)).unwrap();
    let crashed = pool.crash_copy("crashed.pool");
    fs.close().unwrap();
    let before = std::fs::read(&crashed).unwrap();
    let private = MountOptions {
        private: true,
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&crashed, &private).unwrap();
    assert!(!fs.recovery().was_clean);
    assert!(fs.stat("a").is_ok());
    // Others may look too, and what is changed here is for nobody else to see.
    fs.create_dir("b", NewInode::with_permissions(0o755)).unwrap();
    fs.unlink("a").unwrap_err();
    let other = Filesystem::open(&crashed, &private).unwrap();
    assert!(other.stat("a").is_ok() && other.stat("b").is_err());
    fs.sync().unwrap();
    assert!(fs.grow(32 * MIB).is_err());
    fs.close().unwrap();
    other.close().unwrap();
    assert!(std::fs::read(&crashed).unwrap() == before);
}

#[test]
fn a_pool_grows_within_what_was_reserved() {
    let pool = TestPool::new(16 * MIB);
    let (default, more) = (1 << 36, 1 << 37);
    let grow = |reserve: u64, bytes: u64| {
        let options = MountOptions {
            reserve,
            ..MountOptions::default()
        };
        let fs = Filesystem::open(&pool.path, &options).unwrap();
        let error = fs.grow(bytes).unwrap_err();
        fs.close().unwrap();
        error.to_string()
    };
    assert!(grow(0, default + MIB).contains("room for 68719476736 bytes"));
    assert!(grow(more, more + MIB).contains("room for 137438953472 bytes"));
}

#[test]
fn a_pool_cut_short_or_too_small_is_told_as_such() {
    let pool = TestPool::new(16 * MIB);
    let file = std::fs::OpenOptions::new().write(true).open(&pool.path).unwrap();
    for (len, expected) in [
        (
            15 * MIB,
            "the pool has 16777216 bytes, but only 15728640 of them are there",
        ),
        (
            8192,
            "the pool has 16777216 bytes, but only 8192 of them are there",
        ),
        (100, "100 bytes are too few for a pool"),
        (0, "0 bytes are too few for a pool"),
    ] {
        file.set_len(len).unwrap();
        let error = Filesystem::open(&pool.path, &MountOptions::default()).unwrap_err();
        assert!(matches!(error, Error::NotPool(_)), "{error:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn a_deep_sync_and_a_close_leave_nothing_to_be_written_that_a_sync_leaves() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let name = "deep-sync.pool";
    let path = directory.path().join(name);
    let format = FormatOptions {
        size: Some(16 * MIB),
        msync: true,
        ..FormatOptions::default()
    };
    Filesystem::format(&path, &format).unwrap();
    let options = MountOptions {
        msync: true,
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&path, &options).unwrap();
    let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE;
    let file = fs
        .open_file("a", flags, NewInode::with_permissions(0o644))
        .unwrap();
    let marker = [0xA7; 4096];
    file.write_at(&marker, 0).unwrap();
    // What no fence of the pool owes: a page that somebody else has changed.
    let bytes = std::fs::read(&path).unwrap();
    let place = bytes.chunks(4096).position(|page| page == marker).unwrap();
    let beside = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let make_dirty = || {
        beside
            .write_all_at(&marker, u64::try_from(place).unwrap() * 4096)
            .unwrap();
        file.read_at(&mut [0; 4096], 0).unwrap();
    };
    make_dirty();
    fs.sync().unwrap();
    assert!(dirty_kib(name) >= 4, "the page is not seen");
    fs.deep_sync().unwrap();
    assert_eq!(dirty_kib(name), 0);

    // The kernel's mark of the page stays when the mapping is gone.
    let dirty_after = |close: &dyn Fn()| {
        close();
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        let region = Region::open(&path, options).unwrap();
        region
            .read(u64::try_from(place).unwrap() * 4096, &mut [0; 4096])
            .unwrap();
        dirty_kib(name)
    };
    make_dirty();
    drop(file);
    let fs = std::cell::Cell::new(Some(fs));
    assert_eq!(dirty_after(&|| fs.take().unwrap().close().unwrap()), 0);
    let kept = dirty_after(&|| {
        beside
            .write_all_at(&marker, u64::try_from(place).unwrap() * 4096)
            .unwrap();
    });
    assert!(kept >= 4, "the page is not seen when the pool is closed");
}
