//! Sum blocks, and, where that is asked for, file data against its sums.
//!
//! Data that does not have its sum is told and left as it is: nothing here knows which of the two is right, and a read
//! that fails is better than one that lies. Only a sum block that is damaged itself is made anew, of what the data is.

use udax_media::extent::ExtentFlags;
use udax_media::geometry::SumBlock;
use udax_media::sum::{self, Sum};
use udax_media::{BLOCK_BYTES, BlockNo, BlockRange, FileBlock, InodeNo, Place};

use super::Scanner;
use crate::finding::{Finding, Findings};
use crate::pool::Pool;
use crate::source::Block;
use crate::unreadable::blocks;

impl Scanner<'_> {
    /// Verifies the sum blocks.
    pub(super) fn scan_sums(&self) -> Findings {
        let all: Vec<SumBlock> = self.pool.geometry.sum_blocks().collect();
        self.in_parallel("checksums of data", all.len(), &|index, findings| {
            let Some(at) = all.get(index).copied() else { return };
            let verified = self.pool.read(at.block).and_then(|bytes| {
                let verified = sum::verify(self.pool.seed, &bytes, at);
                verified.map_err(|error| error.to_string())
            });
            if let Err(what) = verified {
                let remedy = "checksums made anew of the data as it is";
                let mut finding = Finding::of_pool(Place::Block(at.block), what, remedy);
                finding.lost = Some(format!(
                    "whether the data in blocks {} to {} has changed",
                    at.covers.start,
                    at.covers.end().raw().saturating_sub(1)
                ));
                findings.add(finding);
                findings.plan.sums.insert(at.block.raw());
            }
        })
    }
}

/// Compares a file's data in `range`, from file block `first`, with its sums, if it has some and that is asked for.
pub(super) fn compare_data(
    pool: &Pool<'_>,
    ino: InodeNo,
    (range, first, flags): (BlockRange, FileBlock, ExtentFlags),
    findings: &mut Findings,
) {
    if !pool.compares_data || !flags.contains(ExtentFlags::SUMMED) {
        return;
    }
    let mut wrong: Vec<BlockRange> = Vec::new();
    let mut next = range.start;
    while let Some(at) = pool.geometry.sum_block_of(next).filter(|_| next < range.end()) {
        let end = at.covers.end().min(range.end());
        // One that is damaged is told elsewhere.
        let sums = pool.read(at.block).ok();
        let sums = sums.filter(|sums| sum::verify(pool.seed, sums, at).is_ok());
        for block in (next.raw()..end.raw()).map(BlockNo) {
            if !sums
                .as_ref()
                .is_some_and(|sums| is_wrong(pool, (sums, at), block))
            {
                continue;
            }
            match wrong.last_mut() {
                Some(run) if run.end() == block => run.count += 1,
                _ => wrong.push(BlockRange::new(block, 1)),
            }
        }
        next = end;
    }
    for run in wrong {
        let offset = (first.raw() + (run.start.raw() - range.start.raw())) * BLOCK_BYTES;
        let what = format!("{} of inode {ino} without the right checksum", blocks(run));
        let mut finding = Finding::of_pool(Place::Block(run.start), what, "");
        finding.subject = Some(ino);
        finding.lost = Some(format!("bytes {offset}+{}", run.count * BLOCK_BYTES));
        findings.add(finding);
    }
}

/// Whether `block` does not have its sum. What cannot be read is told elsewhere.
fn is_wrong(pool: &Pool<'_>, (sums, at): (&Block, SumBlock), block: BlockNo) -> bool {
    let Ok(data) = pool.read(block) else { return false };
    let place = usize::try_from(at.place(block).in_block()).unwrap_or(usize::MAX);
    let word = sums.get(place..).and_then(|rest| rest.first_chunk::<8>());
    word.is_none_or(|word| Sum::from_word(u64::from_le_bytes(*word)) != Sum::of(pool.seed, data.as_slice()))
}
