//! Makes nodes that are not in a tree yet: what a writer then puts there by one store.

use crate::entry::Mark;
use crate::node::{BITS, Group, Groups, Node};
use crate::search::{Place, Wanted};
use crate::word::Word;

/// The shift of the lowest root that has a slot for `index`.
pub(crate) fn shift_for(index: u64) -> u32 {
    let bits = (u64::BITS - index.leading_zeros()).max(1);
    (bits - 1) / BITS * BITS
}

/// Nodes from one with `shift` down to one with `level`, with nothing in them but `word`, in a group of `len` slots.
pub(crate) fn branch(shift: u32, level: u32, index: u64, len: usize, word: Word) -> Word {
    let mut node = Node::new(level, Groups::of(len));
    node.put(node.slot_of(index), word);
    while node.shift() < shift {
        let above = Node::new(node.shift() + BITS, Groups::of(1));
        above.put(above.slot_of(index), Word::from_node(node));
        node = above;
    }
    Word::from_node(node)
}

/// A node for the place above `root`, with its marks; the caller puts the root into its first slot.
pub(crate) fn above(root: &Node) -> Box<Node> {
    let above = Node::new(root.shift() + BITS, Groups::of(1));
    let marks = Mark::ALL.into_iter().filter(|mark| root.marked(*mark) != 0);
    marks.for_each(|mark| above.set_mark(0, mark));
    above
}

/// A copy of the place's node with `pieces` of a smaller `order` instead of the place's entry.
pub(crate) fn split_copy(place: &Place<'_>, order: u8, mut pieces: impl Iterator<Item = Word>) -> Box<Node> {
    let node = place.node;
    let marks = Mark::ALL
        .into_iter()
        .filter(|mark| place.is(Wanted::Marked(*mark)));
    let filling = Filling {
        order: u32::from(order),
        marks: marks.collect(),
    };
    let whole = node.groups().beginning_with(place.slot);
    let len = filling.slots_of_a_piece(node.shift());
    let mut groups = node.groups();
    groups.part(whole);
    for first in whole.parts(len) {
        groups.join(Group { first, len });
    }
    let copy = node.copy_with(groups);
    filling.fill(&copy, whole, &mut pieces);
    copy
}

/// What a split fills nodes with.
struct Filling {
    order: u32,
    marks: Vec<Mark>,
}

impl Filling {
    /// 1 where the pieces are in nodes further down.
    fn slots_of_a_piece(&self, shift: u32) -> usize {
        1 << self.order.saturating_sub(shift)
    }

    /// Fills slots of a node, directly or with nodes; calls itself no deeper than the tree has levels.
    fn fill(&self, node: &Node, slots: Group, pieces: &mut impl Iterator<Item = Word>) {
        let below = node
            .shift()
            .checked_sub(BITS)
            .filter(|_| self.order < node.shift());
        for slot in slots.parts(self.slots_of_a_piece(node.shift())) {
            let word = match below {
                None => pieces.next().unwrap_or(Word::EMPTY),
                Some(shift) => {
                    let child = Node::new(shift, Groups::of(self.slots_of_a_piece(shift)));
                    self.fill(&child, Group::ALL, pieces);
                    Word::from_node(child)
                }
            };
            node.put(slot, word);
            self.marks.iter().for_each(|mark| node.set_mark(slot, *mark));
        }
    }
}
