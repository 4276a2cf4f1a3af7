//! Kinds of operations that only pools have whose files are cached, have checksums, or lie on a data device; and which
//! kinds there are on each of these grounds.

use udax::{Access, AllocateMode, Checksums, Dax, Filesystem, OpenFlags, Request, WriteFlags};

use crate::grounds::Ground;
use crate::kinds::{Kind, Refused, existing, kind, kinds, plain, scattered};
use crate::pins::BLOCK;
use crate::pool::{READ_WRITE, new_inode, open};

/// A file whose last block is another's too and has bytes behind the end; all of it is written.
fn shared_tail(fs: &Filesystem, _: u64) {
    for path in ["/f", "/clone"] {
        open(fs, path).truncate(0).unwrap();
    }
    let (file, clone) = (open(fs, "/f"), open(fs, "/clone"));
    file.append(&[1; 3 * 4096 + 100]).unwrap();
    file.truncate(2 * BLOCK + 50).unwrap();
    file.sync().unwrap();
    file.clone_range(0, &clone, 0, 0).unwrap();
}

/// A file whose last block is its own and has bytes behind the end.
fn cut_tail(fs: &Filesystem, _: u64) {
    let file = open(fs, "/f");
    file.truncate(0).unwrap();
    file.append(&[1; 3 * 4096 + 100]).unwrap();
    file.truncate(2 * BLOCK + 50).unwrap();
    file.sync().unwrap();
}

fn emptied(fs: &Filesystem) {
    open(fs, "/f").truncate(0).unwrap();
}

/// Of any file, where tails are replaced or shared.
const TAILS: [Kind; 4] = [
    kind("write behind a shared tail", |fs, number| {
        existing(fs, "/f")?
            .write_at(&[3; 100], (number + 5) * BLOCK)
            .map(drop)
    })
    .each_time(shared_tail)
    .leaves(Refused::SameBytes),
    kind("write behind a cut tail", |fs, number| {
        existing(fs, "/f")?
            .write_at(&[3; 100], (number + 5) * BLOCK)
            .map(drop)
    })
    .each_time(cut_tail)
    .leaves(Refused::SameBytes),
    kind("append to a shared tail", |fs, _| {
        existing(fs, "/f")?.append(&[3; 5000]).map(drop)
    })
    .each_time(shared_tail)
    .leaves(Refused::SameBytes),
    kind("grow behind a cut tail", |fs, number| {
        existing(fs, "/f")?.truncate((number + 5) * BLOCK)
    })
    .each_time(cut_tail)
    .leaves(Refused::SameBytes),
];

/// Of files in the page cache.
const CACHED: [Kind; 8] = [
    kind("durable write into a hole", |fs, number| {
        let file = existing(fs, "/f")?;
        file.write_with(&[3; 5000], number * 3 * BLOCK + 100, WriteFlags::DSYNC)
            .map(drop)
    })
    .after(|fs| open(fs, "/f").truncate(1 << 30).unwrap())
    // It may be in the cache, and not in the pool.
    .leaves(Refused::Partial),
    kind("uncached write", |fs, number| {
        let file = existing(fs, "/f")?;
        file.write_with(&[3; 5000], number * 3 * BLOCK + 100, WriteFlags::DONTCACHE)
            .map(drop)
    })
    .after(emptied),
    kind("atomic write", |fs, number| {
        let file = existing(fs, "/f")?;
        let at = number % 3 * 4 * BLOCK;
        file.write_with(&[3; 4 * 4096], at, WriteFlags::ATOMIC).map(drop)
    })
    .after(plain),
    kind("direct write", |fs, number| {
        let file = fs.open_file("/f", READ_WRITE | OpenFlags::DIRECT, new_inode())?;
        file.write_at(&[3; 5000], number * 3 * BLOCK + 100).map(drop)
    })
    .after(emptied),
    kind("writes and a sync", |fs, number| {
        let file = existing(fs, "/f")?;
        for island in 0..20 {
            let at = (number * 20 + island) * 2 * BLOCK;
            file.write_at(&[3; 4096], at)?;
        }
        file.sync()
    })
    .after(emptied)
    .leaves(Refused::Partial),
    kind("writes and a cut of some of them", |fs, number| {
        let file = existing(fs, "/f")?;
        let end = number * 8 * BLOCK;
        for island in 0..8 {
            file.write_at(&[3; 4096], end + island * BLOCK)?;
        }
        file.truncate(end + 8 * BLOCK - 10)
    })
    .after(emptied)
    .leaves(Refused::Partial),
    kind("writes and a punch of some of them", |fs, number| {
        let file = existing(fs, "/f")?;
        let end = number * 8 * BLOCK;
        for island in 0..8 {
            file.write_at(&[3; 4096], end + island * BLOCK)?;
        }
        file.allocate(AllocateMode::PunchHole, end + 2 * BLOCK, 4 * BLOCK)
    })
    .after(emptied)
    .leaves(Refused::Partial),
    kind("overwrites of what is there", |fs, number| {
        let file = existing(fs, "/f")?;
        for block in [3, 4, 9, 20, 31] {
            file.write_at(&[number.to_le_bytes()[0]; 4096], block * 2 * BLOCK)?;
        }
        file.sync()
    })
    .after(|fs| scattered(fs, "/f", 40))
    .leaves(Refused::Partial),
];

/// Where data has checksums.
const SUMMED: [Kind; 2] = [
    kind("take checksums away", |fs, _| {
        existing(fs, "/f")?.set_checksums(Checksums::Off)
    })
    .each_time(|fs, _| {
        open(fs, "/f").set_checksums(Checksums::On).unwrap();
        scattered(fs, "/f", 100);
    })
    .leaves(Refused::Partial),
    kind("give checksums", |fs, _| {
        existing(fs, "/f")?.set_checksums(Checksums::On)
    })
    .each_time(|fs, _| {
        open(fs, "/f").set_checksums(Checksums::Off).unwrap();
        scattered(fs, "/f", 100);
    })
    .leaves(Refused::Partial),
];

/// Where that is reached by memory access.
const SUMMED_PINNED: [Kind; 1] = [kind("pin and store", |fs, number| {
    let file = existing(fs, "/f")?;
    let request = Request::new(Access::Write);
    let pin = file.pin(number % 30 * 2 * BLOCK, 3 * BLOCK, request)?;
    pin.write(10, b"stored")?;
    Ok(())
})
.after(|fs| {
    scattered(fs, "/f", 60);
    // What holes get sums of their own, in extents of their own.
    open(fs, "/f").write_at(&[5; 4096], 200 * BLOCK).unwrap();
})
.leaves(Refused::SameBytes)];

/// Between the pool and its data device, or the page cache and memory access.
const SWITCHES: [Kind; 3] = [
    kind("move to the pool", |fs, _| existing(fs, "/f")?.set_dax(Dax::On))
        .each_time(|fs, _| {
            let file = open(fs, "/f");
            file.set_dax(Dax::Off).unwrap();
            scattered(fs, "/f", 40);
            file.sync().unwrap();
        })
        .leaves(Refused::Moved),
    kind("move to the device", |fs, _| {
        existing(fs, "/f")?.set_dax(Dax::Off)
    })
    .each_time(|fs, _| {
        open(fs, "/f").set_dax(Dax::On).unwrap();
        scattered(fs, "/f", 40);
    })
    .leaves(Refused::Moved),
    kind("move what was just written", |fs, number| {
        let file = existing(fs, "/f")?;
        for island in 0..8 {
            file.write_at(&[number.to_le_bytes()[0]; 4096], island * 2 * BLOCK)?;
        }
        file.set_dax(Dax::On)
    })
    .each_time(|fs, _| {
        let file = open(fs, "/f");
        file.set_dax(Dax::Off).unwrap();
        file.truncate(0).unwrap();
    })
    .leaves(Refused::Partial),
];

/// All kinds that there are on `ground`.
pub(crate) fn kinds_on(ground: Ground) -> impl Iterator<Item = &'static Kind> {
    let own: [&'static [Kind]; 5] = [
        const { &TAILS },
        if ground.is_cached() {
            const { &CACHED }
        } else {
            &[]
        },
        if ground.is_summed() {
            const { &SUMMED }
        } else {
            &[]
        },
        if ground == Ground::Summed {
            const { &SUMMED_PINNED }
        } else {
            &[]
        },
        if matches!(ground, Ground::CachedSummed | Ground::Tiered) {
            const { &SWITCHES }
        } else {
            &[]
        },
    ];
    // What is cached cannot be pinned.
    kinds()
        .filter(move |kind| !ground.is_cached() || !kind.name.starts_with("pin "))
        .chain(own.into_iter().flatten())
}
