//! Signals that end system calls, all the time: none of them is an error of a region.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use udax_pmem::{Persistence, Region, RegionOptions};

const MIB: u64 = 1 << 20;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Makes, fills, grows and writes back a region, as long as `is_over` says no; how often.
fn work(path: &std::path::Path, is_over: &AtomicBool) -> u64 {
    let mut turns = 0;
    while !is_over.load(Ordering::Relaxed) {
        let options = || RegionOptions {
            msync: true,
            reserve: 16 * MIB,
            ..RegionOptions::default()
        };
        let region = Region::create(path, 4 * MIB, options()).unwrap();
        assert_eq!(region.persistence(), Persistence::Msync);
        region.populate().unwrap();
        for page in 0..64 {
            region.store(page * 8192, &[7; 100]).unwrap();
            region.flush(page * 8192, 100).unwrap();
            region.fence().unwrap();
        }
        region.grow(8 * MIB).unwrap();
        region.store_nontemporal(8 * MIB - 4096, &[9; 4096]).unwrap();
        region.fence().unwrap();
        drop(region);
        let region = Region::open(path, options()).unwrap();
        let mut bytes = [0; 100];
        region.read(63 * 8192, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 100]);
        turns += 1;
    }
    turns
}

#[test]
fn signals_without_restart_are_no_errors() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    // On a disk, where there is one: what is in memory is written back without waiting.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("region");
    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let worker = {
        let is_over = std::sync::Arc::clone(&is_over);
        std::thread::spawn(move || work(&path, &is_over))
    };
    let begin = Instant::now();
    // On a busy machine it takes longer until enough of them have come.
    let is_enough = || begin.elapsed() > Duration::from_secs(2) && SIGNALS.load(Ordering::Relaxed) > 1000;
    while !is_enough() && begin.elapsed() < Duration::from_secs(60) && !worker.is_finished() {
        // SAFETY: the thread has not been joined.
        let result = unsafe { libc::pthread_kill(worker.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(result, 0);
        std::thread::sleep(Duration::from_micros(50));
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(worker.join().unwrap() > 0, "no turn in time");
    assert!(SIGNALS.load(Ordering::Relaxed) > 1000);
}
