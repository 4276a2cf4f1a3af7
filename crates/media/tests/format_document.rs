//! `docs/FORMAT.md` says what the code does: every field of every structure, every constant and every magic number.
#![expect(clippy::unwrap_used, reason = "what does not unwrap fails the test")]

use std::collections::BTreeMap;
use std::mem::offset_of;

use udax_media::bitmap::{self, GROUP_BLOCKS, GROUP_CHUNKS, RawBitmapHeader};
use udax_media::checkpoint::{self, RawCheckpoint};
use udax_media::dentry::{self, Dentry};
use udax_media::device::{self, MAX_DEVICE_BYTES, MIN_DEVICE_BYTES, RawDeviceHeader};
use udax_media::extent::{Extent, ExtentFlags, MAX_EXTENT_BLOCKS};
use udax_media::geometry::{CHECKPOINTS, ROOTS, SUPERBLOCKS};
use udax_media::inode::{self, CHUNK_INODES, FileKind, MAX_INLINE_EXTENTS, RawInode};
use udax_media::node::{
    self, MAX_ENTRIES, MAX_LEVEL, MAX_VALUE_BYTES, NodeState, RawEntry, RawNodeHeader, RawSlot, TreeKind,
};
use udax_media::record::{
    self, MAX_RECORD_BYTES, MAX_WRITE_WORDS, MAX_ZERO_BLOCKS, Operation, RawRecordHeader,
};
use udax_media::roots::{self, PoolTree, RawRoots};
use udax_media::seal::Prefix;
use udax_media::segment::{MAX_SEGMENTS, RawSegment};
use udax_media::sum::{self, RawSumHeader, SUMS_PER_BLOCK};
use udax_media::superblock::{self, MAX_LANES, RawSuperblock, Superblock, VERSION};
use udax_media::xattr::{self, Xattr, XattrValue};
use udax_media::{
    BLOCK_SIZE, BlockNo, BlockRange, ByteOffset, DEVICE_START, FileBlock, HUGE_BLOCKS, InodeNo, LINE_SIZE,
    MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_POOL_BYTES, MAX_SYMLINK_BYTES, MIN_POOL_BYTES, Timestamp,
};
use uuid::Uuid;

const DOCUMENT: &str = include_str!("../../../docs/FORMAT.md");

/// The cells of the rows of each table, with the heading before it and the table's first line.
fn tables() -> Vec<(&'static str, &'static str, Vec<Vec<&'static str>>)> {
    let mut tables = Vec::new();
    let (mut heading, mut is_open) = ("", false);
    for line in DOCUMENT.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        }
        if !line.starts_with('|') {
            is_open = false;
            continue;
        }
        if !is_open {
            tables.push((heading, line, Vec::new()));
            is_open = true;
        } else if !line.starts_with("|---") {
            let cells = line.trim_matches('|').split('|').map(str::trim).collect();
            tables.last_mut().unwrap().2.push(cells);
        }
    }
    tables
}

/// The rows of the only table whose first line starts with `head`.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    let mut found = tables()
        .into_iter()
        .filter(|(_, first, _)| first.starts_with(head));
    let (_, _, rows) = found.next().unwrap_or_else(|| panic!("no table {head}"));
    assert!(found.next().is_none(), "two tables {head}");
    rows
}

/// Offset, size (`None`: the rest) and name of each field of the structure under `heading`.
type Layout = Vec<(usize, Option<usize>, String)>;

fn documented() -> BTreeMap<&'static str, Layout> {
    let is_layout = |head: &str| head.starts_with("| offset | size | name |");
    let mut layouts = BTreeMap::new();
    for (heading, _, rows) in tables().into_iter().filter(|(_, head, _)| is_layout(head)) {
        let layout = rows
            .iter()
            .map(|row| (row[0].parse().unwrap(), row[1].parse().ok(), row[2].to_owned()))
            .collect();
        assert!(layouts.insert(heading, layout).is_none(), "{heading} twice");
    }
    layouts
}

fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The layout of a structure from its code. All its fields must be named: they cover it without a gap.
macro_rules! layout {
    ($type:ident { $($field:ident),+ $(,)? }) => {{
        let fields: Layout = vec![$((
            offset_of!($type, $field),
            Some(size_of_field(|raw: &$type| &raw.$field)),
            stringify!($field).to_owned(),
        )),+];
        let end = fields.iter().fold(0, |end, (offset, size, name)| {
            assert_eq!(*offset, end, "gap before {name}");
            end + size.unwrap()
        });
        assert_eq!(end, size_of::<$type>(), "fields of {}", stringify!($type));
        (stringify!($type), fields)
    }};
}

type Structure = (&'static str, Layout);

fn pool_structures() -> Vec<Structure> {
    vec![
        layout!(Prefix { magic, checksum }),
        layout!(RawSegment {
            first_block,
            block_count,
            bitmap_start,
            sum_start
        }),
        layout!(RawCheckpoint {
            prefix,
            number,
            sequence,
            nonce,
            free_blocks,
            inodes,
            clean,
            reserved
        }),
        layout!(RawRoots {
            prefix,
            own_block,
            reserved0,
            roots,
            reserved1
        }),
        layout!(RawBitmapHeader {
            prefix,
            own_block,
            first_block,
            block_count,
            reserved
        }),
        layout!(RawSumHeader {
            prefix,
            own_block,
            first_block,
            block_count,
            reserved
        }),
        layout!(RawRecordHeader {
            prefix,
            sequence,
            length,
            lane,
            reserved,
            free_blocks_delta,
            inodes_delta,
            reserved1
        }),
    ]
}

fn tree_structures() -> Vec<Structure> {
    vec![
        layout!(RawNodeHeader {
            prefix,
            own_block,
            owner,
            generation,
            state,
            reserved
        }),
        layout!(RawSlot {
            key,
            offset,
            capacity,
            length,
            used
        }),
        layout!(RawEntry { key, child }),
    ]
}

fn superblock_structure() -> Structure {
    layout!(RawSuperblock {
        prefix,
        version,
        block_shift,
        segment_count,
        uuid,
        generation,
        compat,
        ro_compat,
        incompat,
        total_blocks,
        journal_start,
        lane_count,
        lane_blocks,
        roots,
        hash_key,
        created_seconds,
        created_nanoseconds,
        reserved0,
        label,
        device_uuid,
        device_blocks,
        device_bitmaps,
        device_path,
        reserved1,
        segments
    })
}

fn device_structure() -> Structure {
    layout!(RawDeviceHeader {
        prefix,
        version,
        block_shift,
        copy,
        pool_uuid,
        device_uuid,
        blocks,
        reserved
    })
}

fn inode_structure() -> Structure {
    layout!(RawInode {
        prefix,
        ino,
        generation,
        mode,
        flags,
        uid,
        gid,
        rdev,
        btime,
        btime_nanoseconds,
        reserved0,
        size,
        blocks,
        mtime,
        ctime,
        atime,
        mtime_nanoseconds,
        ctime_nanoseconds,
        atime_nanoseconds,
        nlink,
        change,
        xattr_root,
        parent,
        root,
        inline_count,
        target_checksum,
        inline
    })
}

/// A value without a structure of its own: its heading, its bytes, and what each documented field of them must be.
type Sample = (&'static str, Vec<u8>, Vec<(&'static str, Vec<u8>)>);

fn extent_samples() -> [Sample; 2] {
    let extent = Extent {
        first: FileBlock(0x0102),
        start: BlockNo(0x0304),
        count: 0x0506,
        flags: ExtentFlags::SUMMED | ExtentFlags::SHARED,
    };
    let word: u64 = 0x0304 | 1 << 61 | 1 << 62;
    let word_and_count = [word.to_le_bytes(), 0x0506_u64.to_le_bytes()].concat();
    [
        (
            "Extent value",
            extent.encode().to_vec(),
            vec![
                ("word", word.to_le_bytes().to_vec()),
                ("count", 0x0506_u64.to_le_bytes().to_vec()),
            ],
        ),
        (
            "Inline extent",
            extent.encode_inline().to_vec(),
            vec![
                ("first", 0x0102_u64.to_le_bytes().to_vec()),
                ("value", word_and_count),
            ],
        ),
    ]
}

fn named_samples() -> [Sample; 3] {
    let dentry = Dentry {
        ino: InodeNo(0x0708),
        kind: FileKind::Regular,
        name: b"name",
    };
    let inline = Xattr {
        name: b"user.x",
        value: XattrValue::Inline(b""),
    };
    let runs = vec![
        BlockRange::new(BlockNo(0x11), 1),
        BlockRange::new(BlockNo(0x13), 1),
    ];
    let run_bytes = [0x11_u64, 1, 0x13, 1].map(u64::to_le_bytes).concat();
    let external = Xattr {
        name: b"user.x",
        value: XattrValue::External {
            length: 5000,
            checksum: 0x0a0b,
            runs,
        },
    };
    [
        (
            "Directory entry value",
            dentry.encode(&mut [0; dentry::MAX_SIZE]).to_vec(),
            vec![
                ("ino", 0x0708_u64.to_le_bytes().to_vec()),
                ("kind", vec![8]),
                ("name_length", vec![4]),
                ("name", b"name".to_vec()),
            ],
        ),
        (
            "Extended attribute value",
            inline.encode(),
            vec![
                ("name_length", vec![6]),
                ("placement", vec![0]),
                ("reserved", vec![0; 2]),
                ("length", vec![0; 4]),
                ("name", b"user.x".to_vec()),
            ],
        ),
        (
            "External value",
            external.encode()[xattr::HEADER_SIZE + 6..].to_vec(),
            vec![
                ("checksum", 0x0a0b_u32.to_le_bytes().to_vec()),
                ("run_count", 2_u32.to_le_bytes().to_vec()),
                ("runs", run_bytes),
            ],
        ),
    ]
}

#[test]
fn structures_are_documented_field_by_field() {
    let mut documented = documented();
    let structures = [
        pool_structures(),
        tree_structures(),
        vec![superblock_structure(), device_structure(), inode_structure()],
    ];
    for (name, fields) in structures.into_iter().flatten() {
        assert_eq!(documented.remove(name).as_ref(), Some(&fields), "{name}");
    }
    for (name, bytes, fields) in extent_samples().into_iter().chain(named_samples()) {
        let layout = documented.remove(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(layout.len(), fields.len(), "{name}");
        let mut next = 0;
        for ((offset, size, field), (expected_field, expected)) in layout.into_iter().zip(fields) {
            assert_eq!((offset, field.as_str()), (next, expected_field), "{name}");
            next = size.map_or(bytes.len(), |size| offset + size);
            assert_eq!(bytes[offset..next], expected, "{name}: {field}");
        }
        assert_eq!(next, bytes.len(), "{name}");
    }
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        <Vec<&&str>>::new(),
        "documented, but not in the code"
    );
}

#[test]
fn constants_are_documented() {
    let wide = |value: usize| u64::try_from(value).unwrap();
    let expected: Vec<(&str, u64)> = vec![
        ("VERSION", u64::from(VERSION)),
        ("BLOCK_SIZE", wide(BLOCK_SIZE)),
        ("LINE_SIZE", wide(LINE_SIZE)),
        ("HUGE_BLOCKS", HUGE_BLOCKS),
        ("MIN_POOL_BYTES", MIN_POOL_BYTES),
        ("MAX_POOL_BYTES", MAX_POOL_BYTES),
        ("MAX_FILE_BYTES", MAX_FILE_BYTES),
        ("MAX_NAME_BYTES", wide(MAX_NAME_BYTES)),
        ("MAX_SYMLINK_BYTES", wide(MAX_SYMLINK_BYTES)),
        ("MAX_SEGMENTS", wide(MAX_SEGMENTS)),
        ("MAX_LANES", u64::from(MAX_LANES)),
        ("GROUP_CHUNKS", GROUP_CHUNKS),
        ("GROUP_BLOCKS", GROUP_BLOCKS),
        ("SUMS_PER_BLOCK", SUMS_PER_BLOCK),
        ("MAX_ENTRIES", wide(MAX_ENTRIES)),
        ("MAX_VALUE_BYTES", wide(MAX_VALUE_BYTES)),
        ("MAX_LEVEL", u64::from(MAX_LEVEL)),
        ("CHUNK_INODES", CHUNK_INODES),
        ("MAX_INLINE_EXTENTS", wide(MAX_INLINE_EXTENTS)),
        ("MAX_EXTENT_BLOCKS", MAX_EXTENT_BLOCKS),
        ("MAX_XATTR_VALUE", wide(xattr::MAX_VALUE)),
        ("MAX_XATTR_NAME", wide(xattr::MAX_NAME)),
        ("MAX_RECORD_BYTES", wide(MAX_RECORD_BYTES)),
        ("MAX_WRITE_WORDS", wide(MAX_WRITE_WORDS)),
        ("MAX_ZERO_BLOCKS", MAX_ZERO_BLOCKS),
        ("DEVICE_START", DEVICE_START.raw()),
        ("MIN_DEVICE_BYTES", MIN_DEVICE_BYTES),
        ("MAX_DEVICE_BYTES", MAX_DEVICE_BYTES),
    ];
    let documented: Vec<(&str, u64)> = rows("| constant |")
        .into_iter()
        .map(|row| (row[0], row[1].parse().unwrap()))
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn magic_numbers_are_documented() {
    let magics = [
        ("superblock", superblock::MAGIC),
        ("checkpoint", checkpoint::MAGIC),
        ("roots", roots::MAGIC),
        ("bitmap", bitmap::MAGIC),
        ("sum block", sum::MAGIC),
        ("inode", inode::MAGIC),
        ("node", node::MAGIC),
        ("record", record::MAGIC),
        ("data device's header", device::MAGIC),
    ];
    let documented = rows("| structure | magic |");
    assert_eq!(documented.len(), magics.len());
    for (row, (name, magic)) in documented.iter().zip(magics) {
        assert_eq!((row[0], row[1].as_bytes()), (name, &magic.to_le_bytes()[..]));
    }
}

#[test]
fn geometry_is_documented() {
    let fixed: Vec<u64> = rows("| block | what |")
        .iter()
        .map(|row| row[0].parse().unwrap())
        .collect();
    let expected = [
        SUPERBLOCKS[0],
        SUPERBLOCKS[1],
        CHECKPOINTS[0],
        CHECKPOINTS[1],
        ROOTS,
    ]
    .map(BlockNo::raw);
    assert_eq!(fixed, expected);

    let plan = |mebibytes: u64| {
        let superblock =
            Superblock::plan(mebibytes * 256, Uuid::nil(), [0; 16], "", Timestamp::default()).unwrap();
        let journal = superblock.journal_blocks();
        assert_eq!(
            superblock.journal_start.raw(),
            if journal.count <= 256 { 8 } else { 512 }
        );
        let [segment] = superblock.segments[..] else {
            panic!("{} segments", superblock.segments.len());
        };
        assert_eq!((segment.bitmap_start, segment.sum_start), (journal.end(), None));
        let [with_sums] = superblock.clone().with_sums().segments[..] else {
            panic!("another number of segments");
        };
        assert_eq!(with_sums.sum_start, Some(segment.bitmaps().end()));
        [
            u64::from(superblock.lane_count),
            u64::from(superblock.lane_blocks),
        ]
    };
    let mut before = None;
    for row in rows("| from MiB |") {
        let [from, lanes, blocks] = [0, 1, 2].map(|cell| row[cell].parse::<u64>().unwrap());
        assert_eq!(plan(from), [lanes, blocks], "{from} MiB");
        if let Some(before) = before {
            assert_eq!(plan(from - 1), before, "{} MiB", from - 1);
        }
        before = Some([lanes, blocks]);
    }
    assert_eq!(before, Some(plan(1 << 30)), "the largest pool");
}

#[test]
fn tree_kinds_and_the_state_word_are_documented() {
    let kinds: Vec<u8> = rows("| kind | tree |")
        .iter()
        .map(|row| row[0].parse().unwrap())
        .collect();
    assert_eq!(
        kinds,
        (0..=u8::MAX)
            .filter(|raw| TreeKind::from_raw(*raw).is_some())
            .collect::<Vec<_>>()
    );
    let state = NodeState {
        level: 1,
        kind: TreeKind::Orphans,
        count: 0x0302,
        heap_top: 0x0504,
    };
    assert_eq!(state.word().to_le_bytes(), [1, 5, 2, 3, 4, 5, 0, 0]);
    assert_eq!(node::STATE_OFFSET, offset_of!(RawNodeHeader, state));
    for (index, tree) in (0..).zip(PoolTree::ALL) {
        let at = 2 * 4096 + offset_of!(RawRoots, roots) + index * 8;
        assert_eq!(tree.root_offset(), ByteOffset(u64::try_from(at).unwrap()));
    }
}

#[test]
fn operations_are_documented() {
    let range = BlockRange::new(BlockNo(0x77), 9);
    let operations = [
        (
            "write",
            Operation::Write {
                at: ByteOffset(0x77 * 8),
                bytes: &[1; 24],
            },
            3_u64,
        ),
        ("allocate", Operation::Allocate(range), 0),
        ("free", Operation::Free(range), 0),
        ("zero", Operation::Zero(range), 0),
    ];
    let documented = rows("| kind | operation |");
    assert_eq!(documented.len(), operations.len());
    for (row, (name, operation, words)) in documented.iter().zip(operations) {
        let mut bytes = Vec::new();
        operation.encode_into(&mut bytes);
        let kind: u64 = row[0].parse().unwrap();
        assert_eq!(row[1], name);
        assert_eq!(
            bytes[..8],
            (0x77 | words << 47 | kind << 60).to_le_bytes(),
            "{name}"
        );
    }
}

#[test]
fn inode_offsets_for_partial_writes_are_those_of_the_structure() {
    use inode::offset;
    let pairs = [
        (offset::MODE, offset_of!(RawInode, mode)),
        (offset::OWNER, offset_of!(RawInode, uid)),
        (offset::SIZE, offset_of!(RawInode, size)),
        (offset::BLOCKS, offset_of!(RawInode, blocks)),
        (offset::MTIME, offset_of!(RawInode, mtime)),
        (offset::CTIME, offset_of!(RawInode, ctime)),
        (offset::ATIME, offset_of!(RawInode, atime)),
        (
            offset::MTIME_CTIME_NANOSECONDS,
            offset_of!(RawInode, mtime_nanoseconds),
        ),
        (
            offset::ATIME_NANOSECONDS_NLINK,
            offset_of!(RawInode, atime_nanoseconds),
        ),
        (offset::CHANGE, offset_of!(RawInode, change)),
        (offset::XATTR_ROOT, offset_of!(RawInode, xattr_root)),
        (offset::PARENT, offset_of!(RawInode, parent)),
        (offset::ROOT, offset_of!(RawInode, root)),
        (offset::INLINE_COUNT, offset_of!(RawInode, inline_count)),
        (offset::INLINE, offset_of!(RawInode, inline)),
    ];
    for (offset, expected) in pairs {
        assert_eq!(usize::try_from(offset), Ok(expected));
    }
}
