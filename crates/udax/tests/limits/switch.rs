//! Switching files between memory access and the page cache, in use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Access, Dax, DaxMode, File, Filesystem, Mode, MountOptions, Request};

use crate::cached::{bytes, quiet};
use crate::pool::{MIB, TestPool, check, content, open};

const PAGE: u64 = 4096;

#[test]
fn a_file_has_the_same_bytes_whichever_way_it_is_reached() {
    let pool = TestPool::new(32 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    let file = open(&fs, "/f");
    let mut model = vec![0; 40 * 4096];
    let mut random = SmallRng::seed_from_u64(3);
    for step in 0..60 {
        let at = random.random_range(0..39 * 4096);
        let data = bytes(random.random_range(1..4096), step);
        let data = &data[..data.len().min(model.len() - at)];
        if file.is_dax() && step % 3 == 0 {
            let at = u64::try_from(at).unwrap();
            let len = u64::try_from(data.len()).unwrap();
            file.truncate(40 * PAGE).unwrap();
            let pin = file.pin(at, len, Request::new(Access::Write)).unwrap();
            pin.write(at % PAGE, data).unwrap();
        } else {
            file.truncate(40 * PAGE).unwrap();
            file.write_at(data, u64::try_from(at).unwrap()).unwrap();
        }
        model[at..at + data.len()].copy_from_slice(data);
        if step % 2 == 0 {
            let dax = if file.is_dax() { Dax::Off } else { Dax::On };
            file.set_dax(dax).unwrap();
            assert_eq!(file.is_dax(), dax == Dax::On);
        }
        assert!(content(&file) == model, "step {step}");
    }
    drop(file);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_switch_to_the_cache_waits_for_pins_as_it_is_told() {
    let pool = TestPool::new(16 * MIB);
    let fs = Filesystem::open(&pool.path, &quiet(DaxMode::Inode)).unwrap();
    let file = open(&fs, "/f");
    file.write_at(&bytes(PAGE, 1), 0).unwrap();
    file.set_dax(Dax::On).unwrap();
    let pin = file.pin(0, PAGE, Request::new(Access::Write)).unwrap();
    let refused = file.waiting(Mode::NoWait).set_dax(Dax::Off).unwrap_err();
    assert_eq!(refused.errno(), Errno::EAGAIN);
    let soon = Instant::now() + Duration::from_millis(20);
    let late = file.waiting(Mode::deadline(soon)).set_dax(Dax::Off).unwrap_err();
    assert_eq!(late.errno(), Errno::ETIMEDOUT);
    assert!(
        file.is_dax() && file.stat().unwrap().dax == Dax::On,
        "nothing has changed"
    );
    std::thread::scope(|scope| {
        let switch = scope.spawn(|| file.set_dax(Dax::Off));
        while !switch.is_finished() && fs.pins().is_empty() {
            std::thread::yield_now();
        }
        pin.write(0, &[9; 4096]).unwrap();
        drop(pin);
        switch.join().unwrap().unwrap();
    });
    assert!(!file.is_dax());
    assert_eq!(
        content(&file),
        [9; 4096],
        "what was stored through the pin is in the pool"
    );
}

#[test]
fn a_mount_without_a_choice_keeps_the_flag_for_later() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.set_dax(Dax::On).unwrap();
    file.set_dax(Dax::Off).unwrap();
    assert!(file.is_dax(), "all files are");
    assert_eq!(file.stat().unwrap().dax, Dax::Off);
}

/// A file whose pages are each all of one number, which only grows.
struct Shared {
    file: File,
    /// What each page is known to have, or more.
    latest: Vec<AtomicU64>,
    is_over: AtomicBool,
}

impl Shared {
    /// Writes to every other page until it is over.
    fn write(&self, first: u64) {
        let mut random = SmallRng::seed_from_u64(first);
        let mut number = 0_u64;
        while !self.is_over.load(Ordering::Relaxed) {
            number += 1;
            let page = random.random_range(0..32) * 2 + first;
            let bytes = number.to_le_bytes().repeat(512);
            self.file.write_at(&bytes, page * PAGE).unwrap();
            self.latest[usize::try_from(page).unwrap()].store(number, Ordering::Release);
            if number.is_multiple_of(64) {
                self.file.sync().unwrap();
            }
        }
    }

    fn read(&self) {
        let mut random = SmallRng::seed_from_u64(7);
        while !self.is_over.load(Ordering::Relaxed) {
            self.read_page(random.random_range(0..64));
        }
    }

    /// A page of two writes, or one older than what its writer had finished, is a fault of the switch.
    fn read_page(&self, page: u64) {
        let least = self.latest[usize::try_from(page).unwrap()].load(Ordering::Acquire);
        let mut found = [0; 4096];
        assert_eq!(self.file.read_at(&mut found, page * PAGE).unwrap(), 4096);
        let words = found.as_chunks::<8>().0.iter();
        let words: Vec<u64> = words.map(|word| u64::from_le_bytes(*word)).collect();
        assert!(
            words.iter().all(|word| *word == words[0]),
            "page {page} is of two writes"
        );
        assert!(words[0] >= least, "page {page} is {} and was {least}", words[0]);
    }
}

#[test]
fn a_file_is_switched_back_and_forth_under_load() {
    let pool = TestPool::new(32 * MIB);
    let options = MountOptions {
        dax: DaxMode::Inode,
        cache_bytes: MIB,
        ..MountOptions::default()
    };
    let fs = Filesystem::open(&pool.path, &options).unwrap();
    let shared = Shared {
        file: open(&fs, "/f"),
        latest: (0..64).map(|_| AtomicU64::new(0)).collect(),
        is_over: AtomicBool::new(false),
    };
    shared.file.truncate(64 * PAGE).unwrap();
    let mut switches = 0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| shared.read());
        scope.spawn(|| shared.write(0));
        scope.spawn(|| shared.write(1));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !reader.is_finished() {
            let dax = if shared.file.is_dax() { Dax::Off } else { Dax::On };
            shared.file.set_dax(dax).unwrap();
            switches += 1;
        }
        shared.is_over.store(true, Ordering::Relaxed);
    });
    assert!(switches > 20);
    (0..64).for_each(|page| shared.read_page(page));
    drop(shared);
    fs.close().unwrap();
    check(&pool.path);
}
