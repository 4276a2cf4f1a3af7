//! One writer, or any number of readers.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use udax_pmem::{Region, RegionError, RegionOptions};

use super::{child, child_path, memory_directory};

fn read_only() -> RegionOptions {
    RegionOptions {
        read_only: true,
        ..RegionOptions::default()
    }
}

fn busy_holder<T: std::fmt::Debug>(result: Result<T, RegionError>) -> String {
    match result {
        Err(RegionError::Busy { holder, .. }) => holder,
        other => panic!("not busy: {other:?}"),
    }
}

#[test]
fn a_second_open_in_the_same_process_is_refused_until_the_first_is_dropped() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, 4096, RegionOptions::default()).unwrap();
    let holder = busy_holder(Region::open(&path, RegionOptions::default()));
    assert!(
        holder.contains(&format!("process {}", std::process::id())),
        "{holder:?}"
    );
    busy_holder(Region::open(&path, read_only()));
    drop(region);
    Region::open(&path, RegionOptions::default()).unwrap();
}

#[test]
fn a_refused_create_leaves_the_file_as_it_was() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let region = Region::create(&path, 8192, RegionOptions::default()).unwrap();
    region.store(0, b"precious").unwrap();
    busy_holder(Region::create(&path, 4096, RegionOptions::default()));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
    assert!(region.compare(0, b"precious").unwrap());
}

#[test]
fn readers_share_and_keep_writers_out() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    drop(Region::create(&path, 4096, RegionOptions::default()).unwrap());
    let first = Region::open(&path, read_only()).unwrap();
    let second = Region::open(&path, read_only()).unwrap();
    busy_holder(Region::open(&path, RegionOptions::default()));
    drop(first);
    busy_holder(Region::open(&path, RegionOptions::default()));
    drop(second);
    Region::open(&path, RegionOptions::default()).unwrap();
}

#[test]
#[ignore = "run by an_open_while_another_process_has_it_names_that_process"]
fn child_that_holds_the_lock() {
    let _region = Region::open(&child_path(), RegionOptions::default()).unwrap();
    println!("\nheld");
    // Until the parent closes our standard input.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn an_open_while_another_process_has_it_names_that_process() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    drop(Region::create(&path, 4096, RegionOptions::default()).unwrap());
    let mut child = child("locks::child_that_holds_the_lock", path.clone())
        .spawn()
        .unwrap();
    // Kept until the child has ended: it goes on printing.
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line == "held"), "the child has not opened it");
    let error = Region::open(&path, RegionOptions::default());
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let holder = busy_holder(error);
    assert_eq!(holder, format!(" by process {} ({})", child.id(), comm.trim()));
    Region::open(&path, RegionOptions::default()).unwrap();
}

#[test]
fn a_killed_process_leaves_no_lock_and_all_its_stores() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    drop(Region::create(&path, 1 << 20, RegionOptions::default()).unwrap());
    let mut child = child("locks::child_that_stores_and_hangs", path.clone())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "stored"));
    child.kill().unwrap();
    child.wait().unwrap();
    let region = Region::open(&path, RegionOptions::default()).unwrap();
    assert!(region.compare(100, &[0xAB; 100_000]).unwrap());
    assert_eq!(region.read_u64(0).unwrap(), 42);
}

#[test]
#[ignore = "run by a_killed_process_leaves_no_lock_and_all_its_stores"]
fn child_that_stores_and_hangs() {
    let region = Region::open(&child_path(), RegionOptions::default()).unwrap();
    region.store_nontemporal(100, &[0xAB; 100_000]).unwrap();
    region.store_u64(0, 42).unwrap();
    region.fence().unwrap();
    println!("\nstored");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn the_holder_is_named_while_others_lock_and_unlock() {
    let directory = memory_directory();
    let path = directory.path().join("pool");
    let _region = Region::create(&path, 4096, RegionOptions::default()).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spawn = |thread| {
            let (directory, is_over) = (directory.path(), &is_over);
            scope.spawn(move || {
                let path = directory.join(format!("other {thread}"));
                while !is_over.load(Ordering::Relaxed) {
                    drop(Region::create(&path, 4096, RegionOptions::default()).unwrap());
                }
            })
        };
        let threads = [0, 1, 2].map(spawn);
        let holders: Vec<String> = (0..500)
            .map(|_| busy_holder(Region::open(&path, RegionOptions::default())))
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        for holder in holders {
            assert!(holder.contains(&std::process::id().to_string()), "{holder:?}");
        }
    });
}
