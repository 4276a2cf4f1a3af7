//! Reservations: no space is told when bytes are written, and never when they are written back.

use nix::errno::Errno;
use udax_pagecache::{Access, CacheOptions, Flush, PAGE, Stability, WriteFlags};

use crate::disk::{World, page_of};

fn world(blocks: u64) -> World {
    let options = CacheOptions {
        bytes: 1024 * PAGE,
        dirty_bytes: 512 * PAGE,
        ..CacheOptions::default()
    };
    World::new(&options, blocks)
}

#[test]
fn a_write_takes_exactly_as_many_pages_as_fit_and_all_of_them_are_written_back() {
    // 1024 pages of cache make folios of up to 16 pages.
    for (at, blocks) in [(0, 7), (0, 16), (0, 21), (PAGE, 21), (100, 5), (40, 1)] {
        let world = world(blocks);
        let file = world.file();
        let written = file.write_with(at, &[1; 100 * 4096], WriteFlags::empty());
        // The first page may be a part of one.
        let expected = (at / PAGE + blocks) * PAGE - at;
        assert_eq!(
            u64::try_from(written.unwrap()).unwrap(),
            expected,
            "{blocks} blocks from {at}"
        );
        assert_eq!(world.cache.reservations().blocks(), blocks);
        let error = file
            .write_with(at + expected, &[1], WriteFlags::empty())
            .unwrap_err();
        assert_eq!(error.errno(), Errno::ENOSPC);
        file.sync().unwrap();
        assert_eq!(world.cache.reservations().blocks(), 0);
        // What has blocks needs no more.
        file.write(at, &[2; 100]);
        file.sync().unwrap();
        // Freed blocks are there for others.
        file.truncate(0);
        file.write(50 * PAGE, &[3]);
        file.sync().unwrap();
    }
}

#[test]
fn pages_without_space_read_as_what_is_beneath() {
    let world = world(3);
    let file = world.file();
    let written = file.write_with(0, &[1; 10 * 4096], WriteFlags::empty()).unwrap();
    assert_eq!(written, 3 * 4096);
    file.disk.set_size(10 * PAGE);
    let bytes = file.read(0, 10 * 4096);
    assert!(bytes[..3 * 4096].iter().all(|byte| *byte == 1));
    assert!(bytes[3 * 4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn every_way_in_which_dirty_pages_go_gives_their_reservations_back_once() {
    let world = world(1000);
    let reserved = || world.cache.reservations().blocks();
    let file = world.file();
    file.write(0, &[1; 32 * 4096]);
    assert_eq!(reserved(), 32);
    // A folio of 16 pages in part, one whole, a part of a page.
    file.punch(5 * PAGE..7 * PAGE);
    assert_eq!(reserved(), 30);
    file.punch(16 * PAGE..32 * PAGE);
    assert_eq!(reserved(), 14);
    file.punch(PAGE + 1..PAGE + 2);
    assert_eq!(reserved(), 14);
    // A part of a folio that is not dirty any more.
    file.sync().unwrap();
    assert_eq!(reserved(), 0);
    file.write(8 * PAGE, &page_of(2));
    file.punch(9 * PAGE..10 * PAGE);
    assert_eq!(reserved(), 0);
    file.write(9 * PAGE, &page_of(2));
    assert_eq!(reserved(), 1);
    // Failed, then written.
    file.disk.with_faults(|faults| faults.is_dead = Some(Errno::EIO));
    file.sync().unwrap_err();
    assert_eq!(reserved(), 1);
    file.disk.with_faults(|faults| faults.is_dead = None);
    file.mapping
        .invalidate_inode(&mut file.disk.lend(), Flush::Write, 0..u64::MAX)
        .unwrap_err();
    assert_eq!((reserved(), file.mapping.pages()), (0, 0));
    // With the mapping.
    let other = world.file();
    world.release(&other);
    other.write(0, &[1; 20 * 4096]);
    other.truncate(12 * PAGE + 5);
    assert_eq!(reserved(), 13);
    other.truncate(0);
    assert_eq!(reserved(), 0);
    drop(other);
}

#[test]
fn a_mapping_dropped_with_dirty_pages_gives_back_what_they_had() {
    let world = world(1000);
    // Without an owner that a list could keep.
    let owner: std::sync::Weak<crate::disk::File> = std::sync::Weak::new();
    let mapping = udax_pagecache::Mapping::new(&world.cache, 1 << 40, owner, Stability::Loose);
    let file = world.file();
    mapping
        .write(&mut file.disk.lend(), 0, &[1; 40 * 4096], WriteFlags::empty())
        .unwrap();
    assert_eq!(world.cache.reservations().blocks(), 40);
    let pin = mapping.pin(&mut file.disk.lend(), 0, Access::Write);
    assert!(pin.is_err(), "beyond the end");
    drop(mapping);
    assert_eq!(world.cache.reservations().blocks(), 0);
    assert_eq!(world.cache.statistics().cached, 0);
}

#[test]
fn overwrites_of_what_is_dirty_ask_for_no_space() {
    let world = world(4);
    let file = world.file();
    file.write(0, &[1; 4 * 4096]);
    assert_eq!(file.disk.take_reserve_calls(), 1);
    file.write(100, &[2; 3 * 4096]);
    assert_eq!(file.disk.take_reserve_calls(), 0);
    file.sync().unwrap();
    file.write(100, &[3; 3 * 4096]);
    file.sync().unwrap();
    assert_eq!(file.disk.durable()[100..][..3 * 4096], [3; 3 * 4096]);
}

#[test]
fn a_pin_to_store_needs_space_when_it_is_made_and_none_afterwards() {
    let world = world(1);
    let file = world.file();
    file.disk.set_size(8 * PAGE);
    let mut lent = file.disk.lend();
    let pin = file.mapping.pin(&mut lent, 3, Access::Write).unwrap();
    let error = file.mapping.pin(&mut lent, 4, Access::Write).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC);
    drop(file.mapping.pin(&mut lent, 4, Access::Read).unwrap());
    pin.store(0, &[1]).unwrap();
    file.sync().unwrap();
    pin.store(1, &[2]).unwrap();
    file.sync().unwrap();
    pin.store(2, &[3]).unwrap();
    drop(pin);
    file.sync().unwrap();
    assert!(!file.mapping.is_dirty(3));
    assert_eq!(file.disk.durable()[3 * 4096..][..3], [1, 2, 3]);
}
