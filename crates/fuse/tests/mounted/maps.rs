//! Mappings of files, against reads, writes and truncations through the same mount, and against the pool.
//!
//! A region of `udax-pmem` maps a file without unsafe code here, and survives the SIGBUS beyond its end.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use udax_pmem::{Region, RegionOptions};

use crate::place::Place;

fn map(path: &Path, options: RegionOptions) -> Region {
    Region::open(path, options).unwrap()
}

fn shared(path: &Path) -> Region {
    let options = RegionOptions {
        msync: true,
        ..RegionOptions::default()
    };
    map(path, options)
}

fn load(region: &Region, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    region.read(at, &mut bytes).unwrap();
    bytes
}

/// What the library reads from the file, past the kernel.
fn in_pool(place: &Place, path: &str, at: u64, len: usize) -> Vec<u8> {
    let none = udax::NewInode::with_permissions(0);
    let file = place
        .filesystem()
        .open_file(path, udax::OpenFlags::READ, none)
        .unwrap();
    let mut bytes = vec![0; len];
    let count = file.read_at(&mut bytes, at).unwrap();
    bytes.truncate(count);
    bytes
}

#[test]
fn stores_and_writes_see_each_other() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![1; 64 << 10]).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(place.path("f"))
        .unwrap();
    let region = shared(&place.path("f"));
    assert_eq!(load(&region, 5000, 10), [1; 10]);
    for round in 0..50_u8 {
        let at = u64::from(round) * 997;
        file.write_all_at(&[round; 100], at).unwrap();
        assert_eq!(load(&region, at, 100), [round; 100]);
        region.store(at + 20, &[round + 100; 50]).unwrap();
        let mut back = [0; 100];
        file.read_exact_at(&mut back, at).unwrap();
        assert!(back[..20] == [round; 20] && back[20..70] == [round + 100; 50] && back[70..] == [round; 30]);
    }
}

#[test]
fn what_was_synced_through_a_mapping_is_in_the_pool() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![0; 1 << 20]).unwrap();
    let region = shared(&place.path("f"));
    for at in [0, 4000, 300_000, (1 << 20) - 3] {
        region.store(at, b"abc").unwrap();
        region.flush(at, 3).unwrap();
    }
    // The region's fence is an msync of what was flushed.
    region.fence().unwrap();
    for at in [0, 4000, 300_000, (1 << 20) - 3] {
        assert_eq!(in_pool(&place, "/f", at, 3), b"abc");
    }
    region.store(100, b"later").unwrap();
    File::open(place.path("f")).unwrap().sync_all().unwrap();
    assert_eq!(in_pool(&place, "/f", 100, 5), b"later");
    drop(region);
    let place = place.remount("");
    assert_eq!(&fs::read(place.path("f")).unwrap()[100..105], b"later");
}

#[test]
fn a_truncation_takes_pages_from_a_mapping() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![7; 32 << 10]).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(place.path("f"))
        .unwrap();
    let region = shared(&place.path("f"));
    region.store(20_000, &[8; 100]).unwrap();
    file.set_len(6000).unwrap();
    assert_eq!(load(&region, 0, 6000), vec![7; 6000]);
    assert_eq!(load(&region, 6000, 2000), vec![0; 2000]);
    // SIGBUS, as POSIX says.
    assert!(region.read(12_000, &mut [0; 8]).is_err());
    drop(region);
    file.set_len(32 << 10).unwrap();
    let region = shared(&place.path("f"));
    assert_eq!(load(&region, 6000, 26_768), vec![0; 26_768]);
    assert_eq!(in_pool(&place, "/f", 6000, 26_768), vec![0; 26_768]);
}

#[test]
fn a_hole_that_is_punched_or_a_copy_shows_in_a_mapping() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![7; 32 << 10]).unwrap();
    fs::write(place.path("g"), vec![9; 32 << 10]).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(place.path("f"))
        .unwrap();
    let other = File::open(place.path("g")).unwrap();
    let region = shared(&place.path("f"));
    assert_eq!(load(&region, 0, 32 << 10), vec![7; 32 << 10]);
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 4096, 8192).unwrap();
    assert_eq!(load(&region, 4096, 8192), vec![0; 8192]);
    let (mut from, mut to) = (0, 16_384);
    let copied = rustix::fs::copy_file_range(&other, Some(&mut from), &file, Some(&mut to), 8192).unwrap();
    assert_eq!(copied, 8192);
    assert_eq!(load(&region, 16_384, 8192), vec![9; 8192]);
    // Stores to what is shared with the other file now stay in this one.
    region.store(16_384, &[1; 4096]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(in_pool(&place, "/f", 16_384, 4096), vec![1; 4096]);
    assert_eq!(in_pool(&place, "/g", 0, 4096), vec![9; 4096]);
}

#[test]
fn a_private_mapping_keeps_its_stores() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![7; 8192]).unwrap();
    let options = RegionOptions {
        private: true,
        ..RegionOptions::default()
    };
    let region = map(&place.path("f"), options);
    region.store(100, b"mine").unwrap();
    assert_eq!(load(&region, 100, 4), b"mine");
    assert_eq!(&fs::read(place.path("f")).unwrap()[100..104], &[7; 4]);
    let file = File::options().write(true).open(place.path("f")).unwrap();
    file.write_all_at(b"seen", 5000).unwrap();
    assert_eq!(load(&region, 5000, 4), b"seen");
    assert_eq!(in_pool(&place, "/f", 100, 4), [7; 4]);
}

#[test]
fn a_mapping_of_an_unlinked_file_lives_on() {
    let Some(place) = Place::new() else { return };
    fs::write(place.path("f"), vec![7; 8192]).unwrap();
    let region = shared(&place.path("f"));
    fs::remove_file(place.path("f")).unwrap();
    for at in 0..20 {
        fs::write(place.path(format!("other{at}")), vec![at; 8192]).unwrap();
    }
    assert_eq!(load(&region, 0, 8192), vec![7; 8192]);
    region.store(0, b"still").unwrap();
    region.flush(0, 5).unwrap();
    region.fence().unwrap();
    assert_eq!(load(&region, 0, 5), b"still");
}
