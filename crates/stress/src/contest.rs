//! What all threads of a contest share: [`Contest`], and how it begins and ends.
//!
//! Locks: `findings` and each slot's `current` are leaves. No lock is held over an operation of the filesystem: what
//! threads must know of each other is in atomics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use udax::{DaxError, DirEntry, Error, File, Filesystem, NewInode, OpenFlags};
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use udax_sync::{Mutex, Rank};

use crate::history::{Event, What};
use crate::life::{Discipline, Life, OpenLife, Slot};
use crate::options::{Options, StressError, Witness};
use crate::pool_blocks::PoolBlocks;
use crate::report::{Finding, Kind};
use crate::stamp::{BLOCK_LEN, MAX_BLOCKS, Rule, Stamps, Wrong};
use crate::tally::{Operation, Tally};

/// The directory of the contest's files.
const DIRECTORY: &str = "/udax-stress";
/// Findings that are kept: the first ones say what is wrong.
const MAX_FINDINGS: usize = 8;
/// Lines of history in a finding.
const MAX_HISTORY: usize = 24;

/// A thread of the contest, as the watchdog sees it.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) number: u64,
    pub(crate) name: String,
    /// Microseconds after the start at which it began what it does; 0: nothing that could take long.
    since: AtomicU64,
    doing: AtomicU64,
}

impl Actor {
    pub(crate) fn new(number: u64, name: String) -> Self {
        Self {
            number,
            name,
            since: AtomicU64::new(0),
            doing: AtomicU64::new(0),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) filesystem: Filesystem,
    pub(crate) options: Options,
    pub(crate) stamps: Stamps,
    pub(crate) slots: Vec<Slot>,
    pub(crate) blocks: PoolBlocks,
    pub(crate) tally: Tally,
    start: Instant,
    lives: AtomicU64,
    is_over: AtomicBool,
    findings: Mutex<Vec<Finding>>,
}

impl Contest {
    pub(crate) fn new(filesystem: &Filesystem, options: &Options) -> Result<Self, StressError> {
        let wild = wild_slots(options.files);
        let slot = |number| {
            let is_wild = wild >> number & 1 == 1;
            let discipline = if is_wild {
                Discipline::Wild(wild)
            } else {
                Discipline::Strict
            };
            // One has large entries.
            let room = if number == 0 { MAX_BLOCKS } else { 96 };
            Slot::new(number, discipline, room)
        };
        let watched = match options.witness {
            Witness::BytesAndHolders => filesystem.stat_filesystem().total_blocks,
            Witness::Bytes => 0,
        };
        let contest = Self {
            filesystem: filesystem.clone(),
            options: options.clone(),
            stamps: Stamps::new(options.seed),
            slots: (0..options.files).map(slot).collect(),
            blocks: PoolBlocks::new(watched),
            tally: Tally::default(),
            start: Instant::now(),
            lives: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            findings: Mutex::new(Rank::Leaf, Vec::new()),
        };
        contest.remove_directory()?;
        contest
            .filesystem
            .create_dir(DIRECTORY, NewInode::with_permissions(0o755))?;
        for slot in &contest.slots {
            let life = contest.make_life(slot)?;
            slot.replace(Some(life));
        }
        Ok(contest)
    }

    /// Makes a file for a slot, under a name of its own.
    pub(crate) fn make_life(&self, slot: &Slot) -> udax::Result<Arc<OpenLife>> {
        let id = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let path = format!("{DIRECTORY}/{}.{id}", slot.number);
        let file = self.create(&path)?;
        let life = Arc::new(Life::new(id, slot, path));
        Ok(Arc::new(OpenLife { life, file }))
    }

    /// Makes a file for a snapshot.
    pub(crate) fn make_snapshot(&self) -> udax::Result<(String, File)> {
        let id = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let path = format!("{DIRECTORY}/snapshot.{id}");
        let file = self.create(&path)?;
        Ok((path, file))
    }

    fn create(&self, path: &str) -> udax::Result<File> {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        self.filesystem
            .open_file(path, flags, NewInode::with_permissions(0o644))
    }

    /// Removes what a contest has left, this one or one that was killed.
    pub(crate) fn remove_directory(&self) -> udax::Result<()> {
        loop {
            let entries = match self.filesystem.read_dir(DIRECTORY, 0, 1000) {
                Err(Error::NotFound) => return Ok(()),
                entries => entries?,
            };
            let is_name = |entry: &DirEntry| entry.name != b"." && entry.name != b"..";
            let names: Vec<_> = entries.into_iter().filter(is_name).collect();
            if names.is_empty() {
                return self.filesystem.remove_dir(DIRECTORY);
            }
            for entry in names {
                let name = String::from_utf8_lossy(&entry.name);
                self.filesystem.unlink(format!("{DIRECTORY}/{name}"))?;
            }
        }
    }

    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether threads are to end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.findings.lock())
    }

    pub(crate) fn has_findings(&self) -> bool {
        !self.findings.lock().is_empty()
    }

    /// Notes a defect; the contest is over.
    pub(crate) fn find(&self, kind: Kind, what: String, history: Vec<String>) {
        let mut findings = self.findings.lock();
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding {
                kind,
                seconds: self.start.elapsed().as_secs_f64(),
                what,
                history,
            });
        }
        drop(findings);
        self.end();
    }

    /// Does something that may take long, timed and watched.
    pub(crate) fn timed<T>(&self, actor: &Actor, operation: Operation, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        actor.doing.store(operation.number(), Ordering::Relaxed);
        actor.since.store(self.micros().max(1), Ordering::Relaxed);
        let result = work();
        actor.since.store(0, Ordering::Relaxed);
        self.tally.note(operation, begin.elapsed());
        result
    }

    /// Whether `actor` has been at one operation for longer than the contest's patience.
    pub(crate) fn is_starved(&self, actor: &Actor) -> Option<String> {
        let since = actor.since.load(Ordering::Relaxed);
        let waited = Duration::from_micros(self.micros().saturating_sub(since));
        if since == 0 || waited < self.options.patience {
            return None;
        }
        let operation = Operation::of_number(actor.doing.load(Ordering::Relaxed));
        let operation = operation.map_or("", Operation::name);
        Some(format!(
            "{} has waited {:.1} s in {operation}",
            actor.name,
            waited.as_secs_f64()
        ))
    }

    /// Notes something that happened to blocks of a file.
    pub(crate) fn note(&self, actor: &Actor, life: &Life, what: What, (first, count): (u64, u64)) {
        let owner = match life.glimpse(first) {
            Some(glimpse) => glimpse.owner(),
            None => return,
        };
        life.ring.note(Event {
            micros: self.micros(),
            what,
            actor: actor.number,
            owner,
            first,
            count,
        });
    }

    /// The result of an operation: what a full pool or too short a wait refuses is counted, and what must not fail is a finding.
    pub(crate) fn settle<T>(&self, operation: Operation, life: &Life, result: udax::Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Error::NoSpace { .. } | Error::Dax(DaxError::WouldBlock { .. } | DaxError::Wait(_))) => {
                self.tally.refuse(operation);
            }
            Err(error) => {
                let what = format!("{} of file {}: {error} ({error:?})", operation.name(), life.slot);
                self.find(Kind::Failed, what, self.history(life, None, None));
            }
        }
        None
    }

    /// Judges the bytes of a block, or of its start; whether they are right.
    pub(crate) fn judge(&self, life: &Life, block: u64, bytes: &[u8], rule: Rule, look: Look<'_>) -> bool {
        Tally::add(&self.tally.judged_blocks, 1);
        let Some(wrong) = self.stamps.judge(bytes, rule) else {
            return true;
        };
        let (kind, found) = match wrong {
            Wrong::Stray { owner, actor, word } => (
                Kind::Stray,
                format!("word {word} is of {owner}, stored by thread {actor}"),
            ),
            Wrong::Garbage { value, word } => (Kind::Garbage, format!("word {word} is {value:#018x}")),
            Wrong::Lost { word } => (Kind::Lost, format!("word {word} is zero")),
        };
        let expected = match rule {
            Rule::Owned {
                owner,
                may_be_zero: false,
            } => format!("{owner}"),
            Rule::Owned {
                owner,
                may_be_zero: true,
            } => format!("{owner}, or zeros"),
            Rule::AnyOf(_) => "any file that is changed at will".to_owned(),
        };
        let at = look.pool_block.or_else(|| pool_block(look.file?, block));
        let lies = at.map_or_else(|| "nowhere".to_owned(), |at| format!("in block {at} of the pool"));
        let what = format!(
            "{} block {block} of file {} ({}, {lies}) finds that {found}; it is of {expected}",
            look.how, life.slot, life.path
        );
        self.find(kind, what, self.history(life, Some(block), at));
        false
    }

    /// What happened last to a block.
    pub(crate) fn history(&self, life: &Life, block: Option<u64>, at: Option<u64>) -> Vec<String> {
        let events = life.ring.events().into_iter();
        let events = events.filter(|event| block.is_none_or(|block| event.concerns(block)));
        let mut lines: Vec<String> = events
            .map(|event| format!("file {}: {event}", life.slot))
            .collect();
        lines.drain(..lines.len().saturating_sub(MAX_HISTORY));
        let of_pool = at.map(|at| self.blocks.events(at)).unwrap_or_default();
        lines.extend(of_pool.iter().map(|event| format!("pool: {event}")));
        lines
    }
}

/// How somebody looked at a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'l> {
    pub(crate) how: &'l str,
    pub(crate) pool_block: Option<u64>,
    /// To ask where it is, when that is not known.
    pub(crate) file: Option<&'l File>,
}

/// The slots whose files are changed at will: every third, so that each kind meets the other's freed blocks.
fn wild_slots(files: u64) -> u64 {
    (0..files)
        .filter(|number| number % 3 == 2)
        .fold(0, |slots, number| slots | 1 << number)
}

/// Where a block of a file is in the pool.
pub(crate) fn pool_block(file: &File, block: u64) -> Option<u64> {
    let at = block * BLOCK_LEN;
    let extents = file.extents(at, 1).ok()?;
    let extent = extents.first().filter(|extent| extent.offset <= at)?;
    Some((extent.pool_offset + (at - extent.offset)) / BLOCK_LEN)
}
