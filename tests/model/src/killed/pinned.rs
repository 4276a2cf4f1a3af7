//! Files that a writer keeps pinned while it is killed: what is done to them, and what must be found.
//!
//! The steps come from a seed alone. What each did follows from the reports, so that a step that was refused because
//! the writer itself pins what it would move has changed nothing. Nothing here waits for a pin but [`Step::Late`],
//! whose deadline always passes first.
//!
//! What a kill leaves is what was stored, whether or not it was persisted: memory outlives the process. So a reported
//! store is there, and of one that was under way each word is old or new. Steps of one record are there or not;
//! others may be there in part.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use rand::Rng;
use rand::rngs::SmallRng;
use udax::{Access, File, Filesystem, Label, Mode, NewInode, OpenFlags, Owner, Pin, Request};

use crate::operation::Data;

pub(super) const BLOCK: usize = 4096;
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Files of a writer's thread. The last one is cut into many extents.
pub(super) const FILES: usize = 4;
pub(super) const SCATTERED: usize = FILES - 1;
/// Blocks of an ordinary file.
const BLOCKS: u64 = 24;
/// Islands of the scattered file: more extents than one record frees or shares.
pub(super) const ISLANDS: u64 = 300;
/// How long a truncation waits for a pin that stays.
const LATE: Duration = Duration::from_micros(300);
pub(super) const NEW: NewInode = NewInode {
    permissions: 0o644,
    owner: Owner { uid: 0, gid: 0 },
};

/// One step of a thread with pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Opens the file, made or emptied, in the place of what was open and pinned.
    Make { file: usize },
    /// Writes all blocks of an ordinary file, or the islands of the scattered one.
    Fill { file: usize, seed: u64 },
    /// Writes to blocks that may be pinned.
    Write { file: usize, block: u64, seed: u64 },
    /// Pins blocks for writing, in the place of those that were.
    Pin { file: usize, block: u64, count: u64 },
    /// Stores words through the pin, from a word of its first block on.
    Store {
        file: usize,
        word: usize,
        words: usize,
        seed: u64,
        is_persisted: bool,
    },
    /// Drops the pin.
    Unpin { file: usize },
    /// Removes the name; the file and its pin stay.
    Unlink { file: usize },
    /// Closes the file; its pin stays.
    Close { file: usize },
    /// Cuts the file to so many blocks, or is refused by its pin.
    Cut { file: usize, blocks: u64 },
    /// Empties the file, or gives up because its pin stays.
    Late { file: usize },
    /// Lets `to` share all blocks of `from`, or is refused by a pin.
    Clone { from: usize, to: usize },
    /// Makes the file durable, its pinned pages too.
    Sync { file: usize },
}

/// Chooses steps: first all files are made, so that nothing depends on what an earlier writer has left.
#[derive(Debug)]
pub(super) struct Steps {
    made: usize,
}

impl Steps {
    pub(super) fn new() -> Self {
        Self { made: 0 }
    }

    pub(super) fn next(&mut self, random: &mut SmallRng) -> Step {
        if self.made < FILES {
            let file = self.made;
            self.made += 1;
            return Step::Make { file };
        }
        let file = random.random_range(0..FILES);
        let ordinary = random.random_range(0..SCATTERED);
        let seed = random.random();
        let block = random.random_range(0..BLOCKS);
        match random.random_range(0..100) {
            0..6 => Step::Make { file },
            6..14 => Step::Fill { file: ordinary, seed },
            14..17 => Step::Fill {
                file: SCATTERED,
                seed,
            },
            17..25 => Step::Write { file, block, seed },
            25..42 => Step::Pin {
                file: ordinary,
                block,
                count: random.random_range(1..=BLOCKS - block),
            },
            42..72 => Step::Store {
                file: ordinary,
                word: random.random_range(0..512),
                words: random.random_range(1..512),
                seed,
                is_persisted: random.random(),
            },
            72..75 => Step::Unpin { file },
            75..79 => Step::Unlink { file },
            79..83 => Step::Close { file },
            83..89 => Step::Cut {
                file,
                blocks: random.random_range(0..BLOCKS),
            },
            89..91 => Step::Late { file: ordinary },
            91..96 => Step::Clone {
                from: file,
                to: ordinary,
            },
            _ => Step::Sync { file },
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    file: Option<File>,
    pin: Option<Pin>,
}

/// The files of one thread of the writer.
#[derive(Debug)]
pub(super) struct Holder {
    filesystem: Filesystem,
    directory: String,
    slots: [Slot; FILES],
}

impl Holder {
    /// Its directory must be there.
    pub(super) fn new(filesystem: Filesystem, directory: String) -> Self {
        Self {
            filesystem,
            directory,
            slots: Default::default(),
        }
    }

    fn path(&self, file: usize) -> String {
        format!("{}/{file}", self.directory)
    }

    fn file(&self, file: usize) -> udax::Result<&File> {
        let file = self.slots.get(file).and_then(|slot| slot.file.as_ref());
        file.ok_or(udax::Error::BadHandle("anything"))
    }

    /// Does one step.
    ///
    /// # Errors
    /// The number of its error.
    pub(super) fn apply(&mut self, step: Step) -> Result<(), Errno> {
        self.try_apply(step).map_err(|error| error.errno())
    }

    fn try_apply(&mut self, step: Step) -> udax::Result<()> {
        match step {
            Step::Make { file } => {
                self.slots[file] = Slot::default();
                let flags = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
                let opened = self.filesystem.open_file(self.path(file), flags, NEW)?;
                self.slots[file].file = Some(opened.waiting(Mode::NoWait));
                Ok(())
            }
            Step::Fill {
                file: SCATTERED,
                seed,
            } => (0..ISLANDS).try_for_each(|island| {
                let word = seed.wrapping_add(island).to_le_bytes();
                write_all(self.file(SCATTERED)?, &word, island * 2 * BLOCK_BYTES)
            }),
            Step::Fill { file, seed } => write_all(self.file(file)?, &filling(seed), 0),
            Step::Write { file, block, seed } => write_all(
                self.file(file)?,
                &Data { seed, len: BLOCK }.bytes(),
                block * BLOCK_BYTES,
            ),
            Step::Pin { file, block, count } => {
                self.slots[file].pin = None;
                let request = Request::new(Access::Write).labelled(Label::new("kept"));
                let deadline = Instant::now() + Duration::from_secs(60);
                let opened = self.file(file)?;
                let pin = opened.pin_deadline(block * BLOCK_BYTES, count * BLOCK_BYTES, request, deadline)?;
                self.slots[file].pin = Some(pin);
                Ok(())
            }
            Step::Store {
                file,
                word,
                words,
                seed,
                is_persisted,
            } => self.store(file, (word, words), seed, is_persisted.then_some(())),
            Step::Unpin { file } => {
                self.slots[file].pin = None;
                Ok(())
            }
            Step::Unlink { file } => self.filesystem.unlink(self.path(file)),
            Step::Close { file } => {
                self.slots[file].file = None;
                Ok(())
            }
            Step::Cut { file, blocks } => self.file(file)?.truncate(blocks * BLOCK_BYTES),
            Step::Late { file } => {
                let mode = Mode::deadline(Instant::now() + LATE);
                self.file(file)?.waiting(mode).truncate(0)
            }
            Step::Clone { from, to } => self.file(from)?.clone_range(0, self.file(to)?, 0, 0),
            Step::Sync { file } => self.file(file)?.sync(),
        }
    }

    fn store(
        &self,
        file: usize,
        (word, words): (usize, usize),
        seed: u64,
        persisted: Option<()>,
    ) -> udax::Result<()> {
        let Some(pin) = self.slots.get(file).and_then(|slot| slot.pin.as_ref()) else {
            return Err(udax::Error::BadHandle("a pin"));
        };
        let (at, bytes) = stored(pin.len(), (word, words), seed);
        pin.write(at, &bytes)?;
        if persisted.is_some() {
            pin.persist(at, u64::try_from(bytes.len()).unwrap_or(0))?;
        }
        Ok(())
    }
}

/// What a store puts where in a pin of `len` bytes.
pub(super) fn stored(len: u64, (word, words): (usize, usize), seed: u64) -> (u64, Vec<u8>) {
    let at = u64::try_from(word * 8).unwrap_or(0);
    let room = usize::try_from(len - at).unwrap_or(usize::MAX);
    let bytes = Data { seed, len: words * 8 }.bytes();
    let len = bytes.len().min(room);
    (at, bytes[..len].to_vec())
}

pub(super) fn filling(seed: u64) -> Vec<u8> {
    let len = usize::try_from(BLOCKS).unwrap_or(0) * BLOCK;
    Data { seed, len }.bytes()
}

fn write_all(file: &File, bytes: &[u8], offset: u64) -> udax::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + u64::try_from(done).unwrap_or(u64::MAX);
        done += file.write_at(&bytes[done..], at)?;
    }
    Ok(())
}
