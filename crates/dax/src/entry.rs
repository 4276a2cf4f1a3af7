//! What a mapping's index holds for a page or a 2 MiB range: [`Entry`], [`Size`].
//!
//! An entry is a value: the frame's number above four flags. *Real* entries name a frame; *zero* ones stand for a hole
//! that was read; *empty* ones are there to be locked. Zero and empty exclude each other and have no frame, so that
//! nothing can take them for one.

use std::fmt;

/// Order of a large entry. Small under loom, which cannot try the schedules of 512 frames.
pub const PMD_ORDER: u8 = if cfg!(loom) { 1 } else { 9 };

const LOCKED: u64 = 1;
const PMD: u64 = 1 << 1;
const ZERO: u64 = 1 << 2;
const EMPTY: u64 = 1 << 3;
const FRAME_SHIFT: u32 = 4;

/// How much an entry covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Size {
    /// One page of 4096 bytes.
    Page,
    /// 512 aligned pages.
    Pmd,
}

impl Size {
    /// As a power of two of pages.
    pub fn order(self) -> u8 {
        match self {
            Self::Page => 0,
            Self::Pmd => PMD_ORDER,
        }
    }

    /// In pages.
    pub fn pages(self) -> u64 {
        1 << self.order()
    }

    /// The first page of the entry of this size that covers `page`.
    pub fn start_of(self, page: u64) -> u64 {
        page & !(self.pages() - 1)
    }
}

/// What an index holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// The entry of a frame, or of the 512 frames from there on.
    pub fn real(frame: u64, size: Size) -> Self {
        debug_assert!(size.start_of(frame) == frame, "frame {frame} of a {size:?} entry");
        Self(frame << FRAME_SHIFT | Self::flag(size))
    }

    /// The entry of a hole that was read.
    pub fn zero(size: Size) -> Self {
        Self(ZERO | Self::flag(size))
    }

    /// The entry that is there to be locked.
    pub fn empty(size: Size) -> Self {
        Self(EMPTY | Self::flag(size))
    }

    fn flag(size: Size) -> u64 {
        match size {
            Size::Page => 0,
            Size::Pmd => PMD,
        }
    }

    /// From an index.
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// For an index.
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    /// Whether somebody has it locked.
    pub fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// The same, locked.
    #[must_use]
    pub fn locked(self) -> Self {
        Self(self.0 | LOCKED)
    }

    /// The same, not locked.
    #[must_use]
    pub fn unlocked(self) -> Self {
        Self(self.0 & !LOCKED)
    }

    /// How much it covers.
    pub fn size(self) -> Size {
        if self.0 & PMD == 0 { Size::Page } else { Size::Pmd }
    }

    /// Whether it stands for a hole.
    pub fn is_zero(self) -> bool {
        self.0 & ZERO != 0
    }

    /// Whether it is only there to be locked.
    pub fn is_empty(self) -> bool {
        self.0 & EMPTY != 0
    }

    /// The first frame of a real entry.
    pub fn frame(self) -> Option<u64> {
        (self.0 & (ZERO | EMPTY) == 0).then_some(self.0 >> FRAME_SHIFT)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = if self.is_locked() { ", locked" } else { "" };
        match self.frame() {
            Some(frame) => write!(f, "Real({frame}, {:?}{lock})", self.size()),
            None if self.is_zero() => write!(f, "Zero({:?}{lock})", self.size()),
            None => write!(f, "Empty({:?}{lock})", self.size()),
        }
    }
}
