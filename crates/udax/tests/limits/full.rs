//! Full pools: what does not fit changes nothing, nothing is lost, and deleting always works.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use udax::{AllocateMode, Dax, Error, File, FileKind, Filesystem, RenameMode, Stat, XattrMode};

use crate::grounds::{Ground, Grounds};
use crate::pool::{CREATE, MIB, READ_WRITE, TestPool, entries, new_inode, open, remove_all};

/// Blocks that stay in use when everything has been deleted: inode chunks and nodes of their tree are given back only
/// when space is needed.
const KEPT_BLOCKS: u64 = 4;

/// Everything that can be seen of a pool, times of reading apart.
type Seen = BTreeMap<String, (Stat, Vec<Vec<u8>>)>;

fn see(fs: &Filesystem) -> Seen {
    let mut seen = Seen::new();
    see_below(fs, "", &mut seen);
    seen
}

fn see_below(fs: &Filesystem, path: &str, seen: &mut Seen) {
    let listed = if path.is_empty() { "/" } else { path };
    let mut stat = fs.stat_link(listed).unwrap();
    stat.atime = stat.btime;
    seen.insert(path.to_owned(), (stat, fs.list_xattrs(listed).unwrap()));
    if stat.kind == FileKind::Directory {
        for entry in entries(fs, listed).unwrap() {
            let name = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
            see_below(fs, &name, seen);
        }
    }
}

/// The check finds nothing, and counts the free blocks that the open pool tells.
#[track_caller]
fn assert_sound(pool: &TestPool, fs: &Filesystem) {
    let report = pool.check();
    let told = fs.stat_filesystem();
    assert_eq!(report.total_blocks - report.used_blocks, told.free_blocks);
    assert_eq!(report.inodes, told.inodes);
}

/// Something that needs space. `number` is another one each time.
type Operation = (&'static str, fn(&Filesystem, u64) -> udax::Result<()>);

fn long_name(number: u64) -> String {
    format!("/{number:0>250}")
}

const OPERATIONS: &[Operation] = &[
    ("create", |fs, number| {
        fs.open_file(format!("/c{number}"), CREATE, new_inode()).map(drop)
    }),
    ("create with a long name", |fs, number| {
        fs.open_file(long_name(number), CREATE, new_inode()).map(drop)
    }),
    ("mkdir", |fs, number| {
        fs.create_dir(format!("/d{number}"), new_inode()).map(drop)
    }),
    ("create in a new directory", |fs, number| {
        let directory = format!("/n{number}");
        fs.create_dir(&directory, new_inode())?;
        let result = fs
            .open_file(format!("{directory}/f"), CREATE, new_inode())
            .map(drop);
        if result.is_err() {
            fs.remove_dir(&directory)?;
        }
        result
    }),
    ("long symlink", |fs, number| {
        fs.symlink(&[b'x'; 200], format!("/l{number}"), new_inode())
            .map(drop)
    }),
    ("append a block", |fs, _| {
        let file = fs.open_file("/kept", READ_WRITE, new_inode())?;
        file.append(&[1; 4096]).map(drop)
    }),
    ("append a megabyte", |fs, _| {
        let file = fs.open_file("/kept", READ_WRITE, new_inode())?;
        let size = file.stat()?.size;
        file.append(&[2; 1 << 20])?;
        // Fewer may have been written; then there is no space, as the next append says.
        if file.stat()?.size < size + (1 << 20) {
            return file.append(&[3; 1 << 20]).map(drop);
        }
        Ok(())
    }),
    ("write far behind the end", |fs, number| {
        let file = fs.open_file("/sparse", READ_WRITE, new_inode())?;
        file.write_at(b"island", number * 65_536).map(drop)
    }),
    ("allocate", |fs, number| {
        let file = fs.open_file("/allocated", READ_WRITE, new_inode())?;
        file.allocate(AllocateMode::Allocate, number * 200_000, 100_000)
    }),
    ("small attribute", |fs, number| {
        fs.set_xattr(
            "/kept",
            format!("user.{number}").as_bytes(),
            &[1; 100],
            XattrMode::Create,
        )
    }),
    ("large attribute", |fs, number| {
        fs.set_xattr(
            "/sparse",
            format!("user.{number}").as_bytes(),
            &[1; 9000],
            XattrMode::Create,
        )
    }),
    ("link", |fs, number| {
        fs.link("/kept", format!("/link{number:0>100}"))
    }),
    ("rename to a longer name", |fs, number| {
        fs.rename("/moved", "/moved too", RenameMode::Replace)?;
        let away = format!("/moved{number:0>200}");
        let result = fs.rename("/moved too", &away, RenameMode::Replace);
        let now = if result.is_ok() {
            away.as_str()
        } else {
            "/moved too"
        };
        fs.rename(now, "/moved", RenameMode::Replace)?;
        result
    }),
];

/// A pool with the files that the operations use, and `available` blocks to take.
fn nearly_full(pool: &TestPool, available: u64) -> Filesystem {
    let fs = pool.open();
    for name in ["/kept", "/sparse", "/allocated", "/moved", "/ballast"] {
        drop(open(&fs, name));
    }
    let ballast = open(&fs, "/ballast");
    let blocks = fs.stat_filesystem().available_blocks - available;
    ballast
        .allocate(AllocateMode::KeepSize, 0, blocks * 4096)
        .unwrap();
    drop(ballast);
    fs
}

/// Repeats `operation` until there is no space; that failure must have changed nothing.
fn fill(pool: &TestPool, fs: &Filesystem, (name, operation): Operation, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let may_be_partial = matches!(name, "append a megabyte" | "create in a new directory");
        let before = if may_be_partial { None } else { Some(see(fs)) };
        match operation(fs, number) {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) => {
                let after = see(fs);
                if let Some(before) = before.filter(|_| !name.starts_with("rename")) {
                    assert!(before == after, "{name}: a failure changed something");
                }
                assert_sound(pool, fs);
                return;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn at_each_fill_level_each_operation_fails_whole_and_leaks_nothing() {
    for (index, operation) in OPERATIONS.iter().enumerate() {
        for available in (0..12).chain([20, 40]) {
            let pool = TestPool::new(16 * MIB);
            let fs = nearly_full(&pool, available);
            fill(&pool, &fs, *operation, 0..2000);
            // Another kind of operation meets what the first has left.
            let other = OPERATIONS[(index + 5) % OPERATIONS.len()];
            fill(&pool, &fs, other, 2000..4000);
            remove_all(&fs, "");
            assert_sound(&pool, &fs);
        }
    }
}

#[test]
fn a_filled_pool_is_emptied_again_whatever_filled_it() {
    for bytes in [16 * MIB, 20 * MIB] {
        for seed in 0..3 {
            let mut random = SmallRng::seed_from_u64(seed);
            let pool = TestPool::new(bytes);
            let fs = pool.open();
            let free = fs.stat_filesystem().free_blocks;
            for round in 0..3 {
                for name in ["/kept", "/sparse", "/allocated", "/moved"] {
                    drop(open(&fs, name));
                }
                let mut failures = 0;
                let mut number = 0;
                while failures < 30 {
                    let (name, operation) = OPERATIONS[random.random_range(0..OPERATIONS.len())];
                    number += 1;
                    match operation(&fs, number) {
                        Ok(()) => {}
                        Err(Error::NoSpace { .. }) => failures += 1,
                        Err(error) => panic!("seed {seed}, round {round}, {name}: {error}"),
                    }
                }
                assert_sound(&pool, &fs);
                remove_all(&fs, "");
                assert_sound(&pool, &fs);
            }
            fs.close().unwrap();
            let fs = pool.open();
            // An allocation that cannot be met makes the pool give back what it keeps.
            let file = open(&fs, "/f");
            let error = file.allocate(AllocateMode::KeepSize, 0, bytes).unwrap_err();
            assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            drop(file);
            fs.unlink("/f").unwrap();
            fs.sync().unwrap();
            let kept = free - fs.stat_filesystem().free_blocks;
            assert!(kept <= KEPT_BLOCKS, "seed {seed}: {kept} blocks are gone");
            assert_sound(&pool, &fs);
        }
    }
}

#[test]
fn an_allocation_beyond_the_space_changes_nothing() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    let file = open(&fs, "/f");
    file.append(b"something").unwrap();
    let before = (see(&fs), fs.stat_filesystem());
    for mode in [
        AllocateMode::Allocate,
        AllocateMode::KeepSize,
        AllocateMode::ZeroRange,
    ] {
        let error = file.allocate(mode, 4096, 64 * MIB).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{mode:?}: {error}");
        let after = (see(&fs), fs.stat_filesystem());
        assert!(before.0 == after.0, "{mode:?}");
        assert_eq!(before.1, after.1, "{mode:?}");
        assert_sound(&pool, &fs);
    }
}

#[test]
fn a_pool_filled_to_the_last_block_can_be_emptied_file_by_file() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    // Many fragmented files: every second block of one belongs to another.
    let files = [open(&fs, "/a"), open(&fs, "/b")];
    let mut block = 0;
    loop {
        let file = &files[usize::try_from(block % 2).unwrap()];
        match file.write_at(&[5; 4096], block / 2 * 8192) {
            Ok(_) => block += 1,
            Err(Error::NoSpace { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_sound(&pool, &fs);
    let full = fs.stat_filesystem();
    assert_eq!(full.available_blocks, 0);
    for (file, name) in files.iter().zip(["/a", "/b"]) {
        // Cutting extents in two needs nodes: only what is kept for that is left.
        for at in (0..block / 2).step_by(7) {
            file.allocate(AllocateMode::PunchHole, at * 8192, 4096).unwrap();
        }
        file.truncate(block / 4 * 8192).unwrap();
        assert_sound(&pool, &fs);
        fs.unlink(name).unwrap();
    }
    drop(files);
    assert_sound(&pool, &fs);
    assert_eq!(fs.stat_filesystem().inodes, 1);
}

const TREES: usize = 12;

/// Directories of files that are cut up, shared, or have attributes, until no block is left.
fn fill_with_everything(grounds: &Grounds, fs: &Filesystem) {
    for tree in 0..TREES {
        let directory = format!("/t{tree}");
        fs.create_dir(&directory, new_inode()).unwrap();
        for number in 0..8 {
            let file = open(fs, &format!("{directory}/f{number}"));
            for island in 0..40 {
                file.write_at(&[7; 4096], island * 2 * 4096).unwrap();
            }
            let clone = open(fs, &format!("{directory}/c{number}"));
            file.clone_range(0, &clone, 0, 0).unwrap();
            // Some of the clone's blocks are shared no more, so that share counts are cut up as well.
            clone.write_at(&[8; 4096], number * 6 * 4096).unwrap();
            let attribute = format!("user.{number}");
            let path = format!("{directory}/f{number}");
            fs.set_xattr(&path, attribute.as_bytes(), &[1; 5000], XattrMode::Create)
                .unwrap();
        }
    }
    let last_files = last_files(grounds, fs);
    let mut number = 0;
    let mut last = 0;
    while last < 20 {
        let path = format!("/t{}/{number:0>200}", number % 12);
        let filled = fs
            .open_file(path, CREATE, new_inode())
            .and_then(|file| file.append(&[9; 9000]));
        number += 1;
        last += u64::from(matches!(filled, Err(Error::NoSpace { .. })));
    }
    fill_to_the_last_block(fs, &last_files);
}

/// Files that can take what is left, of the pool and of its data device.
fn last_files(grounds: &Grounds, fs: &Filesystem) -> Vec<File> {
    let tiers: &[Dax] = match grounds.ground {
        Ground::Tiered => &[Dax::Off, Dax::On],
        _ => &[Dax::Off],
    };
    let files = tiers.iter().map(|dax| {
        let file = open(fs, &format!("/t0/last {dax:?}"));
        file.set_dax(*dax).unwrap();
        file
    });
    files.collect()
}

/// Takes what is left for these files.
fn fill_to_the_last_block(fs: &Filesystem, last: &[File]) {
    for file in last {
        while file.append(&[10; 4096]).is_ok() {}
        file.sync().unwrap();
        // Appends leave some for the nodes of what is dirty.
        let mut at = 1 << 20;
        while file.allocate(AllocateMode::KeepSize, at * 4096, 4096).is_ok() {
            at += 1;
        }
    }
    let told = fs.stat_filesystem();
    assert_eq!((told.available_blocks, told.device_free_blocks), (0, 0));
}

/// One of the ways to have less of a file.
fn reduce(fs: &Filesystem, path: &str, random: &mut SmallRng) -> udax::Result<()> {
    let file = fs.open_file(path, READ_WRITE, new_inode())?;
    let block = random.random_range(0..80);
    // Where the file has a block of its own, there is room for that: of a cached file it is dirty then.
    let written = file.write_at(&[11; 100], random.random_range(0..80) * 4096);
    assert!(
        matches!(written, Ok(100) | Err(Error::NoSpace { .. })),
        "{path}: {written:?}"
    );
    match random.random_range(0..6) {
        0 | 1 => file.allocate(AllocateMode::PunchHole, block * 4096, 2 * 4096),
        2 => file.truncate(block * 4096),
        3 => fs.remove_xattr(path, b"user.0").or_else(|error| match error {
            Error::NoAttribute => Ok(()),
            error => Err(error),
        }),
        // Freed with its last handle.
        _ => fs.unlink(path),
    }
}

fn is_there(fs: &Filesystem, path: &str) -> bool {
    fs.stat_link(path).is_ok()
}

fn everything_is_cut_and_removed(ground: Ground) {
    for seed in 0..3 {
        let mut random = SmallRng::seed_from_u64(seed);
        let grounds = Grounds::new(ground, 32 * MIB);
        let fs = grounds.open();
        let free = fs.stat_filesystem();
        fill_with_everything(&grounds, &fs);
        let mut paths: Vec<String> = (0..TREES)
            .flat_map(|tree| {
                let directory = format!("/t{tree}");
                let files = entries(&fs, &directory).unwrap().into_iter();
                files.map(move |entry| format!("{directory}/{}", String::from_utf8(entry.name).unwrap()))
            })
            .collect();
        while !paths.is_empty() {
            let index = random.random_range(0..paths.len());
            let path = &paths[index];
            let what = format!("{ground:?}, seed {seed}, {path}");
            reduce(&fs, path, &mut random).unwrap_or_else(|error| panic!("{what}: {error}"));
            if !is_there(&fs, path) {
                paths.swap_remove(index);
            }
        }
        for tree in 0..TREES {
            fs.remove_dir(format!("/t{tree}")).unwrap();
        }
        let what = format!("{ground:?}, seed {seed}");
        grounds.assert_sound(&fs, &what);
        let now = fs.stat_filesystem();
        let kept = free.free_blocks - now.free_blocks;
        assert!(kept <= 100, "{what}: {kept} blocks are gone");
        assert_eq!(now.device_free_blocks, free.device_free_blocks, "{what}");
    }
}

#[test]
fn everything_in_a_full_pool_is_cut_and_removed_in_any_order() {
    everything_is_cut_and_removed(Ground::Plain);
    everything_is_cut_and_removed(Ground::Summed);
}

#[test]
fn everything_in_a_full_pool_is_cut_and_removed_though_pages_of_it_are_dirty() {
    everything_is_cut_and_removed(Ground::Cached);
    everything_is_cut_and_removed(Ground::CachedSummed);
}

#[test]
fn everything_in_a_full_pool_with_a_full_device_is_cut_and_removed_in_any_order() {
    everything_is_cut_and_removed(Ground::Tiered);
}
