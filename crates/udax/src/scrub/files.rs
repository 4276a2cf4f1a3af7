//! Inodes, their trees, and the data of files.

use std::ops::ControlFlow;

use udax_media::extent::Extent;
use udax_media::inode::{self, CHUNK_INODES, FileKind, INODE_SIZE, InodeFlags};
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::{BLOCK_BYTES, BLOCK_SIZE, BlockNo, ByteOffset, FileBlock, InodeNo, Place};
use udax_pmem::RegionError;

use super::pool_parts::READ_BYTES;
use super::sealed::Protection;
use super::{Scrub, ScrubKind};
use crate::error::{Error, Result};
use crate::extents::{self, Mapping};
use crate::inode::Inode;
use crate::sums::Sums;
use crate::tree::{Cursor, Tree};

/// Leaves verified with an inode's lock shared.
const LEAVES: usize = 32;
/// Extents looked up with an inode's lock shared.
const EXTENTS: usize = 256;

/// Where the medium has lost data of which the reading, from `at` on, failed so; none if something else is wrong.
fn lost_at(error: &Error, at: u64) -> Option<u64> {
    match error {
        Error::Region(RegionError::Media { at: lost }) => Some(lost - lost % BLOCK_BYTES),
        Error::Disk(error) if error.is_lost_data() => Some(at),
        _ => None,
    }
}

/// A tree of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Extents or names.
    Content,
    Attributes,
}

impl Scrub<'_> {
    /// All inodes, chunk by chunk.
    pub(super) fn look_at_inodes(&mut self) -> Result<ControlFlow<()>> {
        let mut first = 0;
        loop {
            let batch = self
                .pool
                .inode_table
                .collect_chunks(&self.sealed, self.pool.total_blocks(), first);
            let Some(chunks) = self.judge(None, batch)? else {
                // Which chunks there are behind a damaged node is not known.
                return Ok(ControlFlow::Continue(()));
            };
            let Some((last, _)) = chunks.last() else {
                return Ok(ControlFlow::Continue(()));
            };
            first = last + 1;
            for (chunk, block) in chunks {
                for slot in 0..CHUNK_INODES {
                    let ino = InodeNo(chunk * CHUNK_INODES + slot);
                    let is_used = self.is_used(block, ino);
                    let Some(is_used) = self.judge(None, is_used)? else {
                        // The block is lost, and with it all of them.
                        break;
                    };
                    if is_used && self.look_at_inode(ino)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                if self.pace.add(self.sealed.take_bytes()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }

    fn is_used(&self, chunk: BlockNo, ino: InodeNo) -> Result<bool> {
        let at = inode::offset_in_chunk(chunk, ino).raw() + inode::offset::MODE;
        Ok(self.pool.word(ByteOffset(at))? & u64::from(u32::MAX) != 0)
    }

    fn look_at_inode(&mut self, ino: InodeNo) -> Result<ControlFlow<()>> {
        let found = self.pool.inodes.get(self.pool, ino);
        let Some(inode) = self.judge(Some(ino), found)? else {
            return Ok(ControlFlow::Continue(()));
        };
        self.inodes += 1;
        let slot = self.verify_slot(&inode);
        if self.judge(Some(ino), slot)?.is_none() {
            return Ok(ControlFlow::Continue(()));
        }
        for part in [Part::Content, Part::Attributes] {
            if self.verify_tree(&inode, part)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.verify_values(&inode)?;
        match inode.kind {
            FileKind::Regular => self.read_data(&inode),
            FileKind::Symlink => {
                let target = self.pool.read_target(&inode);
                self.judge(Some(ino), target)?;
                Ok(ControlFlow::Continue(()))
            }
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    fn verify_slot(&self, inode: &Inode) -> Result<()> {
        let _state = inode.read()?;
        let (seed, reach) = (self.pool.seed, self.pool.reach());
        let place = (inode.field(0).raw(), "an inode");
        self.sealed
            .verify_unit(place, Protection::Locked, |bytes: &[u8; INODE_SIZE]| {
                inode::verify(seed, bytes, inode.ino, reach)
            })
    }

    /// Verifies the nodes of a tree, some leaves at a time.
    fn verify_tree(&mut self, inode: &Inode, part: Part) -> Result<ControlFlow<()>> {
        let mut cursor = Cursor::starting_at(0);
        loop {
            let more = self.verify_leaves(inode, part, &mut cursor);
            let more = self.judge(Some(inode.ino), more)?;
            if self.pace.add(self.sealed.take_bytes()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if more != Some(true) {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Whether there may be more.
    fn verify_leaves(&self, inode: &Inode, part: Part, cursor: &mut Cursor) -> Result<bool> {
        let _state = inode.read()?;
        let Some(tree) = self.tree_of(inode, part)? else {
            return Ok(false);
        };
        for _ in 0..LEAVES {
            if cursor.next_batch(&tree, &self.sealed)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tree_of(&self, inode: &Inode, part: Part) -> Result<Option<Tree>> {
        if part == Part::Attributes {
            let root = TreeRoot::from_word(self.pool.word(inode.field(inode::offset::XATTR_ROOT))?);
            return Ok(Some(Tree::new(inode.tree_identity(TreeKind::Xattrs), root)));
        }
        let (_, flags) = self.pool.inode_mode_and_flags(inode)?;
        let has_tree = InodeFlags::from_bits_retain(flags).contains(InodeFlags::EXTENT_TREE);
        match inode.kind {
            FileKind::Directory => self.pool.directory_tree(inode).map(Some),
            FileKind::Regular if has_tree => {
                let root = self.pool.inode_root(inode)?;
                Ok(Some(Tree::new(inode.tree_identity(TreeKind::Extents), root)))
            }
            _ => Ok(None),
        }
    }

    /// Reads the values of attributes, which have a checksum.
    fn verify_values(&mut self, inode: &Inode) -> Result<()> {
        let names = self.pool.collect_xattrs(inode);
        for name in self.judge(Some(inode.ino), names)?.unwrap_or_default() {
            match self.pool.xattr(inode, &name) {
                // Removed meanwhile, or of a kind that nobody can ask for.
                Err(Error::NoAttribute | Error::NotSupported(_) | Error::Invalid(_)) => {}
                value => {
                    self.judge(Some(inode.ino), value)?;
                }
            }
        }
        Ok(())
    }

    /// Reads what the file holds, and compares it with its sums.
    fn read_data(&mut self, inode: &Inode) -> Result<ControlFlow<()>> {
        let mut next = FileBlock(0);
        let mut buffer = vec![0; READ_BYTES];
        let found = self.pool.is_summed(inode);
        let wants_sums = self.judge(Some(inode.ino), found)? == Some(true);
        while next < extents::END_OF_FILES {
            let batch = self.collect_extents(inode, next);
            let Some((batch, end)) = self.judge(Some(inode.ino), batch)? else {
                break;
            };
            for extent in batch {
                if wants_sums && !extent.is_summed() {
                    self.unverified_bytes += extent.count * BLOCK_BYTES;
                }
                if self.read_extent(inode, &extent, &mut buffer)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            next = end;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The next extents that hold data, and where to go on.
    fn collect_extents(&self, inode: &Inode, first: FileBlock) -> Result<(Vec<Extent>, FileBlock)> {
        let state = self.pool.read_loaded(inode)?;
        let mut batch = Vec::new();
        let mut next = first;
        while next < extents::END_OF_FILES && batch.len() < EXTENTS {
            next = match extents::lookup(self.pool, inode, &state.extents, next)? {
                Mapping::Hole { until } => until,
                Mapping::Extent(extent) => {
                    if !extent.is_unwritten() {
                        batch.push(extent);
                    }
                    extent.end()
                }
            };
        }
        Ok((batch, next))
    }

    fn read_extent(&mut self, inode: &Inode, extent: &Extent, buffer: &mut [u8]) -> Result<ControlFlow<()>> {
        let blocks = extent.blocks();
        let (start, end) = (blocks.start.offset().raw(), blocks.end().offset().raw());
        let mut at = start;
        let mut single_until = start;
        while at < end {
            let most = if at < single_until {
                BLOCK_SIZE
            } else {
                buffer.len()
            };
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(most);
            let part = buffer.get_mut(..len).unwrap_or_default();
            let next = match self.pool.read_data(at, part) {
                Ok(()) => {
                    if extent.is_summed() {
                        self.compare(inode, extent, at, buffer.get(..len).unwrap_or_default())?;
                    }
                    at + u64::try_from(len).unwrap_or(0)
                }
                // A device does not say which block it is.
                Err(Error::Disk(error)) if error.is_lost_data() && len > BLOCK_SIZE => {
                    single_until = at + u64::try_from(len).unwrap_or(0);
                    continue;
                }
                Err(error) if lost_at(&error, at).is_some() => {
                    let lost = lost_at(&error, at).unwrap_or(at);
                    let offset = extent.first.raw() * BLOCK_BYTES + (lost - start);
                    let still_there = self.is_still_there(inode, offset, lost);
                    if self.judge(Some(inode.ino), still_there)? == Some(true) {
                        let what = format!(
                            "bytes {offset}+{BLOCK_BYTES} of inode {} cannot be read",
                            inode.ino
                        );
                        let place = Place::Block(ByteOffset(lost).block());
                        self.add((ScrubKind::LostData, place), Some(inode.ino), what);
                    }
                    lost + BLOCK_BYTES
                }
                Err(error) => return Err(error),
            };
            if self.pace.add(next - at).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            at = next;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Compares whole blocks of `extent`, read from byte `at` of the pool on, with their sums. What seems wrong is read
    /// again with the inode's lock shared: it may have been another file's meanwhile.
    fn compare(&mut self, inode: &Inode, extent: &Extent, at: u64, bytes: &[u8]) -> Result<()> {
        let mut sums = Sums::of(self.pool);
        for (block, bytes) in (ByteOffset(at).block().raw()..).zip(bytes.as_chunks::<BLOCK_SIZE>().0) {
            let found = sums.read(BlockNo(block));
            let Some(stored) = self.judge(Some(inode.ino), found)? else {
                return Ok(());
            };
            self.verified_bytes += BLOCK_BYTES;
            if self.pool.sum_of(bytes) == stored {
                continue;
            }
            let first = extent.first.raw() + (block - extent.start.raw());
            let again = self.read_again(inode, FileBlock(first));
            self.judge(Some(inode.ino), again)?;
        }
        Ok(())
    }

    /// Reads a block of the file as any reader does.
    fn read_again(&self, inode: &Inode, block: FileBlock) -> Result<()> {
        let state = self.pool.read_loaded(inode)?;
        match extents::lookup(self.pool, inode, &state.extents, block)? {
            Mapping::Extent(extent) if extent.is_summed() => {
                let mut bytes = [0; BLOCK_SIZE];
                let offset = block.raw() * BLOCK_BYTES;
                self.pool.read_summed(inode, &extent, offset, &mut bytes)
            }
            _ => Ok(()),
        }
    }

    /// Whether byte `offset` of the file is still byte `at` of the pool, and still lost: no lock was held.
    fn is_still_there(&self, inode: &Inode, offset: u64, at: u64) -> Result<bool> {
        let state = self.pool.read_loaded(inode)?;
        let block = FileBlock::holding(offset);
        let place = match extents::lookup(self.pool, inode, &state.extents, block)? {
            Mapping::Extent(extent) if !extent.is_unwritten() => {
                extent.start.offset().raw() + (block.raw() - extent.first.raw()) * BLOCK_BYTES
            }
            _ => return Ok(false),
        };
        Ok(place == at && self.pool.read_data(at, &mut [0; BLOCK_SIZE]).is_err())
    }
}
