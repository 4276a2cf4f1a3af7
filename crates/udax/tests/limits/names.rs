//! Names: positions in changing directories, renames at the edges, threads in shared directories, crowds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{Error, Filesystem, OpenFlags, RenameMode};

use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, check, entries, new_inode, open, remove_all};

#[test]
fn entries_that_exist_throughout_are_listed_exactly_once() {
    const STAYING: u32 = 500;
    for seed in 0..4 {
        let mut random = SmallRng::seed_from_u64(seed);
        let pool = TestPool::new(16 * MIB);
        let fs = pool.open();
        fs.create_dir("/d", new_inode()).unwrap();
        for number in 0..STAYING {
            drop(open(&fs, &format!("/d/stays{number}")));
        }
        let directory = fs.open_file("/d", OpenFlags::READ, new_inode()).unwrap();
        let mut transient = BTreeSet::new();
        let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let batch = directory.read_dir(cookie, random.random_range(1..8)).unwrap();
            let Some(last) = batch.last() else { break };
            cookie = last.cookie;
            for entry in batch {
                *seen.entry(entry.name).or_default() += 1;
            }
            for _ in 0..random.random_range(0..30) {
                let name = format!(
                    "/d/{:0>1$}",
                    random.random_range(0..800),
                    random.random_range(1..200)
                );
                if transient.remove(&name) {
                    fs.unlink(&name).unwrap();
                } else {
                    drop(open(&fs, &name));
                    transient.insert(name);
                }
            }
        }
        for number in 0..STAYING {
            let name = format!("stays{number}");
            assert_eq!(seen.get(name.as_bytes()), Some(&1), "seed {seed}: {name}");
        }
        assert!(seen.values().all(|times| *times >= 1));
        pool.check();
    }
}

#[test]
fn a_position_stays_valid_when_its_entry_is_removed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    for number in 0..200 {
        drop(open(&fs, &format!("/{number}")));
    }
    let all = entries(&fs, "/").unwrap();
    for pair in all.windows(2) {
        fs.unlink(format!("/{}", String::from_utf8_lossy(&pair[0].name)))
            .unwrap();
        let next = fs.read_dir("/", pair[0].cookie, 1).unwrap();
        assert_eq!(next, pair[1..]);
    }
    assert_eq!(fs.read_dir("/", u64::MAX, 10).unwrap(), []);
}

#[test]
fn a_directory_is_not_moved_below_itself() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    for path in ["/a", "/a/b", "/a/b/c", "/z"] {
        fs.create_dir(path, new_inode()).unwrap();
    }
    for mode in [RenameMode::Replace, RenameMode::NoReplace] {
        for to in ["/a/x", "/a/b/x", "/a/b/c/x"] {
            assert!(
                matches!(fs.rename("/a", to, mode), Err(Error::Invalid(_))),
                "{to} {mode:?}"
            );
        }
    }
    for (from, to) in [("/a", "/a/b/c"), ("/a/b/c", "/a"), ("/a/b", "/a")] {
        let result = fs.rename(from, to, RenameMode::Exchange);
        assert!(matches!(result, Err(Error::Invalid(_))), "{from} {to}");
    }
    // An ancestor cannot be replaced by what is below it: it has entries.
    assert!(matches!(
        fs.rename("/a/b/c", "/a", RenameMode::Replace),
        Err(Error::NotEmpty)
    ));
    fs.rename("/a/b", "/z", RenameMode::Exchange).unwrap();
    assert_eq!(fs.stat("/z/c").unwrap().nlink, 2);
    assert_eq!(fs.stat("/a").unwrap().nlink, 3);
    // What was below is above now.
    fs.rename("/a", "/z/c/a", RenameMode::Replace).unwrap();
    assert!(fs.stat("/z/c/a/b").is_ok());
    pool.check();
}

#[test]
fn rename_over_an_open_file_keeps_its_data() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let old = open(&fs, "/to");
    old.append(&[1; 10_000]).unwrap();
    open(&fs, "/from").append(b"new").unwrap();
    fs.rename("/from", "/to", RenameMode::Replace).unwrap();
    // Its blocks are not used again while it is open.
    for number in 0..50 {
        open(&fs, &format!("/{number}")).append(&[9; 20_000]).unwrap();
    }
    let mut back = vec![0; 10_000];
    assert_eq!(old.read_at(&mut back, 0).unwrap(), 10_000);
    assert_eq!(back, [1; 10_000]);
    old.append(b"still").unwrap();
    assert_eq!(old.stat().unwrap().nlink, 0);
    assert_eq!(fs.stat("/to").unwrap().size, 3);
    pool.check();
    drop(old);
    pool.check();
}

#[test]
fn names_of_one_inode_are_counted() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    let file = open(&fs, "/f");
    for number in 0..300 {
        fs.link("/f", format!("/d/{number}")).unwrap();
    }
    assert_eq!(file.stat().unwrap().nlink, 301);
    // A rename between two names of one inode does nothing (POSIX).
    fs.rename("/d/0", "/d/1", RenameMode::Replace).unwrap();
    assert_eq!(file.stat().unwrap().nlink, 301);
    fs.rename("/d/0", "/d/1", RenameMode::Exchange).unwrap();
    for number in 0..300 {
        fs.unlink(format!("/d/{number}")).unwrap();
        assert_eq!(file.stat().unwrap().nlink, 300 - number);
    }
    fs.unlink("/f").unwrap();
    assert_eq!(file.stat().unwrap().nlink, 0);
    assert!(matches!(fs.link_file(&file, "/again"), Err(Error::NotFound)));
    for path in ["/d/x", "/d/y"] {
        fs.create_dir(path, new_inode()).unwrap();
    }
    assert_eq!(fs.stat("/d").unwrap().nlink, 4);
    assert!(matches!(fs.link("/d", "/e"), Err(Error::NotPermitted(_))));
    pool.check();
}

/// What threads may meet when others change the same names.
fn expected_of_a_race(result: udax::Result<()>) {
    match result {
        Ok(())
        | Err(
            Error::NotFound
            | Error::Exists
            | Error::NotEmpty
            | Error::IsDirectory
            | Error::NotDirectory
            | Error::NotPermitted(_)
            | Error::Stale(_)
            | Error::Invalid(_),
        ) => {}
        Err(error) => panic!("{error}"),
    }
}

fn shake(fs: &Filesystem, random: &mut SmallRng) {
    let name = |random: &mut SmallRng| {
        let (directory, number) = (random.random_range(0..3), random.random_range(0..12));
        format!("/d{directory}/{number}")
    };
    let (one, two) = (name(random), name(random));
    let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][random.random_range(0..3)];
    let result = match random.random_range(0..10) {
        0..3 => fs
            .open_file(&one, CREATE, new_inode())
            .and_then(|file| file.append(&[1; 5000]).map(drop)),
        3..5 => fs.unlink(&one),
        5..7 => fs.rename(&one, &two, mode),
        7 => fs.link(&one, &two),
        8 => fs.create_dir(&one, new_inode()).map(drop),
        _ => fs.remove_dir(&one),
    };
    expected_of_a_race(result);
}

#[test]
fn threads_that_share_directories_leave_a_sound_pool() {
    const THREADS: u64 = 4;
    for seed in 0..3 {
        let pool = TestPool::new(32 * MIB);
        let fs = pool.open();
        for number in 0..3 {
            fs.create_dir(format!("/d{number}"), new_inode()).unwrap();
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for number in 0..3 {
                        let listed = entries(&fs, &format!("/d{number}")).unwrap();
                        let names: BTreeSet<_> = listed.iter().map(|entry| &entry.name).collect();
                        assert!(names.len() <= 12, "{listed:?}");
                    }
                }
            });
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let fs = &fs;
                    scope.spawn(move || {
                        let mut random = SmallRng::seed_from_u64(seed * THREADS + thread);
                        (0..3000).for_each(|_| shake(fs, &mut random));
                    })
                })
                .collect();
            let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok), "seed {seed}");
            reader.join().unwrap();
        });
        let report = pool.check();
        assert_eq!(report.inodes, fs.stat_filesystem().inodes, "seed {seed}");
        remove_all(&fs, "");
        assert_eq!(fs.stat_filesystem().inodes, 1, "seed {seed}");
        pool.check();
    }
}

#[test]
fn a_directory_of_many_names_is_found_listed_and_emptied() {
    let count: u32 = std::env::var("UDAX_TEST_NAMES").map_or(200_000, |text| text.parse().unwrap());
    let pool = TestPool::new(256 * MIB + u64::from(count) * 512);
    let name = |number: u32| format!("/d/{number}");
    let timed = |what: &str, from: Instant| {
        let each = from.elapsed() / count;
        println!("{what} {count} names: {:?}, {each:?} each", from.elapsed());
    };
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    let from = Instant::now();
    for number in 0..count {
        drop(open(&fs, &name(number)));
    }
    timed("created", from);
    fs.close().unwrap();
    let from = Instant::now();
    let fs = pool.open();
    println!("opened: {:?}", from.elapsed());
    let from = Instant::now();
    for number in 0..count {
        drop(fs.open_file(name(number), READ_WRITE, new_inode()).unwrap());
    }
    timed("found", from);
    assert!(matches!(fs.stat(name(count)), Err(Error::NotFound)));
    let from = Instant::now();
    let listed = entries(&fs, "/d").unwrap();
    timed("listed", from);
    let names: BTreeSet<&[u8]> = listed.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names.len(), listed.len());
    assert_eq!(u32::try_from(names.len()).unwrap(), count);
    let from = Instant::now();
    for number in 0..count {
        fs.unlink(name(number)).unwrap();
    }
    timed("removed", from);
    fs.remove_dir("/d").unwrap();
    assert_eq!(fs.stat_filesystem().inodes, 1);
    fs.close().unwrap();
    check(&pool.path);
}

#[test]
fn a_temporary_file_is_not_made_through_a_link_that_must_not_be_followed() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    fs.create_dir("/d", new_inode()).unwrap();
    fs.symlink(b"/d", "/to_d", new_inode()).unwrap();
    fs.symlink(b"/nowhere", "/to_nowhere", new_inode()).unwrap();
    let temporary = READ_WRITE | OpenFlags::TEMPORARY;
    drop(fs.open_file("/to_d", temporary, new_inode()).unwrap());
    for link in ["/to_d", "/to_nowhere"] {
        let refused = fs.open_file(link, temporary | OpenFlags::NO_FOLLOW, new_inode());
        assert!(matches!(refused, Err(Error::NotDirectory)), "{refused:?}");
    }
}
