//! The free map and the counters against what is owned.

use udax_journal::Counters;
use udax_media::bitmap::{self, GROUP_WORDS};
use udax_media::geometry::{CHECKPOINTS, Group};
use udax_media::{BlockNo, BlockRange, Place};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Scanner;
use crate::finding::{Finding, Findings};

/// Blocks that disagree, counted, with the first run of them.
#[derive(Debug, Default)]
struct Disagreement {
    blocks: u64,
    first: Option<BlockRange>,
}

impl Disagreement {
    fn add(&mut self, start: u64, mut bits: u64) {
        self.blocks += u64::from(bits.count_ones());
        while bits != 0 {
            let bit = u64::from(bits.trailing_zeros());
            let run = u64::from((!(bits >> bit)).trailing_zeros());
            let range = BlockRange::new(BlockNo(start + bit), run);
            match &mut self.first {
                None => self.first = Some(range),
                Some(first) if first.end() == range.start => first.count += run,
                Some(_) => return,
            }
            bits &= !((u64::MAX >> (64 - run)) << bit);
        }
    }
}

impl Scanner<'_> {
    /// Compares bitmaps with ownership, and the counters with both.
    pub(super) fn scan_space(&self, counters: Option<Counters>, inodes: u64) -> Findings {
        let groups = usize::try_from(self.pool.geometry.group_count()).unwrap_or(usize::MAX);
        let free = AtomicU64::new(0);
        let is_damaged = AtomicBool::new(false);
        let mut findings = self.in_parallel("free map", groups, &|index, findings| {
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            let Some(group) = self.pool.geometry.group(index) else {
                return;
            };
            match self.scan_group(group, findings) {
                // What is free of the data device, nobody counts.
                Some(_) if group.covers.start.is_on_device() => {}
                Some(clear) => {
                    free.fetch_add(clear, Ordering::Relaxed);
                }
                None => is_damaged.store(true, Ordering::Relaxed),
            }
        });
        if let Some(counters) = counters {
            let place = Place::Block(CHECKPOINTS[0]);
            let free = free.into_inner();
            if !is_damaged.into_inner() && counters.free_blocks != free {
                let what = format!(
                    "{} free blocks recorded, {free} in the free map",
                    counters.free_blocks
                );
                add(&mut findings, place, what, "counted anew");
            }
            if counters.inodes != inodes {
                let what = format!("{} inodes recorded, {inodes} in use", counters.inodes);
                add(&mut findings, place, what, "counted anew");
            }
        }
        findings
    }

    /// The clear bits of the group; `None` when its bitmap is damaged.
    fn scan_group(&self, group: Group, findings: &mut Findings) -> Option<u64> {
        let place = Place::Block(group.bitmap);
        let words = self.pool.read(group.bitmap).and_then(|bytes| {
            let words = bitmap::verify(self.pool.seed, &bytes, group.bitmap, group.covers);
            words.map_err(|error| error.to_string())
        });
        let words = match words {
            Ok(words) => words,
            Err(what) => {
                add(findings, place, what, "free map built anew");
                return None;
            }
        };
        let mut unmarked = Disagreement::default();
        let mut leaked = Disagreement::default();
        let mut clear = 0;
        for (index, (word, should)) in words
            .iter()
            .zip(should_be(&self.ownership, group).iter())
            .enumerate()
        {
            clear += u64::from(word.count_zeros());
            let start = group.covers.start.raw() + u64::try_from(index * 64).unwrap_or(0);
            unmarked.add(start, should & !word);
            leaked.add(start, word & !should);
        }
        if let Some(first) = unmarked.first {
            let what = format!("{} owned blocks are marked free, first {first}", unmarked.blocks);
            add(findings, place, what, "free map built anew");
        }
        if let Some(first) = leaked.first {
            let what = format!(
                "{} blocks are in use, but have no owner, first {first}",
                leaked.blocks
            );
            add(findings, place, what, "free map built anew");
        }
        Some(clear)
    }
}

/// The bits of `group` as they follow from ownership; those after its last block are set.
pub(crate) fn should_be(ownership: &crate::ownership::Ownership, group: Group) -> Box<[u64; GROUP_WORDS]> {
    let mut words = Box::new([0; GROUP_WORDS]);
    for (index, word) in (0_u64..).zip(words.iter_mut()) {
        let first = index * 64;
        let inside = group.covers.count.saturating_sub(first).min(64);
        let mask = if inside == 0 { 0 } else { u64::MAX >> (64 - inside) };
        let owned = ownership.bits(BlockNo(group.covers.start.raw() + first));
        *word = (owned & mask) | !mask;
    }
    words
}

fn add(findings: &mut Findings, place: Place, what: String, remedy: &'static str) {
    let mut finding = Finding::of_pool(place, what, remedy);
    finding.is_space = true;
    findings.add(finding);
    findings.plan.space = true;
}
