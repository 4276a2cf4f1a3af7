//! Small writes: those in sequence make large folios, others small ones.

use udax_pagecache::PAGE;

use crate::disk::{File, World, freed, page_of};

/// The orders of the file's folios, ascending by their first page.
fn orders(world: &World, file: &File) -> Vec<u8> {
    file.sync().unwrap();
    assert_eq!(world.cache.drop_clean(), 0);
    let mut gone = freed(file.number());
    gone.sort_unstable_by_key(|folio| folio.first);
    gone.iter().map(|folio| folio.order).collect()
}

#[test]
fn appends_of_a_page_each_make_folios_twice_as_large_each_time() {
    let world = World::with_pages(1 << 15);
    let file = world.file();
    for page in 0..2048 {
        file.write(page * PAGE, &page_of(1));
        file.disk.set_size((page + 1) * PAGE);
    }
    assert_eq!(file.mapping.dirty_pages(), 2048);
    let expected = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9];
    assert_eq!(orders(&world, &file), expected);
    // Over what is there, too.
    for page in 0..1024 {
        file.write(page * PAGE, &page_of(2));
    }
    assert_eq!(orders(&world, &file), expected[..11]);
    assert!(file.read(0, 1024 << 12).iter().all(|byte| *byte == 2));
    assert!(file.read(1024 * PAGE, 1024 << 12).iter().all(|byte| *byte == 1));
}

#[test]
fn a_sequence_that_ends_leaves_zeros_behind_it() {
    let world = World::with_pages(1 << 15);
    let file = world.file();
    for page in 0..70 {
        file.write(page * PAGE, &page_of(1));
        file.disk.set_size((page + 1) * PAGE);
    }
    // A hole, within the last folio and behind it.
    file.disk.set_size(200 * PAGE);
    assert!(file.read(70 * PAGE, 130 << 12).iter().all(|byte| *byte == 0));
    file.sync().unwrap();
    let durable = file.disk.durable();
    let (written, hole) = durable.split_at(70 << 12);
    assert!(written.iter().all(|byte| *byte == 1) && hole.iter().all(|byte| *byte == 0));
    assert_eq!(world.cache.reservations().blocks(), 0);
}

#[test]
fn pages_here_and_there_have_folios_of_their_own() {
    let world = World::with_pages(1 << 15);
    let file = world.file();
    file.disk.set_size(1 << 30);
    for page in 0..100 {
        file.write(page * 37 % 1000 * PAGE, &page_of(1));
    }
    assert!(orders(&world, &file).iter().all(|order| *order == 0));
}
