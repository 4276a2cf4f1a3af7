//! The files of the contest: [`Slot`]s, which always have a file, and [`Life`]s, the files that they had and have.
//!
//! A life goes on after its name is gone, as long as an engine has a pin or handle of it: what is known of its blocks
//! stays with it. Files are *strict*: one steward at a time changes them, so that the owner of each block is known; or
//! *wild*: everybody changes them at will, and only strangers' words are wrong there.
//!
//! Lock: `current` is a leaf, held to clone an `Arc`.

use std::ops::Deref;
use std::sync::Arc;

use udax::File;
use udax_sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use udax_sync::{Mutex, Rank};

use crate::expected::{Cell, Seen};
use crate::history::Ring;
use crate::stamp::{BLOCK_LEN, MAX_BLOCKS, Owner, Rule};

/// How a file is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Discipline {
    /// By one steward at a time.
    Strict,
    /// By everybody; the slots whose words may be in it have their bits here.
    Wild(u64),
}

/// One file, from when it is made to its last pin.
#[derive(Debug)]
pub(crate) struct Life {
    /// From 1; never used again.
    pub(crate) id: u64,
    pub(crate) slot: u64,
    pub(crate) path: String,
    pub(crate) discipline: Discipline,
    /// Of the slot, when it was made.
    pub(crate) epoch: u64,
    /// One for each block that it may have; none of a wild file.
    pub(crate) cells: Box<[Cell]>,
    /// Bytes; the steward's knowledge.
    pub(crate) size: AtomicU64,
    has_steward: AtomicBool,
    /// It has no name any more.
    pub(crate) is_removed: AtomicBool,
    pub(crate) ring: Ring<128>,
}

/// A life while there is a handle of its file. Pins alone keep the file without one: transfers have the life only.
#[derive(Debug)]
pub(crate) struct OpenLife {
    pub(crate) life: Arc<Life>,
    pub(crate) file: File,
    /// Of a file that may be in the page cache: a handle that goes past it.
    pub(crate) direct: Option<File>,
}

impl Deref for OpenLife {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

/// What was known of a block when somebody looked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Glimpse {
    Cell(Seen),
    Always(Rule, Owner),
}

impl Glimpse {
    /// What the block must hold, if that is known.
    pub(crate) fn rule(self) -> Option<Rule> {
        match self {
            Self::Cell(seen) => seen.rule(),
            Self::Always(rule, _) => Some(rule),
        }
    }

    /// Whose words an engine stores there.
    pub(crate) fn owner(self) -> Owner {
        match self {
            Self::Cell(seen) => seen.owner(),
            Self::Always(_, owner) => owner,
        }
    }
}

impl Life {
    pub(crate) fn new(id: u64, slot: &Slot, path: String) -> Self {
        let epoch = slot.next_epoch();
        let cells = match slot.discipline {
            Discipline::Strict => MAX_BLOCKS,
            Discipline::Wild(_) => 0,
        };
        Self {
            id,
            slot: slot.number,
            path,
            discipline: slot.discipline,
            epoch,
            cells: (0..cells)
                .map(|block| Cell::new(Owner::new(slot.number, epoch, block)))
                .collect(),
            size: AtomicU64::new(0),
            has_steward: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            ring: Ring::new(),
        }
    }

    /// Blocks of its size, the last one perhaps in part; the steward's knowledge, a guess to all others.
    pub(crate) fn blocks(&self) -> u64 {
        self.size.load(Ordering::Relaxed).div_ceil(BLOCK_LEN)
    }

    /// What is known of a block now.
    pub(crate) fn glimpse(&self, block: u64) -> Option<Glimpse> {
        match self.discipline {
            Discipline::Wild(slots) => {
                let owner = Owner::new(self.slot, self.epoch, block);
                Some(Glimpse::Always(Rule::AnyOf(slots), owner))
            }
            Discipline::Strict => self.cell(block).map(|cell| Glimpse::Cell(cell.load())),
        }
    }

    /// What bytes that were looked at since `glimpse` must have been, if that is certain.
    pub(crate) fn confirm(&self, block: u64, glimpse: Glimpse) -> Option<Rule> {
        match glimpse {
            Glimpse::Always(rule, _) => Some(rule),
            Glimpse::Cell(seen) => self.cell(block)?.confirm(seen),
        }
    }

    pub(crate) fn cell(&self, block: u64) -> Option<&Cell> {
        self.cells.get(usize::try_from(block).ok()?)
    }

    /// By the steward, before these blocks change hands.
    pub(crate) fn begin_change(&self, first: u64, end: u64) {
        (first..end)
            .filter_map(|block| self.cell(block))
            .for_each(Cell::begin_change);
        // Pairs with that of `Engine::start`: either it sees the mark, or the change sees its pin.
        fence(Ordering::SeqCst);
    }

    /// Becomes its steward, if it has none.
    pub(crate) fn try_steward(&self) -> bool {
        !self.has_steward.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_stewardship(&self) {
        self.has_steward.store(false, Ordering::Release);
    }
}

/// A place that always has a file.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: u64,
    pub(crate) discipline: Discipline,
    /// Blocks that its file grows to.
    pub(crate) room: u64,
    epochs: AtomicU64,
    current: Mutex<Option<Arc<OpenLife>>>,
}

impl Slot {
    pub(crate) fn new(number: u64, discipline: Discipline, room: u64) -> Self {
        Self {
            number,
            discipline,
            room,
            epochs: AtomicU64::new(0),
            current: Mutex::new(Rank::Leaf, None),
        }
    }

    /// A number that no block of the slot was given yet.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Its file now.
    pub(crate) fn current(&self) -> Option<Arc<OpenLife>> {
        self.current.lock().clone()
    }

    /// Gives it another file, and the old one back.
    pub(crate) fn replace(&self, life: Option<Arc<OpenLife>>) -> Option<Arc<OpenLife>> {
        std::mem::replace(&mut *self.current.lock(), life)
    }
}
