//! Reading a sound pool back.

use std::collections::BTreeMap;

use udax_media::dentry::Dentry;
use udax_media::extent::Extent;
use udax_media::inode::{self, FileKind, Inode, InodeFlags, InodeSlot};
use udax_media::node::{RawNodeHeader, SLOT_SIZE, SLOTS_START, Slot, TreeRoot};
use udax_media::xattr::{Xattr, XattrValue};
use udax_media::{BLOCK_SIZE, BlockNo, FileBlock, InodeNo, Superblock, roots};
use udax_pmem::Region;

/// What a file is and holds, whatever its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) size: u64,
    pub(crate) blocks: BTreeMap<u64, (u32, u64)>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) target: Vec<u8>,
}

fn block(region: &Region, block: BlockNo) -> [u8; BLOCK_SIZE] {
    let mut bytes = [0; BLOCK_SIZE];
    region.read(block.offset().raw(), &mut bytes).unwrap();
    bytes
}

fn entries(region: &Region, root: TreeRoot) -> Vec<(u64, Vec<u8>)> {
    let Some(at) = root.block() else { return vec![] };
    let bytes = block(region, at);
    let state_at = std::mem::offset_of!(RawNodeHeader, state);
    let [_, _, c0, c1, h0, h1, ..] = bytes[state_at..] else {
        unreachable!()
    };
    let count = usize::from(u16::from_le_bytes([c0, c1]));
    let heap_top = u16::from_le_bytes([h0, h1]);
    let slots = bytes[SLOTS_START..].as_chunks::<SLOT_SIZE>().0;
    let mut found = vec![];
    for raw in slots.iter().take(count) {
        if root.level() > 0 {
            let child = u64::from_le_bytes(raw[8..].try_into().unwrap());
            found.extend(entries(region, TreeRoot::new(BlockNo(child), root.level() - 1)));
            continue;
        }
        let slot = Slot::decode(raw, heap_top).unwrap();
        if slot.is_used {
            let start = usize::from(slot.offset);
            found.push((slot.key, bytes[start..start + usize::from(slot.length)].to_vec()));
        }
    }
    found.sort();
    found
}

fn inodes(region: &Region, superblock: &Superblock) -> BTreeMap<u64, Inode> {
    let total = superblock.total_blocks();
    let seed = superblock.seed();
    let [table, ..] = roots::verify(seed, &block(region, udax_media::geometry::ROOTS), total).unwrap();
    let mut found = BTreeMap::new();
    for (chunk, value) in entries(region, table) {
        let at = BlockNo(u64::from_le_bytes(value.try_into().unwrap()));
        let bytes = block(region, at);
        for (slot, bytes) in (0..).zip(bytes.as_chunks::<256>().0) {
            let ino = InodeNo(chunk * 16 + slot);
            if let InodeSlot::Used(inode) = inode::verify(seed, bytes, ino, total).unwrap() {
                found.insert(ino.raw(), *inode);
            }
        }
    }
    found
}

fn extents(region: &Region, inode: &Inode, total: u64) -> Vec<Extent> {
    if inode.flags.contains(InodeFlags::EXTENT_TREE) {
        let entries = entries(region, inode.root).into_iter();
        return entries
            .map(|(key, value)| Extent::decode(FileBlock(key), &value, total).unwrap())
            .collect();
    }
    inode.collect_inline_extents(total).unwrap()
}

/// All files that are no directories, by inode number.
pub(crate) fn read_contents(region: &Region, superblock: &Superblock) -> BTreeMap<u64, Content> {
    let total = superblock.total_blocks();
    let mut contents = BTreeMap::new();
    for (ino, inode) in inodes(region, superblock) {
        if inode.kind == FileKind::Directory {
            continue;
        }
        let size = usize::try_from(inode.size.min(4096)).unwrap();
        let is_inline = inode.kind == FileKind::Symlink && size <= 96;
        let extents = if is_inline {
            vec![]
        } else {
            extents(region, &inode, total)
        };
        let mut blocks = BTreeMap::new();
        for extent in &extents {
            for index in 0..extent.count {
                let bytes = block(region, BlockNo(extent.start.raw() + index));
                let value = (crc32c::crc32c(&bytes), extent.flags.bits());
                blocks.insert(extent.first.raw() + index, value);
            }
        }
        let target = match (inode.kind, extents.first()) {
            (FileKind::Symlink, Some(extent)) => block(region, extent.start)[..size].to_vec(),
            (FileKind::Symlink, None) => inode.inline[..size].to_vec(),
            _ => vec![],
        };
        let mut xattrs = BTreeMap::new();
        for (_, bytes) in entries(region, inode.xattr_root) {
            let xattr = Xattr::decode(&bytes, total).unwrap();
            let value = match xattr.value {
                XattrValue::Inline(value) => value.to_vec(),
                XattrValue::External { length, runs, .. } => {
                    let mut value: Vec<u8> = runs.iter().flat_map(|run| block(region, run.start)).collect();
                    value.truncate(usize::try_from(length).unwrap());
                    value
                }
            };
            xattrs.insert(xattr.name.to_vec(), value);
        }
        let content = Content {
            mode: inode.mode(),
            uid: inode.uid,
            size: inode.size,
            blocks,
            xattrs,
            target,
        };
        contents.insert(ino, content);
    }
    contents
}

/// All paths, with their inodes.
pub(crate) fn read_paths(region: &Region, superblock: &Superblock) -> BTreeMap<String, u64> {
    let inodes = inodes(region, superblock);
    let mut paths = BTreeMap::new();
    let mut todo = vec![(String::new(), 1)];
    while let Some((path, ino)) = todo.pop() {
        for (_, value) in entries(region, inodes[&ino].root) {
            let dentry = Dentry::decode(&value).unwrap();
            let path = format!("{path}/{}", String::from_utf8_lossy(dentry.name));
            if dentry.kind == FileKind::Directory {
                todo.push((path.clone(), dentry.ino.raw()));
            }
            assert!(paths.insert(path, dentry.ino.raw()).is_none());
        }
    }
    paths
}
