//! What each block of a sound pool is for.
//!
//! [`map`] tells it of every block that has an owner, after the journal's replay in memory. It is for who must know
//! what a place on the medium means: tests that damage it, and people who read a report.

use udax_media::node::TreeKind;
use udax_media::{BlockRange, Geometry, InodeNo};
use udax_pmem::Region;

use crate::content::ClaimKind;
use crate::pool::Pool;
use crate::source::Replayed;
use crate::unreadable::Unreadable;
use crate::{CheckError, Silent, head, scan};

/// What blocks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Use {
    /// The pool's own: superblocks, checkpoints, roots, journal, bitmaps, sum blocks.
    Own,
    /// The inode chunk with this number.
    Chunk(u64),
    /// A node of a tree of this kind, of the inode; of the pool for inode 0.
    Node(TreeKind, InodeNo),
    /// The value of an attribute of the inode.
    XattrValue(InodeNo),
    /// The link target of the inode.
    Target(InodeNo),
    /// Data of the file.
    Data(InodeNo),
}

/// All blocks that have an owner. Shared data is there once for each owner.
///
/// # Errors
/// As [`check`](crate::check). Of a damaged pool what can be read is told.
pub fn map(region: &Region) -> Result<Vec<(BlockRange, Use)>, CheckError> {
    let superblocks = head::read_superblocks(region)?;
    let superblock = &superblocks.believed;
    let checkpoint = head::read_checkpoints(region, superblock).believed;
    let replay = match checkpoint {
        Some(checkpoint) if !checkpoint.is_clean => Some(udax_journal::overlay(region, superblock)?),
        _ => None,
    };
    // As in a check, a growth may be completed by that.
    let (blocks, grown) = replay.map_or_else(Default::default, |replay| {
        (replay.blocks, replay.recovery.superblock)
    });
    let superblock = grown.as_ref().unwrap_or(superblock);
    let geometry = Geometry::new(superblock);
    let source = Replayed { region, blocks };
    let pool = Pool {
        source: &source,
        superblock,
        geometry: &geometry,
        seed: superblock.seed(),
        total_blocks: geometry.total_blocks(),
        threads: 1,
        compares_data: false,
        unreadable: &Unreadable::default(),
    };
    let claims = scan::claims(&pool, &Silent);
    Ok(claims
        .into_iter()
        .map(|(range, kind, owner)| (range, use_of(kind, owner)))
        .collect())
}

fn use_of(kind: ClaimKind, owner: InodeNo) -> Use {
    match kind {
        ClaimKind::Own => Use::Own,
        ClaimKind::Chunk(chunk) => Use::Chunk(chunk),
        ClaimKind::Node(kind) => Use::Node(kind, owner),
        ClaimKind::XattrValue(_) => Use::XattrValue(owner),
        ClaimKind::Target => Use::Target(owner),
        ClaimKind::Data(..) => Use::Data(owner),
    }
}
