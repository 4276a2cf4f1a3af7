//! The inode table: from inode numbers to places, and which numbers are free.
//!
//! Chunks of sixteen inodes are found through the pool's inode tree once, then through an array in memory, which also
//! remembers which of their inodes have been verified. A chunk never moves while it exists.
//!
//! Free numbers are kept in a few lists, so that threads seldom meet. What is on media tells which numbers are free
//! (mode 0); the lists are filled by looking at a few existing chunks and then by making new ones, so that opening a
//! pool reads no inode.
//!
//! Locks: the tree (rank InodeTable) is held while chunks are made or freed, until the record is durable; a list is
//! a leaf.

use smallvec::SmallVec;
use udax_media::geometry::ROOTS;
use udax_media::inode::{self, CHUNK_INODES, INODE_SIZE};
use udax_media::node::{NodeIdentity, TreeRoot};
use udax_media::pool_tree::{decode_chunk, encode_chunk};
use udax_media::roots::PoolTree;
use udax_media::{BlockNo, ByteOffset, InodeNo, Place};
use udax_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use udax_sync::{CachePadded, Mutex, OnceLock, Rank, RwLock, thread_number};

use crate::error::{Error, Result};
use crate::inode::fields::low;
use crate::pool::Pool;
use crate::tree::{Cursor, NodeSource, Tree};
use crate::update::Update;

/// Lists of free numbers.
const LISTS: usize = 16;
/// Chunks made at a time, when the pool has room.
const NEW_CHUNKS: u64 = 4;
/// Existing chunks looked at before new ones are made.
const SCAN_CHUNKS: usize = 8;
/// Empty chunks that may gather: 1 MiB. With more, half as many are kept for the next inodes and the rest is freed,
/// which costs a record for a thousand inodes, and one for 64 to make such chunks again.
const KEPT_CHUNKS: u64 = 256;
/// No chunk has this number or a higher one: there would be no cell for it.
const END: u64 = 1 << 27;
/// Numbers without a chunk that a look for them gives.
const GAPS: usize = 4096;
/// Chunks freed with one record: with their bits and their tree's changes far below a record's limit.
const CHUNKS_PER_RECORD: usize = 64;
/// A chunk's bits when all its numbers are in lists.
const ALL_LISTED: u32 = 0xffff;
/// The block's bits in a cell's word.
const BLOCK_MASK: u64 = (1 << 48) - 1;
const PAGE: usize = 1 << 13;
const PAGES: usize = 1 << 14;
const _: () = assert!(PAGE * PAGES == 1 << 27 && END <= inode::MAX_CHUNK);

/// The inode table of an open pool.
#[derive(Debug)]
pub(crate) struct InodeTable {
    /// No chunk has this number or a higher one.
    limit: AtomicU64,
    tree: RwLock<TableState>,
    pages: Box<[OnceLock<Box<[ChunkCell]>>]>,
    free: Box<[CachePadded<Mutex<Vec<InodeNo>>>]>,
    /// Chunks with all numbers listed: without one, a full pool need not look for any.
    empty: AtomicU64,
}

/// What is known of a chunk.
#[derive(Debug, Default)]
struct ChunkCell {
    /// Its block in the low bits (0: not yet looked up), a verified bit for each inode above.
    word: AtomicU64,
    /// A bit for each inode whose number is in a list of free numbers.
    listed: AtomicU32,
    /// A bit for each inode whose number has been in a list, or whose inode had an object, since the pool was opened.
    /// Such a number comes back through [`InodeTable::give_back`] only: that its slot is zero tells nothing, as it may
    /// be taken by a creation, or freed by an unlink, that is still under way.
    known: AtomicU32,
}

#[derive(Debug)]
struct TableState {
    root: TreeRoot,
    /// The number of the next chunk that is new.
    next_chunk: u64,
    /// Numbers of chunks that were freed, which are used first: numbers are finite.
    freed: Vec<u64>,
    /// Empty chunks could not be freed: only a full pool tries again.
    keeps_empty: bool,
    /// Where the look for free numbers in existing chunks continues; `None` when all have been seen.
    scan: Option<u64>,
}

/// Whose nodes the inode table has.
pub(crate) const IDENTITY: NodeIdentity = NodeIdentity {
    kind: PoolTree::InodeTable.kind(),
    owner: 0,
    generation: 0,
};

impl InodeTable {
    pub(crate) fn new(root: TreeRoot) -> Self {
        let state = TableState {
            root,
            next_chunk: 0,
            freed: Vec::new(),
            keeps_empty: false,
            scan: Some(0),
        };
        Self {
            limit: AtomicU64::new(0),
            tree: RwLock::new(Rank::InodeTable, state),
            pages: (0..PAGES).map(|_| OnceLock::new()).collect(),
            free: (0..LISTS)
                .map(|_| CachePadded::new(Mutex::new(Rank::Leaf, Vec::new())))
                .collect(),
            empty: AtomicU64::new(0),
        }
    }

    /// Finds the highest chunk.
    pub(crate) fn start(&self, pool: &Pool) -> Result<()> {
        let mut state = self.tree.write();
        let last = Tree::new(IDENTITY, state.root).floor(pool, u64::MAX)?;
        state.next_chunk = match last {
            Some((chunk, _)) => check_chunk(chunk)? + 1,
            None => 0,
        };
        self.limit.store(state.next_chunk, Ordering::Relaxed);
        Ok(())
    }

    /// Some chunks with numbers from `first`, ascending, and their blocks; none after the last. `source` verifies the
    /// nodes on the way, with the tree's lock held.
    pub(crate) fn collect_chunks(
        &self,
        source: &impl NodeSource<Error = Error>,
        total_blocks: u64,
        first: u64,
    ) -> Result<Vec<(u64, BlockNo)>> {
        let state = self.tree.read();
        let tree = Tree::new(IDENTITY, state.root);
        let Some(batch) = Cursor::starting_at(first).next_batch(&tree, source)? else {
            return Ok(Vec::new());
        };
        let decoded = batch.iter().map(|(chunk, value)| {
            let block = decode_chunk(value, total_blocks).ok_or(Error::Inconsistent {
                place: Place::Block(ROOTS),
                what: "the inode table has an impossible block of a chunk",
            })?;
            Ok((check_chunk(chunk)?, block))
        });
        decoded.collect()
    }

    /// Where inode `ino` is, verified when it is first met. It may be free.
    ///
    /// # Errors
    /// `Stale` when there is no such chunk; a damaged inode.
    #[inline]
    pub(crate) fn locate(&self, pool: &Pool, ino: InodeNo) -> Result<ByteOffset> {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        // Before a cell is made for it: a damaged entry may name any number.
        if chunk >= self.limit.load(Ordering::Relaxed) {
            return Err(Error::Stale(ino));
        }
        let cell = self.cell(chunk).ok_or(Error::Stale(ino))?;
        // Pairs with the stores in `locate_under` and `make_chunks`.
        let word = cell.word.load(Ordering::Acquire);
        if word & (1 << (48 + slot)) != 0 {
            return Ok(inode::offset_in_chunk(BlockNo(word & BLOCK_MASK), ino));
        }
        self.locate_first(pool, ino, cell)
    }

    #[cold]
    fn locate_first(&self, pool: &Pool, ino: InodeNo, cell: &ChunkCell) -> Result<ByteOffset> {
        let state = self.tree.read();
        self.locate_under(pool, &state, ino, cell)
    }

    /// As [`InodeTable::locate`], with the tree's lock held.
    fn locate_under(
        &self,
        pool: &Pool,
        state: &TableState,
        ino: InodeNo,
        cell: &ChunkCell,
    ) -> Result<ByteOffset> {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        // Under the tree's lock no chunk is freed: a block that is known is right.
        let block = match cell.word.load(Ordering::Acquire) & BLOCK_MASK {
            0 => Self::find_chunk(pool, state, ino, chunk)?,
            known => BlockNo(known),
        };
        let at = inode::offset_in_chunk(block, ino);
        let mut bytes = [0; INODE_SIZE];
        pool.health
            .note("an inode", pool.region.read(at.raw(), &mut bytes))?;
        let verified = inode::verify(pool.seed, &bytes, ino, pool.reach());
        // Whoever has verified it before us may have changed it since, and its checksum waits for the next checkpoint.
        let is_known = || cell.word.load(Ordering::Acquire) & (1 << (48 + slot)) != 0;
        if let Err(error) = verified
            && !is_known()
        {
            return Err(error.into());
        }
        // Under the tree's lock no chunk is freed, so the block is the same for everybody. Pairs with `locate`.
        cell.word
            .fetch_or(block.raw() | (1 << (48 + slot)), Ordering::AcqRel);
        Ok(at)
    }

    /// The block of inode `ino`'s chunk, from the tree.
    fn find_chunk(pool: &Pool, state: &TableState, ino: InodeNo, chunk: u64) -> Result<BlockNo> {
        let value = Tree::new(IDENTITY, state.root)
            .get(pool, chunk)?
            .ok_or(Error::Stale(ino))?;
        decode_chunk(&value.bytes, pool.total_blocks()).ok_or(Error::Inconsistent {
            place: Place::Inode(ino),
            what: "its chunk's block is impossible",
        })
    }

    /// A free inode number and where it is. The caller uses it in an update or gives it back.
    pub(crate) fn take(&self, pool: &Pool) -> Result<(InodeNo, ByteOffset)> {
        let list = self.list();
        loop {
            let next = list.lock().pop();
            match next {
                Some(ino) => {
                    self.set_listed(ino, false);
                    return Ok((ino, self.locate(pool, ino)?));
                }
                None => self.refill(pool, list)?,
            }
        }
    }

    /// Makes a number available: its inode was freed by a committed update, or it was taken and not used.
    pub(crate) fn give_back(&self, ino: InodeNo) {
        self.add_to(self.list(), [ino]);
    }

    fn add_to(&self, list: &Mutex<Vec<InodeNo>>, numbers: impl IntoIterator<Item = InodeNo>) {
        let mut list = list.lock();
        for ino in numbers {
            self.set_listed(ino, true);
            list.push(ino);
        }
    }

    fn set_listed(&self, ino: InodeNo, is_listed: bool) {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        let Some(cell) = self.cell(chunk) else { return };
        let bit = 1 << slot;
        // Hints, which tell where to look: what counts is which numbers are found in the lists.
        if is_listed {
            let before = cell.listed.fetch_or(bit, Ordering::Relaxed);
            if before != ALL_LISTED && before | bit == ALL_LISTED {
                self.empty.fetch_add(1, Ordering::Relaxed);
            }
        } else if cell.listed.fetch_and(!bit, Ordering::Relaxed) == ALL_LISTED {
            self.empty.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// From now on the number is free only when it is given back; whether it was not so before.
    pub(crate) fn note_known(&self, ino: InodeNo) -> bool {
        let (chunk, slot) = inode::chunk_and_slot(ino);
        // Set before an inode is used or freed, and looked at after its slot was seen to be zero.
        self.cell(chunk)
            .is_some_and(|cell| cell.known.fetch_or(1 << slot, Ordering::AcqRel) & (1 << slot) == 0)
    }

    /// Whether `at` is still where inode `ino` is: its chunk has not been freed since it was located.
    pub(crate) fn is_at(&self, ino: InodeNo, at: ByteOffset) -> bool {
        let (chunk, _) = inode::chunk_and_slot(ino);
        // Pairs with the store in `free_chunks`, before which the chunk's block cannot be used anew.
        self.cell(chunk).is_some_and(|cell| {
            let block = BlockNo(cell.word.load(Ordering::Acquire) & BLOCK_MASK);
            inode::offset_in_chunk(block, ino) == at
        })
    }

    fn list(&self) -> &Mutex<Vec<InodeNo>> {
        &self.free[thread_number() % LISTS]
    }

    #[cold]
    fn refill(&self, pool: &Pool, list: &Mutex<Vec<InodeNo>>) -> Result<()> {
        let mut state = self.tree.write();
        // Somebody may have filled it while we waited.
        if !list.lock().is_empty() {
            return Ok(());
        }
        let mut found = self.scan(pool, &mut state)?;
        if found.is_empty() {
            found = match self.make_chunks(pool, &mut state, NEW_CHUNKS) {
                Err(Error::NoSpace { .. }) => match self.make_chunks(pool, &mut state, 1) {
                    Err(full @ Error::NoSpace { .. }) => self.steal().ok_or(full).map(|ino| vec![ino])?,
                    other => other?,
                },
                other => other?,
            };
        }
        drop(state);
        self.add_to(list, found.into_iter().rev());
        Ok(())
    }

    /// Free numbers of the next few existing chunks, ascending.
    fn scan(&self, pool: &Pool, state: &mut TableState) -> Result<Vec<InodeNo>> {
        let mut found = Vec::new();
        let Some(from) = state.scan else { return Ok(found) };
        let mut cursor = Cursor::starting_at(from);
        let Some(batch) = cursor.next_batch(&Tree::new(IDENTITY, state.root), pool)? else {
            state.scan = None;
            return Ok(found);
        };
        for (chunk, _) in batch.iter().take(SCAN_CHUNKS) {
            check_chunk(chunk)?;
            for slot in 0..CHUNK_INODES {
                let ino = InodeNo(chunk * CHUNK_INODES + slot);
                if ino.raw() != 0 && self.is_free(pool, state, ino)? && self.note_known(ino) {
                    found.push(ino);
                }
            }
            state.scan = Some(chunk + 1);
        }
        Ok(found)
    }

    /// Whether the slot holds no inode. A damaged slot is not free.
    fn is_free(&self, pool: &Pool, state: &TableState, ino: InodeNo) -> Result<bool> {
        let (chunk, _) = inode::chunk_and_slot(ino);
        let Some(cell) = self.cell(chunk) else {
            return Ok(false);
        };
        match self.locate_under(pool, state, ino, cell) {
            Ok(at) => Ok(pool.word(ByteOffset(at.raw() + inode::offset::MODE))? & u64::from(u32::MAX) == 0),
            Err(Error::Corrupt(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A number from any list.
    fn steal(&self) -> Option<InodeNo> {
        let ino = self.free.iter().find_map(|list| list.lock().pop())?;
        self.set_listed(ino, false);
        Some(ino)
    }

    /// Makes `count` chunks, durably, and gives their numbers, ascending.
    fn make_chunks(&self, pool: &Pool, state: &mut TableState, count: u64) -> Result<Vec<InodeNo>> {
        let numbers = Self::numbers_for(pool, state, usize::try_from(count).unwrap_or(1))?;
        let mut update = Update::new(pool);
        let mut tree = Tree::new(IDENTITY, state.root);
        let mut made: SmallVec<[(u64, BlockNo); 4]> = SmallVec::new();
        for chunk in numbers {
            let block = update.allocate_metadata(made.last().map_or(BlockNo(0), |(_, block)| *block))?;
            tree.insert_new(&mut update, chunk, &encode_chunk(block))?;
            made.push((chunk, block));
        }
        update.set_pool_root(PoolTree::InodeTable, tree.root);
        update.commit()?;
        state.root = tree.root;
        let again = made.len().min(state.freed.len());
        state.freed.truncate(state.freed.len() - again);
        let last = made.last().map_or(0, |(chunk, _)| chunk + 1);
        state.next_chunk = state.next_chunk.max(last);
        self.limit.store(state.next_chunk, Ordering::Relaxed);
        let mut numbers = Vec::with_capacity(made.len() * 16);
        for (chunk, block) in made {
            if let Some(cell) = self.cell(chunk) {
                // All sixteen are zero: verified by construction. Pairs with the Acquire in `locate`.
                cell.word.store(block.raw() | !BLOCK_MASK, Ordering::Release);
                // A later look at existing chunks must not find them again.
                cell.known.store(ALL_LISTED, Ordering::Release);
            }
            numbers.extend(numbers_of(chunk).filter(|ino| ino.raw() != 0));
        }
        Ok(numbers)
    }

    /// Numbers for `count` chunks, ascending. They are still free when making them fails.
    fn numbers_for(pool: &Pool, state: &mut TableState, count: usize) -> Result<SmallVec<[u64; 4]>> {
        if state.freed.is_empty() && state.next_chunk >= END {
            Self::find_gaps(pool, state)?;
        }
        let freed = state.freed.iter().rev().copied();
        let mut numbers: SmallVec<[u64; 4]> = freed.chain(state.next_chunk..END).take(count).collect();
        if numbers.len() < count {
            return Err(Error::no_room());
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Looks for numbers of chunks that were freed before the pool was opened.
    #[cold]
    fn find_gaps(pool: &Pool, state: &mut TableState) -> Result<()> {
        let tree = Tree::new(IDENTITY, state.root);
        let mut cursor = Cursor::starting_at(0);
        let mut next = 0;
        let mut found = Vec::new();
        while let Some(batch) = cursor.next_batch(&tree, pool)? {
            for (chunk, _) in batch.iter() {
                found.extend((next..check_chunk(chunk)?.min(END)).take(GAPS - found.len()));
                next = chunk + 1;
            }
        }
        found.extend((next..END).take(GAPS - found.len()));
        // They are taken from the end.
        state.freed = found.into_iter().rev().collect();
        Ok(())
    }

    /// Frees the chunks of which every inode is free. Only when the pool is full: it may look at all free numbers.
    pub(crate) fn free_empty_chunks(&self, pool: &Pool) -> Result<()> {
        let mut state = self.tree.write();
        while state.scan.is_some() {
            let found = self.scan(pool, &mut state)?;
            self.add_to(self.list(), found);
        }
        state.keeps_empty = false;
        self.free_known(pool, &mut state, 0)
    }

    /// Whether more empty chunks are known than may gather.
    fn has_many_empty(&self) -> bool {
        self.empty.load(Ordering::Relaxed) > KEPT_CHUNKS
    }

    /// Frees all but half as many empty chunks as may gather. Not while somebody makes or frees some.
    #[cold]
    fn free_surplus(&self, pool: &Pool) -> Result<()> {
        let Some(mut state) = self.tree.try_write().filter(|state| !state.keeps_empty) else {
            return Ok(());
        };
        let kept = usize::try_from(KEPT_CHUNKS / 2).unwrap_or(0);
        let freed = self.free_known(pool, &mut state, kept);
        state.keeps_empty = freed.is_err();
        freed
    }

    /// Frees the chunks that are known to be empty, but for the first `kept`.
    fn free_known(&self, pool: &Pool, state: &mut TableState, kept: usize) -> Result<()> {
        if self.empty.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let (mut chunks, rest) = self.take_empty_chunks();
        self.add_to(self.list(), rest);
        let surplus = chunks.split_off(kept.min(chunks.len()));
        self.add_to(self.list(), chunks.into_iter().flat_map(numbers_of));
        let chunks = surplus;
        for (index, batch) in chunks.chunks(CHUNKS_PER_RECORD).enumerate() {
            if let Err(error) = self.free_chunks(pool, state, batch) {
                let kept = chunks.iter().skip(index * CHUNKS_PER_RECORD);
                self.add_to(self.list(), kept.flat_map(|chunk| numbers_of(*chunk)));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the numbers of empty chunks out of the lists, in one pass over them; gives those chunks, and the numbers
    /// of others that have come along. A free number that is in no list was taken by a creation that is under way.
    fn take_empty_chunks(&self) -> (Vec<u64>, Vec<InodeNo>) {
        let mut taken: Vec<InodeNo> = Vec::new();
        for list in &self.free {
            let is_empty = |ino: &mut InodeNo| {
                let cell = self.cell(inode::chunk_and_slot(*ino).0);
                cell.is_some_and(|cell| cell.listed.load(Ordering::Relaxed) == ALL_LISTED)
            };
            taken.extend(list.lock().extract_if(.., is_empty));
        }
        taken.sort_unstable();
        let (mut chunks, mut rest) = (Vec::new(), Vec::new());
        for numbers in taken.chunk_by(|one, other| one.raw() / CHUNK_INODES == other.raw() / CHUNK_INODES) {
            match numbers.first() {
                // Some may have been taken since the bits were looked at: then the chunk stays.
                Some(first) if u64::try_from(numbers.len()) == Ok(CHUNK_INODES) => {
                    chunks.push(first.raw() / CHUNK_INODES);
                }
                _ => rest.extend(numbers),
            }
        }
        (chunks, rest)
    }

    /// Frees chunks whose numbers the caller has taken out of the lists, in one record.
    fn free_chunks(&self, pool: &Pool, state: &mut TableState, chunks: &[u64]) -> Result<()> {
        let mut update = Update::freeing(pool);
        let mut tree = Tree::new(IDENTITY, state.root);
        for chunk in chunks {
            let missing = Error::Inconsistent {
                place: Place::Block(ROOTS),
                what: "a chunk of inodes is not in the inode table",
            };
            let value = tree.get(&update, *chunk)?;
            let block = value.and_then(|value| decode_chunk(&value.bytes, pool.total_blocks()));
            update.free_metadata(block.ok_or(missing)?)?;
            tree.remove(&mut update, *chunk)?;
        }
        let cells = || chunks.iter().filter_map(|chunk| self.cell(*chunk));
        // Forgotten before the blocks can be used anew; a failure lets them be looked up again.
        cells().for_each(|cell| cell.word.store(0, Ordering::Release));
        update.set_pool_root(PoolTree::InodeTable, tree.root);
        update.commit()?;
        state.root = tree.root;
        state.freed.extend(chunks);
        for cell in cells() {
            if cell.listed.swap(0, Ordering::Relaxed) == ALL_LISTED {
                self.empty.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn cell(&self, chunk: u64) -> Option<&ChunkCell> {
        let chunk = usize::try_from(chunk).ok()?;
        let page = self.pages.get(chunk / PAGE)?;
        page.get_or_init(|| (0..PAGE).map(|_| ChunkCell::default()).collect())
            .get(chunk % PAGE)
    }
}

impl Pool {
    /// The number of an inode that is freed can be used again, and empty chunks do not gather: those that stay are
    /// freed when the pool is full.
    pub(crate) fn give_number_back(&self, ino: InodeNo) {
        self.inode_table.give_back(ino);
        if self.inode_table.has_many_empty()
            && self.check_writable().is_ok()
            && let Err(error) = self.inode_table.free_surplus(self)
        {
            tracing::warn!(%error, "empty chunks of inodes are not freed");
        }
    }
}

/// The inode numbers of a chunk.
fn numbers_of(chunk: u64) -> impl Iterator<Item = InodeNo> {
    let first = chunk * CHUNK_INODES;
    (first..first + CHUNK_INODES).map(InodeNo)
}

/// The chunk number, if inodes can have such numbers.
fn check_chunk(chunk: u64) -> Result<u64> {
    if chunk > inode::MAX_CHUNK {
        return Err(Error::Inconsistent {
            place: Place::Block(ROOTS),
            what: "the inode table has an impossible chunk number",
        });
    }
    Ok(chunk)
}

/// Checks that the slot at `at` is free and gives the generation of its next inode: above that of any that has had the
/// number, also in a chunk that was freed and made anew.
pub(crate) fn next_generation(pool: &Pool, ino: InodeNo, at: ByteOffset) -> Result<u64> {
    // Prefix, number, generation, mode and flags.
    let mut words = [0; 4];
    pool.health
        .note("an inode", pool.region.read_words(at.raw(), &mut words))?;
    if low(words[3]) != 0 {
        return Err(Error::Inconsistent {
            place: Place::Inode(ino),
            what: "a number thought free is in use",
        });
    }
    // The record that makes the inode has a higher number than the last one, so no inode's generation is above the
    // number of its record: nor are those in a chunk that was freed above that of the record that freed it.
    let unused = || pool.journal.last_sequence().raw();
    let before = if words[2] == 0 { unused() } else { words[2] };
    Ok(before.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use udax_pmem::Region;

    use super::*;
    use crate::{Filesystem, FormatOptions, MountOptions, NewInode};

    #[test]
    fn when_all_numbers_have_been_used_those_without_a_chunk_are_found() {
        let region = Region::anonymous(32 << 20, None).unwrap();
        Filesystem::format_region(&region, &FormatOptions::default()).unwrap();
        let fs = Filesystem::open_region(region, &MountOptions::default()).unwrap();
        let create = |name: &str| fs.create_dir(name, NewInode::with_permissions(0o755));
        create("first").unwrap();
        let table = &fs.pool().inode_table;
        table.tree.write().next_chunk = END;
        table.limit.store(END, Ordering::Relaxed);
        // More than the chunks that are there have room for.
        for number in 0..1000 {
            create(&number.to_string()).unwrap();
        }
        let numbers = (0..1000).map(|number| fs.stat(number.to_string()).unwrap().ino.raw());
        let numbers: std::collections::BTreeSet<u64> = numbers.collect();
        assert_eq!(numbers.len(), 1000);
        assert!(numbers.last().is_some_and(|last| *last < 2000), "{numbers:?}");
        fs.close().unwrap();
    }
}
