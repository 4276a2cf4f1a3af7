//! The list of bad blocks, and bad blocks that are not in it.

use std::collections::BTreeMap;

use udax_media::extent::ExtentFlags;
use udax_media::node::TreeRoot;
use udax_media::pool_tree::decode_bad;
use udax_media::roots::PoolTree;
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, FileBlock, Place};

use super::Scanner;
use super::pool_trees::walk;
use crate::finding::{Finding, Findings};
use crate::ownership::Ownership;
use crate::pool::Pool;
use crate::unreadable::blocks;

const OFF_THE_LIST: &str = "taken off the list of bad blocks";

/// The tree of bad blocks: start to length, and whether some of it is unreadable.
#[derive(Debug, Default)]
pub(super) struct Listed {
    entries: BTreeMap<u64, u64>,
    is_damaged: bool,
}

/// Reads the tree.
pub(super) fn scan_listed(
    pool: &Pool<'_>,
    root: TreeRoot,
    ownership: &Ownership,
    findings: &mut Findings,
) -> Listed {
    let mut listed = Listed::default();
    let mut bad = Vec::new();
    let lost = walk(
        pool,
        (root, PoolTree::BadBlocks.kind()),
        ownership,
        |start, value| {
            let Some(run) = decode_bad(start, value, pool.total_blocks) else {
                return bad.push(start);
            };
            let before = listed.entries.last_key_value();
            let is_clear = before.is_none_or(|(first, length)| first + length <= start);
            if !pool.geometry.contains(run) || !is_clear {
                return bad.push(start);
            }
            listed.entries.insert(start, run.count);
        },
    );
    let remedy = "list of bad blocks built anew";
    for start in bad {
        let what = format!("impossible run of bad blocks from block {start}");
        findings.add(Finding::of_pool(Place::Block(BlockNo(start)), what, remedy));
        listed.is_damaged = true;
    }
    for (place, _, why) in lost {
        let mut finding = Finding::of_pool(place, format!("list of bad blocks: {why}"), remedy);
        finding.lost = Some("which free blocks are bad, until they are met again".to_owned());
        findings.add(finding);
        listed.is_damaged = true;
    }
    listed
}

impl Scanner<'_> {
    /// Claims what is listed as bad and nobody owns, and plans the list anew where it is wrong or something is missing.
    /// All owners are known. Also gives how many blocks were claimed.
    pub(super) fn judge_bad_blocks(&self, listed: &Listed) -> (Findings, u64) {
        let mut findings = Findings::default();
        let mut list = BTreeMap::new();
        let mut claimed = 0;
        let mut is_wrong = listed.is_damaged;
        for (start, count) in &listed.entries {
            for (run, is_owned) in self.by_ownership(BlockRange::new(BlockNo(*start), *count)) {
                if is_owned {
                    let what = format!("{} listed as bad have an owner", blocks(run));
                    findings.add(Finding::of_pool(Place::Block(run.start), what, OFF_THE_LIST));
                    is_wrong = true;
                    continue;
                }
                for (run, is_readable) in runs_by(run, |block| self.pool.unreadable.is_readable(block)) {
                    if is_readable {
                        let what = format!("{} listed as bad can be read", blocks(run));
                        findings.add(Finding::of_pool(Place::Block(run.start), what, OFF_THE_LIST));
                        is_wrong = true;
                    } else {
                        self.ownership.claim(run);
                        claimed += run.count;
                        list.insert(run.start.raw(), run.count);
                    }
                }
            }
        }
        for lost in self.pool.source.lost_blocks() {
            for (run, is_owned) in self.by_ownership(lost) {
                if !is_owned {
                    let what = format!("{} cannot be read, and nobody owns them", blocks(run));
                    let remedy = "put on the list of bad blocks";
                    findings.add(Finding::of_pool(Place::Block(run.start), what, remedy));
                    list.insert(run.start.raw(), run.count);
                    is_wrong = true;
                }
            }
        }
        if is_wrong {
            findings.plan.bad_blocks = Some(list);
        }
        (findings, claimed)
    }

    /// `range` in runs that have an owner and such that have none.
    fn by_ownership(&self, range: BlockRange) -> Vec<(BlockRange, bool)> {
        runs_by(range, |block| self.ownership.bits(block) & 1 != 0)
    }
}

/// `range` in runs of blocks that are so and such that are not.
fn runs_by(range: BlockRange, is_so: impl Fn(BlockNo) -> bool) -> Vec<(BlockRange, bool)> {
    let mut runs: Vec<(BlockRange, bool)> = Vec::new();
    for block in (range.start.raw()..range.end().raw()).map(BlockNo) {
        let is_so = is_so(block);
        match runs.last_mut() {
            Some((run, before)) if *before == is_so => run.count += 1,
            _ => runs.push((BlockRange::new(block, 1), is_so)),
        }
    }
    runs
}

/// What is to say of a file's data in `range`, from file block `first`, of which some cannot be read. No repair brings
/// the bytes back; a write of whole blocks replaces them.
pub(super) fn note_lost_data(
    pool: &Pool<'_>,
    ino: udax_media::InodeNo,
    (range, first, flags): (BlockRange, FileBlock, ExtentFlags),
    findings: &mut Findings,
) {
    for run in pool.unreadable.within(range) {
        let offset = (first.raw() + (run.start.raw() - range.start.raw())) * BLOCK_BYTES;
        let mut finding = Finding::of_pool(
            Place::Block(run.start),
            format!("{} of inode {ino} cannot be read", blocks(run)),
            "",
        );
        finding.subject = Some(ino);
        // Unwritten blocks read as zeros, whatever they hold.
        if !flags.contains(ExtentFlags::UNWRITTEN) {
            finding.lost = Some(format!("bytes {offset}+{}", run.count * BLOCK_BYTES));
        }
        findings.add(finding);
    }
}
