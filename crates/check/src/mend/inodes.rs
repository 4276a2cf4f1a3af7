//! Changing one inode: its trees are built anew beside the old ones, then one step switches the inode.

use std::collections::VecDeque;

use udax_media::dentry::{self, Dentry};
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::{self, FileKind, INODE_SIZE, Inode, InodeFlags, InodeSlot, MAX_INLINE_EXTENTS};
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::{BlockNo, BlockRange, FileBlock, InodeNo, Place, name};

use super::build::Builder;
use super::log::Write;
use super::{Failure, Mender};
use crate::content::{ClaimKind, View, identity, walk_inode};
use crate::finding::{Edit, Fault};
use crate::scan::Table;

/// A name to put into a directory.
#[derive(Clone, Debug)]
pub(super) struct Addition {
    pub(super) name: Vec<u8>,
    pub(super) ino: InodeNo,
    pub(super) kind: FileKind,
}

impl Mender<'_, '_> {
    /// The inode as it is now; `None` when it is not in use.
    pub(super) fn read_inode(&self, ino: InodeNo) -> Result<Option<Box<Inode>>, Failure> {
        let Some(chunk) = self.scan.table.chunk_of(ino) else {
            return Ok(None);
        };
        match self.pool.slot(&*self.read(chunk)?, ino) {
            Ok(InodeSlot::Used(inode)) => Ok(Some(inode)),
            Ok(InodeSlot::Free { .. }) | Err(_) => Ok(None),
        }
    }

    /// Carries `edit` out on `ino`, puts `additions` into it when it is a directory, and makes `beside` happen in
    /// the same step.
    pub(super) fn edit_inode(
        &mut self,
        ino: InodeNo,
        edit: &Edit,
        additions: &[Addition],
        beside: Vec<Write>,
    ) -> Result<(), Failure> {
        let Some(chunk) = self.scan.table.chunk_of(ino) else {
            return Ok(());
        };
        let at = inode::offset_in_chunk(chunk, ino);
        if edit.clear {
            self.log.commit(&[Write::new(at, [0; INODE_SIZE])])?;
            return Ok(());
        }
        let Some(mut inode) = self.read_inode(ino)? else {
            return Ok(());
        };
        self.change_content(&mut inode, edit, additions)?;
        if edit.rebuild_xattrs || !edit.drop_xattrs.is_empty() {
            inode.xattr_root = self.build_xattrs(&inode, edit)?;
        }
        inode.parent = edit.parent.unwrap_or(inode.parent);
        inode.nlink = edit.nlink.unwrap_or(inode.nlink);
        if edit.no_dax {
            inode.flags.remove(InodeFlags::DAX);
        }
        self.count(&mut inode);
        self.mark_taken()?;
        let mut writes = beside;
        writes.push(Write::inode(at, &inode, self.pool.seed));
        self.log.commit(&writes)?;
        Ok(())
    }

    fn change_content(
        &mut self,
        inode: &mut Inode,
        edit: &Edit,
        additions: &[Addition],
    ) -> Result<(), Failure> {
        let is_changed = edit.rebuild
            || !edit.drop.is_empty()
            || !edit.drop_targets.is_empty()
            || !edit.rekey.is_empty()
            || !edit.retype.is_empty()
            || !edit.cut.is_empty()
            || !additions.is_empty();
        match inode.kind {
            FileKind::Directory if is_changed => inode.root = self.build_names(inode, edit, additions)?,
            FileKind::Regular if is_changed => self.build_extents(inode, edit)?,
            _ => {}
        }
        Ok(())
    }

    fn build_names(
        &mut self,
        inode: &Inode,
        edit: &Edit,
        additions: &[Addition],
    ) -> Result<TreeRoot, Failure> {
        let mut moved = Moved {
            edit,
            moved: additions.to_vec(),
        };
        if !edit.rekey.is_empty() {
            walk_inode(&self.pool, inode, &mut moved);
        }
        let hash_key = &self.pool.superblock.hash_key;
        let mut pending: Vec<(u64, Addition)> = moved
            .moved
            .into_iter()
            .map(|new| (name::keys(hash_key, &new.name).first, new))
            .collect();
        pending.sort_by_key(|(key, _)| *key);
        let builder = Builder::new(self.log, &mut self.space, identity(inode, TreeKind::Directory));
        let mut names = Names {
            edit,
            table: &self.scan.table,
            pending: pending.into(),
            builder,
            outcome: Ok(()),
        };
        walk_inode(&self.pool, inode, &mut names);
        names.outcome?;
        while let Some((key, addition)) = names.pending.pop_front() {
            push_name(&mut names.builder, key, &addition)?;
            make_room(&mut names.pending, key);
        }
        names.builder.finish()
    }

    fn build_extents(&mut self, inode: &mut Inode, edit: &Edit) -> Result<(), Failure> {
        let is_tree = inode.flags.contains(InodeFlags::EXTENT_TREE);
        let builder = Builder::new(self.log, &mut self.space, identity(inode, TreeKind::Extents));
        let mut pieces = Pieces {
            edit,
            unknown: match self.pool.superblock.has_sums() {
                true => ExtentFlags::empty(),
                false => ExtentFlags::SUMMED,
            },
            few: Vec::new(),
            builder: is_tree.then_some(builder),
            outcome: Ok(()),
        };
        walk_inode(&self.pool, inode, &mut pieces);
        pieces.outcome?;
        if let Some(builder) = pieces.builder {
            inode.root = builder.finish()?;
            return Ok(());
        }
        let pieces = pieces.few;
        if pieces.len() > MAX_INLINE_EXTENTS {
            let mut builder = Builder::new(self.log, &mut self.space, identity(inode, TreeKind::Extents));
            for piece in &pieces {
                builder.push(piece.first.raw(), &piece.encode())?;
            }
            inode.root = builder.finish()?;
            inode.flags |= InodeFlags::EXTENT_TREE;
            inode.inline_count = 0;
            inode.inline = [0; inode::INLINE_BYTES];
            return Ok(());
        }
        inode.inline = [0; inode::INLINE_BYTES];
        let slots = inode
            .inline
            .as_chunks_mut::<{ udax_media::extent::INLINE_SIZE }>()
            .0;
        for (slot, piece) in slots.iter_mut().zip(&pieces) {
            *slot = piece.encode_inline();
        }
        inode.inline_count = u32::try_from(pieces.len()).unwrap_or(0);
        Ok(())
    }

    fn build_xattrs(&mut self, inode: &Inode, edit: &Edit) -> Result<TreeRoot, Failure> {
        let mut xattrs = Xattrs {
            edit,
            builder: Builder::new(self.log, &mut self.space, identity(inode, TreeKind::Xattrs)),
            outcome: Ok(()),
        };
        walk_inode(&self.pool, inode, &mut xattrs);
        xattrs.outcome?;
        xattrs.builder.finish()
    }

    /// Sets what follows from the content: blocks; and of a directory its size and, unless it is removed, links.
    pub(super) fn count(&self, inode: &mut Inode) {
        let mut count = Count::default();
        walk_inode(&self.pool, inode, &mut count);
        inode.blocks = count.blocks;
        if inode.kind == FileKind::Directory {
            inode.size = count.names;
            if inode.nlink > 0 {
                inode.nlink = u32::try_from(count.subdirectories.saturating_add(2)).unwrap_or(u32::MAX);
            }
        }
    }
}

/// Finds the names that must move to another key.
struct Moved<'e> {
    edit: &'e Edit,
    moved: Vec<Addition>,
}

impl View for Moved<'_> {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn dentry(&mut self, key: u64, dentry: &Dentry<'_>) {
        if self.edit.rekey.contains(&key) && !self.edit.drop.contains(&key) {
            self.moved.push(Addition {
                name: dentry.name.to_vec(),
                ino: dentry.ino,
                kind: dentry.kind,
            });
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

/// Copies the names that stay into a new tree, and puts new ones between them, each at its first free key.
struct Names<'n> {
    edit: &'n Edit,
    table: &'n Table,
    /// Ascending; the key is the first that may still be free.
    pending: VecDeque<(u64, Addition)>,
    builder: Builder<'n>,
    outcome: Result<(), Failure>,
}

impl Names<'_> {
    fn try_dentry(&mut self, key: u64, dentry: &Dentry<'_>) -> Result<(), Failure> {
        let edit = self.edit;
        let is_dropped = edit.drop.contains(&key)
            || edit.rekey.contains(&key)
            || edit.drop_targets.contains(&dentry.ino.raw());
        if is_dropped {
            return Ok(());
        }
        while let Some((free, _)) = self.pending.front()
            && *free < key
            && let Some((free, addition)) = self.pending.pop_front()
        {
            push_name(&mut self.builder, free, &addition)?;
            make_room(&mut self.pending, free);
        }
        make_room(&mut self.pending, key);
        let kind = match self.table.kind_of(dentry.ino) {
            Some(kind) if edit.retype.contains(&key) => kind,
            _ => dentry.kind,
        };
        let name = dentry.name.to_vec();
        let ino = dentry.ino;
        push_name(&mut self.builder, key, &Addition { name, ino, kind })
    }
}

/// Key `taken` is taken: moves the next pending names past it.
fn make_room(pending: &mut VecDeque<(u64, Addition)>, taken: u64) {
    let mut taken = taken;
    for (free, _) in pending.iter_mut() {
        if *free > taken {
            return;
        }
        *free = taken + 1;
        taken = *free;
    }
}

fn push_name(builder: &mut Builder<'_>, key: u64, addition: &Addition) -> Result<(), Failure> {
    let dentry = Dentry {
        ino: addition.ino,
        kind: addition.kind,
        name: &addition.name,
    };
    builder.push(key, dentry.encode(&mut [0; dentry::MAX_SIZE]))
}

impl View for Names<'_> {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn dentry(&mut self, key: u64, dentry: &Dentry<'_>) {
        if self.outcome.is_ok() {
            self.outcome = self.try_dentry(key, dentry);
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

/// Copies the extents that stay, less the blocks that are cut out.
struct Pieces<'p> {
    edit: &'p Edit,
    /// What no extent of this pool can be.
    unknown: ExtentFlags,
    few: Vec<Extent>,
    builder: Option<Builder<'p>>,
    outcome: Result<(), Failure>,
}

impl View for Pieces<'_> {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn extent(&mut self, extent: &Extent) {
        if self.edit.drop.contains(&extent.first.raw()) {
            return;
        }
        let flags = extent.flags.difference(self.unknown);
        for piece in cut(&Extent { flags, ..*extent }, &self.edit.cut) {
            match &mut self.builder {
                Some(builder) if self.outcome.is_ok() => {
                    self.outcome = builder.push(piece.first.raw(), &piece.encode());
                }
                Some(_) => {}
                None => self.few.push(piece),
            }
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

/// What is left of `extent` without the pool blocks in `ranges`, ascending.
fn cut(extent: &Extent, ranges: &[BlockRange]) -> Vec<Extent> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = extent.start.raw();
    let end = extent.blocks().end().raw();
    let mut keep = |from: u64, to: u64| {
        if from < to {
            pieces.push(Extent {
                first: FileBlock(extent.first.raw() + (from - extent.start.raw())),
                start: BlockNo(from),
                count: to - from,
                flags: extent.flags,
            });
        }
    };
    for range in ranges {
        if range.intersects(BlockRange::new(BlockNo(from), end.saturating_sub(from))) {
            keep(from, range.start.raw());
            from = range.end().raw();
        }
    }
    keep(from, end);
    pieces
}

struct Xattrs<'x> {
    edit: &'x Edit,
    builder: Builder<'x>,
    outcome: Result<(), Failure>,
}

impl View for Xattrs<'_> {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn xattr(&mut self, key: u64, bytes: &[u8]) {
        if self.outcome.is_ok() && !self.edit.drop_xattrs.contains(&key) {
            self.outcome = self.builder.push(key, bytes);
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

#[derive(Default)]
struct Count {
    blocks: u64,
    names: u64,
    subdirectories: u64,
}

impl View for Count {
    fn claim(&mut self, range: BlockRange, _: ClaimKind) {
        self.blocks = self.blocks.saturating_add(range.count);
    }
    fn dentry(&mut self, _: u64, dentry: &Dentry<'_>) {
        self.names += 1;
        self.subdirectories += u64::from(dentry.kind == FileKind::Directory);
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn cut_leaves_what_is_around_the_ranges() {
        let extent = Extent {
            first: FileBlock(100),
            start: BlockNo(1000),
            count: 10,
            flags: ExtentFlags::UNWRITTEN,
        };
        let range = |start, count| BlockRange::new(BlockNo(start), count);
        let pieces = |ranges: &[BlockRange]| -> Vec<(u64, u64, u64)> {
            let pieces = cut(&extent, ranges);
            pieces
                .iter()
                .map(|piece| (piece.first.raw(), piece.start.raw(), piece.count))
                .collect()
        };
        assert_eq!(pieces(&[range(1010, 5), range(990, 10)]), [(100, 1000, 10)]);
        assert_eq!(
            pieces(&[range(1004, 2), range(1000, 1)]),
            [(101, 1001, 3), (106, 1006, 4)]
        );
        assert_eq!(pieces(&[range(900, 500)]), []);
        assert_eq!(pieces(&[range(1008, 100), range(1009, 1)]), [(100, 1000, 8)]);
    }

    #[test]
    fn make_room_keeps_pending_keys_apart() {
        let addition = Addition {
            name: vec![],
            ino: InodeNo(2),
            kind: FileKind::Regular,
        };
        let mut pending: VecDeque<_> = [256, 256, 257, 512].map(|key| (key, addition.clone())).into();
        make_room(&mut pending, 256);
        let keys: Vec<u64> = pending.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, [257, 258, 259, 512]);
    }
}
