//! Walks of the tree, the same for readers and writers: to one index, and to the next entry of a range.

use crate::entry::{Found, Mark};
use crate::node::{Content, Node};
use crate::word::{Word, to_usize};

/// The slot that an entry stands in.
#[derive(Clone, Copy)]
pub(crate) struct Place<'p> {
    pub(crate) node: &'p Node,
    /// First of its group.
    pub(crate) slot: usize,
    /// What was in the slot when it was read; an entry.
    pub(crate) word: Word,
}

impl Place<'_> {
    /// The entry's place in the index; `index` is any that it covers.
    #[inline]
    pub(crate) fn found<E>(&self, index: u64, entry: E) -> Found<E> {
        Found {
            start: self.node.start_of(self.slot, index),
            order: self.node.order_of(self.slot),
            entry,
        }
    }

    /// The entry was read before the mark, and marks of an entry go before the next one comes: an old entry's mark is
    /// never taken for a new one's.
    #[inline]
    pub(crate) fn is(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Any => true,
            Wanted::Marked(mark) => self.node.has_mark(self.slot, mark),
        }
    }
}

/// The entry that covers `index`.
#[inline]
pub(crate) fn find(root: Option<&Node>, index: u64) -> Option<Place<'_>> {
    let mut node = root.filter(|root| root.reaches(index))?;
    loop {
        let slot = node.groups().first_of(node.slot_of(index));
        match node.content(slot) {
            Content::Node(child) => node = child,
            Content::Empty => return None,
            Content::Entry(word) => return Some(Place { node, slot, word }),
        }
    }
}

/// Which entries a search stops at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Any,
    Marked(Mark),
}

impl Wanted {
    fn bits(self, node: &Node) -> u64 {
        match self {
            Self::Any => node.used(),
            Self::Marked(mark) => node.marked(mark),
        }
    }
}

/// The first entry, of those wanted, that covers an index from `from` to `last`, and an index that it covers.
pub(crate) fn first_in(
    root: Option<&Node>,
    from: u64,
    last: u64,
    wanted: Wanted,
) -> Option<(u64, Place<'_>)> {
    let root = root.filter(|root| from <= last && root.reaches(from))?;
    first_below(root, from, last, wanted)
}

/// Calls itself no deeper than the tree has levels.
fn first_below(node: &Node, from: u64, last: u64, wanted: Wanted) -> Option<(u64, Place<'_>)> {
    let first = node.groups().first_of(node.slot_of(from));
    let mut bits = wanted.bits(node) & (u64::MAX << first);
    while bits != 0 {
        let slot = to_usize(u64::from(bits.trailing_zeros()));
        bits &= bits - 1;
        let index = from.max(node.start_of(slot, from));
        if index > last {
            return None;
        }
        match node.content(slot) {
            // A writer is between the slot and its bit.
            Content::Empty => {}
            Content::Node(child) => {
                if let Some(found) = first_below(child, index, last, wanted) {
                    return Some(found);
                }
            }
            Content::Entry(word) => {
                let place = Place { node, slot, word };
                if place.is(wanted) {
                    return Some((index, place));
                }
            }
        }
    }
    None
}
