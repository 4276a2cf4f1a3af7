//! K 90 to 101: which folios a pass writes.

use nix::errno::Errno;
use udax_pagecache::{Backing, Control, Integrity, PAGE, Span, Stability, WriteFlags};

use crate::disk::{File, Sleeper, World, page_of, until};

fn background(pages: std::ops::Range<u64>, most: u64) -> Control {
    Control {
        integrity: Integrity::Background,
        span: Span::Pages(pages),
        most,
    }
}

#[test]
fn inv_90_a_full_pass_writes_everything_once_goes_on_after_errors_and_tells_the_first() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in [0, 2, 4, 6, 8] {
        file.write(page * PAGE, &page_of(1));
    }
    file.disk.with_faults(|faults| {
        faults.unwritable.insert(2, Errno::ENOSPC);
        faults.unwritable.insert(6, Errno::EIO);
    });
    let control = Control {
        most: 1,
        ..Control::full()
    };
    let error = file.pass(control).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOSPC);
    let runs = file.disk.take_runs();
    let page = |page: u64| page * PAGE..(page + 1) * PAGE;
    assert_eq!(runs, [[page(0)], [page(4)], [page(8)]]);
    assert_eq!(file.mapping.dirty_pages(), 2);
    file.disk.with_faults(|faults| faults.unwritable.clear());
    assert_eq!(file.pass(Control::full()).unwrap().pages, 2);
}

#[test]
fn inv_91_what_becomes_dirty_during_a_full_pass_is_left_to_the_next() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..4 {
        file.write(page * 2 * PAGE, &page_of(1));
    }
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    let mut runs = 0;
    for run in pass.by_ref() {
        file.disk.take(&run).unwrap();
        run.complete(Ok(()));
        runs += 1;
        assert!(runs <= 4, "the pass goes after what becomes dirty");
        // Behind, at and before the pass.
        for page in 0..16 {
            if !file.mapping.is_dirty(page) {
                file.write(page * PAGE, &page_of(2));
            }
        }
    }
    assert_eq!(pass.finish().unwrap().pages, 4);
    assert_eq!(file.mapping.dirty_pages(), 16);
}

#[test]
fn inv_92_the_second_of_two_full_passes_waits_for_what_the_first_writes() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    let mut first = file.mapping.pass(Control::full(), file.disk.size());
    let run = first.next().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let sleeper = Sleeper::default();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            sleeper.begins();
            file.sync().unwrap();
            assert!(done.load(std::sync::atomic::Ordering::SeqCst), "it did not wait");
        });
        sleeper.until_asleep();
        file.disk.take(&run).unwrap();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        run.complete(Ok(()));
        second.join().unwrap();
    });
    // Both have marked two pages, and the first takes both marks away: the second finds nothing, and waits for both.
    for page in [0, 2] {
        file.write(page * PAGE, &page_of(1));
    }
    let mut first = file.mapping.pass(Control::full(), file.disk.size());
    let mut second = file.mapping.pass(Control::full(), file.disk.size());
    let runs = [first.next().unwrap(), first.next().unwrap()];
    assert!(first.next().is_none() && second.next().is_none());
    done.store(false, std::sync::atomic::Ordering::SeqCst);
    let sleeper = Sleeper::default();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            sleeper.begins();
            second.finish().unwrap();
            file.mapping.wait_written(0..u64::MAX);
            assert!(done.load(std::sync::atomic::Ordering::SeqCst), "it did not wait");
        });
        sleeper.until_asleep();
        let [one, other] = runs;
        file.disk.take(&one).unwrap();
        one.complete(Ok(()));
        file.disk.take(&other).unwrap();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        other.complete(Ok(()));
        waiting.join().unwrap();
    });
    drop(first);
    // Stored to again when the medium has its bytes already: the second pass writes it too.
    file.write(0, &page_of(2));
    let mut first = file.mapping.pass(Control::full(), file.disk.size());
    let run = first.next().unwrap();
    file.disk.take(&run).unwrap();
    file.write(0, &page_of(3));
    let sleeper = Sleeper::default();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            sleeper.begins();
            file.sync().unwrap();
        });
        sleeper.until_asleep();
        run.complete(Ok(()));
        second.join().unwrap();
    });
    assert!(file.disk.durable().starts_with(&page_of(3)));
}

#[test]
fn inv_93_a_background_pass_ends_after_so_many_pages_or_an_error_and_the_next_goes_on() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..8 {
        file.write(page * 2 * PAGE, &page_of(1));
    }
    let written = |most| file.pass(Control::background(most)).map(|written| written.pages);
    assert_eq!(written(3).unwrap(), 3);
    assert!(!file.mapping.is_dirty(4) && file.mapping.is_dirty(6));
    file.disk
        .with_faults(|faults| _ = faults.unwritable.insert(8, Errno::EIO));
    assert_eq!(written(100).unwrap_err().errno(), Errno::EIO);
    assert!(!file.mapping.is_dirty(6) && file.mapping.is_dirty(8) && file.mapping.is_dirty(10));
    // Behind the page that failed.
    assert_eq!(written(1).unwrap(), 1);
    assert!(!file.mapping.is_dirty(10) && file.mapping.is_dirty(8));
}

#[test]
fn inv_94_a_cyclic_pass_does_not_wrap_and_the_next_begins_at_the_front() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..8 {
        file.write(page * PAGE, &page_of(1));
    }
    let written = |most| file.pass(Control::background(most)).unwrap().pages;
    assert_eq!(written(5), 5);
    file.write(0, &page_of(2));
    assert_eq!(written(100), 3);
    assert!(file.mapping.is_dirty(0));
    assert_eq!(written(100), 1);
}

#[test]
fn inv_95_a_pass_over_a_range_does_not_move_the_cyclic_ones() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..8 {
        file.write(page * PAGE, &page_of(1));
    }
    assert_eq!(file.pass(Control::background(2)).unwrap().pages, 2);
    file.pass(background(6..8, 100)).unwrap();
    file.write(0, &page_of(2));
    // Pages 2 to 5, from where the first has ended; not page 0.
    assert_eq!(file.pass(Control::background(100)).unwrap().pages, 4);
    assert!(file.mapping.is_dirty(0));
}

#[test]
fn inv_96_what_is_dirty_and_being_written_is_skipped_in_the_background_and_waited_for_in_full() {
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &page_of(1));
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    let run = pass.next().unwrap();
    file.write(0, &page_of(2));
    assert_eq!(file.pass(background(0..8, 100)).unwrap().pages, 0);
    let sleeper = Sleeper::default();
    std::thread::scope(|scope| {
        let full = scope.spawn(|| {
            sleeper.begins();
            file.pass(Control::full()).unwrap().pages
        });
        sleeper.until_asleep();
        // It has marked the page, and then waits: nothing is written before this run is completed.
        file.disk.take(&run).unwrap();
        assert_eq!(file.disk.take_runs().len(), 1);
        run.complete(Ok(()));
        assert_eq!(full.join().unwrap(), 1);
    });
    assert_eq!(file.disk.durable(), page_of(2));
}

#[test]
fn inv_97_a_folio_that_is_truncated_is_skipped_and_a_new_one_in_its_place_is_not_of_the_pass() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..8 {
        file.write(page * PAGE, &page_of(1));
    }
    let mut pass = file.mapping.pass(Control::full(), file.disk.size());
    file.punch(2 * PAGE..8 * PAGE);
    file.write(4 * PAGE, &page_of(9));
    let run = pass.next().unwrap();
    assert_eq!(
        run.segments().collect::<Vec<_>>(),
        std::slice::from_ref(&(0..2 * PAGE))
    );
    file.disk.take(&run).unwrap();
    run.complete(Ok(()));
    assert!(pass.next().is_none());
    drop(pass);
    assert!(file.mapping.is_dirty(4));
    assert_eq!(file.pass(Control::full()).unwrap().pages, 1);
}

#[test]
fn inv_98_where_the_next_pass_goes_on_does_not_depend_on_the_folios_of_the_last() {
    let world = World::with_pages(64);
    let file = world.file();
    for page in 0..8 {
        file.write(page * 2 * PAGE, &page_of(1));
    }
    let mut pass = file.mapping.pass(Control::background(2), file.disk.size());
    for page in [0, 2] {
        let run = pass.next().unwrap();
        assert_eq!(
            run.segments().collect::<Vec<_>>(),
            std::slice::from_ref(&(page * PAGE..(page + 1) * PAGE))
        );
        file.disk.take(&run).unwrap();
        run.complete(Ok(()));
        // Nobody has them any more when the pass ends.
        file.mapping.drop_unused(0..3 * PAGE);
        assert!(!file.mapping.is_cached(page));
    }
    assert!(pass.next().is_none());
    drop(pass);
    assert_eq!(file.pass(Control::background(1)).unwrap().pages, 1);
    assert!(!file.mapping.is_dirty(4) && file.mapping.is_dirty(6));
}

#[test]
fn inv_101_a_full_pass_tries_again_when_there_was_no_memory_and_nobody_is_told() {
    for is_lazy in [false, true] {
        let world = World::with_pages(64);
        let file = world.file();
        let mut cursor = file.mapping.errors().sample();
        file.write(PAGE, &page_of(1));
        file.disk.with_faults(|faults| {
            faults.without_memory = 2;
            faults.is_lazy = is_lazy;
        });
        let written = file.pass(Control::full()).unwrap();
        assert_eq!((written.pages, file.disk.take_write_calls()), (3, 3));
        assert_eq!(file.disk.durable()[4096..], page_of(1));
        assert_eq!(file.mapping.dirty_pages(), 0);
        assert_eq!(world.cache.reservations().blocks(), 0);
        file.mapping.check_errors(&mut cursor).unwrap();
        // So does a sync.
        file.write(PAGE, &page_of(2));
        file.disk.with_faults(|faults| faults.without_memory = 2);
        file.sync().unwrap();
        assert_eq!(file.disk.durable()[4096..], page_of(2));
        file.mapping.check_errors(&mut cursor).unwrap();
    }
}

#[test]
fn inv_101_a_background_pass_tells_at_once_that_there_was_no_memory() {
    let world = World::with_pages(64);
    let file = world.file();
    let mut cursor = file.mapping.errors().sample();
    for page in [1, 3, 5] {
        file.write(page * PAGE, &page_of(1));
    }
    file.disk.with_faults(|faults| faults.without_memory = 2);
    let error = file.pass(background(0..8, 100)).unwrap_err();
    assert_eq!((error.errno(), file.disk.take_write_calls()), (Errno::ENOMEM, 1));
    assert_eq!(file.mapping.dirty_pages(), 3);
    let told = file.mapping.check_errors(&mut cursor).unwrap_err();
    assert_eq!(told.errno(), Errno::ENOMEM);
}

#[test]
fn inv_101_no_memory_for_long_is_told_once_and_keeps_the_page_dirty_and_other_errors_are_not_tried_again() {
    let world = World::with_pages(64);
    let file = world.file();
    let mut cursor = file.mapping.errors().sample();
    for page in [1, 3, 5] {
        file.write(page * PAGE, &page_of(1));
    }
    file.disk
        .with_faults(|faults| _ = faults.unwritable.insert(3, Errno::ENOMEM));
    assert_eq!(file.pass(Control::full()).unwrap_err().errno(), Errno::ENOMEM);
    assert_eq!(
        [1, 3, 5].map(|page| file.mapping.is_dirty(page)),
        [false, true, false]
    );
    // All three, and three times the one.
    assert_eq!(file.disk.take_write_calls(), 3 + 3);
    let told = file.mapping.check_errors(&mut cursor).unwrap_err();
    assert_eq!(told.errno(), Errno::ENOMEM);
    file.mapping.check_errors(&mut cursor).unwrap();
    file.disk
        .with_faults(|faults| _ = faults.unwritable.insert(3, Errno::EIO));
    assert_eq!(file.pass(Control::full()).unwrap_err().errno(), Errno::EIO);
    assert_eq!(file.disk.take_write_calls(), 1);
    // One of each: what is no shortage is told, and the rest is written all the same.
    file.write(PAGE, &page_of(2));
    file.disk.with_faults(|faults| faults.without_memory = 1);
    assert_eq!(file.pass(Control::full()).unwrap_err().errno(), Errno::EIO);
    assert!(!file.mapping.is_dirty(1));
    file.disk.with_faults(|faults| faults.unwritable.clear());
    assert_eq!(file.pass(Control::full()).unwrap().pages, 1);
    assert_eq!(file.mapping.dirty_pages(), 0);
}

#[test]
fn inv_101_who_waits_for_a_write_that_finds_no_memory_writes_it_before_it_is_done() {
    let ways: [fn(&World, &File); 2] = [
        |_, file| file.sync().unwrap(),
        |world, _| world.cache.write_all().unwrap(),
    ];
    for way in ways {
        let world = World::with_pages(64);
        let file = world.file();
        file.write(0, &page_of(1));
        file.disk.with_faults(|faults| {
            faults.without_memory = 1;
            faults.holds_writes = true;
        });
        let sleeper = Sleeper::default();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| file.pass(Control::full()).map(drop));
            until("it is under way", || file.mapping.dirty_pages() == 0);
            let second = scope.spawn(|| {
                sleeper.begins();
                way(&world, &file);
                // The first one tries again later.
                assert_eq!(file.disk.durable(), page_of(1));
            });
            sleeper.until_asleep();
            file.disk.with_faults(|faults| faults.holds_writes = false);
            second.join().unwrap();
            first.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_pass_takes_only_dirty_folios_into_its_hands_however_large_the_file_is() {
    const PAGES: u64 = 1 << 15;
    let world = World::with_pages(PAGES * 2);
    let file = world.file();
    // Downward, so that each has a folio of its own.
    for page in (0..PAGES).rev() {
        file.write(page * PAGE, &page_of(1));
    }
    file.sync().unwrap();
    assert_eq!(file.mapping.pages(), PAGES);
    let none = file.pass(Control::full()).unwrap();
    assert_eq!((none.looked, none.pages), (0, 0));
    file.write(PAGES / 2 * PAGE, &page_of(2));
    let one = file.pass(Control::full()).unwrap();
    assert_eq!((one.looked, one.pages, one.runs), (1, 1, 1));
    // Neighbours, and one far from them.
    for page in [7, 8, 9, PAGES - 1] {
        file.write(page * PAGE, &page_of(3));
    }
    let four = file.pass(Control::full()).unwrap();
    assert_eq!((four.looked, four.pages, four.runs), (4, 4, 2));
}

#[test]
fn inv_99_folios_are_locked_ascending_by_passes_and_truncations_of_several_threads() {
    // What would not be ascending panics: the ranks of folios are checked in debug builds.
    let world = World::with_pages(256);
    let file = world.file();
    std::thread::scope(|scope| {
        for byte in 1..4 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..200 {
                    file.write((round * 7 % 96) * PAGE, &page_of(byte));
                    match round % 4 {
                        0 => _ = file.pass(Control::background(8)).unwrap(),
                        1 => file.sync().unwrap(),
                        2 => file
                            .mapping
                            .truncate((round % 64) * PAGE..(round % 64 + 20) * PAGE),
                        _ => {}
                    }
                }
            });
        }
    });
}

#[test]
fn inv_100_what_is_dirty_again_while_it_is_written_is_found_by_the_next_pass() {
    for stability in [Stability::Loose, Stability::Stable] {
        let world = World::with_pages(64);
        let file = world.file_with(stability);
        file.write(0, &page_of(1));
        let mut pass = file.mapping.pass(Control::full(), file.disk.size());
        let run = pass.next().unwrap();
        assert!(!file.mapping.is_dirty(0));
        if stability == Stability::Loose {
            file.write(0, &page_of(2));
            assert!(file.mapping.is_dirty(0));
            run.complete(Ok(()));
        } else {
            let error = file.write_with(0, &page_of(2), WriteFlags::NOWAIT).unwrap_err();
            assert_eq!(error.errno(), Errno::EAGAIN);
            run.redirty();
            assert!(file.mapping.is_dirty(0));
        }
        drop(pass);
        assert_eq!(file.pass(background(0..1, 100)).unwrap().pages, 1);
        // Its mark is gone with the flag.
        let none = file.pass(background(0..1, 100)).unwrap();
        assert_eq!((none.looked, none.pages), (0, 0));
    }
}

#[test]
fn small_sequential_writes_come_out_as_one_run_and_runs_are_8_mib_at_most() {
    let world = World::with_pages(16384);
    let file = world.file();
    for piece in 0..2500_u64 * 4 {
        file.write(piece * PAGE / 4, &[7; 1024]);
    }
    let written = file.pass(Control::full()).unwrap();
    assert_eq!((written.pages, written.runs), (2500, 2));
    let runs = file.disk.take_runs();
    assert_eq!(runs[0], std::slice::from_ref(&(0..2048 * PAGE)));
    assert_eq!(runs[1], std::slice::from_ref(&(2048 * PAGE..2500 * PAGE)));
    // The same of large folios that do not add up to 8 MiB.
    let file = world.file();
    file.write(PAGE, &vec![1; 12 << 20]);
    file.pass(Control::full()).unwrap();
    for run in file.disk.take_runs() {
        let bytes: u64 = run.iter().map(|segment| segment.end - segment.start).sum();
        assert!(bytes <= 8 << 20, "a run of {bytes} bytes");
    }
    assert_eq!(file.disk.durable()[4096..], vec![1; 12 << 20]);
}

#[test]
fn a_large_folio_with_gaps_between_its_dirty_pages_writes_just_these() {
    let world = World::with_pages(1024);
    let file = world.file();
    file.write(0, &vec![1; 16 * 4096]);
    file.sync().unwrap();
    file.disk.take_runs();
    file.write(3 * PAGE + 7, &[2]);
    file.write(9 * PAGE, &[2; 8192]);
    assert_eq!(file.pass(Control::full()).unwrap().pages, 3);
    let segments: Vec<_> = file.disk.take_runs().concat();
    assert_eq!(segments, [3 * PAGE..4 * PAGE, 9 * PAGE..11 * PAGE]);
}

#[test]
fn runs_that_a_backing_keeps_to_the_end_of_a_pass_are_waited_for_by_who_syncs() {
    let world = World::with_pages(256);
    let file = world.file_with(Stability::Stable);
    file.disk.with_faults(|faults| faults.is_lazy = true);
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..100_u64 {
                    file.write((round % 20 * 3 + u64::from(thread)) * PAGE, &page_of(thread + 1));
                    if round % 5 == 0 {
                        file.sync().unwrap();
                    }
                }
            });
        }
    });
    file.sync().unwrap();
    let durable = file.disk.durable();
    for page in 0..60_usize {
        assert_eq!(usize::from(durable[page * 4096]), page % 3 + 1);
    }
    until("nothing is being written", || {
        world.cache.statistics().under_write == 0
    });
}

#[test]
fn a_pass_with_an_old_size_keeps_what_was_written_behind_it() {
    // A writer has stored its bytes, and not yet told the file's size, when the flusher comes.
    let world = World::with_pages(64);
    let file = world.file();
    file.write(0, &[1; 100]);
    let mut lent = file.disk.lend();
    file.mapping
        .write(&mut lent, 100, &[2; 300], WriteFlags::empty())
        .unwrap();
    assert_eq!(lent.size(), 100);
    file.sync().unwrap();
    file.disk.set_size(400);
    file.mapping.drop_unused(0..u64::MAX);
    assert_eq!(file.read(0, 4096), [vec![1; 100], vec![2; 300]].concat());
    // Cut, it ends there again: what an address has stored behind the end is not written.
    file.truncate(50);
    let pin = file
        .mapping
        .pin(&mut lent, 0, udax_pagecache::Access::Write)
        .unwrap();
    pin.store(40, &[3; 100]).unwrap();
    file.sync().unwrap();
    drop(pin);
    file.disk.set_size(4096);
    assert_eq!(file.disk.durable()[40..60], [[3; 10], [0; 10]].concat());
}
