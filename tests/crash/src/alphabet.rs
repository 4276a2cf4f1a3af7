//! The small tree of exhaustive workloads, and what is done to it.

use udax::{
    AllocateMode, Dax, FileKind, NewInode, OpenFlags, Owner, RenameMode, SetAttributes, SetTime, Timestamp,
    WriteFlags, XattrMode,
};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Remap, Text};

/// Something that is done, with the opening and closing that it needs.
#[derive(Clone, Debug)]
pub struct Action {
    /// A word for people.
    pub name: &'static str,
    /// In order.
    pub operations: Vec<Operation>,
}

const NEW: NewInode = NewInode {
    permissions: 0o755,
    owner: Owner { uid: 0, gid: 0 },
};
const BOTH: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
const BLOCK: u64 = 4096;

fn text(path: &str) -> Text {
    Text::from(path.as_bytes())
}

fn open_in(slot: usize, path: &str, flags: OpenFlags) -> Operation {
    let path = text(path);
    Operation::Open {
        slot,
        path,
        flags,
        new: NEW,
    }
}

fn data(len: usize) -> Data {
    // By length, so that no two writes of an alphabet store the same words.
    let seed = 1000 + u64::try_from(len).unwrap_or(0);
    Data { seed, len }
}

/// Operations on the file `path`, which is opened in slot 0 and closed again.
fn with_file(path: &str, what: impl IntoIterator<Item = FileOperation>) -> Vec<Operation> {
    let mut operations = vec![open_in(0, path, BOTH)];
    operations.extend(what.into_iter().map(|what| Operation::File { slot: 0, what }));
    operations.push(Operation::Close { slot: 0 });
    operations
}

fn write(offset: u64, len: usize) -> FileOperation {
    let data = data(len);
    FileOperation::Write { offset, data }
}

fn write_with(offset: u64, len: usize, flags: WriteFlags) -> FileOperation {
    let data = data(len);
    FileOperation::WriteWith { offset, data, flags }
}

fn allocate(mode: AllocateMode, offset: u64, len: u64) -> FileOperation {
    FileOperation::Allocate { mode, offset, len }
}

fn rename(from: &str, to: &str, mode: RenameMode) -> Operation {
    let (from, to) = (text(from), text(to));
    Operation::Name(NameOperation::Rename { from, to, mode })
}

fn remap(how: Remap, from: &str, to: &str) -> Vec<Operation> {
    let ranges = Operation::Remap {
        how,
        from: 0,
        offset: 0,
        to: 1,
        to_offset: 0,
        len: 2 * BLOCK,
    };
    let close = |slot| Operation::Close { slot };
    vec![
        open_in(0, from, BOTH),
        open_in(1, to, BOTH),
        ranges,
        close(0),
        close(1),
    ]
}

fn node(path: &str, what: NodeOperation) -> Operation {
    let path = text(path);
    Operation::Node { path, what }
}

fn set_xattr(path: &str, len: usize, mode: XattrMode) -> Operation {
    let (name, value) = (text("user.x"), data(len));
    node(path, NodeOperation::SetXattr { name, value, mode })
}

fn unlink(path: &str) -> Operation {
    let path = text(path);
    Operation::Name(NameOperation::Unlink { path })
}

fn create_dir(path: &str) -> Operation {
    let path = text(path);
    Operation::Name(NameOperation::CreateDir { path, new: NEW })
}

fn link(existing: &str, new: &str) -> Operation {
    let (existing, new) = (text(existing), text(new));
    Operation::Name(NameOperation::Link { existing, new })
}

fn symlink(path: &str, len: usize) -> Operation {
    let target = Text(vec![b'a'; len]);
    let path = text(path);
    Operation::Name(NameOperation::Symlink {
        target,
        path,
        new: NEW,
    })
}

/// Makes the tree: `A/f` of two and a half blocks, `A/e` empty and linked as `B/k`, `B/h` a clone of `A/f`, `B/p` with
/// blocks that were never written, an empty directory `B/d`, a symbolic link `s`, an attribute of `A/f`.
pub fn tree() -> Vec<Operation> {
    let mut operations = vec![create_dir("A"), create_dir("B"), create_dir("B/d")];
    let create = BOTH | OpenFlags::CREATE;
    operations.extend([
        open_in(0, "A/f", create),
        Operation::File {
            slot: 0,
            what: write(0, 10_000),
        },
        open_in(1, "B/h", create),
        Operation::Remap {
            how: Remap::Clone,
            from: 0,
            offset: 0,
            to: 1,
            to_offset: 0,
            len: 10_000,
        },
        Operation::Close { slot: 1 },
        Operation::Close { slot: 0 },
        open_in(0, "A/e", create),
        Operation::Close { slot: 0 },
        open_in(0, "B/p", create),
        Operation::File {
            slot: 0,
            what: allocate(AllocateMode::Allocate, 0, 6 * BLOCK),
        },
        Operation::File {
            slot: 0,
            what: write(BLOCK, 4097),
        },
        Operation::Close { slot: 0 },
        link("A/e", "B/k"),
        symlink("s", 30),
        set_xattr("A/f", 50, XattrMode::Either),
    ]);
    operations
}

/// Everything that is done to the tree, one thing at a time.
pub fn actions() -> Vec<Action> {
    let mut actions = Vec::new();
    let mut add = |name, operations| actions.push(Action { name, operations });
    names(&mut add);
    renames(&mut add);
    contents(&mut add);
    sizes(&mut add);
    layouts(&mut add);
    attributes(&mut add);
    actions
}

fn names(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    let exclusive = BOTH | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
    let close = || Operation::Close { slot: 0 };
    add("create", vec![open_in(0, "A/n", exclusive), close()]);
    add("create-in-b", vec![open_in(0, "B/n", exclusive), close()]);
    add("mkdir", vec![create_dir("A/d")]);
    add("mkdir-root", vec![create_dir("C")]);
    add(
        "rmdir",
        vec![Operation::Name(NameOperation::RemoveDir { path: text("B/d") })],
    );
    add("link", vec![link("A/f", "B/l")]);
    add("link-again", vec![link("B/k", "A/l")]);
    add("symlink", vec![symlink("A/s", 20)]);
    add("symlink-long", vec![symlink("A/t", 3000)]);
    add("unlink-file", vec![unlink("A/f")]);
    add("unlink-clone", vec![unlink("B/h")]);
    add("unlink-one-name", vec![unlink("A/e")]);
    add("unlink-symlink", vec![unlink("s")]);
    add(
        "unlink-open",
        vec![
            open_in(0, "A/f", BOTH),
            unlink("A/f"),
            Operation::File {
                slot: 0,
                what: write(0, 5001),
            },
            close(),
        ],
    );
    let fifo = NameOperation::MakeNode {
        path: text("A/n"),
        kind: FileKind::Fifo,
        rdev: 0,
        new: NEW,
    };
    add("fifo", vec![Operation::Name(fifo)]);
    let temporary = BOTH | OpenFlags::TEMPORARY;
    add(
        "tmpfile-link",
        vec![
            open_in(0, "A", temporary),
            Operation::File {
                slot: 0,
                what: write(0, 5000),
            },
            Operation::File {
                slot: 0,
                what: FileOperation::Link { path: text("A/t") },
            },
            close(),
        ],
    );
    add(
        "tmpfile",
        vec![
            open_in(0, "B", temporary),
            Operation::File {
                slot: 0,
                what: write(0, 5003),
            },
            close(),
        ],
    );
}

fn renames(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    add("rename", vec![rename("A/f", "B/f", RenameMode::Replace)]);
    add("rename-over", vec![rename("A/f", "B/h", RenameMode::Replace)]);
    add(
        "rename-over-in-place",
        vec![rename("A/e", "A/f", RenameMode::Replace)],
    );
    add("rename-dir", vec![rename("B", "A/b", RenameMode::Replace)]);
    add(
        "rename-exchange",
        vec![rename("A/f", "B/k", RenameMode::Exchange)],
    );
    add(
        "rename-exchange-dirs",
        vec![rename("A", "B/d", RenameMode::Exchange)],
    );
}

fn contents(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    add("write-empty", with_file("A/e", [write(0, 100)]));
    add(
        "append",
        with_file("A/f", [FileOperation::Append { data: data(5000) }]),
    );
    add(
        "append-in-block",
        with_file("A/f", [FileOperation::Append { data: data(20) }]),
    );
    add("overwrite", with_file("A/f", [write(100, 200)]));
    add("overwrite-block", with_file("A/f", [write(4096, 4096)]));
    add("overwrite-and-grow", with_file("A/f", [write(4000, 9000)]));
    add("write-behind-hole", with_file("A/f", [write(20_000, 3000)]));
    add("write-unwritten", with_file("B/p", [write(9000, 5005)]));
    add("write-shared", with_file("B/h", [write(4096, 4095)]));
    add("write-shared-part", with_file("A/f", [write(5000, 101)]));
    let vectored = FileOperation::WriteVectored {
        offset: 3000,
        parts: vec![data(700), data(4100), data(33)],
    };
    add("write-vectored", with_file("A/f", [vectored]));
    let pinned = |offset, len| FileOperation::StorePinned {
        offset,
        data: data(len),
    };
    add("pin", with_file("A/e", [write(0, 4111), pinned(10, 300)]));
    add("pin-shared", with_file("B/h", [pinned(4000, 301)]));
    let only_pinned = |offset, len| FileOperation::OverwritePinned {
        offset,
        data: data(len),
    };
    add("pin-only", with_file("B/p", [only_pinned(5000, 302)]));
    let synced = |offset, len| FileOperation::SyncPinned {
        offset,
        data: data(len),
    };
    add("pin-sync", with_file("B/p", [synced(5000, 304)]));
    add("pin-sync-shared", with_file("A/f", [synced(4000, 305)]));
    add("overwrite-own", with_file("B/p", [write(4500, 303)]));
    add("overwrite-own-block", with_file("B/p", [write(4096, 4094)]));
    let copy = Operation::CopyRange {
        from: 0,
        offset: 4096,
        to: 1,
        to_offset: 100,
        len: 5000,
    };
    let close = |slot| Operation::Close { slot };
    add(
        "copy-range",
        vec![
            open_in(0, "A/f", BOTH),
            open_in(1, "A/e", BOTH),
            copy,
            close(0),
            close(1),
        ],
    );
    add("fsync", with_file("A/f", [write(0, 64), FileOperation::Sync]));
    add("sync", vec![Operation::Sync]);
    durability(add);
}

/// What promises more than the operations before it did, for files in the page cache.
fn durability(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    let durably = |offset, len| write_with(offset, len, WriteFlags::DSYNC);
    add("dsync", with_file("A/f", [write(0, 4001), durably(4000, 1001)]));
    add(
        "dsync-behind",
        with_file("A/f", [write(9000, 4002), durably(20_000, 3001)]),
    );
    add(
        "write-fsync",
        with_file("A/e", [write(0, 9002), FileOperation::Sync, write(4096, 4003)]),
    );
    add(
        "write-cut",
        with_file("A/f", [write(8000, 9003), FileOperation::Truncate { size: 9000 }]),
    );
    let set = |dax| FileOperation::SetDax { dax };
    add(
        "set-dax",
        with_file("A/f", [write(100, 5006), set(Dax::On), write(200, 701)]),
    );
    add(
        "set-dax-unwritten",
        with_file(
            "B/p",
            [write(9000, 702), set(Dax::On), set(Dax::Off), write(0, 703)],
        ),
    );
    let mut both = with_file("A/f", [write(0, 6002)]);
    both.extend(with_file("A/e", [write(0, 6003)]));
    both.push(Operation::Sync);
    both.extend(with_file("A/f", [write(0, 6004)]));
    add("write-both-sync", both);
    let pinned = FileOperation::StorePinned {
        offset: 2000,
        data: data(3011),
    };
    add(
        "renew-checksums",
        with_file("A/f", [pinned, FileOperation::RenewChecksums, write(0, 3013)]),
    );
    settled(add);
    atomic(add);
}

/// Writes of which all bytes are there or none, where others would be there in part: in place, in shared blocks, in
/// unwritten ones, at the end, behind what only the cache has, and before what is written there.
fn atomic(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    let both = WriteFlags::ATOMIC | WriteFlags::DSYNC;
    let atomic = |offset, len| write_with(offset, len, WriteFlags::ATOMIC);
    add("atomic", with_file("B/p", [atomic(BLOCK, 4096)]));
    add("atomic-part", with_file("B/p", [atomic(BLOCK + 512, 512)]));
    add("atomic-blocks", with_file("B/p", [atomic(0, 16_384)]));
    add("atomic-shared", with_file("A/f", [atomic(0, 8192)]));
    add("atomic-longer", with_file("A/f", [atomic(8192, 8192)]));
    add("atomic-behind", with_file("A/f", [atomic(32_768, 32_768)]));
    add(
        "atomic-append",
        with_file(
            "A/e",
            [
                write(0, 4096),
                write_with(0, 2048, WriteFlags::ATOMIC | WriteFlags::APPEND),
            ],
        ),
    );
    add(
        "atomic-twice",
        with_file("B/p", [atomic(0, 8192), atomic(BLOCK, 1024)]),
    );
    add(
        "write-atomic-write",
        with_file("B/p", [write(3000, 3001), atomic(BLOCK, 2048), write(5000, 3003)]),
    );
    add(
        "atomic-dsync",
        with_file(
            "A/f",
            [write(3000, 3005), write_with(0, 4096, both), write(100, 3007)],
        ),
    );
    let pinned = FileOperation::StorePinned {
        offset: BLOCK,
        data: data(3009),
    };
    add("pin-atomic", with_file("B/p", [pinned, atomic(0, 8192)]));
}

/// What gives blocks to others that were just overwritten where they are, or were another file's.
fn settled(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    let create = BOTH | OpenFlags::CREATE;
    let file = |slot, what| Operation::File { slot, what };
    let close = |slot| Operation::Close { slot };
    let overwritten = |len| vec![open_in(0, "B/p", BOTH), file(0, write(BLOCK, len))];
    let given = |how, len| Operation::Remap {
        how,
        from: 0,
        offset: BLOCK,
        to: 1,
        to_offset: 0,
        len,
    };
    for (name, how) in [("write-clone", Remap::Clone), ("write-exchange", Remap::Exchange)] {
        let mut operations = overwritten(4090);
        operations.extend([open_in(1, "A/f", BOTH), given(how, BLOCK), close(0), close(1)]);
        add(name, operations);
    }
    let durably = write_with(BLOCK, 4_089, WriteFlags::DSYNC);
    add("overwrite-dsync", with_file("B/p", [durably]));
    let mut synced = overwritten(4_088);
    synced.extend([file(0, FileOperation::Sync), close(0)]);
    add("overwrite-fsync", synced);
    // The same bytes, which one file has durably.
    let mut dedupe = vec![open_in(1, "A/n", create), file(1, write(0, 4096))];
    dedupe.push(file(1, FileOperation::Sync));
    dedupe.extend(overwritten(4096));
    dedupe.extend([given(Remap::Dedupe, BLOCK), close(0), close(1)]);
    add("write-dedupe", dedupe);
    let mut reuse = vec![unlink("B/p"), open_in(0, "A/n", create), file(0, write(0, 9_006))];
    reuse.extend([file(0, FileOperation::Sync), close(0)]);
    add("unlink-reuse", reuse);
    let mut cut = with_file("B/p", [FileOperation::Truncate { size: 4_100 }]);
    cut.extend(with_file("A/e", [write_with(0, 9_007, WriteFlags::DSYNC)]));
    add("cut-reuse", cut);
}

fn sizes(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    let truncate = |size| FileOperation::Truncate { size };
    add("truncate-to-nothing", with_file("A/f", [truncate(0)]));
    add("truncate-in-block", with_file("A/f", [truncate(5000)]));
    add("truncate-to-block", with_file("A/f", [truncate(4096)]));
    add("truncate-longer", with_file("A/f", [truncate(30_000)]));
    add(
        "truncate-shorter-longer",
        with_file("A/f", [truncate(4999), truncate(9999)]),
    );
    add(
        "truncate-path",
        vec![node("B/h", NodeOperation::Truncate { size: 1 })],
    );
    let create = BOTH | OpenFlags::CREATE | OpenFlags::TRUNCATE;
    add(
        "open-truncate",
        vec![
            open_in(0, "A/f", create),
            Operation::File {
                slot: 0,
                what: write(0, 6001),
            },
            Operation::Close { slot: 0 },
        ],
    );
}

fn layouts(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    use AllocateMode as Mode;
    add(
        "allocate",
        with_file("A/f", [allocate(Mode::Allocate, 0, 5 * BLOCK)]),
    );
    add(
        "allocate-behind",
        with_file("A/f", [allocate(Mode::KeepSize, 6 * BLOCK, 2 * BLOCK)]),
    );
    add(
        "unshare",
        with_file("B/h", [allocate(Mode::Unshare, 0, 3 * BLOCK)]),
    );
    add("punch", with_file("A/f", [allocate(Mode::PunchHole, 1000, 6000)]));
    add(
        "punch-block",
        with_file("B/p", [allocate(Mode::PunchHole, BLOCK, BLOCK)]),
    );
    add(
        "zero-range",
        with_file("A/f", [allocate(Mode::ZeroRange, 3000, 9000)]),
    );
    add(
        "zero-range-keep",
        with_file("B/p", [allocate(Mode::ZeroRangeKeepSize, 5000, 90_000)]),
    );
    add("collapse", with_file("A/f", [allocate(Mode::Collapse, 0, BLOCK)]));
    add(
        "insert",
        with_file("A/f", [allocate(Mode::Insert, BLOCK, 2 * BLOCK)]),
    );
    add("clone", remap(Remap::Clone, "B/p", "A/f"));
    add("clone-empty", remap(Remap::Clone, "A/f", "A/e"));
    add("dedupe", remap(Remap::Dedupe, "A/f", "B/h"));
    add("exchange-range", remap(Remap::Exchange, "A/f", "B/p"));
}

fn attributes(add: &mut impl FnMut(&'static str, Vec<Operation>)) {
    add("xattr-new", vec![set_xattr("A/e", 40, XattrMode::Create)]);
    add("xattr-replace", vec![set_xattr("A/f", 60, XattrMode::Replace)]);
    add("xattr-large", vec![set_xattr("A/f", 5000, XattrMode::Either)]);
    add("xattr-of-dir", vec![set_xattr("B", 200, XattrMode::Either)]);
    let remove = |path: &str| {
        let name = text("user.x");
        node(path, NodeOperation::RemoveXattr { name })
    };
    add("xattr-remove", vec![remove("A/f")]);
    // What the attribute had in the pool's trees is free again: does a file's data lie there too early?
    let mut reuse = vec![set_xattr("A/e", 1901, XattrMode::Either), remove("A/e")];
    reuse.extend(with_file("A/e", [write(0, 40_000)]));
    add("xattr-block-reused", reuse);
    let set = SetAttributes {
        permissions: Some(0o600),
        uid: Some(7),
        ..SetAttributes::default()
    };
    add(
        "chmod-chown",
        vec![node("A/f", NodeOperation::SetAttributes(set))],
    );
    let time = Timestamp {
        seconds: 86_400,
        nanoseconds: 5,
    };
    let set = SetAttributes {
        atime: Some(SetTime::To(time)),
        mtime: Some(SetTime::To(time)),
        ..SetAttributes::default()
    };
    add("utimens", vec![node("B", NodeOperation::SetAttributes(set))]);
}
