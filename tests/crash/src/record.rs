//! Runs operations on a recorded pool, and keeps the trace and what each operation promised.

use std::fmt;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow, bail};
use udax::{Checksums, DaxMode, Filesystem, MountOptions};
use udax_crash::{Happened, Image, Trace};
use udax_test_model::generate::{Generator, Profile};
use udax_test_model::model::Model;
use udax_test_model::operation::Operation;
use udax_test_model::run::Summary;

use crate::base::{Base, State, data_source, session};
use crate::cached::{Kept, Places, kept};

/// Bytes of the page cache that may be dirty.
const DIRTY_BYTES: u64 = 64 << 10;

/// Where the operations of a thread come from.
#[derive(Clone, Debug)]
pub enum Script {
    /// These.
    Fixed(Vec<Act>),
    /// So many, from this seed.
    Random {
        /// The seed.
        seed: u64,
        /// How many.
        count: usize,
    },
}

/// One thing that is done.
#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    /// To the tree.
    Operation(Operation),
    /// To the pool: it gets so many bytes. The tree stays as it is.
    Grow(u64),
}

/// What of the tree is a thread's: nobody else does anything to it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// A directory; empty for all of the pool.
    pub directory: String,
    /// What its names there begin with, where others have names in the directory too.
    pub names: String,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, names } = self;
        match names.is_empty() {
            true => write!(f, "/{directory}"),
            false => write!(f, "/{directory}/{names}*"),
        }
    }
}

/// A thread's part.
#[derive(Clone, Debug)]
pub struct Part {
    /// What is its.
    pub share: Share,
    /// What is done there.
    pub script: Script,
}

/// An operation that was done, between two moments of the trace.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub act: Act,
    /// Events before it began.
    pub began: usize,
    /// Events when it had returned: from then on `after` is promised.
    pub returned: usize,
    /// What is there after it.
    pub after: Arc<State>,
    /// What of files in the page cache it has made durable.
    pub kept: Vec<Kept>,
}

/// What one thread did.
#[derive(Clone, Debug)]
pub struct Lane {
    /// What is its.
    pub share: Share,
    /// What was there before.
    pub before: Arc<State>,
    /// In order.
    pub steps: Vec<Step>,
}

/// A workload that was run.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The medium before the trace.
    pub base: Image,
    /// All events, from the opening of the pool on.
    pub events: Vec<Happened>,
    /// What each thread did.
    pub lanes: Vec<Lane>,
    /// Of so many moments one is looked at.
    pub stride: usize,
    /// Whether the pool's files have checksums of data: then their writes are atomic.
    pub checksums: Checksums,
    /// How files are reached.
    pub dax: DaxMode,
    /// Whether operations may be of so many records that a part of one is seen.
    pub parts: Parts,
    /// Blocks in use when all has been removed, where that is known.
    pub emptied: Option<u64>,
}

/// Whether a power failure may leave a part of an operation that is no overwrite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parts {
    /// No: each is one record.
    None,
    /// What takes several records may be there in part, as far as docs/crash-consistency.md says.
    Records,
}

impl Recording {
    /// Runs `parts`, each in a thread of its own if there are several, with files reached as `dax` says.
    ///
    /// # Errors
    /// When an operation gives something else than the model says, or the pool cannot be opened or closed.
    pub fn of(base: &Base, parts: &[Part], dax: DaxMode) -> anyhow::Result<Self> {
        let (region, trace) = base.image.recorded_with_device()?;
        let options = MountOptions {
            // Whether a read stamps depends on the clock: alone, a workload stores the same each time without.
            no_atime: parts.len() == 1,
            dax,
            // So is what a flusher writes. So little may be dirty that writers must write.
            no_flusher: parts.len() == 1,
            cache_bytes: 1 << 20,
            dirty_bytes: DIRTY_BYTES,
            data: data_source(&base.image, &trace),
            ..MountOptions::default()
        };
        let filesystem = Filesystem::open_region(region, &options)?;
        let lanes = match parts {
            [one] => vec![lane(&filesystem, &trace, one, base)?],
            several => thread::scope(|scope| {
                let threads: Vec<_> = several
                    .iter()
                    .map(|part| scope.spawn(|| lane(&filesystem, &trace, part, base)))
                    .collect();
                let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<Lane>>| {
                    thread
                        .join()
                        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
                };
                threads.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
            })?,
        };
        filesystem.close().context("close")?;
        Ok(Self {
            base: base.image.clone(),
            events: trace.take(),
            lanes,
            stride: 1,
            checksums: Checksums::Off,
            dax,
            parts: Parts::None,
            emptied: None,
        })
    }
}

fn lane(filesystem: &Filesystem, trace: &Trace, part: &Part, base: &Base) -> anyhow::Result<Lane> {
    let state = match part.share.directory.is_empty() {
        true => base.state.clone(),
        false => base.nothing_of(&part.share),
    };
    let before = Arc::new(state.clone());
    let mut session = session(filesystem.clone(), &part.share, state);
    let mut script = part.script.operations();
    let mut summary = Summary::default();
    let mut steps = Vec::new();
    while let Some(act) = script.next(&session.model) {
        let began = trace.len();
        let (tree, successes) = (session.model.clone(), summary.successes);
        let result = match &act {
            Act::Operation(operation) => session.apply(operation, &mut summary),
            Act::Grow(bytes) => filesystem.grow(*bytes).map_err(|error| error.to_string()),
        };
        result.map_err(|error| anyhow!("step {}, {act:?}: {error}", steps.len()))?;
        let returned = trace.len();
        let after = State {
            model: session.model.clone(),
            comparer: session.comparer.clone(),
        };
        let kept = match &act {
            Act::Operation(operation) if summary.successes > successes => {
                let places = Places {
                    is_dax: |slot| session.target.is_dax(slot),
                    has_device: base.image.device_len() > 0,
                };
                kept(operation, &tree, &after.model, places)
            }
            _ => Vec::new(),
        };
        steps.push(Step {
            act,
            began,
            returned,
            after: Arc::new(after),
            kept,
        });
    }
    if steps.is_empty() {
        bail!("there is nothing to do");
    }
    Ok(Lane {
        share: part.share.clone(),
        before,
        steps,
    })
}

/// What is left of a script.
#[derive(Debug)]
enum Operations {
    Fixed(std::vec::IntoIter<Act>),
    Random(Generator, usize),
}

impl Script {
    fn operations(&self) -> Operations {
        match self {
            Self::Fixed(acts) => Operations::Fixed(acts.clone().into_iter()),
            Self::Random { seed, count } => {
                Operations::Random(Generator::new(*seed, Profile::Beneath), *count)
            }
        }
    }
}

impl Operations {
    fn next(&mut self, model: &Model) -> Option<Act> {
        match self {
            Self::Fixed(acts) => acts.next(),
            Self::Random(generator, left) => {
                *left = left.checked_sub(1)?;
                Some(Act::Operation(generator.next(model)))
            }
        }
    }
}
