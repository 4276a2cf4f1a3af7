//! Workloads by name: a name makes the same workload each time.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use udax::{AllocateMode, Checksums, DaxMode, NewInode, OpenFlags, Owner, XattrMode};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Text};

use crate::alphabet::{Action, actions, tree};
use crate::base::Base;
use crate::record::{Act, Part, Recording, Script};

/// The smallest pool, so that an image is quickly made.
const SMALL: u64 = 16 << 20;
/// What a small pool grows by.
const GROWTH: u64 = 6 << 20;
/// Of the small pool, but for some dozens of blocks.
const FILLING: u64 = 3_700 * 4096;
/// The longest attribute that a record holds as a whole, so that few of them fill a lane.
const LARGE_RECORD: usize = 1_900;
/// Each record has two moments: an even stride would see one kind only.
const LANES_STRIDE: usize = 23;
/// Room for what random operations write.
const ROOMY: u64 = 64 << 20;

/// What is run. Printed as one word and read back.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Workload {
    /// These actions of the alphabet, one after the other, on the small tree: `ace/create,unlink-file`.
    Actions(Vec<usize>),
    /// So many random operations from a seed, on an empty pool: `random/SEED/OPERATIONS`.
    Random {
        /// The seed.
        seed: u64,
        /// How many.
        operations: usize,
    },
    /// Threads with random operations from a seed, each in its own directory: `threads/SEED/THREADS/OPERATIONS`.
    Threads {
        /// The seed.
        seed: u64,
        /// How many threads.
        threads: u64,
        /// How many operations in each.
        operations: usize,
    },
    /// So many random operations from a seed, on a pool that is almost full: `full/SEED/OPERATIONS`.
    Full {
        /// The seed.
        seed: u64,
        /// How many.
        operations: usize,
    },
    /// So many records that the journal's lanes are used again, and checkpoints run: `lanes/RECORDS`. One in some
    /// moments is looked at.
    Lanes {
        /// How many.
        records: u64,
    },
    /// Threads that each set so many large attributes on a small pool, so that checkpoints run while others store
    /// records, and one more that only syncs: `load/THREADS/RECORDS`. One in some moments is looked at.
    Load {
        /// How many threads set attributes.
        threads: u64,
        /// How many records each of them makes.
        records: u64,
    },
    /// These actions, on a pool that grows before the last of them: `grow/create,append`.
    Grow(Vec<usize>),
    /// This one, on a pool whose files have checksums of data: `sums/ace/append`.
    Summed(Box<Self>),
    /// This one, on files in the page cache: `cached/ace/append,fsync`.
    Cached(Box<Self>),
}

/// The alphabet, made once.
pub fn alphabet() -> &'static [Action] {
    static ALPHABET: OnceLock<Vec<Action>> = OnceLock::new();
    ALPHABET.get_or_init(actions)
}

impl Workload {
    /// Runs it.
    ///
    /// # Errors
    /// When an operation gives something else than the model says.
    pub fn record(&self) -> anyhow::Result<Recording> {
        self.record_with(Checksums::Off, DaxMode::Always)
    }

    fn record_with(&self, checksums: Checksums, dax: DaxMode) -> anyhow::Result<Recording> {
        match self {
            Self::Summed(inner) => {
                let mut recording = inner.record_with(Checksums::On, dax)?;
                recording.checksums = Checksums::On;
                Ok(recording)
            }
            // No file of the bases has the flag.
            Self::Cached(inner) => inner.record_with(checksums, DaxMode::Inode),
            Self::Actions(actions) => Recording::of(
                small_tree(checksums)?,
                &[part("", Script::Fixed(acts(actions)))],
                dax,
            ),
            Self::Grow(actions) => {
                let (last, first) = actions.split_last().context("no actions")?;
                let mut script = acts(first);
                script.push(Act::Grow(SMALL + GROWTH));
                script.extend(acts(&[*last]));
                Recording::of(small_tree(checksums)?, &[part("", Script::Fixed(script))], dax)
            }
            Self::Full { seed, operations } => {
                let (seed, count) = (*seed, *operations);
                let base = Base::empty(SMALL, checksums)?.after(&filling())?;
                Recording::of(&base, &[part("", Script::Random { seed, count })], dax)
            }
            Self::Lanes { records } => {
                let tree = small_tree(checksums)?;
                let mut recording = Recording::of(tree, &[part("", large_records(*records))], dax)?;
                recording.stride = LANES_STRIDE;
                Ok(recording)
            }
            Self::Random { seed, operations } => {
                let (seed, count) = (*seed, *operations);
                let base = Base::empty(ROOMY, checksums)?;
                Recording::of(&base, &[part("", Script::Random { seed, count })], dax)
            }
            Self::Threads {
                seed,
                threads,
                operations,
            } => {
                let count = *operations;
                let script = |thread| Script::Random {
                    seed: seed.wrapping_mul(1000).wrapping_add(thread),
                    count,
                };
                let scripts = (0..*threads).map(script).collect();
                side_by_side(Base::empty(ROOMY, checksums)?, scripts, dax)
            }
            Self::Load { threads, records } => {
                let mut scripts: Vec<Script> = (0..*threads).map(|_| own_records(*records)).collect();
                let syncs = (0..*records).map(|_| Act::Operation(Operation::Sync));
                scripts.push(Script::Fixed(syncs.collect()));
                let mut recording = side_by_side(Base::empty(SMALL, checksums)?, scripts, dax)?;
                recording.stride = LANES_STRIDE;
                Ok(recording)
            }
        }
    }

    /// Whether it does the same stores each time: then a failure can be repeated exactly.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Self::Summed(inner) | Self::Cached(inner) => inner.is_deterministic(),
            Self::Threads { .. } | Self::Load { .. } => false,
            _ => true,
        }
    }

    /// What it has in common with others: what is done, and on which files.
    pub fn kind(&self) -> String {
        match self {
            Self::Actions(actions) => match actions.len() {
                1 => "single".to_owned(),
                2 => "pair".to_owned(),
                _ => "sequence".to_owned(),
            },
            Self::Random { .. } => "random".to_owned(),
            Self::Threads { .. } => "threads".to_owned(),
            Self::Full { .. } => "full".to_owned(),
            Self::Lanes { .. } => "lanes".to_owned(),
            Self::Load { .. } => "load".to_owned(),
            Self::Grow(_) => "grow".to_owned(),
            Self::Summed(inner) => format!("sums/{}", inner.kind()),
            Self::Cached(inner) => format!("cached/{}", inner.kind()),
        }
    }
}

fn acts(actions: &[usize]) -> Vec<Act> {
    let operations = actions
        .iter()
        .flat_map(|index| alphabet()[*index].operations.clone());
    operations.map(Act::Operation).collect()
}

/// Each script in a thread and a directory of its own.
fn side_by_side(base: Base, scripts: Vec<Script>, dax: DaxMode) -> anyhow::Result<Recording> {
    let names: Vec<String> = (0..scripts.len()).map(|thread| format!("t{thread}")).collect();
    let make = |name: &String| {
        Operation::Name(NameOperation::CreateDir {
            path: Text::from(name.as_bytes()),
            new: NewInode {
                permissions: 0o755,
                owner: Owner::default(),
            },
        })
    };
    let base = base.after(&names.iter().map(make).collect::<Vec<_>>())?;
    let parts = names.iter().zip(scripts).map(|(name, script)| part(name, script));
    Recording::of(&base, &parts.collect::<Vec<_>>(), dax)
}

/// Sets an attribute again and again, of two files in turn.
fn large_records(records: u64) -> Script {
    let set = |record: u64| {
        let path = if record.is_multiple_of(3) { "A/f" } else { "A/e" };
        large_record(path, record)
    };
    Script::Fixed((0..records).map(set).collect())
}

/// Makes a directory, and sets an attribute of it again and again.
fn own_records(records: u64) -> Script {
    let make = Operation::Name(NameOperation::CreateDir {
        path: Text::from(&b"d"[..]),
        new: NewInode {
            permissions: 0o755,
            owner: Owner::default(),
        },
    });
    let set = |record| large_record("d", record);
    let acts = std::iter::once(Act::Operation(make)).chain((0..records).map(set));
    Script::Fixed(acts.collect())
}

fn large_record(path: &str, seed: u64) -> Act {
    let what = NodeOperation::SetXattr {
        name: Text::from(&b"user.x"[..]),
        value: Data {
            seed,
            len: LARGE_RECORD,
        },
        mode: XattrMode::Either,
    };
    Act::Operation(Operation::Node {
        path: Text::from(path.as_bytes()),
        what,
    })
}

/// A file that leaves few blocks to others.
fn filling() -> Vec<Operation> {
    let file = |what| Operation::File { slot: 0, what };
    vec![
        Operation::Open {
            slot: 0,
            path: Text::from(&b"filling"[..]),
            flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
            new: NewInode {
                permissions: 0o600,
                owner: Owner::default(),
            },
        },
        file(FileOperation::Allocate {
            mode: AllocateMode::Allocate,
            offset: 0,
            len: FILLING,
        }),
        Operation::Close { slot: 0 },
    ]
}

fn part(directory: &str, script: Script) -> Part {
    Part {
        directory: directory.to_owned(),
        script,
    }
}

/// Makes what workloads begin with, so that a fault that is injected afterwards has no part in it.
///
/// # Errors
/// When it cannot be made.
pub fn prepare() -> anyhow::Result<()> {
    small_tree(Checksums::Off)?;
    small_tree(Checksums::On)?;
    Ok(())
}

fn small_tree(checksums: Checksums) -> anyhow::Result<&'static Base> {
    static PLAIN: OnceLock<Result<Base, String>> = OnceLock::new();
    static SUMMED: OnceLock<Result<Base, String>> = OnceLock::new();
    let tree_of = match checksums {
        Checksums::Off => &PLAIN,
        Checksums::On => &SUMMED,
    };
    let made = tree_of.get_or_init(|| {
        let made = Base::empty(SMALL, checksums).and_then(|base| base.after(&tree()));
        made.map_err(|error| format!("{error:#}"))
    });
    made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actions(actions) => write!(f, "ace/{}", names(actions)),
            Self::Random { seed, operations } => write!(f, "random/{seed}/{operations}"),
            Self::Threads {
                seed,
                threads,
                operations,
            } => write!(f, "threads/{seed}/{threads}/{operations}"),
            Self::Full { seed, operations } => write!(f, "full/{seed}/{operations}"),
            Self::Lanes { records } => write!(f, "lanes/{records}"),
            Self::Load { threads, records } => write!(f, "load/{threads}/{records}"),
            Self::Grow(actions) => write!(f, "grow/{}", names(actions)),
            Self::Summed(inner) => write!(f, "sums/{inner}"),
            Self::Cached(inner) => write!(f, "cached/{inner}"),
        }
    }
}

fn names(actions: &[usize]) -> String {
    let names: Vec<&str> = actions.iter().map(|index| alphabet()[*index].name).collect();
    names.join(",")
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let (kind, rest) = name
            .split_once('/')
            .with_context(|| format!("'{name}' names no workload"))?;
        let numbers = || -> anyhow::Result<Vec<u64>> {
            let parts = rest.split('/');
            parts
                .map(|part| {
                    part.parse()
                        .with_context(|| format!("'{part}' of '{name}' is no number"))
                })
                .collect()
        };
        let actions = || -> anyhow::Result<Vec<usize>> {
            let index = |word: &str| {
                let found = alphabet().iter().position(|action| action.name == word);
                found.with_context(|| format!("no action is called '{word}'"))
            };
            rest.split(',').map(index).collect()
        };
        match kind {
            "ace" => Ok(Self::Actions(actions()?)),
            "grow" => Ok(Self::Grow(actions()?)),
            "sums" if !rest.contains("sums/") => Ok(Self::Summed(Box::new(rest.parse()?))),
            "cached" if !rest.contains("cached/") => Ok(Self::Cached(Box::new(rest.parse()?))),
            "full" => {
                let [seed, operations] = numbers()?[..] else {
                    bail!("'{name}' is not full/SEED/OPERATIONS");
                };
                let operations = usize::try_from(operations)?;
                Ok(Self::Full { seed, operations })
            }
            "lanes" => {
                let [records] = numbers()?[..] else {
                    bail!("'{name}' is not lanes/RECORDS");
                };
                Ok(Self::Lanes { records })
            }
            "load" => {
                let [threads, records] = numbers()?[..] else {
                    bail!("'{name}' is not load/THREADS/RECORDS");
                };
                ensure!((1..=64).contains(&threads), "there are 1 to 64 threads");
                Ok(Self::Load { threads, records })
            }
            "random" => {
                let [seed, operations] = numbers()?[..] else {
                    bail!("'{name}' is not random/SEED/OPERATIONS");
                };
                let operations = usize::try_from(operations)?;
                Ok(Self::Random { seed, operations })
            }
            "threads" => {
                let [seed, threads, operations] = numbers()?[..] else {
                    bail!("'{name}' is not threads/SEED/THREADS/OPERATIONS");
                };
                ensure!((1..=64).contains(&threads), "there are 1 to 64 threads");
                let operations = usize::try_from(operations)?;
                Ok(Self::Threads {
                    seed,
                    threads,
                    operations,
                })
            }
            _ => bail!(
                "'{kind}' is no kind of workload: there are ace, cached, full, grow, lanes, load, random, sums, \
                 threads"
            ),
        }
    }
}
