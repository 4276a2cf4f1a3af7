//! Workloads by name: a name makes the same workload each time.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};
use udax::{AllocateMode, Checksums, DaxMode, NewInode, OpenFlags, Owner, XattrMode};
use udax_sync::{Mutex, Rank};
use udax_test_model::operation::{Data, FileOperation, NameOperation, NodeOperation, Operation, Text};

use crate::alphabet::{Action, actions, tree};
use crate::base::Base;
use crate::judge::emptied;
use crate::many::{Task, tasks};
use crate::record::{Act, Part, Parts, Recording, Script, Share};
use crate::shared;

/// The smallest pool, so that an image is quickly made.
const SMALL: u64 = 16 << 20;
/// What a small pool grows by.
const GROWTH: u64 = 6 << 20;
/// Of the small pool, but for some dozens of blocks.
const FILLING: u64 = 3_700 * 4096;
/// The same where there is more already: what does not fit is refused.
const PARTS: [u64; 7] = [
    3_500 * 4096,
    128 * 4096,
    64 * 4096,
    32 * 4096,
    16 * 4096,
    8 * 4096,
    4 * 4096,
];
/// What is written at once after a growth: more than a filled pool has left, also for nodes of trees.
const LARGE: usize = 64 * 4096;
/// The longest attribute that a record holds as a whole, so that few of them fill a lane.
const LARGE_RECORD: usize = 1_900;
/// Each record has two moments: an even stride would see one kind only.
const LANES_STRIDE: usize = 23;
/// Room for what random operations write.
const ROOMY: u64 = 64 << 20;
/// So small a data device that blocks which are freed are soon used again.
const SMALL_DEVICE: u64 = 1 << 20;
/// The same, where files have many blocks.
const LARGER_DEVICE: u64 = 8 << 20;
/// What a file has that is written and cut: a large part of what the filling leaves.
const REUSED: usize = 12 * 4096;
/// Of a data device, so that the filling leaves some dozens of blocks.
const FILLED_DEVICE: u64 = FILLING + 48 * 4096;

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
    /// Threads that make, link, rename and remove files and directories so many times, each of its own name, but all in
    /// one directory, whose leaves split and merge: `shared/THREADS/ROUNDS`.
    Shared {
        /// How many threads.
        threads: u64,
        /// How many times each of them does it.
        rounds: u64,
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
    /// Threads that each write a file and cut it to nothing so many times, on a pool that is almost full: the blocks
    /// that one has freed are the next that another gets. `reuse/THREADS/ROUNDS`.
    Reuse {
        /// How many threads.
        threads: u64,
        /// How many times each of them does it.
        rounds: u64,
    },
    /// These actions, on a pool that is filled and grows before the last of them, and of which a file takes some of
    /// what was added: `grow/create,append`.
    Grow(Vec<usize>),
    /// This task of [`crate::many`], on a pool of its own: `many/clone`.
    Many(usize),
    /// This one, on a pool whose files have checksums of data: `sums/ace/append`.
    Summed(Box<Self>),
    /// This one, on files in the page cache: `cached/ace/append,fsync`.
    Cached(Box<Self>),
    /// This one, on a pool with a data device: `tiered/ace/append,fsync`.
    Tiered(Box<Self>),
}

/// How the files of a pool are kept.
#[derive(Clone, Copy, Debug)]
struct Setting {
    checksums: Checksums,
    dax: DaxMode,
    place: Place,
}

/// Where the data of cached files is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    Pool,
    Device,
}

/// What tasks are done to, by the task, whether there are checksums of data, and where data is; and blocks in use.
type Setups = BTreeMap<(usize, bool, Place), (Base, u64)>;

impl Setting {
    /// A pool of `bytes`, whose data device has `device_bytes` if there is one.
    fn empty(self, bytes: u64, device_bytes: u64) -> anyhow::Result<Base> {
        match self.place {
            Place::Pool => Base::empty(bytes, self.checksums),
            Place::Device => Base::tiered(bytes, device_bytes),
        }
    }

    fn small_tree(self) -> anyhow::Result<&'static Base> {
        static PLAIN: OnceLock<Result<Base, String>> = OnceLock::new();
        static SUMMED: OnceLock<Result<Base, String>> = OnceLock::new();
        static TIERED: OnceLock<Result<Base, String>> = OnceLock::new();
        let tree_of = match (self.place, self.checksums) {
            (Place::Pool, Checksums::Off) => &PLAIN,
            (Place::Pool, Checksums::On) => &SUMMED,
            (Place::Device, _) => &TIERED,
        };
        let made = tree_of.get_or_init(|| {
            let made = self.empty(SMALL, SMALL_DEVICE);
            let made = made.and_then(|base| base.after(&tree()));
            made.map_err(|error| format!("{error:#}"))
        });
        made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// What a task is done to, and how many blocks are in use there when all is removed. Made once.
    fn setup(self, index: usize) -> anyhow::Result<(Base, u64)> {
        static MADE: OnceLock<Mutex<Setups>> = OnceLock::new();
        let made = MADE.get_or_init(|| Mutex::new(Rank::Leaf, BTreeMap::new()));
        let key = (index, self.checksums == Checksums::On, self.place);
        if let Some(found) = made.lock().get(&key) {
            return Ok(found.clone());
        }
        let setup = &task_list()[index].setup;
        let base = self.empty(SMALL, LARGER_DEVICE)?.after(setup)?;
        let used = emptied(&base.image).map_err(anyhow::Error::msg)?;
        made.lock().insert(key, (base.clone(), used));
        Ok((base, used))
    }
}

/// The tasks, made once.
pub fn task_list() -> &'static [Task] {
    static TASKS: OnceLock<Vec<Task>> = OnceLock::new();
    TASKS.get_or_init(tasks)
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
        self.record_in(Setting {
            checksums: Checksums::Off,
            dax: DaxMode::Always,
            place: Place::Pool,
        })
    }

    fn record_in(&self, setting: Setting) -> anyhow::Result<Recording> {
        match self {
            Self::Summed(inner) => {
                let checksums = Checksums::On;
                let mut recording = inner.record_in(Setting { checksums, ..setting })?;
                recording.checksums = checksums;
                Ok(recording)
            }
            // No file of the bases has the flag.
            Self::Cached(inner) => inner.record_in(Setting {
                dax: DaxMode::Inode,
                ..setting
            }),
            Self::Tiered(inner) => inner.record_in(Setting {
                dax: DaxMode::Inode,
                place: Place::Device,
                ..setting
            }),
            Self::Actions(actions) => alone(setting.small_tree()?, acts(actions), setting),
            Self::Grow(actions) => {
                let (last, first) = actions.split_last().context("no actions")?;
                let mut script = acts(first);
                script.extend(filling(&PARTS).into_iter().map(Act::Operation));
                script.push(Act::Grow(SMALL + GROWTH));
                let large = FileOperation::Append {
                    data: Data {
                        seed: 6_000_000,
                        len: LARGE,
                    },
                };
                script.extend(in_filling([large]).into_iter().map(Act::Operation));
                script.extend(acts(&[*last]));
                alone(setting.small_tree()?, script, setting)
            }
            Self::Many(index) => {
                let (base, emptied) = setting.setup(*index)?;
                let operations = task_list()[*index].operations.iter();
                let mut recording = alone(&base, operations.cloned().map(Act::Operation).collect(), setting)?;
                recording.parts = Parts::Records;
                recording.emptied = Some(emptied);
                Ok(recording)
            }
            Self::Lanes { records } => {
                let part = part("", large_records(*records));
                let mut recording = Recording::of(setting.small_tree()?, &[part], setting.dax)?;
                recording.stride = LANES_STRIDE;
                Ok(recording)
            }
            _ => self.record_by_seed(setting),
        }
    }

    /// What is done by a seed, or in threads.
    fn record_by_seed(&self, setting: Setting) -> anyhow::Result<Recording> {
        match self {
            Self::Full { seed, operations } => {
                let (seed, count) = (*seed, *operations);
                let base = setting.empty(SMALL, FILLED_DEVICE)?.after(&filling(&[FILLING]))?;
                Recording::of(&base, &[part("", Script::Random { seed, count })], setting.dax)
            }
            Self::Random { seed, operations } => {
                let (seed, count) = (*seed, *operations);
                let base = setting.empty(ROOMY, ROOMY)?;
                Recording::of(&base, &[part("", Script::Random { seed, count })], setting.dax)
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
                side_by_side(setting.empty(ROOMY, ROOMY)?, scripts, setting.dax)
            }
            Self::Shared { threads, rounds } => {
                let base = setting.empty(SMALL, SMALL_DEVICE)?;
                let base = base.after(&[make_directory(shared::DIRECTORY)])?;
                Recording::of(&base, &shared::scripts(*threads, *rounds), setting.dax)
            }
            Self::Load { threads, records } => {
                let mut scripts: Vec<Script> = (0..*threads).map(|_| own_records(*records)).collect();
                let syncs = (0..*records).map(|_| Act::Operation(Operation::Sync));
                scripts.push(Script::Fixed(syncs.collect()));
                let base = setting.empty(SMALL, SMALL_DEVICE)?;
                let mut recording = side_by_side(base, scripts, setting.dax)?;
                recording.stride = LANES_STRIDE;
                Ok(recording)
            }
            Self::Reuse { threads, rounds } => {
                let base = setting.empty(SMALL, FILLED_DEVICE)?.after(&filling(&[FILLING]))?;
                let scripts = (0..*threads)
                    .map(|thread| written_and_cut(thread, *rounds))
                    .collect();
                side_by_side(base, scripts, setting.dax)
            }
            _ => bail!("{self} has no seed"),
        }
    }

    /// Makes what it begins with, so that a fault that is injected afterwards has no part in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.prepare_in(Setting {
            checksums: Checksums::Off,
            dax: DaxMode::Always,
            place: Place::Pool,
        })
    }

    fn prepare_in(&self, setting: Setting) -> anyhow::Result<()> {
        match self {
            Self::Summed(inner) => inner.prepare_in(Setting {
                checksums: Checksums::On,
                ..setting
            }),
            Self::Cached(inner) => inner.prepare_in(setting),
            Self::Tiered(inner) => inner.prepare_in(Setting {
                place: Place::Device,
                ..setting
            }),
            Self::Many(index) => setting.setup(*index).map(drop),
            Self::Actions(_) | Self::Grow(_) | Self::Lanes { .. } => setting.small_tree().map(drop),
            _ => Ok(()),
        }
    }

    /// Whether it does the same stores each time: then a failure can be repeated exactly.
    pub fn is_deterministic(&self) -> bool {
        match self {
            Self::Summed(inner) | Self::Cached(inner) | Self::Tiered(inner) => inner.is_deterministic(),
            Self::Threads { .. } | Self::Shared { .. } | Self::Load { .. } | Self::Reuse { .. } => false,
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
            Self::Shared { .. } => "shared".to_owned(),
            Self::Full { .. } => "full".to_owned(),
            Self::Lanes { .. } => "lanes".to_owned(),
            Self::Load { .. } => "load".to_owned(),
            Self::Reuse { .. } => "reuse".to_owned(),
            Self::Grow(_) => "grow".to_owned(),
            Self::Many(_) => "many".to_owned(),
            Self::Summed(inner) => format!("sums/{}", inner.kind()),
            Self::Cached(inner) => format!("cached/{}", inner.kind()),
            Self::Tiered(inner) => format!("tiered/{}", inner.kind()),
        }
    }
}

/// These, one after the other.
fn alone(base: &Base, acts: Vec<Act>, setting: Setting) -> anyhow::Result<Recording> {
    Recording::of(base, &[part("", Script::Fixed(acts))], setting.dax)
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
    let make = |name: &String| make_directory(name);
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

fn make_directory(path: &str) -> Operation {
    Operation::Name(NameOperation::CreateDir {
        path: Text::from(path.as_bytes()),
        new: NewInode {
            permissions: 0o755,
            owner: Owner::default(),
        },
    })
}

/// Makes a directory, and sets an attribute of it again and again.
fn own_records(records: u64) -> Script {
    let make = make_directory("d");
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

/// Writes a file, and in turn cuts it to nothing and punches all of it, again and again. No two writes store the same
/// words.
fn written_and_cut(thread: u64, rounds: u64) -> Script {
    let path = || Text::from(&b"f"[..]);
    let round = |round| {
        let data = Data {
            seed: 7_000_000 + thread * 10_000 + round,
            len: REUSED,
        };
        let cut = match round % 2 {
            0 => FileOperation::Truncate { size: 0 },
            _ => FileOperation::Allocate {
                mode: AllocateMode::PunchHole,
                offset: 0,
                len: u64::try_from(REUSED).unwrap_or(0),
            },
        };
        [
            Operation::Open {
                slot: 0,
                path: path(),
                flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
                new: NewInode {
                    permissions: 0o600,
                    owner: Owner::default(),
                },
            },
            Operation::File {
                slot: 0,
                what: FileOperation::Write { offset: 0, data },
            },
            Operation::File { slot: 0, what: cut },
            Operation::Close { slot: 0 },
        ]
    };
    Script::Fixed((0..rounds).flat_map(round).map(Act::Operation).collect())
}

/// A file that leaves few blocks to others: so many bytes are allocated to it, one part after the other, where they
/// fit.
fn filling(parts: &[u64]) -> Vec<Operation> {
    let mut offset = 0;
    let allocations = parts.iter().map(|len| {
        let what = FileOperation::Allocate {
            mode: AllocateMode::Allocate,
            offset,
            len: *len,
        };
        offset += len;
        what
    });
    in_filling(allocations)
}

/// Operations on that file.
fn in_filling(what: impl IntoIterator<Item = FileOperation>) -> Vec<Operation> {
    let mut operations = vec![Operation::Open {
        slot: 0,
        path: Text::from(&b"filling"[..]),
        flags: OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE,
        new: NewInode {
            permissions: 0o600,
            owner: Owner::default(),
        },
    }];
    operations.extend(what.into_iter().map(|what| Operation::File { slot: 0, what }));
    operations.push(Operation::Close { slot: 0 });
    operations
}

fn part(directory: &str, script: Script) -> Part {
    Part {
        share: Share {
            directory: directory.to_owned(),
            ..Share::default()
        },
        script,
    }
}

/// Makes what workloads begin with, once, so that a fault that is injected afterwards has no part in it.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(workloads: &[Workload]) -> anyhow::Result<()> {
    workloads.iter().try_for_each(Workload::prepare)
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
            Self::Shared { threads, rounds } => write!(f, "shared/{threads}/{rounds}"),
            Self::Full { seed, operations } => write!(f, "full/{seed}/{operations}"),
            Self::Lanes { records } => write!(f, "lanes/{records}"),
            Self::Load { threads, records } => write!(f, "load/{threads}/{records}"),
            Self::Reuse { threads, rounds } => write!(f, "reuse/{threads}/{rounds}"),
            Self::Grow(actions) => write!(f, "grow/{}", names(actions)),
            Self::Many(index) => write!(f, "many/{}", task_list()[*index].name),
            Self::Summed(inner) => write!(f, "sums/{inner}"),
            Self::Cached(inner) => write!(f, "cached/{inner}"),
            Self::Tiered(inner) => write!(f, "tiered/{inner}"),
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
        let numbered = || numbered(kind, name, &numbers()?);
        let within = |outer: &[&str]| -> anyhow::Result<Box<Self>> {
            let twice = outer
                .iter()
                .find(|kind| rest.split('/').any(|part| part == **kind));
            ensure!(
                twice.is_none(),
                "'{name}' is {kind}/ of {}/",
                twice.unwrap_or(&"")
            );
            Ok(Box::new(rest.parse()?))
        };
        match kind {
            "ace" => Ok(Self::Actions(actions()?)),
            "grow" => Ok(Self::Grow(actions()?)),
            "many" => {
                let found = task_list().iter().position(|task| task.name == rest);
                Ok(Self::Many(
                    found.with_context(|| format!("no task is called '{rest}'"))?,
                ))
            }
            // A pool with a data device has no checksums of data.
            "sums" => Ok(Self::Summed(within(&["sums", "tiered"])?)),
            "cached" => Ok(Self::Cached(within(&["cached", "tiered"])?)),
            "tiered" => Ok(Self::Tiered(within(&["sums", "cached", "tiered"])?)),
            _ => numbered(),
        }
    }
}

/// A workload whose name is of numbers.
fn numbered(kind: &str, name: &str, numbers: &[u64]) -> anyhow::Result<Workload> {
    let operations = |count: u64| usize::try_from(count).context("operations");
    match (kind, numbers) {
        ("full", [seed, count]) => Ok(Workload::Full {
            seed: *seed,
            operations: operations(*count)?,
        }),
        ("lanes", [records]) => Ok(Workload::Lanes { records: *records }),
        ("load", [threads, records]) if (1..=64).contains(threads) => Ok(Workload::Load {
            threads: *threads,
            records: *records,
        }),
        ("reuse", [threads, rounds]) if (1..=64).contains(threads) => Ok(Workload::Reuse {
            threads: *threads,
            rounds: *rounds,
        }),
        ("shared", [threads, rounds]) if (1..=64).contains(threads) => Ok(Workload::Shared {
            threads: *threads,
            rounds: *rounds,
        }),
        ("random", [seed, count]) => Ok(Workload::Random {
            seed: *seed,
            operations: operations(*count)?,
        }),
        ("threads", [seed, threads, count]) if (1..=64).contains(threads) => Ok(Workload::Threads {
            seed: *seed,
            threads: *threads,
            operations: operations(*count)?,
        }),
        ("full" | "random", _) => bail!("'{name}' is not {kind}/SEED/OPERATIONS"),
        ("lanes", _) => bail!("'{name}' is not lanes/RECORDS"),
        ("load", _) => bail!("'{name}' is not load/THREADS/RECORDS with 1 to 64 threads"),
        ("reuse", _) => bail!("'{name}' is not reuse/THREADS/ROUNDS with 1 to 64 threads"),
        ("shared", _) => bail!("'{name}' is not shared/THREADS/ROUNDS with 1 to 64 threads"),
        ("threads", _) => bail!("'{name}' is not threads/SEED/THREADS/OPERATIONS with 1 to 64 threads"),
        _ => bail!(
            "'{kind}' is no kind of workload: there are ace, cached, full, grow, lanes, load, many, random, reuse, \
             shared, sums, threads, tiered"
        ),
    }
}
