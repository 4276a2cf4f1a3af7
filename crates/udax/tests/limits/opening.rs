//! How a pool is opened: privately, with room to grow, and with bytes missing.

use udax::{Error, Filesystem, MountOptions, NewInode};

use crate::pool::{MIB, TestPool};

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
