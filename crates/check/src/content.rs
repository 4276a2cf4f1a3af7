//! What belongs to one inode: its extents or names, its attributes, its link target.
//!
//! [`walk_inode`] is the one way through an inode's content; the scan, the comparison of owners and the repair see
//! it through their own [`View`]. What is not sound becomes a [`Fault`] and is not shown otherwise.

use std::ops::RangeInclusive;

use udax_media::dentry::Dentry;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::{FileKind, INLINE_BYTES, Inode, InodeFlags};
use udax_media::node::{NodeIdentity, TreeKind};
use udax_media::xattr::{Xattr, XattrValue};
use udax_media::{BlockNo, BlockRange, FileBlock, Place, name};

use crate::finding::{Fault, Mend};
use crate::pool::Pool;
use crate::tree::{self, Visit};

/// The last block that a file can have.
const LAST_FILE_BLOCK: u64 = (1 << 51) - 1;
/// The name spaces of extended attributes.
const XATTR_PREFIXES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// As what blocks are owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimKind {
    /// A pool's own range.
    Own,
    /// An inode chunk of the inode table.
    Chunk(u64),
    /// A node of a tree.
    Node(TreeKind),
    /// The value of the attribute with this key.
    XattrValue(u64),
    /// A link target.
    Target,
    /// A file's data, from this file block.
    Data(FileBlock, ExtentFlags),
}

/// Sees an inode's content.
pub(crate) trait View {
    /// The inode owns these blocks.
    fn claim(&mut self, range: BlockRange, kind: ClaimKind);
    /// An extent, in ascending order.
    fn extent(&mut self, _extent: &Extent) {}
    /// A name, in ascending order of keys.
    fn dentry(&mut self, _key: u64, _dentry: &Dentry<'_>) {}
    /// An attribute and its bytes in the tree, in ascending order of keys.
    fn xattr(&mut self, _key: u64, _bytes: &[u8]) {}
    /// Something is wrong.
    fn fault(&mut self, place: Place, fault: Fault);
}

/// The identity of `inode`'s tree of kind `kind`.
pub(crate) const fn identity(inode: &Inode, kind: TreeKind) -> NodeIdentity {
    NodeIdentity {
        kind,
        owner: inode.ino.raw(),
        generation: inode.generation,
    }
}

/// Shows everything that belongs to `inode`.
pub(crate) fn walk_inode(pool: &Pool<'_>, inode: &Inode, view: &mut dyn View) {
    match inode.kind {
        FileKind::Directory => walk_names(pool, inode, view),
        FileKind::Regular => walk_extents(pool, inode, view),
        FileKind::Symlink => walk_target(pool, inode, view),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
    }
    let mut xattrs = Xattrs {
        pool,
        inode,
        view,
        run: NameRun::default(),
    };
    tree::walk(
        pool,
        inode.xattr_root,
        identity(inode, TreeKind::Xattrs),
        &mut xattrs,
    );
}

/// The names met so far whose hash is the last one met, to find a name that is there twice.
#[derive(Debug, Default)]
struct NameRun {
    first_key: u64,
    names: Vec<Vec<u8>>,
}

impl NameRun {
    /// Whether `name` with lowest key `first_key` is new in the run.
    fn is_new(&mut self, first_key: u64, name: &[u8]) -> bool {
        if self.first_key != first_key {
            self.first_key = first_key;
            self.names.clear();
        }
        let is_new = !self.names.iter().any(|known| known == name);
        if is_new {
            self.names.push(name.to_vec());
        }
        is_new
    }
}

fn walk_names(pool: &Pool<'_>, inode: &Inode, view: &mut dyn View) {
    struct Names<'n> {
        inode: &'n Inode,
        hash_key: &'n [u8; 16],
        view: &'n mut dyn View,
        run: NameRun,
    }
    impl Visit for Names<'_> {
        fn node(&mut self, block: BlockNo) {
            self.view
                .claim(BlockRange::new(block, 1), ClaimKind::Node(TreeKind::Directory));
        }
        fn entry(&mut self, key: u64, value: &[u8]) {
            let place = Place::Inode(self.inode.ino);
            let Some(dentry) = Dentry::decode(value) else {
                let what = format!("directory entry with key {key} is no entry");
                let fault = Fault::with_loss(what, "one name".to_owned(), Mend::Drop(key));
                return self.view.fault(place, fault);
            };
            let keys = name::keys(self.hash_key, dentry.name);
            if !self.run.is_new(keys.first, dentry.name) {
                let what = format!("name {} is in the directory twice", shown(dentry.name));
                let lost = format!("its second meaning, inode {}", dentry.ino);
                return self
                    .view
                    .fault(place, Fault::with_loss(what, lost, Mend::Drop(key)));
            }
            if !(keys.first..=keys.last).contains(&key) {
                let what = format!("name {} has key {key}, not one of its hash", shown(dentry.name));
                self.view.fault(place, Fault::new(what, Mend::Rekey(key)));
            }
            self.view.dentry(key, &dentry);
        }
        fn lost(&mut self, place: Place, keys: RangeInclusive<u64>, why: String) {
            let (ino, first, last) = (self.inode.ino, keys.start(), keys.end());
            let lost = format!("names of directory {ino} with keys {first} to {last}");
            self.view.fault(place, Fault::with_loss(why, lost, Mend::Rebuild));
        }
    }
    let mut names = Names {
        inode,
        hash_key: &pool.superblock.hash_key,
        view,
        run: NameRun::default(),
    };
    tree::walk(pool, inode.root, identity(inode, TreeKind::Directory), &mut names);
}

fn walk_extents(pool: &Pool<'_>, inode: &Inode, view: &mut dyn View) {
    let mut extents = Extents {
        pool,
        inode,
        view,
        next: 0,
        blocks: 0,
        is_told: false,
    };
    if inode.flags.contains(InodeFlags::EXTENT_TREE) {
        tree::walk(pool, inode.root, identity(inode, TreeKind::Extents), &mut extents);
    } else {
        for extent in inode.collect_inline_extents(pool.reach()).unwrap_or_default() {
            extents.accept(&extent);
        }
    }
}

struct Extents<'e> {
    pool: &'e Pool<'e>,
    inode: &'e Inode,
    view: &'e mut dyn View,
    /// The end of the last extent.
    next: u64,
    blocks: u64,
    /// That a DAX file has blocks of the data device.
    is_told: bool,
}

impl Extents<'_> {
    fn accept(&mut self, extent: &Extent) {
        let (first, end) = (extent.first.raw(), extent.end().raw());
        self.blocks = self.blocks.saturating_add(extent.count);
        let what = if first < self.next {
            Some("overlaps the one before it")
        } else {
            // Also bounds the time that a file with impossible extents can take.
            (self.blocks > self.pool.reach().total()).then_some("brings the file beyond the size of the pool")
        };
        if let Some(what) = what {
            let what = format!("extent of file blocks {first} to {} {what}", end - 1);
            let lost = format!("file blocks {first} to {} of inode {}", end - 1, self.inode.ino);
            let fault = Fault::with_loss(what, lost, Mend::Drop(first));
            return self.view.fault(Place::Inode(self.inode.ino), fault);
        }
        self.next = end;
        if extent.start.is_on_device() && self.inode.flags.contains(InodeFlags::DAX) && !self.is_told {
            self.is_told = true;
            let what = "the DAX flag, and blocks of the data device".to_owned();
            let fault = Fault::new(what, Mend::NoDax);
            self.view.fault(Place::Inode(self.inode.ino), fault);
        }
        self.view
            .claim(extent.blocks(), ClaimKind::Data(extent.first, extent.flags));
        self.view.extent(extent);
    }
}

impl Visit for Extents<'_> {
    fn node(&mut self, block: BlockNo) {
        self.view
            .claim(BlockRange::new(block, 1), ClaimKind::Node(TreeKind::Extents));
    }
    fn entry(&mut self, key: u64, value: &[u8]) {
        match Extent::decode(FileBlock(key), value, self.pool.reach()) {
            Some(extent) => self.accept(&extent),
            None => {
                let what = format!("extent at file block {key} is impossible");
                let lost = format!("file blocks from {key} of inode {}", self.inode.ino);
                let fault = Fault::with_loss(what, lost, Mend::Drop(key));
                self.view.fault(Place::Inode(self.inode.ino), fault);
            }
        }
    }
    fn lost(&mut self, place: Place, keys: RangeInclusive<u64>, why: String) {
        let (ino, first, last) = (self.inode.ino, keys.start(), keys.end().min(&LAST_FILE_BLOCK));
        let lost = format!("file blocks {first} to {last} of inode {ino}");
        self.view.fault(place, Fault::with_loss(why, lost, Mend::Rebuild));
    }
}

fn walk_target(pool: &Pool<'_>, inode: &Inode, view: &mut dyn View) {
    if let Err(what) = try_walk_target(pool, inode, view) {
        let lost = format!("link target of inode {}", inode.ino);
        view.fault(Place::Inode(inode.ino), Fault::with_loss(what, lost, Mend::Clear));
    }
}

fn try_walk_target(pool: &Pool<'_>, inode: &Inode, view: &mut dyn View) -> Result<(), String> {
    let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
    let checksum = if size <= INLINE_BYTES {
        if inode.inline_count != 0 {
            return Err("short link target beside extents".to_owned());
        }
        crc32c::crc32c(inode.inline.get(..size).unwrap_or_default())
    } else {
        let extents = inode
            .collect_inline_extents(pool.total_blocks)
            .unwrap_or_default();
        let [extent] = extents.as_slice() else {
            return Err(format!("long link target in {} extents", extents.len()));
        };
        if extent.first.raw() != 0 || extent.count != 1 {
            return Err("long link target not in one block".to_owned());
        }
        let block = pool.read(extent.start)?;
        view.claim(extent.blocks(), ClaimKind::Target);
        crc32c::crc32c(block.get(..size).unwrap_or_default())
    };
    if checksum != inode.target_checksum {
        return Err(format!(
            "link target's checksum {:#010x}, but its bytes give {checksum:#010x}",
            inode.target_checksum
        ));
    }
    Ok(())
}

struct Xattrs<'x> {
    pool: &'x Pool<'x>,
    inode: &'x Inode,
    view: &'x mut dyn View,
    run: NameRun,
}

impl Xattrs<'_> {
    fn try_entry(&mut self, key: u64, bytes: &[u8]) -> Result<(), (String, String)> {
        let ino = self.inode.ino;
        let unknown = || format!("an attribute of inode {ino}");
        let xattr = Xattr::decode(bytes, self.pool.total_blocks)
            .ok_or_else(|| (format!("attribute with key {key} is impossible"), unknown()))?;
        let lost = || format!("attribute {} of inode {ino}", shown(xattr.name));
        if !XATTR_PREFIXES.iter().any(|prefix| xattr.name.starts_with(prefix)) {
            return Err((
                format!("attribute {} is in no name space", shown(xattr.name)),
                lost(),
            ));
        }
        let keys = name::keys(&self.pool.superblock.hash_key, xattr.name);
        if !(keys.first..=keys.last).contains(&key) {
            let what = format!(
                "attribute {} has key {key}, not one of its hash",
                shown(xattr.name)
            );
            return Err((what, lost()));
        }
        if !self.run.is_new(keys.first, xattr.name) {
            return Err((format!("attribute {} is there twice", shown(xattr.name)), lost()));
        }
        if let XattrValue::External {
            length,
            checksum,
            runs,
        } = &xattr.value
        {
            let computed = self
                .value_checksum(*length, runs)
                .map_err(|what| (what, lost()))?;
            if computed != *checksum {
                let name = shown(xattr.name);
                let what = format!(
                    "value of attribute {name}: checksum {checksum:#010x}, but its bytes give {computed:#010x}"
                );
                return Err((what, lost()));
            }
            for run in runs {
                self.view.claim(*run, ClaimKind::XattrValue(key));
            }
        }
        self.view.xattr(key, bytes);
        Ok(())
    }

    fn value_checksum(&self, length: u32, runs: &[BlockRange]) -> Result<u32, String> {
        let mut left = usize::try_from(length).unwrap_or(0);
        let mut checksum = 0;
        for block in runs.iter().flat_map(|run| run.start.raw()..run.end().raw()) {
            let bytes = self.pool.read(BlockNo(block))?;
            let part = bytes.get(..left.min(bytes.len())).unwrap_or_default();
            checksum = crc32c::crc32c_append(checksum, part);
            left -= part.len();
        }
        Ok(checksum)
    }
}

impl Visit for Xattrs<'_> {
    fn node(&mut self, block: BlockNo) {
        self.view
            .claim(BlockRange::new(block, 1), ClaimKind::Node(TreeKind::Xattrs));
    }
    fn entry(&mut self, key: u64, value: &[u8]) {
        if let Err((what, lost)) = self.try_entry(key, value) {
            let fault = Fault::with_loss(what, lost, Mend::DropXattr(key));
            self.view.fault(Place::Inode(self.inode.ino), fault);
        }
    }
    fn lost(&mut self, place: Place, keys: RangeInclusive<u64>, why: String) {
        let (ino, first, last) = (self.inode.ino, keys.start(), keys.end());
        let lost = format!("attributes of inode {ino} with keys {first} to {last}");
        self.view
            .fault(place, Fault::with_loss(why, lost, Mend::RebuildXattrs));
    }
}

/// A name for people: quoted, what is not UTF-8 or a control character escaped.
pub(crate) fn shown(name: &[u8]) -> String {
    format!("\"{}\"", name.escape_ascii())
}
