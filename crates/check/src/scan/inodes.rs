//! Every slot of every chunk, and what belongs to inodes that are no directories.

use udax_media::extent::ExtentFlags;
use udax_media::inode::{CHUNK_INODES, FileKind, Inode, InodeSlot};
use udax_media::{BlockNo, BlockRange, InodeNo, Place};
use udax_sync::atomic::Ordering;

use super::bad_blocks::note_lost_data;
use super::chunks::is_foreign;
use super::pool_trees::inodes_of_chunk;
use super::sums::compare_data;
use super::{Info, Scanner};
use crate::content::{ClaimKind, View, walk_inode};
use crate::finding::{Fault, Finding, Findings, Mend};
use crate::ownership::Ownership;
use crate::pool::Pool;
use crate::source::Block;

/// Claims what an inode owns and notes its faults.
pub(super) struct Accounting<'a> {
    pub(super) ino: InodeNo,
    pub(super) pool: Pool<'a>,
    pub(super) ownership: &'a Ownership,
    pub(super) findings: &'a mut Findings,
    /// Blocks claimed.
    pub(super) blocks: u64,
    /// Whether a fault already makes the count of blocks meaningless.
    pub(super) has_lost_blocks: bool,
}

impl Accounting<'_> {
    /// Compares the inode's count of blocks with what it owns.
    pub(super) fn check_blocks(&mut self, inode: &Inode) {
        if inode.blocks != self.blocks && !self.has_lost_blocks {
            let what = format!("{} blocks recorded, {} owned", inode.blocks, self.blocks);
            self.fault(Place::Inode(self.ino), Fault::new(what, Mend::Recount));
        }
    }
}

impl View for Accounting<'_> {
    fn claim(&mut self, range: BlockRange, kind: ClaimKind) {
        self.blocks = self.blocks.saturating_add(range.count);
        self.ownership.claim(range);
        if let ClaimKind::Data(first, flags) = kind {
            note_lost_data(&self.pool, self.ino, (range, first, flags), self.findings);
            if flags.contains(ExtentFlags::SUMMED) && !self.pool.superblock.has_sums() {
                let what = format!("extent at file block {first} has checksums, and the pool has none");
                self.fault(Place::Inode(self.ino), Fault::new(what, Mend::Rebuild));
            }
            compare_data(&self.pool, self.ino, (range, first, flags), self.findings);
        }
    }
    fn fault(&mut self, place: Place, fault: Fault) {
        let keeps_blocks = matches!(
            fault.mend,
            Mend::Rekey(_) | Mend::Retype(_) | Mend::Nlink(_) | Mend::Parent(_) | Mend::Recount
        );
        self.has_lost_blocks |= !keeps_blocks;
        self.findings.add_edit(self.ino, place, fault);
    }
}

impl Scanner<'_> {
    /// Verifies all slots; claims and verifies what is not a directory's.
    pub(super) fn scan_inodes(&self) -> Findings {
        self.in_parallel("inodes", self.table.chunks.len(), &|index, findings| {
            self.scan_chunk(index, findings);
        })
    }

    fn scan_chunk(&self, index: usize, findings: &mut Findings) {
        let Some((chunk, block)) = self.table.chunks.get(index).copied() else {
            return;
        };
        let bytes = match self.pool.read(block) {
            Ok(bytes) => bytes,
            Err(why) => return self.drop_chunk(index, findings, why),
        };
        let first = chunk * CHUNK_INODES;
        let slots: Vec<_> = (first..first + CHUNK_INODES)
            .map(|ino| (InodeNo(ino), self.pool.slot(&bytes, InodeNo(ino))))
            .collect();
        if slots.iter().all(|(_, slot)| slot.is_err()) || is_foreign(chunk, &bytes) {
            let why = "none of its slots is an inode".to_owned();
            return self.drop_chunk(index, findings, why);
        }
        for (slot_index, (ino, slot)) in (0_u64..).zip(slots) {
            let Some(info) = self.table.info_at(index, slot_index) else {
                continue;
            };
            match slot {
                Ok(_) if ino.raw() == 0 => check_slot_zero(&bytes, findings),
                Ok(InodeSlot::Free { .. }) => {}
                Ok(InodeSlot::Used(inode)) => {
                    note(info, &inode);
                    if inode.kind != FileKind::Directory {
                        self.scan_file(&inode, findings);
                    }
                }
                Err(error) => {
                    info.kind.store(Info::BAD, Ordering::Relaxed);
                    let lost = format!("inode {ino} and its content, if it was in use");
                    let fault = Fault::with_loss(error.to_string(), lost, Mend::Clear);
                    findings.add_edit(ino, Place::Inode(ino), fault);
                }
            }
        }
    }

    /// The block may be anything, so nothing is written to it: the table forgets it.
    fn drop_chunk(&self, index: usize, findings: &mut Findings, why: String) {
        let Some((chunk, block)) = self.table.chunks.get(index).copied() else {
            return;
        };
        for info in (0..CHUNK_INODES).filter_map(|slot| self.table.info_at(index, slot)) {
            info.kind.store(Info::BAD, Ordering::Relaxed);
        }
        let what = format!("inode chunk {chunk} is unreadable: {why}");
        let mut finding = Finding::of_pool(Place::Block(block), what, "chunk taken out of the inode table");
        finding.lost = Some(format!(
            "{}, unless the chunk lies elsewhere",
            inodes_of_chunk(chunk)
        ));
        findings.add(finding);
        findings.plan.drop_chunks.insert(chunk);
    }

    fn scan_file(&self, inode: &Inode, findings: &mut Findings) {
        let mut accounting = Accounting {
            ino: inode.ino,
            pool: self.pool,
            ownership: &self.ownership,
            findings,
            blocks: 0,
            has_lost_blocks: false,
        };
        walk_inode(&self.pool, inode, &mut accounting);
        accounting.check_blocks(inode);
    }

    /// The used inodes of chunk `index`.
    pub(super) fn used_inodes(&self, index: usize) -> Vec<Inode> {
        let Some((chunk, block)) = self.table.chunks.get(index).copied() else {
            return Vec::new();
        };
        let Ok(bytes) = self.pool.read(BlockNo(block.raw())) else {
            return Vec::new();
        };
        let first = chunk * CHUNK_INODES;
        let inodes = (first.max(1)..first + CHUNK_INODES).map(InodeNo);
        let slots = inodes.filter_map(|ino| self.pool.slot(&bytes, ino).ok());
        slots
            .filter_map(|slot| match slot {
                InodeSlot::Used(inode) => Some(*inode),
                InodeSlot::Free { .. } => None,
            })
            .collect()
    }
}

fn note(info: &Info, inode: &Inode) {
    info.kind.store(u32::from(inode.kind.raw()), Ordering::Relaxed);
    info.nlink.store(inode.nlink, Ordering::Relaxed);
    info.parent.store(inode.parent.raw(), Ordering::Relaxed);
}

fn check_slot_zero(chunk: &Block, findings: &mut Findings) {
    let slot = chunk.first_chunk::<{ udax_media::inode::INODE_SIZE }>();
    if slot.is_some_and(|slot| slot.iter().any(|byte| *byte != 0)) {
        let what = "slot of inode 0, which does not exist, is not zero".to_owned();
        findings.add_edit(
            InodeNo(0),
            Place::Inode(InodeNo(0)),
            Fault::new(what, Mend::Clear),
        );
    }
}
