//! One look over the whole pool: everything that is wrong, and the facts that a repair needs.
//!
//! The phases follow each other, each in parallel over chunks of inodes or bitmap groups: pool trees, inodes,
//! directories, links, owners (only when blocks have several), bad blocks, free map, sum blocks, paths (only of what is
//! damaged).

mod bad_blocks;
pub(crate) mod chunks;
mod directories;
mod inodes;
mod links;
mod owners;
mod paths;
mod pool_trees;
pub(crate) mod space;
mod sums;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use udax_journal::Counters;
use udax_media::inode::{self, CHUNK_INODES, FileKind};
use udax_media::{BlockNo, BlockRange, DEVICE_START, InodeNo, roots};
use udax_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use udax_sync::on_threads;

use crate::Progress;
use crate::content::ClaimKind;
use crate::finding::Findings;
use crate::ownership::Ownership;
use crate::pool::Pool;

pub(crate) use chunks::Chunks;
pub(crate) use pool_trees::read_roots_unverified;

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Problems and what to do.
    pub(crate) findings: Findings,
    /// Owned blocks.
    pub(crate) ownership: Arc<Ownership>,
    /// All inodes.
    pub(crate) table: Table,
    /// Inodes in use.
    pub(crate) inodes: u64,
    /// Directories among them.
    pub(crate) directories: u64,
    /// Inodes that the next mount has to finish.
    pub(crate) orphans: u64,
    /// Blocks listed as bad that have no owner.
    pub(crate) bad_blocks: u64,
}

/// What is kept of each inode: 32 bytes. All fields are relaxed: phases are separated by joining the threads.
#[derive(Debug, Default)]
pub(crate) struct Info {
    /// The kind's number; 0 unused, [`Info::BAD`] unreadable.
    kind: AtomicU32,
    nlink: AtomicU32,
    /// The parent that a directory says it has.
    parent: AtomicU64,
    /// The directory that names this directory.
    named_in: AtomicU64,
    /// Names of what is no directory.
    names: AtomicU64,
}
#[cfg(not(any(loom, shuttle)))]
const _: () = assert!(size_of::<Info>() == 32);

impl Info {
    const BAD: u32 = u32::MAX;

    fn kind(&self) -> Option<FileKind> {
        u8::try_from(self.kind.load(Ordering::Relaxed))
            .ok()
            .and_then(FileKind::from_raw)
    }

    /// Whether the slot can take a new inode.
    pub(crate) fn is_free(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == 0
    }
}

/// The inodes of the pool.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Chunk number and block, ascending.
    pub(crate) chunks: Vec<(u64, BlockNo)>,
    /// Sixteen for each chunk.
    info: Vec<Info>,
}

impl Table {
    fn new(chunks: BTreeMap<u64, BlockNo>) -> Self {
        let chunks: Vec<_> = chunks.into_iter().collect();
        let slots_per_chunk = usize::try_from(CHUNK_INODES).unwrap_or(0);
        let mut info = Vec::new();
        info.resize_with(chunks.len() * slots_per_chunk, Info::default);
        Self { chunks, info }
    }

    /// The block of the chunk of `ino`.
    pub(crate) fn chunk_of(&self, ino: InodeNo) -> Option<BlockNo> {
        let (chunk, _) = inode::chunk_and_slot(ino);
        let at = self
            .chunks
            .binary_search_by_key(&chunk, |(number, _)| *number)
            .ok()?;
        self.chunks.get(at).map(|(_, block)| *block)
    }

    /// What is known of `ino`; `None` when no chunk has it.
    fn info(&self, ino: InodeNo) -> Option<&Info> {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        let at = self
            .chunks
            .binary_search_by_key(&chunk, |(number, _)| *number)
            .ok()?;
        self.info_at(at, slot)
    }

    fn info_at(&self, chunk_index: usize, slot: u64) -> Option<&Info> {
        let per_chunk = usize::try_from(CHUNK_INODES).ok()?;
        self.info
            .get(chunk_index * per_chunk + usize::try_from(slot).ok()?)
    }

    /// Every inode number with what is known of it, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = (InodeNo, &Info)> {
        let numbers = self.chunks.iter().flat_map(|(chunk, _)| {
            let first = chunk * CHUNK_INODES;
            (first..first + CHUNK_INODES).map(InodeNo)
        });
        numbers.zip(&self.info)
    }

    /// The kind of `ino`, when it is in use.
    pub(crate) fn kind_of(&self, ino: InodeNo) -> Option<FileKind> {
        self.info(ino)?.kind()
    }
}

/// The parts of a scan that all phases share.
struct Scanner<'s> {
    pool: Pool<'s>,
    progress: &'s dyn Progress,
    ownership: Ownership,
    table: Table,
    orphans: BTreeSet<u64>,
}

/// Looks at everything. `counters` are what the pool says it has; `None` when that is unknown.
pub(crate) fn scan(pool: &Pool<'_>, counters: Option<Counters>, progress: &dyn Progress) -> Scan {
    let mut findings = Findings::default();
    let ownership = Ownership::new(pool.reach());
    for range in pool.geometry.own_ranges() {
        ownership.claim(range);
    }
    let trees = pool_trees::scan(pool, &ownership, &mut findings);
    let mut scanner = Scanner {
        pool: *pool,
        progress,
        ownership,
        table: Table::new(trees.chunks),
        orphans: trees.orphans,
    };
    let mut totals = (0, 0);
    let mut bad_blocks = 0;
    if findings.plan.rebuild_table {
        // Without the inode table every other conclusion would be about inodes that are merely not found.
        scanner.table = Table::default();
    } else {
        findings.merge(scanner.scan_inodes());
        let of_directories = scanner.scan_directories();
        let of_missing = scanner.find_missing_chunks(&of_directories.plan.missing_chunks);
        let of_empty = scanner.find_empty_chunks(&of_directories.plan.dangling_chunks);
        findings.merge(of_missing);
        findings.merge(of_empty);
        let is_restored = !findings.plan.restore_chunks.is_empty();
        if is_restored {
            return scanner.finish(findings, totals, bad_blocks);
        }
        findings.merge(of_directories);
        findings.merge(scanner.scan_links(trees.orphans_are_damaged));
        findings.merge(scanner.compare_owners(&trees.roots, &trees.shared));
        let (of_bad, listed) = scanner.judge_bad_blocks(&trees.bad_blocks);
        findings.merge(of_bad);
        bad_blocks = listed;
        totals = scanner.totals();
        findings.merge(scanner.scan_space(counters, totals.0));
        findings.merge(scanner.scan_sums());
        scanner.name_findings(&mut findings);
    }
    scanner.finish(findings, totals, bad_blocks)
}

/// Every range of blocks that has an owner, as what, and of which inode (0: the pool).
pub(crate) fn claims(pool: &Pool<'_>, progress: &dyn Progress) -> Vec<(BlockRange, ClaimKind, InodeNo)> {
    let mut findings = Findings::default();
    let ownership = Ownership::new(pool.reach());
    let trees = pool_trees::scan(pool, &ownership, &mut findings);
    // What is contested is collected.
    let reach = pool.reach();
    ownership.contest(BlockRange::new(BlockNo(0), reach.pool));
    ownership.contest(BlockRange::new(DEVICE_START, reach.device));
    let scanner = Scanner {
        pool: *pool,
        progress,
        ownership,
        table: Table::new(trees.chunks),
        orphans: trees.orphans,
    };
    scanner.claims(&trees.roots)
}

impl Scanner<'_> {
    fn finish(self, findings: Findings, (inodes, directories): (u64, u64), bad_blocks: u64) -> Scan {
        Scan {
            findings,
            ownership: Arc::new(self.ownership),
            table: self.table,
            inodes,
            directories,
            orphans: u64::try_from(self.orphans.len()).unwrap_or(u64::MAX),
            bad_blocks,
        }
    }

    fn totals(&self) -> (u64, u64) {
        let kinds = self.table.info.iter().filter_map(Info::kind);
        kinds.fold((0, 0), |(inodes, directories), kind| {
            (inodes + 1, directories + u64::from(kind == FileKind::Directory))
        })
    }

    /// Runs `work` for the numbers below `total` on all threads, and gives what they found.
    fn in_parallel(
        &self,
        phase: &'static str,
        total: usize,
        work: &(dyn Fn(usize, &mut Findings) + Sync),
    ) -> Findings {
        /// Units taken at once: few enough to share the work evenly, enough that threads rarely meet.
        const BATCH: u64 = 16;
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let next = AtomicU64::new(0);
        let run = || {
            let mut found = Findings::default();
            loop {
                let start = next.fetch_add(BATCH, Ordering::Relaxed);
                if start >= total {
                    return found;
                }
                let end = (start + BATCH).min(total);
                for index in start..end {
                    work(usize::try_from(index).unwrap_or(usize::MAX), &mut found);
                }
                self.progress.step(phase, end, total);
            }
        };
        let mut all = Findings::default();
        for found in on_threads(self.pool.threads, run) {
            all.merge(found);
        }
        all
    }
}

/// The number of pool trees.
pub(crate) const POOL_TREES: usize = roots::PoolTree::ALL.len();
