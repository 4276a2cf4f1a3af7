//! The fields of an inode that change most: its line 1, read and written as one.

use udax_media::inode::offset;
use udax_media::node::TreeRoot;
use udax_media::{InodeNo, LINE_SIZE, MAX_FILE_BYTES, Place, Timestamp};

use crate::error::{Error, Result};
use crate::inode::Inode;
use crate::pool::Pool;
use crate::update::Update;

const WORDS: usize = LINE_SIZE / 8;

/// Line 1 of an inode: size, blocks, times, link count and change counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    words: [u64; WORDS],
    before: [u64; WORDS],
    /// Written from here on even if equal: what a record costs shall not depend on the second it is made in.
    written_from: usize,
}

impl Line {
    /// Reads the line of `inode`; the caller has its lock.
    #[inline]
    pub(crate) fn read(pool: &Pool, inode: &Inode) -> Result<Self> {
        let mut words = [0; WORDS];
        let at = inode.field(offset::SIZE).raw();
        pool.health
            .note("an inode", pool.region.read_words(at, &mut words))?;
        Ok(Self {
            words,
            before: words,
            written_from: WORDS,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.words[0]
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        self.words[0] = size;
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.words[1]
    }

    /// Changes the number of blocks by `delta`.
    pub(crate) fn add_blocks(&mut self, delta: i64) {
        self.words[1] = self.words[1].saturating_add_signed(delta);
    }

    pub(crate) fn mtime(&self) -> Timestamp {
        timestamp(self.words[2], low(self.words[5]))
    }

    pub(crate) fn ctime(&self) -> Timestamp {
        timestamp(self.words[3], high(self.words[5]))
    }

    pub(crate) fn atime(&self) -> Timestamp {
        timestamp(self.words[4], low(self.words[6]))
    }

    pub(crate) fn set_mtime(&mut self, time: Timestamp) {
        self.words[2] = time.seconds.cast_unsigned();
        self.words[5] = pair(time.nanoseconds, high(self.words[5]));
    }

    pub(crate) fn set_ctime(&mut self, time: Timestamp) {
        self.words[3] = time.seconds.cast_unsigned();
        self.words[5] = pair(low(self.words[5]), time.nanoseconds);
    }

    pub(crate) fn set_atime(&mut self, time: Timestamp) {
        self.words[4] = time.seconds.cast_unsigned();
        self.words[6] = pair(time.nanoseconds, high(self.words[6]));
    }

    pub(crate) fn nlink(&self) -> u32 {
        high(self.words[6])
    }

    pub(crate) fn set_nlink(&mut self, nlink: u32) {
        self.words[6] = pair(low(self.words[6]), nlink);
    }

    pub(crate) fn change(&self) -> u64 {
        self.words[7]
    }

    /// Content and status have changed at `now`.
    pub(crate) fn touch_modified(&mut self, now: Timestamp) {
        self.touch_changed(now);
        self.set_mtime(now);
        self.written_from = 2;
    }

    /// The content has changed so often, besides.
    pub(crate) fn count_changes(&mut self, changes: u64) {
        self.words[7] = self.words[7].wrapping_add(changes);
    }

    /// The status has changed at `now`.
    pub(crate) fn touch_changed(&mut self, now: Timestamp) {
        self.set_ctime(now);
        self.written_from = self.written_from.min(3);
        self.words[7] = self.words[7].wrapping_add(1);
    }

    /// Adds to `update` the words that differ from what was read, and those between them.
    pub(crate) fn store(&mut self, update: &mut Update<'_>, inode: &Inode) {
        let differs = |index: &usize| self.words.get(*index) != self.before.get(*index);
        let (Some(first), Some(last)) = ((0..WORDS).find(differs), (0..WORDS).rev().find(differs)) else {
            return;
        };
        let first = first.min(self.written_from);
        let mut bytes = [0; LINE_SIZE];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.words) {
            *to = word.to_le_bytes();
        }
        let start = u64::try_from(first * 8).unwrap_or(0);
        let changed = bytes.get(first * 8..last * 8 + 8).unwrap_or_default();
        update.write(inode.field(offset::SIZE + start), changed);
        self.before = self.words;
    }
}

impl Pool {
    /// The inode's size in bytes (a directory's number of entries).
    ///
    /// # Errors
    /// `Inconsistent` when no file can be that large: it was changed behind our back.
    #[inline]
    pub(crate) fn inode_size(&self, inode: &Inode) -> Result<u64> {
        let size = self.word(inode.field(offset::SIZE))?;
        if size > MAX_FILE_BYTES {
            return Err(Error::Inconsistent {
                place: Place::Inode(inode.ino),
                what: "its size is impossible",
            });
        }
        Ok(size)
    }

    /// The number of names of the inode.
    #[inline]
    pub(crate) fn inode_nlink(&self, inode: &Inode) -> Result<u32> {
        Ok(high(self.word(inode.field(offset::ATIME_NANOSECONDS_NLINK))?))
    }

    /// The root of the inode's directory or extent tree.
    #[inline]
    pub(crate) fn inode_root(&self, inode: &Inode) -> Result<TreeRoot> {
        Ok(TreeRoot::from_word(self.word(inode.field(offset::ROOT))?))
    }

    /// A directory's parent.
    pub(crate) fn inode_parent(&self, inode: &Inode) -> Result<InodeNo> {
        let parent = InodeNo(self.word(inode.field(offset::PARENT))?);
        // Looked at after the word: of a directory that is gone it may be anything.
        match self.inode_table.is_at(inode.ino, inode.at) {
            true => Ok(parent),
            false => Err(Error::Stale(inode.ino)),
        }
    }

    /// Mode (low half) and flags (high half).
    pub(crate) fn inode_mode_and_flags(&self, inode: &Inode) -> Result<(u32, u32)> {
        let word = self.word(inode.field(offset::MODE))?;
        Ok((low(word), high(word)))
    }

    /// Owner and group.
    pub(crate) fn inode_owner(&self, inode: &Inode) -> Result<(u32, u32)> {
        let word = self.word(inode.field(offset::OWNER))?;
        Ok((low(word), high(word)))
    }
}

fn timestamp(seconds: u64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds: seconds.cast_signed(),
        nanoseconds,
    }
}

/// The low half of a word.
#[inline]
pub(crate) const fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high half of a word.
#[inline]
pub(crate) const fn high(word: u64) -> u32 {
    let [.., a, b, c, d] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A word of two halves.
#[inline]
pub(crate) const fn pair(low: u32, high: u32) -> u64 {
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, g, h] = high.to_le_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
