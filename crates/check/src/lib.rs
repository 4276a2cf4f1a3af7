//! Verification and repair of a udax pool.
//!
//! [`check`] looks at every structure of a pool and at every agreement between them. It shares the on-media format
//! and the journal's replay with the filesystem and no other code, so that it can contradict it.
//!
//! * `head`: superblocks and checkpoints. `source`: blocks, with the journal's records over them.
//! * `unreadable`: what the medium has lost, where all blocks are to be read.
//! * `tree`, `content`, `scan`: one look over everything, which gives findings and a plan.
//! * [`map`]: what each block is for.
//! * `mend`: carries plans out, scan after scan, until there is nothing to mend.
//!
//! Invariants: without [`CheckOptions::repair`] the region is only read; a repair makes each step durable and atomic
//! before the next, so that a crash in the middle leaves a pool that another repair can finish; damage costs time and
//! memory in proportion to the pool, never more.
#![forbid(unsafe_code)]

mod content;
mod finding;
mod head;
mod map;
mod mend;
mod ownership;
mod pool;
mod report;
mod scan;
mod source;
mod tree;
mod unreadable;

use udax_journal::{Counters, JournalError};
use udax_media::checkpoint::Checkpoint;
use udax_media::{ByteOffset, Geometry, Place, Superblock};
use udax_pmem::{Region, RegionError};

pub use map::{Use, map};
pub use report::{CheckError, Problem, Report};

use finding::Finding;
use head::Ending;
use pool::Pool;
use source::Replayed;
use unreadable::{Repair, Unreadable};

/// How to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// Mend what can be mended (`fsck -y`); otherwise change nothing, not even by replaying the journal.
    pub repair: bool,
    /// Worker threads; 0 for one a processor.
    pub threads: usize,
    /// Read every block of the pool, also those that hold nothing to verify, and tell which the medium has lost. A
    /// repair lists those that nobody owns, so that they are not used again.
    pub bad_blocks: bool,
    /// Compare the data of files with its checksums, where it has some: reads all of that data. What is wrong is told,
    /// and left as it is by a repair too.
    pub data: bool,
}

impl CheckOptions {
    fn worker_threads(&self) -> usize {
        /// More threads than this would only wait for memory.
        const MAX_THREADS: usize = 64;
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        threads.min(MAX_THREADS)
    }
}

/// Told how far the check is.
pub trait Progress: Sync {
    /// `done` of `total` units of `phase`; called by several threads, not always in ascending order.
    fn step(&self, phase: &'static str, done: u64, total: u64);
}

/// No progress wanted.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &'static str, _: u64, _: u64) {}
}

/// Checks the pool in `region`, and repairs it if asked.
///
/// The pool must not be open otherwise.
///
/// # Errors
/// [`CheckError`] when no check is possible; also when bytes could not be reached that are not lost
/// ([`RegionError::Unreachable`]): then a repair has mended nothing for their sake, and they may be there the next
/// time. Damage is no error: it is in the report.
///
/// # Durability
/// What the report says is repaired is durable on return.
pub fn check(region: &Region, options: &CheckOptions, progress: &dyn Progress) -> Result<Report, CheckError> {
    let superblocks = head::read_superblocks(region);
    ensure_reached(region)?;
    let superblocks = superblocks?;
    let threads = options.worker_threads();
    let unreadable = match options.bad_blocks {
        true => Unreadable::find(region, superblocks.believed.total_blocks(), threads, progress)?,
        false => Unreadable::default(),
    };
    if options.repair {
        return mend::repair(region, superblocks, (options, &unreadable), progress);
    }
    let superblock = &superblocks.believed;
    let checkpoints = head::read_checkpoints(region, superblock);
    let mut findings = checkpoints.findings;
    let mut notes = checkpoints.notes;
    let replay = match checkpoints.believed {
        Some(checkpoint) if !checkpoint.is_clean => replay_in_memory(region, superblock, &mut findings)?,
        _ => None,
    };
    // A growth may be completed by that.
    let grown = replay
        .as_ref()
        .and_then(|replay| replay.recovery.superblock.clone());
    let ending = Ending::of(checkpoints.believed.as_ref(), grown.as_ref());
    superblocks.told(ending, &mut findings, &mut notes);
    let superblock = grown.as_ref().unwrap_or(superblock);
    let geometry = Geometry::new(superblock);
    let counters = match (&replay, &checkpoints.believed) {
        (Some(replay), _) => Some(replay.counters),
        (None, Some(checkpoint)) => Some(counters_of(checkpoint)),
        (None, None) => None,
    };
    let replayed = replay.as_ref().map_or(0, |replay| replay.recovery.records);
    let source = Replayed {
        region,
        blocks: replay.map(|replay| replay.blocks).unwrap_or_default(),
    };
    let pool = Pool {
        source: &source,
        superblock,
        geometry: &geometry,
        seed: superblock.seed(),
        total_blocks: geometry.total_blocks(),
        threads,
        compares_data: options.data,
        unreadable: &unreadable,
    };
    let scan = scan::scan(&pool, counters, progress);
    ensure_reached(region)?;
    let mut report = Report::new(&scan, checkpoints.believed.as_ref(), pool.reach().total());
    report.replayed = replayed;
    findings.extend(scan.findings.list);
    report.problems = problems(findings);
    let of_journal = unreadable::judge_journal(region, superblock, Repair::No);
    report.problems.extend(of_journal);
    report.notes = problems(notes);
    report.sort();
    Ok(report)
}

/// What is wrong with the copies of what the pool keeps twice, the superblock and the checkpoint: the pool can be used,
/// but the next loss may be all of it. Reads six blocks and changes nothing.
///
/// # Errors
/// [`CheckError::NoSuperblock`]; a media error is no error but a problem.
pub fn check_copies(region: &Region) -> Result<Vec<Problem>, CheckError> {
    let superblocks = head::read_superblocks(region)?;
    let checkpoints = head::read_checkpoints(region, &superblocks.believed);
    ensure_reached(region)?;
    let mut findings = checkpoints.findings;
    findings.extend(checkpoints.notes);
    superblocks.told(Ending::Closed, &mut findings, &mut Vec::new());
    Ok(problems(findings))
}

/// Nothing is said of a pool of which bytes could not be reached, though they are not lost: the file was cut short, or
/// its filesystem has no space.
fn ensure_reached(region: &Region) -> Result<(), CheckError> {
    match region.first_unreachable() {
        Some(at) => Err(RegionError::Unreachable { at }.into()),
        None => Ok(()),
    }
}

/// Findings of which nothing was mended.
fn problems(findings: impl IntoIterator<Item = Finding>) -> Vec<Problem> {
    let findings = findings.into_iter();
    findings.map(|finding| finding.into_problem(|_| false)).collect()
}

/// What recovery would make of the pool; `None`, and a finding, when the journal is damaged.
fn replay_in_memory(
    region: &Region,
    superblock: &Superblock,
    findings: &mut Vec<Finding>,
) -> Result<Option<udax_journal::Overlay>, CheckError> {
    match udax_journal::overlay(region, superblock) {
        Ok(overlay) => {
            findings.extend(record_findings(&overlay.recovery));
            Ok(Some(overlay))
        }
        Err(error) if journal_damage(&error).is_some() => {
            findings.push(journal_finding(superblock, &error));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The counters as of `checkpoint`.
fn counters_of(checkpoint: &Checkpoint) -> Counters {
    Counters {
        free_blocks: checkpoint.free_blocks,
        inodes: checkpoint.inodes,
    }
}

/// What is to say of records that are damaged and that others follow.
fn record_findings(recovery: &udax_journal::Recovery) -> impl Iterator<Item = Finding> {
    recovery.damaged.iter().map(|at| {
        let what = "damaged journal record, which sound ones follow".to_owned();
        let mut finding = Finding::of_pool(Place::Byte(*at), what, "the other records replayed without it");
        finding.lost = Some("what this record had changed".to_owned());
        finding
    })
}

/// Where the journal, or what it describes, is damaged or lost, if that is why it cannot be replayed.
fn journal_damage(error: &JournalError) -> Option<Option<Place>> {
    match error {
        JournalError::Format(_) => Some(None),
        JournalError::Region(RegionError::Media { at }) => Some(Some(Place::Byte(ByteOffset(*at)))),
        _ => None,
    }
}

/// What is to say when the journal cannot be replayed.
fn journal_finding(superblock: &Superblock, error: &JournalError) -> Finding {
    let place = journal_damage(error).flatten();
    let place = place.unwrap_or(Place::Block(superblock.journal_start));
    let mut finding = Finding::of_pool(place, format!("journal: {error}"), "journal emptied");
    finding.lost = Some("what had been changed since the last checkpoint".to_owned());
    finding
}

impl Report {
    fn new(scan: &scan::Scan, checkpoint: Option<&Checkpoint>, total_blocks: u64) -> Self {
        Self {
            problems: Vec::new(),
            notes: Vec::new(),
            was_clean: checkpoint.is_some_and(|checkpoint| checkpoint.is_clean),
            replayed: 0,
            inodes: scan.inodes,
            directories: scan.directories,
            orphans: scan.orphans,
            bad_blocks: scan.bad_blocks,
            used_blocks: scan.ownership.count(),
            total_blocks,
        }
    }
}
