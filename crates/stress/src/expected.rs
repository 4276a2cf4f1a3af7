//! What each block of a file must hold: [`Cell`], readable at any time, changed only by the file's steward.
//!
//! A cell is one word: the [`Rule`] of its block, whether the block is *changing* hands right now (then nobody judges
//! it and no engine stores to it), and a version. Whoever judges loads the cell, looks at the bytes, and loads it
//! again: only when both are the same and not changing must the bytes fit.
//!
//! An engine that has a page pinned and then finds its cell not changing knows the block's owner for as long as the
//! pin lives: a steward marks first and begins to change then, and the change waits for the pin.

use udax_sync::atomic::{AtomicU64, Ordering, fence};

use crate::stamp::{Owner, Rule};

const ZERO: u64 = 1 << 40;
const CHANGING: u64 = 1 << 41;
const VERSION: u64 = 1 << 42;

/// What one block must hold.
#[derive(Debug)]
pub(crate) struct Cell(AtomicU64);

/// A cell as it was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen(u64);

impl Seen {
    /// What the block must hold; unknown while it changes hands.
    pub(crate) fn rule(self) -> Option<Rule> {
        (self.0 & CHANGING == 0).then_some(Rule::Owned {
            owner: self.owner(),
            may_be_zero: self.0 & ZERO != 0,
        })
    }

    /// Whether zeros are right, or unknown.
    pub(crate) fn may_be_zero(self) -> bool {
        self.0 & (ZERO | CHANGING) != 0
    }

    pub(crate) fn owner(self) -> Owner {
        Owner::from_raw(self.0)
    }
}

impl Cell {
    pub(crate) fn new(owner: Owner) -> Self {
        Self(AtomicU64::new(owner.raw() | ZERO))
    }

    pub(crate) fn load(&self) -> Seen {
        // Pairs with the Release in `Cell::set`.
        Seen(self.0.load(Ordering::Acquire))
    }

    /// Loads it after the bytes were looked at: the rule if it was the same all the time.
    pub(crate) fn confirm(&self, seen: Seen) -> Option<Rule> {
        // The loads of the bytes come before the second load.
        fence(Ordering::Acquire);
        (self.0.load(Ordering::Relaxed) == seen.0)
            .then(|| seen.rule())
            .flatten()
    }

    /// By the steward: nobody judges the block any more. Follow all of them with a full fence.
    pub(crate) fn begin_change(&self) {
        self.0.fetch_or(CHANGING, Ordering::AcqRel);
    }

    /// By the steward: this is what it holds now.
    pub(crate) fn set(&self, owner: Owner, may_be_zero: bool) {
        let version = (self.0.load(Ordering::Relaxed) & !(VERSION - 1)).wrapping_add(VERSION);
        let zero = if may_be_zero { ZERO } else { 0 };
        // Pairs with the Acquire in `Cell::load`: the change is over.
        self.0.store(version | zero | owner.raw(), Ordering::Release);
    }
}
