//! From the root to a leaf, and over all nodes: where levels, identities and key ranges are checked.

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use udax_media::node::{MAX_LEVEL, NodeIdentity, NodeState, STATE_OFFSET};
use udax_media::{BlockNo, FormatError, Place};

use super::{NodeSource, Tree, inner};

/// A node whose state word has been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) block: BlockNo,
    pub(super) state: NodeState,
}

/// An inner node on the way to a leaf, and which of its children was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) node: Node,
    pub(super) index: usize,
}

/// The inner nodes on the way to a leaf, the root first.
pub(super) type Path = SmallVec<[Step; 4]>;

/// A leaf, and the keys that belong into it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    pub(super) node: Node,
    /// The lowest key that belongs here; `None` in the first leaf.
    pub(super) lower: Option<u64>,
    /// The lowest key that belongs into the next leaf; `None` in the last.
    pub(super) upper: Option<u64>,
}

impl Node {
    /// The node at `block`, verified.
    pub(super) fn open<S: NodeSource>(
        source: &S,
        block: BlockNo,
        identity: NodeIdentity,
        level: u8,
    ) -> Result<Self, S::Error> {
        source.verify(block, identity, level)?;
        let word = source.word(block, STATE_OFFSET)?;
        match NodeState::from_word(word) {
            Some(state)
                if state.level == level && state.kind == identity.kind && (level == 0 || state.count > 0) =>
            {
                Ok(Self { block, state })
            }
            _ => Err(fault(block, "state", word).into()),
        }
    }

    /// The node's fault in `field`.
    pub(super) fn fault(&self, field: &'static str, value: u64) -> FormatError {
        fault(self.block, field, value)
    }

    /// Slots ever used, or entries.
    pub(super) fn count(&self) -> usize {
        usize::from(self.state.count)
    }
}

pub(super) fn fault(block: BlockNo, field: &'static str, value: u64) -> FormatError {
    FormatError::Field {
        what: "tree node",
        place: Place::Block(block),
        field,
        value,
    }
}

impl Tree {
    /// The root node, unless the tree is empty.
    pub(super) fn open_root<S: NodeSource>(&self, source: &S) -> Result<Option<Node>, S::Error> {
        let Some(block) = self.root.block() else {
            return Ok(None);
        };
        if self.root.level() > MAX_LEVEL {
            return Err(fault(block, "root level", u64::from(self.root.level())).into());
        }
        Node::open(source, block, self.identity, self.root.level()).map(Some)
    }

    /// The leaf where `key` is or would be.
    pub(super) fn seek<S: NodeSource>(&self, source: &S, key: u64) -> Result<Option<Leaf>, S::Error> {
        self.walk_to(source, key, |_| {})
    }

    /// As [`Tree::seek`], with the way there.
    pub(super) fn descend<S: NodeSource>(
        &self,
        source: &S,
        key: u64,
    ) -> Result<Option<(Path, Leaf)>, S::Error> {
        let mut path = Path::new();
        let leaf = self.walk_to(source, key, |step| path.push(step))?;
        Ok(leaf.map(|leaf| (path, leaf)))
    }

    #[inline]
    fn walk_to<S: NodeSource>(
        &self,
        source: &S,
        key: u64,
        mut passed: impl FnMut(Step),
    ) -> Result<Option<Leaf>, S::Error> {
        let Some(mut node) = self.open_root(source)? else {
            return Ok(None);
        };
        let (mut lower, mut upper) = (None, None);
        while node.state.level > 0 {
            let index = inner::child_index(source, node, key)?;
            if index > 0 {
                lower = Some(separator_within(source, node, index, (lower, upper))?);
            }
            if index + 1 < node.count() {
                upper = Some(separator_within(source, node, index + 1, (lower, upper))?);
            }
            passed(Step { node, index });
            let child = inner::child(source, node, index)?;
            node = Node::open(source, child, self.identity, node.state.level - 1)?;
        }
        Ok(Some(Leaf { node, lower, upper }))
    }
}

type Range = (Option<u64>, Option<u64>);

/// The key of entry `index`, which is not the first: it must be in its node's range. So no subtree can be reached
/// through two parents without an error, and iteration over a damaged tree ends.
fn separator_within<S: NodeSource>(
    source: &S,
    node: Node,
    index: usize,
    (lower, upper): Range,
) -> Result<u64, S::Error> {
    let key = inner::key(source, node, index)?;
    if lower.is_some_and(|lower| key < lower) || upper.is_some_and(|upper| key >= upper) {
        return Err(node.fault("key out of its parent's range", key).into());
    }
    Ok(key)
}

/// Visits `root` and everything below it, children first, each once: a node that is listed twice is an error.
pub(super) fn walk<S: NodeSource>(
    source: &S,
    identity: NodeIdentity,
    root: Node,
    visit: &mut impl FnMut(BlockNo, u8) -> Result<(), S::Error>,
) -> Result<(), S::Error> {
    let mut stack: SmallVec<[(Node, Range, usize); 4]> = SmallVec::new();
    stack.push((root, (None, None), 0));
    let mut seen = FxHashSet::default();
    seen.insert(root.block);
    while let Some((node, (lower, upper), index)) = stack.last_mut() {
        let (node, range) = (*node, (*lower, *upper));
        if node.state.level == 0 || *index == node.count() {
            visit(node.block, node.state.level)?;
            stack.pop();
            continue;
        }
        let mut below = range;
        if *index > 0 {
            below.0 = Some(separator_within(source, node, *index, range)?);
        }
        if *index + 1 < node.count() {
            below.1 = Some(separator_within(source, node, *index + 1, (below.0, range.1))?);
        }
        let child = inner::child(source, node, *index)?;
        if !seen.insert(child) {
            return Err(node.fault("child, twice,", child.raw()).into());
        }
        *index += 1;
        stack.push((
            Node::open(source, child, identity, node.state.level - 1)?,
            below,
            0,
        ));
    }
    Ok(())
}
