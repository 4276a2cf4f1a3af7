//! What all threads of a contest share: [`Contest`], and how it begins and ends.
//!
//! Locks: each slot's `current` is a leaf. No lock is held over an operation of the filesystem: what
//! threads must know of each other is in atomics.

use std::ops::Deref;
use std::sync::Arc;

use udax::{CacheError, DaxError, DirEntry, Error, File, Filesystem, NewInode, OpenFlags};
use udax_sync::atomic::{AtomicU64, Ordering};

use crate::cache_watch::CacheWatch;
use crate::history::{Event, What};
use crate::life::{Discipline, Life, OpenLife, Slot};
use crate::options::{Options, StressError, Ways, Witness};
use crate::pool_blocks::PoolBlocks;
use crate::referee::{Actor, Referee};
use crate::report::Kind;
use crate::stamp::{BLOCK_LEN, MAX_BLOCKS, Rule};
use crate::tally::{Operation, Tally};

/// The directory of the contest's files.
const DIRECTORY: &str = "/udax-stress";
/// Bytes that a file never has, also not one that several threads add to before one sees that it is large enough.
const TOO_LARGE: u64 = 4 * MAX_BLOCKS * BLOCK_LEN;
/// Lines of history in a finding.
const MAX_HISTORY: usize = 24;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) filesystem: Filesystem,
    referee: Referee,
    pub(crate) slots: Vec<Slot>,
    pub(crate) blocks: PoolBlocks,
    pub(crate) cache: CacheWatch,
    lives: AtomicU64,
}

impl Deref for Contest {
    type Target = Referee;

    fn deref(&self) -> &Referee {
        &self.referee
    }
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
            referee: Referee::new(options),
            slots: (0..options.files).map(slot).collect(),
            blocks: PoolBlocks::new(watched),
            // And the filesystem's own, which writes back.
            cache: CacheWatch::new(filesystem, options.engines + options.threads + 1),
            lives: AtomicU64::new(0),
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
        let direct = match self.options.ways {
            Ways::AsOpened => None,
            Ways::Switched => Some(self.open_direct(&path)?),
        };
        let life = Arc::new(Life::new(id, slot, path));
        Ok(Arc::new(OpenLife { life, file, direct }))
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

    fn open_direct(&self, path: &str) -> udax::Result<File> {
        let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::DIRECT;
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

    /// The result of an operation: what a full pool, a failing data device or too short a wait refuses is counted, and
    /// what must not fail is a finding.
    pub(crate) fn settle<T>(&self, operation: Operation, life: &Life, result: udax::Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(Error::NoSpace { .. } | Error::Dax(DaxError::WouldBlock { .. } | DaxError::Wait(_))) => {
                self.tally.refuse(operation);
            }
            // A pin of a file that is cached at this moment; a clone that would leave blocks where they may not be.
            Err(Error::NotSupported(_)) if self.options.ways == Ways::Switched => {
                self.tally.refuse(operation);
            }
            Err(error) if self.options.failing.is_some() && is_of_device(&error) => {
                self.tally.refuse(operation);
                Tally::add(&self.tally.refused_by_device, 1);
            }
            Err(error) => {
                let kind = match error {
                    Error::Corrupt(_) | Error::Inconsistent { .. } => Kind::Corrupt,
                    _ => Kind::Failed,
                };
                let what = format!("{} of file {}: {error} ({error:?})", operation.name(), life.slot);
                self.find(kind, what, self.history(life, None, None));
            }
        }
        None
    }

    /// Bytes of a file; 0 when that cannot be, since who went by it would not come to an end.
    pub(crate) fn size_of(&self, life: &OpenLife) -> u64 {
        let size = self
            .settle(Operation::Read, life, life.file.stat())
            .map_or(0, |stat| stat.size);
        if size < TOO_LARGE {
            return size;
        }
        let what = format!("file {} ({}) has a size of {size} bytes", life.slot, life.path);
        self.find(Kind::Corrupt, what, self.history(life, None, None));
        0
    }

    /// Judges the bytes of a block, or of its start; whether they are right.
    pub(crate) fn judge(&self, life: &Life, block: u64, bytes: &[u8], rule: Rule, look: Look<'_>) -> bool {
        let Some((kind, found)) = self.look(bytes, rule) else {
            return true;
        };
        let at = look.pool_block.or_else(|| pool_block(look.file?, block));
        let lies = at.map_or_else(|| "nowhere".to_owned(), |at| format!("in block {at} of the pool"));
        let what = format!(
            "{} block {block} of file {} ({}, {lies}) finds that {found}",
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

/// Whether the data device has failed: now, or when something was written back before.
fn is_of_device(error: &Error) -> bool {
    matches!(
        error,
        Error::Disk(_) | Error::Cache(CacheError::Backing(_) | CacheError::WriteBack { .. })
    )
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
