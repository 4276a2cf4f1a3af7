//! Who owns what several claim.
//!
//! Blocks may have several owners when the shares' tree says so with the right count. Otherwise the soundest claim
//! wins: the pool's own ranges, then structures that verified themselves in these blocks, then, between two files'
//! data, the file that changed last, because what was written last is what the blocks hold.

use std::collections::{BTreeMap, BTreeSet};

use udax_media::extent::ExtentFlags;
use udax_media::node::TreeKind;
use udax_media::roots::PoolTree;
use udax_media::{BlockNo, BlockRange, InodeNo, Place, Timestamp};

use super::pool_trees::{Roots, Shared, inodes_of_chunk};
use super::{POOL_TREES, Scanner};
use crate::content::{ClaimKind, View, walk_inode};
use crate::finding::{Fault, Finding, Findings, Mend};
use crate::pool::pool_identity;
use crate::tree::{self, Visit};

/// One owner's claim to blocks of which some are contested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    range: BlockRange,
    kind: ClaimKind,
    /// 0 for the pool.
    owner: InodeNo,
    changed: Timestamp,
}

impl Claim {
    /// Greater is sounder.
    fn soundness(&self) -> (u8, Timestamp, std::cmp::Reverse<u64>) {
        let class = match self.kind {
            ClaimKind::Own => 5,
            ClaimKind::Chunk(_) => 4,
            ClaimKind::Node(_) => 3,
            ClaimKind::XattrValue(_) | ClaimKind::Target => 2,
            ClaimKind::Data(..) => 1,
        };
        (class, self.changed, std::cmp::Reverse(self.owner.raw()))
    }

    fn may_share(&self) -> bool {
        matches!(self.kind, ClaimKind::Data(_, flags) if flags.contains(ExtentFlags::SHARED))
    }
}

impl Scanner<'_> {
    /// Compares the owners of contested blocks with the shares' tree and with each other.
    pub(super) fn compare_owners(&self, roots: &Roots, shared: &Shared) -> Findings {
        let mut findings = Findings::default();
        let mut expected = BTreeMap::new();
        if self.ownership.is_contested() {
            let claims = self.collect_claims(roots);
            self.judge_claims(&claims, shared, &mut expected, &mut findings);
        }
        if shared.is_damaged || normalized(&expected) != normalized(&shared.entries) {
            if !shared.is_damaged {
                let place = Place::Block(udax_media::geometry::ROOTS);
                let what = "share counts do not agree with the owners".to_owned();
                findings.add(Finding::of_pool(
                    place,
                    what,
                    "share counts built anew from the owners",
                ));
            }
            findings.plan.shared = Some(expected);
        }
        findings
    }

    /// The claims to contested blocks, with their kinds and owners.
    pub(super) fn claims(&self, roots: &Roots) -> Vec<(BlockRange, ClaimKind, InodeNo)> {
        let claims = self.collect_claims(roots).into_iter();
        claims
            .map(|claim| (claim.range, claim.kind, claim.owner))
            .collect()
    }

    fn collect_claims(&self, roots: &Roots) -> Vec<Claim> {
        let mut collector = Collector {
            scanner: self,
            owner: InodeNo(0),
            changed: Timestamp::default(),
            claims: Vec::new(),
        };
        for range in self.pool.geometry.own_ranges() {
            collector.claim(range, ClaimKind::Own);
        }
        let trees: [PoolTree; POOL_TREES] = PoolTree::ALL;
        for (root, tree) in roots.iter().zip(trees) {
            let mut nodes = PoolNodes {
                kind: tree.kind(),
                collector: &mut collector,
            };
            tree::walk(&self.pool, *root, pool_identity(tree.kind()), &mut nodes);
        }
        for (index, (chunk, block)) in self.table.chunks.iter().enumerate() {
            collector.owner = InodeNo(0);
            collector.changed = Timestamp::default();
            collector.claim(BlockRange::new(*block, 1), ClaimKind::Chunk(*chunk));
            for inode in self.used_inodes(index) {
                collector.owner = inode.ino;
                collector.changed = inode.ctime.max(inode.mtime);
                walk_inode(&self.pool, &inode, &mut collector);
            }
        }
        collector.claims
    }

    fn judge_claims(
        &self,
        claims: &[Claim],
        shared: &Shared,
        expected: &mut BTreeMap<u64, (u64, u64)>,
        findings: &mut Findings,
    ) {
        let mut edges: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
        for (index, claim) in claims.iter().enumerate() {
            edges.entry(claim.range.start.raw()).or_default().0.push(index);
            edges.entry(claim.range.end().raw()).or_default().1.push(index);
        }
        for (start, (length, _)) in &shared.entries {
            edges.entry(*start).or_default();
            edges.entry(start + length).or_default();
        }
        let mut active: BTreeSet<usize> = BTreeSet::new();
        let mut previous = 0;
        for (at, (begins, ends)) in edges {
            let segment = BlockRange::new(BlockNo(previous), at - previous);
            if active.len() > 1 && segment.count > 0 {
                let owners: Vec<Claim> = active
                    .iter()
                    .filter_map(|index| claims.get(*index).copied())
                    .collect();
                judge_segment(segment, &owners, shared, expected, findings);
            }
            active.extend(begins);
            for index in ends {
                active.remove(&index);
            }
            previous = at;
        }
    }
}

fn judge_segment(
    segment: BlockRange,
    owners: &[Claim],
    shared: &Shared,
    expected: &mut BTreeMap<u64, (u64, u64)>,
    findings: &mut Findings,
) {
    let count = u64::try_from(owners.len()).unwrap_or(u64::MAX);
    let is_covered = shared
        .entries
        .range(..=segment.start.raw())
        .next_back()
        .is_some_and(|(start, (length, told))| segment.start.raw() < start + length && *told == count);
    let all_data = owners
        .iter()
        .all(|claim| matches!(claim.kind, ClaimKind::Data(..)));
    if all_data && (is_covered || owners.iter().all(Claim::may_share)) {
        expected.insert(segment.start.raw(), (segment.count, count));
        return;
    }
    let Some((winner_index, winner)) = owners
        .iter()
        .enumerate()
        .max_by_key(|(_, claim)| claim.soundness())
    else {
        return;
    };
    for (index, claim) in owners.iter().enumerate() {
        if index != winner_index {
            take_from(claim, winner, segment, findings);
        }
    }
}

fn take_from(claim: &Claim, winner: &Claim, segment: BlockRange, findings: &mut Findings) {
    let place = Place::Block(segment.start);
    let (ino, by) = (claim.owner, owner_words(winner));
    let what = format!("blocks {segment} are owned by {} and by {by}", owner_words(claim));
    let fault = match claim.kind {
        // Of two extents of one file, cutting the blocks would empty both.
        ClaimKind::Data(first, _) if ino == winner.owner => {
            let lost = format!(
                "file blocks {first} to {} of inode {ino}",
                claim.range.count + first.raw() - 1
            );
            Fault::with_loss(what, lost, Mend::Drop(first.raw()))
        }
        ClaimKind::Data(..) => {
            let lost = format!("blocks {segment} of inode {ino}");
            Fault::with_loss(what, lost, Mend::Cut(segment))
        }
        ClaimKind::XattrValue(key) => {
            let lost = format!("an attribute of inode {ino}");
            Fault::with_loss(what, lost, Mend::DropXattr(key))
        }
        ClaimKind::Target => {
            let lost = format!("symbolic link {ino}");
            Fault::with_loss(what, lost, Mend::Clear)
        }
        ClaimKind::Node(TreeKind::Directory | TreeKind::Extents) => Fault::new(what, Mend::Rebuild),
        ClaimKind::Node(TreeKind::Xattrs) => Fault::new(what, Mend::RebuildXattrs),
        ClaimKind::Chunk(chunk) => {
            let mut finding = Finding::of_pool(place, what, "chunk taken out of the inode table");
            finding.lost = Some(inodes_of_chunk(chunk));
            findings.plan.drop_chunks.insert(chunk);
            return findings.add(finding);
        }
        ClaimKind::Own | ClaimKind::Node(_) => {
            findings.plan.rebuild_table = true;
            return findings.add(Finding::of_pool(place, what, "pool's trees built anew"));
        }
    };
    findings.add_edit(ino, place, fault);
}

fn owner_words(claim: &Claim) -> String {
    match claim.kind {
        ClaimKind::Own => "the pool itself".to_owned(),
        ClaimKind::Chunk(chunk) => format!("inode chunk {chunk}"),
        ClaimKind::Node(kind) if claim.owner.raw() == 0 => format!("the pool's tree {kind:?}"),
        ClaimKind::Node(kind) => format!("the {kind:?} tree of inode {}", claim.owner),
        ClaimKind::XattrValue(_) => format!("an attribute of inode {}", claim.owner),
        ClaimKind::Target => format!("the link target of inode {}", claim.owner),
        ClaimKind::Data(..) => format!("the data of inode {}", claim.owner),
    }
}

/// Share counts with neighbours of equal count joined.
fn normalized(entries: &BTreeMap<u64, (u64, u64)>) -> Vec<(u64, u64, u64)> {
    let mut joined: Vec<(u64, u64, u64)> = Vec::new();
    for (start, (length, count)) in entries {
        match joined.last_mut() {
            Some((first, before, told)) if *first + *before == *start && told == count => *before += length,
            _ => joined.push((*start, *length, *count)),
        }
    }
    joined
}

/// Keeps the claims that touch contested blocks.
struct Collector<'c> {
    scanner: &'c Scanner<'c>,
    owner: InodeNo,
    changed: Timestamp,
    claims: Vec<Claim>,
}

impl View for Collector<'_> {
    fn claim(&mut self, range: BlockRange, kind: ClaimKind) {
        if self.scanner.ownership.contests(range) {
            self.claims.push(Claim {
                range,
                kind,
                owner: self.owner,
                changed: self.changed,
            });
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {
        // The phases before have noted it.
    }
}

struct PoolNodes<'n, 'c> {
    kind: TreeKind,
    collector: &'n mut Collector<'c>,
}

impl Visit for PoolNodes<'_, '_> {
    fn node(&mut self, block: BlockNo) {
        self.collector
            .claim(BlockRange::new(block, 1), ClaimKind::Node(self.kind));
    }
    fn entry(&mut self, _: u64, _: &[u8]) {}
    fn lost(&mut self, _: Place, _: std::ops::RangeInclusive<u64>, _: String) {}
}
