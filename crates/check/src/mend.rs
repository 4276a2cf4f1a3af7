//! Repair: look, change, look again, until there is nothing to change.
//!
//! Each round scans the whole pool and carries its plan out, in steps that are atomic (`log`). What follows from a
//! change (a name that names nothing any more, an inode that lost its last name) is found by the next scan, so that
//! a repair that was interrupted continues like one that was not. The free map is only added to until the last
//! round, in which owners are final; then it and the counters are written, and last the checkpoint that says *clean*.

mod build;
mod inodes;
mod log;
mod lost_and_found;
mod pool_trees;
mod space;
mod sums;

use std::collections::HashSet;
use std::sync::Arc;

use udax_journal::{JournalError, Recovery};
use udax_media::geometry::SUPERBLOCKS;
use udax_media::{BLOCK_SIZE, BlockNo, Geometry, InodeNo, Place, Superblock};
use udax_pmem::{Region, RegionError};

use crate::finding::{Finding, Plan};
use crate::head::{self, Ending, Superblocks};
use crate::pool::Pool;
use crate::scan::{self, Scan};
use crate::source::BlockSource;
use crate::unreadable::{self, Repair, Unreadable};
use crate::{
    CheckError, CheckOptions, Progress, Report, counters_of, ensure_reached, journal_damage, journal_finding,
    record_findings,
};

use log::Log;
use space::{Space, Strictness};

/// Scans before what is left is given up. Damage takes three: trees, what they named, link counts; a lost inode
/// table and a lost root directory one each.
const MAX_ROUNDS: usize = 10;

/// Why a change was not made.
#[derive(Debug)]
enum Failure {
    /// No block is free for it; the finding stays.
    NoSpace,
    /// The repair cannot go on.
    Fatal(CheckError),
}

impl<E: Into<CheckError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fatal(error.into())
    }
}

/// Repairs the pool.
pub(crate) fn repair(
    region: &Region,
    superblocks: Superblocks,
    (options, unreadable): (&CheckOptions, &Unreadable),
    progress: &dyn Progress,
) -> Result<Report, CheckError> {
    let superblock = &superblocks.believed;
    if !superblock.is_writable() {
        let bits = superblock.ro_compat;
        return Err(CheckError::NotWritable { bits });
    }
    let lost_superblock = restore_superblocks(region, superblock, &superblocks.stale)?;
    let checkpoints = head::read_checkpoints(region, superblock);
    let was_clean = checkpoints.believed.is_some_and(|checkpoint| checkpoint.is_clean);
    let mut findings = checkpoints.findings;
    let mut notes = checkpoints.notes;
    let recovered = checkpoints
        .believed
        .map(|_| udax_journal::recover(region, superblock));
    // A growth may just have been completed.
    let grown = match &recovered {
        Some(Ok(recovery)) => recovery.superblock.clone(),
        _ => None,
    };
    let ending = Ending::of(checkpoints.believed.as_ref(), grown.as_ref());
    superblocks.told(ending, &mut findings, &mut notes);
    let superblock = grown.as_ref().unwrap_or(superblock);
    let (mut log, replayed) = open_log(region, superblock, recovered, &mut findings)?;
    // Nothing in the lanes is needed any more.
    let of_journal = unreadable::judge_journal(region, superblock, Repair::Yes);
    let geometry = Geometry::new(superblock);
    let pool = Pool {
        source: region,
        superblock,
        geometry: &geometry,
        seed: superblock.seed(),
        total_blocks: geometry.total_blocks(),
        threads: options.worker_threads(),
        compares_data: options.data,
        unreadable,
    };
    // Damage of head structures is mended by now or by the closing checkpoint; only a scan can contradict the rest.
    let head_findings = findings.len();
    // What is only noted is made whole by the closing checkpoint.
    let is_settled = was_clean && notes.is_empty();
    let scan = run_rounds(&pool, &mut log, is_settled, &mut findings, progress)?;
    let lost_copies: Vec<BlockNo> = lost_superblock.into_iter().chain(log.lost_copy()).collect();
    let mut report = Report::new(&scan, None, pool.reach().total());
    report.was_clean = was_clean;
    report.replayed = replayed;
    tell(&mut report, scan, (findings, head_findings), notes, &lost_copies);
    report.problems.extend(of_journal);
    report.sort();
    Ok(report)
}

/// Puts what was found into the report: by all scans (the first of them in head structures), what a crash may have
/// left, by the last scan, and copies of head structures that stay lost.
fn tell(
    report: &mut Report,
    last: Scan,
    (mut findings, head_findings): (Vec<Finding>, usize),
    mut notes: Vec<Finding>,
    lost_copies: &[BlockNo],
) {
    let left: HashSet<(Place, String)> = last
        .findings
        .list
        .iter()
        .map(|finding| (finding.place, finding.what.clone()))
        .collect();
    let rest = findings.split_off(head_findings.min(findings.len()));
    // What is wrong with a copy that stays lost is told once, and not as mended.
    let is_lost = |finding: &Finding| lost_copies.iter().any(|copy| is_in(finding.place, *copy));
    findings.retain(|finding| !is_lost(finding));
    notes.retain(|note| !is_lost(note));
    let lost = lost_copies.iter().map(|copy| {
        let what = "the medium has lost this copy, and takes no other".to_owned();
        Finding::of_pool(Place::Block(*copy), what, "").into_problem(|_| false)
    });
    report.problems.extend(lost);
    // The closing checkpoint has taken their place.
    report
        .notes
        .extend(notes.into_iter().map(|note| note.into_problem(|_| true)));
    let of_head = findings.into_iter().map(|finding| finding.into_problem(|_| true));
    report.problems.extend(of_head);
    for finding in rest {
        let is_mended = |finding: &Finding| !left.contains(&(finding.place, finding.what.clone()));
        report.problems.push(finding.into_problem(is_mended));
    }
    for finding in last.findings.list {
        let is_told = report
            .problems
            .iter()
            .any(|told| told.place == finding.place && told.what == finding.what);
        if !is_told {
            report.problems.push(finding.into_problem(|_| false));
        }
    }
}

fn is_in(place: Place, block: BlockNo) -> bool {
    match place {
        Place::Block(at) => at == block,
        Place::Byte(at) => at.block() == block,
        Place::Inode(_) => false,
    }
}

/// Writes the copies that are not as they should be; gives the one that the medium has lost, and takes no more.
fn restore_superblocks(
    region: &Region,
    superblock: &Superblock,
    stale: &[usize],
) -> Result<Option<BlockNo>, CheckError> {
    let bytes = superblock.encode();
    let mut lost = None;
    // The copy first, as when a superblock is changed.
    for block in stale.iter().rev().filter_map(|copy| SUPERBLOCKS.get(*copy)) {
        match region.store_nontemporal(block.offset().raw(), bytes.as_slice()) {
            // The one that was read is enough.
            Err(RegionError::Media { .. }) if lost.is_none() => lost = Some(*block),
            stored => stored?,
        }
        region.fence()?;
    }
    Ok(lost)
}

/// What to log after recovery was tried, and how many records that replayed; `None`: there was no checkpoint.
fn open_log<'r>(
    region: &'r Region,
    superblock: &'r Superblock,
    recovered: Option<Result<Recovery, JournalError>>,
    findings: &mut Vec<Finding>,
) -> Result<(Log<'r>, u64), CheckError> {
    let Some(outcome) = recovered else {
        return Ok((Log::open(region, superblock, None)?, 0));
    };
    let checkpoint = head::read_checkpoints(region, superblock).believed;
    let mut log = Log::open(region, superblock, checkpoint)?;
    match outcome {
        Ok(recovery) => {
            findings.extend(record_findings(&recovery));
            Ok((log, recovery.records))
        }
        Err(error) if journal_damage(&error).is_some() => {
            findings.push(journal_finding(superblock, &error));
            log.empty_journal()?;
            Ok((log, 0))
        }
        Err(error) => Err(error.into()),
    }
}

/// Scans and changes until a scan plans no change; gives the scan that tells what is left.
fn run_rounds(
    pool: &Pool<'_>,
    log: &mut Log<'_>,
    is_settled: bool,
    findings: &mut Vec<Finding>,
    progress: &dyn Progress,
) -> Result<Scan, CheckError> {
    let mut is_changed = !findings.is_empty();
    let mut told: HashSet<(Place, String)> = HashSet::new();
    let mut previous = Vec::new();
    let mut round = 0;
    loop {
        let mut scan = scan::scan(pool, Some(counters_of(log.checkpoint())), progress);
        // What could not be reached looks like what is lost, and must not be mended.
        ensure_reached(log.region)?;
        let plan = std::mem::take(&mut scan.findings.plan);
        let mut current = Vec::new();
        for finding in &scan.findings.list {
            let key = (finding.place, finding.what.clone());
            // After a change the free map lags behind on purpose.
            let is_consequence = finding.is_space && round > 0;
            if !is_consequence && told.insert(key.clone()) {
                findings.push(finding.clone());
            }
            current.push(key);
        }
        round += 1;
        let is_stuck = plan.has_changes() && (current == previous || round == MAX_ROUNDS);
        if plan.has_changes() && !is_stuck {
            Mender::new(*pool, log, &scan, &plan)?.carry_out(plan)?;
            is_changed = true;
            previous = current;
            continue;
        }
        if plan.rebuild_table {
            return Ok(scan);
        }
        let is_worth_a_scan = is_changed || plan.space;
        if is_worth_a_scan || !is_settled {
            let strictness = if is_stuck {
                Strictness::OnlyMark
            } else {
                Strictness::Exact
            };
            let free = space::write_bitmaps(log, pool, &scan.ownership, strictness)?;
            log.close(free, scan.inodes)?;
        }
        if is_worth_a_scan {
            let scan = scan::scan(pool, Some(counters_of(log.checkpoint())), progress);
            return ensure_reached(log.region).map(|()| scan);
        }
        return Ok(scan);
    }
}

/// Carries one plan out.
struct Mender<'m, 'r> {
    pool: Pool<'m>,
    log: &'m mut Log<'r>,
    scan: &'m Scan,
    space: Space,
}

impl<'m, 'r> Mender<'m, 'r> {
    fn new(pool: Pool<'m>, log: &'m mut Log<'r>, scan: &'m Scan, plan: &Plan) -> Result<Self, CheckError> {
        if !plan.rebuild_table {
            // Nothing owned may be given away while the repair goes on, or by a mount after it was interrupted.
            space::write_bitmaps(log, &pool, &scan.ownership, Strictness::OnlyMark)?;
        }
        Ok(Self {
            pool,
            log,
            scan,
            space: Space::new(&pool, Arc::clone(&scan.ownership)),
        })
    }

    /// What must be before something else ends the round: the next scan sees more.
    fn carry_out(&mut self, plan: Plan) -> Result<(), CheckError> {
        if plan.rebuild_table {
            return tolerate(self.rebuild_roots());
        }
        if !plan.restore_chunks.is_empty() {
            return tolerate(self.restore_chunks(&plan.restore_chunks));
        }
        if !plan.drop_chunks.is_empty() {
            return tolerate(self.drop_chunks(&plan.drop_chunks));
        }
        if plan.make_root {
            return tolerate(self.make_root());
        }
        for (ino, edit) in &plan.edits {
            tolerate(self.edit_inode(InodeNo(*ino), edit, &[], Vec::new()))?;
        }
        let is_cleared = |ino: &u64| plan.edits.get(ino).is_some_and(|edit| edit.clear);
        let lost: Vec<InodeNo> = plan
            .reconnect
            .iter()
            .filter(|ino| !is_cleared(ino))
            .map(|ino| InodeNo(*ino))
            .collect();
        if !lost.is_empty() {
            tolerate(self.reconnect(&lost))?;
        }
        if let Some(orphans) = &plan.orphans {
            tolerate(self.write_orphans(orphans))?;
        }
        if let Some(shared) = &plan.shared {
            tolerate(self.write_shared(shared))?;
        }
        if let Some(bad_blocks) = &plan.bad_blocks {
            tolerate(self.write_bad_blocks(bad_blocks))?;
        }
        if !plan.sums.is_empty() {
            tolerate(self.write_sums(&plan.sums))?;
        }
        Ok(())
    }

    /// Marks the blocks taken for what is about to be named.
    fn mark_taken(&mut self) -> Result<(), Failure> {
        let taken = self.space.drain_taken();
        Ok(space::mark(self.log, &self.pool, &taken)?)
    }

    /// The block as it is now.
    fn read(&self, block: BlockNo) -> Result<Box<[u8; BLOCK_SIZE]>, RegionError> {
        let mut bytes = Box::new([0; BLOCK_SIZE]);
        self.log.region.read_block(block, &mut bytes)?;
        Ok(bytes)
    }
}

/// Without space the finding stays, and the next scan tells so.
fn tolerate(result: Result<(), Failure>) -> Result<(), CheckError> {
    match result {
        Ok(()) | Err(Failure::NoSpace) => Ok(()),
        Err(Failure::Fatal(error)) => Err(error),
    }
}
