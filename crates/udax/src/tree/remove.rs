//! Removal: freed slots, merged neighbours, freed nodes.

use udax_media::node::TreeRoot;

use super::descent::{Node, Path, Step};
use super::insert::compose;
use super::leaf::{self, Draft, Image};
use super::{NodeStore, Tree, inner};

impl Tree {
    /// Removes `key`; `false` when it is not there.
    ///
    /// Usually writes one word.
    pub(crate) fn remove<S: NodeStore>(&mut self, store: &mut S, key: u64) -> Result<bool, S::Error> {
        let Some(probe) = self.probe(store, (key, key), 0)? else {
            return Ok(false);
        };
        let Some(hit) = probe.hits().next() else {
            return Ok(false);
        };
        self.remove_at(store, probe, &hit)?;
        Ok(true)
    }

    /// Takes the entry that `path` ends with, whose node has been freed, out of its parent, and what that empties.
    pub(super) fn drop_child<S: NodeStore>(&mut self, store: &mut S, mut path: Path) -> Result<(), S::Error> {
        while let Some(step) = path.pop() {
            if step.node.count() == 1 {
                store.free(step.node.block);
                continue;
            }
            let node = inner::remove(store, step.node, step.index)?;
            let Some(parent) = path.last_mut() else {
                return self.lower_root(store, node);
            };
            if node.count() >= inner::MERGE_BELOW {
                return Ok(());
            }
            let Some(gone) = self.merge_inner(store, *parent)? else {
                return Ok(());
            };
            parent.index = gone;
        }
        self.root = TreeRoot::EMPTY;
        Ok(())
    }

    /// Replaces an inner root that has one child by the child.
    fn lower_root<S: NodeStore>(&mut self, store: &mut S, mut root: Node) -> Result<(), S::Error> {
        while root.state.level > 0 && root.count() == 1 {
            let level = root.state.level - 1;
            let child = Node::open(store, inner::child(store, root, 0)?, self.identity, level)?;
            store.free(root.block);
            self.root = TreeRoot::new(child.block, level);
            root = child;
        }
        Ok(())
    }

    /// Merges the leaf that `at` leads to with a neighbour; gives the parent's entry that must go.
    pub(super) fn merge_leaf<S: NodeStore>(
        &mut self,
        store: &mut S,
        at: Step,
    ) -> Result<Option<usize>, S::Error> {
        for index in neighbours(at) {
            let (left, right) = self.open_pair(store, at.node, index)?;
            let (left_image, right_image) = (Image::read(store, left)?, Image::read(store, right)?);
            if left_image.used_bytes() + right_image.used_bytes() > leaf::MERGED_MAX {
                continue;
            }
            let mut draft = Draft::new();
            compose(
                &mut draft,
                left_image.entries().chain(right_image.entries()),
                left.block,
            )?;
            draft.rewrite(store, left.block, self.identity)?;
            store.free(right.block);
            return Ok(Some(index));
        }
        Ok(None)
    }

    /// As [`Tree::merge_leaf`], for an inner node.
    fn merge_inner<S: NodeStore>(&mut self, store: &mut S, at: Step) -> Result<Option<usize>, S::Error> {
        for index in neighbours(at) {
            let (left, right) = self.open_pair(store, at.node, index)?;
            if left.count() + right.count() > inner::MERGED_MAX {
                continue;
            }
            let separator = inner::key(store, at.node, index)?;
            inner::append(store, left, right, separator)?;
            store.free(right.block);
            return Ok(Some(index));
        }
        Ok(None)
    }

    /// Children `right - 1` and `right` of `parent`.
    fn open_pair<S: NodeStore>(
        &self,
        store: &S,
        parent: Node,
        right: usize,
    ) -> Result<(Node, Node), S::Error> {
        let level = parent.state.level - 1;
        let left_block = inner::child(store, parent, right - 1)?;
        let right_block = inner::child(store, parent, right)?;
        if left_block == right_block {
            return Err(parent.fault("child, twice,", left_block.raw()).into());
        }
        let left = Node::open(store, left_block, self.identity, level)?;
        let right = Node::open(store, right_block, self.identity, level)?;
        Ok((left, right))
    }
}

/// The right member of each pair of neighbours that the child `at` leads to is in.
fn neighbours(at: Step) -> impl Iterator<Item = usize> {
    let last = at.node.count() - 1;
    let first_pair = (at.index > 0).then_some(at.index);
    let second_pair = (at.index < last).then_some(at.index + 1);
    first_pair.into_iter().chain(second_pair)
}
