//! The roots block and the trees that belong to no inode.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use udax_media::geometry::ROOTS;
use udax_media::inode::{CHUNK_INODES, MAX_CHUNK};
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::pool_tree::{self, decode_chunk};
use udax_media::roots::{self, PoolTree};
use udax_media::{BlockNo, BlockRange, LINE_SIZE, Place};

use super::POOL_TREES;
use super::bad_blocks::{Listed, scan_listed};
use crate::finding::{Finding, Findings};
use crate::ownership::Ownership;
use crate::pool::{Pool, pool_identity};
use crate::tree::{self, Visit};

/// The roots of the pool's trees, in the order of [`PoolTree::ALL`].
pub(crate) type Roots = [TreeRoot; POOL_TREES];

/// What the pool's trees say.
#[derive(Debug)]
pub(super) struct PoolTrees {
    pub(super) roots: Roots,
    pub(super) chunks: BTreeMap<u64, BlockNo>,
    pub(super) orphans: BTreeSet<u64>,
    pub(super) orphans_are_damaged: bool,
    pub(super) shared: Shared,
    pub(super) bad_blocks: Listed,
}

/// The shares' tree: start to (length, count), and whether some of it is unreadable.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) entries: BTreeMap<u64, (u64, u64)>,
    pub(super) is_damaged: bool,
}

/// Reads the pool's trees; without a believable inode table, only that is planned for.
pub(super) fn scan(pool: &Pool<'_>, ownership: &Ownership, findings: &mut Findings) -> PoolTrees {
    let mut trees = PoolTrees {
        roots: [TreeRoot::EMPTY; POOL_TREES],
        chunks: BTreeMap::new(),
        orphans: BTreeSet::new(),
        orphans_are_damaged: false,
        shared: Shared::default(),
        bad_blocks: Listed::default(),
    };
    let roots = pool.read(ROOTS).and_then(|bytes| {
        roots::verify(pool.seed, &bytes, pool.total_blocks).map_err(|error| error.to_string())
    });
    match roots {
        Ok(roots) => trees.roots = roots,
        Err(what) => {
            let remedy = "roots found again by the structures they name";
            findings.add(Finding::of_pool(Place::Block(ROOTS), what, remedy));
            findings.plan.rebuild_table = true;
            return trees;
        }
    }
    let [table, orphans, shared, bad_blocks] = trees.roots;
    scan_table(pool, table, ownership, findings, &mut trees);
    if findings.plan.rebuild_table {
        return trees;
    }
    scan_orphans(pool, orphans, ownership, findings, &mut trees);
    scan_shared(pool, shared, ownership, findings, &mut trees);
    trees.bad_blocks = scan_listed(pool, bad_blocks, ownership, findings);
    trees
}

/// The root words as they are, whatever the checksum says.
pub(crate) fn read_roots_unverified(pool: &Pool<'_>) -> Roots {
    let mut roots = [TreeRoot::EMPTY; POOL_TREES];
    if let Ok(bytes) = pool.read(ROOTS) {
        let words = bytes.get(LINE_SIZE..).unwrap_or_default().as_chunks::<8>().0;
        for (root, word) in roots.iter_mut().zip(words) {
            *root = TreeRoot::from_word(u64::from_le_bytes(*word));
        }
    }
    roots
}

/// Walks a pool tree, claims its nodes, and hands out entries and lost ranges.
struct PoolWalk<'w, E> {
    ownership: &'w Ownership,
    entry: E,
    lost: Vec<(Place, RangeInclusive<u64>, String)>,
}

impl<E: FnMut(u64, &[u8])> Visit for PoolWalk<'_, E> {
    fn node(&mut self, block: BlockNo) {
        self.ownership.claim(BlockRange::new(block, 1));
    }
    fn entry(&mut self, key: u64, value: &[u8]) {
        (self.entry)(key, value);
    }
    fn lost(&mut self, place: Place, keys: RangeInclusive<u64>, why: String) {
        self.lost.push((place, keys, why));
    }
}

type Lost = Vec<(Place, RangeInclusive<u64>, String)>;

pub(super) fn walk(
    pool: &Pool<'_>,
    (root, kind): (TreeRoot, TreeKind),
    ownership: &Ownership,
    entry: impl FnMut(u64, &[u8]),
) -> Lost {
    let mut visit = PoolWalk {
        ownership,
        entry,
        lost: Vec::new(),
    };
    tree::walk(pool, root, pool_identity(kind), &mut visit);
    visit.lost
}

fn scan_table(
    pool: &Pool<'_>,
    root: TreeRoot,
    ownership: &Ownership,
    findings: &mut Findings,
    trees: &mut PoolTrees,
) {
    let mut bad = Vec::new();
    let lost = walk(
        pool,
        (root, PoolTree::InodeTable.kind()),
        ownership,
        |chunk, value| match decode_chunk(value, pool.total_blocks) {
            Some(block) if chunk <= MAX_CHUNK => {
                ownership.claim(BlockRange::new(block, 1));
                trees.chunks.insert(chunk, block);
            }
            _ => bad.push(chunk),
        },
    );
    for chunk in bad {
        let place = Place::Block(root.block().unwrap_or(ROOTS));
        let remedy = "chunk taken out of the inode table";
        let mut finding = Finding::of_pool(
            place,
            format!("inode table has an impossible chunk {chunk}"),
            remedy,
        );
        finding.lost = Some(inodes_of_chunk(chunk));
        findings.add(finding);
        findings.plan.drop_chunks.insert(chunk);
    }
    for (place, keys, why) in lost {
        let remedy = "inode table built anew from the inode chunks in the pool";
        let what = format!(
            "inode table, chunks {} to {}: {why}",
            keys.start(),
            keys.end().min(&MAX_CHUNK)
        );
        findings.add(Finding::of_pool(place, what, remedy));
        findings.plan.rebuild_table = true;
    }
    if trees.chunks.is_empty() && !findings.plan.rebuild_table {
        let what = "inode table has no chunk".to_owned();
        let remedy = "inode table built anew from the inode chunks in the pool";
        findings.add(Finding::of_pool(Place::Block(ROOTS), what, remedy));
        findings.plan.rebuild_table = true;
    }
}

/// The inodes of a chunk, for people.
pub(super) fn inodes_of_chunk(chunk: u64) -> String {
    let first = chunk.saturating_mul(CHUNK_INODES);
    format!("inodes {first} to {}", first.saturating_add(CHUNK_INODES - 1))
}

fn scan_orphans(
    pool: &Pool<'_>,
    root: TreeRoot,
    ownership: &Ownership,
    findings: &mut Findings,
    trees: &mut PoolTrees,
) {
    let mut odd = Vec::new();
    let lost = walk(pool, (root, PoolTree::Orphans.kind()), ownership, |ino, value| {
        trees.orphans.insert(ino);
        if !value.is_empty() {
            odd.push(ino);
        }
    });
    let remedy = "orphans' tree built anew";
    for ino in odd {
        let place = Place::Inode(udax_media::InodeNo(ino));
        findings.add(Finding::of_pool(
            place,
            "entry in the orphans' tree has a value".to_owned(),
            remedy,
        ));
        trees.orphans_are_damaged = true;
    }
    for (place, keys, why) in lost {
        let mut finding = Finding::of_pool(place, format!("orphans' tree: {why}"), remedy);
        let (first, last) = (keys.start(), keys.end());
        finding.lost = Some(format!("unfinished truncations of inodes {first} to {last}"));
        findings.add(finding);
        trees.orphans_are_damaged = true;
    }
}

fn scan_shared(
    pool: &Pool<'_>,
    root: TreeRoot,
    ownership: &Ownership,
    findings: &mut Findings,
    trees: &mut PoolTrees,
) {
    let mut bad = Vec::new();
    let lost = walk(
        pool,
        (root, PoolTree::Shared.kind()),
        ownership,
        |start, value| {
            let Some(pool_tree::Shared { blocks, owners }) = pool_tree::Shared::decode(start, value) else {
                return bad.push(start);
            };
            let before = trees.shared.entries.last_key_value();
            let is_clear = before.is_none_or(|(first, (length, _))| first + length <= start);
            if !pool.geometry.contains(blocks) || !is_clear {
                return bad.push(start);
            }
            ownership.contest(blocks);
            trees.shared.entries.insert(start, (blocks.count, owners));
        },
    );
    let remedy = "share counts built anew from the owners";
    for start in bad {
        let what = format!("impossible share count of block {start}");
        findings.add(Finding::of_pool(Place::Block(BlockNo(start)), what, remedy));
        trees.shared.is_damaged = true;
    }
    for (place, _, why) in lost {
        findings.add(Finding::of_pool(place, format!("share counts: {why}"), remedy));
        trees.shared.is_damaged = true;
    }
}
