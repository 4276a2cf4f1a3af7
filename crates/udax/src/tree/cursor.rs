//! Entries in the order of their keys, a leaf at a time.

use super::leaf::Image;
use super::{NodeSource, Tree};

/// Goes through a tree upward. It holds the next key, not a position: an entry that is there throughout is met
/// exactly once, in order, whatever else changes between two batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    next: Option<u64>,
}

/// The entries of one leaf, as they were when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    image: Image,
}

impl Cursor {
    /// The cursor whose first entry is the first at or after `key`.
    pub(crate) const fn starting_at(key: u64) -> Self {
        Self { next: Some(key) }
    }

    /// The next entries, at least one; `None` after the last.
    pub(crate) fn next_batch<S: NodeSource>(
        &mut self,
        tree: &Tree,
        source: &S,
    ) -> Result<Option<Batch>, S::Error> {
        let mut may_be_empty = true;
        while let Some(first) = self.next {
            let Some(leaf) = tree.seek(source, first)? else {
                self.next = None;
                break;
            };
            let mut image = Image::read(source, leaf.node)?;
            image.keep(first, leaf.upper);
            self.next = leaf.upper;
            if image.len() > 0 {
                return Ok(Some(Batch { image }));
            }
            // The first leaf may hold only keys before the start; a later one has some, for no leaf is empty.
            if !may_be_empty {
                return Err(leaf.node.fault("key, none at or above", first).into());
            }
            may_be_empty = false;
        }
        Ok(None)
    }
}

impl Batch {
    /// The entries, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &[u8])> + Clone {
        self.image.entries()
    }
}
