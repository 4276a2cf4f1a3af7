//! `/lost+found`: names for what has none.

use std::collections::BTreeSet;

use udax_media::dentry::Dentry;
use udax_media::inode::{self, CHUNK_INODES, FileKind, INLINE_BYTES, Inode, InodeFlags};
use udax_media::node::TreeRoot;
use udax_media::{BLOCK_SIZE, BlockNo, BlockRange, InodeNo, Place, Timestamp};

use super::inodes::Addition;
use super::log::Write;
use super::{Failure, Mender};
use crate::content::{ClaimKind, View, walk_inode};
use crate::finding::{Edit, Fault};

const NAME: &[u8] = b"lost+found";
/// Permissions of what the repair makes for root alone.
const PRIVATE: u32 = 0o700;

/// The names of a directory.
#[derive(Default)]
struct Listing {
    names: BTreeSet<Vec<u8>>,
    lost_and_found: Option<(InodeNo, FileKind)>,
}

impl View for Listing {
    fn claim(&mut self, _: BlockRange, _: ClaimKind) {}
    fn dentry(&mut self, _: u64, dentry: &Dentry<'_>) {
        self.names.insert(dentry.name.to_vec());
        if dentry.name == NAME {
            self.lost_and_found = Some((dentry.ino, dentry.kind));
        }
    }
    fn fault(&mut self, _: Place, _: Fault) {}
}

impl Listing {
    /// `name`, or `name` and a number when that is there already.
    fn unused_name(&mut self, name: &[u8]) -> Vec<u8> {
        let mut tried = name.to_vec();
        let mut number = 0_u64;
        while !self.names.insert(tried.clone()) {
            number += 1;
            tried = [name, b".", number.to_string().as_bytes()].concat();
        }
        tried
    }
}

/// A directory without names.
pub(super) fn empty_directory(ino: InodeNo, permissions: u32, created: Timestamp) -> Inode {
    Inode {
        ino,
        generation: 1,
        kind: FileKind::Directory,
        permissions,
        flags: InodeFlags::empty(),
        uid: 0,
        gid: 0,
        rdev: 0,
        btime: created,
        size: 0,
        blocks: 0,
        mtime: created,
        ctime: created,
        atime: created,
        nlink: 2,
        change: 1,
        xattr_root: TreeRoot::EMPTY,
        parent: inode::ROOT,
        root: TreeRoot::EMPTY,
        inline_count: 0,
        target_checksum: 0,
        inline: [0; INLINE_BYTES],
    }
}

impl Mender<'_, '_> {
    fn list(&self, directory: InodeNo) -> Result<Listing, Failure> {
        let mut listing = Listing::default();
        if let Some(inode) = self.read_inode(directory)? {
            walk_inode(&self.pool, &inode, &mut listing);
        }
        Ok(listing)
    }

    /// Names `lost` in `/lost+found`.
    pub(super) fn reconnect(&mut self, lost: &[InodeNo]) -> Result<(), Failure> {
        let mut root = self.list(inode::ROOT)?;
        let existing = root.lost_and_found.filter(|(ino, kind)| {
            let is_directory = self.scan.table.kind_of(*ino) == Some(FileKind::Directory);
            *kind == FileKind::Directory && is_directory && !lost.contains(ino)
        });
        let directory = match existing {
            Some((ino, _)) => ino,
            None => match self.make_lost_and_found(&mut root)? {
                Some(ino) => ino,
                // The inode table got a chunk; the next round has the slot.
                None => return Ok(()),
            },
        };
        let mut listing = self.list(directory)?;
        let mut additions = Vec::new();
        for ino in lost {
            let Some(kind) = self.scan.table.kind_of(*ino) else {
                continue;
            };
            // The inode first: with a crash before its name is there, the next check finds it again.
            let mut edit = Edit::default();
            if kind == FileKind::Directory {
                edit.parent = Some(directory);
                edit.nlink = Some(2);
            } else {
                edit.nlink = Some(1);
            }
            self.edit_inode(*ino, &edit, &[], Vec::new())?;
            additions.push(Addition {
                name: listing.unused_name(format!("#{ino}").as_bytes()),
                ino: *ino,
                kind,
            });
        }
        self.edit_inode(directory, &Edit::default(), &additions, Vec::new())
    }

    /// Makes the directory: its inode and its name in one step. `None` when there was no free slot.
    fn make_lost_and_found(&mut self, root: &mut Listing) -> Result<Option<InodeNo>, Failure> {
        let mut free = self.scan.table.all().filter(|(_, info)| info.is_free());
        let Some((ino, _)) = free.find(|(ino, _)| ino.raw() > inode::ROOT.raw()) else {
            self.add_chunk()?;
            return Ok(None);
        };
        let Some(chunk) = self.scan.table.chunk_of(ino) else {
            return Ok(None);
        };
        let created = self.pool.superblock.created;
        let mut made = empty_directory(ino, PRIVATE, created);
        // A slot that was used before continues its generation; another may be in a chunk made anew, and then none
        // was above the last sequence number.
        if let Ok(inode::InodeSlot::Free { generation }) = self.pool.slot(&*self.read(chunk)?, ino) {
            let before = match generation {
                0 => self.log.checkpoint().sequence.raw(),
                used => used,
            };
            made.generation = before.saturating_add(1);
        }
        let at = inode::offset_in_chunk(chunk, ino);
        let addition = Addition {
            name: root.unused_name(NAME),
            ino,
            kind: FileKind::Directory,
        };
        let beside = vec![Write::inode(at, &made, self.pool.seed)];
        self.edit_inode(inode::ROOT, &Edit::default(), &[addition], beside)?;
        Ok(Some(ino))
    }

    /// Puts an empty chunk after the last into the inode table.
    fn add_chunk(&mut self) -> Result<(), Failure> {
        let last = self.scan.table.chunks.last().map_or(0, |(chunk, _)| *chunk);
        let block: BlockNo = self.space.take().ok_or(Failure::NoSpace)?;
        self.log.store_new(block, &[0; BLOCK_SIZE])?;
        let chunks = self
            .scan
            .table
            .chunks
            .iter()
            .copied()
            .chain([(last + 1, block)])
            .collect();
        debug_assert!(last < u64::MAX / CHUNK_INODES);
        self.write_table(&chunks)
    }
}
