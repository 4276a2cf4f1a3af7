//! Errors of calls on names, in the order that Linux has.

use udax::{Error, Filesystem, OpenFlags, RenameMode};

use crate::pool::{CREATE, MIB, TestPool, new_inode, open};

type Call = (&'static str, fn(&Filesystem) -> udax::Result<()>);

/// Calls that fail, by what they find cached or not.
const CALLS: &[Call] = &[
    ("noreplace a/ b", |fs| {
        fs.rename("/a/", "/b", RenameMode::NoReplace)
    }),
    ("noreplace a b/", |fs| {
        fs.rename("/a", "/b/", RenameMode::NoReplace)
    }),
    ("noreplace zz b", |fs| {
        fs.rename("/zz", "/b", RenameMode::NoReplace)
    }),
    ("rename a/ b", |fs| fs.rename("/a/", "/b", RenameMode::Replace)),
    ("rename a b/", |fs| fs.rename("/a", "/b/", RenameMode::Replace)),
    ("rename a d", |fs| fs.rename("/a", "/d", RenameMode::Replace)),
    ("rename d a", |fs| fs.rename("/d", "/a", RenameMode::Replace)),
    ("rename d d/x", |fs| fs.rename("/d", "/d/x", RenameMode::Replace)),
    ("rename d/x/y d", |fs| {
        fs.rename("/d/f", "/d", RenameMode::Replace)
    }),
    ("rename d/f a/f", |fs| {
        fs.rename("/d/f", "/a/f", RenameMode::Replace)
    }),
    ("exchange a zz", |fs| fs.rename("/a", "/zz", RenameMode::Exchange)),
    ("exchange a b/", |fs| fs.rename("/a", "/b/", RenameMode::Exchange)),
    ("link a b", |fs| fs.link("/a", "/b")),
    ("link d b", |fs| fs.link("/d", "/b")),
    ("link a b/", |fs| fs.link("/a", "/b/")),
    ("link a/ new", |fs| fs.link("/a/", "/new")),
    ("link zz b", |fs| fs.link("/zz", "/b")),
    ("mkdir a", |fs| fs.create_dir("/a", new_inode()).map(drop)),
    ("mkdir a/", |fs| fs.create_dir("/a/", new_inode()).map(drop)),
    ("mkdir l", |fs| fs.create_dir("/l", new_inode()).map(drop)),
    ("mkdir l/", |fs| fs.create_dir("/l/", new_inode()).map(drop)),
    ("symlink b/", |fs| fs.symlink(b"x", "/b/", new_inode()).map(drop)),
    ("open excl d", |fs| {
        fs.open_file("/d", CREATE | OpenFlags::EXCLUSIVE, new_inode())
            .map(drop)
    }),
    ("open excl l", |fs| {
        fs.open_file("/l", CREATE | OpenFlags::EXCLUSIVE, new_inode())
            .map(drop)
    }),
    ("open d", |fs| fs.open_file("/d", CREATE, new_inode()).map(drop)),
    ("open loop", |fs| {
        fs.open_file("/loop", CREATE, new_inode()).map(drop)
    }),
    ("open nofollow l", |fs| {
        fs.open_file("/l", CREATE | OpenFlags::NO_FOLLOW, new_inode())
            .map(drop)
    }),
    ("open a/x", |fs| {
        fs.open_file("/a/x", CREATE, new_inode()).map(drop)
    }),
];

#[test]
fn making_a_file_through_a_link_that_ends_in_a_slash_is_refused_as_linux_does() {
    let pool = TestPool::new(16 * MIB);
    let fs = pool.open();
    drop(open(&fs, "/a"));
    fs.symlink(b"new/", "/l1", new_inode()).unwrap();
    fs.symlink(b"a/", "/l2", new_inode()).unwrap();
    for link in ["/l1", "/l2"] {
        let result = fs.open_file(link, CREATE, new_inode()).map(drop);
        assert!(matches!(result, Err(Error::IsDirectory)), "{link}: {result:?}");
    }
}

/// The same orders of errors, with a cold cache of names and a warm one.
#[test]
fn errors_do_not_depend_on_what_is_cached() {
    let mut wrong = Vec::new();
    for (name, call) in CALLS {
        let mut seen = Vec::new();
        for warm in [false, true] {
            let pool = TestPool::new(16 * MIB);
            let fs = pool.open();
            drop((open(&fs, "/a"), open(&fs, "/b")));
            fs.create_dir("/d", new_inode()).unwrap();
            drop(open(&fs, "/d/f"));
            fs.symlink(b"nowhere", "/l", new_inode()).unwrap();
            fs.symlink(b"loop", "/loop", new_inode()).unwrap();
            fs.close().unwrap();
            let fs = pool.open();
            if warm {
                for path in ["/a", "/b", "/d", "/d/f", "/l", "/loop"] {
                    fs.stat_link(path).unwrap();
                }
            }
            seen.push(call(&fs).map_err(|error| error.errno()));
        }
        if seen[0] != seen[1] {
            wrong.push((name, seen));
        }
    }
    assert!(wrong.is_empty(), "cold, warm: {wrong:?}");
}
