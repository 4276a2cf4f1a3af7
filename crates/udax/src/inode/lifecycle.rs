//! Making inodes and freeing them.
//!
//! An inode is freed when its last name is gone and no handle is open. If that fits in one journal record, it happens
//! in the record that removes the name. Else the inode becomes an orphan in that record, and is freed step by step;
//! a mount finishes what a crash interrupted.

use std::sync::Arc;

use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::{FileKind, INLINE_BYTES, InodeFlags, offset};
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::{BlockNo, ByteOffset, FileBlock, InodeNo, Timestamp};

use crate::cached::Way;
use crate::error::Result;
use crate::extents::{Completeness, END_OF_FILES, ExtentMap, clip};
use crate::inode::fields::Line;
use crate::inode::table::next_generation;
use crate::inode::{Inode, InodeState};
use crate::options::NewInode;
use crate::pool::Pool;
use crate::tree::Tree;
use crate::update::Update;
use crate::xattr::Belongings;

/// The most extents that one record frees or maps. Mostly it is far from full then; what makes it too large all the
/// same is done in smaller steps ([`Pool::in_steps`]).
pub(crate) const EXTENTS_PER_RECORD: usize = 256;
/// Bytes of a new inode that are written when nothing is inline.
const HEAD_BYTES: usize = 160;

/// What a new inode will be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth<'b> {
    pub(crate) kind: FileKind,
    pub(crate) new: NewInode,
    /// What it inherits from the directory.
    pub(crate) flags: InodeFlags,
    /// Names that it starts with: 2 for a directory, 0 for a temporary file.
    pub(crate) nlink: u32,
    /// The directory it is made in.
    pub(crate) parent: InodeNo,
    pub(crate) now: Timestamp,
    pub(crate) content: BirthContent<'b>,
}

/// What only some kinds have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BirthContent<'b> {
    /// Nothing.
    Empty,
    /// A device number.
    Device(u64),
    /// A link target of at most 96 bytes.
    ShortTarget(&'b [u8]),
    /// A longer link target, durable in this block.
    LongTarget { target: &'b [u8], block: BlockNo },
}

/// An inode number that goes back to the free ones unless its inode has been made.
#[derive(Debug)]
pub(crate) struct NumberGuard<'p> {
    pool: &'p Pool,
    pub(crate) ino: InodeNo,
    at: ByteOffset,
    is_used: bool,
}

impl<'p> NumberGuard<'p> {
    /// Takes a free number.
    pub(crate) fn take(pool: &'p Pool) -> Result<Self> {
        let (ino, at) = pool.inode_table.take(pool)?;
        Ok(Self {
            pool,
            ino,
            at,
            is_used: false,
        })
    }

    /// Adds the new inode to `update`, and gives its object. Call [`NumberGuard::publish`] when it has committed.
    pub(crate) fn make(&self, update: &mut Update<'_>, birth: Birth<'_>) -> Result<Inode> {
        let generation = next_generation(self.pool, self.ino, self.at)?;
        let mut inode = udax_media::inode::Inode {
            ino: self.ino,
            generation,
            kind: birth.kind,
            permissions: birth.new.permissions,
            flags: birth.flags,
            uid: birth.new.owner.uid,
            gid: birth.new.owner.gid,
            rdev: 0,
            btime: birth.now,
            size: 0,
            blocks: 0,
            mtime: birth.now,
            ctime: birth.now,
            atime: birth.now,
            nlink: birth.nlink,
            change: 1,
            xattr_root: TreeRoot::EMPTY,
            parent: if birth.kind == FileKind::Directory {
                birth.parent
            } else {
                InodeNo(0)
            },
            root: TreeRoot::EMPTY,
            inline_count: 0,
            target_checksum: 0,
            inline: [0; INLINE_BYTES],
        };
        let inline_bytes = fill_content(&mut inode, birth.content);
        let bytes = inode.encode();
        let written = (HEAD_BYTES + inline_bytes).next_multiple_of(8);
        update.write(self.at, bytes.get(..written).unwrap_or(&bytes));
        update.count_inodes(1);
        let way = Way::of(self.pool, birth.kind, birth.flags);
        Ok(Inode::new((self.ino, self.at), generation, birth.kind, way))
    }

    /// The update has committed: others may use the inode.
    pub(crate) fn publish(mut self, inode: Inode) -> Arc<Inode> {
        self.is_used = true;
        let inode = Arc::new(inode);
        self.pool.inodes.insert(Arc::clone(&inode));
        inode
    }
}

impl Drop for NumberGuard<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.pool.inode_table.give_back(self.ino);
        }
    }
}

/// Fills in what depends on the kind; gives the number of inline bytes.
fn fill_content(inode: &mut udax_media::inode::Inode, content: BirthContent<'_>) -> usize {
    match content {
        BirthContent::Empty => 0,
        BirthContent::Device(rdev) => {
            inode.rdev = rdev;
            0
        }
        BirthContent::ShortTarget(target) => {
            inode.size = u64::try_from(target.len()).unwrap_or(u64::MAX);
            inode.target_checksum = udax_media::inode::target_checksum(target);
            for (to, from) in inode.inline.iter_mut().zip(target) {
                *to = *from;
            }
            target.len()
        }
        BirthContent::LongTarget { target, block } => {
            inode.size = u64::try_from(target.len()).unwrap_or(u64::MAX);
            inode.target_checksum = udax_media::inode::target_checksum(target);
            inode.blocks = 1;
            inode.inline_count = 1;
            let extent = Extent {
                first: FileBlock(0),
                start: block,
                count: 1,
                flags: ExtentFlags::empty(),
            };
            let encoded = extent.encode_inline();
            for (to, from) in inode.inline.iter_mut().zip(encoded) {
                *to = from;
            }
            encoded.len()
        }
    }
}

/// What becomes of an inode whose last name goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Farewell {
    /// It was freed in the same record.
    Freed,
    /// It is an orphan because a handle is open.
    Open,
    /// It is an orphan because it has too many extents or attributes for one record: free it step by step now.
    Long,
}

impl Pool {
    /// Adds to `update` the freeing of everything that the inode owns, and of the inode. Only when one record can
    /// ([`freeable`]); otherwise nothing is added.
    pub(crate) fn free_inode(
        &self,
        update: &mut Update<'_>,
        inode: &Inode,
        state: &mut InodeState,
    ) -> Result<Completeness> {
        let Some(attributes) = Belongings::collect_few(self, inode)? else {
            return Ok(Completeness::More);
        };
        if let Some(mapping) = inode.mapping() {
            // No handle is open, and each pin has one. Before the commit: right after it the blocks may be another
            // file's. Should it fail, what was stored through pins and not synced stays as it is, not durable.
            mapping.forget();
        }
        if matches!(inode.kind, FileKind::Regular | FileKind::Symlink) {
            let mut map = ExtentMap::begin(self, inode, state)?;
            let found = freeable(update, &map, (FileBlock(0), END_OF_FILES))?;
            if found.completeness == Completeness::More {
                map.finish(state);
                return Ok(Completeness::More);
            }
            for extent in &found.extents {
                update.free_extent(extent)?;
            }
            map.rebuild(update, Vec::new())?;
        } else if inode.kind == FileKind::Directory {
            let tree = Tree::new(inode.tree_identity(TreeKind::Directory), self.inode_root(inode)?);
            let mut nodes = Vec::new();
            tree.for_each_node(self, |block, _| {
                nodes.push(block);
                Ok(())
            })?;
            nodes
                .into_iter()
                .try_for_each(|node| update.free_metadata(node))?;
        }
        attributes.free(update)?;
        update.write_u64(inode.field(offset::MODE), 0);
        update.count_inodes(-1);
        Ok(Completeness::All)
    }

    /// After the update that freed the inode has committed: nobody may use it, and its number is free.
    pub(crate) fn bury(&self, inode: &Inode, state: &mut InodeState) {
        state.is_dead = true;
        state.pending_size = None;
        if let Some(part) = inode.cached() {
            part.mapping.forget();
        }
        if let Some(window) = state.window.take() {
            self.give_back(window);
        }
        self.cuts.remove(inode.ino);
        self.inodes.remove(inode.ino);
        // Or whoever knows the number gives it back.
        if !inode.is_held() {
            self.give_number_back(inode.ino);
        }
    }

    /// Frees an orphan without handles, step by step. The caller has the inode's lock.
    pub(crate) fn finish_orphan(&self, inode: &Inode, state: &mut InodeState) -> Result<()> {
        while self.in_steps(|limit| self.finish_orphan_step(inode, state, limit))? == Completeness::More {}
        Ok(())
    }

    fn finish_orphan_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        limit: usize,
    ) -> Result<Completeness> {
        let mut update = Update::freeing(self).limited(limit);
        if self.free_inode(&mut update, inode, state)? == Completeness::All {
            let change = self.orphans.remove(&mut update, inode.ino)?;
            update.commit()?;
            change.done();
            self.bury(inode, state);
            return Ok(Completeness::All);
        }
        drop(update);
        if Belongings::collect_few(self, inode)?.is_none() {
            self.remove_some_xattrs(inode, state)?;
        } else {
            self.free_some_extents(inode, state, FileBlock(0), limit)?;
        }
        Ok(Completeness::More)
    }

    /// Frees of the extents from `first` on what one record can; whether that was all.
    pub(crate) fn free_extents_from(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        first: FileBlock,
    ) -> Result<Completeness> {
        self.in_steps(|limit| self.free_some_extents(inode, state, first, limit))
    }

    fn free_some_extents(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        first: FileBlock,
        limit: usize,
    ) -> Result<Completeness> {
        let mut update = Update::freeing(self).limited(limit);
        let mut line = Line::read(self, inode)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        let completeness = free_tail(&mut update, &mut map, &mut line, first)?;
        map.store(&mut update)?;
        line.store(&mut update, inode);
        update.commit()?;
        map.finish(state);
        Ok(completeness)
    }
}

/// What one record can free of a range, from its start.
#[derive(Debug)]
pub(crate) struct Freeable {
    /// The extents, inside `..end`.
    pub(crate) extents: Vec<Extent>,
    /// Up to here; the range's end if that is all.
    pub(crate) end: FileBlock,
    pub(crate) completeness: Completeness,
}

/// The first extents that touch `first..end`, as many as the update's limit, and of those that are shared as much as
/// has no more share counts either.
pub(crate) fn freeable(
    update: &mut Update<'_>,
    map: &ExtentMap<'_>,
    (first, end): (FileBlock, FileBlock),
) -> Result<Freeable> {
    let limit = update.limit();
    let (mut extents, mut completeness) = map.collect(update, first, end, limit)?;
    let mut end = match (completeness, extents.last()) {
        (Completeness::More, Some(last)) => last.end(),
        _ => end,
    };
    let mut left = limit;
    for extent in &extents {
        let Some(part) = clip(extent, first, end).filter(Extent::is_shared) else {
            continue;
        };
        let segments = update.owners(&part, left + 1)?;
        if let Some(beyond) = segments.get(left) {
            let reached = beyond.blocks.start.raw() - part.start.raw();
            end = FileBlock(part.first.raw() + reached);
            completeness = Completeness::More;
            break;
        }
        left -= segments.len();
    }
    extents = extents
        .iter()
        .filter_map(|extent| clip(extent, first, end))
        .collect();
    Ok(Freeable {
        extents,
        end,
        completeness,
    })
}

/// Adds to `update` the freeing of what one record can free from `first` on; whether that was all.
pub(crate) fn free_tail(
    update: &mut Update<'_>,
    map: &mut ExtentMap<'_>,
    line: &mut Line,
    first: FileBlock,
) -> Result<Completeness> {
    let found = freeable(update, map, (first, END_OF_FILES))?;
    if !found.extents.is_empty() {
        free_range(update, map, line, first, found.end)?;
    }
    Ok(found.completeness)
}

/// Adds to `update` the unmapping of `first..end` and the freeing of its blocks.
pub(crate) fn free_range(
    update: &mut Update<'_>,
    map: &mut ExtentMap<'_>,
    line: &mut Line,
    first: FileBlock,
    end: FileBlock,
) -> Result<()> {
    let removed = map.splice(update, first, end, &[])?;
    for extent in &removed {
        update.free_extent(extent)?;
        line.add_blocks(-i64::try_from(extent.count).unwrap_or(i64::MAX));
    }
    line.add_blocks(update.take_metadata_delta());
    Ok(())
}
