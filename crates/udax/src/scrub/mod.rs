//! Scrubbing: looking through an open pool for what the medium has lost or changed, before somebody needs it.
//!
//! Every metadata unit is verified, and every byte of file data is read for media errors and compared with its checksum
//! where it has one. Reads, writes and changes of names go on meanwhile: no lock is held while bytes of files are read
//! or the pace is kept, and an inode's is shared for a few nodes, or for a block that seems wrong, at a time.
//!
//! * [`sealed`]: verifying units whose checksums are right as of the last checkpoint only.
//! * [`pool_parts`]: what belongs to no inode. [`files`]: inodes and what belongs to them. [`paths`]: their names.
//! * [`pace`]: the rate limit, progress and cancellation.
//!
//! What is made while a scrub runs may be missed by it.

mod files;
mod pace;
mod paths;
mod pool_parts;
mod sealed;

use std::num::NonZero;
use std::ops::ControlFlow;

use udax_media::{BLOCK_BYTES, ByteOffset, FormatError, InodeNo, Place};

use crate::error::{Error, Result};
use crate::pool::Pool;
use pace::Pace;
use sealed::Sealed;

/// Findings that are kept: a medium with more is to be replaced.
const MAX_FINDINGS: usize = 10_000;

/// How to scrub.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrubOptions {
    /// The most bytes read in a second; `None` as fast as it goes.
    pub rate: Option<NonZero<u64>>,
}

/// How far a scrub is. Both numbers are estimates, as the pool changes meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubStep {
    /// Bytes looked at.
    pub done: u64,
    /// Bytes in use when the scrub began.
    pub total: u64,
}

/// What is wrong, the worst last; what is to be done depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum ScrubKind {
    /// Data of a file does not have its checksum. Only writing it anew mends that.
    WrongData,
    /// The medium has lost data of a file. Only writing it anew mends that.
    LostData,
    /// Metadata is damaged or lost: a repair mends it.
    Metadata,
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ScrubFinding {
    /// What kind of thing.
    pub kind: ScrubKind,
    /// Where.
    pub place: Place,
    /// The inode that it is about; `None` when it is about what belongs to the pool.
    pub inode: Option<InodeNo>,
    /// A path of that inode, when names lead to it.
    pub path: Option<Vec<u8>>,
    /// What is wrong, in words.
    pub what: String,
}

/// What a scrub found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Whether it came to the end, and was not cancelled.
    pub is_complete: bool,
    /// Bytes looked at.
    pub bytes: u64,
    /// Metadata units verified.
    pub units: u64,
    /// Metadata units that changed each time they were looked at, so that no checksum was right.
    pub busy_units: u64,
    /// Inodes looked at.
    pub inodes: u64,
    /// Bytes of file data that were compared with their checksum.
    pub verified_bytes: u64,
    /// Bytes of the data of files with [`Checksums::On`](crate::Checksums) that have none: pinned for writing since
    /// they had, or from files without.
    pub unverified_bytes: u64,
    /// What is wrong, in the order of the pool; at most 10000.
    pub findings: Vec<ScrubFinding>,
}

/// A scrub that goes on.
struct Scrub<'s> {
    pool: &'s Pool,
    sealed: Sealed<'s>,
    pace: Pace<'s>,
    inodes: u64,
    verified_bytes: u64,
    unverified_bytes: u64,
    findings: Vec<ScrubFinding>,
}

impl Pool {
    /// Looks through the whole pool; `watch` is asked after every few blocks whether to go on.
    pub(crate) fn scrub(
        &self,
        options: ScrubOptions,
        watch: &mut dyn FnMut(ScrubStep) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let on_device = self.device_space.as_ref();
        let used = self
            .total_blocks()
            .saturating_sub(self.journal.counters().free_blocks)
            + on_device.map_or(0, |space| space.block_count().saturating_sub(space.available()));
        let mut scrub = Scrub {
            pool: self,
            sealed: Sealed::new(self),
            pace: Pace::new(options.rate, used * BLOCK_BYTES, watch),
            inodes: 0,
            verified_bytes: 0,
            unverified_bytes: 0,
            findings: Vec::new(),
        };
        let ended = scrub.look_at_everything()?;
        scrub.name_findings();
        let mut findings = scrub.findings;
        findings.sort_by_key(|finding| match finding.place {
            Place::Block(block) => (0, block.offset().raw()),
            Place::Byte(offset) => (0, offset.raw()),
            Place::Inode(ino) => (1, ino.raw()),
        });
        Ok(ScrubReport {
            is_complete: ended.is_continue(),
            bytes: scrub.pace.done(),
            units: scrub.sealed.units(),
            busy_units: scrub.sealed.busy_units(),
            inodes: scrub.inodes,
            verified_bytes: scrub.verified_bytes,
            unverified_bytes: scrub.unverified_bytes,
            findings,
        })
    }
}

impl Scrub<'_> {
    fn look_at_everything(&mut self) -> Result<ControlFlow<()>> {
        if self.look_at_pool()?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.look_at_inodes()
    }

    /// Notes what `result` says is wrong; other errors are not about the medium.
    fn judge<T>(&mut self, inode: Option<InodeNo>, result: Result<T>) -> Result<Option<T>> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) => error,
        };
        let block = |at: u64| Place::Block(ByteOffset(at).block());
        let (kind, place) = match &error {
            Error::LostMetadata { place, .. } | Error::Inconsistent { place, .. } => {
                (ScrubKind::Metadata, *place)
            }
            Error::Corrupt(error) => {
                let place = place_of(error).unwrap_or_else(|| unknown(inode));
                (ScrubKind::Metadata, place)
            }
            Error::Region(udax_pmem::RegionError::Media { at }) => (ScrubKind::Metadata, block(*at)),
            Error::LostData { at, .. } => (ScrubKind::LostData, block(*at)),
            Error::WrongData { block, .. } => (ScrubKind::WrongData, Place::Block(*block)),
            // It went away meanwhile.
            Error::Stale(_) => return Ok(None),
            _ => return Err(error),
        };
        self.add((kind, place), inode, error.to_string());
        Ok(None)
    }

    fn add(&mut self, (kind, place): (ScrubKind, Place), inode: Option<InodeNo>, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(ScrubFinding {
                kind,
                place,
                inode,
                path: None,
                what,
            });
        }
    }
}

fn unknown(inode: Option<InodeNo>) -> Place {
    inode.map_or(Place::Block(udax_media::geometry::ROOTS), Place::Inode)
}

fn place_of(error: &FormatError) -> Option<Place> {
    match error {
        FormatError::Magic { place, .. }
        | FormatError::Checksum { place, .. }
        | FormatError::Field { place, .. } => Some(*place),
        _ => None,
    }
}
