//! One operation of each kind that takes blocks, to be done again and again on a pool that refuses some of them.

use udax::{Access, AllocateMode, File, Filesystem, OpenFlags, RenameMode, Request, XattrMode};

use crate::pins::BLOCK;
use crate::pool::{CREATE, READ_WRITE, new_inode, open};

/// What a refused operation may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// All is as before.
    Unchanged,
    /// Nobody sees a difference, but blocks may be another file's no more, or be allocated where holes were.
    SameBytes,
    /// As `SameBytes`, and the flag that decides where its blocks are may have changed.
    Moved,
    /// What it does step by step may be done in part.
    Partial,
}

/// Whether the pool may be too full for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Chance {
    MayBeFull,
    /// It gives blocks back: the reserve is for it.
    Sure,
}

/// An operation that takes blocks. `number` is another one each time, from 0 on.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) refused: Refused,
    pub(crate) chance: Chance,
    /// What it needs; done once in a pool.
    pub(crate) prepare: fn(&Filesystem),
    /// What it needs each time.
    pub(crate) begin: fn(&Filesystem, u64),
    pub(crate) work: fn(&Filesystem, u64) -> udax::Result<()>,
}

pub(crate) fn existing(fs: &Filesystem, path: &str) -> udax::Result<File> {
    fs.open_file(path, READ_WRITE, new_inode())
}

fn nothing(_: &Filesystem) {}

fn nothing_each(_: &Filesystem, _: u64) {}

/// A name that fills a leaf of a directory soon.
fn long(directory: &str, number: u64) -> String {
    format!("{directory}/{number:0>240}")
}

/// `/f` with `count` extents of a block each, a hole behind each.
pub(crate) fn scattered(fs: &Filesystem, path: &str, count: u64) {
    let file = open(fs, path);
    for island in 0..count {
        file.write_at(&[7; 4096], island * 2 * BLOCK).unwrap();
    }
}

pub(crate) fn plain(fs: &Filesystem) {
    open(fs, "/f").append(&[1; 9 * 4096 + 100]).unwrap();
}

fn shared(fs: &Filesystem) {
    open(fs, "/f").append(&[1; 40 * 4096]).unwrap();
    let clone = open(fs, "/clone");
    open(fs, "/f").clone_range(0, &clone, 0, 0).unwrap();
}

/// What each time makes `/f` anew, and shares it.
fn share_again(fs: &Filesystem, _: u64) {
    for path in ["/f", "/clone"] {
        open(fs, path).truncate(0).unwrap();
    }
    shared(fs);
}

pub(crate) const fn kind(name: &'static str, work: fn(&Filesystem, u64) -> udax::Result<()>) -> Kind {
    Kind {
        name,
        refused: Refused::Unchanged,
        chance: Chance::MayBeFull,
        prepare: nothing,
        begin: nothing_each,
        work,
    }
}

impl Kind {
    pub(crate) const fn after(self, prepare: fn(&Filesystem)) -> Self {
        Self { prepare, ..self }
    }

    pub(crate) const fn each_time(self, begin: fn(&Filesystem, u64)) -> Self {
        Self { begin, ..self }
    }

    pub(crate) const fn leaves(self, refused: Refused) -> Self {
        Self { refused, ..self }
    }

    const fn sure(self) -> Self {
        Self {
            chance: Chance::Sure,
            ..self
        }
    }
}

/// Names and inodes.
const NAMES: [Kind; 9] = [
    kind("create", |fs, number| {
        fs.open_file(long("", number), CREATE, new_inode()).map(drop)
    }),
    kind("mkdir", |fs, number| {
        fs.create_dir(long("", number), new_inode()).map(drop)
    }),
    kind("long symlink", |fs, number| {
        fs.symlink(&[b'x'; 3000], long("", number), new_inode()).map(drop)
    }),
    kind("link", |fs, number| fs.link("/f", long("", number))).after(plain),
    kind("temporary file", |fs, number| {
        let file = fs.open_file("/", READ_WRITE | OpenFlags::TEMPORARY, new_inode())?;
        if number.is_multiple_of(2) {
            return Ok(());
        }
        fs.link_file(&file, long("", number))
    }),
    kind("rename into a directory", |fs, number| {
        fs.rename(format!("/{number}"), long("/d", number), RenameMode::Replace)
    })
    .after(|fs| {
        fs.create_dir("/d", new_inode()).unwrap();
    })
    .each_time(|fs, number| drop(open(fs, &format!("/{number}")))),
    kind("rename over a file", |fs, number| {
        fs.rename(format!("/{number}"), "/f", RenameMode::Replace)
    })
    .each_time(|fs, number| {
        drop(open(fs, &format!("/{number}")));
        scattered(fs, "/f", 3);
    }),
    kind("small attribute", |fs, number| {
        let name = format!("user.{number}");
        fs.set_xattr("/f", name.as_bytes(), &[1; 200], XattrMode::Create)
    })
    .after(plain),
    kind("large attribute", |fs, number| {
        let name = format!("user.{}", number % 5);
        fs.set_xattr("/f", name.as_bytes(), &[2; 9000], XattrMode::Either)
    })
    .after(plain),
];

/// Bytes and blocks.
const BYTES: [Kind; 13] = [
    kind("append", |fs, _| {
        existing(fs, "/f")?.append(&[1; 4096 + 50]).map(drop)
    })
    .after(plain),
    kind("write into a hole", |fs, number| {
        let at = number * 3 * BLOCK + 100;
        existing(fs, "/f")?.write_at(&[3; 5000], at).map(drop)
    })
    .after(|fs| open(fs, "/f").truncate(1 << 30).unwrap()),
    kind("write far behind the end", |fs, number| {
        existing(fs, "/f")?
            .write_at(b"island", (number + 4) * 16 * BLOCK)
            .map(drop)
    })
    .after(plain),
    kind("write to unwritten blocks", |fs, number| {
        let at = number * 2 * BLOCK + 100;
        existing(fs, "/f")?.write_at(&[3; 100], at).map(drop)
    })
    .after(|fs| {
        open(fs, "/f")
            .allocate(AllocateMode::Allocate, 0, 1 << 20)
            .unwrap();
    }),
    kind("write to shared blocks", |fs, _| {
        existing(fs, "/f")?.write_at(&[4; 100], 3 * BLOCK + 7).map(drop)
    })
    .each_time(share_again),
    kind("truncate into a shared block", |fs, number| {
        existing(fs, "/f")?.truncate(39 * BLOCK - 100 - number)
    })
    .each_time(share_again)
    .leaves(Refused::SameBytes),
    kind("extend a file with a shared last block", |fs, number| {
        existing(fs, "/f")?.truncate(50 * BLOCK + number)
    })
    .each_time(share_again)
    .leaves(Refused::SameBytes),
    kind("allocate", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::Allocate, number * 40_000 + 50_000, 30_000)
    })
    .after(plain),
    kind("zero", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::ZeroRange, number * 9_000 + 7, 8_000)
    })
    .after(|fs| scattered(fs, "/f", 60))
    .leaves(Refused::SameBytes),
    kind("unshare", |fs, _| {
        existing(fs, "/f")?.allocate(AllocateMode::Unshare, 0, 40 * BLOCK)
    })
    .each_time(share_again)
    .leaves(Refused::SameBytes),
    kind("punch with edges in shared blocks", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::PunchHole, 2 * BLOCK + 10 + number, 5 * BLOCK)
    })
    .each_time(share_again)
    .leaves(Refused::SameBytes),
    kind("pin holes", |fs, number| {
        let file = existing(fs, "/f")?;
        let request = Request::new(Access::Write);
        file.pin(number * 5 * BLOCK, 4 * BLOCK, request).map(drop)
    })
    .after(|fs| open(fs, "/f").truncate(1 << 30).unwrap())
    .leaves(Refused::SameBytes),
    kind("pin shared blocks", |fs, _| {
        let file = existing(fs, "/f")?;
        file.pin(BLOCK, 8 * BLOCK, Request::new(Access::Write)).map(drop)
    })
    .each_time(share_again)
    .leaves(Refused::SameBytes),
];

/// Blocks that change hands.
const MOVES: [Kind; 8] = [
    kind("copy", |fs, number| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?
            .copy_range(0, &target, number * 20_000, 8_000)
            .map(drop)
    })
    .after(|fs| {
        plain(fs);
        drop(open(fs, "/to"));
    }),
    kind("clone", |fs, number| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?.clone_range(0, &target, number * 64 * BLOCK, 32 * BLOCK)
    })
    .after(|fs| {
        scattered(fs, "/f", 30);
        drop(open(fs, "/to"));
    })
    .leaves(Refused::SameBytes),
    kind("long clone", |fs, _| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?.clone_range(0, &target, 0, 0)
    })
    .after(|fs| scattered(fs, "/f", 400))
    .each_time(|fs, number| {
        open(fs, "/to").truncate(0).unwrap();
        // Another block of the source is alone each time.
        open(fs, "/f").write_at(&[5; 4096], number * 2 * BLOCK).unwrap();
    })
    .leaves(Refused::Partial),
    kind("dedupe", |fs, _| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?
            .dedupe_range(0, &target, 0, 8 * BLOCK)
            .map(drop)
    })
    .each_time(|fs, _| {
        for path in ["/f", "/to"] {
            open(fs, path).write_at(&[6; 8 * 4096], 0).unwrap();
        }
    }),
    kind("exchange", |fs, number| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?.exchange_range(number * BLOCK, &target, number * 3 * BLOCK, 3 * BLOCK)
    })
    .after(|fs| {
        scattered(fs, "/f", 50);
        scattered(fs, "/to", 100);
    }),
    kind("insert", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::Insert, (number % 7) * 8 * BLOCK, 2 * BLOCK)
    })
    .after(|fs| scattered(fs, "/f", 60)),
    kind("long insert", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::Insert, (number % 7) * 8 * BLOCK, 2 * BLOCK)
    })
    .after(|fs| scattered(fs, "/f", 1100)),
    kind("long exchange", |fs, _| {
        let target = existing(fs, "/to")?;
        existing(fs, "/f")?.exchange_range(0, &target, 0, 398 * BLOCK)
    })
    .after(|fs| {
        scattered(fs, "/f", 200);
        scattered(fs, "/to", 200);
    }),
];

/// What gives blocks back in the end: refused only when nothing at all is left.
const REMOVALS: [Kind; 5] = [
    kind("punch", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::PunchHole, number * 3 * BLOCK + BLOCK, BLOCK)
    })
    .after(|fs| {
        open(fs, "/f").append(&[1; 1 << 20]).unwrap();
    })
    .sure(),
    kind("unlink", |fs, number| fs.unlink(format!("/{number}")))
        .each_time(|fs, number| scattered(fs, &format!("/{number}"), 20))
        .sure(),
    kind("unlink what is open", |fs, number| {
        let path = format!("/{number}");
        let _file = existing(fs, &path)?;
        fs.unlink(&path)
    })
    .each_time(|fs, number| scattered(fs, &format!("/{number}"), 20))
    .sure(),
    kind("long truncation", |fs, _| existing(fs, "/f")?.truncate(BLOCK))
        .each_time(|fs, _| scattered(fs, "/f", 600))
        .leaves(Refused::Partial)
        .sure(),
    kind("collapse", |fs, number| {
        existing(fs, "/f")?.allocate(AllocateMode::Collapse, (number % 7) * 2 * BLOCK, BLOCK)
    })
    .after(|fs| scattered(fs, "/f", 200)),
];

/// All of them.
pub(crate) fn kinds() -> impl Iterator<Item = &'static Kind> {
    const { &NAMES }
        .iter()
        .chain(const { &BYTES })
        .chain(const { &MOVES })
        .chain(const { &REMOVALS })
}
