//! Random operations that meet each other: few names, edges of blocks and of files, huge offsets.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, RngCore, SeedableRng};
use udax::{
    AllocateMode, Dax, FileKind, NewInode, OpenFlags, Owner, RenameMode, SetAttributes, SetTime, Timestamp,
    WriteFlags, XattrMode,
};

use crate::model::{Body, Model, ROOT};
use crate::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Remap, SLOTS, Text};

const BLOCK: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;
const MAX_SIZE: u64 = (1 << 63) - 1;
/// Files of kernel file systems may be this large, with room to spare.
const KERNEL_SIZE: u64 = 1 << 42;
/// More than any pool of the tests can give.
pub const TOO_MUCH: u64 = 1 << 40;

/// The most blocks that are stored to through a pin at a time.
const PINNED_BLOCKS: u64 = 4;

/// What a sequence may contain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Everything.
    Whole,
    /// Nothing that leaves the directory in which it runs (`..`, absolute links), or names that directory itself.
    Confined,
    /// The same, but with what changes which blocks files have.
    Beneath,
}

/// Makes operations from random numbers; the same numbers and the same models give the same operations.
#[derive(Clone, Debug)]
pub struct Generator<R = SmallRng> {
    random: R,
    profile: Profile,
}

impl Generator {
    /// A generator for `seed`.
    pub fn new(seed: u64, profile: Profile) -> Self {
        Self::of(SmallRng::seed_from_u64(seed), profile)
    }
}

impl<R: RngCore> Generator<R> {
    /// A generator that takes its choices from `random`.
    pub fn of(random: R, profile: Profile) -> Self {
        Self { random, profile }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices
            .choose(&mut self.random)
            .expect("choices are never empty")
            .clone()
    }

    /// The next operation on what `model` describes.
    pub fn next(&mut self, model: &Model) -> Operation {
        match self.random.random_range(0..1000) {
            0..140 => self.open(model),
            140..190 => Operation::Close { slot: self.slot() },
            190..560 => {
                if self.profile == Profile::Beneath
                    && self.chance(10)
                    && let Some(stored) = self.sync_pinned(model)
                {
                    return stored;
                }
                let slot = self.open_slot(model);
                Operation::File {
                    slot,
                    what: self.file_operation(model, slot),
                }
            }
            560..580 if self.profile != Profile::Confined => self.remap(model),
            560..600 => self.copy_range(model),
            600..840 => Operation::Name(self.name_operation(model)),
            840..998 => Operation::Node {
                path: self.path(model),
                what: self.node_operation(model),
            },
            _ => Operation::Sync,
        }
    }

    fn slot(&mut self) -> usize {
        self.random.random_range(0..SLOTS)
    }

    fn open_slot(&mut self, model: &Model) -> usize {
        let open: Vec<usize> = (0..SLOTS).filter(|slot| model.handle(*slot).is_some()).collect();
        if open.is_empty() || self.chance(2) {
            self.slot()
        } else {
            self.pick(&open)
        }
    }

    fn open(&mut self, model: &Model) -> Operation {
        let mut flags = self.pick(&[
            OpenFlags::READ,
            OpenFlags::WRITE,
            OpenFlags::READ | OpenFlags::WRITE,
            OpenFlags::READ | OpenFlags::WRITE,
        ]);
        if self.chance(5) {
            flags = flags | OpenFlags::TEMPORARY | self.pick(&[OpenFlags::empty(), OpenFlags::EXCLUSIVE]);
        } else if self.chance(45) {
            flags |= OpenFlags::CREATE;
            if self.chance(25) {
                flags |= OpenFlags::EXCLUSIVE;
            }
        }
        if flags.contains(OpenFlags::WRITE) && !flags.contains(OpenFlags::TEMPORARY) && self.chance(12) {
            flags |= OpenFlags::TRUNCATE;
        }
        for (flag, percent) in [
            (OpenFlags::APPEND, 8),
            (OpenFlags::NO_FOLLOW, 10),
            (OpenFlags::DIRECTORY, 8),
            (OpenFlags::DIRECT, 6),
        ] {
            if self.chance(percent) {
                flags |= flag;
            }
        }
        let path = if flags.contains(OpenFlags::TEMPORARY) || self.chance(15) {
            self.directory_path(model)
        } else {
            self.path(model)
        };
        Operation::Open {
            slot: self.slot(),
            path,
            flags,
            new: self.new_inode(),
        }
    }

    fn new_inode(&mut self) -> NewInode {
        NewInode {
            permissions: self.permissions(&[0o644, 0o600, 0o755, 0o777, 0o000, 0o1777]),
            owner: Owner {
                uid: self.pick(&[0, 1, 1000]),
                gid: self.pick(&[0, 100, 1000]),
            },
        }
    }

    fn permissions(&mut self, choices: &[u32]) -> u32 {
        let permissions = self.pick(choices);
        match self.profile {
            Profile::Whole => permissions,
            // Kernels refuse to open others' files in sticky directories (`fs.protected_regular`).
            Profile::Confined | Profile::Beneath => permissions & !0o1000,
        }
    }

    fn file_operation(&mut self, model: &Model, slot: usize) -> FileOperation {
        let size = file_size(model, slot);
        match self.random.random_range(0..100) {
            0..15 => FileOperation::Read {
                offset: self.offset(size),
                len: self.length(),
            },
            15..18 => FileOperation::ReadVectored {
                offset: self.offset(size),
                lens: (0..self.random.random_range(0..5))
                    .map(|_| self.length())
                    .collect(),
            },
            18..29 => FileOperation::Write {
                offset: self.offset(size),
                data: self.data(),
            },
            29..32 => self.write_with(size),
            32..33 => self.pick(&[
                FileOperation::SetDax { dax: Dax::Off },
                FileOperation::SetDax { dax: Dax::On },
                FileOperation::RenewChecksums,
            ]),
            33..38 => {
                let (offset, data) = (self.offset(size), self.data());
                // Where a write goes to another place than it says, so would its pin.
                let is_append = model
                    .handle(slot)
                    .is_none_or(|handle| handle.flags.contains(OpenFlags::APPEND));
                if is_append {
                    FileOperation::Write { offset, data }
                } else {
                    FileOperation::StorePinned { offset, data }
                }
            }
            38..41 => FileOperation::WriteVectored {
                offset: self.offset(size),
                parts: (0..self.random.random_range(0..5)).map(|_| self.data()).collect(),
            },
            41..48 => FileOperation::Append { data: self.data() },
            48..55 => FileOperation::Truncate {
                size: self.offset(size),
            },
            55..70 => self.allocate(size),
            70..75 => FileOperation::SeekData {
                offset: self.offset(size),
            },
            75..80 => FileOperation::SeekHole {
                offset: self.offset(size),
            },
            80..84 => FileOperation::Stat,
            84..87 => FileOperation::SetAttributes(self.set_attributes()),
            87..89 => FileOperation::ReadDirectory {
                limit: self.random.random_range(1..9),
            },
            89..94 => FileOperation::StreamDirectory {
                limit: self.random.random_range(1..5),
            },
            94..96 => FileOperation::Xattr {
                name: self.xattr_name(),
            },
            96..98 => FileOperation::Sync,
            _ => FileOperation::Link {
                path: self.path(model),
            },
        }
    }

    /// A write of which something is asked; mostly one that can be atomic, if that is asked.
    fn write_with(&mut self, size: u64) -> FileOperation {
        use WriteFlags as Flags;
        let flags = self.pick(&[
            Flags::DSYNC,
            Flags::DSYNC,
            Flags::DONTCACHE,
            Flags::DONTCACHE | Flags::DSYNC,
            Flags::APPEND,
            Flags::APPEND | Flags::DSYNC,
            Flags::ATOMIC,
            Flags::ATOMIC,
            Flags::ATOMIC,
            Flags::ATOMIC | Flags::DSYNC,
            Flags::ATOMIC | Flags::APPEND,
        ]);
        let (mut offset, mut data) = (self.offset(size), self.data());
        if flags.contains(Flags::ATOMIC) && self.chance(90) {
            data.len = data.len.max(1).next_power_of_two();
            offset -= offset % u64::try_from(data.len).unwrap_or(1);
        }
        FileOperation::WriteWith { offset, data, flags }
    }

    /// New bytes of blocks that a file has: in a hole a pin makes some first, which is not an overwrite.
    fn sync_pinned(&mut self, model: &Model) -> Option<Operation> {
        let flags = OpenFlags::READ | OpenFlags::WRITE;
        let has_blocks = |slot: &usize| {
            let handle = model.handle(*slot);
            // Where a write goes to another place than it says, so would its pin.
            let handle = handle
                .filter(|handle| handle.flags.contains(flags) && !handle.flags.contains(OpenFlags::APPEND));
            let content = handle.and_then(|handle| model.file(handle.id));
            content.is_some_and(|content| content.block_numbers().next().is_some())
        };
        let slot = (0..SLOTS).filter(has_blocks).choose(&mut self.random)?;
        let content = model.file(model.handle(slot)?.id)?;
        let blocks: BTreeSet<u64> = content.block_numbers().collect();
        let first = *blocks.iter().choose(&mut self.random)?;
        let mut behind = first + 1;
        while behind < first + PINNED_BLOCKS && blocks.contains(&behind) {
            behind += 1;
        }
        let end = (behind * BLOCK).min(content.size());
        let offset = first * BLOCK + self.random.random_range(0..BLOCK);
        let room = end.checked_sub(offset).filter(|room| *room > 0)?;
        let data = Data {
            seed: self.random.random_range(0..1 << 32),
            len: usize::try_from(self.random.random_range(1..=room)).ok()?,
        };
        Some(Operation::File {
            slot,
            what: FileOperation::SyncPinned { offset, data },
        })
    }

    fn allocate(&mut self, size: u64) -> FileOperation {
        let mode = self.pick(&[
            AllocateMode::Allocate,
            AllocateMode::KeepSize,
            AllocateMode::Unshare,
            AllocateMode::PunchHole,
            AllocateMode::PunchHole,
            AllocateMode::ZeroRange,
            AllocateMode::ZeroRangeKeepSize,
            AllocateMode::Collapse,
            AllocateMode::Insert,
        ]);
        let mut offset = self.offset(size);
        let mut len = self.range_length(size);
        if matches!(mode, AllocateMode::Collapse | AllocateMode::Insert) && self.chance(85) {
            offset = offset / BLOCK * BLOCK;
            len = (len / BLOCK).max(1) * BLOCK;
        }
        if offset > size.saturating_add(8 * HUGE_PAGE) && self.chance(80) {
            offset = size;
        }
        let allocates = matches!(
            mode,
            AllocateMode::Allocate
                | AllocateMode::KeepSize
                | AllocateMode::Unshare
                | AllocateMode::ZeroRange
                | AllocateMode::ZeroRangeKeepSize
        );
        if self.profile != Profile::Whole || (allocates && len < TOO_MUCH) {
            len = len.min(4 * HUGE_PAGE);
        }
        if matches!(
            mode,
            AllocateMode::KeepSize | AllocateMode::Unshare | AllocateMode::ZeroRangeKeepSize
        ) {
            // Space behind the end of the file leaves no room to move it up: an insertion may be refused then.
            offset = offset.min(MAX_SIZE / 4);
        }
        FileOperation::Allocate { mode, offset, len }
    }

    /// An offset near what matters: block edges, huge page edges, the end of the file, the end of all files.
    fn offset(&mut self, size: u64) -> u64 {
        let offset = self.any_offset(size);
        match self.profile {
            Profile::Whole => offset,
            Profile::Confined | Profile::Beneath => offset.min(KERNEL_SIZE),
        }
    }

    fn any_offset(&mut self, size: u64) -> u64 {
        let near = self.random.random_range(0..5);
        let edge = match self.random.random_range(0..100) {
            0..15 => return 0,
            15..45 => self.random.random_range(0..24) * BLOCK,
            45..60 => return self.random.random_range(0..24 * BLOCK),
            60..75 => size,
            75..82 => return self.random.random_range(0..=size.min(1 << 30)),
            82..90 => self.random.random_range(1..3) * HUGE_PAGE,
            90..95 => return self.random.random_range(0..1 << 22),
            95..97 => self.pick(&[1 << 31, 1 << 32, 1 << 40, 1 << 52]),
            97 => MAX_SIZE - self.pick(&[0, 1, 7, 4095, 4096, 100_000]),
            98 => self.pick(&[MAX_SIZE / 2, 1 << 62]),
            _ => return self.random.random_range(0..1 << 24),
        };
        let (less, more) = (edge.saturating_sub(near), edge.saturating_add(near).min(MAX_SIZE));
        self.pick(&[edge, less, more])
    }

    fn length(&mut self) -> usize {
        match self.random.random_range(0..100) {
            0..3 => 0,
            3..30 => self.random.random_range(1..64),
            30..45 => 4096,
            45..75 => self.random.random_range(1..5000),
            75..95 => self.random.random_range(1..20_000),
            _ => self.random.random_range(1..70_000),
        }
    }

    fn data(&mut self) -> Data {
        Data {
            seed: self.random.random_range(0..1 << 32),
            len: self.length(),
        }
    }

    fn range_length(&mut self, size: u64) -> u64 {
        match self.random.random_range(0..100) {
            0..2 => 0,
            2..50 => self.random.random_range(1..17) * BLOCK,
            50..80 => self.random.random_range(1..17 * BLOCK),
            80..90 => size.max(1),
            90..96 => self.random.random_range(1..2 * HUGE_PAGE),
            96..98 => HUGE_PAGE,
            _ => self.pick(&[TOO_MUCH, 1 << 62, MAX_SIZE]),
        }
    }

    fn copy_range(&mut self, model: &Model) -> Operation {
        let from = self.open_slot(model);
        let to = if self.chance(20) {
            from
        } else {
            self.open_slot(model)
        };
        let len = match self.random.random_range(0..100) {
            0..3 => 0,
            3..60 => self.random.random_range(1..9) * BLOCK,
            60..90 => self.random.random_range(1..20_000),
            _ => self.random.random_range(1..200_000),
        };
        let size = file_size(model, from);
        let offset = self.offset(size);
        let is_same = model.handle(from).map(|handle| handle.id) == model.handle(to).map(|handle| handle.id);
        // Whether ranges overlap that are cut at the end of the file is open: before or after cutting.
        let len = if is_same {
            len.min(size.saturating_sub(offset))
        } else {
            len
        };
        Operation::CopyRange {
            from,
            offset,
            to,
            to_offset: self.offset(file_size(model, to)),
            len,
        }
    }

    fn remap(&mut self, model: &Model) -> Operation {
        let Operation::CopyRange {
            from,
            offset,
            to,
            to_offset,
            len,
        } = self.copy_range(model)
        else {
            return Operation::Sync;
        };
        // Mostly what can be shared: whole blocks, up to the end of the source, of two like places.
        let whole = |at: u64| at / BLOCK * BLOCK;
        let size = file_size(model, from);
        let (mut offset, mut to_offset, mut len) = (offset, to_offset, len.max(1));
        if self.chance(90) {
            (offset, to_offset) = (whole(offset.min(size)), whole(to_offset));
            len = if self.chance(60) {
                len.next_multiple_of(BLOCK)
            } else {
                len
            };
            len = len.min(size - offset).max(1);
        }
        let how = self.pick(&[Remap::Clone, Remap::Clone, Remap::Dedupe, Remap::Exchange]);
        if how == Remap::Dedupe && self.chance(70) {
            to_offset = offset;
        }
        if how == Remap::Exchange {
            to_offset = to_offset.min(whole(file_size(model, to)));
            if self.chance(25) {
                // Far from the end of all files, where what is allocated behind the ends could have no room.
                (offset, to_offset) = (offset.min(whole(1 << 40)), to_offset.min(whole(1 << 40)));
                len = 0;
            } else if self.chance(70) {
                len = len.min(file_size(model, to) - to_offset).max(1);
            }
        }
        Operation::Remap {
            how,
            from,
            offset,
            to,
            to_offset,
            len,
        }
    }

    fn name_operation(&mut self, model: &Model) -> NameOperation {
        match self.random.random_range(0..100) {
            0..18 => NameOperation::CreateDir {
                path: self.path(model),
                new: self.new_inode(),
            },
            18..28 => NameOperation::RemoveDir {
                path: self.path(model),
            },
            28..48 => NameOperation::Unlink {
                path: self.path(model),
            },
            48..78 => NameOperation::Rename {
                from: self.path(model),
                to: self.path(model),
                mode: self.pick(&[
                    RenameMode::Replace,
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ]),
            },
            78..88 => NameOperation::Link {
                existing: self.path(model),
                new: self.path(model),
            },
            88..96 => NameOperation::Symlink {
                target: self.target(model),
                path: self.path(model),
                new: self.new_inode(),
            },
            _ => {
                let kind = self.pick(&[
                    FileKind::Fifo,
                    FileKind::Socket,
                    FileKind::CharDevice,
                    FileKind::BlockDevice,
                ]);
                let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
                // 1:3 and 1:5 are /dev/null and /dev/zero: harmless where a kernel would open them.
                let rdev = if is_device { self.pick(&[0x103, 0x105]) } else { 0 };
                NameOperation::MakeNode {
                    path: self.path(model),
                    kind,
                    rdev,
                    new: self.new_inode(),
                }
            }
        }
    }

    fn node_operation(&mut self, model: &Model) -> NodeOperation {
        match self.random.random_range(0..100) {
            0..18 => NodeOperation::Stat,
            18..28 => NodeOperation::StatLink,
            28..36 => NodeOperation::ReadLink,
            36..48 => NodeOperation::SetAttributes(self.set_attributes()),
            48..54 => {
                let size = file_size(model, 0);
                NodeOperation::Truncate {
                    size: self.offset(size),
                }
            }
            54..66 => NodeOperation::ReadDirectory {
                limit: self.random.random_range(1..12),
            },
            66..73 => NodeOperation::Xattr {
                name: self.xattr_name(),
            },
            73..88 => NodeOperation::SetXattr {
                name: self.xattr_name(),
                value: self.xattr_value(),
                mode: self.pick(&[XattrMode::Either, XattrMode::Create, XattrMode::Replace]),
            },
            88..94 => NodeOperation::RemoveXattr {
                name: self.xattr_name(),
            },
            _ => NodeOperation::ListXattrs,
        }
    }

    fn set_attributes(&mut self) -> SetAttributes {
        let mut set = SetAttributes::default();
        if self.chance(40) {
            set.permissions = Some(self.permissions(&[0o644, 0o600, 0o1777, 0o2775, 0o4755, 0o000]));
        }
        if self.chance(25) {
            set.uid = Some(self.pick(&[0, 1, 1000, u32::MAX - 1]));
        }
        if self.chance(25) {
            set.gid = Some(self.pick(&[0, 100, 1000]));
        }
        if self.chance(30) {
            set.atime = Some(self.time());
        }
        if self.chance(30) {
            set.mtime = Some(self.time());
        }
        set
    }

    fn time(&mut self) -> SetTime {
        // Before 1970 and past 2038; no later than ext4 can hold, so that the kernel can be asked too.
        let seconds = self.pick(&[0, 1, -1, -2_000_000_000, 1_700_000_000, 1 << 31, 1 << 33]);
        let nanoseconds = self.pick(&[0, 1, 999_999_999]);
        self.pick(&[SetTime::Now, SetTime::To(Timestamp { seconds, nanoseconds })])
    }

    fn xattr_name(&mut self) -> Text {
        let names: [&[u8]; 9] = [
            b"user.a",
            b"user.b",
            b"user.comment",
            b"trusted.t",
            b"security.s",
            b"user.",
            b"other.x",
            b"",
            b"system.unknown",
        ];
        match self.random.random_range(0..100) {
            0..90 => Text::from(self.pick(&names[..5])),
            90..96 => Text::from(self.pick(&names[5..])),
            96..98 => Text([b"user.".as_slice(), &[b'n'; 250]].concat()),
            _ => Text([b"user.".as_slice(), &[b'n'; 251]].concat()),
        }
    }

    fn xattr_value(&mut self) -> Data {
        let len = match (self.random.random_range(0..100), self.profile) {
            (0..5, _) => 0,
            (5..70, _) => self.random.random_range(1..100),
            (70..95, _) => self.random.random_range(100..1000),
            // ext4 has one block for all attributes of an inode.
            (_, Profile::Confined) => 64,
            (95..98, _) => self.random.random_range(1000..10_000),
            (98, _) => 65_536,
            _ => 65_537,
        };
        Data {
            seed: self.random.random_range(0..1 << 32),
            len,
        }
    }

    fn name(&mut self) -> Vec<u8> {
        let short: [&[u8]; 9] = [
            b"a",
            b"b",
            b"c",
            b"d",
            b"e",
            b"f",
            b"g",
            b"\xff\xfe",
            b"with space",
        ];
        match self.random.random_range(0..200) {
            0..190 => self.pick(&short).to_vec(),
            190..194 => vec![b'n'; 255],
            194..198 => vec![b'm'; 130],
            _ => vec![b'x'; 256],
        }
    }

    fn path(&mut self, model: &Model) -> Text {
        let mut path = match self.random.random_range(0..100) {
            0..50 => self.walk(model, Stop::Anywhere),
            50..85 => {
                let mut path = self.walk(model, Stop::Directory);
                push(&mut path, &self.name());
                path
            }
            85..98 => {
                let mut path = Vec::new();
                for _ in 0..self.random.random_range(1..5) {
                    let name = self.name();
                    push(&mut path, &name);
                }
                path
            }
            _ => self.odd_path(model),
        };
        if self.chance(2) {
            path.push(b'/');
        }
        // POSIX follows a link with a slash after it, also where names are made; Linux does not.
        if path.ends_with(b"/") && model.names_link(&path) {
            while path.ends_with(b"/") {
                path.pop();
            }
        }
        if self.profile == Profile::Whole && self.chance(20) {
            path.insert(0, b'/');
        }
        if self.profile != Profile::Whole && path.iter().all(|byte| *byte == b'/') {
            path = self.name();
        }
        Text(path)
    }

    fn directory_path(&mut self, model: &Model) -> Text {
        let path = self.walk(model, Stop::Directory);
        Text(if path.is_empty() { b".".to_vec() } else { path })
    }

    fn odd_path(&mut self, model: &Model) -> Vec<u8> {
        let mut path = self.walk(model, Stop::Directory);
        match (self.random.random_range(0..8), self.profile) {
            (0, _) => return Vec::new(),
            (1, _) => return b"a/".repeat(2500),
            (2, _) => return [b"a//b/./c".as_slice(), b"///"].concat(),
            (3, Profile::Whole) => return b"/".to_vec(),
            (4 | 5, Profile::Whole) => push(&mut path, b".."),
            (6, Profile::Whole) => {
                push(&mut path, b"..");
                push(&mut path, &self.name());
            }
            _ => {
                push(&mut path, b".");
                push(&mut path, &self.name());
            }
        }
        path
    }

    /// The path of something that exists, from the root; empty for the root itself.
    fn walk(&mut self, model: &Model, stop: Stop) -> Vec<u8> {
        let mut path = Vec::new();
        let mut at = ROOT;
        while let Body::Directory { entries, .. } = &model.inode(at).body {
            let children: Vec<(&Vec<u8>, u64)> = entries
                .iter()
                .map(|(name, child)| (name, *child))
                .filter(|(_, child)| stop == Stop::Anywhere || model.inode(*child).is_directory())
                .collect();
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            let stays = if depth >= 4 { 70 } else { 30 };
            if children.is_empty() || (self.chance(stays) && (stop == Stop::Directory || !path.is_empty())) {
                break;
            }
            let (name, child) = self.pick(&children);
            push(&mut path, name);
            at = child;
        }
        path
    }

    fn target(&mut self, model: &Model) -> Text {
        let mut target = match self.random.random_range(0..100) {
            0..2 => Vec::new(),
            2..4 => vec![b't'; self.pick(&[96, 97, 4095, 4096])],
            4..50 => self.name(),
            _ => self.walk(model, Stop::Anywhere),
        };
        if self.profile == Profile::Whole {
            match self.random.random_range(0..10) {
                0..4 => target.insert(0, b'/'),
                4 => target = [b"../".as_slice(), &target].concat(),
                _ => {}
            }
        } else if target.len() == 4095 {
            // A target in a directory is longer for the kernel than for us.
            target.truncate(2000);
        }
        Text(target)
    }
}

/// Where a walk ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Directory,
    Anywhere,
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
}

fn file_size(model: &Model, slot: usize) -> u64 {
    match model.handle(slot).map(|handle| &model.inode(handle.id).body) {
        Some(Body::File(content)) => content.size(),
        _ => 0,
    }
}
