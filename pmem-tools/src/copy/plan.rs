//! What there is to copy.

use std::collections::HashMap;
use std::path::PathBuf;

use udax::FileKind;

use super::tally::Tally;
use super::tree::{Attributes, Source};

/// A file, directory or anything else to copy.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Where it is.
    pub(crate) source: PathBuf,
    /// Where it goes.
    pub(crate) target: PathBuf,
    /// What it is.
    pub(crate) attributes: Attributes,
    /// The index in the plan of an earlier name of the same file.
    pub(crate) link_to: Option<usize>,
}

/// A tree to copy, and where to.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Its top.
    pub(crate) source: PathBuf,
    /// Where its top goes.
    pub(crate) target: PathBuf,
}

/// Everything to copy, each directory before what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// The items.
    pub(crate) items: Vec<Item>,
    /// Bytes that are stored in the files: what there is to read.
    pub(crate) bytes: u64,
}

impl Plan {
    /// Finds everything below `roots`. What cannot be read fails in `tally`. Files beyond `limit` bytes in
    /// all are left out; directories and links are not.
    pub(crate) fn collect<S: Source>(source: &S, roots: Vec<Root>, limit: u64, tally: &Tally) -> Self {
        let mut plan = Self::default();
        let mut names = HashMap::new();
        let mut open: Vec<Root> = roots;
        open.reverse();
        while let Some(next) = open.pop() {
            let found = source
                .attributes(&next.source)
                .and_then(|attributes| Ok((collect_children(source, &next, &attributes)?, attributes)));
            match found {
                Ok((children, attributes)) => {
                    open.extend(children.into_iter().rev());
                    plan.push(next, attributes, &mut names, limit);
                }
                Err(error) => tally.fail(&source.shown(&next.source), &error),
            }
        }
        plan
    }

    fn push(
        &mut self,
        place: Root,
        attributes: Attributes,
        names: &mut HashMap<(u64, u64), usize>,
        limit: u64,
    ) {
        let mut link_to = None;
        let stored = match attributes.kind {
            FileKind::Regular => attributes.size.min(attributes.allocated.max(1)),
            _ => 0,
        };
        if attributes.kind != FileKind::Directory && attributes.nlink > 1 {
            link_to = names.get(&attributes.identity).copied();
        }
        if link_to.is_none() {
            if self.bytes.saturating_add(stored) > limit {
                return;
            }
            self.bytes += stored;
            names.insert(attributes.identity, self.items.len());
        }
        self.items.push(Item {
            source: place.source,
            target: place.target,
            attributes,
            link_to,
        });
    }

    /// The whole of a plan's indices that are to be done in parallel: neither directories nor further names.
    pub(crate) fn leaves(&self) -> Vec<usize> {
        (0..self.items.len())
            .filter(|index| {
                self.items
                    .get(*index)
                    .is_some_and(|item| item.link_to.is_none() && item.attributes.kind != FileKind::Directory)
            })
            .collect()
    }
}

fn collect_children<S: Source>(
    source: &S,
    place: &Root,
    attributes: &Attributes,
) -> anyhow::Result<Vec<Root>> {
    if attributes.kind != FileKind::Directory {
        return Ok(Vec::new());
    }
    let names = source.names(&place.source)?;
    Ok(names
        .into_iter()
        .map(|name| Root {
            source: place.source.join(&name),
            target: place.target.join(&name),
        })
        .collect())
}
