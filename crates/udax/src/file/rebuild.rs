//! Giving files new extent trees at once, however many extents they have.
//!
//! An orphan, made for this, owns what is not the files' at each moment, so that no crash leaks a block:
//!
//! 1. The orphan gets blocks for the nodes of the new trees, as unwritten extents.
//! 2. The nodes are written to those blocks outside the journal ([`FreshNodes`]), and fenced: each file's new tree, and
//!    a new tree for the orphan, of what will be nobody's: the files' old nodes, the orphan's own first nodes, and the
//!    data that is cut out.
//! 3. One record gives all inodes their new roots. To a crash the change is before or after it.
//! 4. The orphan is freed, here or by the next mount.
//!
//! Before the last step a checkpoint passes: the old nodes are freed as data, available at once, and no replay may
//! write to them any more. A mount has replayed and checkpointed before it frees orphans.
//!
//! Locks: all inodes alone, by number ([`LockSet`]); nobody else knows the orphan.

use std::sync::Arc;

use udax_media::extent::{Extent, ExtentFlags};
use udax_media::inode::InodeFlags;
use udax_media::{BlockNo, BlockRange, FileBlock};

use super::allocate::Piece;
use crate::error::Result;
use crate::extents::{END_OF_FILES, ExtentMap, total};
use crate::fresh::FreshNodes;
use crate::inode::attributes::now;
use crate::inode::fields::Line;
use crate::inode::lifecycle::EXTENTS_PER_RECORD;
use crate::inode::{Inode, InodeState};
use crate::namespace::locks::LockSet;
use crate::options::NewInode;
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

/// What becomes of a file.
#[derive(Debug)]
pub(super) struct Change<'i> {
    pub(super) inode: &'i Inode,
    /// Blocks of its extents until now, nodes not counted.
    pub(super) old_blocks: u64,
    /// All its extents from now on, ascending.
    pub(super) extents: Vec<Extent>,
    pub(super) new_size: u64,
}

impl Pool {
    /// Makes an orphan, calls `work` with it and with no lock held, and finishes it.
    pub(super) fn with_orphan(&self, work: impl FnOnce(&Inode) -> Result<()>) -> Result<()> {
        let orphan = self.create_orphan(NewInode::with_permissions(0), InodeFlags::empty())?;
        let result = work(&orphan);
        // The orphan is finished in any case; the next mount does it if this fails.
        let finished = self.free_replaced(&orphan);
        if let (Ok(()), Err(error)) = (&result, finished) {
            tracing::error!(%error, "freeing what was replaced failed; the next mount does it");
        }
        result
    }

    fn free_replaced(&self, orphan: &Arc<Inode>) -> Result<()> {
        let checkpointed = self.journal.checkpoint()?;
        self.space.release_quarantine(checkpointed);
        let mut state = orphan.write()?;
        self.finish_orphan(orphan, &mut state)
    }

    /// Every extent of `inode`, whose state is `state`.
    pub(super) fn all_extents(&self, inode: &Inode, state: &mut InodeState) -> Result<Vec<Extent>> {
        let update = Update::new(self);
        let map = ExtentMap::begin(self, inode, state)?;
        let all = map.collect(&update, FileBlock(0), END_OF_FILES, usize::MAX);
        map.finish(state);
        Ok(all?.0)
    }

    /// Does all of `changes` in one record; `cut` is what is in none of the files any more.
    pub(super) fn rebuild(
        &self,
        locks: &mut LockSet<'_>,
        orphan: &Inode,
        changes: Vec<Change<'_>>,
        cut: Vec<Extent>,
    ) -> Result<()> {
        let mut gone = cut;
        let mut entries = Vec::new();
        let mut before = Vec::new();
        for change in &changes {
            let state = locks.state(change.inode)?;
            let map = ExtentMap::begin(self, change.inode, state)?;
            let nodes = map.nodes(self);
            map.finish(state);
            let nodes = nodes?;
            before.push(change.old_blocks + u64::try_from(nodes.len()).unwrap_or(0));
            gone.extend(owned_by_nobody(nodes));
            entries.push(change.extents.len());
        }
        let blocks = self.take_for_trees(&entries, gone.len())?;
        let orphan_state = locks.state(orphan)?;
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
        let mut rebuilt = Vec::new();
        for (change, before) in changes.into_iter().zip(before) {
            let mut map = ExtentMap::begin(self, change.inode, locks.state(change.inode)?)?;
            let blocks = total(&change.extents);
            let nodes = map.rebuild_outside(&mut fresh, change.extents)?;
            let mut line = Line::read(self, change.inode)?;
            line.add_blocks(difference(before, blocks + nodes));
            line.set_size(change.new_size);
            rebuilt.push((change.inode, map, line));
        }
        let gone_blocks = total(&gone);
        let orphan_nodes = orphan_map.rebuild_outside(&mut fresh, owned_by_orphan(gone).collect())?;
        let left = fresh.finish()?;

        let mut update = Update::new(self);
        for run in left.into_inner() {
            update.free_data(run)?;
        }
        let mut line = Line::read(self, orphan)?;
        line.add_blocks(difference(line.blocks(), gone_blocks + orphan_nodes));
        orphan_map.store(&mut update)?;
        line.store(&mut update, orphan);
        for (inode, map, line) in &mut rebuilt {
            map.store(&mut update)?;
            locks.state(inode)?.settle_times(line);
            line.touch_modified(now());
            line.store(&mut update, inode);
        }
        update.commit()?;
        for (inode, map, _) in rebuilt {
            let state = locks.state(inode)?;
            map.finish(state);
            state.lazy = Default::default();
        }
        orphan_map.finish(locks.state(orphan)?);
        Ok(())
    }

    /// Takes blocks for the nodes of the files' trees of so many extents, and of the orphan's: of `gone` extents and of
    /// those that its first nodes are. What is not used is freed with the change.
    fn take_for_trees(&self, extents: &[usize], gone: usize) -> Result<Vec<BlockRange>> {
        let of = |count: u64| tree::node_count(count, VALUE_BYTES);
        let counts = extents
            .iter()
            .map(|count| u64::try_from(*count).unwrap_or(u64::MAX));
        let of_files: u64 = counts.map(of).sum();
        let gone = u64::try_from(gone).unwrap_or(u64::MAX);
        // At worst each block taken here is a run of its own.
        let first_nodes = (of_files + of(gone)) / RUNS_PER_NODE + SPARE_NODES;
        self.space.take_all(Request {
            goal: BlockNo(0),
            count: of_files + of(gone + first_nodes),
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
            flags: extent.flags.as_unwritten(),
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
