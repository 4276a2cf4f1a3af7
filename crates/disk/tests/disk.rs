//! Disks over files and over memory: any bytes, in any alignment; what is durable; what fails.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use udax_disk::{Access, BlockMedium, Buffer, Disk, DiskError, Medium, MemoryMedium, Write};

const MIB: u64 = 1 << 20;

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

/// Random reads and writes, alone and several together, against a vector.
fn agree(disk: &Disk, seed: u64) {
    let len = disk.len();
    let mut model = vec![0; place(len)];
    let mut random = SmallRng::seed_from_u64(seed);
    for step in 0..300 {
        let at = random.random_range(0..len);
        let most = [600, 20_000, 3 << 20][random.random_range(0..3)];
        let count = random.random_range(1..=most).min(len - at);
        let (from, to) = (place(at), place(at + count));
        match random.random_range(0..3) {
            0 => {
                let mut bytes = vec![0; place(count)];
                random.fill_bytes(&mut bytes);
                disk.write(at, &bytes).unwrap();
                model[from..to].copy_from_slice(&bytes);
            }
            1 => {
                // Aligned memory at aligned places goes without a copy: two pieces at once.
                let at = at / 4096 * 4096;
                let count = (count / 8192 * 4096).min((len - at) / 8192 * 4096);
                let mut bytes = Buffer::zeroed(place(2 * count));
                random.fill_bytes(bytes.bytes_mut());
                let (one, other) = bytes.bytes()[..place(2 * count)].split_at(place(count));
                disk.write_all(&[
                    Write {
                        at: at + count,
                        bytes: other,
                    },
                    Write { at, bytes: one },
                ])
                .unwrap();
                model[place(at)..place(at + 2 * count)].copy_from_slice(&bytes.bytes()[..place(2 * count)]);
            }
            _ => {
                let mut bytes = vec![1; place(count)];
                disk.read(at, &mut bytes).unwrap();
                assert!(bytes == model[from..to], "seed {seed}, step {step}");
            }
        }
    }
    let mut all = vec![1; place(len)];
    disk.read(0, &mut all).unwrap();
    assert!(all == model, "seed {seed}");
}

fn file(directory: &std::path::Path, len: u64) -> std::path::PathBuf {
    let path = directory.join("device");
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

#[test]
fn any_bytes_of_a_file_are_read_and_written() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = file(directory.path(), 16 * MIB + 5);
    let disk = Disk::new(Arc::new(BlockMedium::open(&path, Access::Write).unwrap()));
    assert_eq!(disk.len(), 16 * MIB, "whole blocks only");
    agree(&disk, 1);
    disk.flush().unwrap();
    assert!(matches!(
        disk.read(16 * MIB, &mut [0]),
        Err(DiskError::Outside { .. })
    ));
    assert!(matches!(
        disk.write(u64::MAX, &[0]),
        Err(DiskError::Outside { .. })
    ));
}

#[test]
fn a_file_in_memory_is_a_disk_too() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = file(directory.path(), 8 * MIB);
    agree(
        &Disk::new(Arc::new(BlockMedium::open(&path, Access::Write).unwrap())),
        2,
    );
}

#[test]
fn any_bytes_of_memory_are_read_and_written() {
    agree(&Disk::new(Arc::new(MemoryMedium::new(8 * MIB))), 3);
}

#[test]
fn an_overlay_keeps_what_is_written_to_itself() {
    let below = Arc::new(MemoryMedium::new(8 * MIB));
    agree(&Disk::new(below.clone()).overlaid(), 4);
    let mut bytes = vec![1; place(8 * MIB)];
    Disk::new(below).read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn who_has_a_device_has_it_alone() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = file(directory.path(), MIB);
    let first = BlockMedium::open(&path, Access::Write).unwrap();
    for access in [Access::Read, Access::Write] {
        let second = BlockMedium::open(&path, access);
        assert!(matches!(second, Err(DiskError::Busy { .. })), "{second:?}");
    }
    drop(first);
    let reader = BlockMedium::open(&path, Access::Read).unwrap();
    let other = BlockMedium::open(&path, Access::Read).unwrap();
    assert_eq!(reader.len(), other.len());
    let error = Disk::new(Arc::new(reader)).write(0, &[1]).unwrap_err();
    assert_eq!(error.errno(), nix::errno::Errno::EIO);
}

#[test]
fn a_lock_that_is_given_up_is_waited_for() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = file(directory.path(), MIB);
    let first = BlockMedium::open(&path, Access::Write).unwrap();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
    });
    BlockMedium::open(&path, Access::Write).unwrap();
    holder.join().unwrap();
}

#[test]
fn what_is_no_device_is_refused() {
    for path in ["/dev/null", "/", "/dev/shm/udax-there-is-no-such-file"] {
        let opened = BlockMedium::open(path.as_ref(), Access::Write);
        assert!(
            matches!(opened, Err(DiskError::Open { .. })),
            "{path}: {opened:?}"
        );
    }
}

#[test]
fn what_was_flushed_survives_and_what_was_not_may() {
    let medium = Arc::new(MemoryMedium::new(MIB));
    let disk = Disk::new(medium.clone());
    disk.write(0, &[1; 8192]).unwrap();
    disk.flush().unwrap();
    disk.write(4096, &[2; 8192]).unwrap();
    let read = |medium: MemoryMedium| {
        let mut bytes = [0; 12288];
        Disk::new(Arc::new(medium)).read(0, &mut bytes).unwrap();
        bytes
    };
    let none = read(medium.after_power_failure(|_| false));
    assert!(none[..8192] == [1; 8192] && none[8192..] == [0; 4096]);
    let all = read(medium.after_power_failure(|_| true));
    assert!(all[..4096] == [1; 4096] && all[4096..] == [2; 8192]);
    let some = read(medium.after_power_failure(|sector| sector == 8));
    assert!(some[4096..4608] == [2; 512] && some[4608..8192] == [1; 3584]);
}

#[test]
fn a_flush_that_failed_is_counted_and_done_again() {
    let medium = Arc::new(MemoryMedium::new(MIB));
    let disk = Disk::new(medium.clone());
    disk.write(0, &[1; 4096]).unwrap();
    medium.fail_flushes(1);
    assert!(disk.flush().is_err());
    assert_eq!(disk.failures(), 1);
    disk.flush().unwrap();
    medium.fail_flushes(1);
    disk.flush().unwrap();
    assert_eq!(disk.failures(), 1, "nothing was written, so nothing was flushed");
}
