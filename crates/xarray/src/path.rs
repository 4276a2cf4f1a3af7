//! The nodes on the way to an index: what a writer needs in order to change marks, links and counts above an entry.

use crate::node::{Content, MAX_LEVELS, Node};
use crate::search::Place;

/// The nodes that lead to an index, as far as there are any.
pub(crate) struct Path<'p> {
    index: u64,
    nodes: [Option<&'p Node>; MAX_LEVELS],
    len: usize,
}

impl<'p> Path<'p> {
    /// The way from `root` towards `index`, as far down as `level` if that is given: the shift of the lowest node.
    pub(crate) fn new(root: Option<&'p Node>, index: u64, level: u32) -> Self {
        let mut path = Self {
            index,
            nodes: [None; MAX_LEVELS],
            len: 0,
        };
        let mut next = root.filter(|root| root.reaches(index));
        while let Some(node) = next.filter(|node| node.shift() >= level) {
            path.nodes[path.len] = Some(node);
            path.len += 1;
            next = match node.content(path.slot_in(node)) {
                Content::Node(child) => Some(child),
                Content::Empty | Content::Entry(_) => None,
            };
        }
        path
    }

    /// The lowest node and the slot in it that covers the index, then the same of the one above, up to the root.
    pub(crate) fn upwards(&self) -> impl Iterator<Item = (&'p Node, usize)> {
        let nodes = self.nodes[..self.len].iter().rev().copied().flatten();
        nodes.map(|node| (node, self.slot_in(node)))
    }

    /// The entry that covers the index, if the path has gone far enough to meet it.
    pub(crate) fn entry(&self) -> Option<Place<'p>> {
        let (node, slot) = self.upwards().next()?;
        match node.content(slot) {
            Content::Entry(word) => Some(Place { node, slot, word }),
            Content::Empty | Content::Node(_) => None,
        }
    }

    fn slot_in(&self, node: &Node) -> usize {
        node.groups().first_of(node.slot_of(self.index))
    }
}
