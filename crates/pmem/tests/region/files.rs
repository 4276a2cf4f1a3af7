//! Files: created, resized, grown, msynced, refused.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use nix::errno::Errno;
use udax_pmem::{Persistence, Region, RegionError, RegionOptions};

use super::smaps::dirty_kib;
use super::{backends, disk_directory, memory_directory, with_backend};

fn msync() -> RegionOptions {
    RegionOptions {
        msync: true,
        ..RegionOptions::default()
    }
}

#[test]
fn a_created_file_has_its_length_its_blocks_and_only_its_owner() {
    for directory in [memory_directory(), disk_directory()] {
        let path = directory.path().join("pool");
        let region = Region::create(&path, 1 << 20, RegionOptions::default()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((region.len(), metadata.len()), (1 << 20, 1 << 20));
        assert!(metadata.blocks() * 512 >= 1 << 20, "{} blocks", metadata.blocks());
        assert_eq!(metadata.permissions().mode() & 0o077, 0);
        assert_eq!(region.path(), Some(path.as_path()));
    }
}

#[test]
fn stores_are_in_the_file() {
    for directory in [memory_directory(), disk_directory()] {
        for backend in backends() {
            let path = directory.path().join("pool");
            let region = Region::create(&path, 10_000, with_backend(backend)).unwrap();
            region.store(9_990, b"0123456789").unwrap();
            region.store_nontemporal(100, &[3; 500]).unwrap();
            region.fence().unwrap();
            drop(region);
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 10_000);
            assert_eq!(&bytes[9_990..], b"0123456789");
            assert_eq!(&bytes[100..600], &[3; 500]);
            let region = Region::open(&path, with_backend(backend)).unwrap();
            assert!(region.compare(0, &bytes).unwrap());
        }
    }
}

#[test]
fn populating_gives_each_page_of_a_file_with_holes_a_block() {
    for directory in [memory_directory(), disk_directory()] {
        let path = directory.path().join("pool");
        fs::File::create(&path).unwrap().set_len((1 << 20) + 1).unwrap();
        let region = Region::open(&path, RegionOptions::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().blocks(), 0);
        region.populate().unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
        let blocks = fs::metadata(&path).unwrap().blocks();
        assert!(blocks * 512 > 1 << 20, "{blocks} blocks");
        assert!(region.compare(0, &[0; (1 << 20) + 1]).unwrap());
        drop(region);
        let options = RegionOptions {
            read_only: true,
            ..RegionOptions::default()
        };
        Region::open(&path, options).unwrap().populate().unwrap();
    }
}

#[test]
fn creating_over_a_file_resizes_it_and_keeps_its_bytes() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    fs::write(&path, [5; 10_000]).unwrap();
    let region = Region::create(&path, 6_000, RegionOptions::default()).unwrap();
    assert!(region.compare(0, &[5; 6_000]).unwrap());
    drop(region);
    let region = Region::create(&path, 8_000, RegionOptions::default()).unwrap();
    assert!(region.compare(0, &[5; 6_000]).unwrap());
    assert!(region.compare(6_000, &[0; 2_000]).unwrap());
}

#[test]
fn without_space_nothing_is_left_of_a_new_file_and_an_old_one_is_as_before() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let too_much = 1 << 50;
    let error = Region::create(&path, too_much, RegionOptions::default()).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC, "{error}");
    assert!(!path.exists());
    fs::write(&path, [5; 10_000]).unwrap();
    let error = Region::create(&path, too_much, RegionOptions::default()).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC, "{error}");
    assert_eq!(fs::read(&path).unwrap(), [5; 10_000]);
}

#[test]
fn an_ordinary_file_says_what_survives() {
    let disk = disk_directory();
    let memory = memory_directory();
    let plain = Region::create(&disk.path().join("plain"), 4096, RegionOptions::default()).unwrap();
    assert_eq!(plain.persistence(), Persistence::ProcessOnly);
    let synced = Region::create(&disk.path().join("synced"), 4096, msync()).unwrap();
    assert_eq!(synced.persistence(), Persistence::Msync);
    let memory = Region::create(&memory.path().join("memory"), 4096, msync()).unwrap();
    assert_eq!(
        memory.persistence(),
        Persistence::ProcessOnly,
        "msync does nothing on tmpfs"
    );
}

#[test]
fn a_fence_writes_back_what_was_flushed_and_nothing_else() {
    let directory = disk_directory();
    let path = directory.path().join("msync-fence-pool");
    let region = Region::create(&path, 1 << 20, msync()).unwrap();
    let name = "msync-fence-pool";
    region.store(0, &[1; 8]).unwrap();
    region.flush(0, 8).unwrap();
    region.store_nontemporal(64 << 10, &[2; 4096]).unwrap();
    region.zero_nontemporal(128 << 10, 100).unwrap();
    // Stored and not flushed: a fence owes it nothing.
    region.store(512 << 10, &[3; 8]).unwrap();
    assert!(dirty_kib(name) >= 16, "{} KiB dirty", dirty_kib(name));
    region.fence().unwrap();
    let left = dirty_kib(name);
    // The kernel may write the rest back by itself at any time.
    assert!(left <= 4, "{left} KiB dirty after the fence");
    let mut bytes = [0; 4096];
    fs::File::open(&path)
        .unwrap()
        .read_exact_at(&mut bytes, 64 << 10)
        .unwrap();
    assert_eq!(bytes, [2; 4096]);
}

#[test]
fn a_deep_flush_of_a_file_leaves_nothing_to_be_written() {
    let directory = disk_directory();
    let name = "deep-flush-pool";
    let region = Region::create(&directory.path().join(name), 1 << 20, msync()).unwrap();
    region.store(512 << 10, &[3; 8]).unwrap();
    assert!(dirty_kib(name) >= 4);
    region.deep_flush().unwrap();
    assert_eq!(dirty_kib(name), 0);
    // Nothing survives a power failure of these: nothing to do.
    Region::anonymous(4096, None).unwrap().deep_flush().unwrap();
}

#[test]
fn growing_keeps_the_bytes_and_adds_zeros() {
    for directory in [memory_directory(), disk_directory()] {
        for options in [RegionOptions::default(), msync()] {
            let path = directory.path().join("pool");
            let region = Region::create(&path, 5_000, options).unwrap();
            region.store(0, &[1; 5_000]).unwrap();
            region.grow(5_001).unwrap();
            region.grow(3 << 20).unwrap();
            region.grow(100).unwrap();
            assert_eq!(
                (region.len(), fs::metadata(&path).unwrap().len()),
                (3 << 20, 3 << 20)
            );
            assert!(region.compare(0, &[1; 5_000]).unwrap());
            assert!(region.compare(5_000, &vec![0; (3 << 20) - 5_000]).unwrap());
            region.store_nontemporal((3 << 20) - 64, &[9; 64]).unwrap();
            region.fence().unwrap();
            assert_eq!(&fs::read(&path).unwrap()[(3 << 20) - 64..], &[9; 64]);
            drop(region);
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn an_empty_file_can_be_opened_and_grown() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    fs::write(&path, []).unwrap();
    let region = Region::open(&path, RegionOptions::default()).unwrap();
    assert!(region.is_empty());
    region.grow(4096).unwrap();
    region.store(0, &[1; 4096]).unwrap();
}

#[test]
fn stores_into_a_private_region_stay_in_memory() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    fs::write(&path, [7; 8192]).unwrap();
    let private = || RegionOptions {
        private: true,
        ..RegionOptions::default()
    };
    let region = Region::open(&path, private()).unwrap();
    // Another reader may come, a writer may not.
    let other = Region::open(&path, private()).unwrap();
    let busy = Region::open(&path, RegionOptions::default()).unwrap_err();
    assert!(matches!(busy, RegionError::Busy { .. }), "{busy}");
    region.store(4090, &[9; 12]).unwrap();
    region.store_nontemporal(0, &[9; 64]).unwrap();
    region.fence().unwrap();
    let read = |region: &Region| {
        let mut bytes = [0; 8192];
        region.read(0, &mut bytes).unwrap();
        bytes
    };
    assert_eq!((read(&region)[0], read(&region)[4091]), (9, 9));
    assert_eq!(read(&other), [7; 8192]);
    assert_eq!(fs::read(&path).unwrap(), [7; 8192]);
    let error = region.grow(1 << 20).unwrap_err();
    assert!(matches!(error, RegionError::ReadOnly { .. }), "{error}");
    let error = Region::create(&path, 4096, private()).unwrap_err();
    assert!(matches!(error, RegionError::ReadOnly { .. }), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
}

#[test]
fn growing_beyond_the_reserved_addresses_is_refused_and_changes_nothing() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let options = RegionOptions {
        reserve: 4 << 20,
        ..RegionOptions::default()
    };
    let region = Region::create(&path, 4096, options).unwrap();
    assert_eq!(region.max_len(), 4 << 20);
    let error = region.grow((4 << 20) + 1).unwrap_err();
    assert!(
        matches!(
            error,
            RegionError::Unreserved {
                reserved: 0x40_0000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((region.len(), fs::metadata(&path).unwrap().len()), (4096, 4096));
    region.grow(4 << 20).unwrap();
}

#[test]
fn growing_without_space_is_refused_and_changes_nothing() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let options = RegionOptions {
        reserve: 1 << 44,
        ..RegionOptions::default()
    };
    let region = Region::create(&path, 4096, options).unwrap();
    assert_eq!(region.grow(1 << 43).unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!((region.len(), fs::metadata(&path).unwrap().len()), (4096, 4096));
    region.grow(8192).unwrap();
}

#[test]
fn growing_a_file_that_was_cut_short_is_refused() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, 8192, RegionOptions::default()).unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let error = region.grow(16_384).unwrap_err();
    assert!(
        matches!(
            error,
            RegionError::TooSmall {
                len: 4096,
                needed: 8192,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_is_neither_file_nor_dax_device_is_refused() {
    let directory = memory_directory();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let read_only = RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    };
    for path in [directory.path(), fifo.as_path(), "/dev/null".as_ref()] {
        for options in [RegionOptions::default(), read_only.clone()] {
            let error = Region::open(path, options).unwrap_err();
            assert!(
                matches!(error, RegionError::Io { .. }),
                "{}: {error}",
                path.display()
            );
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
    let missing = directory.path().join("missing");
    let error = Region::open(&missing, RegionOptions::default()).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOENT);
    assert!(!missing.exists());
}
