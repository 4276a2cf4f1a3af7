//! Punching holes and zeroing ranges.
//!
//! Whole blocks are unmapped or become unwritten; the blocks that are only partly in the range are copied without that
//! part to new ones (`edges`), so that one record makes all of it visible.
//!
//! All under the inode's lock, alone.

use udax_media::FileBlock;
use udax_media::extent::Extent;

use super::allocate::{Piece, Range};
use super::edges::Edges;
use crate::error::Result;
use crate::extents::{self, Completeness, ExtentMap, clip};
use crate::inode::fields::Line;
use crate::inode::lifecycle::{free_range, freeable};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::space::Priority;
use crate::update::Update;

impl Pool {
    /// Makes `range` a hole; its edges inside blocks read as zeros.
    pub(super) fn punch(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<()> {
        let (mut first, end) = range.inner();
        // All that may find no space comes with the first record, when nothing has changed yet.
        let mut edges = Some(range);
        loop {
            let done = self.in_steps(|limit| self.punch_step(inode, state, (first, end), edges, limit))?;
            let Some(upto) = done else { return Ok(()) };
            first = upto;
            edges = None;
        }
    }

    /// Makes a hole of what one record can free of `first..end`, and of the edges of `edges`; gives up to where, or
    /// `None` if that was all.
    fn punch_step(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        (first, end): (FileBlock, FileBlock),
        edges: Option<Range>,
        limit: usize,
    ) -> Result<Option<FileBlock>> {
        extents::load(self, inode, state)?;
        let mut update = Update::freeing(self).limited(limit);
        let edges = match edges {
            Some(range) => self.copy_edges(&mut update, (inode, state), range, Priority::Freeing)?,
            None => Edges::default(),
        };
        let mut line = Line::read(self, inode)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        let found = freeable(&mut update, &map, (first, end))?;
        if first < found.end {
            free_range(&mut update, &mut map, &mut line, first, found.end)?;
        }
        edges.publish(&mut update, &mut map)?;
        map.store(&mut update)?;
        self.finish_range(update, inode, state, line, map)?;
        Ok((found.completeness == Completeness::More).then_some(found.end))
    }

    /// Makes `range`, which is broken, read as zeros, allocated; then sets the size if it is below `new_size`.
    pub(super) fn zero_range(
        &self,
        inode: &Inode,
        state: &mut InodeState,
        range: Range,
        new_size: Option<u64>,
        limit: usize,
    ) -> Result<()> {
        // Blocks that become unwritten are written in place later.
        self.unshare_broken(inode, state, range.inner())?;
        let mut pieces = self.written_pieces(inode, state, range)?;
        let (first, end) = range.outer();
        // Everything is taken before anything is recorded: no space leaves nothing half-done.
        let taken = self.take_holes(inode, state, first, end)?;
        pieces.extend(taken.into_iter().map(Piece::taken));
        pieces.sort_unstable_by_key(|piece| piece.extent.first);
        self.record_pieces(inode, state, pieces, (Some(range), new_size), limit)
    }

    /// What is written of the whole blocks of `range`, as unwritten.
    fn written_pieces(&self, inode: &Inode, state: &mut InodeState, range: Range) -> Result<Vec<Piece>> {
        let (first, end) = range.inner();
        let update = Update::new(self);
        let map = ExtentMap::begin(self, inode, state)?;
        let (found, _) = map.collect(&update, first, end, usize::MAX)?;
        map.finish(state);
        let parts = found.iter().filter(|extent| !extent.is_unwritten());
        Ok(parts
            .filter_map(|extent| clip(extent, first, end))
            .map(|extent| Piece {
                extent: Extent {
                    flags: extent.flags.as_unwritten(),
                    ..extent
                },
                is_taken: false,
            })
            .collect())
    }
}
