//! The nodes of the tree: slots, which of them are in use, and which have a mark somewhere below.
//!
//! A slot of a node with shift `s` covers `1 << s` indices. An entry whose order is not a multiple of [`BITS`] takes a
//! *group* of slots, and stands in the first of them. How a node's slots are grouped never changes after the node has
//! been published: a writer that needs other groups makes a copy and puts it in the node's place. So a reader that has
//! a node knows the order of what it finds there, whatever the writer does meanwhile.
//!
//! # Invariants
//! - A `&'p Node` comes from a root that was loaded under a pin that lives for `'p`, or from [`Node::content`] of such
//!   a node: that is what makes [`Node::content`] sound. What a writer unlinks is retired, never freed at once.
//! - A node in the tree is not empty, and a slot with a node in it is a group of its own.
//! - Whoever sees a slot in use sees its bit in `used`: the bit is set before the slot, and cleared after it.
//! - Only the holder of the writer lock stores; a node that has been unlinked is not stored to any more.

use std::array;
use std::ptr::NonNull;

use udax_sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::entry::Mark;
use crate::word::{Kind, Word, to_usize};

/// Bits of the index that one level of the tree decides. Small trees for loom, which tries every schedule.
pub(crate) const BITS: u32 = if cfg!(loom) { 2 } else { 6 };

/// Slots of a node.
pub(crate) const SLOTS: usize = 1 << BITS;

/// Levels of a tree over all indices.
pub(crate) const MAX_LEVELS: usize = if cfg!(loom) { 32 } else { 11 };

/// How the slots of a node are grouped: a bit for each slot that belongs to the group of a lower one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Groups(u64);

/// A group of slots: the first, and how many. The number is a power of two, and divides the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    pub(crate) first: usize,
    pub(crate) len: usize,
}

impl Group {
    /// All slots of a node.
    pub(crate) const ALL: Self = Self { first: 0, len: SLOTS };

    /// A bit for each slot of the group.
    pub(crate) fn bits(self) -> u64 {
        (u64::MAX >> (64 - self.len)) << self.first
    }

    /// The first of each `len` of its slots.
    pub(crate) fn parts(self, len: usize) -> std::iter::StepBy<std::ops::Range<usize>> {
        (self.first..self.first + self.len).step_by(len)
    }
}

impl Groups {
    /// Groups of `len` slots each.
    pub(crate) fn of(len: usize) -> Self {
        let mut groups = Self(0);
        for first in (0..SLOTS).step_by(len) {
            groups.join(Group { first, len });
        }
        groups
    }

    /// Makes one group of these slots, which are whole groups now.
    pub(crate) fn join(&mut self, group: Group) {
        self.part(group);
        self.0 |= group.bits() & !(1 << group.first);
    }

    /// Makes each of these slots, which are whole groups now, a group of its own.
    pub(crate) fn part(&mut self, group: Group) {
        self.0 &= !group.bits();
    }

    /// Makes these slots a group: they lie in a group of empty slots, or are whole groups of them. Other blocks of as
    /// many unused slots become groups as well, so that the entries that often come next to this one find them.
    pub(crate) fn make(&mut self, group: Group, used: u64) {
        let whole = self.around(group.first);
        if whole.len > group.len {
            self.part(whole);
        }
        self.join(group);
        for first in (0..SLOTS).step_by(group.len) {
            let block = Group {
                first,
                len: group.len,
            };
            if used & block.bits() == 0 && self.around(first).len < group.len {
                self.join(block);
            }
        }
    }

    /// The first slot of the group that `slot` belongs to.
    #[inline]
    pub(crate) fn first_of(self, slot: usize) -> usize {
        if self.0 >> slot & 1 == 0 {
            return slot;
        }
        // Slot 0 belongs to no lower one, so that there is a bit.
        let firsts = !self.0 & (u64::MAX >> (63 - slot));
        63 - to_usize(u64::from(firsts.leading_zeros()))
    }

    /// The group that begins with slot `first`.
    #[inline]
    pub(crate) fn beginning_with(self, first: usize) -> Group {
        let others = to_usize(u64::from((self.0 >> first >> 1).trailing_ones()));
        Group {
            first,
            len: others + 1,
        }
    }

    /// The group that `slot` belongs to.
    pub(crate) fn around(self, slot: usize) -> Group {
        self.beginning_with(self.first_of(slot))
    }
}

/// What a slot holds.
#[derive(Clone, Copy)]
pub(crate) enum Content<'p> {
    Empty,
    Entry(Word),
    Node(&'p Node),
}

/// What changes while the node is in use, on a line of its own: readers need the line before it and one slot.
#[repr(align(64))]
struct Tallies {
    /// A bit for each slot with something in it.
    used: AtomicU64,
    /// For each mark a bit for each slot with a marked entry in or below it.
    marks: [AtomicU64; 3],
}

/// A node of the tree.
#[repr(C, align(64))]
pub(crate) struct Node {
    shift: u32,
    groups: Groups,
    #[cfg(loom)]
    life: loom::cell::UnsafeCell<()>,
    tallies: Tallies,
    slots: [AtomicPtr<()>; SLOTS],
}

impl Node {
    /// An empty node, not yet in any tree.
    pub(crate) fn new(shift: u32, groups: Groups) -> Box<Self> {
        Box::new(Self {
            shift,
            groups,
            #[cfg(loom)]
            life: loom::cell::UnsafeCell::new(()),
            tallies: Tallies {
                used: AtomicU64::new(0),
                marks: array::from_fn(|_| AtomicU64::new(0)),
            },
            slots: array::from_fn(|_| AtomicPtr::new(Word::EMPTY.raw())),
        })
    }

    /// A copy with other groups, not yet in any tree. It holds the same words: one of the two must give them up.
    pub(crate) fn copy_with(&self, groups: Groups) -> Box<Self> {
        let copy = Self::new(self.shift, groups);
        for (slot, to) in copy.slots.iter().enumerate() {
            to.store(self.word(slot).raw(), Ordering::Relaxed);
        }
        copy.tallies.used.store(self.used(), Ordering::Relaxed);
        for mark in Mark::ALL {
            copy.tallies.marks[mark.number()].store(self.marked(mark), Ordering::Relaxed);
        }
        copy
    }

    /// The order of what fills one slot.
    #[inline]
    pub(crate) fn shift(&self) -> u32 {
        self.shift
    }

    #[inline]
    pub(crate) fn groups(&self) -> Groups {
        self.groups
    }

    /// Whether the node, as the root of a tree, has a slot for `index`.
    #[inline]
    pub(crate) fn reaches(&self, index: u64) -> bool {
        index >> self.shift >> BITS == 0
    }

    /// The slot for `index`, which is not the slot that its entry stands in when slots are grouped.
    #[inline]
    pub(crate) fn slot_of(&self, index: u64) -> usize {
        to_usize(index >> self.shift) & (SLOTS - 1)
    }

    /// The first index that `slot` covers, in the node that `index` leads through.
    #[inline]
    pub(crate) fn start_of(&self, slot: usize, index: u64) -> u64 {
        // Shifted twice: the node may cover all 64 bits.
        let above = !(u64::MAX << self.shift << (BITS - 1) << 1);
        let number = u64::try_from(slot).unwrap_or(0);
        (index & !above) | (number << self.shift)
    }

    /// The order of an entry in the group that begins with slot `first`.
    #[inline]
    pub(crate) fn order_of(&self, first: usize) -> u8 {
        let order = self.shift + self.groups.beginning_with(first).len.trailing_zeros();
        u8::try_from(order).unwrap_or(u8::MAX)
    }

    /// What `slot` holds.
    #[inline]
    pub(crate) fn word(&self, slot: usize) -> Word {
        self.witness();
        // Pairs with the Release in `Node::set_word`: what the word leads to is complete.
        Word::from_raw(self.slots[slot & (SLOTS - 1)].load(Ordering::Acquire))
    }

    /// A bit for each slot with something in it.
    #[inline]
    pub(crate) fn used(&self) -> u64 {
        self.witness();
        // Pairs with the Release in `Node::put` and `Node::take`.
        self.tallies.used.load(Ordering::Acquire)
    }

    /// A bit for each slot with a marked entry in or below it.
    #[inline]
    pub(crate) fn marked(&self, mark: Mark) -> u64 {
        self.witness();
        // Pairs with the Release in `Node::set_marked`.
        self.tallies.marks[mark.number()].load(Ordering::Acquire)
    }

    /// What `slot` holds, with the node if it is one.
    #[inline]
    pub(crate) fn content(&self, slot: usize) -> Content<'_> {
        let word = self.word(slot);
        match word.kind() {
            Kind::Empty => Content::Empty,
            Kind::Value(_) | Kind::Pointer(_) => Content::Entry(word),
            Kind::Node(child) => {
                // SAFETY: `self` is seen under a pin, or has not been published; `child` was in its slot, so that it
                // was not retired before the pin began and is not freed before the pin ends. Nodes in a tree are
                // never borrowed mutably.
                Content::Node(unsafe { child.as_ref() })
            }
        }
    }

    /// Puts something into an empty slot.
    pub(crate) fn put(&self, slot: usize, word: Word) {
        self.tallies
            .used
            .store(self.used() | 1 << slot, Ordering::Release);
        self.set_word(slot, word);
    }

    /// Empties a slot and clears its marks; gives what was there.
    pub(crate) fn take(&self, slot: usize) -> Word {
        let old = self.replace(slot, Word::EMPTY);
        self.tallies
            .used
            .store(self.used() & !(1 << slot), Ordering::Release);
        for mark in Mark::ALL {
            self.clear_mark(slot, mark);
        }
        old
    }

    /// Replaces what is in a slot by something else, in one step; gives what was there.
    pub(crate) fn replace(&self, slot: usize, word: Word) -> Word {
        let old = self.word(slot);
        self.set_word(slot, word);
        old
    }

    fn set_word(&self, slot: usize, word: Word) {
        // Pairs with the Acquire in `Node::word`.
        self.slots[slot].store(word.raw(), Ordering::Release);
    }

    /// Whether `slot` holds something marked, or a node with something marked below it.
    #[inline]
    pub(crate) fn has_mark(&self, slot: usize, mark: Mark) -> bool {
        self.marked(mark) >> slot & 1 != 0
    }

    pub(crate) fn set_mark(&self, slot: usize, mark: Mark) {
        self.set_marked(mark, self.marked(mark) | 1 << slot);
    }

    pub(crate) fn clear_mark(&self, slot: usize, mark: Mark) {
        if self.has_mark(slot, mark) {
            self.set_marked(mark, self.marked(mark) & !(1 << slot));
        }
    }

    fn set_marked(&self, mark: Mark, marked: u64) {
        // Pairs with the Acquire in `Node::marked`.
        self.tallies.marks[mark.number()].store(marked, Ordering::Release);
    }

    /// Frees a node that nobody can see; not what its slots hold.
    ///
    /// # Safety
    /// The node is from [`Word::from_node`], and no reference to it is used any more.
    pub(crate) unsafe fn free(node: NonNull<Self>) {
        // SAFETY: the node is from a box, and the caller has the only pointer that is still used.
        let node = unsafe { Box::from_raw(node.as_ptr()) };
        #[cfg(loom)]
        {
            // loom panics if a read is not ordered before this. The memory stays, so that it can say so of later reads.
            node.life.with_mut(|_| ());
            std::mem::forget(node);
        }
        #[cfg(not(loom))]
        drop(node);
    }

    /// Under loom: says that the node is read now, so that loom finds a free that is not ordered after it.
    #[inline]
    fn witness(&self) {
        #[cfg(loom)]
        self.life.with(|_| ());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_from_each_of_their_slots() {
        for len in [1, 2, 4, 8, 16, 32] {
            let groups = Groups::of(len);
            for slot in 0..SLOTS {
                let first = slot / len * len;
                assert_eq!(groups.around(slot), Group { first, len });
            }
        }
    }

    #[test]
    fn joining_and_parting_leave_other_groups_alone() {
        let mut groups = Groups::of(8);
        groups.part(Group { first: 8, len: 8 });
        groups.join(Group { first: 12, len: 4 });
        let lens: Vec<_> = [0, 8, 11, 12, 15, 16, 63]
            .map(|slot| groups.around(slot).len)
            .into();
        assert_eq!(lens, [8, 1, 1, 4, 4, 8, 8]);
    }

    #[test]
    fn starts_are_right_where_the_node_covers_every_index() {
        let node = Node::new(60, Groups::of(1));
        assert!(node.reaches(u64::MAX));
        assert_eq!(node.start_of(15, u64::MAX), 15 << 60);
        let node = Node::new(6, Groups::of(8));
        assert!(node.reaches(4095) && !node.reaches(4096));
        assert_eq!(node.start_of(8, 5000), 4096 + 512);
        assert_eq!(node.order_of(8), 9);
    }

    #[test]
    fn a_node_is_ten_lines_long() {
        assert_eq!(size_of::<Node>(), 10 * 64);
    }
}
