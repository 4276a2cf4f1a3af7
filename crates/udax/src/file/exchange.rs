//! Shifting a file of more extents than a record can move.
//!
//! An orphan, made for this, owns what is not the file's at each moment, so that no crash leaks a block:
//!
//! 1. The orphan gets blocks for the nodes of two new trees, as unwritten extents.
//! 2. The nodes are written to those blocks outside the journal ([`FreshNodes`]), and fenced: the file's new tree, and
//!    a new tree for the orphan, of what will be nobody's: the file's old nodes, the orphan's own first nodes, and the
//!    data that is cut out.
//! 3. One record gives both inodes their new roots. To a crash the shift is before or after it.
//! 4. The orphan is freed, here or by the next mount.
//!
//! Before the last step a checkpoint passes: the old nodes are freed as data, available at once, and no replay may
//! write to them any more. A mount has replayed and checkpointed before it frees orphans.
//!
//! Locks: both inodes alone, by number ([`LockSet`]); nobody else knows the orphan.

use std::sync::Arc;

use udax_dax::Fate;
use udax_media::extent::{Extent, ExtentFlags};
use udax_media::{BlockNo, BlockRange, FileBlock};

use super::allocate::{Piece, Range};
use super::shift::Shift;
use crate::error::Result;
use crate::extents::{END_OF_FILES, ExtentMap};
use crate::fresh::FreshNodes;
use crate::inode::Inode;
use crate::inode::fields::Line;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::namespace::locks::LockSet;
use crate::options::{AllocateMode, NewInode};
use crate::pool::Pool;
use crate::space::{Placement, Priority, Request};
use crate::tree;
use crate::update::Update;

/// Bytes of an extent in a tree.
const VALUE_BYTES: usize = udax_media::extent::VALUE_SIZE;
/// Runs that a leaf surely holds when they came in ascending order.
const RUNS_PER_NODE: u64 = 60;
/// Nodes more than that: the inner ones, and those that the first estimate did not see.
const SPARE_NODES: u64 = 64;

/// What a shift works with under both locks.
struct Exchange<'e, 'l> {
    inode: &'e Inode,
    orphan: &'e Inode,
    locks: LockSet<'l>,
}

impl Pool {
    /// Shifts a file of any number of extents. Its lock is not held.
    pub(super) fn shift_by_exchange(&self, inode: &Inode, mode: AllocateMode, range: Range) -> Result<()> {
        let orphan = self.create_orphan(NewInode::with_permissions(0))?;
        let result = self.exchange(inode, &orphan, mode, range);
        // The orphan is finished in any case; the next mount does it if this fails.
        let finished = self.finish_exchange(&orphan);
        if let (Ok(()), Err(error)) = (&result, finished) {
            tracing::error!(%error, "freeing what a shift has replaced failed; the next mount does it");
        }
        result
    }

    fn finish_exchange(&self, orphan: &Arc<Inode>) -> Result<()> {
        let checkpointed = self.journal.checkpoint()?;
        self.space.release_quarantine(checkpointed);
        let mut state = orphan.write()?;
        self.finish_orphan(orphan, &mut state)
    }

    fn exchange(&self, inode: &Inode, orphan: &Inode, mode: AllocateMode, range: Range) -> Result<()> {
        let mut exchange = Exchange {
            inode,
            orphan,
            locks: LockSet::lock([inode, orphan])?,
        };
        let state = exchange.locks.state(inode)?;
        // Again, because the file was not locked meanwhile.
        self.prepare_range(inode, state)?;
        let shift = self.plan_shift(inode, state, mode, range)?;
        let _broken = self.break_layout(inode, (shift.first, END_OF_FILES), Fate::Kept)?;
        let update = Update::new(self);
        let map = ExtentMap::begin(self, inode, state)?;
        let (old, _) = map.collect(&update, FileBlock(0), END_OF_FILES, usize::MAX)?;
        let nodes = map.nodes(self)?;
        map.finish(state);
        drop(update);
        self.publish_exchange(&mut exchange, shift, &old, nodes)
    }

    fn publish_exchange(
        &self,
        exchange: &mut Exchange<'_, '_>,
        shift: Shift,
        old: &[Extent],
        old_nodes: Vec<BlockNo>,
    ) -> Result<()> {
        let (inode, orphan) = (exchange.inode, exchange.orphan);
        let shifted = shift.apply(old);
        let cut: u64 = shifted.cut.iter().map(|extent| extent.count).sum();
        let old_count = old_nodes.len();
        let mut gone = shifted.cut;
        gone.extend(owned_by_nobody(old_nodes));

        let blocks = self.take_for_trees(shifted.extents.len(), gone.len())?;
        let orphan_state = exchange.locks.state(orphan)?;
        self.record_pieces(
            orphan,
            orphan_state,
            owned_by_orphan(blocks.iter().map(unwritten))
                .map(Piece::taken)
                .collect(),
            (None, None),
            EXTENTS_PER_RECORD,
        )?;
        let mut orphan_map = ExtentMap::begin(self, orphan, orphan_state)?;
        gone.extend(owned_by_nobody(orphan_map.nodes(self)?));

        let mut fresh = FreshNodes::new(self, blocks);
        let state = exchange.locks.state(inode)?;
        let mut map = ExtentMap::begin(self, inode, state)?;
        let new_count = map.rebuild_outside(&mut fresh, shifted.extents)?;
        let gone_blocks: u64 = gone.iter().map(|run| run.count).sum();
        let orphan_nodes = orphan_map.rebuild_outside(&mut fresh, owned_by_orphan(gone).collect())?;
        let left = fresh.finish()?;

        let mut update = Update::new(self);
        for run in left.into_inner() {
            update.free_data(run)?;
        }
        let mut orphan_line = Line::read(self, orphan)?;
        orphan_line.add_blocks(difference(orphan_line.blocks(), gone_blocks + orphan_nodes));
        orphan_map.store(&mut update)?;
        orphan_line.store(&mut update, orphan);
        let mut line = Line::read(self, inode)?;
        let old_nodes = u64::try_from(old_count).unwrap_or(u64::MAX);
        line.add_blocks(difference(cut + old_nodes, new_count));
        line.set_size(shift.new_size);
        map.store(&mut update)?;
        self.finish_range(update, inode, state, line, map)?;
        orphan_map.finish(exchange.locks.state(orphan)?);
        Ok(())
    }

    /// Takes blocks for the nodes of the file's tree of `extents`, and of the orphan's: of `gone` extents and of those
    /// that its first nodes are. What is not used is freed with the exchange.
    fn take_for_trees(&self, extents: usize, gone: usize) -> Result<Vec<BlockRange>> {
        let of = |count: u64| tree::node_count(count, VALUE_BYTES);
        let of_file = of(u64::try_from(extents).unwrap_or(u64::MAX));
        let gone = u64::try_from(gone).unwrap_or(u64::MAX);
        // At worst each block taken here is a run of its own.
        let first_nodes = (of_file + of(gone)) / RUNS_PER_NODE + SPARE_NODES;
        self.space.take_all(Request {
            goal: BlockNo(0),
            count: of_file + of(gone + first_nodes),
            placement: Placement::Any,
            priority: Priority::Ordinary,
        })
    }
}

/// `extents` as the orphan's: one after another, never read. What is shared stays so.
fn owned_by_orphan(extents: impl IntoIterator<Item = Extent>) -> impl Iterator<Item = Extent> {
    extents.into_iter().scan(FileBlock(0), |at, extent| {
        let first = *at;
        *at = FileBlock(first.raw() + extent.count);
        Some(Extent {
            first,
            flags: extent.flags | ExtentFlags::UNWRITTEN,
            ..extent
        })
    })
}

/// A run of blocks as an extent of no file.
fn unwritten(run: &BlockRange) -> Extent {
    Extent {
        first: FileBlock(0),
        start: run.start,
        count: run.count,
        flags: ExtentFlags::UNWRITTEN,
    }
}

/// Blocks as few ascending extents of no file.
fn owned_by_nobody(mut blocks: Vec<BlockNo>) -> impl Iterator<Item = Extent> {
    blocks.sort_unstable();
    let mut runs: Vec<BlockRange> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(last) if last.end() == block => last.count += 1,
            _ => runs.push(BlockRange::new(block, 1)),
        }
    }
    runs.into_iter().map(|run| unwritten(&run))
}

/// What is to be added to `old` to make it `new`.
fn difference(old: u64, new: u64) -> i64 {
    new.cast_signed().wrapping_sub(old.cast_signed())
}
