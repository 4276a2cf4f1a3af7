//! Sequences on a pool and on the model, with remounts, crashes and checks.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use rand::RngCore;
use udax::{AllocateMode, FileKind, Owner, Timestamp};

use crate::compare::{Comparer, Scope, Times};
use crate::generate::{Generator, Profile, TOO_MUCH};
use crate::kernel::Kernel;
use crate::model::{Expected, Model, Moment};
use crate::operation::{FileOperation, NameOperation, NodeOperation, Operation, Outcome, Reply, Text};
use crate::pool::{Files, Pool, Target, data_device};
use crate::verify::verify;

/// The most operations of a failing sequence that are printed.
const SHOWN: usize = 200;
/// Operations between two remounts.
const REMOUNT_EVERY: usize = 9_973;
/// Operations between two crashes.
const CRASH_EVERY: usize = 7_001;
/// A pool of this many bytes or fewer gets full.
const SMALL_POOL: u64 = 64 << 20;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the pool's file is made.
    pub pool: PathBuf,
    /// Bytes of the pool. In a small one operations may fail with `ENOSPC`, and then must change nothing.
    pub pool_bytes: u64,
    /// How the data of its files is kept.
    pub files: Files,
    /// Seed of the operations.
    pub seed: u64,
    /// How many.
    pub operations: usize,
}

/// A difference between the pool and the model.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The operations up to the one that showed the difference.
    pub trace: Vec<Operation>,
    /// The difference.
    pub difference: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operation {}: {}", self.trace.len(), self.difference)?;
        let shown = self.trace.len().saturating_sub(SHOWN);
        if shown > 0 {
            writeln!(f, "  ({shown} operations before)")?;
        }
        for operation in self.trace.iter().skip(shown) {
            writeln!(f, "  {operation:?}")?;
        }
        Ok(())
    }
}

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Operations done.
    pub operations: usize,
    /// Those among them that succeeded.
    pub successes: usize,
    /// Those that found the pool full.
    pub full: usize,
}

impl Plan {
    /// Runs the plan's operations.
    ///
    /// # Errors
    /// The first difference, with all operations that led to it.
    pub fn run(&self) -> Result<Summary, Box<Failure>> {
        self.run_from(Generator::new(self.seed, Profile::Whole))
    }

    /// Runs as many operations of `generator`, whatever the seed is.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn run_from<R: RngCore>(&self, mut generator: Generator<R>) -> Result<Summary, Box<Failure>> {
        let mut trace = Vec::with_capacity(self.operations);
        let mut summary = Summary::default();
        let result = self.start().and_then(|mut session| {
            for index in 1..=self.operations {
                let operation = if index % REMOUNT_EVERY == 0 || index == self.operations {
                    Operation::Remount
                } else if index % CRASH_EVERY == 0 {
                    Operation::Crash
                } else {
                    generator.next(&session.model)
                };
                trace.push(operation.clone());
                session.step(&operation, &mut summary)?;
            }
            Ok(())
        });
        match result {
            Ok(()) => Ok(summary),
            Err(difference) => Err(Box::new(Failure { trace, difference })),
        }
    }

    /// Runs these operations on a new pool; the difference, if there is one.
    pub fn replay(&self, operations: &[Operation]) -> Option<String> {
        let mut summary = Summary::default();
        let result = self.start().and_then(|mut session| {
            operations
                .iter()
                .try_for_each(|operation| session.step(operation, &mut summary))
        });
        result.err()
    }

    fn start(&self) -> Result<Session<Pool>, String> {
        let before = now();
        let pool = Pool::create_with(&self.pool, self.pool_bytes, self.files)
            .map_err(|error| format!("{error:#}"))?;
        let is_small = self.pool_bytes <= SMALL_POOL;
        let model = Model::new(0o755, Owner::default(), since(before));
        Ok(Session {
            target: pool,
            model,
            comparer: Comparer::new(Times::Compared, Scope::Whole),
            is_small,
        })
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // What was never made needs no removal.
        let _ = std::fs::remove_file(&self.pool);
        if self.files == Files::Tiered {
            let _ = std::fs::remove_file(data_device(&self.pool));
        }
    }
}

/// A target and a model that go on together.
#[derive(Debug)]
pub struct Session<T> {
    /// What the operations are done on.
    pub target: T,
    /// What they should do.
    pub model: Model,
    /// What was learned.
    pub comparer: Comparer,
    /// Whether the target may be full at any time.
    pub is_small: bool,
}

impl Session<Pool> {
    fn step(&mut self, operation: &Operation, summary: &mut Summary) -> Result<(), String> {
        match operation {
            Operation::Remount => self
                .target
                .remount()
                .map_err(|error| format!("remount: {error:#}"))?,
            Operation::Crash => {
                self.target.crash().map_err(|error| format!("crash: {error:#}"))?;
                self.comparer.forget_changes();
            }
            _ => return self.apply(operation, summary),
        }
        summary.operations += 1;
        let _ = self.model.apply(operation, since(now()));
        verify(&mut self.target, &mut self.model, None, &mut self.comparer)
    }
}

impl<T: Target> Session<T> {
    /// Does one operation on both and compares.
    ///
    /// # Errors
    /// The difference.
    pub fn apply(&mut self, operation: &Operation, summary: &mut Summary) -> Result<(), String> {
        let before = now();
        let found = self.target.apply(operation);
        summary.operations += 1;
        summary.successes += usize::from(found.is_ok());
        if found == Err(Errno::ENOSPC) && self.may_be_full(operation) {
            summary.full += 1;
            if let Operation::Open { slot, .. } = operation {
                // What was open in the slot is closed all the same.
                let _ = self.model.apply(&Operation::Close { slot: *slot }, since(before));
            }
            return Ok(());
        }
        if found == Err(Errno::EINVAL) && self.is_small && operation.is_atomic_write() {
            // Free space may be too scattered for it.
            return Ok(());
        }
        let is_remap = matches!(operation, Operation::Remap { .. });
        if found == Err(Errno::EOPNOTSUPP) && is_remap && self.target.has_two_places() {
            return Ok(());
        }
        if found == Err(Errno::EOPNOTSUPP) && sets_permissions(operation) {
            // chmod(2) of a symbolic link may be refused or done; on anything else the model knows better.
            return self.compare_refused_chmod(operation);
        }
        let done = if self.is_small {
            shortened(operation, &found)
        } else {
            operation.clone()
        };
        let expected = self.model.apply(&done, since(before));
        if expected.is_err() && found.is_err() && ends_with_slash(operation) {
            return Ok(());
        }
        self.comparer.compare(&mut self.model, &expected, &found)
    }

    fn compare_refused_chmod(&self, operation: &Operation) -> Result<(), String> {
        let expected = self.model.clone().apply(operation, since(now()));
        match expected {
            Ok(Expected::Inode(id)) if self.model.inode(id).body.kind() == FileKind::Symlink => Ok(()),
            expected => Err(format!("EOPNOTSUPP instead of {expected:?}")),
        }
    }

    fn may_be_full(&self, operation: &Operation) -> bool {
        if let Operation::File {
            what: FileOperation::Allocate { mode, len, .. },
            ..
        } = operation
            && *len >= TOO_MUCH
        {
            return !matches!(mode, AllocateMode::PunchHole | AllocateMode::Collapse);
        }
        // What only removes, reads or closes must work on a full pool.
        let needs_space = match operation {
            Operation::File { what, .. } => !matches!(
                what,
                FileOperation::Read { .. }
                    | FileOperation::ReadVectored { .. }
                    | FileOperation::SeekData { .. }
                    | FileOperation::SeekHole { .. }
                    | FileOperation::Stat
                    | FileOperation::ReadDirectory { .. }
                    | FileOperation::StreamDirectory { .. }
                    | FileOperation::Xattr { .. }
                    | FileOperation::Sync
            ),
            Operation::Name(what) => !matches!(
                what,
                NameOperation::Unlink { .. } | NameOperation::RemoveDir { .. }
            ),
            Operation::Node { what, .. } => {
                matches!(
                    what,
                    NodeOperation::SetXattr { .. } | NodeOperation::Truncate { .. }
                )
            }
            Operation::Open { .. } | Operation::CopyRange { .. } | Operation::Remap { .. } => true,
            Operation::Close { .. } | Operation::Sync | Operation::Remount | Operation::Crash => false,
        };
        self.is_small && needs_space
    }
}

/// Whether a path ends with a slash. POSIX would then follow a link at its end, which Linux does not where names
/// are made or removed: errors differ, and not every error can be told to be right.
pub(crate) fn ends_with_slash(operation: &Operation) -> bool {
    let paths: Vec<&Text> = match operation {
        Operation::Open { path, .. } => vec![path],
        Operation::Name(what) => match what {
            NameOperation::Rename { from, to, .. } => vec![from, to],
            NameOperation::Link { existing, new } => vec![existing, new],
            NameOperation::CreateDir { path, .. }
            | NameOperation::RemoveDir { path }
            | NameOperation::Unlink { path }
            | NameOperation::Symlink { path, .. }
            | NameOperation::MakeNode { path, .. } => vec![path],
        },
        Operation::File {
            what: FileOperation::Link { path },
            ..
        } => vec![path],
        _ => Vec::new(),
    };
    paths.iter().any(|path| path.0.ends_with(b"/"))
}

/// Whether the error with this number says that the operation was refused as it may be, and changed nothing: more was
/// to be allocated than there is, or permissions of a symbolic link were to be set.
pub(crate) fn is_refused(operation: &Operation, errno: i32) -> bool {
    match Errno::from_raw(errno) {
        Errno::ENOSPC => matches!(
            operation,
            Operation::File { what: FileOperation::Allocate { len, .. }, .. } if *len >= TOO_MUCH
        ),
        Errno::EOPNOTSUPP => sets_permissions(operation),
        _ => false,
    }
}

fn sets_permissions(operation: &Operation) -> bool {
    let set = match operation {
        Operation::File {
            what: FileOperation::SetAttributes(set),
            ..
        }
        | Operation::Node {
            what: NodeOperation::SetAttributes(set),
            ..
        } => set,
        _ => return false,
    };
    set.permissions.is_some()
}

/// The operation as far as it was done on a full pool: fewer bytes may be written than asked (POSIX write).
fn shortened(operation: &Operation, found: &Outcome) -> Operation {
    let Ok(Reply::Count(count)) = found else {
        return operation.clone();
    };
    let len = usize::try_from(*count).unwrap_or(usize::MAX);
    match operation.clone() {
        Operation::File { slot, mut what } if len > 0 => {
            match &mut what {
                FileOperation::Write { data, .. }
                | FileOperation::WriteWith { data, .. }
                | FileOperation::SyncPinned { data, .. }
                | FileOperation::StorePinned { data, .. } => data.len = data.len.min(len),
                FileOperation::WriteVectored { parts, .. } => {
                    let mut left = len;
                    for part in parts {
                        part.len = part.len.min(left);
                        left -= part.len;
                    }
                }
                _ => {}
            }
            Operation::File { slot, what }
        }
        Operation::CopyRange {
            from,
            offset,
            to,
            to_offset,
            len,
        } if *count > 0 => Operation::CopyRange {
            from,
            offset,
            to,
            to_offset,
            len: len.min(*count),
        },
        other => other,
    }
}

/// The present, as the clock tells it that stamps inodes: it lags, by a tick and more on a busy machine.
///
/// # Panics
/// When the system has no clock.
pub fn now() -> Timestamp {
    read(ClockId::CLOCK_REALTIME_COARSE)
}

fn read(clock: ClockId) -> Timestamp {
    let time = clock_gettime(clock).expect("the clock can be read");
    Timestamp {
        seconds: time.tv_sec(),
        nanoseconds: u32::try_from(time.tv_nsec()).unwrap_or(0),
    }
}

/// From `earliest`, which [`now`] gave, to the present, by the precise clock: a kernel may stamp with that too.
pub fn since(earliest: Timestamp) -> Moment {
    Moment {
        earliest,
        latest: read(ClockId::CLOCK_REALTIME),
    }
}

/// Does `operations` random operations in the empty directory `base` of the kernel's file system: when it differs from
/// the model, the model is wrong, or the kernel does more than POSIX asks.
///
/// # Errors
/// The first difference, with all operations that led to it.
pub fn judge_model(base: &Path, seed: u64, operations: usize) -> Result<Summary, Box<Failure>> {
    let mut generator = Generator::new(seed, Profile::Confined);
    let mut session = Session::of_kernel(base);
    let mut summary = Summary::default();
    let mut trace = Vec::with_capacity(operations);
    for index in 1..=operations {
        let is_end = index % REMOUNT_EVERY == 0 || index == operations;
        let operation = if is_end {
            Operation::Remount
        } else {
            generator.next(&session.model)
        };
        trace.push(operation.clone());
        if let Err(difference) = session.step_on_kernel(&operation, &mut summary) {
            return Err(Box::new(Failure { trace, difference }));
        }
    }
    Ok(summary)
}

/// Does these operations in the empty directory `base`; the difference, if there is one.
pub fn replay_on_kernel(base: &Path, operations: &[Operation]) -> Option<String> {
    let mut session = Session::of_kernel(base);
    let mut summary = Summary::default();
    let mut steps = operations.iter();
    steps
        .try_for_each(|operation| session.step_on_kernel(operation, &mut summary))
        .err()
}

impl Session<Kernel> {
    fn of_kernel(base: &Path) -> Self {
        Self {
            target: Kernel::new(base),
            model: Model::new(0o755, Owner::default(), since(now())),
            comparer: Comparer::new(Times::Compared, Scope::Subtree).with_loose_holes(),
            is_small: false,
        }
    }

    fn step_on_kernel(&mut self, operation: &Operation, summary: &mut Summary) -> Result<(), String> {
        let successes = summary.successes;
        self.apply(operation, summary)?;
        if let Operation::File {
            slot,
            what: FileOperation::Allocate { .. },
        } = operation
            && summary.successes == successes
        {
            self.model.forgive_stamp(*slot);
        }
        if *operation == Operation::Remount {
            verify(&mut self.target, &mut self.model, None, &mut self.comparer)?;
        }
        Ok(())
    }
}

/// A file for a pool in memory where that is possible, unique to this process and `name`.
pub fn pool_path(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    directory.join(format!("udax-{name}-{}.pool", std::process::id()))
}
