//! Operations that take several records, each on a file of more extents, or more attributes, than one has room for.
//!
//! How many a record takes: docs/crash-consistency.md. The files are *islands*: every other block has data, so that
//! each is an extent.

use udax::{AllocateMode, Dax, NewInode, OpenFlags, Owner, RenameMode, XattrMode};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Remap, Text};

const NEW: NewInode = NewInode {
    permissions: 0o644,
    owner: Owner { uid: 0, gid: 0 },
};
const BOTH: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;

/// More than a record frees.
const FREED: u64 = 300;
/// More than two records share.
const SHARED: u64 = 150;
/// More pieces of a file than a record copies.
const COPIED: u64 = 270;
/// So many, and as many holes between them, are more than a record writes.
const WRITTEN: u64 = 132;
/// More than a record shifts.
const SHIFTED: u64 = 1_060;
/// More than a record removes.
const ATTRIBUTES: u64 = 280;
/// Each is moved between pool and data device by a record of its own.
const MOVED: u64 = 24;

/// An operation of several records, and what it is done to.
#[derive(Clone, Debug)]
pub struct Task {
    /// A word for people.
    pub name: &'static str,
    /// What was there before, not recorded.
    pub setup: Vec<Operation>,
    /// What is done, with the opening and closing that it needs.
    pub operations: Vec<Operation>,
}

/// All of them.
pub fn tasks() -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut add = |name, setup, operations| {
        tasks.push(Task {
            name,
            setup,
            operations,
        });
    };
    frees(&mut add);
    ranges(&mut add);
    writes(&mut add);
    shares(&mut add);
    trees(&mut add);
    tasks
}

type Add<'a> = dyn FnMut(&'static str, Vec<Operation>, Vec<Operation>) + 'a;

fn text(path: &str) -> Text {
    Text::from(path.as_bytes())
}

fn open(slot: usize, path: &str, flags: OpenFlags) -> Operation {
    Operation::Open {
        slot,
        path: text(path),
        flags,
        new: NEW,
    }
}

fn close(slot: usize) -> Operation {
    Operation::Close { slot }
}

fn file(slot: usize, what: FileOperation) -> Operation {
    Operation::File { slot, what }
}

fn write(offset: u64, seed: u64, len: usize) -> FileOperation {
    let data = Data { seed, len };
    FileOperation::Write { offset, data }
}

fn allocate(mode: AllocateMode, offset: u64, len: u64) -> FileOperation {
    FileOperation::Allocate { mode, offset, len }
}

fn unlink(path: &str) -> Operation {
    let path = text(path);
    Operation::Name(NameOperation::Unlink { path })
}

/// Makes the file `path` of `count` islands, each with bytes of its own.
fn islands(path: &str, count: u64) -> Vec<Operation> {
    let seed = 1_000_000 * u64::from(path.bytes().next().unwrap_or(0));
    let island = |index: u64| file(0, write(2 * index * BLOCK, seed + index, BLOCK_LEN));
    let mut operations = vec![open(0, path, BOTH | OpenFlags::CREATE)];
    operations.extend((0..count).map(island));
    operations.push(close(0));
    operations
}

/// Bytes of a file of `count` islands.
fn whole(count: u64) -> u64 {
    (2 * count - 1) * BLOCK
}

/// Operations on the file `path`, opened in slot 0 and closed again.
fn with_file(path: &str, what: impl IntoIterator<Item = FileOperation>) -> Vec<Operation> {
    let mut operations = vec![open(0, path, BOTH)];
    operations.extend(what.into_iter().map(|what| file(0, what)));
    operations.push(close(0));
    operations
}

/// A new file, whose blocks are those that were just freed where it gets some of them.
fn reuse() -> Vec<Operation> {
    vec![
        open(1, "new", BOTH | OpenFlags::CREATE),
        file(1, write(0, 77, 60_000)),
        file(1, FileOperation::Sync),
        close(1),
    ]
}

/// `from` into `to`, which are open in slots 0 and 1 meanwhile.
fn remap(how: Remap, (from, to): (&str, &str), (to_offset, len): (u64, u64)) -> Vec<Operation> {
    let ranges = Operation::Remap {
        how,
        from: 0,
        offset: 0,
        to: 1,
        to_offset,
        len,
    };
    vec![open(0, from, BOTH), open(1, to, BOTH), ranges, close(0), close(1)]
}

fn frees(add: &mut Add<'_>) {
    let truncate = |size| FileOperation::Truncate { size };
    let mut cut = with_file("i", [truncate(100)]);
    cut.extend(reuse());
    add("truncate", islands("i", FREED), cut);
    add(
        "truncate-longer",
        islands("i", FREED),
        with_file("i", [truncate(9 * BLOCK + 5), truncate(FREED * BLOCK)]),
    );
    let mut removed = vec![unlink("i")];
    removed.extend(reuse());
    add("unlink", islands("i", FREED), removed);
    add(
        "unlink-open",
        islands("i", FREED),
        vec![
            open(0, "i", BOTH),
            unlink("i"),
            file(0, truncate(BLOCK)),
            close(0),
        ],
    );
    let mut two = islands("i", FREED);
    two.extend(islands("j", 2));
    let (from, to) = (text("j"), text("i"));
    let mode = RenameMode::Replace;
    add(
        "rename-over",
        two,
        vec![Operation::Name(NameOperation::Rename { from, to, mode })],
    );
    add(
        "open-truncate",
        islands("i", FREED),
        vec![
            open(0, "i", BOTH | OpenFlags::TRUNCATE),
            file(0, write(5, 78, 9_000)),
            close(0),
        ],
    );
    let set = |index: u64| Operation::Node {
        path: text("i"),
        what: NodeOperation::SetXattr {
            name: text(&format!("user.{index}")),
            value: Data { seed: index, len: 30 },
            mode: XattrMode::Either,
        },
    };
    let mut attributes = islands("i", 3);
    attributes.extend((0..ATTRIBUTES).map(set));
    add("unlink-xattrs", attributes, vec![unlink("i")]);
}

fn ranges(add: &mut Add<'_>) {
    use AllocateMode as Mode;
    // Both ends within blocks that have data.
    let (from, len) = (2 * BLOCK + 1000, 2 * (FREED - 4) * BLOCK + 500);
    let mut punched = with_file("i", [allocate(Mode::PunchHole, from, len)]);
    punched.extend(reuse());
    add("punch", islands("i", FREED), punched);
    add(
        "zero-range",
        islands("i", SHARED),
        with_file("i", [allocate(Mode::ZeroRange, 1000, 2 * SHARED * BLOCK + 5000)]),
    );
    add(
        "allocate",
        islands("i", FREED),
        with_file("i", [allocate(Mode::Allocate, 0, 2 * FREED * BLOCK + 5000)]),
    );
}

fn writes(add: &mut Add<'_>) {
    let len = usize::try_from(2 * WRITTEN * BLOCK).unwrap_or(0);
    add(
        "write",
        islands("i", WRITTEN),
        with_file("i", [write(100, 79, len), FileOperation::Sync]),
    );
    let shared = |count| {
        let mut shared = islands("i", count);
        shared.push(open(1, "j", BOTH | OpenFlags::CREATE));
        shared.push(close(1));
        shared.extend(remap(Remap::Clone, ("i", "j"), (0, whole(count))));
        shared
    };
    add(
        "write-shared",
        shared(WRITTEN),
        with_file("j", [write(0, 80, len), FileOperation::Sync]),
    );
    add(
        "unshare",
        shared(COPIED),
        with_file("j", [allocate(AllocateMode::Unshare, 0, whole(COPIED))]),
    );
    let set = |dax| FileOperation::SetDax { dax };
    add(
        "set-dax",
        islands("i", MOVED),
        with_file("i", [set(Dax::On), write(500, 81, 600), set(Dax::Off)]),
    );
}

fn shares(add: &mut Add<'_>) {
    let with_tail = |mut setup: Vec<Operation>| {
        setup.push(open(0, "t", BOTH | OpenFlags::CREATE));
        setup.push(file(0, write(0, 82, 5_000)));
        setup.push(file(0, FileOperation::Truncate { size: 4_500 }));
        setup.push(close(0));
        setup
    };
    add(
        "clone",
        with_tail(islands("i", SHARED)),
        remap(Remap::Clone, ("i", "t"), (2 * BLOCK, whole(SHARED))),
    );
    let two = || {
        let mut two = islands("i", SHARED);
        two.extend(islands("j", SHARED));
        two
    };
    let whole = whole(SHARED);
    add(
        "clone-over",
        two(),
        remap(Remap::Clone, ("i", "j"), (BLOCK, whole)),
    );
    // What is shared once more has counts that change, too.
    let mut again = remap(Remap::Clone, ("i", "j"), (0, whole));
    again.push(unlink("i"));
    add("clone-unlink", two(), again);
    // Not yet durable in the first file when the second one, which has it durably, gives up its own.
    let mut dedupe = with_file("i", [write(2 * BLOCK, 83, BLOCK_LEN)]);
    dedupe.extend(remap(Remap::Dedupe, ("i", "j"), (0, whole)));
    let mut same = islands("i", SHARED);
    same.push(open(0, "j", BOTH | OpenFlags::CREATE));
    let seed = 1_000_000 * u64::from(b'i');
    for index in 0..SHARED {
        let seed = if index == 1 { 83 } else { seed + index };
        same.push(file(0, write(2 * index * BLOCK, seed, BLOCK_LEN)));
    }
    same.push(close(0));
    add("dedupe", same, dedupe);
    add("exchange", two(), remap(Remap::Exchange, ("i", "j"), (0, 0)));
}

fn trees(add: &mut Add<'_>) {
    use AllocateMode as Mode;
    add(
        "collapse",
        islands("i", SHIFTED),
        with_file("i", [allocate(Mode::Collapse, 2 * BLOCK, 3 * BLOCK)]),
    );
    add(
        "insert",
        islands("i", SHIFTED),
        with_file("i", [allocate(Mode::Insert, 2 * BLOCK, 3 * BLOCK)]),
    );
}
