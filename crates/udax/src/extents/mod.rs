//! A file's extents: inline in the inode while there are at most four, in a tree of the file's own beyond that.
//!
//! Files of up to [`CACHED_EXTENTS`] extents have them all in memory while the inode is in use; larger ones are looked
//! up in their tree. [`ExtentMap`] changes them within an update: it takes the cache out of the inode's state and puts
//! it back when the update has committed, so that a failed update leaves no wrong cache behind.
//!
//! All under the inode's lock: shared for [`lookup`], alone for changes.

use smallvec::SmallVec;
use udax_media::extent::{Extent, INLINE_SIZE, MAX_EXTENT_BLOCKS};
use udax_media::inode::{INLINE_BYTES, InodeFlags, MAX_INLINE_EXTENTS, offset};
use udax_media::node::{TreeKind, TreeRoot};
use udax_media::{BlockNo, FileBlock, Place};

use crate::error::{Error, Result};
use crate::fresh::FreshNodes;
use crate::inode::fields::{high, low, pair};
use crate::inode::{Inode, InodeState};
use crate::pool::Pool;
use crate::tree::{Cursor, NodeSource, Tree};
use crate::update::Update;

/// The most extents of one file that are kept in memory (32 bytes each).
const CACHED_EXTENTS: usize = 4096;

/// Extents that are few most of the time.
pub(crate) type FewExtents = SmallVec<[Extent; 4]>;

/// What is known in memory of a file's extents.
#[derive(Debug, Default)]
pub(crate) enum ExtentCache {
    /// Nothing yet.
    #[default]
    Unloaded,
    /// All of them, ascending.
    Whole(Vec<Extent>),
    /// They are many, and in this tree.
    Large(Tree),
}

/// What a file block is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mapping {
    /// This extent.
    Extent(Extent),
    /// No blocks, up to this file block.
    Hole {
        /// Where the next extent begins.
        until: FileBlock,
    },
}

/// The file block after the last one that a file can have.
pub(crate) const END_OF_FILES: FileBlock = FileBlock(1 << 51);

impl ExtentCache {
    /// Whether lookups need [`load`] first.
    pub(crate) fn is_unloaded(&self) -> bool {
        matches!(self, Self::Unloaded)
    }
}

/// Fills the cache of `state` if it is empty.
///
/// # Errors
/// A damaged inode or tree.
pub(crate) fn load(pool: &Pool, inode: &Inode, state: &mut InodeState) -> Result<()> {
    if state.extents.is_unloaded() {
        state.extents = read(pool, inode)?;
    }
    Ok(())
}

fn read(pool: &Pool, inode: &Inode) -> Result<ExtentCache> {
    let (_, flags) = pool.inode_mode_and_flags(inode)?;
    if !InodeFlags::from_bits_retain(flags).contains(InodeFlags::EXTENT_TREE) {
        return Ok(ExtentCache::Whole(read_inline(pool, inode)?));
    }
    let tree = Tree::new(inode.tree_identity(TreeKind::Extents), pool.inode_root(inode)?);
    let mut extents: Vec<Extent> = Vec::new();
    let mut cursor = Cursor::starting_at(0);
    while let Some(batch) = cursor.next_batch(&tree, pool)? {
        for (key, value) in batch.iter() {
            let extent = decode(pool, inode, key, value)?;
            if extents.last().is_some_and(|last| last.end() > extent.first) {
                return Err(overlap(inode));
            }
            extents.push(extent);
        }
        if extents.len() > CACHED_EXTENTS {
            return Ok(ExtentCache::Large(tree));
        }
    }
    Ok(ExtentCache::Whole(extents))
}

fn read_inline(pool: &Pool, inode: &Inode) -> Result<Vec<Extent>> {
    let count = usize::try_from(low(pool.word(inode.field(offset::INLINE_COUNT))?)).unwrap_or(usize::MAX);
    if count > MAX_INLINE_EXTENTS {
        return Err(overlap(inode));
    }
    let mut bytes = [0; INLINE_BYTES];
    let read = pool.region.read(inode.field(offset::INLINE).raw(), &mut bytes);
    pool.health.note("an inode", read)?;
    let mut extents: Vec<Extent> = Vec::with_capacity(count);
    for encoded in bytes.as_chunks::<INLINE_SIZE>().0.iter().take(count) {
        let extent = Extent::decode_inline(encoded, pool.reach())
            .filter(|extent| !pool.space.geometry().is_own(extent.blocks()))
            .ok_or_else(|| overlap(inode))?;
        if extents.last().is_some_and(|last| last.end() > extent.first) {
            return Err(overlap(inode));
        }
        extents.push(extent);
    }
    Ok(extents)
}

fn decode(pool: &Pool, inode: &Inode, key: u64, value: &[u8]) -> Result<Extent> {
    Extent::decode(FileBlock(key), value, pool.reach())
        .filter(|extent| !pool.space.geometry().is_own(extent.blocks()))
        .ok_or_else(|| overlap(inode))
}

fn overlap(inode: &Inode) -> Error {
    Error::Inconsistent {
        place: Place::Inode(inode.ino),
        what: "its extents are impossible or overlap",
    }
}

/// What `block` is part of. The cache must be loaded.
///
/// # Errors
/// A damaged tree.
#[inline]
pub(crate) fn lookup(pool: &Pool, inode: &Inode, cache: &ExtentCache, block: FileBlock) -> Result<Mapping> {
    match cache {
        ExtentCache::Whole(extents) => {
            let next = extents.partition_point(|extent| extent.end() <= block);
            Ok(match extents.get(next) {
                Some(extent) if extent.first <= block => Mapping::Extent(*extent),
                Some(extent) => Mapping::Hole { until: extent.first },
                None => Mapping::Hole { until: END_OF_FILES },
            })
        }
        ExtentCache::Large(tree) => lookup_in_tree(pool, inode, tree, block),
        ExtentCache::Unloaded => Err(Error::Invalid("extents are not loaded")),
    }
}

fn lookup_in_tree(pool: &Pool, inode: &Inode, tree: &Tree, block: FileBlock) -> Result<Mapping> {
    if let Some((key, value)) = tree.floor(pool, block.raw())? {
        let extent = decode(pool, inode, key, &value.bytes)?;
        if extent.end() > block {
            return Ok(Mapping::Extent(extent));
        }
    }
    let next = tree.ceiling(pool, block.raw())?;
    Ok(Mapping::Hole {
        until: next.map_or(END_OF_FILES, |(key, _)| FileBlock(key)),
    })
}

/// The extents that touch `first..end`, at most `limit`, ascending. The cache must be loaded.
///
/// # Errors
/// A damaged tree.
pub(crate) fn list(
    pool: &Pool,
    inode: &Inode,
    cache: &ExtentCache,
    (first, end): (FileBlock, FileBlock),
    limit: usize,
) -> Result<Vec<Extent>> {
    match cache {
        ExtentCache::Whole(extents) => Ok(collect_from_list(extents, (first, end), limit).0),
        ExtentCache::Large(tree) => Ok(collect_from_tree(pool, (pool, inode, tree), (first, end), limit)?.0),
        ExtentCache::Unloaded => Err(Error::Invalid("extents are not loaded")),
    }
}

fn collect_from_list(
    extents: &[Extent],
    (first, end): (FileBlock, FileBlock),
    limit: usize,
) -> (Vec<Extent>, Completeness) {
    let from = extents.partition_point(|extent| extent.end() <= first);
    let mut rest = extents.iter().skip(from).take_while(|extent| extent.first < end);
    let found = rest.by_ref().take(limit).copied().collect();
    match rest.next() {
        Some(_) => (found, Completeness::More),
        None => (found, Completeness::All),
    }
}

/// Reads each leaf once: a lookup for each extent would read it as often as it has entries.
fn collect_from_tree<S: NodeSource<Error = Error>>(
    source: &S,
    (pool, inode, tree): (&Pool, &Inode, &Tree),
    (first, end): (FileBlock, FileBlock),
    limit: usize,
) -> Result<(Vec<Extent>, Completeness)> {
    let mut found = Vec::new();
    let before = tree
        .floor(source, first.raw())?
        .map_or(first.raw(), |(key, _)| key);
    let mut cursor = Cursor::starting_at(before);
    while let Some(batch) = cursor.next_batch(tree, source)? {
        for (key, value) in batch.iter() {
            if key >= end.raw() {
                return Ok((found, Completeness::All));
            }
            let extent = decode(pool, inode, key, value)?;
            if extent.end() <= first {
                continue;
            }
            if found.len() == limit {
                return Ok((found, Completeness::More));
            }
            found.push(extent);
        }
    }
    Ok((found, Completeness::All))
}

/// A file's extents while an update changes them.
#[derive(Debug)]
pub(crate) struct ExtentMap<'i> {
    inode: &'i Inode,
    tree: Tree,
    is_tree: bool,
    /// All extents, or `None` when they are many and only in the tree.
    whole: Option<Vec<Extent>>,
}

impl<'i> ExtentMap<'i> {
    /// Takes the extents out of `state`.
    ///
    /// # Errors
    /// A damaged inode or tree.
    pub(crate) fn begin(pool: &Pool, inode: &'i Inode, state: &mut InodeState) -> Result<Self> {
        load(pool, inode, state)?;
        let (_, flags) = pool.inode_mode_and_flags(inode)?;
        let is_tree = InodeFlags::from_bits_retain(flags).contains(InodeFlags::EXTENT_TREE);
        let root = if is_tree {
            pool.inode_root(inode)?
        } else {
            TreeRoot::EMPTY
        };
        let whole = match std::mem::take(&mut state.extents) {
            ExtentCache::Whole(extents) => Some(extents),
            ExtentCache::Large(_) | ExtentCache::Unloaded => None,
        };
        Ok(Self {
            inode,
            tree: Tree::new(inode.tree_identity(TreeKind::Extents), root),
            is_tree,
            whole,
        })
    }

    /// Puts the extents back: the update has committed, or nothing was changed.
    pub(crate) fn finish(self, state: &mut InodeState) {
        state.extents = match self.whole {
            Some(extents) if extents.len() <= 2 * CACHED_EXTENTS => ExtentCache::Whole(extents),
            _ => ExtentCache::Large(self.tree),
        };
    }

    /// The extent that ends last, if any.
    pub(crate) fn last(&self, update: &Update<'_>) -> Result<Option<Extent>> {
        match &self.whole {
            Some(extents) => Ok(extents.last().copied()),
            None => match self.tree.floor(update, u64::MAX)? {
                Some((key, value)) => Ok(Some(decode(update.pool, self.inode, key, &value.bytes)?)),
                None => Ok(None),
            },
        }
    }

    /// The extents that touch `first..end`, at most `limit`, ascending; and whether there are no more.
    pub(crate) fn collect(
        &self,
        update: &Update<'_>,
        first: FileBlock,
        end: FileBlock,
        limit: usize,
    ) -> Result<(Vec<Extent>, Completeness)> {
        if let Some(extents) = &self.whole {
            return Ok(collect_from_list(extents, (first, end), limit));
        }
        let of_tree = (update.pool, self.inode, &self.tree);
        collect_from_tree(update, of_tree, (first, end), limit)
    }

    /// Replaces what is mapped in `first..end` by `new` (inside that range, ascending), joining neighbours that
    /// continue each other. Gives what was mapped there, cut to the range. Frees and allocates nothing.
    pub(crate) fn splice(
        &mut self,
        update: &mut Update<'_>,
        first: FileBlock,
        end: FileBlock,
        new: &[Extent],
    ) -> Result<FewExtents> {
        // One block more on both sides finds the neighbours.
        let from = FileBlock(first.raw().saturating_sub(1));
        let to = FileBlock(end.raw().saturating_add(1));
        let (old, _) = self.collect(update, from, to, usize::MAX)?;
        let left = old.iter().filter_map(|extent| clip(extent, FileBlock(0), first));
        let right = old.iter().filter_map(|extent| clip(extent, end, END_OF_FILES));
        let list = joined(left.chain(new.iter().copied()).chain(right));
        self.replace(update, &old, &list)?;
        Ok(old.iter().filter_map(|extent| clip(extent, first, end)).collect())
    }

    /// Replaces the consecutive extents `old` by `new`.
    fn replace(&mut self, update: &mut Update<'_>, old: &[Extent], new: &[Extent]) -> Result<()> {
        if let Some(extents) = &mut self.whole {
            let at = match (old.first(), new.first()) {
                (Some(extent), _) | (None, Some(extent)) => {
                    extents.partition_point(|other| other.first < extent.first)
                }
                (None, None) => return Ok(()),
            };
            extents.splice(at..at + old.len(), new.iter().copied());
        }
        if self.is_tree {
            self.replace_in_tree(update, old, new)?;
            if self.tree.root == TreeRoot::EMPTY {
                self.is_tree = false;
                self.whole = Some(Vec::new());
            }
            return Ok(());
        }
        let Some(extents) = &self.whole else {
            return Err(overlap(self.inode));
        };
        if extents.len() > MAX_INLINE_EXTENTS {
            for extent in extents {
                self.tree
                    .insert_new(update, extent.first.raw(), &extent.encode())?;
            }
            self.is_tree = true;
        }
        Ok(())
    }

    fn replace_in_tree(&mut self, update: &mut Update<'_>, old: &[Extent], new: &[Extent]) -> Result<()> {
        for extent in old {
            if !new.iter().any(|other| other.first == extent.first) {
                self.tree.remove(update, extent.first.raw())?;
            }
        }
        for extent in new {
            match old.iter().find(|other| other.first == extent.first) {
                Some(same) if same == extent => {}
                Some(_) => {
                    self.tree.replace(update, extent.first.raw(), &extent.encode())?;
                }
                None => {
                    self.tree
                        .insert_new(update, extent.first.raw(), &extent.encode())?;
                }
            }
        }
        Ok(())
    }

    /// Replaces all extents by `extents`, in fresh nodes where they need a tree. The old tree's nodes are freed.
    pub(crate) fn rebuild(&mut self, update: &mut Update<'_>, extents: Vec<Extent>) -> Result<()> {
        self.free_nodes(update)?;
        self.tree = Tree::new(self.inode.tree_identity(TreeKind::Extents), TreeRoot::EMPTY);
        self.is_tree = extents.len() > MAX_INLINE_EXTENTS;
        if self.is_tree {
            let pairs = extents.iter().map(|extent| (extent.first.raw(), extent.encode()));
            self.tree = Tree::build(update, self.tree.identity, pairs)?;
        }
        self.whole = Some(extents);
        Ok(())
    }

    /// Replaces all extents by `extents`, in nodes from `fresh` where they need a tree; gives how many nodes. The old
    /// tree's nodes become the caller's.
    pub(crate) fn rebuild_outside(
        &mut self,
        fresh: &mut FreshNodes<'_>,
        extents: Vec<Extent>,
    ) -> Result<u64> {
        let mut nodes = 0;
        self.tree.root = TreeRoot::EMPTY;
        self.is_tree = extents.len() > MAX_INLINE_EXTENTS;
        if self.is_tree {
            let pairs = extents.iter().map(|extent| (extent.first.raw(), extent.encode()));
            (self.tree.root, nodes) = fresh.build(self.tree.identity, pairs)?;
        }
        self.whole = Some(extents);
        Ok(nodes)
    }

    /// Frees the tree's nodes, if there is one.
    fn free_nodes(&mut self, update: &mut Update<'_>) -> Result<()> {
        let nodes = self.nodes(update.pool)?;
        nodes.into_iter().try_for_each(|node| update.free_metadata(node))
    }

    /// The tree's nodes, if there is one.
    pub(crate) fn nodes(&self, pool: &Pool) -> Result<Vec<BlockNo>> {
        let mut nodes: Vec<BlockNo> = Vec::new();
        self.tree.for_each_node(pool, |block, _| {
            nodes.push(block);
            Ok(())
        })?;
        Ok(nodes)
    }

    /// Adds to `update` what has changed in the inode: root, flags, inline extents.
    pub(crate) fn store(&self, update: &mut Update<'_>) -> Result<()> {
        let pool = update.pool;
        let inode = self.inode;
        let (mode, flags) = pool.inode_mode_and_flags(inode)?;
        let mut new_flags = InodeFlags::from_bits_retain(flags);
        new_flags.set(InodeFlags::EXTENT_TREE, self.is_tree);
        if new_flags.bits() != flags {
            update.write_u64(inode.field(offset::MODE), pair(mode, new_flags.bits()));
        }
        let root = self.tree.root;
        if root != pool.inode_root(inode)? {
            update.write_u64(inode.field(offset::ROOT), root.word());
        }
        let inline: &[Extent] = match &self.whole {
            Some(extents) if !self.is_tree => extents,
            _ => &[],
        };
        let word = pool.word(inode.field(offset::INLINE_COUNT))?;
        let count = u32::try_from(inline.len()).unwrap_or(u32::MAX);
        if inline.is_empty() && low(word) == 0 {
            return Ok(());
        }
        let mut bytes: SmallVec<[u8; 8 + INLINE_BYTES]> = SmallVec::new();
        bytes.extend_from_slice(&pair(count, high(word)).to_le_bytes());
        for extent in inline {
            bytes.extend_from_slice(&extent.encode_inline());
        }
        update.write(inode.field(offset::INLINE_COUNT), &bytes);
        Ok(())
    }
}

/// Whether a limited look found everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Completeness {
    /// Everything.
    All,
    /// There is more.
    More,
}

/// The part of `extent` in `first..end`.
pub(crate) fn clip(extent: &Extent, first: FileBlock, end: FileBlock) -> Option<Extent> {
    let from = extent.first.max(first);
    let to = extent.end().min(end);
    let count = to.raw().checked_sub(from.raw()).filter(|count| *count > 0)?;
    let skipped = from.raw() - extent.first.raw();
    Some(Extent {
        first: from,
        start: BlockNo(extent.start.raw() + skipped),
        count,
        flags: extent.flags,
    })
}

/// The parts of `extents` in `first..end`, moved to where `to` is its first block.
pub(crate) fn moved(
    extents: &[Extent],
    (first, end): (FileBlock, FileBlock),
    to: FileBlock,
) -> impl Iterator<Item = Extent> {
    let parts = extents.iter().filter_map(move |extent| clip(extent, first, end));
    parts.map(move |part| Extent {
        first: FileBlock(part.first.raw() - first.raw() + to.raw()),
        ..part
    })
}

/// Ascending `extents`, those joined that continue each other.
pub(crate) fn joined(extents: impl Iterator<Item = Extent>) -> FewExtents {
    let mut joined = FewExtents::new();
    for extent in extents {
        match joined.last_mut() {
            Some(last) if continues(last, &extent) => last.count += extent.count,
            _ => joined.push(extent),
        }
    }
    joined
}

/// Blocks in all of `extents`.
pub(crate) fn total(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.count).sum()
}

/// Whether `next` goes on where `last` ends, so that both are one extent.
fn continues(last: &Extent, next: &Extent) -> bool {
    last.end() == next.first
        && last.blocks().end() == next.start
        && last.flags == next.flags
        && last.count + next.count <= MAX_EXTENT_BLOCKS
}
